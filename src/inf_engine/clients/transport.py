"""How bytes reach an endpoint: one seam, and aiohttp behind it.

A `Transport` knows HTTP and nothing of providers: it posts bytes to an address and
gives back a status, headers and bytes, or raises one of two errors: the endpoint
could not be reached or hung up (`EndpointConnectionError`), or the deadline passed
(`EndpointTimeoutError`). Which statuses are failures is `wire.py`'s business.

Rules kept here

- Nothing is opened at construction. The session is made by the first request, on the
  loop that runs it, and belongs to that loop.
- One transport is one pool, for one endpoint, without a limit of its own: limits are
  the resource manager's, and a second queue in front of its queue would hide them.
- Every request has a total deadline, from before the connect to the last byte.
- Redirects are not followed: a POST that is redirected would carry its key to an
  address that nobody configured.
- Cookies, compression and default headers are left out: they cost CPU and carry
  nothing. The proxy variables are read once, and never used for loopback addresses.
- A transport that nobody closes is closed without a word: by its loop, which closes
  its asynchronous generators when it ends (`_keeper` is one); else by the garbage
  collector or at exit.
- Server-sent events are cut from raw chunks, so a line may have any length.
"""

import asyncio
import contextlib
import os
import ssl
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from inf_engine.errors import (
    ConfigurationError,
    EndpointConnectionError,
    EndpointError,
    EndpointTimeoutError,
    EngineStateError,
)

CONNECT_SECONDS = 30.0
"""The longest wait for a TCP or TLS connection, in seconds."""


EVENT_STREAM = "text/event-stream"

_EVENT_STARTS = (b"data:", b"event:", b":")
"""How events begin, for servers that give a stream another content type."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole answer.

    Args:
        status: The HTTP status.
        headers: The headers, to be looked up by lower-case names.
        body: Every byte of the body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """Posts bytes to an address. `seconds` is the time for the whole answer."""

    async def send(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> HttpResponse:
        """Post `body` and return the whole answer, whatever its status.

        Raises:
            EndpointConnectionError: No connection, or one cut before the last byte.
            EndpointTimeoutError: The last byte did not arrive in time.
        """
        ...

    def stream(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        refuse: Callable[[HttpResponse], EndpointError],
    ) -> AsyncIterator[bytes | HttpResponse]:
        """Post `body` and yield the data of each server-sent event as it arrives.

        A 200 that is no stream of events, as of a server that does not know how to
        stream, is yielded whole.

        Args:
            url: The address.
            headers: Sent as they are.
            body: Sent as it is.
            seconds: Until the last byte must have arrived.
            refuse: Makes the error to raise from an answer that is not a 200.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection; the transport is of no use afterwards."""
        ...


class AiohttpTransport:
    """The transport on aiohttp, which has its HTTP parser and writer in C.

    Args:
        verify: Check TLS certificates; or a context that says how.
    """

    def __init__(self, *, verify: bool | ssl.SSLContext = True) -> None:
        self._verify = verify
        self._session: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client_error: type[Exception] = OSError
        self._client_timeout: Callable[[float], Any] = float
        self._deadline: tuple[float, Any] = (0.0, None)
        self._closed = False
        self._keeper: AsyncGenerator[None, None] | None = None
        self._finalizer: Any = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._session else "idle"
        return f"AiohttpTransport({state})"

    async def send(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> HttpResponse:
        """Post `body` and return the whole answer (see `Transport.send`)."""
        try:
            reply = await self._post(url, headers, body, seconds)
            return HttpResponse(reply.status, reply.headers, await reply.read())
        except (OSError, self._client_error) as exc:
            raise _failure(exc, url, seconds) from exc

    async def stream(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        refuse: Callable[[HttpResponse], EndpointError],
    ) -> AsyncIterator[bytes | HttpResponse]:
        """Yield the data of each event as it arrives (see `Transport.stream`)."""
        decoder = EventDecoder()
        try:
            async with self._post(url, headers, body, seconds) as reply:
                if reply.status != 200:
                    answer = await reply.read()
                    raise refuse(HttpResponse(reply.status, reply.headers, answer))
                if reply.content_type != EVENT_STREAM:
                    answer = await reply.read()
                    if not answer.lstrip().startswith(_EVENT_STARTS):
                        yield HttpResponse(reply.status, reply.headers, answer)
                        return
                    for data in decoder.feed(answer):
                        yield data
                async for chunk in reply.content.iter_any():
                    for data in decoder.feed(chunk):
                        yield data
                for data in decoder.end():
                    yield data
        except (OSError, self._client_error) as exc:
            raise _failure(exc, url, seconds) from exc

    async def aclose(self) -> None:
        """Close every connection; sending afterwards is an `EngineStateError`."""
        self._closed = True
        session, self._session = self._session, None
        keeper, self._keeper = self._keeper, None
        if session is None or keeper is None or self._loop is None:
            return
        self._finalizer.detach()
        if not self._loop.is_closed():
            await keeper.aclose()
        elif not session.closed:
            _cut(session)

    def _post(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> Any:
        """The request in this loop's session: await it, or enter it.

        Entering also ends an answer that nobody reads to its end; `read` does so
        itself, whatever becomes of it.
        """
        if self._session is None:
            self._open(url)
        elif asyncio.get_running_loop() is not self._loop:
            raise EngineStateError(
                f"the connections to {place(url)} belong to another event loop. "
                "Make one client per loop, or aclose() it in the loop that used it."
            )
        if self._deadline[0] != seconds:
            self._deadline = (seconds, self._client_timeout(seconds))
        return self._session.post(
            url,
            data=body,
            headers=headers,
            timeout=self._deadline[1],
            allow_redirects=False,
        )

    def _open(self, url: str) -> None:
        """Make the session, on the running loop."""
        if self._closed:
            raise EngineStateError(
                f"the client of {place(url)} is closed. Make a new client or engine."
            )
        import aiohttp  # noqa: PLC0415

        self._loop = asyncio.get_running_loop()
        self._client_error = aiohttp.ClientError
        self._client_timeout = lambda seconds: aiohttp.ClientTimeout(
            total=seconds, sock_connect=CONNECT_SECONDS
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._verify),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            proxy=_proxy(url),
        )
        self._keeper = _keeper(self._session)
        with contextlib.suppress(StopIteration):
            self._keeper.__anext__().send(None)
        self._finalizer = weakref.finalize(
            self, _leave, self._session, self._keeper, self._loop, os.getpid()
        )


async def _keeper(session: Any) -> AsyncGenerator[None, None]:
    """Close a session when this is closed, at the latest with the loop."""
    try:
        yield
    finally:
        await session.close()


async def _end(keeper: AsyncGenerator[None, None]) -> None:
    await keeper.aclose()


def _leave(
    session: Any,
    keeper: AsyncGenerator[None, None],
    loop: asyncio.AbstractEventLoop,
    process: int,
) -> None:
    """Close a session that nobody closed, from any thread, on its loop if it lives."""
    if session.closed or os.getpid() != process:
        return
    if loop.is_closed():
        _cut(session)
    elif loop.is_running() or asyncio._get_running_loop() is not None:
        asyncio.run_coroutine_threadsafe(_end(keeper), loop)
    else:
        loop.run_until_complete(_end(keeper))


def _cut(session: Any) -> None:
    """Close a session whose loop is closed: nothing in it can wait any more."""
    steps = session.connector.close().__await__()
    with contextlib.suppress(StopIteration):
        next(steps)


class EventDecoder:
    """Cuts a stream of bytes into the data of server-sent events.

    Comments, event names and ids are left out: both providers repeat the name in the
    data. Lines end in ``\\n`` or ``\\r\\n``.
    """

    def __init__(self) -> None:
        self._tail = b""
        self._lines: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes, in order."""
        *lines, self._tail = (self._tail + chunk).split(b"\n")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._lines.append(line[5:].removeprefix(b" "))
            elif not line:
                events.extend(self.end())
        return events

    def end(self) -> list[bytes]:
        """Return the event whose lines are complete but for the blank one, if any."""
        lines, self._lines = self._lines, []
        return [b"\n".join(lines)] if lines else []


