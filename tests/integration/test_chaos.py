"""What goes wrong at an endpoint goes wrong here, and nothing is lost or left behind.

Each test is seeded. What must be exact runs in virtual time (`limit_helpers`), what is
about sockets on real ones.
"""

import asyncio
import collections
import random
import time
from typing import Any

import pytest
from tests.integration.chaos_helpers import (
    SOON,
    Tries,
    expect_same_books,
    left_clean,
    on_sockets,
    shout,
)
from tests.integration.engine_helpers import Ask, Compare
from tests.integration.limit_helpers import (
    arrivals,
    endpoint,
    engine_on,
    hello,
    reached,
)

from inf_engine import Engine
from inf_engine.errors import EndpointTimeoutError
from inf_engine.execution.batch import Result
from inf_engine.resources.manager import ResourceManager
from inf_engine.resources.statistics import Statistics
from inf_engine.testing import LoopbackServer, VirtualTimeLoop, chaos
from inf_engine.testing.faults import ALL_CHAOS
from inf_engine.types import LLMResponse, Usage

# -- everything at once -----------------------------------------------------------


async def test_2000_pipelines_finish_whatever_goes_wrong() -> None:
    """A fifth of the requests fails in one of many ways; every input is answered."""
    inputs = [f"{n:04}" for n in range(2000)]
    lefts, rights = [f"l{text}" for text in inputs], [f"r{text}" for text in inputs]
    tries: Tries = {}
    async with LoopbackServer(
        shout, latency=0.005, errors=chaos(2), piece_latency=0.002
    ) as server:
        models = [{"model": f"model-{n}"} for n in range(12)]
        manager = on_sockets(server, 1.0, tries, max_concurrent=50, deployments=models)
        async with left_clean(manager, server) as engine:
            view = engine.using(retries=SOON, errors="collect")
            results = await view.map(Compare(), lefts, rights)
            books = engine.statistics().total
        expect_each_once(results, [f"L{t}+R{t}" for t in inputs])
        assert set(server.statuses) == {200, *ALL_CHAOS}
        expect_same_books(server, chaos(2), tries, books)
        asked = sum(result.usage.requests for result in results)
        assert asked == books.requests == 3 * len(inputs)


def expect_each_once(results: list[Result], outputs: list[str]) -> None:
    """Every input has one result, its own."""
    assert [result.index for result in results] == list(range(len(outputs)))
    assert [result.error for result in results if not result.ok] == []
    assert [result.output for result in results] == outputs


def test_pipelines_with_few_retries_fail_one_by_one() -> None:
    """Half of the requests fail; the books and the records agree on every try."""
    server = LoopbackServer(shout, latency=0.1, errors=chaos(5, 0.5, [429, 500, 400]))
    manager = reached({"m": endpoint(retries=1)}, one=server)

    async def main(engine: Engine) -> tuple[list[Result], Statistics]:
        inputs = [str(n) for n in range(300)]
        view = engine.using(errors="collect")
        results = await view.map(Compare(), inputs, inputs, record=True)
        return results, engine.statistics().total

    results, books = engine_on(manager, main)
    calls = [c for r in results for n in r.record.nodes for c in n.calls]
    answered = [call for call in calls if call.response is not None]
    errors = collections.Counter(c.error.status for c in calls if c.error is not None)
    assert [result.index for result in results] == list(range(300))
    assert 10 < sum(result.ok for result in results) < 290
    assert len(calls) == server.count == books.tries
    assert len(answered) == server.answered == books.requests
    assert {200: len(answered), **errors} == server.statuses


# -- cancel storms ----------------------------------------------------------------


async def storm(engine: Engine, rng: random.Random, seconds: float) -> int:
    """Start runs and maps, cancel most of them at some moment; return who was not."""
    inputs = [str(n) for n in range(40)]
    tasks: list[asyncio.Future[Any]] = []
    for n in range(60):
        view = engine.using(
            priority=rng.randint(0, 2), timeout=rng.choice([None, seconds / 2])
        )
        if n % 10:
            work: Any = view.run(Compare(), f"a{n}", f"b{n}")
        else:
            work = view.map(Compare(), inputs, inputs, errors="collect")
        task = asyncio.ensure_future(work)
        tasks.append(task)
        if rng.random() < 0.8:
            asyncio.get_running_loop().call_later(rng.uniform(0, seconds), task.cancel)
        if rng.random() < 0.3:
            await asyncio.sleep(rng.uniform(0, seconds / 60))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return sum(not isinstance(result, BaseException) for result in results)


