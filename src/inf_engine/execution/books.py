"""From the books of a run to its `RunRecord`, and to the error that it raises."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from inf_engine.errors import DeadlineError, ExecutionError
from inf_engine.execution.state import ExecutionState, NodeState
from inf_engine.execution.work import Entry, Work
from inf_engine.graph import GraphNode
from inf_engine.record import (
    NodeRecord,
    Outcome,
    RunRecord,
    prompt_segments,
    system_segments,
)
from inf_engine.tracing.fill import inputs_of

_OUTCOMES: dict[NodeState, Outcome] = {
    NodeState.DONE: "done",
    NodeState.FAILED: "failed",
}
_NOT_ASKED: tuple[Outcome, ...] = ("cancelled", "waiting")
_UNTIL_NOW: dict[NodeState, Outcome] = {
    **_OUTCOMES,
    NodeState.PENDING: "waiting",
    NodeState.READY: "waiting",
    NodeState.RUNNING: "running",
}


def failure_of(run: Any, node: GraphNode) -> BaseException:
    """Return what a run raises when a node has failed.

    Args:
        run: The `Run`.
        node: A node of it that failed.
    """
    cause = run.state.errors[node.index]
    if isinstance(cause, ExecutionError) or node.kind == "branch":
        return cause  # what a forward itself raised leaves the run as it is
    entry = run.work.entries.get(node.index)
    alias = f" (alias {node.alias!r})" if node.alias else ""
    error = ExecutionError.of(cause)(
        f"{node}{alias} failed: {type(cause).__name__}: {cause}",
        node=node.name,
        alias=node.alias,
        attempt=entry.attempts if entry else 0,
        cause=cause,
    )
    error.__cause__ = cause
    return error


def dropped(node: GraphNode) -> ExecutionError:
    """Return what a node ends with when the wait for it was cancelled."""
    return ExecutionError(
        f"{node} was cancelled, because what waited for it timed out or was cancelled. "
        "Call it again instead of using the same output again.",
        node=node.name,
        alias=node.alias,
    )


def late(run: Any, limit: float) -> DeadlineError:
    """Return what a run raises when its timeout of `limit` seconds is over."""
    state = run.state
    pairs = zip(state.nodes, state.states, strict=True)
    running = [node.name for node, where in pairs if where is NodeState.RUNNING]
    return DeadlineError(
        f"the run took longer than its timeout of {limit} s; still open: "
        f"{', '.join(running[:5]) or 'forward itself'}. Give it more with "
        "engine.using(timeout=...)."
    )


def keep_record(run: Any, error: BaseException) -> None:
    """Give an error that ends a run the record of what had happened until then."""
    if isinstance(error, Exception) and getattr(error, "record", None) is None:
        with suppress(AttributeError):  # an exception with slots
            setattr(error, "record", replace(record_of(run), error=error))  # noqa: B010


def record_of(run: Any) -> RunRecord:
    """Return what has happened in a run until now."""
    work, state = run.work, run.state
    goes_on = run.error is None and not run.finished
    outcomes = _UNTIL_NOW if goes_on else _OUTCOMES
    nodes = tuple([_node_record(work, state, node, outcomes) for node in state.nodes])
    return RunRecord(
        module=type(run.program.module).__name__,
        args=run.args,
        kwargs=run.kwargs,
        output=run.output,
        error=run.error,
        graph=run.tracer.graph,
        nodes=nodes,
        usage=work.usage,
        seconds=work.now() - work.began,
    )


def _node_record(
    work: Work,
    state: ExecutionState,
    node: GraphNode,
    outcomes: dict[NodeState, Outcome],
) -> NodeRecord:
    entry = work.entries.get(node.index, Entry())
    outcome = outcomes.get(state.states[node.index], "cancelled")
    value_of = lambda dep: state.values[dep.index]  # noqa: E731
    inputs = _inputs(node, value_of) if outcome not in _NOT_ASKED else None
    args, kwargs = inputs or ((), {})
    is_call = node.kind == "llm"
    ended = work.now() if entry.ended is None else entry.ended
    return NodeRecord(
        node=node,
        outcome=outcome,
        args=args,
        kwargs=kwargs,
        output=state.values[node.index],
        error=state.errors.get(node.index),
        calls=entry.calls,
        ready=_since(work, entry.ready),
        started=_since(work, entry.started),
        seconds=0.0 if entry.started is None else ended - entry.started,
        usage=entry.usage,
        system=system_segments(node) if is_call else (),
        prompt=prompt_segments(node, inputs, value_of) if is_call and inputs else (),
        ended=None if entry.ready is None else ended - work.began,
    )


def _inputs(node: GraphNode, value_of: Callable[[Any], Any]) -> Any:
    """Return the inputs of a node; None if they were not all known, or do not fill."""
    if node.kind in ("branch", "first"):
        return None
    try:
        return inputs_of(node, value_of)
    except Exception:  # noqa: BLE001 - a format spec that fails: why the node failed
        return None


def _since(work: Work, at: float | None) -> float | None:
    return None if at is None else at - work.began
