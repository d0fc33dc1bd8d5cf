"""`Scheduler`: continuous batching over a ring of stages.

A ring of n stages is full when n frames are on their way, and more where links are
slow. A sequence is in one frame at a time: its next token is drawn at the end of the
ring. So the sequences that decode are dealt into as many micro-batches as frames may
fly; a larger one would make a convoy, with all stages but one idle. A prompt travels in
parts, at most one part a frame, so that nobody's next token waits for somebody's long
prompt. Where nobody decodes nobody waits, so a part may be larger there.

Sequences get a lane when one is free, those of higher priority and then older ones
first. What a lane still holds is used again: a prompt that begins like it starts where
they part.

Plain synchronous code: no clock, no waiting.
"""

import math
from dataclasses import dataclass

from butterfly.communication.frames import Segment
from butterfly.errors import CapacityError, RequestError
from butterfly.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may travel at once.

    Args:
        lanes: How many sequences there is room for at once.
        frames: How many frames may be on their way.
        cap: The most sequences that decode in a frame; 0: dealt out over the frames.
        chunk: The most rows of prompts in a frame.
        beside: The most rows of prompts in a frame while others decode; 0: `chunk`.
    """

    lanes: int
    frames: int = 1
    cap: int = 0
    chunk: int = 256
    beside: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes into one frame.

    Args:
        step: The number of the frame.
        segments: The rows, in the order of their lanes.
        tokens: The token of each row.
        sequences: Whose segments they are.
    """

    step: int
    segments: tuple[Segment, ...]
    tokens: tuple[int, ...]
    sequences: tuple[Sequence, ...]


