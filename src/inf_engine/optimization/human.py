"""`HumanLoss`: a person says how good an output is, through a callback."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from inf_engine.errors import LossError
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.loss import Loss, as_feedback, takes_record
from inf_engine.record import RunRecord


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
        """Call the callback.

        Raises:
            LossError: If it returned none of what it may.
        """
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
