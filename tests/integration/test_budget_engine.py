"""Budgets at the far end: what an endpoint was asked, and what was never sent."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Flow, echo, virtually
from tests.integration.limit_helpers import endpoint, reached

from inf_engine import Engine, ExecutionError
from inf_engine import functional as F
from inf_engine.errors import (
    BudgetExceededError,
    ConfigurationError,
    EndpointConnectionError,
)
from inf_engine.resources.budget import Budget, BudgetSpent
from inf_engine.resources.manager import ResourceManager
from inf_engine.testing import LoopbackServer
from inf_engine.types import LLMRequest, LLMResponse, Usage

PRICE = {"input": 0.0, "output": 10_000.0}  # a cent for each token that is written


def spending(
    read: int = 5, written: int = 10, error: Callable[[], Any] = lambda: None
) -> Any:
    """A client whose answers take a second, and so many tokens."""

    def answer(request: LLMRequest) -> Any:
        failure = error()
        if failure is not None:
            return failure
        return LLMResponse(
            text=request.prompt.upper(), usage=Usage(1, read, written), model="x"
        )

    return echo(1.0, answer)


def of(client: Any, slots: int = 8, **options: Any) -> ResourceManager:
    """A manager with one endpoint, answered by a fake client."""
    manager = ResourceManager({"m": endpoint(max_concurrent=slots, **options)})
    manager._routes["m"].deployments[0].client = client
    return manager


def under(budget: Budget, manager: Any, body: Any, **options: Any) -> Any:
    """Run `body(engine)` with a budget; return what it gives."""

    async def main() -> Any:
        async with Engine(manager, budget=budget, progress=False, **options) as engine:
            return await body(engine)

    return virtually(main)


def collected(budget: Budget, manager: Any, module: Any, count: int, **o: Any) -> Any:
    """Map a module over so many inputs, collecting errors."""
    inputs = [f"in {i}" for i in range(count)]
    body = lambda e: e.map(module, inputs, errors="collect")  # noqa: E731
    return under(budget, manager, body, **o)


def spent(manager: ResourceManager) -> BudgetSpent:
    """What the account of a manager says."""
    account = manager.spending.account
    assert account is not None
    return account.spent


def watched(manager: ResourceManager, check: Callable[[BudgetSpent], bool]) -> None:
    """Check the account whenever a request arrives at the client."""
    client = manager._routes["m"].deployments[0].client
    inner = client._answer

    def answer(request: LLMRequest) -> Any:
        assert check(spent(manager)), spent(manager)
        return inner(request)

    client._answer = answer


# -- requests ----------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 8, 64])
@pytest.mark.parametrize("limit", [1, 7, 20])
def test_requests_are_exact(slots: int, limit: int) -> None:
    """The server sees so many; those results are there, the others say why not."""
    server = LoopbackServer("ok", latency=1.0)
    manager = reached({"m": endpoint(max_concurrent=slots)}, one=server)
    results = collected(Budget(requests=limit), manager, Ask(), 30)
    assert server.count == limit
    assert sum(r.output == "ok" for r in results) == limit
    refused = [r.error for r in results if not r.ok]
    assert len(refused) == 30 - limit
    assert all(isinstance(e, BudgetExceededError) for e in refused)
    assert all(isinstance(e, ExecutionError) for e in refused)
    assert f"the limit is {limit} request" in str(refused[-1])


def test_tries_count_too() -> None:
    """What the server refused, or dropped, is one of them: exactly so many arrive."""
    faults: Any = [500, None, "reset", 429, None, 500] * 3
    server = LoopbackServer("ok", latency=1.0, errors=faults)
    manager = reached({"m": endpoint(max_concurrent=4)}, one=server)
    results = collected(Budget(requests=13), manager, Ask(), 30)
    assert server.count == 13
    assert sum(r.ok for r in results) == server.statuses[200]
    total = manager.spending.ledger.snapshot().total
    assert (total.tries, total.in_flight) == (13, 0)
    assert spent(manager).requests == 13


def test_a_run_that_goes_over_it() -> None:
    """It raises, and tells what it had until then; nothing is sent afterwards."""
    server = LoopbackServer("ok", latency=1.0)
    manager = reached({"m": endpoint()}, one=server)
    chain = Flow(lambda m, x: m.llm(m.llm(m.llm(x))))

    async def body(engine: Engine) -> Any:
        with pytest.raises(BudgetExceededError, match="was not sent. Raise the l") as e:
            await engine.run(chain, "a")
        for _ in range(3):
            with pytest.raises(BudgetExceededError):
                await engine.run(Ask(), "b")
        return e.value.record

    record = under(Budget(requests=2), manager, body)
    assert [node.output for node in record.nodes] == ["ok", "ok", None]
    assert record.usage.requests == 2
    assert server.count == 2


def test_a_map_that_raises_ends_at_the_first_refusal() -> None:
    """What is in flight is cancelled, as for any other failure."""
    client = spending()

    async def body(engine: Engine) -> Any:
        with pytest.raises(
            BudgetExceededError, match="the limit is 2 requests: 2 requests spent"
        ):
            await engine.map(Ask(), [f"{i}" for i in range(9)])

    under(Budget(requests=2), of(client, slots=1), body)
    assert len(client.requests) == 2


# -- tokens ------------------------------------------------------------------------


def test_tokens_are_reserved_before_and_corrected_after() -> None:
    """Never more than the budget in flight and spent; what fits later waits for it."""
    client = spending(read=5, written=10)
    manager = of(client)
    watched(manager, lambda s: s.tokens + s.reserved_tokens + s.unknown_tokens <= 250)
    results = collected(Budget(tokens=250), manager, Ask(max_tokens=100), 40)
    done = sum(r.ok for r in results)
    assert len(client.requests) == done
    assert spent(manager).tokens == 15 * done
    assert 15 * done <= 250 < 15 * done + 100 + 15
    assert client.arrivals[:3] == [0.0, 0.0, 1.0]
    assert "the limit is 250 tokens" in str(results[-1].error)
    assert "ask for fewer max_tokens" in str(results[-1].error)


def test_what_may_fit_later_waits() -> None:
    """Two that do not fit at once go one after the other, and none fails."""
    client = spending(read=1, written=10)
    results = collected(Budget(tokens=150), of(client), Ask(max_tokens=100), 2)
    assert [r.ok for r in results] == [True, True]
    assert client.arrivals == [0.0, 1.0]


def test_what_can_never_fit_fails_at_once() -> None:
    """It does not wait for those in flight, and takes nobody along."""
    client = spending()

    async def body(engine: Engine) -> Any:
        small = asyncio.create_task(engine.run(Ask(max_tokens=50), "a"))
        await asyncio.sleep(0.5)
        with pytest.raises(BudgetExceededError, match="asks for up to"):
            await engine.run(Ask(max_tokens=500), "b")
        assert asyncio.get_running_loop().time() == 0.5
        return await small, await engine.run(Ask(max_tokens=50), "c")

    assert under(Budget(tokens=200), of(client), body) == ("A", "C")


def test_waiting_ends_when_those_in_flight_fail() -> None:
    """A cancelled one leaves its bound as unknown; a refused one leaves nothing."""
    client = spending()
    manager = of(client, retries=0)

    async def body(engine: Engine) -> Any:
        ask = Ask(max_tokens=100)
        lost = asyncio.create_task(engine.run(ask, "a"))
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(engine.run(ask, "b"))
        await asyncio.sleep(0.1)
        assert len(client.requests) == 1
        lost.cancel()
        await asyncio.wait([lost, waiting])
        assert lost.cancelled()
        with pytest.raises(BudgetExceededError, match="perhaps spent on lost answers"):
            await waiting

    under(Budget(tokens=150), manager, body)
    assert len(client.requests) == 1
    assert spent(manager).unknown_tokens >= 100
    assert spent(manager).reserved_tokens == 0


def test_a_refused_request_costs_no_tokens() -> None:
    """400 is certain: all of the budget is there for the next."""
    server = LoopbackServer("ok", latency=1.0, errors=[400])
    manager = reached({"m": endpoint(max_concurrent=1)}, one=server)
    results = collected(Budget(tokens=150), manager, Ask(max_tokens=100), 2)
    assert [r.ok for r in results] == [False, True]
    assert not isinstance(results[0].error, BudgetExceededError)


# -- money -------------------------------------------------------------------------


def test_money_by_the_price_of_the_config() -> None:
    """Reserved at the bound, spent at the cost; it is shown in the answers' books."""
    client = spending(read=5, written=10)
    manager = of(client, price=PRICE)
    watched(manager, lambda s: s.usd + s.reserved_usd + s.unknown_usd <= 1.0 + 1e-9)
    results = collected(Budget(usd=1.0), manager, Ask(max_tokens=20), 40)
    done = sum(r.ok for r in results)
    assert done == 9  # 0.80 spent, and 0.20 reserved for the last
    assert len(client.requests) == 9
    assert spent(manager).usd == pytest.approx(0.9)
    assert manager.spending.ledger.snapshot().total.cost == pytest.approx(0.9)
    assert "the limit is $1.00: $0.90 spent" in str(results[-1].error)


