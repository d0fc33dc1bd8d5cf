"""Errors as OpenAI writes them, and the handlers that answer with them."""

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

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
_RETRY = {429: "1", 503: "5"}  # seconds until a client may try again


class Failure(Exception):
    """An error that says how it is answered; a package mixes it into one of its own.

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


def failure_body(
    exc: Exception, status: int, own: type[Exception], code: str | None = None
) -> dict[str, Any]:
    """Return the body of the answer to an error; strange ones say nothing of inside.

    Args:
        exc: The error.
        status: The HTTP status.
        own: The errors whose words clients may read.
        code: What programs may look for, where the error has no code itself.
    """
    if not isinstance(exc, own):
        return error_body("the server failed: its log says why.", status)
    param, own_code = getattr(exc, "param", None), getattr(exc, "code", None)
    return error_body(str(exc), status, param, own_code or code)


def answered(body: dict[str, Any], status: int) -> JSONResponse:
    """Return an answer that is an error, with the time to try again where one helps.

    Args:
        body: The error.
        status: The HTTP status.
    """
    seconds = _RETRY.get(status)
    headers = None if seconds is None else {"Retry-After": seconds}
    return JSONResponse(body, status, headers)


def answer_failures(
    app: FastAPI, own: type[Exception], refused: Callable[[Exception], JSONResponse]
) -> None:
    """Let an app answer errors as OpenAI does.

    Args:
        app: The app.
        own: The errors that are raised on purpose.
        refused: Answers these, and all that nobody expected.
    """

    async def failed(_: Request, exc: Exception) -> JSONResponse:
        return refused(exc)

    async def invalid(_: Request, exc: Exception) -> JSONResponse:
        found: Sequence[Any] = getattr(exc, "errors", list)()
        message, param = _first(found)
        return answered(error_body(message, 400, param), 400)

    async def missing(request: Request, exc: Exception) -> JSONResponse:
        status = getattr(exc, "status_code", 500)
        where = f"{request.method} {request.url.path}"
        message = f"{where}: {getattr(exc, 'detail', '')}"
        return answered(error_body(message, status), status)

    app.add_exception_handler(own, failed)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, missing)
    app.add_exception_handler(Exception, failed)


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
