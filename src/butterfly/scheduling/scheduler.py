"""`Scheduler`: continuous batching over a ring of stages.

A ring of n stages is full when n frames are on their way, and more where links are
slow. A sequence is in one frame at a time: its next token is drawn at the end of the
ring. So the sequences that decode are dealt into as many micro-batches as frames may
fly, and into no more than are needed for micro-batches of that size; a larger one would
make a convoy, with all stages but one idle. A prompt travels in
parts, at most one part a frame, so that nobody's next token waits for somebody's long
prompt; the next part follows in the next frame, while the one before is on its way.
Where nobody decodes nobody waits, so a part may be larger there.

Sequences get a lane when one is free, those of higher priority and then older ones
first. What any lane holds is used again: a prompt that begins like it starts where they
part. If the lane is not its own, or in use, its first frame says what to copy. Frames
keep their order on the whole ring, so what was sent before is there when a copy is
made, and nobody has to wait until it came back. Where another prompt is about to
compute most of what a sequence needs (the other answers to it, say), it lets that one
go first.

With `speculate`, a sequence that has a frame to itself brings a draft of what may come
next. Each token of it that comes true saves a round; what does not is forgotten: the
next frame writes over its rows in the lane. Beside other rows a draft is too dear.

Plain synchronous code: no clock, no waiting.
"""

import math
from dataclasses import dataclass, replace

