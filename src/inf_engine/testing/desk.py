"""`Desk`: decides what each request to the loopback server gets. It sends nothing.

In this order: the limits may refuse a request; its fault, if it has one; what is wrong
with the request itself (the path, the key); an answer.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.testing.exchange import (
    ANTHROPIC_PATH,
    OPENAI_PATH,
    Reply,
    ServerRequest,
    faulty,
    refused,
)
from inf_engine.testing.faults import FAULTS, Fault, unknown_fault
from inf_engine.testing.provider_limits import (
    ProviderLimits,
    anthropic_headers,
    openai_headers,
    retry_headers,
)
from inf_engine.testing.replies import (
    Answer,
    anthropic_body,
    anthropic_events,
    as_response,
    error_body,
    error_event,
    openai_body,
    openai_events,
    openai_text,
)

_OVERLOADED = 529, "the loopback server broke off, as if overloaded"
_NO_ANSWER = ("reset", "hang", "malformed", "content-type", "oversized")


class Desk:
    """Decides about requests. The arguments are those of `LoopbackServer`.

    Attributes:
        epoch: What to add to the loop's clock for seconds since 1970.
    """

    def __init__(
        self,
        answer: Any,
        errors: Any,
        *,
        latency: float | Callable[[int, dict[str, Any]], float],
        piece_latency: float,
        api_key: str | None,
        limits: ProviderLimits | None,
        headers: bool,
        retry_after: bool,
        max_concurrent: int | None,
    ) -> None:
        self.latency = latency
        self.piece_latency = piece_latency
        self.limits = limits
        self.epoch = 0.0
        self._answer = _answerer(answer)
        self._fault = _faulter(errors)
        self._api_key = api_key
        self._headers = headers
        self._retry_after = retry_after
        self._max_concurrent = max_concurrent

    def wait(self, request: ServerRequest) -> float:
        """Return the seconds to wait before answering.

        Args:
            request: The request.
        """
        if isinstance(self.latency, int | float):
            return self.latency
        return self.latency(request.index, request.body)

    def refusal(self, request: ServerRequest, in_flight: int) -> Reply | None:
        """Return the 429 of a limit, None if the request may come in.

        Args:
            request: The request; it is taken out of the limits if it may.
            in_flight: How many are open, this one included.
        """
        if self._max_concurrent is not None and in_flight > self._max_concurrent:
            return refused(request, 429, {}, "too many requests are open")
        if self.limits is None or self._fault_of(request) is not None:
            return None
        wait = self.limits.admit(request.arrival)
        if not wait:
            return None
        headers = self._rate_headers(request, request.arrival)
        if self._retry_after:
            headers |= retry_headers(wait, anthropic=request.is_anthropic)
        return refused(request, 429, headers, "the rate limit is reached")

    def reply(self, request: ServerRequest) -> Reply:
        """Return what a request gets that the limits let in.

        Args:
            request: The request.
        """
        reply = self._decided(request)
        if self.limits is not None and reply.status in (200, 429):
            self.limits.spend(reply.tokens, request.arrival)
            given = self._rate_headers(request, request.arrival)
            reply.headers = {**given, **reply.headers}
        return reply

    def _decided(self, request: ServerRequest) -> Reply:
        """The reply, rate headers left out."""
        fault = self._fault(request.index, request.body)
        if fault is None:
            fault = self._fault_of(request)
        if fault is None:
            return self._answered(request, None)
        if isinstance(fault, int):
            fault = (fault, {}, f"the loopback server was told to answer {fault}")
        elif isinstance(fault, str) and fault not in FAULTS:
            fault = (500, {}, unknown_fault(fault))
        if isinstance(fault, tuple):
            return refused(request, *fault)
        if fault in _NO_ANSWER:
            return faulty(fault, streamed=bool(request.body.get("stream")))
        reply = self._answered(request, fault)
        if reply.fault == "error-event":
            _break_off(reply, anthropic=request.is_anthropic)
        return reply

    def _fault_of(self, request: ServerRequest) -> Fault:
        """The fault of a request that is itself wrong, None if it is not."""
        if request.path.partition("?")[0] not in (OPENAI_PATH, ANTHROPIC_PATH):
            return 404, {}, f"there is no {request.path}"
        if self._api_key is None:
            return None
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._api_key not in (sent, request.headers.get("x-api-key")):
            return 401, {}, "the API key is wrong"
        return None

    def _answered(self, request: ServerRequest, fault: str | None) -> Reply:
        """The reply with an answer in it, whole or as a stream."""
        body, streamed = request.body, bool(request.body.get("stream"))
        anthropic = request.is_anthropic
        try:
            answer = self._answer(body)
            if isinstance(answer, str) and not (streamed or anthropic):
                data, tokens = openai_text(answer, body, request.index)
                return Reply(200, {}, [data], fault, False, tokens)
            response = as_response(answer, body, request.index)
        except Exception as exc:  # noqa: BLE001 - the client sees it, as a 500
            return refused(request, 500, {}, f"the answer function raised {exc!r}")
        if streamed:
            parts = (anthropic_events if anthropic else openai_events)(response)
        else:
            build = anthropic_body if anthropic else openai_body
            parts = [json.dumps(build(response)).encode()]
        return Reply(200, {}, parts, fault, streamed, response.usage.total_tokens)

    def _rate_headers(self, request: ServerRequest, now: float) -> dict[str, str]:
        """The headers that tell of the limits."""
        if self.limits is None or not self._headers:
            return {}
        if request.is_anthropic:
            return anthropic_headers(self.limits, now, self.epoch + now)
        return openai_headers(self.limits, now)


def _break_off(reply: Reply, *, anthropic: bool) -> None:
    """Put an error in place of the second half of a stream, or of a whole answer."""
    if reply.streamed:
        event = error_event(*_OVERLOADED, anthropic=anthropic)
        reply.parts = [*reply.parts[: len(reply.parts) // 2], event]
    else:
        reply.parts = [
            json.dumps(error_body(*_OVERLOADED, anthropic=anthropic)).encode()
        ]


def _answerer(answer: Any) -> Callable[[dict[str, Any]], Answer]:
    """What to say to each request, as a function of its body."""
    if callable(answer):
        given: Callable[[dict[str, Any]], Answer] = answer
        return given
    if isinstance(answer, list | tuple):
        left = iter(answer)
        return lambda body: _next_answer(left)
    return lambda body: answer


def _next_answer(left: Iterator[Answer]) -> Answer:
    """The next answer of a list."""
    for answer in left:
        return answer
    raise UsageError("the loopback server has no answer left; give it more, or one str")


def _faulter(errors: Any) -> Callable[[int, dict[str, Any]], Fault]:
    """What goes wrong with each request, as a function of its index and body."""
    if callable(errors):
        given: Callable[[int, dict[str, Any]], Fault] = errors
        return given
    left = iter(errors)
    return lambda index, body: next(left, None)
