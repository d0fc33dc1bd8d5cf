"""`Loss`: what is said of an output; `VerifierLoss`: by a function of your own.

Rules for every loss:

1. One output or a batch: ``await loss(record, target)`` gives a `Feedback`, and
   ``await loss(records, targets)`` a `FeedbackBatch` in the order of the examples.
2. A run that failed scores `low`, with words that name the node; nobody is asked about
   it. What says nothing about the module is raised as it is: a budget that is gone, a
   journal that cannot be trusted, an alias that is bound to nothing, a cancelled run.
3. A loss that fails for one example leaves its ``error`` there, and no score. One that
   fails for all of them is a `LossError`.
4. A score is a finite number from `low` to `high`; more is better. Any other is a
   `LossError`, never bent to fit.

A subclass defines `judge`, for one example, or `judge_all`, for a batch. A `LossError`
that `judge` raises says that the loss itself is wrong and ends the call; every other
exception is the error of its example.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar, overload

from inf_engine.errors import ExecutionError, LossError, UsageError
from inf_engine.execution.batch import Result
from inf_engine.optimization.feedback import Feedback, FeedbackBatch
from inf_engine.optimization.outcomes import (
    NOT_THE_MODULE,
    as_batch,
    has_failed,
    is_run,
    record_of,
)
from inf_engine.record import RunRecord
from inf_engine.tasks import together


class Loss(ABC):
    """Says how good outputs are; see the top of this file for what all losses share.

    Args:
        low: The worst score.
        high: The best score.
        engine: Runs the models that the loss asks, if it asks any. None to set
            ``loss.engine`` later; a `Trainer` does.

    Attributes:
        kind: What kind of loss it is, for its feedback.
        low: The worst score, which a failed run gets.
        high: The best score.

    Raises:
        UsageError: If the scale is not two finite numbers, the lower one first.

    Example:
        >>> class Brevity(Loss):
        ...     async def judge(self, record, target):
        ...         words = len(record.output.split())
        ...         return Feedback(f"{words} words", 1 / max(words, 1))
    """

    kind: ClassVar[str] = "loss"

    def __init__(
        self, *, low: float = 0.0, high: float = 1.0, engine: Any = None
    ) -> None:
        ends = [_number(low), _number(high)]
        if None in ends or not -math.inf < low < high < math.inf:
            raise UsageError(
                f"the scale of a {type(self).__name__} must be two finite numbers, "
                f"low < high, not {low!r} and {high!r}."
            )
        self.low = float(low)
        self.high = float(high)
        self._engine = engine

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    @property
    def questions(self) -> int:
        """How many requests it makes for an example; a budget is planned with it."""
        return 0

    @property
    def is_relative(self) -> bool:
        """Whether a score says how an output stands among others of its batch."""
        return False

    @property
    def engine(self) -> Any:
        """What runs the models that it asks, None if that is not known yet."""
        return self._engine

    @engine.setter
    def engine(self, engine: Any) -> None:
        self._engine = engine

    @overload
    async def __call__(
        self, record: RunRecord | Result, target: Any = None
    ) -> Feedback: ...
    @overload
    async def __call__(
        self,
        record: Sequence[RunRecord | Result],
        target: Sequence[Any] | None = None,
    ) -> FeedbackBatch: ...
    async def __call__(self, record: Any, target: Any = None) -> Any:
        """Say how good one output is, or each of a batch.

        Args:
            record: A `RunRecord` or a `Result`, or a sequence of them. Feedback on a
                result without a record cannot flow back.
            target: What the output should be, None if that is not known; for a batch
                a sequence of them, None for none at all.

        Raises:
            LossError: If it failed for all examples, or gave what is no score.
            UsageError: If the arguments are no runs, or not one target for each.
            BudgetExceededError: If a budget does not allow to ask about all of them.
        """
        if is_run(record):
            items = await self.feedback([record], [target])
            self._check_any(items)
            return items[0]
        runs, targets = as_batch(record, target)
        items = await self.feedback(runs, targets)
        self._check_any(items)
        return FeedbackBatch(items)

    @abstractmethod
    async def judge(self, record: RunRecord, target: Any) -> Feedback:
        """Say how good one output is.

        Args:
            record: What happened in the run, which went well. Of a `Result` without a
                record it has inputs and output, and no nodes.
            target: What the output should be, None if that is not known.

        Raises:
            LossError: If the loss itself is wrong.
        """

    async def judge_all(
        self, records: Sequence[RunRecord], targets: Sequence[Any], places: list[int]
    ) -> list[Feedback]:
        """Say how good each of a batch is; by default `judge`, all at the same time.

        Args:
            records: What happened in the runs, all of which went well.
            targets: What the outputs should be.
            places: The place of each example in the batch, for messages.

        Returns:
            A feedback for each; its ``error`` is set where the loss failed.
        """
        tries = zip(records, targets, places, strict=True)
        return await together(self._judged(*one) for one in tries)

    async def feedback(
        self, runs: Sequence[RunRecord | Result], targets: Sequence[Any]
    ) -> list[Feedback]:
        """Return the feedback on a batch, even if the loss failed for all of it.

        Args:
            runs: The runs.
            targets: What the outputs should be, one for each.

        Raises:
            LossError: If the loss itself is wrong, or gave what is no score.
        """
        records = [record_of(run) for run in runs]
        well = [place for place, r in enumerate(records) if not has_failed(r)]
        said = await self.judge_all(
            [records[place] for place in well], [targets[place] for place in well], well
        )
        judged = dict(zip(well, said, strict=True))
        items = []
        for place, (run, target) in enumerate(zip(runs, targets, strict=True)):
            item = judged.get(place) or self.failed(records[place], target)
            kept = run if isinstance(run, RunRecord) else run.record
            self._check_score(item, place)
            items.append(replace(item, record=kept, target=target))
        return items

    def failed(self, record: RunRecord, target: Any) -> Feedback:
        """Return the feedback on a run that failed.

        Args:
            record: What happened in it.
            target: What its output should have been.
        """
        error = record.error
        words = str(error)
        if not isinstance(error, ExecutionError):
            at = ", ".join(repr(n.name) for n in record.nodes if n.outcome == "failed")
            words = (f"{at}: " if at else "") + f"{type(error).__name__}: {error}"
        said = f"The run failed and gave no output: {words}"
        return Feedback(said, self.low, self.kind)

    def lost(self, error: Exception) -> Feedback:
        """Return the feedback on an example for which the loss failed."""
        words = f"{self.name} failed for this example: {type(error).__name__}: {error}"
        return Feedback(words, None, self.kind, error=error)

    def scaled(self, value: float) -> float:
        """Return the score that is `value` of the way, 0.0 to 1.0, to the best."""
        score = self.low * (1.0 - value) + self.high * value
        return min(max(score, self.low), self.high)

    async def _judged(self, record: RunRecord, target: Any, place: int) -> Feedback:
        """Judge one example; what goes wrong with it is its own."""
        try:
            return await self.judge(record, target)
        except NOT_THE_MODULE:
            raise
        except LossError as exc:
            raise LossError(f"example {place}: {exc}") from exc
        except Exception as exc:  # noqa: BLE001 - the outcome of user code
            return self.lost(exc)

    def _check_score(self, item: Feedback, place: int) -> None:
        """Refuse a score that is none, or off the scale."""
        if item.score is None:
            return
        score = _number(item.score)
        if score is None or not self.low <= score <= self.high:
            raise LossError(
                f"example {place}: {self.name} gave the score {item.score!r}, which is "
                f"not a number from {self.low:g} to {self.high:g}. Return one, or give "
                "the loss the scale that it has: low=..., high=..."
            )

    def _check_any(self, items: Sequence[Feedback]) -> None:
        """Refuse a batch for all of which the loss failed."""
        errors = [item.error for item in items if item.error is not None]
        if not errors or len(errors) < len(items):
            return
        first, count = errors[0], len(errors)
        what = "the example" if count == 1 else f"all {count} examples; the first"
        raise LossError(
            f"{self.name} failed for {what}: {type(first).__name__}: {first} Correct "
            "the loss, or what it is given."
        ) from first


class VerifierLoss(Loss):
    """Asks a function how good an output is.

    Args:
        fn: Called with the output and the target of an example, or with the record and
            the target if its first parameter is named ``record`` or annotated
            `RunRecord`. It returns True or False, a score, or a pair of that and the
            words for it. It may be async; the calls of a batch then overlap. A plain
            one runs on the loop, so it should not take long.
        low: The worst score, that of False.
        high: The best score, that of True.

    Raises:
        UsageError: If `fn` cannot be called with two arguments.

    Example:
        >>> def exact(output, target):
        ...     return output == target, f"It should have been {target}."
        >>> VerifierLoss(exact)
        VerifierLoss(exact)
    """

    kind: ClassVar[str] = "verifier"

    def __init__(
        self, fn: Callable[..., Any], *, low: float = 0.0, high: float = 1.0
    ) -> None:
        super().__init__(low=low, high=high)
        self._fn = fn
        self._takes_record = takes_record(fn, "the verifier")

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"VerifierLoss({getattr(self._fn, '__name__', type(self._fn).__name__)})"

    async def judge(self, record: RunRecord, target: Any) -> Feedback:
        """Call the function.

        Raises:
            LossError: If it returned what is no score.
        """
        first = record if self._takes_record else record.output
        outcome = self._fn(first, target)
        if inspect.isawaitable(outcome):
            outcome = await outcome
        said = as_feedback(outcome, self)
        if said is None:
            raise LossError(
                f"{self.name} returned {_kind_of(outcome)}, which is no score. Return "
                "True or False, a number, or a pair of that and a text."
            )
        return said

    def __repr__(self) -> str:
        return self.name


def lend_engine(part: Any, engine: Any) -> None:
    """Give a loss or an optimizer that has no engine, or a closed one, this one.

    Args:
        part: The loss or optimizer; one that asks no model may have no `engine`.
        engine: The engine.
    """
    held = getattr(part, "engine", engine)
    if held is None or getattr(held, "closed", False):
        part.engine = engine


def takes_record(fn: Any, what: str) -> bool:
    """Say whether a function of two arguments wants the record as its first.

    Args:
        fn: The function.
        what: What it is, for messages.

    Raises:
        UsageError: If it cannot be called with two arguments.
    """
    if not callable(fn):
        raise UsageError(f"{what} must be a function, not {type(fn).__name__}.")
    try:
        signature = inspect.signature(fn)
    except ValueError:  # written in C, without a signature
        return False
    try:
        signature.bind(None, None)
    except TypeError as exc:
        raise UsageError(
            f"{what} is called with two arguments, the output (or the record) and the "
            f"target, and takes {signature}. Write def check(output, target)."
        ) from exc
    first = next(iter(signature.parameters.values()))
    return first.name == "record" or first.annotation in (RunRecord, "RunRecord")


def as_feedback(outcome: Any, loss: Loss) -> Feedback | None:
    """Return the feedback that a function's score stands for, None if it is none.

    Args:
        outcome: True or False, a number, or a pair of that and words.
        loss: Whose scale it is on.
    """
    words = ""
    if isinstance(outcome, tuple) and len(outcome) == 2 and isinstance(outcome[1], str):
        outcome, words = outcome
    outcome = _unboxed(outcome)
    if isinstance(outcome, bool):
        said = "The output is right." if outcome else "The output is wrong."
        return Feedback(words or said, loss.high if outcome else loss.low, loss.kind)
    if not isinstance(outcome, Real):
        return None
    score = float(outcome)
    of = f"Score {score:g} on a scale from {loss.low:g} to {loss.high:g}."
    return Feedback(words or of, score, loss.kind)


def _unboxed(value: Any) -> Any:
    """Return the Python value of a number of NumPy's or of a framework's."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        return item()
    return value


def _number(value: Any) -> float | None:
    """Return a finite number, None if it is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value) if math.isfinite(value) else None


def _kind_of(outcome: Any) -> str:
    """Return the type of a value in words, of a tuple that of its items."""
    if outcome is None:
        return "None (is a return missing?)"
    if isinstance(outcome, tuple):
        return f"a tuple of ({', '.join(type(item).__name__ for item in outcome)})"
    return f"a {type(outcome).__name__}"
