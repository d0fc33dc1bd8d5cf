"""Several deployments behind an alias, fallbacks across aliases, circuit breakers.

In virtual time: two or three servers without sockets (`limit_helpers`).
"""

import asyncio
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask
from tests.integration.limit_helpers import (
    arrivals,
    endpoint,
    engine_on,
    hello,
    prompts,
    reached,
)

from inf_engine import Engine, ExecutionError
from inf_engine.errors import (
    EndpointConnectionError,
    EndpointServerError,
    MissingKeyError,
    RequestRefusedError,
)
from inf_engine.resources.manager import ResourceManager
from inf_engine.testing import LoopbackServer, VirtualTimeLoop

DOWN = "reset"


def always(fault: Any) -> Any:
    """Errors of a server that fails every request."""
    return lambda index, body: fault


def until(count: int, fault: Any = DOWN) -> Any:
    """Errors of a server that fails so many requests."""
    return lambda index, body: fault if index < count else None


def pair(**options: Any) -> dict[str, Any]:
    """The table of an endpoint with two deployments."""
    hosts = [{"base_url": f"http://{host}.test/v1"} for host in ("one", "two")]
    given = {"max_concurrent": 4, **options}
    return endpoint("any", deployments=hosts, **given)


def mapped(manager: ResourceManager, inputs: int, **options: Any) -> list[Any]:
    """The results of so many inputs, failures among them."""

    async def main(engine: Engine) -> list[Any]:
        inputs_ = map(str, range(inputs))
        return await engine.using(**options).map(Ask(), inputs_, errors="collect")

    return engine_on(manager, main)


def fallen(fallbacks: dict[str, list[str]], **servers: LoopbackServer) -> Any:
    """Aliases named like their servers, each with its fallbacks."""
    table = {
        name: endpoint(name, fallbacks=fallbacks.get(name, []), retries=0)
        for name in servers
    }
    return reached(table, None, **servers)


# -- several deployments of one alias ---------------------------------------------


def test_two_deployments_take_twice_as_much() -> None:
    """Each has its own slots."""
    one, two = LoopbackServer(latency=1.0), LoopbackServer(latency=1.0)
    manager = reached({"m": pair(max_concurrent=2)}, one=one, two=two)
    mapped(manager, 8)
    assert arrivals(one) == arrivals(two) == [0, 0, 1, 1]


def test_the_least_loaded_deployment_goes_first() -> None:
    """By the share of its slots in use: 2 of 8 are as much as 1 of 4."""
    hosts = [
        {"base_url": "http://one.test/v1", "max_concurrent": 8},
        {"base_url": "http://two.test/v1", "max_concurrent": 4},
    ]
    one, two = LoopbackServer(latency=1.0), LoopbackServer(latency=1.0)
    table = endpoint("any", deployments=hosts)
    manager = reached({"m": table}, one=one, two=two)
    mapped(manager, 6)
    assert (one.max_in_flight, two.max_in_flight) == (4, 2)


def test_of_equally_loaded_deployments_the_faster_goes_first() -> None:
    """Requests one at a time: once both are known, the slow one gets none."""
    one, two = LoopbackServer(latency=3.0), LoopbackServer(latency=1.0)
    manager = reached({"m": pair()}, one=one, two=two)

    async def main() -> None:
        await asyncio.gather(*(manager.complete("m", hello()) for _ in "ab"))
        for _ in range(5):
            await manager.complete("m", hello())

    VirtualTimeLoop.run(main())
    assert (one.count, two.count) == (1, 6)


def test_a_faster_deployment_serves_more() -> None:
    """Whoever has a free slot takes the next: three times as fast, thrice as many."""
    one, two = LoopbackServer(latency=3.0), LoopbackServer(latency=1.0)
    mapped(reached({"m": pair()}, one=one, two=two), 64)
    assert (one.count, two.count) == (16, 48)


def test_a_paused_deployment_does_not_hold_up_the_other() -> None:
    """One has said for how long it wants none; the other takes all."""
    refusal = (429, {"retry-after": "60"}, "slow down")
    one = LoopbackServer(latency=1.0, errors=[refusal] * 4)
    two = LoopbackServer(latency=1.0)
    results = mapped(reached({"m": pair()}, one=one, two=two), 40)
    assert all(result.ok for result in results)
    assert (one.count, two.count) == (4, 40)
    assert arrivals(two)[-1] == 9