from butterfly.communication.frames import MOST_DRAFTED, Segment
from butterfly.errors import (
    CapacityError,
    ConfigurationError,
    LengthError,
    RequestError,
)
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
        taken: How many tokens each of them took, once it is back.
    """

    step: int
    segments: tuple[Segment, ...]
    tokens: tuple[int, ...]
    sequences: tuple[Sequence, ...]
    taken: tuple[int, ...] = ()


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
        speculate: The most tokens that are guessed for a sequence which has a frame to
            itself, 0 for none.

    Raises:
        ConfigurationError: If drafts are to have more tokens than a frame can tell.

    Attributes:
        reused: How many tokens had their keys and values already.
        rows: How many rows were sent.
        proposed: How many tokens drafts had.
        accepted: How many of them came true.
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
        speculate: int = 0,
    ) -> None:
        if not 0 <= speculate <= MOST_DRAFTED:
            raise ConfigurationError(
                f"drafts cannot have {speculate} tokens: name at most {MOST_DRAFTED}, "
                "or 0 for none."
            )
        self.positions = positions
        self.frames, self.cap, self.chunk, self.beside = frames, cap, chunk, beside
        self.most_waiting, self.reuse = most_waiting, reuse
        self.speculate = speculate
        self.waiting: list[Sequence] = []
        self.running: dict[int, Sequence] = {}  # by lane
        self.reused = self.rows = self.proposed = self.accepted = 0
        self._held: list[list[int]] = [[] for _ in range(lanes)]
        self._adapters = [0] * lanes
        self._flying: dict[int, Batch] = {}
        self._step = self._number = 0
        self.failed: list[Sequence] = []  # whose clients are still to be told

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
            RequestError: If a prompt is empty.
            LengthError: If it does not fit a lane.
            CapacityError: If too many wait already.
        """
        for sequence in sequences:
            count = len(sequence.prompt)
            if not count:
                raise RequestError("the prompt has no tokens: send at least one.")
            if count >= self.positions:
                raise LengthError(
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
        if not sequence.number:  # else another ring took it, and could not end it
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
        if not sequence.flying:
            self._release(sequence)

    def plan(self) -> Batch | None:
        """Return what travels in the next frame; None if nothing can.

        It counts as on its way until `settle`. A sequence that cannot be sent is ended,
        and is one of `failed`.
        """
        segments: dict[Sequence, Segment] = {}
        while not segments:
            if len(self._flying) >= self.frames:
                return None
            self._admit()
            chosen = [(s, 1) for s in self._decoding()] + self._prompts()
            if not chosen:
                return None
            chosen.sort(key=lambda pair: pair[0].lane or 0)
            segments = self._segments(chosen)
        tokens = [token for pair in segments.items() for token in _tokens(*pair)]
        self._sent(segments)
        self._step += 1
        owners = tuple(segments)
        batch = Batch(self._step, tuple(segments.values()), tuple(tokens), owners)
        self._flying[batch.step] = batch
        for sequence in owners:
            sequence.step = batch.step
        return batch

    def flying(self, step: int) -> Batch:
        """Return the batch of a frame that is on its way.

        Args:
            step: The number of the frame.
        """
        return self._flying[step]

    def settle(self, step: int, drawn: dict[int, list[int]]) -> Batch:
        """Take what came back for a frame.

        A sequence that cannot take its token is ended, and is one of `failed`.

        Args:
            step: The number of the frame.
            drawn: The tokens that were drawn in each lane that had some.

        Returns:
            The frame's batch; sequences that ended have a `finish`, and no lane.
        """
        batch = self._flying.pop(step)
        taken = []
        for sequence, part in zip(batch.sequences, batch.segments, strict=True):
            sequence.flying -= 1
            taken.append(self._take(sequence, part, drawn.get(part.lane, [])))
            if sequence.finish and not sequence.flying:
                self._release(sequence)
        return replace(batch, taken=tuple(taken))

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
            sequence.leave()
            if not sequence.finish:
                self._queue(sequence)
        self.running.clear()
        self._held = [[] for _ in range(count)]
        self._adapters = [0] * count

    def hand_over(self) -> list[Sequence]:
        """Begin anew without any sequence, and return those that were open."""
        self.reset()
        found, self.waiting = self.waiting, []
        return found

    def held(self, sequence: Sequence) -> int:
        """Return how many tokens of a sequence a lane holds already.

        Args:
            sequence: The sequence.
        """
        return self._source(sequence)[1]

    # -- inside -----------------------------------------------------------------

    def _take(self, sequence: Sequence, part: Segment, tokens: list[int]) -> int:
        """Give a sequence tokens until it ends; return how many it took."""
        taken = 0
        for token in tokens:
            if sequence.finish:
                break
            try:
                sequence.take(token)
                taken += 1
            except Exception as exc:  # noqa: BLE001 - its client is told
                self._fail(sequence, exc)
        if part.draft and tokens:
            proposed, accepted = len(part.draft), len(tokens) - 1
            self.proposed += proposed
            self.accepted += accepted
            sequence.learn(proposed, accepted)
            sequence.computed = part.start + 1 + accepted  # rows of the rest are void
        return taken

    def _segments(self, chosen: list[tuple[Sequence, int]]) -> dict[Sequence, Segment]:
        """Return what travels of each sequence; one that cannot be sent is ended."""
        found = {}
        guessed = self.speculate if len(chosen) == 1 else 0
        for sequence, rows in chosen:
            try:
                found[sequence] = self._segment(sequence, rows, guessed)
            except Exception as exc:  # noqa: BLE001 - its client is told
                self._fail(sequence, exc)
        return found

    def _fail(self, sequence: Sequence, failure: Exception) -> None:
        """End a sequence for which something went wrong; nobody else notices."""
        sequence.failure = failure
        self.failed.append(sequence)
        self.abort(sequence)

    def _queue(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)
        self.waiting.sort(key=lambda s: (-s.priority, s.number))

    def _admit(self) -> None:
        """Give lanes to those that wait."""
        while self.waiting and len(self.running) < len(self._held):
            sequence = self.waiting.pop(0)
            lane, shared = self._place(sequence)
            self._adapters[lane] = sequence.adapter
            self._held[lane] = self._held[lane][:shared]
            sequence.lane, sequence.computed = lane, shared
            self.running[lane] = sequence

    def _place(self, sequence: Sequence) -> tuple[int, int]:
        """Return the free lane for a sequence, and how much of it is there already."""
        free = [n for n in range(len(self._held)) if n not in self.running]
        lane, shared = self._source(sequence)
        if lane in free and shared:
            return lane, shared
        return min(free, key=lambda n: (len(self._held[n]), n)), 0

    def _source(self, sequence: Sequence) -> tuple[int, int]:
        """Return the lane that holds most of a sequence, and how much."""
        if not self.reuse or sequence.prompt_logprobs:
            return -1, 0
        tokens = sequence.tokens[:-1]  # the last row is needed: its token is drawn
        lanes = [n for n, k in enumerate(self._adapters) if k == sequence.adapter]
        shared = {n: _common(self._held[n], tokens) for n in lanes}
        order = sorted(lanes, key=lambda n: (-shared[n], n in self.running, n))
        return (order[0], shared[order[0]]) if order and shared[order[0]] else (-1, 0)

    def _decoding(self) -> list[Sequence]:
        """Return the sequences whose next token this frame draws: longest back first.

        Those that travelled together stay so, in neighbouring lanes. Where fewer frames
        than may fly would carry all, rows wait for each other: a frame costs its layers
        whatever is in it, and rows that once left singly would never meet again.
        """
        each = [s for _, s in sorted(self.running.items()) if s.is_decoding]
        ready = sorted((s for s in each if not s.flying), key=lambda s: s.step)
        share = max(1, math.ceil(len(each) / self.frames))
        size = min(share, self.cap or share)
        flying = len({s.step for s in each if s.flying})
        return ready[:size] if flying * size < len(each) else []

    def _prompts(self) -> list[tuple[Sequence, int]]:
        """Return parts of prompts for this frame, with how many rows each."""
        is_beside = any(s.is_decoding for s in self.running.values())
        left, chosen = (self.beside if is_beside else 0) or self.chunk, []
        each = [s for s in self.running.values() if not s.is_decoding]
        each = [s for s in each if not s.finish]
        each.sort(key=lambda s: (-s.priority, s.number))
        for place, s in enumerate(each):
            if not s.is_begun:
                self._share(s)
                if any(self._goes_first(other, s) for other in each[:place]):
                    continue
            rows = min(left, s.length - s.computed)
            if rows:
                chosen.append((s, rows))
                left -= rows
        return chosen

    def _share(self, sequence: Sequence) -> None:
        """Let a sequence begin with what another lane holds, if that is more."""
        lane, shared = self._source(sequence)
        sequence.source = -1
        own = len(self._held[sequence.lane or 0])
        if shared > own and lane != sequence.lane:
            sequence.source, sequence.computed = lane, shared
        else:
            sequence.computed = own

    def _goes_first(self, other: Sequence, sequence: Sequence) -> bool:
        """Say whether another prompt computes most of what a sequence needs."""
        if not self.reuse or sequence.prompt_logprobs:
            return False
        if other.adapter != sequence.adapter:
            return False
        left = sequence.length - sequence.computed
        shared = _common(other.tokens, sequence.tokens[:-1])
        return 2 * (shared - sequence.computed) >= left

    def _sent(self, segments: dict[Sequence, Segment]) -> None:
        """Note what lanes hold when the rows of a frame are computed."""
        for sequence, part in segments.items():
            held = self._held[part.lane]
            if not sequence.is_begun:
                held[:] = sequence.part(0, part.start)
                self.reused += part.start
                if not sequence.output:
                    sequence.reused = part.start
            held[part.start :] = _tokens(sequence, part)
            self.rows += part.length
            sequence.flying += 1
            if sequence.penalties is not None and part.is_sampled:
                sequence.heard = len(sequence.output)  # its past is in the frame
            sequence.computed = part.start + part.length
            sequence.is_begun = True

    def _segment(self, sequence: Sequence, rows: int, guessed: int) -> Segment:
        """Return what travels of a sequence; if it decodes, with so long a draft."""
        start, end = sequence.computed, sequence.computed + rows
        assert sequence.lane is not None
        targets: tuple[int, ...] = ()
        if sequence.prompt_logprobs and start < len(sequence.prompt):
            known = sequence.prompt[start + 1 : end + 1]
            targets = (*known, *[-1] * (rows - len(known)))
        is_sampled = end == sequence.length
        source = -1 if sequence.is_begun else sequence.source
        rule = sequence.constraint if is_sampled else None
        draft = sequence.draft(guessed) if guessed and sequence.is_decoding else []
        return Segment(
            sequence.lane,
            start,
            rows + len(draft),
            adapter=sequence.adapter,
            source=source,
            shared=start if source >= 0 else 0,
            is_sampled=is_sampled,
            sampling=sequence.sampling,
            targets=targets,
            draft=tuple(draft),
            allowed=b"" if rule is None else rule.allowed(draft),
            past=sequence.past() if is_sampled else b"",
        )

    def _release(self, sequence: Sequence) -> None:
        if sequence.lane is not None:
            del self.running[sequence.lane]
            sequence.lane = None


def _tokens(sequence: Sequence, part: Segment) -> list[int]:
    """Return the tokens of a segment's rows: what was said, and the draft."""
    end = part.start + part.length - len(part.draft)
    return [*sequence.part(part.start, end), *part.draft]


def _common(one: list[int], other: list[int]) -> int:
    """Return how many tokens two lists begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
