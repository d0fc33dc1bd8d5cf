"""`Choice`: how a `first` node ends — with the first good candidate."""

from typing import Any

from inf_engine.errors import ExecutionError, ModuleError
from inf_engine.execution.state import NodeState
from inf_engine.graph import GraphNode, nodes_in
from inf_engine.tracing.fill import filled


class Choice:
    """Watches the candidates of one `first` node.

    Args:
        run: The run that the node belongs to.
        node: The node; its target says whether a value is good.
    """

    def __init__(self, run: Any, node: GraphNode) -> None:
        self._run = run
        self._node = node

    def watch(self) -> None:
        """Look now, and again each time a candidate has ended."""
        run, node = self._run, self._node
        run.state.add(node, ())
        run.failures.choices.append(node)
        run.state.start(node.index)
        run.later(self._look)
        for dep in node.deps:
            run.when_ended(dep, self._look)

    def _look(self) -> None:
        run, node = self._run, self._node
        if run.state.is_final(node.index):
            return
        last: BaseException | None = None
        for candidate in node.args:
            try:
                if not self._is_known(candidate):
                    continue
                value = filled(candidate, run.value_of)
                good = node.target(value)
            except Exception as exc:  # noqa: BLE001 - the outcome of user code
                last = exc
                continue
            if good:
                run.complete(node, value)
                self._drop_losers()
                return
        if all(run.state.is_final(dep.index) for dep in node.deps):
            run.fail(node, last or self._nobody())

    def _is_known(self, candidate: Any) -> bool:
        """Say whether a candidate has its value; raise if it failed."""
        used = nodes_in(candidate)
        failed = [n for n in used if n.index in self._run.state.errors]
        if failed:
            raise self._run.state.errors[failed[0].index]
        return all(self._run.state.is_final(n.index) for n in used)

    def _drop_losers(self) -> None:
        """Cancel the candidates without a value; what they failed with is settled."""
        states = self._run.state.states
        for loser in self._node.deps:
            if states[loser.index] is not NodeState.DONE:
                self._run.failures.caught(loser)
                self._run.abandon(loser, self._lost(loser))

    def _lost(self, loser: GraphNode) -> ExecutionError:
        return ExecutionError(
            f"{loser} was cancelled, because {self._node} had a good candidate "
            "already. Use what first() gives, or keep this call out of first().",
            node=loser.name,
            alias=loser.alias,
        )

    def _nobody(self) -> ModuleError:
        return ModuleError(
            f"none of the {len(self._node.args)} candidates of {self._node} was good. "
            "Relax the check, or add a candidate that always is."
        )
