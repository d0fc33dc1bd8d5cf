"""OpenTelemetry: what an engine writes into spans and metrics, and when it does not."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.integration.engine_helpers import Ask, Compare, Flow, echo, virtually
from tests.integration.limit_helpers import endpoint, reached

from inf_engine import ConfigurationError, Engine, ExecutionError, op
from inf_engine.errors import RateLimitError, RequestRefusedError
from inf_engine.execution.telemetry import Telemetry
from inf_engine.testing import LoopbackServer
from inf_engine.types import LLMRequest, LLMResponse, Usage

SECRET = "nobody may read this"
USAGE = Usage(1, 7, 3, 2, 1)


class Desk:
    """Where spans and metrics go in a test."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.telemetry = Telemetry(self.tracers, self.meters)

    @property
    def spans(self) -> list[ReadableSpan]:
        """All spans, by their beginning."""
        spans = list(self.exporter.get_finished_spans())
        return sorted(spans, key=lambda span: (span.start_time, span.end_time))

    def named(self, name: str) -> list[ReadableSpan]:
        """The spans of a name."""
        return [span for span in self.spans if span.name == name]

    def below(self, parent: ReadableSpan) -> list[ReadableSpan]:
        """The spans directly below another."""
        own: Any = parent.context
        return [s for s in self.spans if s.parent and s.parent.span_id == own.span_id]

    def points(self, name: str) -> list[Any]:
        """The points of a metric."""
        data: Any = self.reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        return [p for m in metrics if m.name == name for p in m.data.data_points]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """The attributes of a span."""
    return dict(span.attributes or {})


def seconds(span: ReadableSpan) -> float:
    """How long a span lasted."""
    return round(((span.end_time or 0) - (span.start_time or 0)) / 1e9, 6)


def told(
    desk: Desk, resources: Any, body: Callable[[Engine], Awaitable[Any]], **options: Any
) -> Any:
    """Run `body(engine)` on a virtual clock under a desk's telemetry."""

    async def main() -> Any:
        options.setdefault("observers", [desk.telemetry])
        async with Engine(resources, progress=False, **options) as engine:
            return await body(engine)

    return virtually(main)


def answering(request: LLMRequest) -> LLMResponse:
    """An answer with all that providers tell of one."""
    text, usage = f"{SECRET} {request.prompt}", USAGE
    return LLMResponse(text, usage=usage, model="m-2026", id="id-1", cost=0.25)


def test_a_run_is_a_tree_of_spans_with_the_conventions_attributes() -> None:
    """The user's span, the run, its nodes, their tries; times as on the loop."""
    desk = Desk()

    async def body(engine: Engine) -> Any:
        with desk.tracers.get_tracer("user").start_as_current_span("request"):
            return await engine.run(Compare(), SECRET, "b")

    told(desk, {"m": echo(1.0, answering)}, body)
    (user,) = desk.named("request")
    (run,) = desk.below(user)
    assert (run.name, seconds(run)) == ("invoke_workflow Compare", 2.0)
    assert attributes(run) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "Compare",
        "inf_engine.run": 0,
    }
    nodes = desk.below(run)
    assert [(n.name, seconds(n)) for n in nodes] == [
        ("extract#1", 1.0),
        ("extract#2", 1.0),
        ("join#1", 1.0),
    ]
    assert attributes(nodes[0]) == {
        "inf_engine.node": "extract#1",
        "inf_engine.alias": "m",
    }
    for node in nodes:
        (request,) = desk.below(node)
        assert (request.name, request.kind, seconds(request)) == (
            *("chat", SpanKind.CLIENT),
            1.0,
        )
        assert (request.start_time, request.end_time) == (
            *(node.start_time, node.end_time),
        )
        assert attributes(request) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "_OTHER",
            "gen_ai.response.model": "m-2026",
            "gen_ai.response.id": "id-1",
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.input_tokens": 7,
            "gen_ai.usage.output_tokens": 3,
            "gen_ai.usage.cache_read.input_tokens": 2,
            "gen_ai.usage.reasoning.output_tokens": 1,
            "inf_engine.alias": "m",
            "inf_engine.waited": 0.0,
            "inf_engine.cost": 0.25,
        }
    assert len(desk.spans) == 8
    assert {span.status.status_code for span in desk.spans} == {StatusCode.UNSET}