def test_the_last_cent_can_be_spent() -> None:
    """Money is counted in whole units: 0.1 three times fits into 0.3."""
    client = spending(read=5, written=10)
    manager = of(client, slots=1, price=PRICE)
    results = collected(Budget(usd=0.3), manager, Ask(max_tokens=10), 5, timeout=100.0)
    assert [r.ok for r in results] == [True, True, True, False, False]
    assert isinstance(results[-1].error, BudgetExceededError)


@pytest.mark.parametrize("where", ["endpoint", "fallback", "client"])
def test_a_model_without_a_price(where: str) -> None:
    """A budget in usd is refused before anything is paid; one in tokens is not."""
    client = spending()
    priced = endpoint(price=PRICE, fallbacks=["n"] if where == "fallback" else [])
    free = endpoint("two")
    resources: dict[str, Any] = {
        "m": free if where == "endpoint" else priced,
        "n": free,
    }
    if where == "client":
        resources = {"m": client}

    async def main(budget: Budget) -> Any:
        async with Engine(resources, budget=budget, progress=False) as engine:
            for deployment in engine.resources._deployments:
                deployment.client = client
            return await engine.run(Ask(), "a")

    with pytest.raises(ConfigurationError, match=r"a budget in usd needs a price"):
        virtually(lambda: main(Budget(usd=1.0)))
    assert client.requests == []
    assert virtually(lambda: main(Budget(tokens=1000))) == "A"


