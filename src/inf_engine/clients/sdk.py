"""The official SDKs as a transport, for clients that a user hands in.

`from_sdk` turns an ``AsyncOpenAI``, ``AsyncAzureOpenAI``, ``AsyncAnthropic``,
``AsyncAnthropicBedrock`` or ``AsyncAnthropicVertex`` into a client of this library.
It is our own client with the SDK under it: payloads are built, answers read and
failures named by the same code, so that both give the same. The SDK adds what only it
knows: signatures, tokens that expire, addresses, the user's own HTTP client.

Rules kept here

- Of the SDK only what is public is used: ``with_options`` and
  ``with_streaming_response.create``. Fields that a version of it may not know travel
  as ``extra_body``.
- The SDK does not try again (``max_retries=0``): tries are the resource manager's.
- Its timeouts are per step; the deadline here is by the wall clock, to the last byte.
- A status that it raises becomes an answer again, for our own code to name. What it
  raises else is converted here, once, and nothing of it but the cause leaves.
- The client stays the user's: it is never closed here.
- An SDK is known by the modules of its classes, and imported only by what is handed
  in, so that nobody pays for one that is not used.

Amazon's event stream is not server-sent events: there the SDK's own decoder reads.
A call costs the CPU that the SDK costs, some ten times that of our own transport.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

from inf_engine.clients.anthropic import SAMPLING_VERSION, AnthropicClient
from inf_engine.clients.events import EVENT_STREAM
from inf_engine.clients.openai import OpenAIClient
from inf_engine.clients.transport import (
    LARGEST_ANSWER,
    HttpResponse,
    cut,
    failure,
    joined,
    parts_of,
    place,
)
from inf_engine.errors import (
    ConfigurationError,
    EndpointError,
    EngineStateError,
    InfEngineError,
)

T = TypeVar("T")

DEFAULT_SECONDS = 600.0
"""The deadline where neither the caller nor the SDK client has one, in seconds."""

_KNOWN = (
    "AsyncOpenAI, AsyncAzureOpenAI, AsyncAnthropic, AsyncAnthropicBedrock or "
    "AsyncAnthropicVertex"
)
_SDKS = ("openai", "anthropic")
_BASES = {"AsyncAPIClient": True, "SyncAPIClient": False}
"""The base class of every client of an SDK, and whether it is asynchronous."""

_HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "anyio", "aiohttp")
_AMAZON_STREAM = "application/vnd.amazon.eventstream"
_ARGUMENTS = ("model", "messages", "max_tokens", "stream")
"""What both SDKs take as arguments by these names; the rest is ``extra_body``."""


def is_sdk(value: object) -> bool:
    """Say whether a value is a client of an official SDK, synchronous ones included.

    Args:
        value: Anything; no SDK is imported to look at it.
    """
    return _kind(value) is not None


def from_sdk(
    client: Any,
    model: str = "",
    *,
    timeout: float | None = None,
    compatible: bool = False,
) -> OpenAIClient | AnthropicClient:
    """Return a client that sends through a client of an official SDK.

    Args:
        client: An asynchronous client; it stays the caller's, who closes it.
        model: The model to ask where a request names none (with Azure, the
            deployment).
        timeout: Seconds until the last byte of an answer must have arrived; None for
            the SDK client's own timeout.
        compatible: The server is not OpenAI's (see `OpenAIClient`).

    Raises:
        ConfigurationError: It is no such client, a synchronous one, or has no model.
    """
    kind = _kind(client)
    name = type(client).__name__
    if kind is None or isinstance(client, type):
        raise ConfigurationError(
            f"from_sdk takes a client of an official SDK ({_KNOWN}), not {name}."
        )
    sdk, is_async = kind
    if not is_async:
        raise ConfigurationError(
            f"{name} is a synchronous client, which would block the event loop. "
            f"Give {sdk}.Async{name}, made with the same arguments."
        )
    if not isinstance(model, str) or not model:
        raise ConfigurationError(
            f"a client of the {sdk} SDK ({name}) does not say which model to ask. "
            f'Wrap it: inf_engine.clients.from_sdk(client, model="...")'
        )
    options: dict[str, Any] = {
        "base_url": place(str(client.base_url)),
        "api_key": _secret(client),
        "timeout": _deadline(client) if timeout is None else timeout,
        "transport": SDKTransport(client, sdk),
    }
    if sdk == "openai":
        return OpenAIClient(model, compatible=compatible, **options)
    return AnthropicClient(model, **options)


class SDKTransport:
    """Posts through a client of an official SDK (see `Transport`).

    The address is the SDK's own business; the one that is given is for messages.

    Args:
        client: The asynchronous client.
        sdk: ``openai`` or ``anthropic``.
    """

    def __init__(self, client: Any, sdk: str) -> None:
        self._owner = client
        self._sdk = _imported(sdk)
        once = client.with_options(max_retries=0)
        calls = once.chat.completions if sdk == "openai" else once.messages
        self._create = calls.with_streaming_response.create

    def __repr__(self) -> str:
        return f"SDKTransport({type(self._owner).__name__})"

    async def send(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> HttpResponse:
        """Post `body` and return the whole answer (see `Transport.send`)."""
        try:
            async with asyncio.timeout(seconds):
                async with (
                    self._call(url, headers, body, seconds) as reply,
                    aclosing(reply.iter_bytes()) as chunks,
                ):
                    whole = await joined(chunks, url, LARGEST_ANSWER)
                    return HttpResponse(reply.status_code, reply.headers, whole)
        except Exception as exc:
            if isinstance(exc, self._sdk.APIStatusError):
                return _answer(exc)
            if error := self._failure(exc, url, seconds):
                raise error from exc
            raise

    async def stream(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        refuse: Callable[[HttpResponse], EndpointError],
    ) -> AsyncIterator[bytes | HttpResponse]:
        """Yield the data of each event as it arrives (see `Transport.stream`)."""
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout_at(deadline):
                    call = self._call(url, headers, body, seconds)
                    reply = await stack.enter_async_context(call)
                parts = self._parts(reply, url, deadline, refuse)
                async for part in await stack.enter_async_context(aclosing(parts)):
                    yield part
            return
        except Exception as exc:
            if not isinstance(exc, self._sdk.APIStatusError):
                if error := self._failure(exc, url, seconds):
                    raise error from exc
                raise
            refused = _answer(exc)
        raise refuse(refused)  # not from the SDK's error, which may repeat the key

    async def aclose(self) -> None:
        """Do nothing: the client stays its owner's."""

    def _call(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> Any:
        """The call of the SDK, to be entered for the answer."""
        if self._owner.is_closed():
            raise EngineStateError(
                f"the SDK client for {place(url)} ({type(self._owner).__name__}) is "
                "closed. Close it after the engine that uses it, or make a new one."
            )
        rest = json.loads(body)
        given = {name: rest.pop(name) for name in _ARGUMENTS if name in rest}
        further = {}
        if headers.get("anthropic-version") == SAMPLING_VERSION:
            further["anthropic-version"] = SAMPLING_VERSION
        return self._create(
            **given, extra_body=rest, extra_headers=further, timeout=seconds
        )

    async def _parts(
        self,
        reply: Any,
        url: str,
        deadline: float,
        refuse: Callable[[HttpResponse], EndpointError],
    ) -> AsyncGenerator[bytes | HttpResponse]:
        """What `Transport.stream` yields, from an answer of the SDK."""
        head = HttpResponse(reply.status_code, reply.headers, b"", streamed=True)
        kind = reply.headers.get("content-type", "").partition(";")[0].strip()
        if kind == _AMAZON_STREAM:
            yield head
            items = _decoded(self._sdk, reply)
            async with aclosing(_until(items, deadline)) as events:
                async for event in events:
                    yield event
            return
        async with aclosing(_until(reply.iter_bytes(), deadline)) as chunks:
            if kind == EVENT_STREAM:
                yield head
                async with aclosing(cut(chunks, url, 4 * LARGEST_ANSWER)) as events:
                    async for event in events:
                        yield event
                return
            whole = await joined(chunks, url, LARGEST_ANSWER)
        for part in parts_of(HttpResponse(head.status, head.headers, whole), refuse):
            yield part

    def _failure(
        self, exc: Exception, url: str, seconds: float
    ) -> InfEngineError | None:
        """The library's error for what the SDK raised, None if it is not the SDK's."""
        base = getattr(self._sdk, "OpenAIError", None) or self._sdk.AnthropicError
        if isinstance(exc, InfEngineError):
            return None
        if isinstance(exc, self._sdk.APITimeoutError) or _is_timeout(exc):
            return failure(TimeoutError(), url, seconds)
        if isinstance(exc, self._sdk.APIError):
            return failure(exc.__cause__ or exc, url, seconds)
        if isinstance(exc, base):
            return ConfigurationError(
                f"the SDK client for {place(url)} could not make the request "
                f"({type(exc).__name__}). Check its credentials and options."
            )
        if isinstance(exc, OSError) or _is_http(exc):
            return failure(exc, url, seconds)
        return None


def _kind(value: object) -> tuple[str, bool] | None:
    """The SDK that a client is of, and whether it is asynchronous; None if of none."""
    for base in type(value).__mro__:
        sdk = base.__module__.partition(".")[0]
        if sdk in _SDKS and base.__name__ in _BASES:
            return sdk, _BASES[base.__name__]
    return None


def _imported(sdk: str) -> Any:
    """The package of an SDK, of which somebody has made a client already."""
    if sdk == "openai":
        import openai  # noqa: PLC0415

        return openai
    import anthropic  # noqa: PLC0415

    return anthropic


def _secret(client: Any) -> str | None:
    """The key that must not be repeated in a message, None if the client shows none."""
    names = ("api_key", "auth_token", "access_token")
    given = (getattr(client, name, None) for name in names)
    return next((key for key in given if isinstance(key, str) and key), None)


def _deadline(client: Any) -> float:
    """The timeout that an SDK client was made with, in seconds."""
    timeout = client.timeout
    seconds = getattr(timeout, "read", timeout)
    return float(seconds) if isinstance(seconds, int | float) else DEFAULT_SECONDS


def _answer(exc: Any) -> HttpResponse:
    """The answer that made an SDK raise a status."""
    response = exc.response
    return HttpResponse(response.status_code, response.headers, response.content)


def _is_timeout(exc: BaseException) -> bool:
    """Whether a deadline passed: ours, or that of an HTTP library."""
    names = [base.__name__ for base in type(exc).__mro__]
    return isinstance(exc, TimeoutError) or "TimeoutException" in names


def _is_http(exc: BaseException) -> bool:
    """Whether an exception is of an HTTP library that an SDK may run on."""
    roots = (base.__module__.partition(".")[0] for base in type(exc).__mro__)
    return any(root in _HTTP_LIBRARIES for root in roots)


async def _decoded(sdk: Any, reply: Any) -> AsyncGenerator[bytes]:
    """The events of a stream that only the SDK can read, as JSON."""
    try:
        async for event in await reply.parse(to=sdk.AsyncStream[object]):
            yield json.dumps(event).encode()
    except sdk.APIStatusError as exc:  # an error event: the wire names it
        yield json.dumps(exc.body if isinstance(exc.body, dict) else {}).encode()


async def _until(items: AsyncGenerator[T], deadline: float) -> AsyncGenerator[T]:
    """Yield `items`; a `TimeoutError` if they are not over by `deadline`.

    No timeout is open while the consumer works: it would cancel the wrong task.
    """
    async with aclosing(items):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    item = await anext(items)
            except StopAsyncIteration:
                return
            yield item