def test_an_endpoint_is_named_with_its_address_and_model() -> None:
    """As the conventions want it: provider, model, server."""
    desk, server = Desk(), LoopbackServer("fine")
    manager = reached({"m": endpoint()}, one=server)
    told(desk, manager, lambda engine: engine.run(Ask(), "x"))
    (span,) = desk.named("chat some-model")
    found = attributes(span)
    assert found["gen_ai.provider.name"] == "openai-compatible"
    assert found["gen_ai.request.model"] == "some-model"
    assert (found["server.address"], found["server.port"]) == ("one.test", 80)


def test_no_text_is_written() -> None:
    """No prompt, no answer, no error's message; of an error its type."""
    desk = Desk()
    refusal = RequestRefusedError(SECRET, status=400)
    client = echo(0.0, lambda r: refusal if r.prompt == "no" else answering(r))

    @op
    def fail(text: str) -> str:
        raise ValueError(text)

    async def body(engine: Engine) -> None:
        await engine.run(Ask(), SECRET)
        for flow, text in ((lambda self, t: self.llm(t), "no"), (fails, SECRET)):
            with pytest.raises(ExecutionError):
                await engine.run(Flow(flow), text)

    def fails(self: Any, text: str) -> Any:
        return fail(self.llm(text))

    told(desk, {"m": client}, body)
    assert SECRET not in "".join(span.to_json() for span in desk.spans)
    assert not any(span.events for span in desk.spans)
    (failed,) = desk.named("fail#1")
    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.status.description, attributes(failed)) == (
        None,
        {"inf_engine.node": "fail#1", "error.type": "ValueError"},
    )
    runs = desk.named("invoke_workflow Flow")
    assert {run.status.status_code for run in runs} == {StatusCode.ERROR}


def test_each_try_is_a_span_and_a_point() -> None:
    """A refusal and an answer: two spans below one node, and the books' tokens."""
    desk, script = Desk(), [RateLimitError("slow down", status=429)]
    client = echo(1.0, lambda r: script.pop() if script else answering(r))
    told(desk, {"m": client}, lambda engine: engine.run(Ask(), "x"))
    (node,) = desk.named("llm#1")
    refused, answered = desk.below(node)
    assert refused.status.status_code is StatusCode.ERROR
    assert attributes(refused)["error.type"] == "RateLimitError"
    assert attributes(refused)["http.response.status_code"] == 429
    assert answered.status.status_code is StatusCode.UNSET
    assert node.status.status_code is StatusCode.UNSET
    durations = desk.points("gen_ai.client.operation.duration")
    assert [(p.count, p.sum, p.attributes.get("error.type")) for p in durations] == [
        (1, 1.0, "RateLimitError"),
        (1, 1.0, None),
    ]
    tokens = desk.points("gen_ai.client.token.usage")
    assert {p.attributes["gen_ai.token.type"]: p.sum for p in tokens} == {
        "input": 7,
        "output": 3,
    }
    assert tokens[0].explicit_bounds[:3] == (1, 4, 16)


def test_runs_of_a_map_keep_apart() -> None:
    """Each is a trace of its own, with its own nodes."""
    desk = Desk()
    told(desk, {"m": echo(1.0)}, lambda engine: engine.map(Ask(), "abcd"))
    runs = desk.named("invoke_workflow Ask")
    assert sorted(attributes(run)["inf_engine.run"] for run in runs) == [0, 1, 2, 3]
    traces = {run.context.trace_id for run in runs if run.context}
    assert len(traces) == 4
    for run in runs:
        (node,) = desk.below(run)
        assert len(desk.below(node)) == 1


