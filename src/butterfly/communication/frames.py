"""`Frame`: what one hop carries, as bytes.

    header     40 bytes   magic, version, codec, kind, epoch, step, counts
    hops       12 bytes for each stage that it went through: what it took there
    segments   64 bytes each: which rows belong to which sequence, and how to sample
    extras     prompt tokens, drafts, allowed tokens and what was said, if any
    payload    token ids (int32), hidden states (as the codec writes them), or results

The segments travel along the whole ring, so that a stage needs no other word about a
sequence: which lane has its keys and values, which positions the rows are of, which
adapter they use, and, for the last stage, how to sample. Everything is little-endian
and read with numpy, nothing is pickled: a frame from a stranger can be refused, and can
run nothing.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate, pairwise

import numpy as np

from butterfly.errors import FrameError

MAGIC = b"BFLY"
VERSION = 3
_HEADER = struct.Struct("<4sBBBBIIIIII8x")
_HOP = struct.Struct("<III")
HEADER_BYTES = _HEADER.size
_SEGMENT = np.dtype(
    [
        ("lane", "<i4"),
        ("start", "<i4"),
        ("length", "<i4"),
        ("adapter", "<i4"),
        ("source", "<i4"),
        ("shared", "<i4"),
        ("flags", "u1"),
        ("draft", "u1"),
        ("top_logprobs", "<u2"),
        ("top_k", "<i4"),
        ("temperature", "<f4"),
        ("top_p", "<f4"),
        ("min_p", "<f4"),
        ("seed", "<u8"),
        ("targets", "<u4"),
        ("allowed", "<u4"),
        ("past", "<u4"),
    ]
)
SEGMENT_BYTES = _SEGMENT.itemsize


class Kind(IntEnum):
    """What the payload of a frame is."""

    TOKENS = 0
    HIDDEN = 1
    RESULTS = 2
    END = 3  # of the epoch: it goes around once, and all leave the ring


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token of a sequence is chosen.

    Args:
        temperature: 0 for the most probable token.
        top_p: The probability that the tokens to choose from have together, in (0, 1].
        top_k: How many tokens to choose from, 0 for all.
        min_p: The least probability, as a share of the most probable token's.
        seed: With the position it decides what is drawn.
        top_logprobs: Of how many of the most probable tokens to report the log
            probability, None for no report at all.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    top_logprobs: int | None = None


GREEDY = Sampling()
MOST_DRAFTED = 255
"""The most tokens of a draft."""
_SAMPLE, _LOGPROBS = 1, 2


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one sequence in a frame.

    Args:
        lane: Where its keys and values are kept.
        start: The position of the first row.
        length: How many rows.
        adapter: The number of the adapter, 0 for none.
        source: The lane whose first `shared` positions are copied before, -1 for none.
        shared: How many positions are copied.
        is_sampled: Whether the last row gives a token; with a draft, whether the row
            before the draft does, and each row of the draft if its token came true.
        sampling: How the token is chosen.
        targets: The token after each row, -1 where there is none, if the log
            probabilities of the prompt are wanted.
        draft: The tokens of the last rows, if they are a guess of what is drawn after
            the rows before; then there are no targets.
        allowed: Which tokens may be drawn, one bit each, deflated; empty for all. For
            each row that may give a token, one after the other.
        past: What the last stage must know for penalties, as `Past.encode` writes it;
            empty if there are none.
    """

    lane: int
    start: int
    length: int
    adapter: int = 0
    source: int = -1
    shared: int = 0
    is_sampled: bool = True
    sampling: Sampling = GREEDY
    targets: tuple[int, ...] = ()
    draft: tuple[int, ...] = ()
    allowed: bytes = field(default=b"", repr=False)
    past: bytes = field(default=b"", repr=False)

    @property
    def draws(self) -> int:
        """How many rows may give a token."""
        return 1 + len(self.draft) if self.is_sampled else 0