@pytest.mark.parametrize("fault", [DOWN, 500, 503])
def test_a_deployment_that_is_down_gets_only_probes(fault: Any) -> None:
    """Five failures open its breaker; one probe after 1 s, 2 s more, 4 s more."""
    one = LoopbackServer(latency=0.05, errors=always(fault))
    two = LoopbackServer(latency=1.0)
    table = {"m": pair(retries=20)}
    results = mapped(reached(table, one=one, two=two), 40)
    assert all(result.ok for result in results)
    assert two.count == 40
    assert one.count <= 5 + 4 + 4  # what was on its way when it opened, and probes


@pytest.mark.parametrize("inputs", [1, 2])
def test_a_dead_deployment_costs_no_request(inputs: int) -> None:
    """Two retries are enough while the other deployment is well."""
    one, two = LoopbackServer(errors=always(DOWN)), LoopbackServer(latency=1.0)
    results = mapped(reached({"m": pair(retries=2)}, one=one, two=two), inputs)
    assert [result.error for result in results if not result.ok] == []


def test_a_deployment_that_comes_back_is_used_again() -> None:
    """The first answered probe closes its breaker."""
    one = LoopbackServer(latency=1.0, errors=until(5))
    two = LoopbackServer(latency=1.0)
    table = {"m": pair(retries=20)}
    results = mapped(reached(table, one=one, two=two), 80)
    assert all(result.ok for result in results)
    assert one.answered >= 20


def test_all_deployments_share_the_retries_of_their_alias() -> None:
    """Two retries are three tries, wherever they go."""
    one, two = (LoopbackServer(errors=always(500)) for _ in "ab")
    (result,) = mapped(reached({"m": pair(retries=2)}, one=one, two=two), 1)
    assert isinstance(result.error, EndpointServerError)
    assert one.count + two.count == 3


def test_the_key_of_every_deployment_is_asked_for_before_anything_is_paid() -> None:
    """The second one's is not set."""
    hosts = [
        {"base_url": "http://one.test/v1"},
        {"base_url": "http://two.test/v1", "api_key_env": "A_KEY"},
    ]
    server = LoopbackServer()
    table = endpoint("any", deployments=hosts)
    manager = ResourceManager({"endpoints": {"m": table}}, environ={})

    async def main(engine: Engine) -> None:
        with pytest.raises(MissingKeyError, match="A_KEY is not set"):
            await engine.run(Ask(), "x")

    engine_on(manager, main)
    assert server.count == 0


# -- fallbacks --------------------------------------------------------------------


def test_fallbacks_are_tried_in_order_each_once() -> None:
    """The third answers; nobody is asked twice."""
    a, b = (LoopbackServer(errors=always(500)) for _ in "ab")
    c, d = LoopbackServer("from c"), LoopbackServer("from d")
    manager = fallen({"m": ["b", "c", "d"]}, m=a, b=b, c=c, d=d)
    (result,) = mapped(manager, 1)
    assert result.output == "from c"
    assert [server.count for server in (a, b, c, d)] == [1, 1, 1, 0]


def test_the_fallbacks_of_a_fallback_count() -> None:
    """And circles end: each alias fails a request once."""
    a, b, c = (LoopbackServer(errors=always(500)) for _ in "abc")
    manager = fallen({"m": ["b"], "b": ["c"], "c": ["m"]}, m=a, b=b, c=c)
    (result,) = mapped(manager, 1)
    assert isinstance(result.error, EndpointServerError)
    assert [server.count for server in (a, b, c)] == [1, 1, 1]


def test_a_circle_of_two_ends() -> None:
    """With the error of the last one that was asked."""
    a = LoopbackServer(errors=always(500))
    b = LoopbackServer(errors=always((400, {}, "the words of b")))
    manager = fallen({"m": ["b"], "b": ["m"]}, m=a, b=b)
    (result,) = mapped(manager, 1)
    assert isinstance(result.error, RequestRefusedError)
    assert "the words of b" in str(result.error)
    assert (a.count, b.count) == (1, 1)


