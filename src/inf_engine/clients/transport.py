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
- Cookies and compression are left out: they cost CPU and carry nothing. The proxy
  variables are read once, and never used for loopback addresses.
- A transport that nobody closes is closed without a word: by its loop, which closes
  its asynchronous generators when it ends (`_keeper` is one); else by the garbage
  collector or at exit.
- An answer that grows beyond any model's is refused, not read to its end.
"""

import asyncio
import contextlib
import os
import ssl
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
)
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from inf_engine.clients.deadlines import Deadlines
from inf_engine.clients.events import EVENT_STREAM, EventDecoder, looks_like_events
from inf_engine.errors import (
    ConfigurationError,
    EndpointConnectionError,
    EndpointError,
    EndpointTimeoutError,
    EngineStateError,
    MalformedResponseError,
)

CONNECT_SECONDS = 30.0
"""The longest wait for a TCP or TLS connection, in seconds."""

LARGEST_ANSWER = 64 * 2**20
"""The most bytes that are read of an answer; four times as many of a stream's events,
which wrap each token into some 300 bytes."""

_ENCODED = "content-encoding"
_PLAIN = {"Accept": "*/*", "Accept-Encoding": "identity"}


class HttpResponse(NamedTuple):
    """A whole answer.

    Args:
        status: The HTTP status.
        headers: The headers, to be looked up by lower-case names.
        body: Every byte of the body.
        streamed: Events follow, and `body` is empty.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    streamed: bool = False


class Transport(Protocol):
    """Posts bytes to an address. `seconds` is the time for the whole answer."""

    async def send(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> HttpResponse:
        """Post `body` and return the whole answer, whatever its status.

        Raises:
            EndpointConnectionError: No connection, or one cut before the last byte.
            EndpointTimeoutError: The last byte did not arrive in time.
            MalformedResponseError: The answer is too large to be one.
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

        The head of the stream may come first, as an `HttpResponse` that is `streamed`.
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
        largest: The most bytes that are read of an answer, see `LARGEST_ANSWER`.
    """

    def __init__(
        self, *, verify: bool | ssl.SSLContext = True, largest: int = LARGEST_ANSWER
    ) -> None:
        self._verify = verify
        self._largest = largest
        self._session: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client_error: type[Exception] = OSError
        self._client_timeout: Any = None
        self._no_timeout: Any = None
        self._deadlines: dict[float, Deadlines] = {}
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
        deadline = self._deadline(url, seconds)
        task = deadline.begin()
        failed: Exception
        try:
            reply = await self._post(url, headers, body, self._no_timeout)
            size = reply.content_length
            if size is None or size > self._largest or _ENCODED in reply.headers:
                whole = await self._measured(reply, url)
            else:
                whole = await reply.read()
            return HttpResponse(reply.status, reply.headers, whole)
        except (OSError, self._client_error) as exc:
            failed = exc
        except asyncio.CancelledError:
            if not deadline.is_over(task):
                raise
            failed = TimeoutError()
        finally:
            deadline.end(task)
        raise failure(failed, url, seconds) from _without_headers(failed)

    async def stream(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        refuse: Callable[[HttpResponse], EndpointError],
    ) -> AsyncIterator[bytes | HttpResponse]:
        """Yield the data of each event as it arrives (see `Transport.stream`)."""
        self._check_open(url)
        timeout = self._client_timeout(seconds)
        try:
            async with self._post(url, headers, body, timeout) as reply:
                head = HttpResponse(reply.status, reply.headers, b"", streamed=True)
                chunks = reply.content.iter_any()
                if head.status == 200 and reply.content_type == EVENT_STREAM:
                    yield head
                    events = cut(chunks, url, 4 * self._largest)
                    async with contextlib.aclosing(events):
                        async for data in events:
                            yield data
                    return
                whole = await self._measured(reply, url)
                for part in parts_of(head._replace(body=whole, streamed=False), refuse):
                    yield part
            return
        except (OSError, self._client_error) as exc:
            failed = exc
        raise failure(failed, url, seconds) from _without_headers(failed)

    async def _measured(self, reply: Any, url: str) -> bytes:
        """The body of a reply that may be too large; it is not read further then."""
        with contextlib.closing(reply):
            if (reply.content_length or 0) > self._largest:
                raise too_large(url, self._largest)
            return await joined(reply.content.iter_any(), url, self._largest)

    async def aclose(self) -> None:
        """Close every connection; sending afterwards is an `EngineStateError`."""
        self._closed = True
        for deadline in self._deadlines.values():
            deadline.close()
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
        self, url: str, headers: Mapping[str, str], body: bytes, timeout: Any
    ) -> Any:
        """The request in this loop's session: await it, or enter it.

        Entering also ends an answer that nobody reads to its end; `read` does so
        itself, whatever becomes of it.
        """
        return self._session.post(
            url,
            data=body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        )

    def _deadline(self, url: str, seconds: float) -> Deadlines:
        """The deadline of a request, on this session's loop."""
        self._check_open(url)
        deadline = self._deadlines.get(seconds)
        if deadline is None:
            assert self._loop is not None
            deadline = self._deadlines[seconds] = Deadlines(seconds, self._loop)
        return deadline

    def _check_open(self, url: str) -> None:
        """Open the session if that is still to be done, and refuse another loop."""
        if self._session is None:
            self._open(url)
        elif asyncio.get_running_loop() is not self._loop:
            raise EngineStateError(
                f"the connections to {place(url)} belong to another event loop. "
                "Make one client per loop, or aclose() it in the loop that used it."
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
        self._no_timeout = self._client_timeout(None)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._verify),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_PLAIN,
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


