"""`Failures`: which nodes of one run have failed, and whether that matters.

A failure that was raised into a forward may be caught there; then it is settled. So is
one that a choice (`first`) may do without, as long as the choice is open.
"""

from typing import Any

from inf_engine.graph import GraphNode


class Failures:
    """The failures of one run.

    Args:
        state: The `ExecutionState` of the run.
    """

    __slots__ = ("_caught_errors", "_caught_nodes", "_failed", "_state", "choices")

    def __init__(self, state: Any) -> None:
        self.choices: list[GraphNode] = []
        self._state = state
        self._failed: list[GraphNode] = []
        self._caught_nodes: set[int] = set()
        self._caught_errors: dict[int, BaseException] = {}

    def add(self, node: GraphNode, error: BaseException) -> None:
        """Take note that a node has failed."""
        self._failed.append(node)
        if node.kind == "branch":  # it left the branch's forward: nobody caught it
            self._caught_errors.pop(id(error), None)
            known = self._state.errors.items()
            self._caught_nodes.difference_update([i for i, e in known if e is error])

    def node_of(self, error: BaseException) -> GraphNode | None:
        """Return the node that failed with an error, None if none did."""
        errors = self._state.errors
        return next((n for n in self._failed if errors.get(n.index) is error), None)

    def open(self) -> GraphNode | None:
        """Return the first failed node that nobody has caught, if any."""
        if not self._failed:
            return None
        return next((n for n in self._failed if not self._is_settled(n)), None)

    def caught(self, node: GraphNode) -> None:
        """Note that a failure was raised into a forward, which may go on from it."""
        for here in (node, *node.deps) if node.kind == "first" else (node,):
            self._caught_nodes.add(here.index)
            error = self._state.errors.get(here.index)
            if error is not None:
                self._caught_errors[id(error)] = error

    def dropped(self, node: GraphNode) -> None:
        """Note that nobody waits for a node any more."""
        self._caught_nodes.add(node.index)

    def _is_settled(self, node: GraphNode) -> bool:
        """Say whether a failure was caught, as itself or as that of its branch."""
        error = self._state.errors[node.index]
        if id(error) in self._caught_errors or self._may_not_matter(error):
            return True
        here: GraphNode | None = node
        while here is not None and here.index not in self._caught_nodes:
            here = here.parent
        return here is not None

    def _may_not_matter(self, error: BaseException) -> bool:
        """Say whether it failed a candidate of a choice that is still open."""
        errors, final = self._state.errors, self._state.is_final
        candidates = [c.deps for c in self.choices if not final(c.index)]
        return any(errors.get(d.index) is error for deps in candidates for d in deps)
