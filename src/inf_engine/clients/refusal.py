"""The one typed error that an answer which is a failure becomes.

=====================  ==========================================================
401, 403               `AuthenticationError`
429                    `RateLimitError`, with `retry_after` in seconds
429, no money left     `RateLimitError` that is not `retryable`: waiting cannot help
408, 409, 5xx (529)    `EndpointServerError`, with `retry_after` if the answer has it
every other status     `RequestRefusedError` (a redirect too: it is not followed)
=====================  ==========================================================

An error inside a 200 counts as the status that its code or type stands for. Messages
carry the provider's own words (at most 300 characters), the status and the address,
never the request; the key is cut out should the provider repeat it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inf_engine.clients.headers import rate_hint, retry_after
from inf_engine.clients.transport import HttpResponse, place
from inf_engine.errors import (
    AuthenticationError,
    EndpointError,
    EndpointServerError,
    RateLimitError,
    RequestRefusedError,
)

LONGEST_REASON = 300
"""How many characters of the provider's words a message repeats."""

_SERVER_STATUSES = (408, 409)

_FIXES = {
    400: "Correct the request: the words above say which part.",
    401: "Check {key}.",
    402: "Check the billing of the account that {key} belongs to.",
    403: "Check that {key} may use this model.",
    404: "Check the endpoint's base_url and model.",
    413: "Send a shorter request.",
    429: "Lower max_concurrent of the endpoint.",
}

_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""What OpenAI calls a 429 that no wait ends."""

_NAMED_STATUSES = {
    "authentication_error": 401,
    "billing_error": 402,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "request_too_large": 413,
    "timeout_error": 504,
}


@dataclass(frozen=True, slots=True)
class Refusals:
    """Makes the errors of one endpoint.

    Args:
        place: The address without secrets, for messages.
        secret: The API key, to be kept out of messages; None if there is none.
        key_name: The environment variable that holds the key; empty if unknown.
    """

    place: str
    secret: str | None
    key_name: str

    def of_answer(self, response: HttpResponse) -> EndpointError:
        """Return the error for an answer that is not a 200.

        Args:
            response: The answer, whole.
        """
        try:
            body = json.loads(response.body)
        except ValueError:
            body = response.body[: 4 * LONGEST_REASON].decode("utf-8", "replace")
        words = _words(body)
        if 300 <= response.status < 400:
            target = place(response.headers.get("location", ""))
            words = f"a redirect to {target}, which is not followed"
        broke = any(name in _NO_MONEY for name in _names(body))
        return self._error(response.status, words, response.headers, broke)

    def of_body(self, error: Any, headers: Mapping[str, str]) -> EndpointError:
        """Return the error that an answer with status 200 reports in its body.

        Args:
            error: What stands under ``error`` there.
            headers: The headers of the answer.
        """
        body = {"error": error}
        names = _names(body)
        status = next(filter(None, map(_status_of, names)), 500)
        broke = any(name in _NO_MONEY for name in names)
        return self._error(status, _words(body), headers, broke)

    def clean(self, words: str) -> str:
        """Return words of the provider without the key, should it repeat it.

        Args:
            words: What it said.
        """
        return words.replace(self.secret, "***") if self.secret else words

    def _error(
        self, status: int, words: str, headers: Mapping[str, str], broke: bool
    ) -> EndpointError:
        """The typed error for a status, with what, where and the fix."""
        words = " ".join(self.clean(words).split())
        if len(words) > LONGEST_REASON:
            words = words[: LONGEST_REASON - 1] + "…"
        what = f"{self.place} answered {status}: {words or 'no reason given'}"
        is_final = broke and status == 429
        error = _error_type(status)(
            f"{what.rstrip('.')}. {self._fix(402 if is_final else status)}",
            status=status,
            retry_after=retry_after(headers),
            limits=rate_hint(headers),
        )
        if is_final:
            error.retryable = False
        return error

    def _fix(self, status: int) -> str:
        """What to do about a status."""
        if status >= 500 or status in _SERVER_STATUSES:
            return "Try again later."
        fix = _FIXES.get(status, "Check the endpoint's base_url and the request.")
        name = self.key_name
        return fix.format(key=f"the API key in {name}" if name else "the API key")


def _error_type(status: int) -> type[EndpointError]:
    """Whose fault a status is."""
    if status in (401, 403):
        return AuthenticationError
    if status == 429:
        return RateLimitError
    if status >= 500 or status in _SERVER_STATUSES:
        return EndpointServerError
    return RequestRefusedError


def _status_of(name: Any) -> int:
    """The status that an error in a body means, 0 if its name says nothing."""
    if isinstance(name, int):
        return name if 400 <= name < 600 else 0
    return _NAMED_STATUSES.get(name, 0) if isinstance(name, str) else 0


def _names(body: Any) -> tuple[Any, ...]:
    """How the body of a failure names it: the code, then the type."""
    error = body.get("error") if isinstance(body, dict) else None
    return (error.get("code"), error.get("type")) if isinstance(error, dict) else ()


def _words(body: Any) -> str:
    """The provider's own words in the body of a failure."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error.get("type") or ""
    return error if isinstance(error, str) else json.dumps(error)
