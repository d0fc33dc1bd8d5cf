"""`Refusal`, and errors as OpenAI writes them."""

import contextlib
import logging
from collections.abc import Generator, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from claas.errors import (
    AccessError,
    ClaasError,
    ConflictError,
    IdentifierError,
    LimitError,
    NotFoundError,
    ServingError,
    StorageError,
    TeachingError,
)

_log = logging.getLogger("claas.api")
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_STATUSES: tuple[tuple[type[ClaasError], int], ...] = (
    (IdentifierError, 400),
    (AccessError, 403),
    (NotFoundError, 404),
    (ConflictError, 409),
    (TeachingError, 422),
    (LimitError, 429),
    (StorageError, 503),
)
THEIRS = (400, 404, 413, 422)
"""What the inference server says of a request that a client wrote."""

_PASSED = (429, 503)  # what the inference server says of itself, not of the request
_RETRY = {429: "1", 503: "5"}  # seconds until a client may try again


class Refusal(ClaasError):
    """A request that is answered with an error.

    Args:
        message: What happened, where, and what to do.
        status: The HTTP status.
        param: The field of the request that is wrong.
        code: What programs may look for.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def status_of(exc: Exception) -> int:
    """Return the HTTP status of an error.

    Args:
        exc: The error.
    """
    if isinstance(exc, Refusal):
        return exc.status
    if isinstance(exc, ServingError):
        return exc.status if exc.status in _PASSED else 502
    return next((status for kind, status in _STATUSES if isinstance(exc, kind)), 500)


def error_body(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return an error as OpenAI writes it.

    Args:
        message: What happened, where, and what to do.
        status: The HTTP status.
        param: The field of the request that is wrong.
        code: What programs may look for.
    """
    kind = _KINDS.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(exc: Exception) -> dict[str, Any]:
    """Return the body of the answer to an error; strange ones say nothing of inside.

    Args:
        exc: The error.
    """
    status = status_of(exc)
    if not isinstance(exc, ClaasError):
        return error_body("the server failed: its log says why.", status)
    param, code = getattr(exc, "param", None), getattr(exc, "code", None)
    return error_body(str(exc), status, param, code or _code(exc))


def response_of(exc: Exception) -> JSONResponse:
    """Return the answer to an error.

    Args:
        exc: The error.
    """
    return _response(body_of(exc), status_of(exc))


@contextlib.contextmanager
def as_theirs() -> Generator[None, None, None]:
    """Let what the inference server says of a client's request be the client's fault.

    Raises:
        Refusal: If it says so.
    """
    try:
        yield
    except ServingError as exc:
        if exc.status in THEIRS:
            raise Refusal(str(exc), status=exc.status) from exc
        raise


def answer_errors(app: FastAPI) -> None:
    """Let an app answer errors as OpenAI does.

    Args:
        app: The app.
    """

    async def refused(_: Request, exc: Exception) -> JSONResponse:
        if isinstance(exc, StorageError):
            _log.error("%s", exc)
        elif isinstance(exc, ServingError):  # its words may repeat a prompt
            _log.warning("the inference server fails (%d)", exc.status)
        return response_of(exc)

    async def invalid(_: Request, exc: Exception) -> JSONResponse:
        found: Sequence[Any] = getattr(exc, "errors", list)()
        message, param = _first(found)
        return _response(error_body(message, 400, param), 400)

    async def missing(request: Request, exc: Exception) -> JSONResponse:
        status = getattr(exc, "status_code", 500)
        where = f"{request.method} {request.url.path}"
        message = f"{where}: {getattr(exc, 'detail', '')}"
        return _response(error_body(message, status), status)

    app.add_exception_handler(ClaasError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, missing)
    app.add_exception_handler(Exception, refused)


def _code(exc: ClaasError) -> str | None:
    """Return what programs may look for: ``not_found``, ``conflict``, …"""
    name = type(exc).__name__.removesuffix("Error").lower()
    return None if isinstance(exc, Refusal) else name


def _response(body: dict[str, Any], status: int) -> JSONResponse:
    seconds = _RETRY.get(status)
    headers = None if seconds is None else {"Retry-After": seconds}
    return JSONResponse(body, status, headers)


def _first(errors: Sequence[Any]) -> tuple[str, str | None]:
    """Return the message and the field of the first error that pydantic found."""
    if not errors:
        return "the body is no request.", None
    place = [str(part) for part in errors[0].get("loc", ()) if part != "body"]
    if place and place[0].isdigit():  # where JSON broke off
        place = []
    param = place[0] if place else None
    said = str(errors[0].get("msg", "")).removeprefix("Value error, ")
    return f"{'.'.join(place) or 'body'}: {said}", param