# -- seconds -----------------------------------------------------------------------


def test_seconds_begin_with_the_first_request() -> None:
    """What is in flight goes on; what has not left when they are over never does."""
    client = spending()
    chain = Flow(lambda m, x: F.gather(m.llm(m.llm(m.llm(m.llm(x)))), m.llm(f"{x}!")))

    async def body(engine: Engine) -> Any:
        await asyncio.sleep(100)
        with pytest.raises(BudgetExceededError, match=r"3\.0 of 2\.5 seconds are over"):
            await engine.run(chain, "a")

    under(Budget(seconds=2.5), of(client), body)
    assert client.arrivals == [100.0, 100.0, 101.0, 102.0]
    assert client.cancelled == 0


# -- with the rest -----------------------------------------------------------------


def test_the_journal_is_free(tmp_path: Path) -> None:
    """A run may be spread over budgets: each goes on where the last one ended."""
    chain = Flow(lambda m, x: m.llm(m.llm(f"{x} one")))
    done = []
    for _ in range(6):
        client = spending()
        results = collected(
            Budget(requests=4), of(client), chain, 10, journal=tmp_path / "run.db"
        )
        done.append((len(client.requests), sum(r.ok for r in results)))
    assert [sent for sent, _ in done] == [4, 4, 4, 4, 4, 0]
    assert done[-1] == (0, 10)


def test_those_that_follow_are_free_and_a_refused_leader_sends_nothing(
    tmp_path: Path,
) -> None:
    """Ten equal requests are one of the budget; beyond it each of them fails."""
    client = spending()

    async def body(engine: Engine) -> Any:
        inputs = ["a"] * 10 + ["b"] * 10
        return await engine.map(Ask(), inputs, errors="collect")

    results = under(Budget(requests=1), of(client), body, cache=tmp_path / "cache.db")
    assert [r.ok for r in results] == [True] * 10 + [False] * 10
    assert len(client.requests) == 1


def test_a_retry_is_refused_like_any_other() -> None:
    """The second try does not fit: the budget's error, not the endpoint's."""
    client = spending(error=lambda: EndpointConnectionError("hung up"))
    results = collected(Budget(requests=1), of(client), Ask(), 1)
    assert isinstance(results[0].error, BudgetExceededError)
    assert len(client.requests) == 1


def test_what_is_no_budget_is_refused() -> None:
    """A number could be anything."""
    number: Any = 5
    with pytest.raises(ConfigurationError, match="budget must be a Budget, not int"):
        Engine({"m": echo()}, budget=number)


def test_nothing_is_left_reserved() -> None:
    """Whatever the end of the runs: reserved is what is in flight."""
    client = spending()
    manager = of(client)

    async def body(engine: Engine) -> Any:
        mapping = asyncio.create_task(engine.map(Ask(), [f"{i}" for i in range(30)]))
        await asyncio.sleep(1.5)
        assert spent(manager).reserved_requests == client.in_flight == 8
        mapping.cancel()
        await asyncio.wait([mapping])

    under(Budget(requests=100), manager, body)
    assert spent(manager).reserved_requests == 0
    assert spent(manager).requests == len(client.requests) == 16
