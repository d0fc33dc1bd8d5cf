"""What a run cost and how long it waited, from the server's answers to the record."""

from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Flow
from tests.integration.limit_helpers import endpoint, engine_on, reached

from inf_engine import Engine, LLMInference
from inf_engine import functional as F
from inf_engine.errors import DeadlineError, ExecutionError
from inf_engine.execution.batch import Result
from inf_engine.record import RunRecord
from inf_engine.testing import LoopbackServer

PRICE = {"input": 1e6, "output": 1e4}  # a token read is 1 USD, one written a cent


def two_aliases(price: Any = None) -> tuple[Any, LoopbackServer, LoopbackServer]:
    """A flow over two priced endpoints, and their servers: 3 calls, 3 tokens each."""
    one, two = LoopbackServer("a b c"), LoopbackServer("a b c")
    resources = {
        "m": endpoint("one", price=PRICE),
        "n": endpoint("two", price=price or {"input": 0.0, "output": 1e6}),
    }
    return reached(resources, one=one, two=two), one, two


def flow() -> Flow:
    """Two calls to one alias side by side, then one to the other."""

    def body(module: Any, text: str) -> Any:
        left, right = F.gather(module.llm(text), module.llm(f"{text} {text}"))
        return module.other(f"{left} {right}")

    return Flow(body, other="n")


def test_a_run_costs_what_its_answers_cost() -> None:
    """Per node, in all, in the result of a map, and in the books: one amount."""
    manager, one, two = two_aliases()
    found: dict[str, Any] = {}

    async def body(engine: Engine) -> None:
        found["record"] = await engine.record(flow(), "hi")
        found["result"] = (await engine.map(flow(), ["hi"], errors="collect"))[0]
        found["total"] = engine.statistics().total.cost

    engine_on(manager, body)
    record: RunRecord = found["record"]
    calls = [node for node in record.nodes if node.calls]
    for node in calls:
        rates = (1.0, 0.01) if node.alias == "m" else (0.0, 1.0)
        spent = node.usage.input_tokens, node.usage.output_tokens
        assert node.cost == pytest.approx(spent[0] * rates[0] + spent[1] * rates[1])
        assert node.usage.input_tokens > 0
    assert record.cost == pytest.approx(sum(node.cost or 0.0 for node in calls))
    result: Result = found["result"]
    assert result.cost == record.cost
    assert found["total"] == pytest.approx(2 * (record.cost or 0.0), rel=1e-12)
    assert (one.count, two.count) == (4, 2)


def test_without_a_price_the_cost_is_unknown() -> None:
    """Of the node and of the run; the other nodes keep theirs."""
    one, two = LoopbackServer(), LoopbackServer()
    resources = {"m": endpoint("one", price=PRICE), "n": endpoint("two")}
    manager = reached(resources, one=one, two=two)
    record = engine_on(manager, lambda e: e.record(flow(), "hi"))
    assert record.cost is None
    costs = [node.cost for node in record.nodes if node.alias is not None]
    assert costs[2] is None
    assert None not in costs[:2]


def test_a_module_without_calls_costs_nothing() -> None:
    """Nothing was asked, and that is known."""
    manager, _, _ = two_aliases()
    record = engine_on(manager, lambda e: e.record(Flow(lambda m, x: x), "hi"))
    assert record.cost == 0.0


@pytest.mark.parametrize("kept", ["journal", "cache"])
def test_what_was_paid_before_costs_nothing_now(tmp_path: Path, kept: str) -> None:
    """The second run asks nobody; each node says where its answer came from."""
    files: dict[str, Any] = {kept: tmp_path / "kept.db"}
    records = []
    for _ in range(2):
        manager, one, _ = two_aliases()
        records.append(engine_on(manager, lambda e: e.record(flow(), "hi"), **files))
    first, second = records
    assert (first.cost or 0.0) > 0
    assert second.cost == 0.0
    assert one.count == 0
    called = [node for node in second.nodes if node.alias is not None]
    assert [(node.cost, node.reused) for node in called] == [(0.0, kept)] * 3
    assert {node.reused for node in first.nodes} == {None}
    assert second.usage.requests == 0
    page = second.report(tmp_path / "run.html").read_text()
    assert f"$0<small>3 from {kept}</small>" in page
    assert page.count(f"$0 · from {kept}") == 3


