"""Each limit of an endpoint, given or hidden, as the server sees it.

Most of it in virtual time, where arrivals are exact (`limit_helpers`); at the end the
same over sockets, in real time.
"""

import asyncio
import random
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Compare
from tests.integration.limit_helpers import (
    EPOCH,
    arrivals,
    endpoint,
    engine_on,
    hello,
    prompts,
    reached,
)

from inf_engine import Engine, ExecutionError
from inf_engine.resources.job import Order
from inf_engine.testing import LoopbackServer, VirtualTimeLoop, chaos
from inf_engine.testing.provider_limits import http_date
from inf_engine.types import LLMResponse, Usage

TIGHT = {"max_concurrent": 4}


def ask(server: LoopbackServer, inputs: int, **options: Any) -> list[float]:
    """Map so many inputs through one endpoint; return when each request came."""
    manager = reached({"m": endpoint(**options)}, one=server)
    engine_on(manager, lambda engine: engine.map(Ask(), map(str, range(inputs))))
    assert server.answered == inputs
    return arrivals(server)


# -- limits that the user gives ---------------------------------------------------


def test_requests_per_minute_space_the_requests_out() -> None:
    """60 a minute is one a second, from the first."""
    assert ask(LoopbackServer(), 5, requests_per_minute=60) == [0, 1, 2, 3, 4]


def test_a_quarter_of_a_seconds_requests_may_leave_at_once() -> None:
    """1,200 a minute: five, then one each 50 ms."""
    came = ask(LoopbackServer(), 9, requests_per_minute=1200, max_concurrent=9)
    assert came == [0, 0, 0, 0, 0, 0.05, 0.1, 0.15, 0.2]


def test_tokens_per_minute_space_the_requests_out() -> None:
    """6,000 tokens a minute are one answer of 100 tokens a second."""
    server = LoopbackServer(lambda body: LLMResponse("x", usage=Usage(1, 40, 60)))
    assert ask(server, 5, tokens_per_minute=6000) == [0, 1, 2, 3, 4]


def test_the_server_never_refuses_who_keeps_to_its_limits() -> None:
    """The same limits on both sides, answers of random lengths, a way of 1 to 20 ms."""
    rng = random.Random(3)
    server = LoopbackServer(
        lambda body: LLMResponse("x", usage=Usage(1, 50, rng.randint(1, 99))),
        latency=lambda index, body: rng.uniform(0.1, 2.0),
        requests_per_minute=600,
        tokens_per_minute=120_000,
        headers=False,
    )
    limits = {"requests_per_minute": 600, "tokens_per_minute": 120_000}
    manager = reached(
        {"m": endpoint(**limits)}, lambda: rng.uniform(0.001, 0.02), one=server
    )
    engine_on(manager, lambda engine: engine.map(Ask(), map(str, range(300))))
    assert server.statuses == {200: 300}
    assert 30 * 0.97 <= arrivals(server)[-1] + 0.25 <= 30 / 0.97


def test_max_concurrent_is_where_the_window_starts() -> None:
    """No slow start: three at once, and never more."""
    server = LoopbackServer(latency=1.0)
    assert ask(server, 7, max_concurrent=3) == [0, 0, 0, 1, 1, 1, 2]
    assert server.max_in_flight == 3


@pytest.mark.parametrize("seed", range(5))
def test_max_concurrent_holds_when_answers_come_in_any_order(seed: int) -> None:
    """Two calls at once and one after them, 40 inputs, five slots."""
    rng = random.Random(seed)
    server = LoopbackServer(latency=lambda index, body: rng.uniform(0.01, 1.0))
    manager = reached({"m": endpoint(max_concurrent=5)}, one=server)
    inputs = [str(n) for n in range(40)]
    engine_on(manager, lambda engine: engine.map(Compare(), inputs, inputs))
    assert (server.answered, server.max_in_flight) == (120, 5)


def test_without_max_concurrent_the_window_doubles_each_round_trip() -> None:
    """8, 16, 32 ... and the inputs in flight follow it."""
    server = LoopbackServer(latency=1.0)
    came = ask(server, 1000)
    assert [came.count(second) for second in range(6)] == [8, 16, 32, 64, 128, 256]
    assert server.max_in_flight > 256


