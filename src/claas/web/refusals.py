"""`Refusal`, and errors as OpenAI writes them."""

import contextlib
import logging
from collections.abc import Generator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from butterfly.web.failures import Failure, answer_failures, answered, failure_body
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


class Refusal(Failure, ClaasError):
    """A request that is answered with an error."""


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


def body_of(exc: Exception) -> dict[str, Any]:
    """Return the body of the answer to an error; strange ones say nothing of inside.

    Args:
        exc: The error.
    """
    return failure_body(exc, status_of(exc), ClaasError, _code(exc))


def response_of(exc: Exception) -> JSONResponse:
    """Return the answer to an error.

    Args:
        exc: The error.
    """
    return answered(body_of(exc), status_of(exc))


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
    answer_failures(app, ClaasError, _refused)


def _refused(exc: Exception) -> JSONResponse:
    if isinstance(exc, StorageError):
        _log.error("%s", exc)
    elif isinstance(exc, ServingError):  # its words may repeat a prompt
        _log.warning("the inference server fails (%d)", exc.status)
    return response_of(exc)


def _code(exc: Exception) -> str | None:
    """Return what programs may look for: ``not_found``, ``conflict``, …"""
    name = type(exc).__name__.removesuffix("Error").lower()
    return None if isinstance(exc, Refusal) else name
