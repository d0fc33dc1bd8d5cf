"""JSON over a transport: what the OpenAI and the Anthropic client share.

A `Wire` posts a payload to one address and gives back JSON objects. Every way in
which that can fail becomes one typed error, once:

==========================  =====================================================
no answer, or half of one   `EndpointConnectionError`, `EndpointTimeoutError`
another status than 200     see the table of `refusal.py`
200 with an error in it     the same, as the status that the error stands for
200 without the JSON        `MalformedResponseError`
200 without an answer       `AnswerError`, where the model says why; with the
                            response, which is paid for
==========================  =====================================================
"""

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol
from urllib.parse import urlsplit

from inf_engine.clients.events import EVENT_STREAM
from inf_engine.clients.headers import rate_hint
from inf_engine.clients.refusal import Refusals
from inf_engine.clients.transport import (
    AiohttpTransport,
    HttpResponse,
    Transport,
    place,
)
from inf_engine.errors import (
    AnswerError,
    ConfigurationError,
    EndpointConnectionError,
    EndpointError,
    MalformedResponseError,
    UsageError,
)
from inf_engine.types import LLMResponse, RateHint

DONE = b"[DONE]"
"""The data of the event that ends an OpenAI stream."""

_dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_read_first = json.JSONDecoder().raw_decode

_HEADERS = {"Content-Type": "application/json", "User-Agent": "inf-engine"}

_LONGEST_TYPE = 80

_ODD = (AttributeError, LookupError, TypeError, ValueError)
"""What a reader trips with over a body of an odd shape."""

_NO_HEADERS: Mapping[str, str] = {}


class Accumulator(Protocol):
    """Puts the events of a stream together, to the body of a plain answer."""

    @property
    def finished(self) -> bool:
        """Whether the model came to its end."""
        ...

    def add(self, event: Mapping[str, Any]) -> str:
        """Take in one event and return the piece of text in it."""
        ...

    def body(self) -> dict[str, Any]:
        """Return the body that the endpoint would have answered with, unstreamed."""
        ...


