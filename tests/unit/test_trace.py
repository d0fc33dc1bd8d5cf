"""`trace`: the graph of a module, nothing run."""

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.test_tracing_breaks import BREAKS, changed_item, changed_list
from tests.unit.tracing_helpers import module

from inf_engine import (
    InferenceModule,
    LLMInference,
    ModuleError,
    ModuleList,
    Sequential,
    TracingError,
    op,
    trace,
)
from inf_engine import functional as F


def names(made: InferenceModule, *args: Any, **kwargs: Any) -> list[str]:
    """The nodes of a trace and what each waits for, as text."""
    graph = trace(made, *args, **kwargs)
    graph.lint()
    return [
        " ".join([node.name, *[f"<{dep.name}" for dep in node.deps]]) for node in graph
    ]


def test_composites_are_traced_through() -> None:
    """Nodes are named by attribute path and call number, in trace order."""
    stage = module(lambda s, x: s.llm(f"<{x}>"))

    def forward(self: Any, x: str, y: str) -> Any:
        return self.llm(f"{self.stages[0](x)} {self.stages[1](y)} {self.stages[0](y)}")

    made = module(forward, stages=ModuleList([stage, module(stage.forward.__func__)]))
    assert names(made, "x", "y") == [
        "x#1",
        "y#1",
        "stages.0.llm#1 <x#1",
        "stages.1.llm#1 <y#1",
        "stages.0.llm#2 <y#1",
        "llm#1 <stages.0.llm#1 <stages.1.llm#1 <stages.0.llm#2",
    ]


def test_ops_and_small_nodes_have_names() -> None:
    """Ops carry the function's name, small nodes what is done."""

    @op
    def clean(text: str) -> str:
        return text

    def forward(self: Any, x: str) -> Any:
        return (clean(x).upper()[0] + "!") == 3

    assert names(module(forward), "x") == [
        "x#1",
        "clean#1 <x#1",
        ".upper#1 <clean#1",
        "call#1 <.upper#1",
        "getitem#1 <call#1",
        "add#1 <getitem#1",
        "eq#1 <add#1",
    ]


def test_inputs() -> None:
    """Inputs are the arguments given, or the required ones of forward."""

    def forward(
        self: Any, a: str, b: str = "B", *more: str, key: str, opt: str = ""
    ) -> Any:
        return self.llm(f"{a}{b}{more}{key}{opt}")

    made = module(forward)
    assert names(made)[:-1] == ["a#1", "key#1"]
    assert names(made, 1, 2, 3, key=4)[:-1] == ["a#1", "b#1", "more#1", "key#1"]
    assert names(made, 1, key=2, opt=3)[:-1] == ["a#1", "key#1", "opt#1"]


@pytest.mark.parametrize(
    ("args", "kwargs", "match"),
    [
        ((1, 2), {}, "positional argument"),
        ((), {"z": 1}, "unexpected keyword argument 'z'"),
        ((1,), {"x": 1}, "multiple values for argument 'x'"),
    ],
)
def test_wrong_inputs(args: Any, kwargs: Any, match: str) -> None:
    """Inputs that do not fit the signature are Python's own TypeError."""
    with pytest.raises(TypeError, match=match):
        trace(module(lambda s, x: s.llm(x)), *args, **kwargs)


def test_a_leaf_alone() -> None:
    """A single leaf is a graph of its input and itself."""
    assert names(LLMInference(alias="a")) == ["prompt#1", "llm#1 <prompt#1"]
    styled = LLMInference(alias="a", prompt="{q}")
    assert names(styled, q=1) == ["q#1", "llm#1 <q#1"]
    both = Sequential(LLMInference(alias="a"), LLMInference(alias="b"))
    wanted = ["prompt#1", "0#1 <prompt#1", "1#1 <0#1"]
    assert names(both, 1) == names(both) == wanted


def test_a_sequential_has_the_inputs_of_its_first_step() -> None:
    """However deep that is; an empty one has its own."""
    join = module(lambda s, left, *, right: s.llm(f"{left} {right}"))
    nested = Sequential(Sequential(join), LLMInference(alias="b"))
    assert names(nested)[:2] == ["left#1", "right#1"]
    assert names(nested, 1, right=2) == names(nested)
    assert names(Sequential()) == ["args#1"]
    itself = Sequential()
    with pytest.raises(RecursionError):
        trace(itself.append(itself))


def test_any_number_of_inputs() -> None:
    """As many as are given; one if none is."""
    made = module(lambda s, *a: s.llm(f"{a[0]}"))
    assert names(made) == ["a#1", "llm#1 <a#1"]
    assert names(made, 1, 2) == ["a#1", "a#2", "llm#1 <a#1"]
    after = module(lambda s, x, *a: s.llm(f"{x} {len(a)}"))
    assert names(after, 1, 2, 3)[:3] == ["x#1", "a#1", "a#2"]


@pytest.mark.parametrize(
    ("wrong", "what"), [(3, "int"), (Sequential, "the class Sequential"), (len, "bui")]
)
def test_what_is_no_module_is_refused(wrong: Any, what: str) -> None:
    """A class, too: an instance is wanted."""
    with pytest.raises(ModuleError, match=f"not {what}.*pass an instance of it"):
        trace(wrong)


def test_no_leaf() -> None:
    """A forward without calls has a graph of its inputs."""
    graph = trace(module(lambda s, x: None), "x")
    assert (len(graph), graph.output) == (1, None)


# -- what only a run can give -------------------------------------------------------

FIX = r"while tracing without running.*with an Engine.*@op"


@pytest.mark.parametrize("use", [b[1] for b in BREAKS], ids=[b[0] for b in BREAKS])
def test_every_break_is_refused(use: Callable[[Any], Any]) -> None:
    """A graph break of a call is an error with the fix."""
    with pytest.raises(TracingError, match=FIX):
        trace(module(use))


