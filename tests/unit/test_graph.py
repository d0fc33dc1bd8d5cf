"""`InferenceGraph`: walks, checks, hashes and drawings of a trace."""

import dataclasses
import enum
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest
from tests.unit.tracing_helpers import module

from inf_engine import (
    GraphError,
    GraphNode,
    InferenceGraph,
    InferenceModule,
    LLMInference,
    Parameter,
    op,
    trace,
)
from inf_engine import functional as F

LONG = 100_000


def diamond(self: Any, x: str) -> Any:
    """Two calls and a join; one call that leads nowhere."""
    left, right = self.llm(f"l {x}"), self.llm(f"r {x}")
    self.llm("alone")
    return self.llm(f"{left} {right}"), {"left": left}


async def with_branch(self: Any, x: str) -> Any:
    """A branch of two calls between two calls."""
    first = self.llm(x)
    inner = self.child(first)
    return await self.llm(f"{inner}")


def two_calls(self: Any, x: Any) -> Any:
    """Two calls in a row."""
    return self.llm(f"two {self.llm(f'one {x}')}")


def branched() -> InferenceGraph:
    """The graph of a module with a branch."""
    return trace(module(with_branch, child=module(two_calls)), "x")


def named(nodes: list[GraphNode]) -> list[str]:
    """The names of nodes."""
    return [node.name for node in nodes]


def chain(length: int) -> InferenceGraph:
    """A graph of nodes that each wait for the one before."""
    graph = InferenceGraph()
    before: tuple[GraphNode, ...] = ()
    for index in range(length):
        node = GraphNode(index, "op", "step", index + 1, None, before, {}, before)
        graph.nodes.append(node)
        before = (node,)
    graph.output = list(before)
    return graph


# -- walks --------------------------------------------------------------------------


def test_walks_of_a_diamond() -> None:
    """Order, ancestors, descendants and the critical path of a join."""
    graph = trace(module(diamond), "x")
    x, left, right, alone, join = graph.nodes
    assert graph.topological_order() == graph.nodes == list(graph)
    assert graph.ancestors(join) == [x, left, right]
    assert graph.ancestors(x) == []
    assert graph.descendants(x) == [left, right, join]
    assert graph.descendants(alone) == []
    assert graph.critical_path() == [x, left, join]
    assert graph.node("llm#2") is right
    assert graph.dependents()[left.index] == [join]


def test_critical_path_by_weight() -> None:
    """The heaviest chain wins; of equal ones the earliest."""
    graph = trace(module(diamond), "x")
    heavy = {"llm#2": 5.0, "llm#4": 1.0}
    path = graph.critical_path(lambda node: heavy.get(node.name, 0.0))
    assert named(path) == ["x#1", "llm#2", "llm#4"]
    heavy["llm#3"] = 9.0
    path = graph.critical_path(lambda node: heavy.get(node.name, 0.0))
    assert named(path) == ["llm#3"]
    assert InferenceGraph().critical_path() == []


def test_walks_go_through_branches() -> None:
    """The output of a branch comes from what it recorded, which stands later."""
    graph = branched()
    assert named(graph.nodes) == [
        *("x#1", "llm#1", "child#1", "child.llm#1", "child.llm#2", "llm#2")
    ]
    _, first, branch, one, two, last = graph.nodes
    order = graph.topological_order()
    assert order.index(two) < order.index(branch) < order.index(last)
    assert sorted(named(order)) == sorted(named(graph.nodes))
    assert graph.ancestors(last) == graph.nodes[:5]
    assert graph.descendants(one) == [branch, two, last]
    assert graph.critical_path() == [graph.nodes[0], first, one, two, branch, last]


def test_unknown_name() -> None:
    """Asking for a node that is not there says so."""
    with pytest.raises(GraphError, match=r"no node 'llm#9' in a graph of 5 nodes"):
        trace(module(diamond), "x").node("llm#9")