def test_max_inflight_holds_back_inputs_whatever_the_window_is() -> None:
    """The user's own number of inputs alive."""
    server = LoopbackServer(latency=1.0)
    manager = reached({"m": endpoint()}, one=server)
    inputs = list(map(str, range(100)))
    engine_on(manager, lambda e: e.map(Ask(), inputs), max_inflight=10)
    assert server.max_in_flight == 10


# -- limits that nobody told ------------------------------------------------------


def test_a_hidden_limit_of_40_at_once_is_found_and_used() -> None:
    """1,000 calls of 50 ms: 25 rounds of 40 at best."""
    server = LoopbackServer(latency=0.05, max_concurrent=40)
    came = ask(server, 1000)
    assert came[-1] + 0.05 <= 1.2 * 25 * 0.05
    assert server.statuses[429] <= 30


@pytest.mark.parametrize("limit", [8, 17, 40, 64])
@pytest.mark.parametrize("way", [None, 0.01])
def test_a_hidden_limit_at_once_is_found_whatever_it_is(
    limit: int, way: float | None
) -> None:
    """Answers after 50 ms, or after 25 to 75 and a way of up to 10; 25 rounds."""
    rng = random.Random(limit)
    latency = 0.05 if way is None else lambda index, body: rng.uniform(0.025, 0.075)
    server = LoopbackServer(latency=latency, max_concurrent=limit)
    ways = None if way is None else lambda: rng.uniform(0, way)
    manager = reached({"m": endpoint()}, ways, one=server)
    inputs = list(map(str, range(25 * limit)))
    engine_on(manager, lambda engine: engine.map(Ask(), inputs))
    mean = 0.05 if way is None else 0.05 + way / 2
    assert arrivals(server)[-1] + 0.05 <= 1.35 * 25 * mean
    assert server.statuses[429] <= 0.06 * 25 * limit + 10


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_resets_by_chance_do_not_keep_the_window_small(share: float) -> None:
    """One request in ten, or in five, whatever the load: 64 slots are mostly in use.

    Of the last tenth the tries come far apart: the pauses between them have doubled.
    """
    server = LoopbackServer(latency=2.0, errors=chaos(1, share, ["reset"]))
    came = ask(server, 3000, max_concurrent=64, retries=20)
    most = 9 * len(came) // 10
    assert came[most] <= 1.6 * most / 64 * 2.0


def test_a_hidden_limit_below_max_concurrent_is_found() -> None:
    """Sixteen are given, ten are taken."""
    server = LoopbackServer(latency=0.1, max_concurrent=10)
    came = ask(server, 400, max_concurrent=16)
    assert came[-1] + 0.1 <= 1.35 * 4.0
    assert server.statuses[429] <= 25


def test_the_window_narrows_once_per_round_trip() -> None:
    """Four of ten are overloaded: seven are in flight after it, not 10 * 0.7 ** 4."""
    server = LoopbackServer(latency=1.0, errors=[None] * 6 + [529] * 4)
    came = ask(server, 40, max_concurrent=10)
    assert came.count(0) == 10
    assert came.count(2) == 7


@pytest.mark.parametrize("status", [429, 503, 529])
def test_overload_narrows_the_window(status: int) -> None:
    """What says that the endpoint has too much to do."""
    server = LoopbackServer(latency=1.0, errors=[None] * 9 + [status])
    came = ask(server, 30, max_concurrent=10)
    assert max(came.count(at) for at in came if at > 1.6) <= 7


def test_a_server_error_does_not_narrow_the_window() -> None:
    """A 500 says nothing about how much there is to do."""
    server = LoopbackServer(latency=1.0, errors=[None] * 9 + [500])
    came = ask(server, 50, max_concurrent=10)
    assert came.count(2.0) == 10


