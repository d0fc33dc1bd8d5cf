"""`ExecutionState`: which node of one run is where. No I/O, no clock, no tasks.

Legal transitions::

    PENDING ──► READY ──► RUNNING ──► DONE
       │          │          ├──────► FAILED
       └──────────┴──────────┴──────► CANCELLED

A node is PENDING while it waits for others, READY when all of them are DONE. When a
node ends badly, everything that waits for it is CANCELLED with the same cause.
"""

from enum import IntEnum
from typing import Any

from inf_engine.errors import InfEngineError
from inf_engine.graph import GraphNode


class NodeState(IntEnum):
    """Where a node is; the last three are final."""

    PENDING = 0
    READY = 1
    RUNNING = 2
    DONE = 3
    FAILED = 4
    CANCELLED = 5


_PENDING, _READY, _RUNNING, _DONE, _FAILED, _CANCELLED = NodeState
LEGAL: dict[NodeState, tuple[NodeState, ...]] = {
    _PENDING: (_READY, _CANCELLED),
    _READY: (_RUNNING, _CANCELLED),
    _RUNNING: (_DONE, _FAILED, _CANCELLED),
    _DONE: (),
    _FAILED: (),
    _CANCELLED: (),
}


class ExecutionState:
    """The state table of one run; nodes are added in trace order.

    Attributes:
        nodes: The nodes, as added.
        states: The state of each node.
        values: The value of each DONE node.
        errors: Why nodes FAILED or were CANCELLED, by index.
        unfinished: How many nodes are not in a final state.
    """

    __slots__ = (
        "_heights",
        "_missing",
        "_users",
        "errors",
        "nodes",
        "states",
        "unfinished",
        "values",
    )

    def __init__(self) -> None:
        self.nodes: list[GraphNode] = []
        self.states: list[NodeState] = []
        self.values: list[Any] = []
        self.errors: dict[int, BaseException] = {}
        self.unfinished = 0
        self._heights: list[int] = []
        self._missing: list[int] = []
        self._users: list[list[int] | None] = []

    def add(self, node: GraphNode, deps: tuple[GraphNode, ...]) -> NodeState:
        """Add a node that waits for `deps`; return READY, PENDING or CANCELLED."""
        states, index = self.states, node.index
        missing = 0
        cause: BaseException | None = None
        for dep in deps:
            state = states[dep.index]
            if state < _DONE:
                missing += 1
                users = self._users[dep.index]
                if users is None:
                    self._users[dep.index] = [index]
                else:
                    users.append(index)
            elif state is not _DONE and cause is None:
                cause = self.errors[dep.index]
        self.nodes.append(node)
        self.values.append(None)
        self._missing.append(missing)
        self._users.append(None)
        if cause is not None:
            states.append(_CANCELLED)
            self.errors[index] = cause
            return _CANCELLED
        self.unfinished += 1
        states.append(_PENDING if missing else _READY)
        return states[index]

    def below(self, index: int) -> int:
        """Return the length of the longest recorded path below an unfinished node."""
        heights, nodes = self._heights, self.nodes
        known = len(heights)
        if known < len(nodes):
            heights.extend([0] * (len(nodes) - known))
            for node in reversed(nodes[known:]):
                if node.deps:
                    self._raise_above(node, known)
        return heights[index]

    def _raise_above(self, node: GraphNode, known: int) -> None:
        """Raise what a node stands on; whatever was not `known` is looked at later."""
        heights = self._heights
        stack = [node]
        while stack:
            here = stack.pop()
            height = heights[here.index] + 1
            for dep in here.deps:
                at = dep.index
                if heights[at] < height:
                    heights[at] = height
                    if at < known and self.states[at] < _DONE:
                        stack.append(dep)

    def start(self, index: int) -> None:
        """Move a READY node to RUNNING."""
        self._move(index, _RUNNING)

    def complete(self, index: int, value: Any) -> list[GraphNode]:
        """Move a RUNNING node to DONE; return the nodes that became READY."""
        self._move(index, _DONE)
        self.unfinished -= 1
        self.values[index] = value
        ready = []
        for user in self._users[index] or ():
            self._missing[user] -= 1
            if not self._missing[user] and self.states[user] is _PENDING:
                self.states[user] = _READY
                ready.append(self.nodes[user])
        self._users[index] = None
        return ready

    def fail(self, index: int, error: BaseException) -> list[GraphNode]:
        """Move a RUNNING node to FAILED; return all nodes that ended with it."""
        self._move(index, _FAILED)
        return self._end(index, error)

    def cancel(self, index: int, error: BaseException) -> list[GraphNode]:
        """Move an unfinished node to CANCELLED; return all that ended with it."""
        self._move(index, _CANCELLED)
        return self._end(index, error)

    def is_final(self, index: int) -> bool:
        """Say whether the node has ended."""
        return self.states[index] >= _DONE

    def users(self, index: int) -> list[int]:
        """Return the nodes that still wait for this one."""
        waiting = self._users[index] or ()
        return [user for user in waiting if self.states[user] < _DONE]

    def _end(self, index: int, error: BaseException) -> list[GraphNode]:
        """Record the cause, and cancel whatever waits for the node."""
        ended = []
        stack = [index]
        while stack:
            here = stack.pop()
            self.unfinished -= 1
            self.errors[here] = error
            ended.append(self.nodes[here])
            for user in self._users[here] or ():
                if self.states[user] < _DONE:
                    self.states[user] = _CANCELLED
                    stack.append(user)
            self._users[here] = None
        return ended

    def _move(self, index: int, to: NodeState) -> None:
        state = self.states[index]
        if to not in LEGAL[state]:
            raise InfEngineError(
                f"internal: node {self.nodes[index].name} cannot go from {state.name} "
                f"to {to.name}. Please report this with the module that caused it."
            )
        self.states[index] = to