def test_an_answer_of_the_journal_is_no_try(tmp_path: Path) -> None:
    """Its node is there, with nothing below, and no point is written."""
    path = tmp_path / "run.db"
    for has_try in (True, False):
        desk = Desk()
        ask = {"m": echo(1.0, answering)}
        told(desk, ask, lambda engine: engine.run(Ask(), "x"), journal=path)
        (node,) = desk.named("llm#1")
        assert len(desk.below(node)) == has_try


def test_a_hedge_and_the_one_that_lost_are_tries() -> None:
    """One span for each request that the server got; the loser did not fail."""
    desk = Desk()
    server = LoopbackServer(latency=lambda i, body: 20.0 if i == 30 else 1.0)
    manager = reached({"m": endpoint(hedge=1.0)}, one=server)

    async def body(engine: Engine) -> None:
        for index in range(31):
            await engine.run(Ask(), str(index))

    told(desk, manager, body)
    tries = desk.named("chat some-model")
    assert len(tries) == server.count == 32
    hedges = [s for s in tries if "inf_engine.hedge" in attributes(s)]
    lost = [s for s in tries if "error.type" in attributes(s)]
    assert [seconds(span) for span in hedges + lost] == [1.0, 2.001]
    assert attributes(lost[0])["error.type"] == "CancelledError"
    assert lost[0].status.status_code is StatusCode.UNSET
    assert hedges[0].parent == lost[0].parent


def test_what_was_cancelled_is_told() -> None:
    """A run that took too long: its try ended, its node and itself failed."""
    desk = Desk()

    async def body(engine: Engine) -> None:
        with pytest.raises(TimeoutError):
            await engine.using(timeout=1.0).run(Ask(), "x")

    told(desk, {"m": echo(9.0)}, body)
    (span,) = desk.named("chat")
    assert (seconds(span), attributes(span)["error.type"]) == (1.0, "CancelledError")
    (run,) = desk.named("invoke_workflow Ask")
    assert (seconds(run), run.status.status_code) == (1.0, StatusCode.ERROR)


# -- on and off -------------------------------------------------------------------


def observers(**options: Any) -> list[Any]:
    """Who an engine tells of its events."""
    return Engine({"m": echo()}, **options)._scheduler.observers


def test_it_is_on_where_a_provider_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API's own providers do nothing, and do not count; False is never."""
    assert observers() == observers(telemetry=False) == []
    monkeypatch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)
    assert observers() == []
    desk = Desk()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: desk.tracers)
    assert [type(each) for each in observers()] == [Telemetry]
    assert observers(telemetry=False) == []
    told(desk, {"m": echo(1.0)}, lambda e: e.run(Ask(), "x"), observers=[])
    assert len(desk.spans) == 3


def test_it_can_be_asked_for() -> None:
    """Also before a provider is set; anything but True, False and None is refused."""
    assert [type(each) for each in observers(telemetry=True)] == [Telemetry]
    with pytest.raises(ConfigurationError, match="telemetry must be True, False or"):
        observers(telemetry="yes")


def test_without_the_package_the_message_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And what to install; nothing is imported where it was not asked for."""
    for name in [n for n in sys.modules if n.split(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    assert observers() == []
    assert "opentelemetry" not in sys.modules
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'inf-engine\[otel\]'"):
        observers(telemetry=True)


def test_without_a_provider_not_one_call_is_made() -> None:
    """The functions that a run calls are as many as with telemetry=False."""

    def calls(**options: Any) -> list[str]:
        seen: list[str] = []

        def profile(frame: Any, event: str, arg: Any) -> None:
            if event == "call":
                seen.append(frame.f_code.co_qualname)

        async def body(engine: Engine) -> None:
            await engine.map(Compare(), "ab", "cd")
            sys.setprofile(profile)
            try:
                await engine.map(Compare(), "ab", "cd")
            finally:
                sys.setprofile(None)

        told(Desk(), {"m": echo(1.0)}, body, observers=[], **options)
        return seen

    off, unset = calls(telemetry=False), calls()
    assert off == unset
    assert len(off) > 100
    told_of = ("Telemetry", ".tell", "_try_finished")
    assert not any(part in name for name in off for part in told_of)