@dataclass(frozen=True, slots=True)
class Hop:
    """What a frame took at a stage.

    Args:
        computed: Microseconds of computing.
        waited: Microseconds that the stage waited for it.
        bytes: The bytes that came in.
    """

    computed: int
    waited: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Frame:
    """What one hop carries.

    Args:
        epoch: The number of the epoch.
        step: The number of the micro-batch, counted by the head.
        segments: Whose rows they are, in order.
        kind: What the payload is.
        payload: The bytes.
        codec: The number of the codec of hidden states.
        hops: What it took until now.
    """

    epoch: int
    step: int
    segments: tuple[Segment, ...]
    kind: Kind
    payload: bytes | memoryview = field(repr=False)
    codec: int = 0
    hops: tuple[Hop, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows the segments have together."""
        return sum(segment.length for segment in self.segments)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        extras = sum(len(_extras(segment)) for segment in self.segments)
        parts = len(self.hops) * _HOP.size + len(self.segments) * SEGMENT_BYTES
        return HEADER_BYTES + parts + extras + len(self.payload)

    def encode(self) -> bytes:
        """Return the frame as bytes."""
        hops = b"".join([_HOP.pack(h.computed, h.waited, h.bytes) for h in self.hops])
        extras = b"".join([_extras(segment) for segment in self.segments])
        counts = len(self.segments), self.rows, len(extras), len(self.payload)
        codes = self.codec, int(self.kind), len(self.hops)
        head = _HEADER.pack(MAGIC, VERSION, *codes, self.epoch, self.step, *counts)
        return b"".join([head, hops, _packed(self.segments), extras, self.payload])

    @classmethod
    def decode(cls, data: bytes | memoryview, epoch: int) -> "Frame":
        """Return the frame that bytes begin with.

        Args:
            data: The bytes; more may follow, since receives are posted for the
                largest frame.
            epoch: The number of the epoch that it must be of.

        Raises:
            FrameError: If it is no frame, or one of another version or epoch.
        """
        view = memoryview(data)
        if len(view) < HEADER_BYTES or bytes(view[:4]) != MAGIC:
            raise FrameError("what came over a link is no frame: it was left unread.")
        _, version, codec, kind, hops, told, step, *counts = _HEADER.unpack_from(view)
        if version != VERSION:
            raise FrameError(
                f"a frame of version {version} came, and this is version {VERSION}: "
                "run the same release of butterfly on all nodes."
            )
        if told != epoch:
            raise FrameError(f"a frame of epoch {told} came in epoch {epoch}.")
        count, rows, extra, size = counts
        sizes = HEADER_BYTES, hops * _HOP.size, count * SEGMENT_BYTES, extra, size
        ends = list(accumulate(sizes))
        if kind not in Kind._value2member_map_ or len(view) < ends[-1]:
            raise FrameError(f"frame {step} is damaged: its counts do not fit it.")
        trail, middle, notes, payload = [view[a:b] for a, b in pairwise(ends)]
        segments = _unpacked(middle, notes)
        took = tuple([Hop(*hop) for hop in _HOP.iter_unpack(trail)])
        frame = cls(told, step, segments, Kind(kind), payload, codec, took)
        odd = [
            s for s in segments if s.lane < 0 or s.length < len(s.draft) + bool(s.draft)
        ]
        if frame.rows != rows or odd:
            raise FrameError(f"frame {step} is damaged: its rows do not add up.")
        return frame


def largest(segments: int, rows: int, row_bytes: int, extra: int = 0) -> int:
    """Return how many bytes the largest frame has.

    Args:
        segments: The most segments.
        rows: The most rows.
        row_bytes: The most bytes that a row's payload takes.
        extra: The most bytes of a segment's extras.
    """
    head = HEADER_BYTES + 256 * _HOP.size
    return head + segments * (SEGMENT_BYTES + extra) + rows * (4 + row_bytes)


def _packed(segments: Sequence[Segment]) -> bytes:
    found = []
    for s in segments:
        how = s.sampling
        flags = _SAMPLE * s.is_sampled + _LOGPROBS * (how.top_logprobs is not None)
        found.append(
            (
                *(s.lane, s.start, s.length, s.adapter, s.source, s.shared),
                *(flags, len(s.draft), how.top_logprobs or 0, how.top_k),
                *(how.temperature, how.top_p, how.min_p, how.seed),
                *(len(s.targets), len(s.allowed), len(s.past)),
            )
        )
    return np.array(found, _SEGMENT).tobytes()


def _extras(segment: Segment) -> bytes:
    tokens = np.array([*segment.targets, *segment.draft], "<i4").tobytes()
    return tokens + segment.allowed + segment.past


def _unpacked(data: memoryview, extras: memoryview) -> tuple[Segment, ...]:
    found, at = [], 0
    for row in np.frombuffer(data, _SEGMENT).tolist():
        many, size, past = row[-3:]
        *place, flags, drafted, top, top_k, temperature, top_p, min_p, seed = row[:-3]
        middle = at + 4 * (many + drafted)
        last, end = middle + size, middle + size + past
        if end > len(extras):
            raise FrameError("a frame is damaged: its extras do not fit it.")
        tokens = tuple(np.frombuffer(extras[at:middle], "<i4").tolist())
        reported = top if flags & _LOGPROBS else None
        how = Sampling(temperature, top_p, top_k, min_p, seed, reported)
        told = bytes(extras[middle:last]), bytes(extras[last:end])
        is_sampled = bool(flags & _SAMPLE)
        guess = tokens[:many], tokens[many:]
        found.append(Segment(*place, is_sampled, how, *guess, *told))
        at = end
    return tuple(found)
