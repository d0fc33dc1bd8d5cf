"""`Telemetry`: the events of an engine as OpenTelemetry spans and metrics.

An observer like any other, so an engine without it does nothing for it. Names and
attributes are those of the GenAI semantic conventions:

=======================  ============================================================
span                     of
=======================  ============================================================
invoke_workflow <class>  a run; a child of the span that is current where it begins
<node>                   a model call, an op or a leaf, below its run
chat <model>             a try of a model call (kind CLIENT), below its node
=======================  ============================================================

The metrics ``gen_ai.client.operation.duration`` (seconds) and
``gen_ai.client.token.usage`` have one point for each try, and each answer. What has no
name there is called ``inf_engine.…``: run, node, alias, waited, cost, hedge.

No prompt, answer or error message is written, for each may hold what nobody wants in a
trace; of an error its type and its HTTP status are. An answer out of the journal or the
cache is no try: its node has no span below it.

`Engine` adds this observer where a provider has been set (`wanted`). Only the API of
OpenTelemetry is needed here; who sets a provider brings the SDK.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from inf_engine.errors import ConfigurationError, EndpointError
from inf_engine.execution.events import (
    Answer,
    Event,
    NodeFinished,
    NodeStarted,
    RunFinished,
    RunStarted,
    TryFinished,
)

_NANOS = 1_000_000_000
_SECONDS = tuple(0.01 * 2**n for n in range(14))
_TOKENS = tuple(4**n for n in range(14))
_HOSTS = {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}
_PORTS = {"http": 80, "https": 443}
_OTHER = "_OTHER"

Attributes = dict[str, Any]


class _RunSpans:
    """The spans of one run that goes on.

    `began` is the wall-clock time, in ns, of zero on the loop's clock.
    """

    __slots__ = ("began", "nodes", "span")

    def __init__(self, span: Any, began: int) -> None:
        self.span = span
        self.began = began
        self.nodes: dict[str, Any] = {}

    def at(self, seconds: float) -> int:
        """Return a time of the loop's clock as ns of the wall clock."""
        return self.began + int(seconds * _NANOS)