def test_an_unknown_rate_is_learnt_from_headers() -> None:
    """1,200 a minute, 20 at once: 200 calls take 9 s at best."""
    server = LoopbackServer(latency=0.05, requests_per_minute=1200, burst=20)
    came = ask(server, 200)
    assert came[-1] + 0.05 <= 1.05 * 9.0
    assert server.statuses[429] <= 8


def test_an_unknown_rate_is_learnt_from_anthropics_headers() -> None:
    """Whose resets are dates in whole seconds."""
    server = LoopbackServer(latency=0.05, requests_per_minute=1200, burst=20)
    options = {"provider": "anthropic", "base_url": "http://one.test"}
    came = ask(server, 200, **options)
    assert came[-1] + 0.05 <= 1.2 * 9.0
    assert server.statuses[429] <= 8


def test_an_unknown_limit_of_tokens_is_learnt_from_headers() -> None:
    """12,000 tokens a minute and answers of 100: two a second."""
    server = LoopbackServer(
        lambda body: LLMResponse("x", usage=Usage(1, 40, 60)),
        latency=0.1,
        tokens_per_minute=12_000,
    )
    came = ask(server, 100)
    assert came[-1] <= 1.1 * 49
    assert server.statuses[429] <= 8


def test_an_unknown_rate_is_found_without_any_header() -> None:
    """None is lost, and it takes little longer than it must."""
    server = LoopbackServer(
        latency=0.05,
        requests_per_minute=1200,
        burst=20,
        headers=False,
        retry_after=False,
    )
    came = ask(server, 200)
    assert came[-1] + 0.05 <= 1.15 * 9.0


# -- refusals ---------------------------------------------------------------------


def test_a_429_that_names_no_time_pauses_for_25_ms_then_one_probe_leaves() -> None:
    """All four were refused; doubled when the probe is refused, too."""
    server = LoopbackServer(latency=1.0, errors=[429] * 5)
    came = ask(server, 12, **TIGHT)
    assert came[:4] == [0, 0, 0, 0]
    assert came[4:6] == [1.025, 2.075]
    assert came[6] == 3.075


def test_retry_after_in_seconds_is_obeyed() -> None:
    """By the whole endpoint: nothing else leaves before."""
    refusal = (429, {"retry-after": "7"}, "slow down")
    came = ask(LoopbackServer(latency=1.0, errors=[refusal]), 12, **TIGHT)
    assert [at for at in came if 1.0 <= at < 8.0] == []
    assert came[4:6] == [8, 9]


def test_retry_after_in_milliseconds_is_obeyed() -> None:
    """As OpenAI tells it, more exactly."""
    refusal = (429, {"retry-after": "2", "retry-after-ms": "1500"}, "slow down")
    came = ask(LoopbackServer(errors=[refusal]), 2, max_concurrent=1)
    assert came == [0, 1.5, 1.5]


def test_retry_after_as_a_date_is_read_against_the_servers_clock() -> None:
    """The server's day is another one than ours, and that does not matter."""
    dates = {"date": http_date(EPOCH), "retry-after": http_date(EPOCH + 90)}
    server = LoopbackServer(errors=[(429, dates, "slow down")])
    assert ask(server, 2, max_concurrent=1) == [0, 90, 90]


def test_the_retry_after_of_an_overloaded_server_is_obeyed() -> None:
    """By the request that got it; the pause before a retry is never shorter."""
    server = LoopbackServer(errors=[(529, {"retry-after": "20"}, "overloaded")])
    manager = reached({"m": endpoint(max_concurrent=1)}, one=server)
    engine_on(manager, lambda engine: engine.map(Ask(), "ab"))
    assert list(zip(prompts(server), arrivals(server), strict=True)) == [
        ("a", 0),
        ("b", 0),
        ("a", 20),
    ]


@pytest.mark.parametrize("refusals", [1, 3, 6])
def test_after_each_pause_exactly_one_probe_leaves(refusals: int) -> None:
    """Until one is answered; then all that may go."""
    refusal = (429, {"retry-after": "5"}, "slow down")
    errors = [refusal] * (3 + refusals)
    server = LoopbackServer(latency=1.0, errors=errors)
    came = ask(server, 20, **TIGHT)
    probes = [6.0 * n for n in range(1, refusals + 1)]
    assert came[4 : 4 + refusals] == probes
    assert came[4 + refusals] == probes[-1] + 1


