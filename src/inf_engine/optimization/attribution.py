"""`attribute`: which prompt, or which call, is to blame for a score: measured.

Feedback says where it flowed; it does not say what would have helped. A counterfactual
replay does: the recorded inputs run again with one thing changed, a parameter or the
output of a call, and the loss judges what comes out. All that the change does not
reach is taken from the record (`execution.replay`): no request leaves for it.

Before anything is paid for, each record is replayed as it was. If that would ask a
model or call a function, forward does not repeat itself (it draws a random number, or a
parameter was changed since), and a difference would say nothing: that is refused.
"""

import asyncio
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from inf_engine.errors import TrainingError, UsageError, known_names
from inf_engine.execution.books import record_of
from inf_engine.execution.replay import CALLS, Replay
from inf_engine.optimization.feedback import Feedback, FeedbackBatch
from inf_engine.optimization.intervals import Interval, paired_interval
from inf_engine.optimization.loss import lend_engine
from inf_engine.optimization.outcomes import raise_unless_its_own
from inf_engine.optimization.runner import is_outage, scale_of
from inf_engine.record import RunRecord, cost_of
from inf_engine.tasks import together
from inf_engine.types import Usage

_MOST_AT_ONCE = 64
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Attribution:
    """What one change is worth.

    Args:
        name: What was changed: a parameter, or a call or its path.
        value: What it was changed to.
        gain: The mean of score after less score before, on the scale of the loss, with
            its interval; over the examples that have both.
        before: The score of each example as it was, None without one.
        after: Its score with the change. Where the change reached nothing it is that
            of before.
        feedback: What the loss says of each run with the change; its records can be
            changed in turn.
        anew: For each example the calls that ran anew, by their names.
        usage: The tokens of these calls; what the loss asked is not in it.
        requests: How many requests left for them.
        cost: What they cost in USD, None if a price is not known.
    """

    name: str
    value: Any
    gain: Interval
    before: tuple[float | None, ...] = field(repr=False)
    after: tuple[float | None, ...] = field(repr=False)
    feedback: FeedbackBatch = field(repr=False)
    anew: tuple[tuple[str, ...], ...] = field(repr=False)
    usage: Usage = field(repr=False)
    requests: int
    cost: float | None


@dataclass(frozen=True, slots=True)
class _Change:
    """One thing that is changed; `module` has it if it is a parameter."""

    name: str
    value: Any
    module: Any
    is_output: bool = False

    def outputs(self, told: Feedback) -> Mapping[str, Any]:
        """Return what calls are to give in the run of an example."""
        if not self.is_output:
            return _NONE
        value = self.value
        if callable(value):
            value = value(told.record, told.target)
        return {self.name: value}

    def reaches(self, record: RunRecord) -> bool:
        """Say whether there is anything to change in a run."""
        return not self.is_output or self.name in _names(record)


@dataclass(frozen=True, slots=True)
class _Rerun:
    """The run of one example with a change."""

    record: RunRecord
    anew: tuple[str, ...] = ()
    is_new: bool = True


async def attribute(
    module: Any,
    feedback: Feedback | Sequence[Feedback],
    loss: Any,
    *,
    engine: Any = None,
    outputs: Mapping[str, Any] = _NONE,
    parameters: Mapping[str, Any] = _NONE,
) -> list[Attribution]:
    """Measure what changes are worth, each of them by itself.

    Args:
        module: The module that the records are of, as it was then; it is not changed.
        feedback: What the loss said of runs, with their records.
        loss: The same loss; it judges the runs with a change.
        engine: Runs what has to run; None for the engine that the module is bound to.
        outputs: What a call is to give instead, by its name in the record
            (``"extract#2"``) or by the path of all its calls (``"extract"``): a value
            for all examples, or a function of record and target.
        parameters: Other values of parameters, by dotted name: a text, or a list of
            values that are tried one after the other.

    Returns:
        An attribution for each change, the greatest gain first.

    Raises:
        UsageError: If there is nothing to change, a name or a value is wrong, or the
            records cannot be replayed with this module.
        TrainingError: If feedback has no record or no score, or no endpoint answered.
        LossError: If the loss itself is wrong.
        BudgetExceededError: If a budget does not allow all of it.

    Example::

        feedback = await loss([result.record for result in results], targets)
        for found in await attribute(
            module, feedback, loss, parameters={"extract.system_prompt": "Name dates."}
        ):
            print(found.name, found.gain, found.requests)
    """
    engine = module._engine if engine is None else engine
    if engine is None:
        raise UsageError(
            f"attribute has no engine to run {type(module).__name__} with: pass "
            "engine=engine, or bind the module with module.bind(engine)."
        )
    lend_engine(loss, engine)
    items = [feedback] if isinstance(feedback, Feedback) else list(feedback)
    _check_feedback(items)
    changes = [
        *_of_outputs(module, items, outputs),
        *_of_parameters(module, parameters),
    ]
    if not changes:
        raise UsageError(
            "attribute has nothing to change: give parameters={name: text} or "
            "outputs={node: value}."
        )
    work = _Work(engine, loss)
    await together(work.check(module, item.record) for item in items)
    found = await together(work.measure(change, items) for change in changes)
    return sorted(found, key=lambda one: -one.gain.mean)


