"""What becomes of what the forwards of one run returned or raised."""

from collections.abc import Callable
from functools import partial
from typing import Any

from inf_engine.errors import TracingError
from inf_engine.execution.forwards import Step
from inf_engine.graph import GraphNode
from inf_engine.tracing.explain import explained
from inf_engine.tracing.fill import filled
from inf_engine.tracing.tracer import Frame

Told = Callable[[BaseException], None]


def forward_ended(
    run: Any, frame: Frame, output: Any, error: BaseException | None
) -> None:
    """Take over what a forward returned, or raised.

    Args:
        run: The `Run` that it belongs to.
        frame: The forward.
        output: What it returned.
        error: What it raised instead, None if it returned.
    """
    branch = frame.branch
    captured: Any = None
    deps: tuple[GraphNode, ...] = ()
    if error is None:
        try:
            captured, deps = run.tracer.capture(output, "the output")
            if run.is_traced():
                run.tracer.holes.check_all_read()
        except Exception as exc:  # noqa: BLE001 - it is told to the caller
            error = exc
    if error is not None:
        failed = run.stop_with if branch is None else partial(run.fail, branch)
        _fill(run, explained(error), failed)
    elif branch is not None:
        branch.inner = deps
        _when_all_ended(run, deps, partial(_complete, run, branch, captured))
    else:
        run.returned(captured, deps)


def _complete(run: Any, branch: GraphNode, captured: Any) -> None:
    """Give a branch the value that its forward returned."""
    try:
        value = filled(captured, run.value_of)
    except BaseException as exc:  # noqa: BLE001 - of a node, or of a format spec
        run.fail(branch, exc)
    else:
        run.complete(branch, value)


def _fill(run: Any, error: BaseException, then: Told) -> None:
    """Fill the holes in an exception, once their values are known."""
    try:
        waiting, deps = run.tracer.capture_error(error)
    except TracingError as exc:
        then(exc.with_traceback(error.__traceback__))
        return

    def fill() -> None:
        try:
            for told, args in waiting:
                told.args = filled(args, run.value_of)
        except BaseException as exc:  # noqa: BLE001 - of a node, or of a format
            then(exc)
        else:
            then(error)

    if waiting:
        _when_all_ended(run, deps, fill)
    else:
        then(error)


def _when_all_ended(run: Any, nodes: tuple[GraphNode, ...], then: Step) -> None:
    """Make a step once all nodes have ended."""
    left = len(nodes)
    if not left:
        run.later(then)

    def one_less() -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    for node in nodes:
        run.when_ended(node, one_less)