@pytest.mark.parametrize(
    ("slots", "share", "most"),
    [(1, 0.05, 1.2), (2, 0.05, 1.3), (8, 0.05, 1.5), (1, 0.2, 2.5), (2, 0.2, 3.0)],
)
def test_refusals_by_chance_teach_no_pace_that_lasts(
    slots: int, share: float, most: float
) -> None:
    """One in twenty, or in five, whatever the load: there is no rate to be found.

    Each costs a pause of 25 ms, and a round trip in which only the probe is out.
    """
    server = LoopbackServer(latency=0.05, errors=chaos(1, share, [429]))
    came = ask(server, 1000, max_concurrent=slots)
    assert came[-1] <= most * len(came) * 0.05 / slots


def test_a_probe_that_takes_long_does_not_hold_up_all() -> None:
    """It was not refused at once, so it was let in; the answer may take minutes."""
    server = LoopbackServer(
        latency=lambda index, body: 120.0 if index == 4 else 0.1, errors=[429] * 4
    )
    came = ask(server, 12, **TIGHT)
    assert came[5] < 60.0


def test_a_hung_request_is_tried_again_at_the_default_timeout() -> None:
    """The timeout is 600 s, and there are two retries."""
    server = LoopbackServer(errors=["hang"])

    async def later(engine: Engine) -> str:
        await asyncio.sleep(1.0)
        return await engine.run(Ask(), "x")

    assert engine_on(reached({"m": endpoint()}, one=server), later) == "ok"
    assert 601.0 <= arrivals(server)[1] <= 602.0


def test_refusals_use_up_no_try() -> None:
    """Five of them, one retry allowed, and a 500 besides."""
    server = LoopbackServer(errors=[429, 429, 429, 500, 429, 429])
    came = ask(server, 1, retries=1)
    assert len(came) == 7


def test_failures_use_up_tries_whatever_refusals_come_between() -> None:
    """The second 500 is the last."""
    server = LoopbackServer(errors=[500, 429, 500])
    manager = reached({"m": endpoint(retries=1)}, one=server)
    with pytest.raises(ExecutionError, match="answered 500") as caught:
        engine_on(manager, lambda engine: engine.run(Ask(), "x"))
    assert (server.count, caught.value.attempt) == (3, 3)


def test_the_last_refusal_of_an_account_without_money_is_final() -> None:
    """No wait ends it."""
    body = {"error": {"message": "no money", "code": "insufficient_quota"}}
    server = LoopbackServer(errors=[(429, {}, body)])
    manager = reached({"m": endpoint()}, one=server)
    with pytest.raises(ExecutionError, match="Check the billing"):
        engine_on(manager, lambda engine: engine.run(Ask(), "x"))
    assert server.count == 1


def test_a_slot_is_free_while_a_retry_waits() -> None:
    """The other inputs pass; the retried one goes first once its pause is over."""
    server = LoopbackServer(latency=1.0, errors=[500])
    manager = reached({"m": endpoint(max_concurrent=1)}, one=server)
    engine_on(manager, lambda engine: engine.map(Ask(), "abcd"))
    assert prompts(server) == ["a", "b", "a", "c", "d"]
    assert arrivals(server) == [0, 1, 2, 3, 4]


def test_a_slot_is_free_while_a_request_waits_for_a_rate() -> None:
    """Of two endpoints, one that must wait does not keep the other from going."""
    slow, fast = LoopbackServer(latency=0.5), LoopbackServer(latency=0.5)
    table = {
        "m": endpoint("one", requests_per_minute=6, max_concurrent=1),
        "n": endpoint("two", max_concurrent=1),
    }
    manager = reached(table, one=slow, two=fast)

    async def both(engine: Engine) -> None:
        await asyncio.gather(engine.map(Ask(), "abc"), engine.map(Ask("n"), "abc"))

    engine_on(manager, both)
    assert (arrivals(slow), arrivals(fast)) == ([0, 10, 20], [0, 0.5, 1])


