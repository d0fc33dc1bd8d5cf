"""`Search`: what an optimizer may ask of the trainer while it looks for better texts.

A `Candidate` is a value for every parameter; the module itself is not touched until
one is accepted for good. A `Rollout` is one run of the module with a candidate's values
on one example, and what the loss says of it. The trainer runs and scores them, keeps
the books, and refuses what the budget does not allow (`BudgetExceededError`, which ends
the search, not the training: the best that was accepted counts).

Optimizers are written against this protocol, so that they can be tested without a
trainer, and a trainer without them.
"""

import hashlib
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from inf_engine.errors import UsageError
from inf_engine.optimization.acceptance import Verdict
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.notes import Note
from inf_engine.record import RunRecord

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Candidate:
    """A value for every parameter, by its dotted name.

    Args:
        values: The values; JSON.
    """

    values: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """What tells it from other candidates: 16 hex digits of its content."""
        text = json.dumps(dict(self.values), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def with_values(self, changes: Mapping[str, Any]) -> "Candidate":
        """Return a candidate in which some values are others."""
        return Candidate({**self.values, **changes})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One run with a candidate's values on one example.

    Args:
        place: The place of the example in its split, from 0.
        score: Its score; 0.0 on the loss's scale's low end if the run failed, None if
            the loss failed.
        feedback: What the loss says.
        record: What happened, None if it was not asked for or is not kept any more.
    """

    place: int
    score: float | None
    feedback: Feedback = field(repr=False)
    record: RunRecord | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one candidate on some examples of a split.

    Args:
        candidate: What was scored.
        by_place: The score of each example; those for which the loss failed are left
            out.
    """

    candidate: Candidate
    by_place: Mapping[int, float]

    @property
    def mean(self) -> float | None:
        """The mean score, None without any."""
        return statistics.fmean(self.by_place.values()) if self.by_place else None

    @classmethod
    def of(cls, candidate: Candidate, rollouts: Sequence[Rollout]) -> "Scores":
        """Return the scores of rollouts."""
        scored = {r.place: r.score for r in rollouts if r.score is not None}
        return cls(candidate, scored)


@dataclass(frozen=True, slots=True)
class Change:
    """How one value was changed, for the lineage.

    Args:
        parameter: The dotted name.
        before: The value as it was.
        after: The value as it is proposed.
        reason: Why, in the words of whoever proposed it.
    """

    parameter: str
    before: Any
    after: Any
    reason: str = ""


def names_in(search: "Search", ours: Sequence[str]) -> list[str]:
    """Return the parameters of a search that an optimizer has, in the search's order.

    Args:
        search: What the trainer offers.
        ours: The names of the optimizer's parameters.

    Raises:
        UsageError: If it has none of them.
    """
    found = [name for name in search.names if name in ours]
    if not found:
        raise UsageError(
            f"the optimizer's parameters ({', '.join(ours)}) are none of those of the "
            f"module in training ({', '.join(search.names)}): build it with parameters "
            "of that module, requires_grad=True."
        )
    return found


class Search(Protocol):
    """What an optimizer may ask of the trainer.

    Attributes:
        engine: Runs the optimizer's own calls; they count against the budget.
        start: The candidate that the module came with, or was resumed from.
        names: The names of the parameters that may be changed.
        train_size: How many examples there are to learn from.
        val_size: How many are held out; 0 if there are none.
        rng: Seeded; the only source of chance.
    """

    engine: Any
    start: Candidate
    names: Sequence[str]
    train_size: int
    val_size: int
    rng: random.Random

    def batch(self) -> Sequence[int]:
        """Return the places of the next minibatch of the training examples."""
        ...

    async def rollouts(
        self,
        candidate: Candidate,
        places: Sequence[int],
        *,
        split: Split = "train",
        record: bool = False,
    ) -> list[Rollout]:
        """Run a candidate on examples, in the order of `places`.

        What was run before is not run again, and costs nothing, unless a record is
        asked for that is not there.

        Raises:
            BudgetExceededError: If the budget does not allow all of them; none is run.
        """
        ...

    async def notes(
        self, candidate: Candidate, rollouts: Sequence[Rollout]
    ) -> dict[str, list[Note]]:
        """Return the notes that the feedback of rollouts leaves on each parameter.

        Their scores are those of the rollouts, and the examples of their evidence are
        places among the rollouts given.

        Args:
            candidate: What was run.
            rollouts: With records.

        Raises:
            CriticError: If there is a critic and it failed.
        """
        ...

    def sources(self, split: Split) -> Sequence[str]:
        """Return what tells the inputs of the examples of a split from others.

        Only asked for where there are demonstrations: none may be of an example under
        test.
        """
        ...

    def accepted(
        self,
        candidate: Candidate,
        parents: Sequence[Candidate],
        changes: Sequence[Change],
        verdict: Verdict,
    ) -> None:
        """Take note that a candidate was accepted; the best so far may be another."""
        ...

    def rejected(
        self,
        candidate: Candidate,
        parents: Sequence[Candidate],
        changes: Sequence[Change],
        reason: str,
    ) -> None:
        """Take note that a candidate was rejected, and why."""
        ...

    def is_over(self) -> bool:
        """Say whether to stop: the budget is gone, or it was asked for."""
        ...
