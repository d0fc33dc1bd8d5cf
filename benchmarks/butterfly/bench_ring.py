"""Tokens a second around a ring of emulated stages, against the bound.

The links, frames, scheduler and worker loop are the real ones, in threads of one
process; only the layers are emulated: a stage sleeps for its layers, whatever the
batch. So the bound is known: with as many sequences as stages each step of the slowest
stage gives a token.

    python benchmarks/butterfly/bench_ring.py
"""

import sys
import threading
import time
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from butterfly.cluster.roles import balanced  # noqa: E402
from butterfly.communication.frames import Frame, Kind, Segment  # noqa: E402
from butterfly.communication.links import Ring  # noqa: E402
from butterfly.engine.sampling import unpack  # noqa: E402
from butterfly.engine.worker import Worker  # noqa: E402
from butterfly.errors import ButterflyError  # noqa: E402
from butterfly.scheduling import Scheduler, Sequence  # noqa: E402

LAYERS, HEAD_LAYERS = 30, 7  # as in SmolLM2-135M
SECONDS = 0.001  # a layer
HIDDEN, VOCABULARY = 576, 16
TOKENS = 40


@dataclass
class Emulated:
    """A stage that sleeps instead of computing."""

    first: int
    last: int
    seconds: float = SECONDS
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        """Whether it takes tokens."""
        return self.first == 0

    @property
    def is_last(self) -> bool:
        """Whether it has the head."""
        return self.last == LAYERS

    @property
    def cost(self) -> float:
        """Seconds of a frame."""
        return self.seconds * (self.last - self.first + HEAD_LAYERS * self.is_last)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return hidden states."""
        return torch.zeros(len(tokens), HIDDEN)

    def forward(self, hidden: torch.Tensor, segments: Items[Segment]) -> torch.Tensor:
        """Sleep for all layers."""
        time.sleep(self.cost)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return torch.zeros(len(hidden), VOCABULARY)


def measured(ranges: Items[tuple[int, int]], sequences: int) -> tuple[float, float]:
    """Return tokens a second, and the bound."""
    stages = [Emulated(*pair) for pair in ranges]
    rings = joined(len(stages) + 1)
    for stage, ring in zip(stages, rings[1:], strict=True):
        threading.Thread(target=served, args=(stage, ring), daemon=True).start()
    scheduler = Scheduler(sequences, 4 * TOKENS, frames=len(stages), reuse=False)
    for k in range(sequences):
        scheduler.add(Sequence([k + 1], TOKENS))
    seconds, tokens = driven(scheduler, rings[0])
    slowest, round_trip = max(s.cost for s in stages), sum(s.cost for s in stages)
    frames = min(sequences, len(stages))
    each = -(-sequences // frames)
    return tokens / seconds, each * min(frames / round_trip, 1 / slowest)


def driven(scheduler: Scheduler, ring: Ring) -> tuple[float, int]:
    """Return the seconds and tokens between the first and the last tenth."""
    everyone = list(scheduler.waiting)
    began, before, total = 0.0, 0, TOKENS * len(everyone)
    while not all(sequence.finish for sequence in everyone):
        while (batch := scheduler.plan()) is not None:
            tokens = np.array(batch.tokens, "<i4").tobytes()
            ring.send(Frame(1, batch.step, batch.segments, Kind.TOKENS, tokens))
        frame = ring.receive()
        segments = scheduler.flying(frame.step).segments
        drawn = {d.lane: d.token for d in unpack(bytes(frame.payload), segments)}
        scheduler.settle(frame.step, drawn)
        done = sum(len(sequence.output) for sequence in everyone)
        if not began and done >= total // 10:
            began, before = time.perf_counter(), done
        if done >= total * 9 // 10:  # until the first sequences end
            return time.perf_counter() - began, done - before
    raise AssertionError("they ended before nine tenths were done")


def joined(count: int) -> list[Ring]:
    """Return the ends of a ring."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    found: list[Any] = [None] * count

    def join(rank: int) -> None:
        own = dist.TCPStore("127.0.0.1", store.port, None, False)
        size = 1 << 18
        found[rank] = Ring(own, "ring", 1, rank, count, frame_bytes=size, patience=30.0)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def served(stage: Any, ring: Ring) -> None:
    """Run a stage until the ring is closed."""
    try:
        Worker(stage, ring).run()
    except ButterflyError:
        return


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("stages  sequences  split     tokens/s   bound      share")
    for count in (1, 2, 3):
        splits = {
            "balanced": balanced(LAYERS, count, HEAD_LAYERS),
            "even": balanced(LAYERS, count, 0.0),
        }
        for sequences in (1, count, 4 * count):
            for name, ranges in splits.items():
                rate, bound = measured(ranges, sequences)
                print(
                    f"{count:<8}{sequences:<11}{name:<10}{rate:<11.1f}{bound:<11.1f}"
                    f"{rate / bound:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    import os

    os._exit(0)  # threads still wait inside of gloo