async def joined(chunks: AsyncIterator[bytes], url: str, largest: int) -> bytes:
    """Return the chunks of a body as one.

    Args:
        chunks: What is still to be read of it.
        url: Where it comes from.
        largest: The most bytes that it may have.

    Raises:
        MalformedResponseError: It has more; the rest is not read.
    """
    whole: list[bytes] = []
    left = largest
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise too_large(url, largest)
        whole.append(chunk)
    return whole[0] if len(whole) == 1 else b"".join(whole)


async def cut(
    chunks: AsyncIterator[bytes], url: str, largest: int
) -> AsyncGenerator[bytes]:
    """Yield the data of each event in the chunks of a stream.

    Args:
        chunks: The stream.
        url: Where it comes from.
        largest: The most bytes that it may have.

    Raises:
        MalformedResponseError: It has more; the rest is not read.
    """
    decoder = EventDecoder()
    left = largest
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise too_large(url, largest)
        for data in decoder.feed(chunk):
            yield data
    for data in decoder.end():
        yield data


def parts_of(
    answer: HttpResponse, refuse: Callable[[HttpResponse], EndpointError]
) -> Iterator[bytes | HttpResponse]:
    """Yield what `Transport.stream` does for an answer that had to be read whole.

    Args:
        answer: Of another status than 200, or of another type than a stream.
        refuse: Makes the error to raise from an answer that is not a 200.
    """
    if answer.status != 200:
        raise refuse(answer)
    if not looks_like_events(answer.body):
        yield answer
        return
    decoder = EventDecoder()
    yield answer._replace(body=b"", streamed=True)
    yield from decoder.feed(answer.body)
    yield from decoder.end()


def too_large(url: str, largest: int) -> MalformedResponseError:
    """Return the error for an answer of more than `largest` bytes."""
    return MalformedResponseError(
        f"{place(url)} answered with more than {largest / 2**20:g} MiB, which is no "
        "model's answer; the rest was not read. Check that base_url is right."
    )


def place(url: str) -> str:
    """Return scheme, host and path of `url`: the part of it that holds no secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def failure(exc: BaseException, url: str, seconds: float) -> EndpointError:
    """Return the library's error for what the network did.

    Args:
        exc: A `TimeoutError`, or anything else for a connection that failed.
        url: Where the request went.
        seconds: The time that it had.
    """
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


def _without_headers(exc: Exception) -> Exception:
    """Return an error as a cause: aiohttp's may hold the headers that were sent."""
    if getattr(exc, "request_info", None) is None:
        return exc
    return ConnectionError(type(exc).__name__)


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
