"""JSON over a transport: what the OpenAI and the Anthropic client share.

A `Wire` posts a payload to one address and gives back JSON objects. Every way in
which that can fail becomes one typed error here, once:

=====================  ==========================================================
401, 403               `AuthenticationError`
429                    `RateLimitError`, with `retry_after` in seconds
408, 409, 5xx (529)    `EndpointServerError`, with `retry_after` if the answer has it
every other status     `RequestRefusedError` (a redirect too: it is not followed)
200 without the JSON   `MalformedResponseError`
200 without an answer  `AnswerError`, where the model says why
=====================  ==========================================================

Messages carry the provider's own words (at most 300 characters), the status and the
address, never the request; the key is cut out should the provider repeat it.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from inf_engine.clients.transport import (
    AiohttpTransport,
    HttpResponse,
    Transport,
    place,
)
from inf_engine.errors import (
    AnswerError,
    AuthenticationError,
    ConfigurationError,
    EndpointError,
    EndpointServerError,
    MalformedResponseError,
    RateLimitError,
    RequestRefusedError,
    UsageError,
)
from inf_engine.types import LLMResponse

LONGEST_REASON = 300
"""How many characters of the provider's words a message repeats."""

DONE = b"[DONE]"
"""The data of the event that ends an OpenAI stream."""

_dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

_HEADERS = {"Content-Type": "application/json", "User-Agent": "inf-engine"}

_SERVER_STATUSES = (408, 409)

_FIXES = {
    400: "Correct the request: the words above say which part.",
    401: "Check {key}.",
    402: "Check the billing of the account that the API key belongs to.",
    403: "Check that {key} may use this model.",
    404: "Check the endpoint's base_url and model.",
    413: "Send a shorter request.",
    429: "Lower max_concurrent of the endpoint.",
}

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


class WholeAnswer(dict[str, Any]):
    """The body of an endpoint that was asked to stream and does not."""


class Wire:
    """Posts JSON to one address and gives back the JSON objects of the answer.

    Args:
        url: The address.
        headers: Sent with every request.
        secret: The API key, to be kept out of messages; None if there is none.
        timeout: Seconds until the last byte of an answer must have arrived.
        transport: What carries the bytes; None for a pool of its own on aiohttp.
        key_name: The environment variable that holds the key, for messages.

    Raises:
        ConfigurationError: An address or a key that cannot be sent.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        secret: str | None,
        timeout: float,
        transport: Transport | None = None,
        key_name: str = "",
    ) -> None:
        _check_url(url)
        _check_secret(secret, url, key_name)
        if not timeout > 0:
            raise ConfigurationError(
                f"the timeout of {place(url)} is {timeout!r}. Give seconds above 0."
            )
        self.url = url
        self.headers = {**_HEADERS, **headers}
        self._secret = secret
        self._key_name = key_name
        self._timeout = timeout
        self._transport = AiohttpTransport() if transport is None else transport

    async def post(
        self, payload: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Post `payload` and return the object that the endpoint answered with.

        Args:
            payload: JSON values.
            headers: Sent instead of the usual ones.

        Raises:
            EndpointError: One of the errors drawn at the top of this file.
        """
        response = await self._transport.send(
            self.url, headers or self.headers, self._encode(payload), self._timeout
        )
        if response.status != 200:
            raise self._refusal(response)
        return self._checked(response.body)

    async def events(
        self, payload: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Post `payload` and yield the object of each event, ``[DONE]`` left out.

        Where the endpoint answers without streaming, a `WholeAnswer` is the only one.

        Args:
            payload: JSON values.
            headers: Sent instead of the usual ones.

        Raises:
            EndpointError: One of the errors drawn at the top of this file, also when
                the endpoint reports it in the middle of the stream.
        """
        chunks: Any = self._transport.stream(
            self.url,
            headers or self.headers,
            self._encode(payload),
            self._timeout,
            self._refusal,
        )
        async with aclosing(chunks) as stream:
            async for data in stream:
                if isinstance(data, HttpResponse):
                    yield WholeAnswer(self._checked(data.body))
                elif data != DONE:
                    yield self._checked(data)

    @property
    def place(self) -> str:
        """Scheme, host and path of the address, for messages."""
        return place(self.url)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    def malformed(self, what: str) -> MalformedResponseError:
        """Return the error for an answer in which something is not as it has to be."""
        return MalformedResponseError(
            f"{self.place} answered 200, but {what}. Check that base_url and "
            "provider name the API that this server speaks.",
            status=200,
        )

    def reading(self) -> "_Reading":
        """Turn what trips over an odd answer into a `MalformedResponseError`."""
        return _Reading(self)

    def answered(self, response: LLMResponse) -> LLMResponse:
        """Return a response, unless it is none: a failure is never an empty text.

        Raises:
            AnswerError: Nothing was written, and the model says why.
        """
        if response.text or response.tool_calls:
            return response
        if response.finish_reason == "length":
            raise AnswerError(
                f"{self.place} answered without any text: all tokens that it may write "
                "were used up before (finish_reason 'length'). Raise max_tokens."
            )
        if response.finish_reason == "content_filter":
            raise AnswerError(
                f"{self.place} answered without any text: the provider withheld it "
                "(finish_reason 'content_filter'). Reword the prompt, or use another "
                "model."
            )
        return response

    def stream_error(self, error: Any) -> EndpointError:
        """Return the error that an answer with status 200 reports in its body."""
        names = (
            (error.get("code"), error.get("type")) if isinstance(error, dict) else ()
        )
        status = next(filter(None, map(_status_of, names)), 500)
        return self._error(status, _words({"error": error}), None)

    def _refusal(self, response: HttpResponse) -> EndpointError:
        """The error for an answer that is not a 200."""
        try:
            words = _words(json.loads(response.body))
        except ValueError:
            words = response.body[: 4 * LONGEST_REASON].decode("utf-8", "replace")
        if 300 <= response.status < 400:
            target = place(response.headers.get("location", ""))
            words = f"a redirect to {target}, which is not followed"
        return self._error(response.status, words, retry_after(response.headers))

    def _error(self, status: int, words: str, wait: float | None) -> EndpointError:
        """The typed error for a status, with what, where and the fix."""
        if self._secret:
            words = words.replace(self._secret, "***")
        words = " ".join(words.split())
        if len(words) > LONGEST_REASON:
            words = words[: LONGEST_REASON - 1] + "…"
        what = f"{self.place} answered {status}: {words or 'no reason given'}"
        return _error_type(status)(
            f"{what.rstrip('.')}. {_fix(status, self._key_name)}",
            status=status,
            retry_after=wait,
        )

    def _encode(self, payload: Mapping[str, Any]) -> bytes:
        """The payload as bytes."""
        try:
            return _dumps(payload).encode()
        except (TypeError, ValueError) as exc:
            raise UsageError(
                f"the request to {self.place} is not JSON: {exc}. Give tools, "
                "schemas and sampling settings as plain, finite JSON values."
            ) from exc

    def _checked(self, data: bytes) -> dict[str, Any]:
        """The JSON object in `data`, unless it reports an error."""
        answer = self._decode(data)
        if answer.get("error"):
            raise self.stream_error(answer["error"])
        return answer

    def _decode(self, data: bytes) -> dict[str, Any]:
        """The JSON object in `data`."""
        try:
            value = json.loads(data)
        except ValueError as exc:
            error = self.malformed(f"its body is not JSON ({exc})")
            raise error from _without_body(exc)
        if not isinstance(value, dict):
            raise self.malformed(f"its body is a JSON {type(value).__name__}")
        return value


class _Reading:
    """See `Wire.reading`; a class, because it is entered for every answer."""

    __slots__ = ("_wire",)

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        if isinstance(exc, (AttributeError, LookupError, TypeError, ValueError)):
            raise self._wire.malformed(
                f"its body has an odd shape ({type(exc).__name__}: {exc})"
            ) from exc


def _without_body(exc: ValueError) -> ValueError:
    """The error of a decoder without the text that it could not decode."""
    if isinstance(exc, json.JSONDecodeError):
        exc.doc = ""
    if isinstance(exc, UnicodeDecodeError):
        exc.object = b""
    return exc


def tokens(usage: Mapping[str, Any], *path: str) -> int:
    """Return the count under `path` in a provider's usage; 0 if it is not there."""
    value: Any = usage
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) else 0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, None if it does not say.

    Args:
        headers: The answer's headers. A date is read against the answer's own
            ``Date``, so that the clocks of the two machines need not agree.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or not text:
        return seconds
    from email.utils import parsedate_to_datetime  # noqa: PLC0415

    try:
        then = parsedate_to_datetime(text)
        now = parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (then - now).total_seconds())
    except (TypeError, ValueError):
        return None


