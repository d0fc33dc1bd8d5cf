"""`Request`, `Reply`, `Refused`: HTTP as the service sees it, without a server."""

import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from inf_engine.errors import (
    AnswerError,
    BudgetExceededError,
    DeadlineError,
    EndpointError,
    EngineStateError,
    ExecutionError,
    InfEngineError,
    RateLimitError,
)
from inf_engine.execution.lines import kind_of

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}
_STATUSES: tuple[tuple[type[InfEngineError], int, str], ...] = (
    (DeadlineError, 504, "timeout"),
    (BudgetExceededError, 429, "insufficient_quota"),
    (RateLimitError, 503, "endpoint_limit"),
    (EndpointError, 502, "endpoint_failed"),
    (AnswerError, 502, "answer_unusable"),
    (EngineStateError, 503, "stopping"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks.

    Args:
        method: ``GET`` or ``POST``, or what will be refused.
        path: The path, decoded.
        query: What stands behind the question mark.
        headers: By name in small letters.
        body: What was sent.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that was sent.

        Raises:
            Refused: If it is none.
        """
        sent = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if sent != "application/json":  # what a foreign web page cannot send unasked
            raise Refused("send JSON, with Content-Type: application/json.", 415)
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise Refused("the body is not JSON. Send a JSON object.") from exc
        if not isinstance(found, dict):
            raise Refused("the body is no JSON object. Send one: {...}.")
        return found


class Pieces(Protocol):
    """What comes piece by piece, e.g. from an async generator."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces."""
        ...

    def aclose(self) -> Coroutine[Any, Any, None]:
        """End what gives them; also before the first one was taken."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client gets.

    Args:
        body: All of it, or what comes piece by piece.
        status: The HTTP status.
        kind: Its content type.
        headers: Further headers.
    """

    body: bytes | Pieces
    status: int = 200
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A request that gets an error.

    Args:
        message: What is wrong, and the fix.
        status: The HTTP status.
        code: What programs may look for.
        param: The field that is wrong.
        headers: Headers of the answer.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI writes it."""
        told = {
            "message": str(self),
            "type": _KINDS.get(self.status, "server_error"),
            "param": self.param,
            "code": self.code,
        }
        return {"error": told}

    @property
    def reply(self) -> Reply:
        """What the client gets."""
        return Reply(json.dumps(self.body).encode(), self.status, headers=self.headers)


def failed(error: BaseException, run: str) -> Refused:
    """Return what a client is told of a run that failed.

    What a program of the user's raised may hold anything, so only its kind is told;
    the page of the run says all. Clients are asked not to try again on their own: it
    would be paid again.

    Args:
        error: What ended the run.
        run: The name of the run.
    """
    status, code = 500, "pipeline_failed"
    for kind, known, word in _STATUSES:
        if isinstance(error, kind):
            status, code = known, word
            break
    headers = {"x-should-retry": "false", "x-run": run}
    return Refused(told(error, run), status, code=code, headers=headers)


def told(error: BaseException, run: str) -> str:
    """Return an error in words that may leave the machine.

    Args:
        error: What ended the run.
        run: The name of the run.
    """
    cause = error
    while isinstance(cause, ExecutionError) and cause.cause is not None:
        cause = cause.cause
    if isinstance(cause, InfEngineError):
        return str(error)
    where = f" in {error.node}" if isinstance(error, ExecutionError) else ""
    kind = kind_of(error)
    return f"the pipeline failed{where} with {kind}; see the page of run {run}."