@pytest.mark.parametrize(
    "use",
    [
        lambda x: 1 if x else 2,
        list,
        len,
        dict,
        lambda x: x.append(1),
        lambda x: {1: 2}[x],
        lambda x: isinstance(x, str),
        lambda x: x.update(a=1),
    ],
)
def test_breaks_on_inputs(use: Callable[[Any], Any]) -> None:
    """Inputs are not known either."""
    with pytest.raises(TracingError, match=rf"'(x|call)#1' {FIX}"):
        trace(module(lambda s, x: use(x)), "x")


@pytest.mark.parametrize("change", [changed_item, changed_list])
def test_changes_are_refused(change: Callable[[Any], Any]) -> None:
    """Nothing can be changed that is not known."""
    with pytest.raises(TracingError, match=f"cannot change the output of .*{FIX}"):
        trace(module(change))


def test_refused_proxy_names_the_fix() -> None:
    """What C code refuses is told as in a run."""
    with pytest.raises(TracingError, match=r"str\(p\) .* f'\{p\}' .* @op"):
        trace(module(lambda s, x: ", ".join([x])), "x")


def test_damage_and_dropped_texts() -> None:
    """Texts are guarded as in a run."""
    with pytest.raises(TracingError, match="'x#1' was changed"):
        trace(module(lambda s, x: s.llm(f"{x}".upper())), "x")
    with pytest.raises(TracingError, match="'x#1' at .* reached no call"):
        trace(module(lambda s, x: len(f"{x}")), "x")


def test_exceptions_name_the_nodes() -> None:
    """An exception of forward keeps its line; holes in it are named."""

    def forward(self: Any, x: str) -> Any:
        raise KeyError(f"about {self.llm(x):>9} and {x!r}")  # the user's line

    with pytest.raises(KeyError, match="about <llm#1> and <x#1>") as caught:
        trace(module(forward), "x")
    assert "the user's line" in "".join(traceback.format_tb(caught.value.__traceback__))


# -- forwards of their own ----------------------------------------------------------


async def fanned(self: Any, x: str) -> Any:
    """An async forward with a fan-out."""
    a, b = await asyncio.gather(self.llm(x), self.llm(f"{x}!"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(self.llm(f"{a} {b.upper()}"))
    return await asyncio.wait_for(self.llm(task.result()), 5)


def test_async_forward() -> None:
    """An async forward is traced: awaiting gives a proxy."""
    assert names(module(fanned), "x") == [
        "x#1",
        "llm#1 <x#1",
        "llm#2 <x#1",
        ".upper#1 <llm#2",
        "call#1 <.upper#1",
        "llm#3 <llm#1 <call#1",
        "llm#4 <llm#3",
    ]


@pytest.mark.parametrize(
    ("awaited", "match"),
    [(False, r"before it is awaited.*value = await"), (True, FIX)],
)
def test_async_breaks(awaited: bool, match: str) -> None:
    """Forcing names ``await`` first, and then that nothing is known."""

    async def forward(self: Any, x: str) -> Any:
        p = self.llm(x)
        value = (await p).strip() if awaited else p.strip()
        return 1 if value else 2

    with pytest.raises(TracingError, match=match):
        trace(module(forward), "x")


def test_async_inside_a_running_loop() -> None:
    """Tracing an async forward works where a loop is running already."""

    async def main() -> int:
        return len(trace(module(fanned), "x"))

    assert asyncio.run(main()) == 7


def sync_child(self: Any, x: Any) -> Any:
    """A sync child."""
    return self.llm(f"s {x}")


async def async_child(self: Any, x: Any) -> Any:
    """An async child."""
    return await self.llm(f"a {x}")


def test_children_of_the_other_kind() -> None:
    """A sync child of an async forward is a branch, traced through."""

    async def forward(self: Any, x: str) -> Any:
        return await self.child(x), await self.other(f"<{x}>")

    made = module(forward, child=module(sync_child), other=module(async_child))
    graph = trace(made, "x")
    graph.lint()
    child, inner, other, deeper = graph.nodes[1:]
    assert [n.name for n in graph] == [
        *("x#1", "child#1", "child.llm#1", "other#1", "other.llm#1")
    ]
    assert (inner.parent, child.inner) == (child, (inner,))
    assert (deeper.parent, other.inner) == (other, (deeper,))
    assert graph.topological_order().index(child) > inner.index - 1
    assert names(module(sync_child, child=module(async_child)), "x")[-1] == "llm#1 <x#1"


def test_async_child_of_a_sync_forward() -> None:
    """An async child gets values, so it stays one node if they are not known."""
    made = module(lambda s, x: s.child(x), child=module(async_child))
    assert names(made, "x") == ["x#1", "child#1 <x#1"]


def test_branches() -> None:
    """cond and map over what is not known stay one node; known items are traced."""

    def forward(self: Any, x: str) -> Any:
        text = f"<{x}>"
        return [
            F.cond(self.llm(x) == "a", self.llm, self.llm, f"{x}!"),
            F.map(self.llm, self.numbers(x)),
            *F.map(lambda item: self.llm(f"{item} {text}"), ["a", x]),
            F.first(self.llm("p"), self.llm("q")),
        ]

    assert names(module(forward), "x") == [
        "x#1",
        "llm#1 <x#1",
        "eq#1 <llm#1",
        "cond#1 <eq#1 <x#1",
        "numbers#1 <x#1",
        "map#1 <numbers#1",
        "item#1",
        "llm#2 <x#1",
        "item#2",
        "llm#3 <x#1",
        "llm#4",
        "llm#5",
        "first#1 <llm#4 <llm#5",
    ]