@pytest.mark.parametrize("status", [400, 401, 404, 500, "malformed", "reset"])
def test_every_failure_of_an_endpoint_leads_to_its_fallback(status: Any) -> None:
    """Also those that are not tried again; `Wireless` ends named faults as resets."""
    a, b = LoopbackServer(errors=always(status)), LoopbackServer("from b")
    (result,) = mapped(fallen({"m": ["b"]}, m=a, b=b), 1)
    assert (result.output, a.count, b.count) == ("from b", 1, 1)


def test_an_account_without_money_leads_to_the_fallback() -> None:
    """A 429 that no wait ends."""
    body = {"error": {"message": "no money", "code": "insufficient_quota"}}
    a, b = LoopbackServer(errors=always((429, {}, body))), LoopbackServer("from b")
    (result,) = mapped(fallen({"m": ["b"]}, m=a, b=b), 1)
    assert (result.output, a.count, b.count) == ("from b", 1, 1)


def test_each_alias_has_its_own_retries() -> None:
    """Two of the first, four of the second."""
    a, b = (LoopbackServer(errors=always(500)) for _ in "ab")
    table = {
        "m": endpoint("a", retries=1, fallbacks=["n"]),
        "n": endpoint("b", retries=3),
    }
    mapped(reached(table, a=a, b=b), 1)
    assert (a.count, b.count) == (2, 4)


def test_retries_of_the_engine_hold_for_every_alias() -> None:
    """`using(retries=0)`: one try of each."""
    a, b = (LoopbackServer(errors=always(500)) for _ in "ab")
    table = {
        "m": endpoint("a", retries=5, fallbacks=["n"]),
        "n": endpoint("b", retries=5),
    }
    mapped(reached(table, a=a, b=b), 1, retries=0)
    assert (a.count, b.count) == (1, 1)


@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (1, 2), (4, 5)])
def test_using_retries_counts_at_the_server(retries: int, tries: int) -> None:
    """Whatever the endpoint says."""
    server = LoopbackServer(errors=always(500))
    manager = reached({"m": endpoint(retries=2)}, one=server)
    mapped(manager, 1, retries=retries)
    assert server.count == tries


def test_with_no_retries_a_refusal_by_a_limit_is_final() -> None:
    """0 means: never send it twice."""
    server = LoopbackServer(errors=[429])
    (result,) = mapped(reached({"m": endpoint()}, one=server), 1, retries=0)
    assert (server.count, result.ok) == (1, False)


def test_a_fallback_is_asked_for_its_own_model() -> None:
    """Not for the first one's."""
    a, b = LoopbackServer(errors=always(500)), LoopbackServer()
    table = {
        "m": endpoint("a", retries=0, model="big", fallbacks=["n"]),
        "n": endpoint("b", model="small"),
    }
    mapped(reached(table, a=a, b=b), 1)
    assert (a.bodies[0]["model"], b.bodies[0]["model"]) == ("big", "small")


def test_the_key_of_a_fallback_is_asked_for_before_anything_is_paid() -> None:
    """Not when the first alias has failed at night."""
    table = {
        "m": endpoint("one", fallbacks=["n"]),
        "n": endpoint("two", api_key_env="B_KEY"),
    }
    manager = ResourceManager({"endpoints": table}, environ={})

    async def main(engine: Engine) -> None:
        with pytest.raises(MissingKeyError, match=r"'n'.*B_KEY is not set"):
            await engine.run(Ask(), "x")

    engine_on(manager, main)


def test_the_key_of_a_fallbacks_fallback_is_asked_for_too() -> None:
    """All that a request may come to."""
    table = {
        "m": endpoint("one", fallbacks=["n"]),
        "n": endpoint("two", fallbacks=["o"]),
        "o": endpoint("three", api_key_env="C_KEY"),
    }
    manager = ResourceManager({"endpoints": table}, environ={})
    with pytest.raises(MissingKeyError, match="C_KEY is not set"):
        manager.check("m")


# -- circuit breakers -------------------------------------------------------------


def breaker_of(manager: ResourceManager) -> str:
    return manager._deployments[0].breaker.state