class Reader(Protocol):
    """Reads the response in a body; the request left `seconds` ago."""

    def __call__(
        self, body: Mapping[str, Any], limits: RateHint | None, seconds: float
    ) -> LLMResponse: ...


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
        self._refusals = Refusals(place(url), secret, key_name)
        self._timeout = timeout
        self._transport = AiohttpTransport() if transport is None else transport

    async def post(
        self,
        payload: Mapping[str, Any],
        read: Reader,
        headers: Mapping[str, str] | None = None,
    ) -> LLMResponse:
        """Post `payload` and return the response.

        Args:
            payload: JSON values.
            read: Makes it from the object that the endpoint answered with.
            headers: Sent instead of the usual ones.

        Raises:
            EndpointError: One of the errors drawn at the top of this file.
            AnswerError: The model wrote nothing, and says why.
        """
        start = time.perf_counter()
        response = await self._transport.send(
            self.url, headers or self.headers, self._encode(payload), self._timeout
        )
        if response.status != 200:
            raise self._refusals.of_answer(response)
        return self._whole(response, read, start)

    async def stream(
        self,
        payload: Mapping[str, Any],
        read: Reader,
        answer: Accumulator,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[str | LLMResponse]:
        """Post `payload` and yield the pieces of the text, then the whole response.

        Where the endpoint answers without streaming, the text is one piece.

        Args:
            payload: JSON values.
            read: Makes the response from the object that a plain answer would be.
            answer: Puts that object together.
            headers: Sent instead of the usual ones.

        Raises:
            EndpointError: One of the errors drawn at the top of this file, also when
                the endpoint reports it in the middle of the stream.
            AnswerError: The model wrote nothing, and says why.
        """
        start = time.perf_counter()
        got = _NO_HEADERS
        begun = False
        async with aclosing(self._opened(payload, headers)) as parts:
            async for part in parts:
                if not isinstance(part, HttpResponse):
                    if piece := self._piece(part, answer, got, begun):
                        yield piece
                    begun = True
                elif part.streamed:
                    got = part.headers
                else:
                    response = self._whole(part, read, start)
                    yield response.text
                    yield response
                    return
        if not answer.finished:
            raise EndpointConnectionError(
                f"the stream of {self.place} ended before the model had "
                "finished. Try again; check proxies that cut long answers."
            )
        yield self._read(answer.body(), rate_hint(got), read, start)

    @property
    def place(self) -> str:
        """Scheme, host and path of the address, for messages."""
        return place(self.url)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    def clean(self, words: str) -> str:
        """Return words of the endpoint without the key, should it repeat it."""
        return self._refusals.clean(words)

    def malformed(self, what: str) -> MalformedResponseError:
        """Return the error for an answer in which something is not as it has to be."""
        return MalformedResponseError(
            f"{self.place} answered 200, but {what}. Check that base_url and "
            "provider name the API that this server speaks.",
            status=200,
        )

    def _answered(self, response: LLMResponse) -> LLMResponse:
        """The response, unless it is none: a failure is never an empty text."""
        if response.text or response.tool_calls:
            return response
        if response.finish_reason == "length":
            raise AnswerError(
                f"{self.place} answered without any text: all tokens that it may write "
                "were used up before (finish_reason 'length'). Raise max_tokens.",
                response=response,
            )
        if response.finish_reason == "content_filter":
            raise AnswerError(
                f"{self.place} answered without any text: the provider withheld it "
                "(finish_reason 'content_filter'). Reword the prompt, or use another "
                "model.",
                response=response,
            )
        return response

    def _opened(
        self, payload: Mapping[str, Any], headers: Mapping[str, str] | None
    ) -> Any:
        """The parts of a streamed answer, see `Transport.stream`."""
        return self._transport.stream(
            self.url,
            headers or self.headers,
            self._encode(payload),
            self._timeout,
            self._refusals.of_answer,
        )

    def _piece(
        self,
        data: bytes,
        answer: Accumulator,
        headers: Mapping[str, str],
        begun: bool,
    ) -> str:
        """The text in the data of an event, which goes into `answer`."""
        if data == DONE:
            return ""
        try:
            event = self._checked(data, headers)
        except EndpointError as exc:
            exc.begun = begun
            raise
        try:
            return answer.add(event)
        except _ODD as exc:
            raise self._odd(exc) from exc

    def _whole(self, answer: HttpResponse, read: Reader, start: float) -> LLMResponse:
        """The response in a whole answer, to a request that left at `start`."""
        body = self._checked(answer.body, answer.headers)
        return self._read(body, rate_hint(answer.headers), read, start)

    def _read(
        self,
        body: Mapping[str, Any],
        limits: RateHint | None,
        read: Reader,
        start: float,
    ) -> LLMResponse:
        """The response in a body, to a request that left at `start`."""
        try:
            response = read(body, limits, time.perf_counter() - start)
        except _ODD as exc:
            raise self._odd(exc) from exc
        return self._answered(response)

    def _odd(self, exc: Exception) -> MalformedResponseError:
        """The error for an answer over whose shape its reader tripped."""
        return self.malformed(
            f"its body has an odd shape ({type(exc).__name__}: {exc})"
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

    def _checked(self, data: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        """The JSON object in `data`, unless it reports an error."""
        try:
            value = _value(data)
        except ValueError as exc:
            kind = self.clean(headers.get("content-type", ""))
            what = f"its body is not JSON{_but(kind)} ({exc})"
            error = self.malformed(what)
            raise error from _without_body(exc)
        if not isinstance(value, dict):
            raise self.malformed(f"its body is a JSON {type(value).__name__}")
        if value.get("error"):
            raise self._refusals.of_body(value["error"], headers)
        return value


def _value(data: bytes) -> Any:
    """The JSON value in `data`; of bare UTF-8, as nearly always, a shorter way."""
    try:
        text = data.decode()
        value, end = _read_first(text)
        if end == len(text):
            return value
    except ValueError:
        pass
    return json.loads(data)  # takes spaces and any encoding, or says what is wrong


def _but(content_type: str) -> str:
    """What the headers of an answer call a body that is not JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/html":
        return " but a page (text/html), as of a proxy or a login"
    if not kind or len(kind) > _LONGEST_TYPE or "json" in kind:
        return ""
    return "" if kind == EVENT_STREAM else f" but {kind}"


def _without_body(exc: ValueError) -> ValueError:
    """The error of a decoder without the text that it could not decode."""
    if isinstance(exc, json.JSONDecodeError):
        exc.doc = ""
    if isinstance(exc, UnicodeDecodeError):
        exc.object = b""
    return exc


def tokens(usage: Any, key: str) -> int:
    """Return the count under `key` in a provider's usage; 0 if it is not there."""
    value = usage.get(key) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else 0


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
