"""`Rollouts`: runs of a module with a candidate's values, each made once.

A candidate's values go into a copy of the module; the module itself is not touched.
Scores are kept by candidate, split and place. Records are kept as long as there is
room, with the copy that they are about: its parameters are where the notes of a
rollout go, and from there they are handed out by name.
"""

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.optimization.examples import ExampleCall
from inf_engine.optimization.feedback import Feedback, FeedbackBatch
from inf_engine.optimization.notes import Note
from inf_engine.optimization.objective import Objective, score_alone
from inf_engine.optimization.runner import Runner
from inf_engine.optimization.search import Candidate, Rollout, Split
from inf_engine.optimization.trajectory import Trajectory
from inf_engine.record import RunRecord

_MOST_RECORDS = 512

Key = tuple[str, Split, int]


@dataclass(eq=False, slots=True)
class _Copy:
    """A copy of the module with a candidate's values."""

    module: Any
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class _Recorded(Rollout):
    """A rollout that knows which copy it ran on: its notes go there."""

    copy: _Copy | None = field(default=None, repr=False)


class Rollouts:
    """The rollouts of a training, each made once.

    Args:
        runner: Makes them.
        start: The candidate that the module came with.
        data: The examples of each split.
        allow: Called with how many rollouts of which split are about to be made, before
            any is; raises `BudgetExceededError` if they may not.
        told: Called with the candidate, the split, the number of the call, the
            count of rollouts at the call and the new ones, once they are made.
        trajectory: Keeps what people say of outputs, None for nobody.
        objective: Says what a run is worth, by its score and its record.

    Attributes:
        count: How many were begun.
        calls: How many model calls those made that have ended, and the loss about
            them, answers that were used again included.
        ended: How many have ended.
    """

    def __init__(
        self,
        runner: Runner,
        start: Candidate,
        data: Mapping[Split, Sequence[ExampleCall]],
        allow: Callable[[int, Split], None],
        told: Callable[[Candidate, Split, int, int, Sequence[Rollout]], None],
        trajectory: Trajectory | None = None,
        objective: Callable[[float, RunRecord], Objective] = score_alone,
    ) -> None:
        self.count = self.calls = self.ended = 0
        self._runner = runner
        self._start = start
        self._data = data
        self._allow = allow
        self._told = told
        self._trajectory = trajectory
        self._objective = objective
        self._number = 0
        self._worth: dict[tuple[str, Split], dict[int, Objective | None]] = {}
        self._plain: dict[Key, Rollout] = {}
        self._full: dict[str, dict[Key, _Recorded]] = {}
        self._copies: dict[str, _Copy] = {}
        self._flights: dict[Key, asyncio.Task[None]] = {}

    def scores(self, candidate: Candidate, split: Split) -> dict[int, float]:
        """Return the scores that a candidate has, by place, in order."""
        return {p: o.score for p, o in self.objectives(candidate, split).items()}

    def objectives(self, candidate: Candidate, split: Split) -> dict[int, Objective]:
        """Return what a candidate's runs are worth, by place, in order."""
        known = self._worth.get((candidate.digest, split), {})
        return {p: o for p, o in sorted(known.items()) if o is not None}

    def missing(self, candidate: Candidate, split: Split) -> list[int]:
        """Return the places on which a candidate was never run, in order."""
        known = self._worth.get((candidate.digest, split), {})
        return [p for p in range(len(self._data.get(split, ()))) if p not in known]

    async def get(
        self,
        candidate: Candidate,
        places: Sequence[int],
        *,
        split: Split = "train",
        record: bool = False,
    ) -> list[Rollout]:
        """Return rollouts in the order of places; see `Search.rollouts`.

        Raises:
            UsageError: If there is no such place.
        """
        size = len(self._data.get(split, ()))
        for place in places:
            if not 0 <= place < size:
                raise UsageError(
                    f"there is no example {place} in {split}, which has {size}."
                )
        keys: list[Key] = [(candidate.digest, split, place) for place in places]
        missing = [key for key in dict.fromkeys(keys) if not self._has(key, record)]
        begun = [key for key in missing if key not in self._flights]
        waited = [self._flights[key] for key in missing if key in self._flights]
        if begun:
            self._allow(len(begun), split)
            await self._fly(candidate, split, begun)
        for flight in waited:
            await asyncio.wait([flight])
            flight.result()
        return [self._found(key, record) for key in keys]

    async def notes(
        self, rollouts: Sequence[Rollout], critic: Any
    ) -> dict[str, list[Note]]:
        """Return the notes that feedback leaves on the parameters, by dotted name.

        Their scores are those of the rollouts, in [0, 1], and the examples of their
        evidence are places among the rollouts given.

        Args:
            rollouts: With records, of one candidate.
            critic: As for `FeedbackBatch.backward`.

        Raises:
            UsageError: If one has no record.
            CriticError: If the critic failed.
        """
        groups: dict[int, tuple[_Copy, list[int]]] = {}
        for number, rollout in enumerate(rollouts):
            owner = rollout.copy if isinstance(rollout, _Recorded) else None
            if owner is None or rollout.record is None:
                raise UsageError(
                    f"the rollout of example {rollout.place} has no record, so there "
                    "is nothing to flow back through: ask for it with record=True."
                )
            groups.setdefault(id(owner), (owner, []))[1].append(number)
        found: dict[str, list[Note]] = {}
        for owner, numbers in groups.values():
            told = [rollouts[number].feedback for number in numbers]
            async with owner.lock:
                for name, notes in (await self._noted(owner, told, critic)).items():
                    placed = [_placed(note, numbers, rollouts) for note in notes]
                    found.setdefault(name, []).extend(placed)
        return found

    async def _noted(
        self, owner: _Copy, told: Sequence[Feedback], critic: Any
    ) -> dict[str, list[Note]]:
        """Let feedback flow back into a copy, take the notes, and empty it."""
        owner.module.zero_feedback()
        try:
            batch = FeedbackBatch(told)
            await batch.backward(engine=self._runner.engine, critic=critic)
            pairs = owner.module.named_parameters()
            return {name: p.feedback for name, p in pairs if p.feedback}
        finally:
            owner.module.zero_feedback()

    # -- inside -----------------------------------------------------------------

    def _has(self, key: Key, record: bool) -> bool:
        if record:
            return key in self._full.get(key[0], ())
        return key in self._plain

    def _found(self, key: Key, record: bool) -> Rollout:
        full = self._full.get(key[0], {}).get(key)
        return full if record and full is not None else self._plain[key]

    async def _fly(
        self, candidate: Candidate, split: Split, keys: Sequence[Key]
    ) -> None:
        """Make rollouts; others that ask for the same meanwhile wait for these."""
        self.count += len(keys)
        self._number += 1
        numbers = self._number, self.count
        work = self._made(candidate, split, [key[2] for key in keys], *numbers)
        flight = asyncio.ensure_future(work)
        self._flights.update(dict.fromkeys(keys, flight))
        try:
            await flight
        finally:
            for key in keys:
                del self._flights[key]

    async def _made(
        self,
        candidate: Candidate,
        split: Split,
        places: Sequence[int],
        number: int,
        count: int,
    ) -> None:
        owner = self._copy_of(candidate)
        calls = [self._data[split][place] for place in places]
        kept = self._trajectory
        made = await self._runner.rollouts(
            owner.module,
            calls,
            places,
            strict=candidate == self._start,
            recall=None if kept is None else partial(kept.recall, candidate, split),
            keep=None if kept is None else partial(kept.answer, candidate, split),
        )
        self._runner.check_loss(made)
        known = self._worth.setdefault((candidate.digest, split), {})
        for rollout in made:
            key: Key = (candidate.digest, split, rollout.place)
            self._keep(key, rollout, owner)
            known.setdefault(rollout.place, self._worth_of(rollout))
            self.calls += calls_of(rollout.record) + self._runner.questions
        self.ended += len(made)
        self._told(candidate, split, number, count, made)

    def _worth_of(self, rollout: Rollout) -> Objective | None:
        """Return what a run is worth, None if the loss failed."""
        if rollout.score is None:
            return None
        if rollout.record is None:
            return Objective(rollout.score)
        return self._objective(rollout.score, rollout.record)

    def _copy_of(self, candidate: Candidate) -> _Copy:
        """Return a copy of the module with a candidate's values, bound to nothing."""
        owner = self._copies.pop(candidate.digest, None)
        if owner is None:
            module = copy.deepcopy(self._runner.module)
            module.load_state_dict(dict(candidate.values))
            module.zero_feedback()
            owner = _Copy(module)
        self._copies[candidate.digest] = owner  # the newest is the last
        return owner

    def _keep(self, key: Key, rollout: Rollout, owner: _Copy) -> None:
        """Keep a rollout, and its record as long as there is room."""
        told = rollout.feedback
        self._plain.setdefault(
            key, replace(rollout, feedback=_without_record(told), record=None)
        )
        full = _Recorded(rollout.place, rollout.score, told, rollout.record, owner)
        self._full.setdefault(key[0], {})[key] = full
        while sum(map(len, self._full.values())) > _MOST_RECORDS:
            oldest = next(d for d in self._copies if d in self._full)
            if oldest == key[0]:
                return
            del self._full[oldest], self._copies[oldest]


def _placed(note: Note, numbers: Sequence[int], rollouts: Sequence[Rollout]) -> Note:
    """Return a note on a batch as one on all rollouts, with their scores.

    Args:
        note: The note; its scores are on the loss's scale.
        numbers: Which of the rollouts the batch was made of.
        rollouts: All of them.
    """
    scores = {r.feedback.score: r.score for r in (rollouts[n] for n in numbers)}
    calls = [
        replace(call, example=number, score=rollouts[number].score)
        for call in note.evidence
        for number in (numbers[call.example],)
    ]
    score = scores.get(note.score, note.score)
    return replace(note, score=score, evidence=tuple(calls))


def calls_of(record: RunRecord | None) -> int:
    """Return how many model calls a run made, those answered from memory included."""
    return 0 if record is None else sum(len(node.calls) for node in record.nodes)


def _without_record(told: Feedback) -> Feedback:
    """Return feedback that keeps no record alive."""
    parts = tuple([_without_record(part) for part in told.parts])
    return replace(told, record=None, parts=parts)
