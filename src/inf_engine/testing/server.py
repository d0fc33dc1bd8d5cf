"""A server on 127.0.0.1 that speaks both providers' APIs, for tests and benchmarks.

It is HTTP/1.1 by hand over `asyncio.Protocol`: a request with a body length, answered
whole or as server-sent events. That is all our clients and the official SDKs ask for.
There is no task per request, only timers: one core answers about 10,000 requests a
second, because in a benchmark the server must not be what is measured.

What goes wrong on purpose, per request (`errors`):

==============  =================================================================
an int          that status, with the provider's error body
(status, headers, body)   exactly that answer; a body is text, or a value sent as JSON
"reset"         the connection is reset, nothing is answered
"truncate"      the connection is closed halfway through the answer
"short"         a stream ends properly, but halfway (like "truncate" if not streamed)
"malformed"     a 200 whose body is no JSON
"hang"          no answer, until the client leaves or the server stops
==============  =================================================================
"""

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

from inf_engine.errors import UsageError
from inf_engine.testing.replies import (
    Answer,
    anthropic_body,
    anthropic_events,
    as_response,
    error_body,
    openai_body,
    openai_events,
)

Fault: TypeAlias = int | str | tuple[int, Mapping[str, str], Any] | None

OPENAI_PATH = "/v1/chat/completions"
ANTHROPIC_PATH = "/v1/messages"

_FAULTS = ("reset", "truncate", "short", "malformed", "hang")
_MALFORMED = b'{"choices": ['


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A request as it arrived.

    Args:
        index: How many requests came before it.
        path: The path, query included.
        headers: The headers, names in lower case.
        body: The JSON object in the body; empty if there is none.
        arrival: When its last byte was there, in seconds of the server's loop.
    """

    index: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    arrival: float

    @property
    def is_anthropic(self) -> bool:
        """Whether it asks Anthropic's API."""
        return self.path.partition("?")[0] == ANTHROPIC_PATH