# -- whose limits they are --------------------------------------------------------


def test_two_aliases_of_one_deployment_share_all_its_limits() -> None:
    """Slots, rate and pauses are the endpoint's, not the alias's."""
    same = endpoint(requests_per_minute=60, max_concurrent=8)
    server = LoopbackServer(errors=[None, (429, {"retry-after": "9"}, "slow down")])
    manager = reached({"m": same, "n": same}, one=server)

    async def both(engine: Engine) -> None:
        await asyncio.gather(engine.map(Ask(), "ab"), engine.map(Ask("n"), "cd"))

    engine_on(manager, both)
    assert arrivals(server) == [0, 1, 10, 11, 12]
    assert len(manager._deployments) == 1


@pytest.mark.parametrize("own", [{"retries": 0}, {"timeout": 5.0}])
def test_aliases_share_the_window_of_one_deployment(own: dict[str, Any]) -> None:
    """Two at once, whoever asks, and whatever is the alias's own affair."""
    same = endpoint(max_concurrent=2)
    server = LoopbackServer(latency=1.0)
    manager = reached({"m": same, "n": {**same, **own}}, one=server)

    async def main() -> None:
        requests = (manager.complete(alias, hello()) for alias in "mnmnmn")
        await asyncio.gather(*requests)

    VirtualTimeLoop.run(main())
    assert len(manager._deployments) == 1
    assert arrivals(server) == [0, 0, 1, 1, 2, 2]


def test_priority_then_age_decide_who_leaves_first() -> None:
    """At a rate of one a second."""
    server = LoopbackServer()
    table = {"m": endpoint(requests_per_minute=60)}
    manager = reached(table, one=server)
    orders = {"low": Order(0, 5), "old": Order(0, 1), "urgent": Order(-1, 9)}

    async def main() -> None:
        jobs = [manager.complete("m", hello(t), order=o) for t, o in orders.items()]
        await asyncio.gather(*jobs)

    VirtualTimeLoop.run(main())
    assert prompts(server) == ["urgent", "old", "low"]


# -- over sockets, in real time ---------------------------------------------------


async def really(server: LoopbackServer, inputs: int, **options: Any) -> float:
    """Map so many inputs over sockets; return the seconds it took."""
    await server.listen()
    table = endpoint(**{"base_url": server.base_url, **options})
    async with Engine({"endpoints": {"m": table}}, progress=False) as engine:
        began = asyncio.get_running_loop().time()
        await engine.map(Ask(), map(str, range(inputs)))
        seconds = asyncio.get_running_loop().time() - began
        assert [d.in_use for d in engine.resources._deployments] == [0]
    await server.aclose()
    assert server.answered == inputs
    return seconds


async def test_sockets_requests_per_minute() -> None:
    """20 a second: 25 requests take a second, and the same limit refuses none."""
    server = LoopbackServer(requests_per_minute=1200, headers=False)
    seconds = await really(server, 25, requests_per_minute=1200)
    assert seconds >= 0.99
    assert server.statuses == {200: 25}


async def test_sockets_an_unknown_rate_is_learnt_from_headers() -> None:
    """20 at once, then 20 a second: 40 requests take a second; few are refused."""
    server = LoopbackServer(latency=0.02, requests_per_minute=1200, burst=20)
    assert await really(server, 40) >= 0.99
    assert server.statuses[429] <= 2


async def test_sockets_a_hidden_limit_at_once_loses_nobody() -> None:
    """The window settles near 40; how many are refused depends on the machine."""
    server = LoopbackServer(latency=0.02, max_concurrent=40)
    await really(server, 600)
    assert server.statuses[429] <= 150


async def test_sockets_a_pause_is_kept() -> None:
    """Retry-After in milliseconds; nothing comes before."""
    refusal = (429, {"retry-after-ms": "300"}, "slow down")
    server = LoopbackServer(errors=[refusal])
    await really(server, 6, max_concurrent=2)
    first, *_, last = came = arrivals(server)
    assert [at for at in came if first + 0.1 < at < first + 0.29] == []
    assert last >= first + 0.3
