"""`ExecutionState`: the table of legal moves, readiness, and the longest path below."""

import random
from typing import Any

import pytest

from inf_engine.errors import InfEngineError
from inf_engine.execution.state import LEGAL, ExecutionState, NodeState
from inf_engine.graph import GraphNode

PENDING, READY, RUNNING, DONE, FAILED, CANCELLED = NodeState


def node(index: int, *deps: GraphNode) -> GraphNode:
    """A node that waits for others."""
    return GraphNode(index, "op", f"n{index}", 1, None, (), {}, deps)


def chain(length: int) -> tuple[ExecutionState, list[GraphNode]]:
    """A table of nodes, each waiting for the one before it."""
    state, nodes = ExecutionState(), []
    for index in range(length):
        nodes.append(node(index, *nodes[-1:]))
        state.add(nodes[-1], nodes[-1].deps)
    return state, nodes


def test_a_node_is_ready_when_all_it_waits_for_is_done() -> None:
    """And not before."""
    state = ExecutionState()
    a, b = node(0), node(1)
    c = node(2, a, b)
    assert [state.add(n, n.deps) for n in (a, b, c)] == [READY, READY, PENDING]
    state.start(0)
    state.start(1)
    assert state.complete(1, "b") == []
    assert state.complete(0, "a") == [c]
    assert state.values == ["a", "b", None]
    assert state.unfinished == 1
    assert state.add(node(3, a), (a,)) is READY


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_what_waits_for_a_node_that_ended_badly_is_cancelled_with_its_cause(
    end: str,
) -> None:
    """The whole way down, and also what is added later."""
    state, nodes = chain(4)
    cause = ValueError("x")
    state.start(0)
    assert getattr(state, end)(0, cause) == nodes
    assert state.states[0] is (FAILED if end == "fail" else CANCELLED)
    assert state.states[1:] == [CANCELLED] * 3
    assert state.errors == dict.fromkeys(range(4), cause)
    assert state.unfinished == 0
    assert state.add(node(4, nodes[3]), (nodes[3],)) is CANCELLED
    assert state.errors[4] is cause
    assert state.unfinished == 0


def test_ends_are_iterative() -> None:
    """A chain of 50,000 nodes fails without recursion, and has a depth."""
    state, _ = chain(50_000)
    assert state.below(0) == 49_999
    state.start(0)
    assert len(state.fail(0, ValueError())) == 50_000


def test_users_are_those_that_still_wait() -> None:
    """A cancelled one no longer does."""
    state = ExecutionState()
    a = node(0)
    for n in (a, node(1, a), node(2, a)):
        state.add(n, n.deps)
    assert state.users(0) == [1, 2]
    state.cancel(1, ValueError())
    assert state.users(0) == [2]
    assert state.users(1) == []


@pytest.mark.parametrize("here", NodeState)
@pytest.mark.parametrize("to", NodeState)
def test_only_legal_moves_are_made(here: NodeState, to: NodeState) -> None:
    """Everything else is our own fault, and says so."""
    state = ExecutionState()
    state.add(node(0), ())
    state.states[0] = here
    moves: dict[NodeState, Any] = {
        RUNNING: lambda: state.start(0),
        DONE: lambda: state.complete(0, None),
        FAILED: lambda: state.fail(0, ValueError()),
        CANCELLED: lambda: state.cancel(0, ValueError()),
    }
    if to not in moves:
        return
    if to in LEGAL[here]:
        moves[to]()
        assert state.states[0] is to
    else:
        with pytest.raises(InfEngineError, match="internal: node n0#1 cannot go from"):
            moves[to]()
    assert state.is_final(0) is (state.states[0] >= DONE)


@pytest.mark.parametrize("seed", range(20))
def test_the_path_below_is_the_longest_of_what_is_recorded(seed: int) -> None:
    """Against a plain recursion, asked at any time while the graph grows."""
    rng = random.Random(seed)
    state, nodes = ExecutionState(), []

    def height(index: int) -> int:
        users = [n.index for n in nodes if nodes[index] in n.deps]
        return max([1 + height(user) for user in users], default=0)

    for index in range(14):
        deps = rng.sample(nodes, min(len(nodes), rng.randrange(3)))
        nodes.append(node(index, *deps))
        state.add(nodes[-1], nodes[-1].deps)
        if rng.random() < 0.5:
            asked = rng.randrange(index + 1)
            assert state.below(asked) == height(asked)
    assert [state.below(n.index) for n in nodes] == [height(n.index) for n in nodes]