class LoopbackServer:
    """An OpenAI- and Anthropic-compatible server on an ephemeral port of 127.0.0.1.

    ``async with`` runs it in the running loop; ``with``, or `start` and `stop`, in a
    thread of its own.

    Args:
        answer: What it says: one text for all; a list, one each in order of arrival;
            or a function of the request's body.
        latency: Seconds from a request to the first byte of its answer; or a function
            of the request's index and body that gives them.
        piece_latency: Seconds between the events of a stream.
        errors: What goes wrong, see above: one fault (or None) each in order of
            arrival, then no more; or a function of index and body.
        api_key: Requests with another key, or none, get a 401. None takes any.
        record: Keep the requests. A benchmark turns it off.
    """

    def __init__(
        self,
        answer: Answer | Iterable[Answer] | Callable[[dict[str, Any]], Answer] = "ok",
        *,
        latency: float | Callable[[int, dict[str, Any]], float] = 0.0,
        piece_latency: float = 0.0,
        errors: Iterable[Fault] | Callable[[int, dict[str, Any]], Fault] = (),
        api_key: str | None = None,
        record: bool = True,
    ) -> None:
        self.requests: list[ServerRequest] = []
        self.count = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.connections = 0
        self.disconnects = 0
        self.statuses: Counter[int | str] = Counter()
        self.port = 0
        self.latency = latency
        self.piece_latency = piece_latency
        self._answer = _answerer(answer)
        self._fault = _faulter(errors)
        self._api_key = api_key
        self._record = record
        self._waiters: list[asyncio.Future[None]] = []
        self._open: dict[_Connection, None] = {}
        self._server: asyncio.Server | None = None
        self._thread: _LoopThread | None = None

    def __repr__(self) -> str:
        return f"LoopbackServer(port={self.port}, count={self.count})"

    @property
    def url(self) -> str:
        """The address of the server, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """The base_url of an OpenAI-compatible endpoint."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """The base_url of an Anthropic endpoint."""
        return self.url

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the recorded requests."""
        return [request.body for request in self.requests]

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Run the server in a thread of its own and return it, listening."""
        thread = _LoopThread()
        try:
            thread.run(self._listen())
        except BaseException:
            thread.stop()
            raise
        self._thread = thread
        return self

    def stop(self) -> None:
        """Stop the server that `start` started; connections are cut."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.run(self._close())
            thread.stop()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait, in the server's loop, until `condition` holds.

        Args:
            condition: Asked again whenever a request or a connection comes or goes,
                e.g. ``lambda: server.in_flight == 3``.
        """
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _changed(self) -> None:
        """Ask the waiting conditions again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _listen(self) -> None:
        """Open the port, on the running loop."""
        if self._server is not None:
            raise UsageError(f"{self!r} is running already. Make another server.")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self, loop), "127.0.0.1", 0, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        """Close the port and cut every connection."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in list(self._open):
            connection.cut()
        await server.wait_closed()
        await asyncio.sleep(0)

    def _wait(self, request: ServerRequest) -> float:
        """How long to wait before answering `request`."""
        if isinstance(self.latency, int | float):
            return self.latency
        return self.latency(request.index, request.body)

    def _reply(self, request: ServerRequest) -> "_Reply":
        """Decide what `request` gets."""
        fault = self._fault(request.index, request.body)
        if fault is None:
            fault = self._refusal(request)
        if isinstance(fault, int):
            fault = (fault, {}, f"the loopback server was told to answer {fault}")
        elif isinstance(fault, str) and fault not in _FAULTS:
            known = ", ".join(_FAULTS)
            fault = (500, {}, f"there is no fault {fault!r}; known: {known}")
        if isinstance(fault, tuple):
            return _refused(request, *fault)
        if fault == "malformed":
            return _Reply(200, {}, [_MALFORMED], fault)
        if fault in ("reset", "hang"):
            return _Reply(200, {}, [], fault)
        return self._answered(request, fault)

    def _refusal(self, request: ServerRequest) -> Fault:
        """The fault of a request that is itself wrong, None if it is not."""
        if request.path.partition("?")[0] not in (OPENAI_PATH, ANTHROPIC_PATH):
            return 404, {}, f"there is no {request.path}"
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._api_key not in (None, sent, request.headers.get("x-api-key")):
            return 401, {}, "the API key is wrong"
        return None

    def _answered(self, request: ServerRequest, fault: str | None) -> "_Reply":
        """The reply with an answer in it, whole or as a stream."""
        try:
            answer = self._answer(request.body)
            response = as_response(answer, request.body, request.index)
        except Exception as exc:  # noqa: BLE001 - the client sees it, as a 500
            return _refused(request, 500, {}, f"the answer function raised {exc!r}")
        if request.body.get("stream"):
            make = anthropic_events if request.is_anthropic else openai_events
            return _Reply(200, {}, make(response), fault, streamed=True)
        build = anthropic_body if request.is_anthropic else openai_body
        return _Reply(200, {}, [json.dumps(build(response)).encode()], fault)


@dataclass(slots=True)
class _Reply:
    """What goes back: whole, or event by event."""

    status: int
    headers: Mapping[str, str]
    parts: list[bytes]
    fault: str | None = None
    streamed: bool = False

    def head(self) -> bytes:
        """The status line and the headers."""
        kind = "text/event-stream" if self.streamed else "application/json"
        headers = {"Content-Type": kind, **self.headers}
        if self.streamed:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(sum(map(len, self.parts)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} Loopback\r\n{lines}\r\n".encode()


class _Connection(asyncio.Protocol):
    """One connection: reads a request, sends the reply, reads the next."""

    def __init__(self, server: LoopbackServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._buffer = b""
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server.connections += 1
        self._server._open[self] = None
        self._server._changed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._open.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._busy:
            self._server.disconnects += 1
            self._finish()
        self._server._changed()

    def cut(self) -> None:
        """Reset the connection."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._read()

    def _read(self) -> None:
        """Take a request off the buffer, if it is there whole, and answer it."""
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        body, self._buffer = rest[:length], rest[length:]
        self._accept(first.split(" ")[1], headers, body)

    def _accept(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Count a request in and answer it after the latency."""
        server = self._server
        now = self._loop.time()
        request = ServerRequest(server.count, path, headers, _parsed(body), now)
        if server._record:
            server.requests.append(request)
        self._busy = True
        server.count += 1
        server.in_flight += 1
        server.max_in_flight = max(server.max_in_flight, server.in_flight)
        server._changed()
        wait = server._wait(request)
        if wait > 0:
            self._loop.call_soon(self._answer_at, now + wait, request)
        else:
            self._answer(server._reply(request))

    def _answer_at(self, then: float, request: ServerRequest) -> None:
        """Make the reply while its latency passes; other requests are read first."""
        if self._busy:
            reply = self._server._reply(request)
            self._timer = self._loop.call_at(then, self._answer, reply)

    def _answer(self, reply: _Reply) -> None:
        """Send the reply, or do what the fault says."""
        self._server.statuses[reply.fault or reply.status] += 1
        if reply.fault == "hang":
            return
        if reply.fault == "reset":
            self.cut()
        elif reply.streamed:
            self._transport.write(reply.head())
            self._send_events(reply, _sent_events(reply))
        else:
            cut = reply.fault in ("truncate", "short")
            body = b"".join(reply.parts)
            self._transport.write(
                reply.head() + body[: len(body) // 2 if cut else None]
            )
            self._end(close=cut)

    def _send_events(self, reply: _Reply, events: Iterator[bytes]) -> None:
        """Send the next event and set the timer for the one after, or send all."""
        delay = self._server.piece_latency
        if delay <= 0:
            self._transport.write(b"".join(map(_chunk, events)))
        elif event := next(events, None):
            self._transport.write(_chunk(event))
            self._timer = self._loop.call_later(delay, self._send_events, reply, events)
            return
        cut = reply.fault == "truncate"
        if not cut:
            self._transport.write(_chunk(b""))
        self._end(close=cut)

    def _end(self, *, close: bool) -> None:
        """Count the request out; read the next one, or close."""
        self._finish()
        if close:
            self._transport.close()
        elif self._buffer:
            self._read()

    def _finish(self) -> None:
        self._busy = False
        self._timer = None
        self._server.in_flight -= 1
        self._server._changed()


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="loopback-server", daemon=True
        )
        self._thread.start()

    def run(self, coroutine: Any) -> None:
        """Run a coroutine in the thread and wait for it."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        """End the thread and close the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())