def _number(text: str | None) -> float | None:
    """The number, at least 0, that `text` holds, if it does."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(0.0, value) if value < float("inf") else None


def _error_type(status: int) -> type[EndpointError]:
    """Whose fault a status is."""
    if status in (401, 403):
        return AuthenticationError
    if status == 429:
        return RateLimitError
    if status >= 500 or status in _SERVER_STATUSES:
        return EndpointServerError
    return RequestRefusedError


def _fix(status: int, key_name: str) -> str:
    """What to do about a status."""
    if status >= 500 or status in _SERVER_STATUSES:
        return "Try again later."
    fix = _FIXES.get(status, "Check the endpoint's base_url and the request.")
    return fix.format(key=f"the API key in {key_name}" if key_name else "the API key")


def _status_of(name: Any) -> int:
    """The status that an error in a body means, 0 if its name says nothing."""
    if isinstance(name, int):
        return name if 400 <= name < 600 else 0
    return _NAMED_STATUSES.get(name, 0) if isinstance(name, str) else 0


def _words(body: Any) -> str:
    """The provider's own words in the body of a failure."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error.get("type") or ""
    return error if isinstance(error, str) else json.dumps(error)


def _check_url(url: str) -> None:
    """Refuse an address that cannot be posted to, or that holds a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"{place(url)!r} is no address of an endpoint. "
            "Give base_url as http://host[:port]/path or https://…"
        )
    if "@" in parts.netloc:
        raise ConfigurationError(
            f"the base_url of {place(url)} holds a user name or password. "
            "Put the key in a variable and name it in api_key_env."
        )


def _check_secret(secret: str | None, url: str, key_name: str) -> None:
    """Refuse a key that cannot stand in a header."""
    if secret is not None and not (secret.isascii() and secret.isprintable()):
        raise ConfigurationError(
            f"the API key for {place(url)} holds characters that no key has, such as "
            f"a line break. Set {key_name or 'its variable'} again, without them."
        )
