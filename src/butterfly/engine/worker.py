"""`Worker`: one stage on the ring: receive, compute, send, until the epoch ends."""

import dataclasses
from time import perf_counter

import numpy as np
import torch

from butterfly.communication.codecs import CODECS
from butterfly.communication.frames import Frame, Hop, Kind
from butterfly.communication.links import Ring
from butterfly.engine.memory import Memory
from butterfly.engine.sampling import pack, sampled, wanted
from butterfly.engine.stage import Stage
from butterfly.errors import FrameError, LinkError


class Worker:
    """Runs a stage on its ring.

    Args:
        stage: The layers; whoever takes them away ends the epoch, or gives others.
        ring: The links.
        codec: The number of the codec for what it sends.
    """

    def __init__(self, stage: Stage, ring: Ring, *, codec: int = 0) -> None:
        self.stage: Stage | None = stage
        self.ring = ring
        self.codec = codec
        self.memory = Memory()
        self.busy = 0.0  # seconds of computing

    def run(self) -> None:
        """Serve until the epoch ends, or a link breaks.

        Raises:
            LinkError: If one did: the epoch is over.
            FrameError: If something came that is no frame of it.
        """
        while True:
            before = self.ring.received.waited
            frame = self.ring.receive()
            if frame.kind is Kind.END:
                self.ring.send(frame)
                self.ring.finish()
                return
            waited = self.ring.received.waited - before
            began = perf_counter()
            kind, codec, payload = self.step(frame)
            took = perf_counter() - began
            self.busy += took
            hop = Hop(_micros(took), _micros(waited), frame.nbytes)
            hops = (*frame.hops, hop)
            segments = () if kind is Kind.RESULTS else frame.segments
            self.ring.send(
                dataclasses.replace(
                    frame,
                    segments=segments,
                    kind=kind,
                    codec=codec,
                    payload=payload,
                    hops=hops,
                )
            )

    def step(self, frame: Frame) -> tuple[Kind, int, bytes]:
        """Return what to send on for a frame: kind, codec and payload.

        Args:
            frame: What came.

        Raises:
            FrameError: If it is not what this stage takes.
            LinkError: If the layers were taken away.
        """
        stage = self.stage
        if stage is None:
            raise LinkError("a frame came to a node that gave its layers away.")
        _check(stage, frame)
        hidden = stage.forward(_hidden(stage, frame), frame.segments)
        if not stage.is_last:
            return Kind.HIDDEN, self.codec, CODECS[self.codec].encode(hidden)
        rows = wanted(frame.segments)
        if not rows:
            return Kind.RESULTS, 0, b""
        logits = stage.logits(hidden[rows]).cpu()
        return Kind.RESULTS, 0, pack(sampled(logits, frame.segments, self.memory))


def _check(stage: Stage, frame: Frame) -> None:
    """Refuse rows for which there is no room."""
    lanes = stage.lanes
    for s in frame.segments:
        fits = 0 <= s.start and s.start + s.length <= lanes.positions
        if not (fits and 0 <= s.lane < lanes.count and s.source < lanes.count):
            raise FrameError(
                f"frame {frame.step} has rows for lane {s.lane}, positions {s.start} "
                f"to {s.start + s.length}, and there are {lanes.count} lanes of "
                f"{lanes.positions}: the nodes disagree about the plan."
            )


def _hidden(stage: Stage, frame: Frame) -> torch.Tensor:
    """Return the hidden states that a frame brings to a stage."""
    expected = Kind.TOKENS if stage.is_first else Kind.HIDDEN
    if frame.kind is not expected or frame.codec >= len(CODECS):
        raise FrameError(
            f"frame {frame.step} brings {frame.kind.name.lower()} to a stage that "
            f"takes {expected.name.lower()}: the nodes disagree about the plan."
        )
    if expected is Kind.TOKENS:
        tokens = np.frombuffer(frame.payload, "<i4").astype(np.int64)
        return stage.embed(torch.from_numpy(tokens))
    codec = CODECS[frame.codec]
    states = codec.decode(frame.payload, frame.rows, stage.dtype)
    return states.to(stage.device)


def _micros(seconds: float) -> int:
    return min(2**32 - 1, round(seconds * 1e6))
