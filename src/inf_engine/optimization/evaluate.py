"""`evaluate`: how good is a module? A mean with its interval, and a table."""

from dataclasses import dataclass
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.optimization.intervals import Interval, mean_interval
from inf_engine.optimization.loss import lend_engine
from inf_engine.optimization.runner import Runner, scale_of
from inf_engine.optimization.search import Rollout
from inf_engine.record import cost_of
from inf_engine.types import Usage

_MOST_ROWS = 20
_WIDTH = 48


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One example.

    Args:
        place: Its place in the data, from 0.
        score: Its score on the loss's scale, None if the loss failed.
        output: What the module gave, None if the run failed.
        feedback: What the loss said.
        error: Why the run failed, or why the loss did; None if neither did.
    """

    place: int
    score: float | None
    output: Any
    feedback: str
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a module is; prints as a table.

    Args:
        score: The mean score with its interval, on the loss's scale. Runs that failed
            count with the lowest score; examples for which the loss failed are left
            out.
        rows: Each example, in order.
        usage: Requests and tokens of the runs; the judge's are not in it.
        cost: What the runs cost in USD, None where a price is not known.
    """

    score: Interval
    rows: tuple[EvaluationRow, ...]
    usage: Usage
    cost: float | None

    @property
    def failures(self) -> tuple[EvaluationRow, ...]:
        """The examples where the run or the loss failed."""
        return tuple([row for row in self.rows if row.error is not None])

    def __str__(self) -> str:
        head = f"score {self.score}"
        if self.failures:
            head += f"; {len(self.failures)} of {len(self.rows)} failed"
        cells = [("", "score", "output", "feedback")]
        cells += [_cells(row) for row in self.rows[:_MOST_ROWS]]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [head]
        for place, score, output, said in cells:
            left = f"{place.rjust(widths[0])}  {score.rjust(widths[1])}"
            lines.append(f"{left}  {output.ljust(widths[2])}  {said}".rstrip())
        more = len(self.rows) - _MOST_ROWS
        return "\n".join([*lines, *([f"... and {more:,} more"] if more > 0 else [])])


async def evaluate(
    module: Any, data: Any, loss: Any, *, engine: Any = None, target: str = ""
) -> Evaluation:
    """Run a module on examples and let a loss judge what came out.

    Args:
        module: The module; it is not changed.
        data: The examples, as for `DataLoader`.
        loss: The loss. If it asks models and has no engine, it gets this one.
        engine: Runs both; None for the engine that the module is bound to.
        target: The field of an example that is its target; empty for the whole
            example.

    Returns:
        The mean score with its interval, and each example.

    Raises:
        UsageError: If there is no engine, or an example does not fit.
        TrainingError: If no run reached an endpoint.
        LossError: If the loss failed for all examples.
        BudgetExceededError: If a budget does not allow all of it.
    """
    engine = module._engine if engine is None else engine
    if engine is None:
        raise UsageError(
            f"evaluate has no engine to run {type(module).__name__} with: pass "
            "engine=engine, or bind the module with module.bind(engine)."
        )
    lend_engine(loss, engine)
    runner = Runner(module, loss, engine, target=target)
    calls = runner.read(data)
    found = await runner.rollouts(module, calls, range(len(calls)), strict=True)
    runner.check_loss(found)
    records = [rollout.record for rollout in found if rollout.record is not None]
    each = [call for r in records for node in r.nodes for call in node.calls]
    scores = [rollout.score for rollout in found if rollout.score is not None]
    return Evaluation(
        scaled(mean_interval(scores), loss),
        tuple([_row(rollout) for rollout in found]),
        Usage.total(record.usage for record in records),
        cost_of(each),
    )


def scaled(interval: Interval, loss: Any) -> Interval:
    """Return an interval of scores from 0 to 1 on the scale of a loss.

    Args:
        interval: The interval.
        loss: Whose scale it is.
    """
    low, high = scale_of(loss)
    ends = (interval.mean, interval.low, interval.high)
    mean, least, most = (low + (high - low) * end for end in ends)
    return Interval(mean, least, most, interval.n, interval.confidence)


def _row(rollout: Rollout) -> EvaluationRow:
    told, record = rollout.feedback, rollout.record
    error = None if record is None else record.error
    output = None if record is None else record.output
    score = None if rollout.score is None else told.score
    return EvaluationRow(
        rollout.place, score, output, told.content, error or told.error
    )


def _cells(row: EvaluationRow) -> tuple[str, str, str, str]:
    score = "-" if row.score is None else f"{row.score:.3g}"
    output = type(row.error).__name__ if row.error is not None else str(row.output)
    return str(row.place), score, _short(output), _short(row.feedback)


def _short(text: str) -> str:
    """Return a text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