def test_long_chains() -> None:
    """Every walk of a chain of 100,000 nodes is iterative and quick."""
    graph = chain(LONG)
    began = time.process_time()
    assert len(graph.topological_order()) == LONG
    assert len(graph.ancestors(graph.nodes[-1])) == LONG - 1
    assert len(graph.descendants(graph.nodes[0])) == LONG - 1
    assert len(graph.critical_path()) == LONG
    graph.lint()
    assert len(graph.content_hash()) == 64
    texts = [str(graph), graph.to_mermaid(), graph.to_dot()]
    assert all(text.count("\n") >= LONG for text in texts)
    assert time.process_time() - began < 10


def test_long_chain_of_branches() -> None:
    """A chain through the insides of branches is walked without recursion, too."""
    graph = chain(20_000)
    for node in graph.nodes[:-1]:
        node.kind, node.deps, node.args = "branch", (), ()
        node.inner = (graph.nodes[node.index + 1],)
    graph.nodes[-1].deps = graph.nodes[-1].args = ()
    graph.lint()
    assert graph.topological_order() == graph.nodes[::-1]
    assert len(graph.critical_path(lambda node: 1.0)) == 20_000
    assert len(graph.ancestors(graph.nodes[0])) == 19_999


# -- lint ---------------------------------------------------------------------------


def misplaced(g: InferenceGraph) -> None:
    """Swap two nodes."""
    g.nodes[1], g.nodes[2] = g.nodes[2], g.nodes[1]


def dropped(g: InferenceGraph) -> None:
    """Take a node out of the middle."""
    del g.nodes[1]


def renamed(g: InferenceGraph) -> None:
    """Give two nodes one name."""
    g.nodes[5].number = g.nodes[1].number


def alien_kind(g: InferenceGraph) -> None:
    """Use a kind that does not exist."""
    g.nodes[1].kind = "magic"  # ty: ignore[invalid-assignment]


def alien_dep(g: InferenceGraph) -> None:
    """Depend on a node of another graph."""
    g.nodes[1].deps = (branched().nodes[0],)


def late_dep(g: InferenceGraph) -> None:
    """Depend on a later node."""
    g.nodes[1].deps = (*g.nodes[1].deps, g.nodes[5])


def undeclared(g: InferenceGraph) -> None:
    """Use a node without depending on it."""
    g.nodes[5].deps = ()


def alien_inner(g: InferenceGraph) -> None:
    """Let a branch come from another graph."""
    g.nodes[2].inner = (branched().nodes[4],)


def alien_parent(g: InferenceGraph) -> None:
    """Be recorded by what is no branch."""
    g.nodes[3].parent = g.nodes[1]


def circle(g: InferenceGraph) -> None:
    """Let a branch come from what waits for it."""
    g.nodes[2].inner = (g.nodes[5],)


def alien_output(g: InferenceGraph) -> None:
    """Return a node of another graph."""
    g.output = {"k": [branched().nodes[5]]}


def change(place: int, **fields: Any) -> Callable[[InferenceGraph], None]:
    """Set fields of a node to what does not belong there."""

    def damage(g: InferenceGraph) -> None:
        for name, value in fields.items():
            setattr(g.nodes[place], name, value)

    return damage


def doubled(g: InferenceGraph) -> None:
    """Depend twice on one node."""
    g.nodes[1].deps *= 2


def no_node(g: InferenceGraph) -> None:
    """Hold something else."""
    g.nodes[3] = "llm#1"  # ty: ignore[invalid-assignment]


def no_list(g: InferenceGraph) -> None:
    """Hold the nodes otherwise."""
    g.nodes = tuple(g.nodes)  # ty: ignore[invalid-assignment]


