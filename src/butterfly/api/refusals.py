"""`Refusal`, and what an error is answered with."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from butterfly.errors import (
    ButterflyError,
    CapacityError,
    ClusterError,
    RequestError,
)
from butterfly.web.failures import Failure, answer_failures, answered, failure_body


class Refusal(Failure, RequestError):
    """A request that is answered with an error."""


def status_of(exc: Exception) -> int:
    """Return the HTTP status of an error.

    Args:
        exc: The error.
    """
    if isinstance(exc, Refusal):
        return exc.status
    if isinstance(exc, CapacityError):
        return 429
    if isinstance(exc, RequestError):
        return 400
    return 503 if isinstance(exc, ClusterError) else 500


def body_of(exc: Exception) -> dict[str, Any]:
    """Return the body of the answer to an error; strange ones say nothing of inside.

    Args:
        exc: The error.
    """
    return failure_body(exc, status_of(exc), ButterflyError)


def answer_errors(app: FastAPI) -> None:
    """Let an app answer errors as OpenAI does.

    Args:
        app: The app.
    """
    answer_failures(app, ButterflyError, _refused)


def _refused(exc: Exception) -> JSONResponse:
    return answered(body_of(exc), status_of(exc))
