"""Modules of one kind in modules of the other, and forwards of their own."""

import asyncio
from typing import Any

import pytest
from tests.unit.tracing_helpers import (
    clients_for,
    echo,
    module,
    ran,
    run,
    silent,
)

from inf_engine import ExecutionError, TracingError, op
from inf_engine import functional as F
from inf_engine.testing import assert_runs_alike

BOTH = ["[x]", "[slow]"]


def bad(request: Any) -> Any:
    """An answer that fails for one prompt."""
    return ValueError("bad") if request.prompt == "x" else echo(request)


# -- sync and async modules in each other -------------------------------------------


def sync_child(self: Any, x: Any) -> Any:
    """A sync child with a graph break."""
    if self.llm(x) == "[no]":
        return "no"
    return self.llm(f"s {x}")


async def async_child(self: Any, x: Any) -> Any:
    """An async child that awaits."""
    if await self.llm(x) == "[no]":
        return "no"
    return await self.llm(f"a {x}")


def sync_parent(self: Any, x: Any) -> Any:
    """A sync parent of two children."""
    return self.child(x), f"<{self.child('z')}>", self.llm("beside")


async def async_parent(self: Any, x: Any) -> Any:
    """An async parent of two children."""
    one, two, beside = self.child(x), self.child("z"), self.llm("beside")
    return await one, f"<{two}>", await beside


def sync_chain(self: Any, x: Any) -> Any:
    """A sync child of a child."""
    return self.child(self.child(x)) + "!"


async def async_chain(self: Any, x: Any) -> Any:
    """An async child of a child."""
    return await self.child(await self.child(x)) + "!"


@pytest.mark.parametrize("child", [sync_child, async_child], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "parent", [sync_parent, async_parent], ids=lambda f: f.__name__
)
def test_children_of_the_other_kind(parent: Any, child: Any) -> None:
    """Children of either kind run at the same time; a break pauses only its own."""
    made = module(parent, child=module(child))
    got = run(made, "x")
    mark = "s" if child is sync_child else "a"
    assert got.output == (f"[{mark} x]", f"<[{mark} z]>", "[beside]")
    if parent is sync_parent and child is sync_child:
        return  # one forward: its breaks follow each other
    assert got.seconds == 2.0
    assert_runs_alike(made, "x", clients=clients_for(echo))


@pytest.mark.parametrize("inner", [sync_child, async_child], ids=lambda f: f.__name__)
@pytest.mark.parametrize("middle", [sync_chain, async_chain], ids=lambda f: f.__name__)
@pytest.mark.parametrize("outer", [sync_parent, async_parent], ids=lambda f: f.__name__)
def test_three_deep(outer: Any, middle: Any, inner: Any) -> None:
    """Any mix of kinds gives what plain Python gives."""
    made = module(outer, child=module(middle, child=module(inner)))
    assert_runs_alike(made, "x", clients=clients_for(echo))


@pytest.mark.parametrize(
    "parent", [sync_parent, async_parent], ids=lambda f: f.__name__
)
def test_error_of_a_child(parent: Any) -> None:
    """What a child of the other kind raises leaves as itself, holes filled."""

    async def raising(self: Any, x: Any) -> Any:
        raise KeyError(f"about {self.llm(x)}")

    with pytest.raises(KeyError, match=r"about \[x\]"):
        run(module(parent, child=module(raising)), "x")


@pytest.mark.parametrize("used", [True, False])
def test_node_failure_in_a_child(used: bool) -> None:
    """A node that fails in a child fails the run, whether its output is used or not."""

    async def child(self: Any, x: Any) -> Any:
        return await self.llm(x)

    def forward(self: Any, x: str) -> Any:
        p = self.child(x)
        return p if used else "done"

    made = module(forward, child=module(child))
    with pytest.raises(ExecutionError, match=r"'child.llm#1' .* ValueError: bad"):
        run(made, "x", answer=bad)


def test_failure_of_a_child_is_caught() -> None:
    """A parent may catch what happened in a child of the other kind."""

    async def child(self: Any, x: Any) -> Any:
        return await self.llm(x)

    def forward(self: Any, x: str) -> Any:
        try:
            return str(self.child(x))
        except ValueError as exc:
            return self.llm(f"instead of {exc}")

    got = run(module(forward, child=module(child)), "x", answer=bad)
    assert got.output == "[instead of bad]"


def test_unawaited_in_a_child() -> None:
    """A TracingError of a child leaves as a TracingError."""

    async def child(self: Any, x: Any) -> Any:
        return 1 if self.llm(x) else 2

    made = module(lambda s, x: s.child(x), child=module(child))
    with pytest.raises(TracingError, match="'child.llm#1' before it is awaited"):
        run(made, "x", client=silent())


# -- texts and branches -------------------------------------------------------------


def test_texts_reach_branches() -> None:
    """Texts with holes reach cond, map and children, as arguments and closures."""

    def forward(self: Any, x: str) -> Any:
        text = f"<{self.llm(x)}>"
        verdict = self.llm("v") == "[v]"
        return (
            F.cond(verdict, self.llm, self.number, f"{self.llm('c')}!"),
            F.map(self.llm, [f"{text}1", f"{text}2"]),
            F.map(lambda n: self.llm(f"{n} {text}"), self.numbers("[7]")),
            self.child(text),
        )

    made = module(forward, child=module(async_child))
    typed = lambda r: "[7]" if r.prompt == "[7]" else echo(r)  # noqa: E731
    got = run(made, "x", answer=typed)
    assert got.output == (
        "[[c]!]",
        ["[<[x]>1]", "[<[x]>2]"],
        ["[7 <[x]>]"],
        "[a <[x]>]",
    )


def test_async_items_of_a_map() -> None:
    """Async functions may be items of a map, and use texts and proxies around them."""

    def forward(self: Any) -> Any:
        q = self.llm("q")

        async def item(name: str) -> Any:
            return await self.llm(f"{name} {q}") + q.upper()

        return F.map(item, ["a", "b"])

    got = ran(forward)
    assert got.output == ["[a [q]][Q]", "[b [q]][Q]"]
    assert got.arrivals == [0.0, 1.0, 1.0]


def test_sync_proxy_in_an_async_item() -> None:
    """A proxy of a sync forward cannot be forced in an async function within it."""

    def forward(self: Any) -> Any:
        q = self.llm("q")

        async def item(name: str) -> Any:
            return name if q else None

        return F.map(item, ["a", "b"])

    with pytest.raises(TracingError, match="in an async function.*Hand it over"):
        ran(forward)


def test_hole_dropped_in_a_branch() -> None:
    """A text that only a branch could have read, and did not, is refused."""

    def forward(self: Any, x: str) -> Any:
        text = f"{self.llm(x)}"
        return F.map(lambda n: (n, len(text))[0], ["a"])

    client = silent()
    with pytest.raises(TracingError, match="'llm#1' .* reached no call"):
        ran(forward, "x", client=client)
    assert client.requests == []


def test_async_op_and_context() -> None:
    """An async op in an async forward is one more awaitable."""

    @op
    async def double(text: str) -> str:
        await asyncio.sleep(1)
        return text * 2

    async def forward(self: Any, x: str) -> Any:
        return await double.acall(self.llm(x))

    got = ran(forward, "x")
    assert (got.output, got.seconds) == ("[x][x]", 2.0)
