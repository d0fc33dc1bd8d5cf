"""`Runner`: runs a module on examples, and a loss judges what came out.

=========================  =======================================================
a run failed               score 0; the feedback says which node
the loss failed            no score; the example is left out wherever scores count
the budget is gone         `BudgetExceededError`; no score of the call is kept
the program is wrong       that error, from the start's runs: nothing else can help
nothing works              `TrainingError`: the endpoint, or the loss, is dead
=========================  =======================================================

Scores of rollouts are from 0 to 1, whatever the scale of the loss; the feedback has the
score as the loss gave it.
"""

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from inf_engine.errors import (
    BudgetExceededError,
    ConfigurationError,
    EndpointError,
    EngineStateError,
    JournalError,
    LossError,
    RequestRefusedError,
    TrainingError,
    UsageError,
)
from inf_engine.optimization.data import examples_of
from inf_engine.optimization.examples import ExampleCall, ExampleReader
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.human import Answers, answers
from inf_engine.optimization.search import Rollout
from inf_engine.record import RunRecord
from inf_engine.tasks import together

_MOST_AT_ONCE = 64
_MOST_LOST = 16  # examples in a row, of a loss that has worked before
_ALWAYS_FATAL = (ConfigurationError, JournalError, EngineStateError)


class Runner:
    """Runs a module on examples and lets a loss judge what came out.

    Args:
        module: The module that is run, or copied to be run.
        loss: The loss: ``await loss(records, targets)``.
        engine: Runs it.
        target: The field of an example that is its target; empty for all of it.

    Attributes:
        questions: How many requests the loss makes for a rollout.
    """

    def __init__(
        self, module: Any, loss: Any, engine: Any, *, target: str = ""
    ) -> None:
        self.module = module
        self.loss = loss
        self.engine = engine
        self._reader = ExampleReader(_signature(module), target=target)
        self._low, self._high = scale_of(loss)
        self._failures = 0  # since the last score
        self._worked = False
        self.questions: int = getattr(loss, "questions", 0)

    def read(self, data: Any) -> list[ExampleCall]:
        """Return examples as calls, all of them checked.

        Raises:
            UsageError: If the data, or an example, does not fit.
        """
        examples = examples_of(data)
        calls = [self._reader.read(examples[k], k) for k in range(len(examples))]
        return calls

    async def rollouts(
        self,
        module: Any,
        calls: Sequence[ExampleCall],
        places: Sequence[int],
        *,
        strict: bool = False,
        recall: Callable[[int, str], Feedback | None] | None = None,
        keep: Callable[[int, str, Feedback], None] | None = None,
    ) -> list[Rollout]:
        """Run examples and judge them.

        Args:
            module: What to run.
            calls: The examples.
            places: Their places, for the rollouts.
            recall: Gives what a person said, by place and name of the loss.
            keep: Takes it down.
            strict: Whether an error of the calling program ends it, instead of being
                a failed run.

        Raises:
            BudgetExceededError: If the budget was gone before all were done.
            TrainingError: If no run reached an endpoint, or the loss failed.
            UsageError: If the program is wrong.
        """
        records = await self._records(module, calls)
        self._check_runs(records, strict=strict)
        if recall is not None and keep is not None:
            where = dict(zip(map(id, records), places, strict=True))
            answers.set(Answers(where, recall, keep))
        told = await self._judged(records, [call.target for call in calls])
        made = zip(places, records, told, strict=True)
        return [self._rollout(place, record, said) for place, record, said in made]

    async def _records(
        self, module: Any, calls: Sequence[ExampleCall]
    ) -> list[RunRecord]:
        """Return what happened in the run of each example."""
        widths = {len(call.args) for call in calls}
        if widths == {0} or len(widths) > 1 or any(call.kwargs for call in calls):
            return await self._one_by_one(module, calls)
        columns = zip(*[call.args for call in calls], strict=True)
        results = await self.engine.map(module, *columns, record=True, errors="collect")
        for result in results:
            if result.error is not None and not isinstance(result.error, Exception):
                raise result.error
        return [result.record for result in results]

    async def _one_by_one(
        self, module: Any, calls: Sequence[ExampleCall]
    ) -> list[RunRecord]:
        """Run examples that `Engine.map` cannot take: those with keywords."""
        some = asyncio.Semaphore(_MOST_AT_ONCE)

        async def run(call: ExampleCall) -> RunRecord:
            async with some:
                try:
                    return await self.engine.record(module, *call.args, **call.kwargs)
                except Exception as exc:
                    record = getattr(exc, "record", None)
                    if record is None:
                        raise
                    return record

        return await together(run(call) for call in calls)

    def _check_runs(self, records: Sequence[RunRecord], *, strict: bool) -> None:
        """Raise what is no fault of the candidate."""
        errors = [r.error for r in records if r.error is not None]
        fatal = (*_ALWAYS_FATAL, UsageError) if strict else _ALWAYS_FATAL
        for error in errors:
            if isinstance(error, BudgetExceededError):
                raise BudgetExceededError(str(error)) from error
            if isinstance(error, fatal):
                raise error
        dead = [e for e in errors if is_outage(e)]
        if dead and len(dead) == len(records):
            raise TrainingError(
                f"not one of {len(records)} runs got an answer; the first one: "
                f"{dead[0]} Nothing was changed. See to the endpoint, and train again."
            ) from dead[0]

    async def _judged(
        self, records: Sequence[RunRecord], targets: Sequence[Any]
    ) -> list[Feedback]:
        """Return what the loss says of each run."""
        if not records:
            return []
        judge = getattr(self.loss, "feedback", self.loss)  # also if all of it failed
        told = list(await judge(list(records), list(targets)))
        if len(told) != len(records):
            raise LossError(
                f"{type(self.loss).__name__} gave {len(told)} feedbacks for "
                f"{len(records)} records. A loss over a batch gives one for each."
            )
        for feedback in told:
            if is_over_budget(feedback.error):
                raise BudgetExceededError(str(feedback.error)) from feedback.error
        return told

    def check_loss(self, made: Sequence[Rollout]) -> None:
        """Raise if the loss fails wherever it is asked: no score any more, only errors.

        Args:
            made: The rollouts since the last time.

        Raises:
            LossError: If there was never a score, and more than one error; or if there
                was, and then only errors for a while.
        """
        errors = [r.feedback.error for r in made if r.feedback.error is not None]
        well = [r for r in made if r.record is None or r.record.error is None]
        if any(r.score is not None for r in well):
            self._worked, self._failures = True, 0
            return
        self._failures += len(errors)
        most, where = (_MOST_LOST, "last") if self._worked else (2, "first")
        if errors and self._failures >= most:
            raise LossError(
                f"the loss failed for all of the {where} {self._failures} examples, "
                f"the last time with {type(errors[-1]).__name__}: {errors[-1]}"
            ) from errors[-1]

    def _rollout(self, place: int, record: RunRecord, told: Feedback) -> Rollout:
        if told.record is None:
            told = replace(told, record=record)
        if record.error is not None:
            words = told.content or _failure(record)
            told = replace(told, content=words, score=self._low, error=None)
            return Rollout(place, 0.0, told, record)
        score = told.score
        if told.error is None and score is not None and not self._fits(score):
            told = replace(
                told,
                score=None,
                error=LossError(
                    f"{type(self.loss).__name__} gave the score {score!r} for example "
                    f"{place}, which is not from {self._low:g} to {self._high:g}. Set "
                    "low and high of the loss."
                ),
            )
        if told.error is not None or told.score is None:
            return Rollout(place, None, told, record)
        share = (float(told.score) - self._low) / (self._high - self._low)
        return Rollout(place, min(1.0, max(0.0, share)), told, record)

    def _fits(self, score: Any) -> bool:
        is_number = isinstance(score, (int, float)) and math.isfinite(score)
        return is_number and self._low <= score <= self._high