DAMAGES: list[tuple[Callable[[InferenceGraph], None], str]] = [
    (misplaced, r"child#1 stands at place 1 but says it is node 2; nodes stand in"),
    (dropped, r"child#1 stands at place 1 but says it is node 2"),
    (renamed, r"nodes 1 and 5 are both called llm#1; a name belongs to one node"),
    (alien_kind, r"llm#1 is of the unknown kind 'magic'; kinds are input, llm"),
    (alien_dep, r"llm#1 depends on x#1, which is not in this graph"),
    (late_dep, r"llm#1 depends on llm#2, which comes after it"),
    (undeclared, r"llm#2 uses child#1 in its arguments but does not depend on it"),
    (alien_inner, r"the output of child#1 comes from child.llm#2, which is not in"),
    (
        alien_parent,
        r"child.llm#1 was recorded by llm#1, which is not an earlier branch",
    ),
    (circle, r"(child#1|llm#2) waits for (llm#2|child#1), which in turn waits for it"),
    (alien_output, r"the output uses llm#2, which is not a node of this graph"),
    (no_node, r"place 3 holds 'llm#1', which is no GraphNode"),
    (no_list, r"nodes must be a list, not tuple"),
    (change(1, deps=None), r"deps of llm#1 is None, not a tuple of nodes"),
    (change(1, deps=[]), r"deps of llm#1 is \[\], not a tuple of nodes"),
    (change(1, deps=("x#1",)), r"deps of llm#1 is \('x#1',\), not a tuple of"),
    (change(2, inner=(3,)), r"inner of child#1 is \(3,\), not a tuple of nodes"),
    (change(1, args=["x"]), r"args of llm#1 is \['x'\], not a tuple"),
    (change(1, kwargs=None), r"kwargs of llm#1 is None, not a dict"),
    (change(1, path=None), r"path of llm#1 is None, not a str"),
    (change(1, index="1"), r"index of llm#1 is '1', not an int"),
    (change(1, parent=2), r"parent of llm#1 is 2, not a node or None"),
    (change(1, path=""), r"llm#1 has no path; only an outermost module may"),
    (change(1, target=5), r"llm#1 calls 5, no LLMInference"),
    (doubled, r"llm#1 depends twice on one node; name each once"),
]


@pytest.mark.parametrize(
    ("damage", "sentence"), DAMAGES, ids=[d[1][:20] for d in DAMAGES]
)
def test_lint_refuses_damage(
    damage: Callable[[InferenceGraph], None], sentence: str
) -> None:
    """A damaged graph is refused with a sentence that says what, and where."""
    graph = branched()
    graph.lint()
    damage(graph)
    with pytest.raises(GraphError, match=sentence):
        graph.lint()


def test_a_leaf_alone_has_no_path() -> None:
    """It is the outermost module itself."""
    trace(LLMInference("a"), "x").lint()


def test_a_node_may_be_given_by_name() -> None:
    """To walks that start at one; what is not in the graph is refused."""
    graph = branched()
    node = graph.nodes[1]
    assert graph.ancestors(node.name) == graph.ancestors(node)
    assert graph.descendants(node.name) == graph.descendants(node)
    with pytest.raises(GraphError, match="no node 'gone'"):
        graph.ancestors("gone")
    for wrong in (3, branched().nodes[1]):
        with pytest.raises(GraphError, match="is not a node of this graph, nor"):
            graph.descendants(wrong)  # ty: ignore[invalid-argument-type]


# -- content hash -------------------------------------------------------------------


class Color(enum.Enum):
    """An enum, for a literal argument."""

    RED = 1


class Card(pydantic.BaseModel):
    """A response format."""

    name: str


class Slotted:
    """An object whose repr has an address."""

    __slots__ = ()


class Knot:
    """An object that holds itself."""

    def __init__(self) -> None:
        self.me = self


@dataclasses.dataclass
class Point:
    """A dataclass, for a literal argument."""

    x: Any = 1


@op
def take(value: Any) -> Any:
    """Take anything."""
    return value


def tool(city: str) -> str:
    """Say the weather."""
    return city


def other_tool(city: str) -> str:
    """Say the time."""
    return city


def hash_of(forward: Any = None, **options: Any) -> str:
    """The hash of a module with one call."""
    made = module(forward or (lambda s, x: s.asked(x)))
    build: Any = LLMInference
    made.asked = build(**{"alias": "a", **options})
    return trace(made, "x").content_hash()


def literal(value: Any) -> str:
    """The hash of a call with a literal argument."""
    return hash_of(lambda s, x: take([value, x]))


def test_hash_is_of_content() -> None:
    """Two modules built alike hash alike; lines and labels do not matter."""
    assert hash_of() == hash_of()
    assert hash_of(system_prompt="a") == hash_of(system_prompt=Parameter("a"))
    assert hash_of(lambda s, x: s.asked(x)) == hash_of(
        lambda s, x: s.asked(
            x,
        )
    )
    assert len(hash_of()) == 64
    int(hash_of(), 16)


