"""``async def forward``: proxies are coroutines, and nothing waits by itself."""

import asyncio
import collections.abc
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.tracing_helpers import (
    clients_for,
    echo,
    module,
    ran,
    run,
    same,
    silent,
)

from inf_engine import ExecutionError, TracingError
from inf_engine.testing import FunctionClient, assert_runs_alike

BOTH = ["[x]", "[slow]"]


async def gathered(self: Any, x: str) -> Any:
    """asyncio.gather."""
    return await asyncio.gather(self.llm(x), self.llm("slow"))


async def grouped(self: Any, x: str) -> Any:
    """TaskGroup."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(self.llm(name)) for name in (x, "slow")]
    return [task.result() for task in tasks]


async def tasked(self: Any, x: str) -> Any:
    """create_task and ensure_future."""
    tasks = [asyncio.create_task(self.llm(x)), asyncio.ensure_future(self.llm("slow"))]
    return [await task for task in tasks]


async def waited(self: Any, x: str) -> Any:
    """asyncio.wait."""
    tasks = [asyncio.create_task(self.llm(name)) for name in (x, "slow")]
    done, _ = await asyncio.wait(tasks)
    return sorted([task.result() for task in done], reverse=True)


async def completed(self: Any, x: str) -> Any:
    """asyncio.as_completed."""
    both = asyncio.as_completed([self.llm("slow"), self.llm(x)])
    return sorted([await later for later in both], reverse=True)


async def timed(self: Any, x: str) -> Any:
    """wait_for, shield and timeout."""
    slow = self.llm("slow")
    async with asyncio.timeout(60):
        first = await asyncio.wait_for(asyncio.shield(self.llm(x)), 60)
        return [first, await slow]


async def simple(self: Any, x: str) -> Any:
    """Calls first, awaits later."""
    quick, slow = self.llm(x), self.llm("slow")
    return [await quick, await slow]


async def unawaited(self: Any, x: str) -> Any:
    """What is returned need not be awaited."""
    return [self.llm(x), self.llm("slow")]


async def acalled(self: Any, x: str) -> Any:
    """``acall`` is the spelling that type-checks."""
    return list(await asyncio.gather(self.llm.acall(x), self.llm.acall("slow")))


WAYS = [
    *(gathered, grouped, tasked, waited, completed, timed),
    *(simple, unawaited, acalled),
]


@pytest.mark.parametrize("forward", WAYS, ids=lambda way: way.__name__)
def test_calls_run_at_once(forward: Callable[..., Any]) -> None:
    """Every asyncio tool works on a proxy, and the calls run at the same time."""
    got = ran(forward, "x")
    assert list(got.output) == BOTH
    assert got.arrivals == [0.0, 0.0]
    assert got.seconds == 5.0
    assert_runs_alike(module(forward), "x", clients=clients_for(echo))


def test_proxy_is_a_coroutine() -> None:
    """A proxy is a real Coroutine that hashes by identity."""

    async def forward(self: Any, x: str) -> Any:
        p = self.llm(x)
        assert isinstance(p, collections.abc.Coroutine)
        assert inspect.isawaitable(p)
        assert asyncio.iscoroutine(p)
        assert {p: 1}[p] == 1
        return await p

    assert ran(forward, "x").output == "[x]"


def test_awaiting_often() -> None:
    """A proxy may be awaited twice, and by several tasks at once; it is one request."""

    async def forward(self: Any, x: str) -> Any:
        p = self.llm(x)
        two = await asyncio.gather(asyncio.create_task(p), asyncio.create_task(p))
        return [*two, await p, await p]

    got = ran(forward, "x")
    assert got.output == ["[x]"] * 4
    assert got.prompts == ["x"]


def test_texts_keep_parallelism() -> None:
    """An f-string over what is not awaited is a template."""

    async def forward(self: Any, x: str) -> Any:
        joined = self.llm(f"{self.llm(x)} and {self.llm('y')!r}")
        return f"<{joined}>", self.llm("beside")

    got = ran(forward, "x")
    assert got.output == ("<[[x] and '[y]']>", "[beside]")
    assert got.arrivals == [0.0, 0.0, 0.0, 1.0]


def test_small_operations() -> None:
    """Fields, items, methods and operators of a proxy are awaitable themselves."""

    async def forward(self: Any) -> Any:
        p, n = self.llm("x"), self.number("3")
        return [await p.upper(), await p[0], await (p + "!"), await (n == 3), n * 2]

    made = module(forward)
    assert run(made, answer=same).output == ["X", "x", "x!", True, 6]


def test_names_of_coroutines() -> None:
    """What a coroutine needs for itself is reached after awaiting."""

    async def forward(self: Any) -> Any:
        p = self.fields('{"send": 1, "close": 2}')
        return await p["send"], (await p)["close"]

    assert ran(forward, answer=same).output == (1, 2)


async def looped(self: Any, x: str) -> Any:
    """Loop over what is not awaited."""
    for letter in self.llm(x):
        return letter


FORCES: list[tuple[str, Callable[[Any], Any]]] = [
    ("branch on", lambda p: 1 if p else 2),
    ("measure", len),
    ("make text of", str),
    ("make text of", lambda p: f"{p!s}"),
    ("make a number of", int),
    ("search in", lambda p: "x" in p),
    ("search in", lambda p: p in p),
    ("order", lambda p: p < 3),
    ("iterate over", list),
    ("change", lambda p: p.append(1)),
    ("branch on", lambda p: {"a": 1}.get("a") == 2 or p in ["[x]"]),
]


@pytest.mark.parametrize(("why", "use"), FORCES)
def test_nothing_waits_by_itself(why: str, use: Callable[[Any], Any]) -> None:
    """What needs a value without ``await`` is refused, before anything is paid."""

    async def forward(self: Any, x: str) -> Any:
        return use(self.llm(x))

    client = silent()
    with pytest.raises(TracingError, match=rf"cannot {why} .* before it is awaited"):
        ran(forward, "x", client=client)
    assert client.requests == []


def test_dropped_text() -> None:
    """A hole that reaches nothing is refused here, too."""

    async def forward(self: Any, x: str) -> Any:
        return len(f"{self.llm(x)}")

    with pytest.raises(TracingError, match="reached no call and no output"):
        ran(forward, "x", client=silent())


# -- failures, timeouts, cancellation -----------------------------------------------


def bad(request: Any) -> Any:
    """An answer that fails for one prompt."""
    return ValueError("bad") if request.prompt == "x" else echo(request)


async def caught(self: Any, x: str) -> Any:
    """Catch what an await raises."""
    try:
        return await self.llm(x)
    except ValueError as exc:
        return await self.llm(f"instead of {exc}")


async def collected(self: Any, x: str) -> Any:
    """Collect failures with gather."""
    found = await asyncio.gather(self.llm(x), self.llm("y"), return_exceptions=True)
    return [str(item) for item in found]


async def group_caught(self: Any, x: str) -> Any:
    """Catch what a TaskGroup raises."""
    result = "none"
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.llm(x))
            group.create_task(self.llm("y"))
    except* ValueError:
        result = "group"
    return result


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (caught, "[instead of bad]"),
        (collected, ["bad", "[y]"]),
        (group_caught, "group"),
    ],
)
def test_failures_are_raised_at_the_await(
    forward: Callable[..., Any], expected: Any
) -> None:
    """A failure arrives where it is awaited, as itself, and may be caught."""
    assert ran(forward, "x", answer=bad).output == expected


def test_unawaited_failure() -> None:
    """A failure that nobody awaits fails the run."""

    async def forward(self: Any, x: str) -> Any:
        self.llm(x)
        return "done"

    with pytest.raises(ExecutionError, match=r"'llm#1' .* ValueError: bad"):
        ran(forward, "x", answer=bad)


def test_timeout_cancels_the_call() -> None:
    """wait_for and timeout cancel the request; forward goes on."""

    async def forward(self: Any) -> Any:
        try:
            return await asyncio.wait_for(self.llm("slow"), 2)
        except TimeoutError:
            pass
        try:
            async with asyncio.timeout(2):
                return await self.llm("slow too")
        except TimeoutError:
            return await self.llm("quick")

    got = ran(forward)
    assert got.output == "[quick]"
    assert got.seconds == 5.0
    assert got.client.cancelled == 2
    assert got.client.in_flight == 0


@pytest.mark.parametrize("way", ["await", "return"])
def test_cancelled_call_is_used_again(way: str) -> None:
    """A call whose wait timed out says so when it is used again."""

    async def forward(self: Any) -> Any:
        p = self.llm("slow")
        try:
            await asyncio.wait_for(p, 2)
        except TimeoutError:
            return p if way == "return" else await p

    with pytest.raises(ExecutionError, match="'llm#1' was cancelled.*Call it again"):
        ran(forward)


def test_cancelled_before_it_began() -> None:
    """A task cancelled before its first step cancels its call, which is never sent."""
    client = FunctionClient(echo)

    async def forward(self: Any) -> Any:
        task = asyncio.create_task(self.llm("never"))
        task.cancel()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        return type(error)

    assert ran(forward, client=client).output is asyncio.CancelledError
    assert client.requests == []


def test_first_completed_drops_the_rest() -> None:
    """Cancelling the slower tasks cancels their requests."""

    async def forward(self: Any, x: str) -> Any:
        tasks = [asyncio.create_task(self.llm(name)) for name in ("slow", x)]
        done, rest = await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
        for task in rest:
            task.cancel()
        return [task.result() for task in done]

    got = ran(forward, "x")
    assert (got.output, got.seconds, got.client.cancelled) == (["[x]"], 1.0, 1)


def test_task_left_behind() -> None:
    """A task that forward did not await is told so."""
    late: list[Any] = []

    async def forward(self: Any) -> Any:
        async def behind() -> None:
            await asyncio.sleep(0.5)
            try:
                self.llm("late")
            except TracingError as exc:
                late.append(str(exc))

        self.task = asyncio.create_task(behind())
        return self.llm("x")

    assert ran(forward).output == "[x]"
    assert "'llm' was called after its forward had returned" in late[0]


def test_leaf_in_to_thread() -> None:
    """asyncio.to_thread is no place for a leaf."""

    async def forward(self: Any, x: str) -> Any:
        return await asyncio.to_thread(self.llm, x)

    with pytest.raises(
        TracingError, match=r"'llm' .* another thread.*@op\(thread=True"
    ):
        ran(forward, "x", client=silent())