def test_five_failures_in_a_row_open_the_breaker_and_one_probe_closes_it() -> None:
    """Nothing leaves for a second, then one, then all."""
    server = LoopbackServer(latency=1.0, errors=until(5, 500))
    manager = reached({"m": endpoint(max_concurrent=5, retries=9)}, one=server)
    mapped(manager, 5)
    came = arrivals(server)
    assert came[:5] == [0, 0, 0, 0, 0]
    assert came[5:] == [2, 3, 3, 3, 3]
    assert breaker_of(manager) == "closed"


def test_a_failed_probe_doubles_the_time() -> None:
    """1 s, 2 s, 4 s."""
    server = LoopbackServer(latency=1.0, errors=until(8, 500))
    manager = reached({"m": endpoint(max_concurrent=5, retries=20)}, one=server)
    mapped(manager, 5)
    assert arrivals(server)[5:9] == [2, 5, 10, 19]


def test_refusals_do_not_open_the_breaker() -> None:
    """400, 429: it is well, it does not want to."""
    server = LoopbackServer(errors=[400] * 4 + [429] * 4 + [404] * 4)
    manager = reached({"m": endpoint(max_concurrent=1)}, one=server)
    mapped(manager, 12)
    assert server.count == 16
    assert breaker_of(manager) == "closed"


def test_when_its_breaker_opens_who_waits_goes_to_the_fallback() -> None:
    """Without a try at the one that is down, but for its probes."""
    a = LoopbackServer(latency=0.1, errors=always(DOWN))
    b = LoopbackServer("from b", latency=1.0)
    table = {
        "m": endpoint("a", retries=0, fallbacks=["n"], max_concurrent=2),
        "n": endpoint("b", max_concurrent=2),
    }
    results = mapped(reached(table, a=a, b=b), 40)
    assert {result.output for result in results} == {"from b"}
    assert b.count == 40
    assert a.count <= 5 + 1 + 6
    assert arrivals(b)[-1] < 21


def test_while_its_breaker_is_open_requests_go_to_the_fallback_at_once() -> None:
    """Who comes later does not even try the one that is down."""
    a, b = LoopbackServer(errors=always(DOWN)), LoopbackServer("from b", latency=0.1)
    table = {
        "m": endpoint("a", retries=0, fallbacks=["n"], max_concurrent=1),
        "n": endpoint("b"),
    }

    async def main(engine: Engine) -> None:
        for _ in range(12):
            assert await engine.run(Ask(), "x") == "from b"

    engine_on(reached(table, a=a, b=b), main)
    assert arrivals(a) == [0, 0.1, 0.2, 0.3, 0.4]
    assert b.count == 12


def test_when_all_are_down_requests_wait_for_the_first() -> None:
    """And are answered when it comes back."""
    a = LoopbackServer("from a", errors=until(9, 500))
    b = LoopbackServer("from b", errors=always(500))
    table = {
        "m": endpoint("a", retries=9, fallbacks=["n"], max_concurrent=2),
        "n": endpoint("b", retries=9, max_concurrent=2),
    }
    results = mapped(reached(table, a=a, b=b), 10)
    assert {result.output for result in results} == {"from a"}


def test_a_cancelled_probe_lets_another_leave() -> None:
    """Who waits for it must not wait for ever."""
    server = LoopbackServer(errors=[500] * 5 + ["hang"])
    manager = reached({"m": endpoint(max_concurrent=1, retries=9)}, one=server)

    async def main(engine: Engine) -> None:
        runs = [asyncio.ensure_future(engine.run(Ask(), text)) for text in "ab"]
        await server.until(lambda: server.count == 6)
        probe = prompts(server)[-1]
        runs["ab".index(probe)].cancel()
        assert await runs[1 - "ab".index(probe)] == "ok"

    engine_on(manager, main)
    assert server.count == 7
    assert breaker_of(manager) == "closed"


def test_the_error_of_a_dead_endpoint_says_what_happened() -> None:
    """The node, the alias that was asked for, the tries."""
    server = LoopbackServer(errors=always(DOWN))
    manager = reached({"m": endpoint(retries=1)}, one=server)
    with pytest.raises(ExecutionError, match="alias 'm'.*hung up") as caught:
        engine_on(manager, lambda engine: engine.run(Ask(), "x"))
    assert isinstance(caught.value, EndpointConnectionError)
    assert caught.value.attempt == 2