class Scheduler:
    """Says what travels in the next frame.

    Args:
        lanes: How many sequences there is room for at once.
        positions: How many positions a lane has.
        frames: How many frames may be on their way.
        cap: As in `Limits`.
        chunk: As in `Limits`.
        beside: As in `Limits`.
        most_waiting: How many sequences may wait for a lane.
        reuse: Whether what lanes still hold is used again.
    """

    def __init__(
        self,
        lanes: int,
        positions: int,
        *,
        frames: int = 1,
        cap: int = 0,
        chunk: int = 256,
        beside: int = 0,
        most_waiting: int = 1024,
        reuse: bool = True,
    ) -> None:
        self.positions = positions
        self.frames, self.cap, self.chunk, self.beside = frames, cap, chunk, beside
        self.most_waiting, self.reuse = most_waiting, reuse
        self.waiting: list[Sequence] = []
        self.running: dict[int, Sequence] = {}  # by lane
        self.reused = 0  # tokens whose keys and values were there already
        self._held: list[list[int]] = [[] for _ in range(lanes)]
        self._adapters = [0] * lanes
        self._flying: dict[int, Batch] = {}
        self._step = self._number = 0

    @property
    def lanes(self) -> int:
        """How many sequences there is room for at once."""
        return len(self._held)

    @property
    def in_flight(self) -> int:
        """How many frames are on their way."""
        return len(self._flying)

    @property
    def flying_rows(self) -> int:
        """How many rows are on their way."""
        return sum(len(batch.tokens) for batch in self._flying.values())

    def check(self, *sequences: Sequence) -> None:
        """Say whether sequences could be added.

        Args:
            sequences: The sequences.

        Raises:
            RequestError: If a prompt is empty, or does not fit a lane.
            CapacityError: If too many wait already.
        """
        for sequence in sequences:
            count = len(sequence.prompt)
            if not count:
                raise RequestError("the prompt has no tokens: send at least one.")
            if count >= self.positions:
                raise RequestError(
                    f"the prompt has {count} tokens, and there is room for "
                    f"{self.positions - 1}: shorten it, or serve with more --positions."
                )
        if len(self.waiting) + len(sequences) > self.most_waiting:
            raise CapacityError(
                f"{len(self.waiting)} requests wait already: try again later."
            )

    def add(self, sequence: Sequence) -> None:
        """Take a new sequence.

        Args:
            sequence: The sequence; its limit is lowered to what a lane has room for.

        Raises:
            RequestError: If its prompt is empty, or does not fit a lane.
            CapacityError: If too many wait already.
        """
        self.check(sequence)
        room = self.positions - len(sequence.prompt)
        sequence.limit = min(sequence.limit, room)
        self._number += 1
        sequence.number = self._number
        self._queue(sequence)

    def abort(self, sequence: Sequence) -> None:
        """End a sequence; rows of it that are on their way are ignored.

        Args:
            sequence: The sequence.
        """
        sequence.finish = sequence.finish or "abort"
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if not sequence.is_flying:
            self._release(sequence)

    def plan(self) -> Batch | None:
        """Return what travels in the next frame; None if nothing can.

        It counts as on its way until `settle`.
        """
        if len(self._flying) >= self.frames:
            return None
        self._admit()
        chosen = [(s, 1) for s in self._decoding()] + self._prompts()
        if not chosen:
            return None
        chosen.sort(key=lambda pair: pair[0].lane or 0)
        segments = [self._segment(*pair) for pair in chosen]
        tokens = [
            t
            for (s, _), part in zip(chosen, segments, strict=True)
            for t in s.tokens[part.start : part.start + part.length]
        ]
        self._step += 1
        owners = tuple([s for s, _ in chosen])
        batch = Batch(self._step, tuple(segments), tuple(tokens), owners)
        self._flying[batch.step] = batch
        for sequence in owners:
            sequence.is_flying, sequence.step = True, batch.step
        return batch

    def flying(self, step: int) -> Batch:
        """Return the batch of a frame that is on its way.

        Args:
            step: The number of the frame.
        """
        return self._flying[step]

    def settle(self, step: int, drawn: dict[int, int | None]) -> Batch:
        """Take what came back for a frame.

        Args:
            step: The number of the frame.
            drawn: The token that was drawn in each lane that had one.

        Returns:
            The frame's batch; sequences that ended have a `finish`, and no lane.
        """
        batch = self._flying.pop(step)
        for sequence, part in zip(batch.sequences, batch.segments, strict=True):
            sequence.is_flying = False
            sequence.computed = part.start + part.length
            held = self._held[part.lane]
            held[part.start :] = sequence.tokens[part.start : sequence.computed]
            token = drawn.get(part.lane)
            if token is not None and not sequence.finish:
                sequence.take(token)
            if sequence.finish:
                self._release(sequence)
        return batch

    def reset(self, limits: Limits | None = None) -> None:
        """Begin anew: nothing is on its way, no lane holds anything.

        Sequences that were running go to the front of the line, with what they have
        generated, which is run again as part of their prompt.

        Args:
            limits: How much may travel from now on, None for as much as before.
        """
        count = len(self._held)
        if limits is not None:
            count, self.frames = limits.lanes, limits.frames
            self.cap, self.chunk = limits.cap, limits.chunk
            self.beside = limits.beside
        self._flying.clear()
        for sequence in list(self.running.values()):
            sequence.lane, sequence.computed, sequence.is_flying = None, 0, False
            if not sequence.finish:
                self._queue(sequence)
        self.running.clear()
        self._held = [[] for _ in range(count)]
        self._adapters = [0] * count

    # -- inside -----------------------------------------------------------------

    def _queue(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)
        self.waiting.sort(key=lambda s: (-s.priority, s.number))

    def _admit(self) -> None:
        """Give lanes to those that wait."""
        while self.waiting and len(self.running) < len(self._held):
            sequence = self.waiting.pop(0)
            lane, shared = self._place(sequence)
            self.reused += shared
            self._adapters[lane] = sequence.adapter
            self._held[lane] = self._held[lane][:shared]
            sequence.lane, sequence.computed = lane, shared
            if not sequence.output:
                sequence.reused = shared
            self.running[lane] = sequence

    def _place(self, sequence: Sequence) -> tuple[int, int]:
        """Return the free lane for a sequence, and how much of it is there already."""
        free = [n for n in range(len(self._held)) if n not in self.running]
        if not self.reuse or sequence.prompt_logprobs:
            return min(free, key=lambda n: (len(self._held[n]), n)), 0
        most = sequence.length - 1  # the last row is needed: its token is drawn
        shared = {
            n: min(most, _common(self._held[n], sequence.tokens))
            for n in free
            if self._adapters[n] == sequence.adapter
        }
        best = max(shared, key=lambda n: (shared[n], -n), default=None)
        if best is not None and shared[best]:
            return best, shared[best]
        return min(free, key=lambda n: (len(self._held[n]), n)), 0

    def _decoding(self) -> list[Sequence]:
        """Return the sequences whose next token this frame draws: longest back first.

        Those that travelled together stay so, in neighbouring lanes.
        """
        each = [s for _, s in sorted(self.running.items()) if s.is_decoding]
        ready = sorted((s for s in each if not s.is_flying), key=lambda s: s.step)
        share = math.ceil(len(each) / self.frames)
        return ready[: min(share, self.cap or share)]

    def _prompts(self) -> list[tuple[Sequence, int]]:
        """Return parts of prompts for this frame, with how many rows each."""
        is_beside = any(s.is_decoding for s in self.running.values())
        left, chosen = (self.beside if is_beside else 0) or self.chunk, []
        waiting = [s for s in self.running.values() if not s.is_decoding]
        waiting = [s for s in waiting if not s.is_flying]
        for s in sorted(waiting, key=lambda s: (-s.priority, s.number)):
            rows = min(left, s.length - s.computed)
            if rows:
                chosen.append((s, rows))
                left -= rows
        return chosen

    def _segment(self, sequence: Sequence, rows: int) -> Segment:
        start, end = sequence.computed, sequence.computed + rows
        assert sequence.lane is not None
        targets: tuple[int, ...] = ()
        if sequence.prompt_logprobs and start < len(sequence.prompt):
            known = sequence.prompt[start + 1 : end + 1]
            targets = (*known, *[-1] * (rows - len(known)))
        is_sampled = end == sequence.length
        rule = sequence.constraint if is_sampled else None
        return Segment(
            sequence.lane,
            start,
            rows,
            adapter=sequence.adapter,
            is_sampled=is_sampled,
            sampling=sequence.sampling,
            targets=targets,
            allowed=b"" if rule is None else rule.allowed(),
        )

    def _release(self, sequence: Sequence) -> None:
        if sequence.lane is not None:
            del self.running[sequence.lane]
            sequence.lane = None


def _common(one: list[int], other: list[int]) -> int:
    """Return how many tokens two lists begin with in common."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