@pytest.mark.parametrize("limits", [{}, {"requests_per_minute": 3000}])
@pytest.mark.parametrize("seed", range(8))
def test_a_cancel_storm_leaves_nothing(seed: int, limits: dict[str, Any]) -> None:
    """No task, slot, place in line or try that is not booked; and it goes on after."""
    rng = random.Random(seed)
    server = LoopbackServer(
        shout,
        latency=lambda index, body: rng.uniform(0.0, 0.3),
        errors=chaos(seed, 0.3, [429, 500, 529, "reset", "hang"]),
    )
    table = endpoint(max_concurrent=8, timeout=2.0, **limits)
    manager = reached({"m": table}, lambda: rng.uniform(0, 0.02), one=server)

    async def main(engine: Engine) -> None:
        await storm(engine, rng, 3.0)
        assert len(asyncio.all_tasks()) == 1
        for deployment in manager._deployments:
            assert (deployment.in_use, len(deployment.gate)) == (0, 0)
        assert server.in_flight == engine.statistics().total.in_flight == 0
        server._desk._fault = lambda index, body: None
        results = await engine.map(Ask(), "abcdefghijklmnopqrstuvwxyz")
        assert results == list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")

    engine_on(manager, main)


@pytest.mark.parametrize("seed", range(8))
def test_a_cancel_storm_over_deployments_and_fallbacks_leaves_nothing(
    seed: int,
) -> None:
    """Requests that stand in two lines, or have moved to another alias."""
    rng = random.Random(seed)
    servers = {
        host: LoopbackServer(
            shout,
            latency=lambda index, body: rng.uniform(0.0, 0.3),
            errors=chaos(seed + place, 0.4, [429, 500, 529, "reset", 400, "hang"]),
        )
        for place, host in enumerate(("one", "two", "three"))
    }
    hosts = [{"base_url": f"http://{host}.test/v1"} for host in ("one", "two")]
    table = {
        "m": endpoint(
            "any", deployments=hosts, fallbacks=["n"], max_concurrent=4, timeout=1.0
        ),
        "n": endpoint("three", fallbacks=["m"], max_concurrent=2, timeout=1.0),
    }
    manager = reached(table, None, **servers)

    async def main(engine: Engine) -> None:
        await storm(engine, rng, 3.0)
        assert len(asyncio.all_tasks()) == 1
        assert [d.in_use for d in manager._deployments] == [0, 0, 0]
        books = engine.statistics().total
        assert books.in_flight == 0
        assert books.tries == sum(server.count for server in servers.values())
        for server in servers.values():
            assert server.in_flight == 0
            server._desk._fault = lambda index, body: None
        assert await engine.map(Ask(), "abcdefgh") == list("ABCDEFGH")

    engine_on(manager, main)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_cancel_storm_over_sockets_leaves_no_connection(seed: int) -> None:
    """Cancelled requests close theirs; the server sees all of them leave."""
    rng = random.Random(seed)
    async with LoopbackServer(
        shout,
        latency=lambda index, body: rng.uniform(0.0, 0.05),
        errors=chaos(seed, 0.3),
        piece_latency=0.002,
    ) as server:
        manager = on_sockets(server, 0.3, max_concurrent=20)
        async with left_clean(manager, server) as engine:
            await storm(engine.using(retries=SOON), rng, 0.5)


# -- a server that dies and comes back --------------------------------------------


async def test_a_server_that_dies_and_comes_back_loses_nobody() -> None:
    """It is gone for 0.3 s in the middle of a map; what was in flight goes again."""
    server = LoopbackServer(shout, latency=0.005)
    server.start()
    try:
        manager = on_sockets(server, 5.0, max_concurrent=8)
        async with Engine(manager, progress=False) as engine:
            inputs = [f"x{n}" for n in range(300)]
            work = asyncio.ensure_future(engine.map(Ask(), inputs))
            while server.count < 100:  # noqa: ASYNC110 - a server in a thread
                await asyncio.sleep(0.005)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(0.3)
            assert not work.done()
            await asyncio.to_thread(server.start)
            assert await work == [text.upper() for text in inputs]
            books = engine.statistics().total
        assert (books.requests, books.in_flight) == (300, 0)
        assert books.unknown >= 1
    finally:
        await asyncio.to_thread(server.stop)
    assert server.open_connections == 0


@pytest.mark.parametrize("outage", [3.0, 30.0])
def test_an_outage_costs_at_most_those_that_probed(outage: float) -> None:
    """The others wait for the answer to the breaker's probe, and use up no try."""

    def errors(index: int, body: dict[str, Any]) -> str | None:
        now = asyncio.get_running_loop().time()
        return "reset" if 5.0 <= now < 5.0 + outage else None

    server = LoopbackServer(shout, latency=0.1, errors=errors)
    manager = reached({"m": endpoint(max_concurrent=4, retries=2)}, one=server)

    async def main(engine: Engine) -> tuple[list[Result], Statistics]:
        results = await engine.map(Ask(), map(str, range(600)), errors="collect")
        return results, engine.statistics().total

    results, books = engine_on(manager, main)
    assert [result.index for result in results] == list(range(600))
    assert sum(not result.ok for result in results) <= 2
    assert server.answered == books.requests >= 598