class Telemetry:
    """Turns events into spans and metrics: ``Engine(..., observers=[Telemetry()])``.

    One for each engine: runs are told apart by their numbers.

    Args:
        tracer_provider: Where spans go, None for the one that the process has set.
        meter_provider: Where metrics go, None for the one that the process has set.

    Raises:
        ConfigurationError: If OpenTelemetry is not installed.
    """

    wants_tokens = False

    def __init__(self, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        try:
            from opentelemetry import metrics, trace  # noqa: PLC0415
        except ImportError as exc:
            raise ConfigurationError(
                "telemetry needs OpenTelemetry, which is not installed: pip install "
                "'inf-engine[otel]', and an SDK with an exporter."
            ) from exc
        self._trace = trace
        self._tracer = trace.get_tracer("inf_engine", tracer_provider=tracer_provider)
        meter = metrics.get_meter("inf_engine", meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._runs: dict[int, _RunSpans] = {}
        self._told: dict[type, Callable[[Any], None]] = {
            RunStarted: self._run_started,
            NodeStarted: self._node_started,
            TryFinished: self._try_finished,
            NodeFinished: self._node_finished,
            RunFinished: self._run_finished,
        }

    def __call__(self, event: Event) -> None:
        """Write what an event tells.

        Args:
            event: What happened.
        """
        told = self._told.get(type(event))
        if told is not None:
            told(event)

    def _run_started(self, event: RunStarted) -> None:
        now = time.time_ns()
        attributes = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": event.module,
            "inf_engine.run": event.run,
        }
        span = self._tracer.start_span(
            f"invoke_workflow {event.module}",
            attributes=attributes,
            start_time=now,
        )
        self._runs[event.run] = _RunSpans(span, now - int(event.at * _NANOS))

    def _node_started(self, event: NodeStarted) -> None:
        run = self._runs.get(event.run)
        if run is not None:
            self._node_span(run, event, event.at)

    def _node_span(self, run: _RunSpans, event: Any, at: float) -> Any:
        """Return the span of a node; begin it if there is none."""
        span = run.nodes.get(event.node)
        if span is None:
            attributes = {"inf_engine.node": event.node}
            if event.alias is not None:
                attributes["inf_engine.alias"] = event.alias
            span = run.nodes[event.node] = self._tracer.start_span(
                event.node,
                context=self._trace.set_span_in_context(run.span),
                attributes=attributes,
                start_time=run.at(at),
            )
        return span

    def _try_finished(self, event: TryFinished) -> None:
        common = _attributes(event)
        self._measure(event, common)
        run = self._runs.get(event.run)
        if run is None:
            return
        began = event.at - event.seconds
        parent = self._node_span(run, event, began)
        span = self._tracer.start_span(
            f"chat {event.model}".rstrip(),
            context=self._trace.set_span_in_context(parent),
            kind=self._trace.SpanKind.CLIENT,
            attributes={**common, **_details(event)},
            start_time=run.at(began),
        )
        self._end(span, event.error, run.at(event.at))

    def _measure(self, event: TryFinished, common: Attributes) -> None:
        """Add the points of a try to the metrics."""
        self._duration.record(event.seconds, common)
        answer = event.answer
        if answer is not None and answer.usage.total_tokens > 0:
            named = {k: v for k, v in common.items() if k != "error.type"}
            usage = answer.usage
            counts = {"input": usage.input_tokens, "output": usage.output_tokens}
            for kind, count in counts.items():
                self._tokens.record(count, {**named, "gen_ai.token.type": kind})

    def _node_finished(self, event: NodeFinished) -> None:
        run = self._runs.get(event.run)
        if run is not None:
            span = self._node_span(run, event, event.at - event.seconds)
            self._end(span, event.error, run.at(event.at))

    def _run_finished(self, event: RunFinished) -> None:
        run = self._runs.pop(event.run, None)
        if run is not None:
            self._end(run.span, event.error, run.at(event.at))

    def _end(self, span: Any, error: BaseException | None, at: int) -> None:
        """End a span; one that was cancelled has not failed."""
        if error is not None:
            span.set_attribute("error.type", type(error).__qualname__)
            if isinstance(error, Exception):
                span.set_status(self._trace.StatusCode.ERROR)
        span.end(at)


def wanted(telemetry: bool | None) -> list[Any]:
    """Return the observers that an engine adds for OpenTelemetry: one or none.

    Args:
        telemetry: True for one, False for none, None for one if a provider is set.

    Raises:
        ConfigurationError: If it is something else, or OpenTelemetry is not installed.
    """
    if telemetry not in (True, False, None):
        raise ConfigurationError(
            f"telemetry must be True, False or None, not {telemetry!r}."
        )
    is_on = _has_provider() if telemetry is None else telemetry
    return [Telemetry()] if is_on else []


def _has_provider() -> bool:
    """Say whether the process has set a provider; those of the API do nothing.

    Nothing is imported: who has set one has imported OpenTelemetry.
    """
    trace = sys.modules.get("opentelemetry.trace")
    metrics = sys.modules.get("opentelemetry.metrics")
    if trace is None or metrics is None:
        return False
    providers = trace.get_tracer_provider(), metrics.get_meter_provider()
    own = "opentelemetry.trace", "opentelemetry.metrics"
    return any(not type(each).__module__.startswith(own) for each in providers)


def _attributes(event: TryFinished) -> Attributes:
    """Return what a try's span and metrics share."""
    found: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": event.provider or _OTHER,
        "inf_engine.alias": event.alias,
    }
    if event.model:
        found["gen_ai.request.model"] = event.model
    if event.answer is not None and event.answer.model:
        found["gen_ai.response.model"] = event.answer.model
    if event.error is not None:
        found["error.type"] = type(event.error).__qualname__
    return {**found, **_server(event)}


def _server(event: TryFinished) -> Attributes:
    """Return where an endpoint is, if that is known."""
    parts = urlsplit(event.base_url)
    host = parts.hostname or _HOSTS.get(event.provider)
    if host is None:
        return {}
    port = parts.port or _PORTS.get(parts.scheme, 443)
    return {"server.address": host, "server.port": port}


def _details(event: TryFinished) -> Attributes:
    """Return what only the span of a try has."""
    found: Attributes = {"inf_engine.waited": event.waited}
    if event.is_hedge:
        found["inf_engine.hedge"] = True
    if isinstance(event.error, EndpointError) and event.error.status is not None:
        found["http.response.status_code"] = event.error.status
    if isinstance(event.error, asyncio.CancelledError):
        found["inf_engine.cancelled"] = True
    if event.answer is not None:
        found |= _answer_details(event.answer)
    return found


def _answer_details(answer: Answer) -> Attributes:
    """Return what the span of an answered try has."""
    usage = answer.usage
    found: Attributes = {"gen_ai.response.finish_reasons": [answer.finish_reason]}
    if answer.id:
        found["gen_ai.response.id"] = answer.id
    if answer.cost is not None:
        found["inf_engine.cost"] = answer.cost
    if usage.total_tokens > 0:
        counts = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_read.input_tokens": usage.cached_tokens,
            "cache_creation.input_tokens": usage.cache_write_tokens,
            "reasoning.output_tokens": usage.reasoning_tokens,
        }
        found |= {
            f"gen_ai.usage.{name}": count
            for name, count in counts.items()
            if count or name in ("input_tokens", "output_tokens")
        }
    return found