def place(url: str) -> str:
    """Return scheme, host and path of `url`: the part of it that holds no secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _failure(exc: Exception, url: str, seconds: float) -> EndpointError:
    """The library's error for what the network did."""
    where = place(url)
    why = type(exc).__name__ + (f": {exc}" if str(exc) else "")
    if type(exc).__name__ == "ConnectionTimeoutError":
        return EndpointConnectionError(
            f"{where} could not be reached within {CONNECT_SECONDS:g} s. "
            "Check base_url, the network and the proxy variables."
        )
    if isinstance(exc, TimeoutError):
        return EndpointTimeoutError(
            f"{where} did not answer within {seconds:g} s. "
            "Raise the endpoint's timeout, or ask for fewer tokens."
        )
    return EndpointConnectionError(
        f"{where} could not be reached, or hung up before the last byte ({why}). "
        "Check that the server is running and that base_url is right."
    )


def _proxy(url: str) -> str | None:
    """The proxy of the environment for `url`; none for loopback addresses."""
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415

    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not _is_proxy(proxy):
        raise ConfigurationError(
            f"the proxy for {place(url)} in the environment (HTTP_PROXY, HTTPS_PROXY "
            "or ALL_PROXY) is no address. Set it as http://host:port"
        )
    return proxy


def _is_proxy(proxy: str) -> bool:
    """Whether an address is that of a proxy; it is never shown, it may hold a key."""
    try:
        parts = urlsplit(proxy)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return has_host and parts.scheme in ("http", "https")


def _is_loopback(host: str) -> bool:
    """Whether `host` is this machine."""
    return host in ("localhost", "::1") or host.startswith("127.")
