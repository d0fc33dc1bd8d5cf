"""Ordinary Python in a forward does what it does elsewhere."""

import asyncio
import contextvars
import sys
from typing import Any

import pytest
from tests.unit.tracing_helpers import (
    Ran,
    clients_for,
    echo,
    module,
    ran,
    run,
)

from inf_engine import (
    Engine,
    InferenceModule,
    LLMInference,
    op,
)
from inf_engine.testing import FunctionClient, VirtualTimeLoop, assert_runs_alike

# -- contexts -----------------------------------------------------------------------


NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="none")


def test_context_reaches_everything() -> None:
    """What the caller sets is seen by forward, ops of each kind and the client."""
    seen: list[str] = []

    def answer(request: Any) -> str:
        seen.append(f"client {NAME.get()}")
        return "ok"

    @op
    def inline() -> str:
        return NAME.get()

    @op(thread=True)
    def threaded() -> str:
        return NAME.get()

    @op
    async def suspended() -> str:
        return NAME.get()

    def forward(self: Any, x: str) -> Any:
        before = [NAME.get(), inline(), threaded(), suspended()]
        if self.llm(x):
            NAME.set("inner")
        return before, [NAME.get(), inline(), threaded(), suspended()], self.llm(x)

    token = NAME.set("outer")
    try:
        got = ran(forward, "x", answer=answer)
        assert NAME.get() == "outer"
    finally:
        NAME.reset(token)
    assert got.output == (["outer"] * 4, ["inner"] * 4, "ok")
    assert seen == ["client outer", "client inner"]


def test_two_runs_do_not_see_each_other() -> None:
    """Runs at the same time have contexts of their own, across breaks."""

    def forward(self: Any, x: str) -> Any:
        NAME.set(x)
        found = []
        for _ in range(3):
            found.append(str(self.llm(NAME.get())))
        return found, NAME.get()

    async def main() -> list[Any]:
        client = FunctionClient(echo, latency=1.0)
        async with Engine({"a": client}, progress=False) as engine:
            return await engine.map(module(forward), ["p", "q", "r"])

    assert VirtualTimeLoop.run(main()) == [([f"[{x}]"] * 3, x) for x in "pqr"]


# -- ordinary Python ----------------------------------------------------------------


class Tree(InferenceModule):
    """A module that calls itself over a tree."""

    def __init__(self) -> None:
        super().__init__()
        self.llm = LLMInference(alias="a")

    def forward(self, tree: Any) -> Any:
        if isinstance(tree, str):
            return self.llm(tree)
        return self.llm(" ".join(f"{self(branch)}" for branch in tree))


def test_recursion_over_a_tree() -> None:
    """A module that calls itself runs every level at once."""
    got = run(Tree(), [["a", "b"], ["c", ["d"]]])
    assert got.output == "[[[a] [b]] [[c] [[d]]]]"
    assert got.arrivals == [0.0] * 4 + [1.0] * 2 + [2.0, 3.0]


def test_arguments_of_every_kind() -> None:
    """Defaults, keywords, ``*args`` and ``**kwargs`` pass through nested modules."""

    def inner(self: Any, a: Any, *rest: Any, key: str = "k", **more: Any) -> Any:
        return self.llm(f"{a} {rest} {key} {more}")

    def forward(self: Any, x: str, y: str = "Y", *, z: str = "Z", **more: Any) -> Any:
        p = self.llm(x)
        return self.inner(p, y, p, key=z, **more), self.inner(p)

    made = module(forward, inner=module(inner))
    for args, kwargs in [(("x",), {}), (("x", "y"), {"z": "q", "engine": "e"})]:
        assert_runs_alike(made, *args, clients=clients_for(echo), **kwargs)


@pytest.mark.parametrize("value", [None, 3, "text", [], {"a": (1,)}])
def test_forward_without_leaf(value: Any) -> None:
    """A forward that calls no leaf gives exactly what plain Python gives."""
    got = ran(lambda s: value)
    assert (got.output, got.prompts, got.seconds) == (value, [], 0.0)


def test_generators_inside() -> None:
    """Generators may make calls and meet breaks inside a forward."""

    def items(self: Any) -> Any:
        for name in "ab":
            if self.llm(name):
                yield self.llm(f"more {name}")

    def forward(self: Any) -> Any:
        return [*items(self)], any(p == "[c]" for p in map(self.llm, "bc"))

    assert_runs_alike(module(forward), clients=clients_for(echo))


def test_deep_stack_and_exception_state() -> None:
    """A break keeps the stack and the exception that is being handled."""

    def forward(self: Any, depth: int = 200) -> Any:
        if depth:
            return forward(self, depth - 1)
        try:
            raise KeyError("inner")
        except KeyError:
            text = str(self.llm("x"))
            return text, repr(sys.exc_info()[1])

    assert ran(forward).output == ("[x]", "KeyError('inner')")


def test_shared_and_repeated_modules() -> None:
    """A module at two places, called often, is the same module each time."""
    shared = module(lambda s, x: s.llm(f"<{x}>"))

    def forward(self: Any, x: str) -> Any:
        return [self.one(self.two(x)), *[step(x) for step in (self.one, self.two)]]

    got: Ran = run(module(forward, one=shared, two=shared), "x")
    assert got.output == ["[<[<x>]>]", "[<x>]", "[<x>]"]


def test_cleanup_runs() -> None:
    """``finally`` runs when forward goes on, and may make calls."""

    def forward(self: Any, x: str) -> Any:
        try:
            return str(self.llm(x))
        finally:
            self.llm("cleanup")

    got = ran(forward, "x")
    assert (got.output, got.prompts) == ("[x]", ["x", "cleanup"])


@pytest.mark.parametrize("is_async", [False, True])
def test_cancelling_ends_forward(is_async: bool) -> None:
    """Cancelling a run raises in its forward, which cannot go on making calls."""
    raised: list[str] = []

    def paused(self: Any, x: str) -> Any:
        try:
            return str(self.llm(x))
        except BaseException as exc:  # noqa: BLE001 - a forward that swallows all
            raised.append(type(exc).__name__)
            return str(self.llm("again"))

    async def awaiting(self: Any, x: str) -> Any:
        try:
            return await self.llm(x)
        except BaseException as exc:  # noqa: BLE001 - a forward that swallows all
            raised.append(type(exc).__name__)
            return await self.llm("again")

    client = FunctionClient(echo, latency=10.0)

    async def main() -> None:
        async with Engine({"a": client}, progress=False) as engine:
            made = module(awaiting if is_async else paused)
            task = asyncio.create_task(engine.run(made, "x"))
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    VirtualTimeLoop.run(main())
    assert raised == ["CancelledError"]
    assert (client.prompts, client.cancelled) == (["x"], 1)
