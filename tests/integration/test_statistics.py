"""`engine.statistics()` at the far end: every try is in the books, once."""

import asyncio
import random
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Flow, echo, virtually
from tests.integration.limit_helpers import arrivals, endpoint, reached

from inf_engine import Budget, Engine, InferenceModule, LLMInference
from inf_engine import functional as F
from inf_engine.errors import (
    AnswerError,
    EndpointConnectionError,
    EndpointServerError,
    RateLimitError,
    RequestRefusedError,
)
from inf_engine.resources.manager import ResourceManager
from inf_engine.resources.statistics import EngineStatistics, Statistics
from inf_engine.testing import FunctionClient, LoopbackServer, chaos
from inf_engine.types import LLMRequest, LLMResponse, Usage


def books(resources: Any, body: Any, **options: Any) -> EngineStatistics:
    """Run `body(engine)`; return the statistics at the end."""

    async def main() -> EngineStatistics:
        async with Engine(resources, progress=False, **options) as engine:
            await body(engine)
        return engine.statistics()

    return virtually(main)


def check(found: EngineStatistics) -> Statistics:
    """Check that the parts are the whole, and that nothing is in flight."""
    total = found.total
    assert total.in_flight == 0
    assert total.tries == total.requests + total.failures + total.unknown
    for parts in (found.by_alias, found.by_module):
        summed = sum(parts.values(), Statistics())
        for field in fields(Statistics):
            part, whole = getattr(summed, field.name), getattr(total, field.name)
            assert part == pytest.approx(whole, rel=1e-12), field.name
    return total


def using(usage: Usage, seconds: float = 1.0, **options: Any) -> Any:
    """A client whose answers use so many tokens."""
    return echo(seconds, lambda r: LLMResponse(text="ok", usage=usage, **options))


def of(client: Any, **options: Any) -> ResourceManager:
    """A manager with one endpoint, answered by a fake client."""
    manager = ResourceManager({"m": endpoint(**options)})
    manager._random.seed(5)
    manager._routes["m"].deployments[0].client = client
    return manager


class Two(InferenceModule):
    """Two modules and two aliases."""

    def __init__(self) -> None:
        super().__init__()
        self.one = LLMInference("m")
        self.two = LLMInference("n")

    def forward(self, text: str) -> Any:
        return self.two(f"{self.one(text)} {self.one(text + '!')}")


def test_before_the_first_request() -> None:
    """All is zero, and there are no parts."""
    found = Engine({"m": echo()}).statistics()
    assert found == EngineStatistics(Statistics(), {}, {})
    assert str(found).splitlines()[1].split()[:2] == ["total", "0"]


def test_by_alias_and_by_module() -> None:
    """Requests, tokens and seconds where they belong."""
    clients = {
        "m": using(Usage(1, 10, 3, 4, 2), 2.0),
        "n": using(Usage(1, 100, 7), 5.0),
    }
    found = books(clients, lambda e: e.map(Two(), ["a", "b", "c"]))
    total = check(found)
    assert list(found.by_alias) == ["m", "n"]
    assert list(found.by_module) == ["one", "two"]
    one, two = found.by_module.values()
    assert one == found.by_alias["m"]
    assert (one.requests, one.input_tokens, one.output_tokens) == (6, 60, 18)
    assert (one.cached_tokens, one.reasoning_tokens) == (24, 12)
    assert (two.requests, two.input_tokens, two.output_tokens) == (3, 300, 21)
    assert (one.wire_seconds, two.wire_seconds) == (12.0, 15.0)
    assert total.usage == Usage(9, 360, 39, 24, 12)
    assert (total.wait_seconds, total.unpriced) == (0.0, 9)