def test_retries_cost_what_was_answered() -> None:
    """A refusal costs nothing; its pause is waiting, not work."""
    server = LoopbackServer("ok", errors=[500], latency=1.0)
    manager = reached({"m": endpoint("one", price=PRICE)}, one=server)
    record = engine_on(manager, lambda e: e.record(Ask(), "hi"))
    node = record.node("llm#1")
    refused, answered = node.calls
    assert (refused.cost, answered.cost) == (0.0, record.cost)
    assert server.count == 2
    pause = answered.started - refused.started - refused.seconds
    assert node.waited == pytest.approx(pause)
    assert pause > 0.1


def test_an_answer_of_no_use_is_paid_for() -> None:
    """The record and the books agree on it."""
    usage = {"input_tokens": 10, "output_tokens": 3}
    cut = {"text": "", "finish_reason": "length", "usage": usage}
    server = LoopbackServer(lambda body: cut)
    manager = reached({"m": endpoint("one", price=PRICE, retries=0)}, one=server)
    found: list[Any] = []

    async def body(engine: Engine) -> None:
        try:
            await engine.record(Ask(), "hi")
        except ExecutionError as exc:
            found.append(exc)
        found.append(engine.statistics().total)

    engine_on(manager, body)
    error, total = found
    assert total.cost > 0
    assert error.record.cost == pytest.approx(total.cost)
    assert error.record.usage == total.usage


def test_seconds_in_line_are_in_the_record() -> None:
    """One slot: the second call waits for the first, 2 seconds, then is on the wire."""
    server = LoopbackServer("ok", latency=2.0)
    manager = reached({"m": endpoint("one", max_concurrent=1)}, one=server)
    both = Flow(lambda m, x: F.gather(m.llm(x), m.llm(x + "!")))
    record = engine_on(manager, lambda e: e.record(both, "hi"))
    first, second = record.node("llm#1"), record.node("llm#2")
    assert (first.waits, first.seconds) == ((), 2.0)
    assert (second.waits, second.seconds) == (((0.0, 2.0),), 2.0)
    assert second.calls[0].waited == 2.0


def test_the_second_request_of_a_talk_waits_too() -> None:
    """The first was no answer of use; one a second may leave."""
    resources = {"m": endpoint("one", requests_per_minute=60)}
    ask = Flow(lambda m, x: m.list(x), list="m")
    ask.list = LLMInference("m", response_format=list[str])
    server = LoopbackServer(["no JSON", "[]"])
    record = engine_on(reached(resources, one=server), lambda e: e.record(ask, "hi"))
    (node,) = [found for found in record.nodes if found.calls]
    assert [call.waited for call in node.calls] == [0.0, pytest.approx(1.0)]
    assert node.waits == ((0.0, pytest.approx(1.0)),)


def test_a_call_that_never_left_has_waited_to_the_end() -> None:
    """The run was over while it stood in line; it cost nothing."""
    server = LoopbackServer("ok", latency=9.0)
    manager = reached({"m": endpoint("one", max_concurrent=1)}, one=server)
    both = Flow(lambda m, x: F.gather(m.llm(x), m.llm(x + "!")))

    async def body(engine: Engine) -> Any:
        with pytest.raises(DeadlineError) as caught:
            await engine.using(timeout=3.0).record(both, "hi")
        return caught.value

    record = engine_on(manager, body).record
    first, second = record.node("llm#1"), record.node("llm#2")
    assert (first.started, first.seconds, first.waits) == (0.0, 3.0, ())
    assert (second.started, second.waits) == (None, ((0.0, 3.0),))
    assert second.cost == 0.0