def _signature(module: Any) -> inspect.Signature:
    """Return what forward takes; annotations are types, also those written late."""
    try:
        return inspect.signature(module.forward, eval_str=True)
    except Exception:  # noqa: BLE001 - a name that only type checkers know
        return inspect.signature(module.forward)


def scale_of(loss: Any) -> tuple[float, float]:
    """Return the lowest and the highest score of a loss.

    Raises:
        UsageError: If it is no scale, or no loss.
    """
    if not callable(loss):
        raise UsageError(
            f"the loss is a {type(loss).__name__}: give a loss, such as "
            "VerifierLoss(function)."
        )
    low, high = getattr(loss, "low", 0.0), getattr(loss, "high", 1.0)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"the scale of {type(loss).__name__} is from {low} to {high}: low must be "
            "below high, and both finite."
        )
    return float(low), float(high)


def is_outage(error: BaseException) -> bool:
    """Say whether an endpoint did not answer, not because of what it was asked.

    Args:
        error: Why a run failed.
    """
    return isinstance(error, EndpointError) and not isinstance(
        error, RequestRefusedError
    )


def is_over_budget(error: BaseException | None) -> bool:
    """Say whether an error, or what it came from, is a budget that is gone.

    Args:
        error: The error, None for none.
    """
    while error is not None:
        if isinstance(error, BudgetExceededError):
            return True
        error = error.__cause__
    return False


def _failure(record: RunRecord) -> str:
    """Return in words that a run failed."""
    node = getattr(record.error, "node", "")
    where = f" in {node}" if node else ""
    return f"The run failed{where}: {type(record.error).__name__}."