class _Work:
    """Replays and judges for one call of `attribute`."""

    def __init__(self, engine: Any, loss: Any) -> None:
        self._engine = engine
        self._loss = loss
        self._some = asyncio.Semaphore(_MOST_AT_ONCE)

    async def check(self, module: Any, record: Any) -> None:
        """Refuse a record that this module does not repeat."""
        replay = Replay(record, strict=True)
        await self._replayed(module, record, replay)
        if replay.anew:
            raise UsageError(
                f"{type(module).__name__} does not repeat its record: {replay.anew[0]} "
                "was given something else then. Give the module as it was (with "
                "load_state_dict), with a forward that depends on its inputs only."
            )

    async def measure(self, change: _Change, items: Sequence[Feedback]) -> Attribution:
        """Run all examples with a change, and judge them."""
        runs = await together(self._rerun(change, item) for item in items)
        told = await self._judged(runs, items)
        before = tuple([item.score for item in items])
        after = tuple([item.score for item in told])
        calls = [c for r in runs if r.is_new for n in r.record.nodes for c in n.calls]
        calls = [call for call in calls if call.reused != "record"]
        paid = [call.paid for call in calls]
        return Attribution(
            change.name,
            change.value,
            _gain(before, after, self._loss),
            before,
            after,
            FeedbackBatch(told),
            tuple([run.anew for run in runs]),
            Usage.total([answer.usage for answer in paid if answer is not None]),
            sum(call.reused is None for call in calls),
            cost_of(calls),
        )

    async def _rerun(self, change: _Change, item: Feedback) -> _Rerun:
        """Run an example with a change, if that reaches it."""
        record: Any = item.record
        if not change.reaches(record):
            return _Rerun(record, is_new=False)
        replay = Replay(record, change.outputs(item))
        made = await self._replayed(change.module, record, replay)
        raise_unless_its_own(made.error)
        return _Rerun(made, replay.anew)

    async def _replayed(
        self, module: Any, record: RunRecord, replay: Replay
    ) -> RunRecord:
        """Return what happens in a run that a record answers."""
        engine, options = self._engine, {"keep": True, "replay": replay}
        async with self._some:
            run = await engine._outcome(module, record.args, record.kwargs, **options)
        return record_of(run)

    async def _judged(
        self, runs: Sequence[_Rerun], items: Sequence[Feedback]
    ) -> list[Feedback]:
        """Return what is said of each run; of one that did not change, as before."""
        told = list(items)
        new = [place for place, run in enumerate(runs) if run.is_new]
        errors = {place: runs[place].record.error for place in new}
        lost = {p: e for p, e in errors.items() if e is not None and is_outage(e)}
        if lost and len(lost) == len(new):
            first = next(iter(lost.values()))
            raise TrainingError(
                f"not one of {len(new)} runs got an answer; the first one: {first} See "
                "to the endpoint."
            ) from first
        for place, error in lost.items():
            told[place] = _unjudged(runs[place].record, items[place], error)
        asked = [place for place in new if place not in lost]
        records = [runs[place].record for place in asked]
        targets = [items[place].target for place in asked]
        judge = getattr(self._loss, "feedback", self._loss)  # also if all of it failed
        said = list(await judge(records, targets)) if asked else []
        for place, one in zip(asked, said, strict=True):
            told[place] = replace(
                one, record=runs[place].record, target=items[place].target
            )
        return told


def _check_feedback(items: Sequence[Feedback]) -> None:
    """Refuse feedback that nothing can be measured with."""
    if not items:
        raise UsageError("attribute was given no feedback: give what a loss said.")
    for place, item in enumerate(items):
        if item.record is None:
            raise TrainingError(
                f"feedback {place} has no record to replay. Give the loss records: "
                "engine.map(module, ..., record=True), then r.record."
            )
    if all(item.score is None for item in items):
        raise TrainingError(
            "no feedback has a score, so no difference can be measured. Use a loss "
            "that gives scores."
        )


def _of_outputs(
    module: Any, items: Sequence[Feedback], outputs: Mapping[str, Any]
) -> list[_Change]:
    """Return the changes of outputs, each of a call that is in a record."""
    known = {name: None for item in items for name in _names(item.record)}
    for name in outputs:
        if name not in known:
            raise UsageError(
                f"outputs: no record has a call {name!r}; {known_names(name, known)}."
            )
    return [_Change(name, value, module, True) for name, value in outputs.items()]


def _names(record: Any) -> list[str]:
    """Return the names and paths of the calls of a run."""
    calls = [node.node for node in record.nodes if node.node.kind in CALLS]
    return [name for node in calls for name in (node.name, node.path)]


def _of_parameters(module: Any, parameters: Mapping[str, Any]) -> list[_Change]:
    """Return the changes of parameters, each in a copy of the module."""
    state = module.state_dict()
    changes = []
    for name, given in parameters.items():
        if name not in state:
            raise UsageError(
                f"parameters: {type(module).__name__} has no {name!r}; "
                f"{known_names(name, state)}."
            )
        is_list = isinstance(given, (list, tuple))
        for value in given if is_list else [given]:
            changed = copy.deepcopy(module)
            changed.load_state_dict({**state, name: value})
            changes.append(_Change(name, value, changed))
    return changes


def _gain(
    before: Sequence[float | None], after: Sequence[float | None], loss: Any
) -> Interval:
    """Return the mean difference of pairs of scores with its interval."""
    low, high = scale_of(loss)
    pairs = zip(before, after, strict=True)
    width = high - low
    found = paired_interval(
        [(b - a) / width for a, b in pairs if a is not None and b is not None]
    )
    ends = [width * end for end in (found.mean, found.low, found.high)]
    return Interval(*ends, found.n, found.confidence)


def _unjudged(record: RunRecord, item: Feedback, error: Any) -> Feedback:
    """Return the feedback on a run that an endpoint did not answer."""
    return Feedback("", None, item.kind, record=record, target=item.target, error=error)
