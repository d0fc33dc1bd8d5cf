"""Hedging: a request that takes too long is sent a second time, within bounds.

In virtual time: servers without sockets (`limit_helpers`), whose latencies have a tail.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Flow, virtually
from tests.integration.limit_helpers import arrivals, endpoint, reached

from inf_engine import Budget, ConfigurationError, Engine, ExecutionSettings
from inf_engine.execution.events import Event, NodeStarted
from inf_engine.journal import JournalStore, decode_response
from inf_engine.resources.latency import ENOUGH, Latencies
from inf_engine.resources.manager import ResourceManager
from inf_engine.testing import LoopbackServer
from inf_engine.types import LLMRequest, LLMResponse, Usage

WARM = 30  # inputs until there are enough answers to compare with
EVERY, SLOW = 33, 20.0


def tail(index: int, body: Any) -> float:
    """One in 33 takes 20 s, all others 1 s."""
    return SLOW if index % EVERY == EVERY - 1 else 1.0


def slow_after(warm: int, seconds: float = SLOW) -> Callable[[int, Any], float]:
    """The first take 1 s, and then all take long."""
    return lambda index, body: 1.0 if index < warm else seconds


async def paced(engine: Engine, inputs: int, gap: float = 0.25) -> list[float]:
    """Run inputs that come one after the other; how long each took."""
    clock = asyncio.get_running_loop()

    async def one(index: int) -> float:
        await asyncio.sleep(index * gap)
        began = clock.time()
        await engine.run(Ask(), str(index))
        return clock.time() - began

    return await asyncio.gather(*map(one, range(inputs)))


def served(manager: ResourceManager, inputs: int, **options: Any) -> Any:
    """How long each input took, and the statistics once the engine is closed."""

    async def main() -> Any:
        async with Engine(manager, progress=False, **options) as engine:
            took = await paced(engine, inputs)
        return took, engine.statistics().total

    manager._random.random = lambda: 0.999
    return virtually(main)


def p99(took: list[float]) -> float:
    """The 99th percentile."""
    return sorted(took)[int(len(took) * 0.99) - 1]


def test_the_tail_is_cut_within_the_share_and_the_books_are_the_servers() -> None:
    """P99 falls from 20 s to 2 s for less than 5 % more requests; each is booked."""
    plain, hedged = LoopbackServer(latency=tail), LoopbackServer(latency=tail)
    before, books = served(reached({"m": endpoint()}, one=plain), 600)
    assert (p99(before), books.hedges, plain.count) == (SLOW, 0, 600)
    table = {"m": endpoint(hedge=0.05)}
    after, books = served(reached(table, one=hedged), 600)
    assert p99(after) <= 2.1
    assert 0 < books.hedges <= 30
    assert hedged.count == books.tries == 600 + books.hedges
    assert (books.requests, books.unknown) == (600, books.hedges)
    assert (books.failures, books.in_flight) == (0, 0)
    assert hedged.in_flight == 0


def test_off_by_default_nothing_is_kept_and_nothing_changes() -> None:
    """The same requests at the same times as with a share of 0; no latency is kept."""
    seen = []
    for table, options in (({}, {}), ({"hedge": 0.5}, {"hedge": 0.0})):
        server = LoopbackServer(latency=tail)
        manager = reached({"m": endpoint(**table)}, one=server)
        served(manager, 100, **options)
        assert manager._deployments[0].latencies is None
        seen.append(arrivals(server))
    assert seen[0] == seen[1]


def test_the_engines_share_goes_before_the_endpoints() -> None:
    """As `retries` does."""
    server = LoopbackServer(latency=tail)
    _, books = served(reached({"m": endpoint()}, one=server), 100, hedge=0.05)
    assert books.hedges > 0


def test_a_hedge_goes_to_another_deployment() -> None:
    """The one that is slow is not asked a second time if there is another."""
    hosts = [{"base_url": f"http://{name}.test/v1"} for name in ("one", "two")]
    table = endpoint("any", deployments=hosts, hedge=0.5)
    one = LoopbackServer(latency=slow_after(60))
    two = LoopbackServer(latency=1.0)
    took, books = served(reached({"m": table}, one=one, two=two), 200)
    assert max(took) < SLOW / 2
    assert one.count + two.count == books.tries == 200 + books.hedges
    assert two.count > 100


def test_the_share_is_a_cap() -> None:
    """Three in a hundred are late, and one in a hundred is sent again."""
    server = LoopbackServer(latency=tail)
    _, books = served(reached({"m": endpoint(hedge=0.01)}, one=server), 600)
    assert 0 < books.hedges <= 6


def test_what_was_given_up_counts_among_the_latencies() -> None:
    """Or the percentile would be that of winners only, and fall with every hedge."""
    server = LoopbackServer(latency=tail)
    manager = reached({"m": endpoint(hedge=0.05)}, one=server)
    _, books = served(manager, 200)
    latencies: Any = manager._deployments[0].latencies
    assert sum(seconds > 1.0 for seconds in latencies._last) >= books.hedges > 0


class Stubborn:
    """A client that, when cancelled, takes half a second more and answers."""

    def __init__(self) -> None:
        self.count = 0

    async def complete(self, request: LLMRequest) -> LLMResponse:
        self.count += 1
        number = self.count
        try:
            await asyncio.sleep(SLOW if number == WARM + 1 else 1.0)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
        return LLMResponse(f"answer {number}", usage=Usage(1, 2, 3))


def test_an_answer_that_comes_too_late_is_paid_for_and_not_used(tmp_path: Path) -> None:
    """It is in the books, and neither in the record nor in the journal."""
    client, path = Stubborn(), tmp_path / "run.db"
    manager = reached({"m": endpoint(hedge=1.0)}, one=LoopbackServer())
    manager._deployments[0].client = client

    async def main() -> Any:
        async with Engine(manager, progress=False, journal=path) as engine:
            for index in range(WARM):
                await engine.run(Ask(), str(index))
            record = await engine.record(twice, "late")
        return record, engine.statistics().total

    twice = Flow(lambda flow, text: flow.llm(flow.llm(text)))
    record, books = virtually(main)
    late, last = record.nodes[-2:]
    assert late.output == f"answer {WARM + 2}"
    assert (len(late.calls), len(last.calls), record.usage.requests) == (1, 1, 2)
    assert (books.requests, books.tries, books.in_flight) == (WARM + 3, WARM + 3, 0)
    with JournalStore(path, read_only=True) as store:
        texts = [decode_response(store.get(row.key) or "").text for row in store.rows()]
    assert texts[WARM:] == [late.output, last.output]


def test_a_hedge_that_the_budget_has_no_room_for_holds_up_nobody() -> None:
    """A request of 1000 tokens is late; small ones go on beside its reservation."""
    server = LoopbackServer(
        latency=lambda index, body: SLOW if body.get("max_tokens") else 1.0
    )
    manager = reached({"m": endpoint(hedge=1.0)}, one=server)

    async def main() -> float:
        budget = Budget(tokens=1500)
        async with Engine(manager, progress=False, budget=budget) as engine:
            for index in range(WARM):
                await engine.run(Ask(max_tokens=None), str(index))
            late = asyncio.ensure_future(engine.run(Ask(max_tokens=1000), "late"))
            await asyncio.sleep(3.0)
            await engine.run(Ask(), "small")
            at = asyncio.get_running_loop().time()
            await late
        return at

    at = virtually(main)
    assert at == WARM + 4.0


def test_an_endpoint_that_gets_slow_as_a_whole_is_not_sent_twice_as_much() -> None:
    """All take 20 s from the 100th on: a few hedges, not one for each."""
    server = LoopbackServer(latency=slow_after(100))
    _, books = served(reached({"m": endpoint(hedge=0.05)}, one=server), 400)
    assert 0 < books.hedges <= 20
    assert server.count == books.tries


def test_there_is_no_hedge_before_there_are_enough_answers() -> None:
    """Twenty answers: until then nobody knows what is long."""
    server = LoopbackServer(latency=slow_after(10))
    _, books = served(reached({"m": endpoint(hedge=1.0)}, one=server), 15)
    assert (books.hedges, server.count) == (0, 15)


def test_a_hedge_waits_for_a_slot() -> None:
    """There are never more requests in flight than the endpoint takes."""
    server = LoopbackServer(latency=tail)
    table = {"m": endpoint(max_concurrent=6, hedge=0.2)}
    took, books = served(reached(table, one=server), 300)
    assert books.hedges > 0
    assert server.max_in_flight == 6
    assert server.count == books.tries


def test_a_hedge_keeps_to_the_rate() -> None:
    """A server that counts refuses nothing."""
    server = LoopbackServer(latency=tail, requests_per_minute=240, headers=False)
    table = {"m": endpoint(requests_per_minute=240, hedge=0.2)}
    _, books = served(reached(table, one=server), 200)
    assert books.hedges > 0
    assert books.failures == 0


def test_no_hedge_is_sent_with_the_last_of_a_budget() -> None:
    """200 requests for 200 inputs: none is left for a hedge when it would be sent."""
    server = LoopbackServer(latency=slow_after(199))
    manager = reached({"m": endpoint(hedge=1.0)}, one=server)
    _, books = served(manager, 200, budget=Budget(requests=200))
    assert (server.count, books.tries, books.hedges) == (200, 200, 0)


def test_a_lost_hedge_stays_booked_in_the_budget() -> None:
    """What was cancelled may have been paid for: as unknown, up to the estimate."""
    server = LoopbackServer(latency=tail)
    manager = reached({"m": endpoint(hedge=0.05)}, one=server)
    _, books = served(manager, 200, budget=Budget(tokens=10**9))
    account: Any = manager.spending.account
    assert books.unknown > 0
    assert account.spent.requests == server.count
    assert account.spent.unknown_tokens == books.unknown_tokens > 0
    assert account.spent.reserved_requests == 0


def test_the_journal_keeps_one_answer(tmp_path: Path) -> None:
    """A row for each input, and a second run asks nothing."""
    path = tmp_path / "run.db"
    server = LoopbackServer(latency=tail)
    manager = reached({"m": endpoint(hedge=0.05)}, one=server)
    _, books = served(manager, 200, journal=path)
    assert books.hedges > 0
    with JournalStore(path, read_only=True) as store:
        assert len(list(store.rows())) == 200
    again = LoopbackServer()
    _, books = served(reached({"m": endpoint()}, one=again), 200, journal=path)
    assert (again.count, books.journal_hits) == (0, 200)


@pytest.mark.parametrize("slow_answers", [True, False])
def test_the_first_fails_while_its_hedge_is_out(slow_answers: bool) -> None:
    """The hedge's answer counts, and nothing is tried again; if it fails, the job is.

    The request that takes 20 s is reset then; its hedge takes 30 s.
    """
    late = {WARM: SLOW, WARM + 1: SLOW + 10}
    faults = {WARM: "reset"} if slow_answers else {WARM: "reset", WARM + 1: 500}
    server = LoopbackServer(
        latency=lambda index, body: late.get(index, 1.0),
        errors=lambda index, body: faults.get(index),
    )
    manager = reached({"m": endpoint(hedge=1.0)}, one=server)

    async def main() -> Any:
        async with Engine(manager, progress=False) as engine:
            for index in range(WARM):
                await engine.run(Ask(), str(index))
            record = await engine.record(Ask(), "late")
        return record, engine.statistics().total

    manager._random.random = lambda: 0.0
    record, books = virtually(main)
    assert server.count == books.tries == WARM + (2 if slow_answers else 3)
    assert (books.hedges, books.in_flight) == (1, 0)
    calls = record.nodes[-1].calls
    assert [call.error is None for call in calls][-1]
    assert len(calls) == (2 if slow_answers else 3)


def test_a_hedge_that_fails_leaves_the_first_alone() -> None:
    """The first answer still counts, and is asked for once more only by the hedge."""
    server = LoopbackServer(
        latency=lambda index, body: SLOW if index == WARM else 1.0,
        errors=lambda index, body: 500 if index == WARM + 1 else None,
    )
    manager = reached({"m": endpoint(hedge=1.0)}, one=server)
    took, books = served(manager, WARM + 1)
    assert server.count == books.tries == WARM + 2
    assert (books.failures, books.unknown, took[-1]) == (1, 0, SLOW)


def test_a_run_that_is_given_up_takes_its_hedge_along() -> None:
    """Both are cancelled at the server, and both are booked as unknown."""
    server = LoopbackServer(latency=slow_after(WARM))
    manager = reached({"m": endpoint(hedge=1.0)}, one=server)

    async def main() -> Any:
        async with Engine(manager, progress=False) as engine:
            for index in range(WARM):
                await engine.run(Ask(), str(index))
            with pytest.raises(TimeoutError):
                await engine.using(timeout=5.0).run(Ask(), "late")
        return engine.statistics().total

    books = virtually(main)
    assert (server.count, server.in_flight) == (WARM + 2, 0)
    assert (books.hedges, books.unknown, books.in_flight) == (1, 2, 0)


def test_a_streamed_request_is_not_hedged() -> None:
    """Two texts would be written into one; whoever wants tokens does without."""
    events: list[Event] = []
    for wants in (True, False):
        server = LoopbackServer(latency=slow_after(WARM))
        manager = reached({"m": endpoint(hedge=1.0)}, one=server)
        client = manager._deployments[0].client

        class Plain:
            """The client, without a way to stream."""

            complete = client.complete

        manager._deployments[0].client = Plain()

        def observer(event: Event) -> None:
            events.append(event)

        vars(observer).update(wants_tokens=wants)
        _, books = served(manager, WARM + 5, observers=[observer])
        assert (books.hedges == 0) is wants
    starts = [event for event in events if isinstance(event, NodeStarted)]
    assert len(starts) == 2 * (WARM + 5) + books.hedges


def test_a_share_is_checked() -> None:
    """In the resources and in the settings, with the place and the fix."""
    with pytest.raises(ConfigurationError, match=r"hedge: has to be a share from 0"):
        ResourceManager({"m": endpoint(hedge=2)})
    with pytest.raises(ConfigurationError, match="e.g. 0.05 for one in twenty"):
        ResourceManager({"m": endpoint(hedge=True)})
    with pytest.raises(ConfigurationError, match="hedge must be a share of requests"):
        ExecutionSettings(hedge=-0.1)
    hosts = [{"hedge": 0.1}]
    with pytest.raises(ConfigurationError, match="belongs to the alias"):
        ResourceManager({"m": endpoint(deployments=hosts)})


def test_the_percentile_is_of_the_last_answers() -> None:
    """None before there are enough; then the 95th of a hundred, of the last ones."""
    latencies = Latencies()
    for seconds in range(ENOUGH - 1):
        latencies.add(float(seconds))
    assert latencies.p95 is None
    for seconds in range(200):
        latencies.add(float(seconds % 100))
    assert latencies.p95 == 94.0
    for _ in range(200):
        latencies.add(7.0)
    assert latencies.p95 == 7.0