CHANGES: list[dict[str, Any]] = [
    {"alias": "b"},
    {"system_prompt": "s"},
    {"prompt": "{s}"},
    {"system_prompt": "{s}"},
    {"system_prompt": "s", "prompt": "{s}"},
    {"temperature": 0.5},
    {"top_p": 0.5},
    {"max_tokens": 5},
    {"seed": 5},
    {"stop": "end"},
    {"stop": ["end", "stop"]},
    {"tools": [tool]},
    {"tools": [tool, other_tool]},
    {"response_format": int},
    {"response_format": list[str]},
    {"response_format": Card},
]


def test_hash_changes_with_what_is_sent() -> None:
    """Every setting that reaches the endpoint changes the hash, each differently."""
    hashes = [hash_of(), *[hash_of(**change) for change in CHANGES]]
    assert len(set(hashes)) == len(hashes)


def test_hash_changes_with_schemas_of_one_name() -> None:
    """Types and tools of the same name but other content hash differently."""

    def renamed_tool(city: int) -> str:
        """Say the weather."""
        return str(city)

    renamed_tool.__name__ = "tool"
    other: Any = pydantic.create_model("Card", age=(int, ...))
    assert hash_of(response_format=Card) != hash_of(response_format=other)
    assert hash_of(tools=[tool]) != hash_of(tools=[renamed_tool])


LITERALS: list[Any] = [
    *(
        None,
        True,
        1,
        1.5,
        "1",
        b"1",
        [1],
        (1,),
        {"a": 1},
        {"a": 2},
        {1},
        frozenset({1}),
    ),
    *(Color.RED, Color, Point(), Point(2), tool, other_tool, len, Slotted(), Knot()),
    *(Card(name="a"), Card(name="b"), float("nan"), "ünï", "\ud83d", [[1]], [{}], {}),
]


def test_hash_changes_with_literals() -> None:
    """Every literal has a hash of its own, the same one each time."""
    hashes = [literal(value) for value in LITERALS]
    assert len(set(hashes)) == len(hashes)
    assert hashes == [literal(value) for value in LITERALS]
    assert literal(Slotted()) == literal(Slotted())
    assert literal(Knot()) == literal(Knot())


def test_hash_changes_with_structure() -> None:
    """Texts, formatting, order of calls, branches and outputs change the hash."""
    forwards: list[Any] = [
        lambda s, x: s.llm(f"a {x}"),
        lambda s, x: s.llm(f"b {x}"),
        lambda s, x: s.llm(f"a {x:>3}"),
        lambda s, x: s.llm(f"a {x!r}"),
        lambda s, x: s.llm("a " + x),
        lambda s, x: [s.llm(f"a {x}")],
        lambda s, x: s.llm(f"a {s.llm(x)}"),
        lambda s, x: (s.llm(f"a {x}"), s.llm(f"b {x}")),
        lambda s, x: (s.llm(f"b {x}"), s.llm(f"a {x}")),
        lambda s, x: F.map(s.llm, [f"a {x}"])[0],
        lambda s, x: s.llm(f"a {x}").strip(),
        lambda s, x: s.llm(f"a {x}").lower(),
    ]
    hashes = [trace(module(f), "x").content_hash() for f in forwards]
    assert len(set(hashes)) == len(hashes)


def test_hash_changes_with_a_leaf_module() -> None:
    """The parameters of a module marked as a leaf are part of the hash."""

    class Leaf(InferenceModule):
        leaf = True

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = Parameter(text)

    one, two, same = (
        trace(module(lambda s, x: s.own(x), own=Leaf(text)), "x").content_hash()
        for text in ("one", "two", "one")
    )
    assert one == same != two


def test_hash_is_the_same_in_every_process() -> None:
    """A new process, with another hash seed, gives the same hash."""
    code = (
        "from tests.unit import test_graph as t\n"
        "print(t.branched().content_hash(), t.literal([{1, 'a', 2}, t.Point, len]))"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"src:{Path.cwd()}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    here = [branched().content_hash(), literal([{1, "a", 2}, Point, len])]
    assert found == [here, here]