def test_nested_modules_have_their_paths() -> None:
    """The path is that of the module in the program, whatever ran it."""

    class Outer(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Two()
            self.last = LLMInference("m")

        def forward(self, text: str) -> Any:
            return self.last(self.inner(text))

    clients = {"m": echo(), "n": echo()}
    found = books(clients, lambda e: e.run(Outer(), "a"))
    check(found)
    counts = {path: part.requests for path, part in found.by_module.items()}
    assert counts == {"inner.one": 2, "inner.two": 1, "last": 1}


def test_seconds_in_the_queue_and_on_the_wire() -> None:
    """Three requests, one slot: 0 + 2 + 4 seconds queued, 2 each on the wire."""
    manager = of(echo(2.0), max_concurrent=1)
    total = check(books(manager, lambda e: e.map(Ask(), ["a", "b", "c"])))
    assert (total.wait_seconds, total.wire_seconds) == (6.0, 6.0)


def test_the_cost_by_the_price_of_the_config() -> None:
    """Cached tokens at their own rate; a cost that the client tells goes first."""
    price = {"input": 2.0, "output": 10.0, "cached": 0.5}
    usage = Usage(1, 1000, 100, 400)
    body = lambda e: e.map(Ask(), ["a", "b"])  # noqa: E731
    total = check(books(of(using(usage), price=price), body))
    assert total.cost == pytest.approx(2 * (600 * 2 + 400 * 0.5 + 100 * 10) / 1e6)
    assert total.unpriced == 0
    told = check(books(of(using(usage, cost=0.25), price=price), body))
    assert told.cost == 0.5
    unknown = check(books(of(using(usage)), body))
    assert (unknown.cost, unknown.unpriced) == (0.0, 2)


def test_the_cost_is_in_the_record_too() -> None:
    """Each answer tells what it cost; the sum is that of the books."""
    manager = of(using(Usage(1, 1000, 100)), price={"input": 2.0, "output": 10.0})
    costs: list[Any] = []

    async def body(engine: Engine) -> None:
        record = await engine.record(Flow(lambda m, x: m.llm(m.llm(x))), "a")
        answers = [call.response for node in record.nodes for call in node.calls]
        costs.extend(answer.cost for answer in answers if answer is not None)

    assert check(books(manager, body)).cost == pytest.approx(sum(costs))
    assert len(costs) == 2


def test_retries_are_tries() -> None:
    """What was refused failed; what hung up is unknown; the answer is the request."""
    outcomes = [
        EndpointServerError("broken", status=500),
        EndpointConnectionError("hung up"),
        RateLimitError("slower", status=429),
        "yes",
    ]
    rest = iter(outcomes)
    client = echo(1.0, lambda r: next(rest))
    ask = Ask(max_tokens=50)
    price = {"input": 0.0, "output": 1e6}
    found = books(of(client, price=price), lambda e: e.run(ask, "a"))
    total = check(found)
    counts = (total.tries, total.requests, total.failures, total.unknown)
    assert counts == (4, 1, 2, 1)
    assert total.wire_seconds == pytest.approx(4.0)
    assert total.unknown_tokens == 51
    assert total.unknown_cost == 50.0


PAID = {"input_tokens": 1000, "output_tokens": 100, "cached_tokens": 400}


@pytest.mark.parametrize("finish", ["length", "content_filter"])
@pytest.mark.parametrize(
    ("provider", "cost"), [("openai-compatible", 2400e-6), ("anthropic", 2400e-6)]
)
def test_an_answer_of_no_use_is_booked_as_it_was_paid(
    provider: str, cost: float, finish: str
) -> None:
    """Empty, cut or withheld: tokens and money are what the server said."""
    bad = {"text": "", "finish_reason": finish, "usage": PAID}
    server = LoopbackServer(lambda body: bad)
    price = {"input": 2.0, "output": 10.0, "cached": 0.5}
    manager = reached({"m": endpoint(provider=provider, price=price)}, one=server)
    budget = Budget(tokens=2200)
    errors: list[Any] = []

    async def body(engine: Engine) -> None:
        errors.extend(await engine.map(Ask(), ["a", "b"], errors="collect"))

    total = check(books(manager, body, budget=budget, max_inflight=1))
    counts = (total.tries, total.requests, total.failures, total.unknown)
    assert counts == (2, 2, 0, 0)
    assert total.usage == Usage(2, 2000, 200, 800)
    assert (total.unknown_tokens, total.unpriced) == (0, 0)
    assert total.cost == pytest.approx(2 * cost)
    account = manager.spending.account
    assert account is not None
    assert (account.spent.tokens, account.spent.unknown_tokens) == (2200, 0)
    error = errors[0].error
    assert isinstance(error, AnswerError)
    assert error.usage == Usage(1, 1000, 100, 400)
    assert error.response.finish_reason == finish
    assert error.response.id == "loopback-0"


def test_a_refusal_is_booked_as_it_was_paid() -> None:
    """OpenAI tells it beside the text, with its tokens."""
    message = {"role": "assistant", "content": None, "refusal": "Not I."}
    usage = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    told = {"id": "r1", "model": "x", "choices": [choice], "usage": usage}
    server = LoopbackServer("no", errors=[(200, {}, told)])
    price = {"input": 1.0, "output": 10.0}
    manager = reached({"m": endpoint(price=price)}, one=server)
    total = check(
        books(manager, lambda e: e.map(Ask(), ["a"], errors="collect"), max_inflight=1)
    )
    assert (total.requests, total.unknown) == (1, 0)
    assert total.usage == Usage(1, 30, 4)
    assert total.cost == pytest.approx(70e-6)


def test_an_answer_of_no_use_without_tokens_is_unknown() -> None:
    """The server does not say what it cost, so it may have cost the most."""
    empty = {"message": {"content": None}, "finish_reason": "length"}
    server = LoopbackServer("no", errors=[(200, {}, {"choices": [empty]})])
    manager = reached({"m": endpoint()}, one=server)
    body = lambda e: e.map(Ask(max_tokens=50), ["a"], errors="collect")  # noqa: E731
    total = check(books(manager, body))
    assert (total.requests, total.unknown, total.unknown_tokens) == (0, 1, 51)


def test_tokens_written_to_a_cache_have_their_price() -> None:
    """Anthropic tells them beside the input, of which they are a part."""
    usage = {
        "input_tokens": 600,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 300,
        "output_tokens": 10,
    }
    content = [{"type": "text", "text": "ok"}]
    message = {"content": content, "stop_reason": "end_turn", "usage": usage}
    server = LoopbackServer("no", errors=[(200, {}, message)] * 2)
    price = {"input": 3.0, "output": 15.0, "cached": 0.3, "cache_write": 3.75}
    table = {"provider": "anthropic", "price": price}
    manager = reached({"m": endpoint(**table)}, one=server)
    total = check(books(manager, lambda e: e.map(Ask(), ["a", "b"])))
    assert total.usage == Usage(2, 2000, 20, 200, 0, 600)
    assert total.cost == pytest.approx(2 * 0.003105)


def test_a_limit_of_a_day_holds_nothing_up() -> None:
    """A day's last request is followed by the next: the endpoint says when it is no."""
    told = {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "24h0m0s",
    }
    choice = {"message": {"content": "ok"}, "finish_reason": "stop"}
    late = (429, {"retry-after": "86.4"}, "slower")
    ok = (200, told, {"choices": [choice]})
    server = LoopbackServer("ok", errors=[ok, late, ok])
    manager = reached({"m": endpoint(max_concurrent=1)}, one=server)
    check(books(manager, lambda e: e.map(Ask(), ["a", "b"])))
    assert arrivals(server) == pytest.approx([0.0, 0.0, 86.4])


def test_cancelled_calls_are_unknown() -> None:
    """On the wire they may have been answered; in the queue they were no tries."""

    async def body(engine: Engine) -> None:
        mapping = asyncio.create_task(engine.map(Ask(), [f"{i}" for i in range(9)]))
        await asyncio.sleep(0.5)
        assert engine.statistics().total.in_flight == 4
        assert "In flight: 4." in str(engine.statistics())
        mapping.cancel()
        await asyncio.wait([mapping])

    total = check(books(of(echo(1.0), max_concurrent=4), body))
    assert (total.tries, total.unknown, total.requests) == (4, 4, 0)
    assert total.wire_seconds == 2.0


def test_streaming_counts_the_same() -> None:
    """A stream is one request, with its tokens; one that is left is unknown."""

    async def body(engine: Engine) -> None:
        async for _ in engine.stream_tokens(Ask(), "a b c"):
            pass
        stream = engine.stream_tokens(Ask(), "a b c")
        async for _ in stream:
            break
        await stream.aclose()

    total = check(books({"m": echo()}, body))
    assert (total.tries, total.requests, total.unknown) == (2, 1, 1)
    assert (total.input_tokens, total.output_tokens) == (3, 3)


def test_re_asks_and_tool_turns_are_requests_of_their_module() -> None:
    """Each of them has left, so each of them counts."""
    answers = iter(["no JSON", ["a"]])
    client = echo(1.0, lambda r: next(answers))
    found = books({"m": client}, lambda e: e.run(Ask(response_format=list[str]), "a"))
    assert check(found).requests == 2
    assert found.by_module["llm"].requests == 2


def test_a_fallback_has_its_own_line() -> None:
    """Tries are booked where they went; the module is the same."""
    resources = {"m": endpoint("one", retries=0, fallbacks=["n"]), "n": endpoint("two")}
    down, up = LoopbackServer("no", errors=[500] * 9), LoopbackServer("yes")
    found = books(
        reached(resources, one=down, two=up), lambda e: e.map(Ask(), ["a", "b"])
    )
    total = check(found)
    assert (total.tries, total.requests, total.failures) == (4, 2, 2)
    assert found.by_alias["m"].failures == down.count == 2
    assert found.by_alias["n"].requests == up.count == 2
    assert found.by_module["llm"] == total


def test_hits_are_no_tries(tmp_path: Path) -> None:
    """The journal's and the cache's, each in its column; they cost nothing."""
    price = {"input": 2.0, "output": 10.0}
    files = {"journal": tmp_path / "run.db", "cache": tmp_path / "cache.db"}

    def again(inputs: list[str]) -> Statistics:
        manager = of(using(Usage(1, 10, 10)), price=price)
        return check(books(manager, lambda e: e.map(Ask(), inputs), **files))

    first = again(["a", "b", "a"])
    assert (first.tries, first.cache_hits, first.journal_hits) == (2, 1, 0)
    second = again(["a", "b", "c"])
    assert (second.tries, second.cache_hits, second.journal_hits) == (1, 0, 2)
    assert second.input_tokens == 10
    assert second.cost == pytest.approx(first.cost / 2)


def test_followers_of_a_journal_are_its_hits(tmp_path: Path) -> None:
    """Without a cache there are no hits of a cache."""
    found = books(
        {"m": echo()}, lambda e: e.map(Ask(), ["a"] * 5), journal=tmp_path / "run.db"
    )
    total = check(found)
    assert (total.tries, total.journal_hits, total.cache_hits) == (1, 4, 0)


class Storm(FunctionClient):
    """A client that answers, fails, hangs up and hangs, by chance."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.answered = 0
        super().__init__(self.chance, lambda r: self.rng.uniform(0.1, 5.0))

    def chance(self, request: LLMRequest) -> Any:
        if self.rng.random() < 0.7:
            self.answered += 1
            return LLMResponse(text="ok", usage=Usage(1, 7, 3))
        errors = [
            EndpointServerError("broken", status=503),
            EndpointConnectionError("hung up"),
            RateLimitError("slower", status=429, retry_after=0.5),
            RequestRefusedError("bad", status=400),
        ]
        return self.rng.choice(errors)


@pytest.mark.parametrize("seed", range(4))
def test_a_storm_is_booked_to_the_last_try(seed: int, tmp_path: Path) -> None:
    """Concurrency, retries, cancellation, timeouts, streams, a journal: all add up."""
    client = Storm(seed)
    manager = of(client, max_concurrent=6, price={"input": 1.0, "output": 1.0})
    flow = Flow(lambda m, x: F.gather(*[m.llm(f"{x} {i}") for i in range(4)]))

    async def body(engine: Engine) -> None:
        rng = random.Random(seed + 100)

        async def one(number: int) -> None:
            view = engine.using(timeout=rng.uniform(1.0, 60.0))
            task = asyncio.create_task(view.run(flow, f"in {number % 20}"))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.uniform(0.0, 30.0))
                task.cancel()
            with suppress(Exception, asyncio.CancelledError):
                await task

        await asyncio.gather(*[one(n) for n in range(40)])
        for deployment in manager._deployments:
            assert deployment.in_use == 0

    total = check(books(manager, body, journal=tmp_path / "run.db"))
    assert total.tries == len(client.requests)
    assert total.unknown >= client.cancelled > 0
    assert total.requests <= client.answered
    assert total.input_tokens == 7 * total.requests
    assert total.cost == pytest.approx(10 * total.requests / 1e6)
    assert total.journal_hits > 0


def test_the_books_agree_with_the_server() -> None:
    """Under chaos each answer it gave is a request here, each 4xx and 5xx a failure."""
    server = LoopbackServer("ok", latency=0.5, errors=chaos(3, 0.3))
    manager = reached(
        {"m": endpoint(max_concurrent=16, retries=8, timeout=5.0)}, one=server
    )

    def body(engine: Engine) -> Any:
        inputs = [f"{i}" for i in range(200)]
        return engine.map(Ask(), inputs, errors="collect")

    total = check(books(manager, body))
    assert total.tries == server.count
    told = sum(n for s, n in server.statuses.items() if isinstance(s, int) and s != 200)
    assert total.failures == told
    assert total.requests == server.answered
    assert total.unknown == server.count - told - server.answered > 0


def test_it_prints_as_a_table() -> None:
    """A line for all, for each alias and for each module, and what is left open."""
    clients = {"m": using(Usage(1, 1000, 10)), "n": echo(1.0, lambda r: "x")}
    text = str(books(clients, lambda e: e.map(Two(), ["a", "b"])))
    lines = [line.split("  ")[0] for line in text.splitlines()]
    assert lines[1:6] == ["total", "alias m", "alias n", "module one", "module two"]
    assert "4,000" in text
    assert "Answers without a known price, not in the cost: 6." in text


def test_it_is_frozen_and_stays_as_it_was() -> None:
    """A snapshot does not move on with the engine."""

    async def body(engine: Engine) -> None:
        await engine.run(Ask(), "a")
        before = engine.statistics()
        await engine.run(Ask(), "b")
        assert before.total.requests == 1
        assert engine.statistics().total.requests == 2
        with pytest.raises(AttributeError):
            before.total.requests = 5  # ty: ignore[invalid-assignment]

    books({"m": echo()}, body)
