"""`HumanLoss`: a person says how good an output is, through a callback.

In a training with a journal `Answers` keep what a person says as soon as it is said, so
that nobody is asked the same again: not after the process has died, in the middle of a
batch or not, and not where the loss is a part of another one.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from inf_engine.errors import LossError
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.loss import Loss, as_feedback, takes_record
from inf_engine.record import RunRecord


@dataclass(slots=True)
class Answers:
    """What people said, or say now, of the outputs of one batch of runs.

    Args:
        places: The place of the example of each run, by the id of its record.
        recall: Gives what was said, by place and name of the loss; None if nothing was.
        keep: Takes down what is said, by the same.
    """

    places: Mapping[int, int]
    recall: Callable[[int, str], Feedback | None]
    keep: Callable[[int, str, Feedback], None]
    _losses: dict[str, list[Any]] = field(default_factory=dict)

    def key(self, record: RunRecord, loss: Any) -> tuple[int, str] | None:
        """Return place and name that an answer is kept by, None if it cannot be.

        Args:
            record: The run that is asked about.
            loss: The loss that asks; several at one place are told apart.
        """
        place = self.places.get(id(record))
        if place is None:
            return None
        path = part_of.get()
        losses = self._losses.setdefault(path, [])
        if loss not in losses:
            losses.append(loss)
        return place, f"{path}#{losses.index(loss)}"


answers: ContextVar[Answers | None] = ContextVar("answers", default=None)
"""Where what people say is kept, None for nowhere."""

part_of: ContextVar[str] = ContextVar("part_of", default="")
"""The names of the parts of composite losses that lead to the loss that is asked."""


class HumanLoss(Loss):
    """Asks a person, by way of a callback; the library itself never reads input.

    The examples of a batch are asked one after the other, in order: a person reads one
    at a time.

    Args:
        callback: Called with the record and the target of an example. It returns a
            `Feedback`, a score (True and False are the best and the worst), a pair of
            a score and words, or words alone. It may be async; a plain one runs on
            the loop, so nothing else goes on while the person thinks.
        low: The worst score.
        high: The best score.

    Raises:
        UsageError: If `callback` cannot be called with two arguments.
    """

    kind: ClassVar[str] = "human"

    def __init__(
        self, callback: Callable[..., Any], *, low: float = 0.0, high: float = 1.0
    ) -> None:
        super().__init__(low=low, high=high)
        takes_record(callback, "the callback of a HumanLoss")
        self._callback = callback

    async def judge(self, record: RunRecord, target: Any) -> Feedback:
        """Call the callback, unless it is known what it says.

        Raises:
            LossError: If it returned none of what it may.
        """
        kept = answers.get()
        key = None if kept is None else kept.key(record, self)
        if kept is None or key is None:
            return await self._asked(record, target)
        known = kept.recall(*key)
        if known is not None:
            return known
        said = await self._asked(record, target)
        if said.error is None and self._fits(said.score):
            kept.keep(*key, said)
        return said

    def _fits(self, score: Any) -> bool:
        """Say whether a score is none, or one on the scale."""
        is_number = isinstance(score, int | float)
        return score is None or (is_number and self.low <= score <= self.high)

    async def _asked(self, record: RunRecord, target: Any) -> Feedback:
        outcome = self._callback(record, target)
        if inspect.isawaitable(outcome):
            outcome = await outcome
        if isinstance(outcome, Feedback):
            kind = self.kind if outcome.kind == "feedback" else outcome.kind
            return replace(outcome, kind=kind)
        if isinstance(outcome, str) and outcome.strip():
            return Feedback(outcome, None, self.kind)
        said = as_feedback(outcome, self)
        if said is None:
            what = "an empty text" if outcome == "" else f"a {type(outcome).__name__}"
            raise LossError(
                f"the callback of a HumanLoss returned {what}. Return a Feedback, a "
                "score, a pair of a score and a text, or a text."
            )
        return said

    async def judge_all(
        self, records: Sequence[RunRecord], targets: Sequence[Any], places: list[int]
    ) -> list[Feedback]:
        """Ask about one example after the other."""
        tries = zip(records, targets, places, strict=True)
        return [await self._judged(*one) for one in tries]