def _parsed(body: bytes) -> dict[str, Any]:
    """The JSON object in a body, empty if there is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _refused(
    request: ServerRequest, status: int, headers: Mapping[str, str], body: Any
) -> _Reply:
    """The reply with a status; a text becomes the message of a provider's error."""
    if status != 200 and isinstance(body, str) and not body.startswith("<"):
        body = error_body(status, body, anthropic=request.is_anthropic)
    text = body if isinstance(body, str) else json.dumps(body)
    return _Reply(status, headers, [text.encode()])


def _sent_events(reply: _Reply) -> Iterator[bytes]:
    """The events that a reply gets to send."""
    cut = reply.fault in ("truncate", "short")
    return iter(reply.parts[: len(reply.parts) // 2] if cut else reply.parts)


def _chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _answerer(answer: Any) -> Callable[[dict[str, Any]], Answer]:
    """What to say to each request, as a function of its body."""
    if callable(answer):
        given: Callable[[dict[str, Any]], Answer] = answer
        return given
    if isinstance(answer, list | tuple):
        left = iter(answer)
        return lambda body: _next_answer(left)
    return lambda body: answer


def _next_answer(left: Iterator[Answer]) -> Answer:
    """The next answer of a list."""
    for answer in left:
        return answer
    raise UsageError("the loopback server has no answer left; give it more, or one str")


def _faulter(errors: Any) -> Callable[[int, dict[str, Any]], Fault]:
    """What goes wrong with each request, as a function of its index and body."""
    if callable(errors):
        given: Callable[[int, dict[str, Any]], Fault] = errors
        return given
    left = iter(errors)
    return lambda index, body: next(left, None)