# -- clocks that jump -------------------------------------------------------------


class WarpLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can jump, as it may when a laptop sleeps."""

    warp = 0.0

    def time(self) -> float:
        return super().time() + self.warp


@pytest.mark.parametrize(("jump", "lost"), [(300.0, 0), (3600.0, 10)])
def test_a_clock_that_jumps_loses_at_most_what_was_in_flight(
    jump: float, lost: int
) -> None:
    """It has timed out, and goes again if its ten minutes are not over."""

    async def main() -> tuple[list[Result], Statistics]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, WarpLoop)
        async with LoopbackServer(shout, latency=0.02) as server:
            manager = on_sockets(server, 60.0, max_concurrent=10)
            async with left_clean(manager, server) as engine:
                view = engine.using(errors="collect", retries=SOON)
                work = asyncio.ensure_future(view.map(Ask(), map(str, range(100))))
                await server.until(lambda: server.count >= 50)
                loop.warp += jump
                return await work, engine.statistics().total

    began = time.monotonic()
    with asyncio.Runner(loop_factory=WarpLoop) as runner:
        results, books = runner.run(main())
    assert time.monotonic() - began < 10
    failed = [result.error for result in results if not result.ok]
    assert [result.index for result in results] == list(range(100))
    assert len(failed) <= lost
    assert all(isinstance(error, EndpointTimeoutError) for error in failed)
    assert books.requests == 100 - len(failed)


def test_a_clock_that_jumps_sets_no_flood_free() -> None:
    """An hour's worth of requests does not leave at once."""
    server = LoopbackServer(shout)
    manager = reached({"m": endpoint(requests_per_minute=60)}, one=server)

    async def main(engine: Engine) -> None:
        work = asyncio.ensure_future(engine.map(Ask(), map(str, range(20))))
        await asyncio.sleep(9.5)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop._jumping.now += 3600.0
        await work

    engine_on(manager, main)
    before = [float(second) for second in range(10)]
    assert arrivals(server) == before + [3609.5 + n for n in range(10)]


# -- the allowed rate, to the last request ----------------------------------------

RATE, TOKENS = 6000.0, 1_200_000.0
"""A minute. An answer uses 200 tokens, so both are 100 requests a second."""


@pytest.mark.parametrize(
    ("requests", "tokens", "is_known", "per_second"),
    [
        (RATE, TOKENS, True, 98.0),
        (RATE, TOKENS, False, 98.0),
        (RATE, None, False, 100.0),
        (None, TOKENS, False, 100.0),
    ],
)
def test_thousands_of_requests_use_the_allowed_rate(
    requests: float | None, tokens: float | None, is_known: bool, per_second: float
) -> None:
    """At least 97 % of it, and less than 0.5 % of the requests are refused.

    Of 10,000 requests in all; of 3,000 after the first quarter, in which the window
    grows.
    """
    rng = random.Random(11)

    def answer(body: dict[str, Any]) -> LLMResponse:
        return LLMResponse("x", usage=Usage(1, 100, rng.randint(50, 150)))

    count = 10_000 if requests and tokens else 3_000
    server = LoopbackServer(
        answer,
        latency=lambda index, body: rng.uniform(0.2, 1.5),
        requests_per_minute=requests,
        tokens_per_minute=tokens,
    )
    limits = {"requests_per_minute": requests, "tokens_per_minute": tokens}
    given = limits if is_known else {}
    manager = reached(
        {"m": endpoint(**given)}, lambda: rng.uniform(0.001, 0.02), one=server
    )
    complete_all(manager, count)
    assert server.answered == count
    assert server.statuses[429] < 0.005 * count
    first = 0 if count == 10_000 else count // 4
    came = arrivals(server)
    assert (len(came) - first) / (came[-1] - came[first]) >= 0.97 * per_second


def complete_all(manager: ResourceManager, count: int) -> None:
    """Send so many requests, all in line at once."""

    async def main() -> None:
        tasks = [
            asyncio.ensure_future(manager.complete("m", hello("x" * 400)))
            for _ in range(count)
        ]
        await asyncio.gather(*tasks)

    VirtualTimeLoop.run(main())
    (deployment,) = manager._deployments
    assert deployment.in_use == 0
