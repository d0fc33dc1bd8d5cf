"""A server on 127.0.0.1 that speaks both providers' APIs, for tests and benchmarks.

It is HTTP/1.1 by hand over `asyncio.Protocol`: a request with a body length, answered
whole or as server-sent events. That is all our clients and the official SDKs ask for.
There is no task per request, only timers: one core answers about 20,000 requests a
second, because in a benchmark the server must not be what is measured.

Its parts: `Desk` decides what a request gets, `ProviderLimits` which are too many,
`Connection` reads and writes, `Counters` counts. What goes wrong on purpose (`errors`)
is told in `inf_engine.testing.faults`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from inf_engine.errors import UsageError
from inf_engine.testing.connection import Connection, Head
from inf_engine.testing.counters import Counters
from inf_engine.testing.desk import Desk
from inf_engine.testing.exchange import ANTHROPIC_PATH, OPENAI_PATH, ServerRequest
from inf_engine.testing.faults import Fault
from inf_engine.testing.loop_thread import LoopThread
from inf_engine.testing.provider_limits import ProviderLimits
from inf_engine.testing.replies import Answer

__all__ = [
    "ANTHROPIC_PATH",
    "OPENAI_PATH",
    "Fault",
    "LoopbackServer",
    "ServerRequest",
]


class LoopbackServer(Counters):
    """An OpenAI- and Anthropic-compatible server on an ephemeral port of 127.0.0.1.

    ``async with`` runs it in the running loop, and so do `listen` and `aclose`;
    ``with``, or `start` and `stop`, run it in a thread of its own. A server that was
    stopped can be started again: it has the same port, and goes on counting.

    A request that a limit refuses gets its 429 at once, without the latency, and uses
    up no answer and no fault of a list. What it counts is told at `Counters`.

    Args:
        answer: What it says: one text for all; a list, one each in order of arrival;
            or a function of the request's body.
        latency: Seconds from a request to the first byte of its answer; or a function
            of the request's index and body that gives them.
        piece_latency: Seconds between the events of a stream.
        errors: What goes wrong, see `inf_engine.testing.faults`: one fault (or None)
            each in order of arrival, then no more; or a function of index and body,
            e.g. `chaos`.
        api_key: Requests with another key, or none, get a 401. None takes any.
        record: Keep the requests. A benchmark turns it off.
        requests_per_minute: A token bucket of requests; None for no limit. Requests
            that get a fault of `errors` are taken out of it, too.
        tokens_per_minute: A token bucket of the tokens that answers use, as their
            usage says; None for no limit. Requests are refused while it is in debt.
        burst: How many requests the bucket holds (the other one, the tokens of the
            same time); None for one second's worth.
        headers: Whether 200s and 429s tell of these limits: ``x-ratelimit-*``, or from
            Anthropic ``anthropic-ratelimit-*`` and ``Date``; as they stood when the
            request came. What remains is of the burst, not of the minute.
        retry_after: Whether the 429 of these limits says when to come back:
            ``retry-after`` in whole seconds, and from OpenAI ``retry-after-ms``.
        max_concurrent: A hidden limit: a request above that many open ones gets a 429
            without any such header. None for no limit.

    Raises:
        UsageError: A limit that is not positive, or a burst without its limit.
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
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        burst: float | None = None,
        headers: bool = True,
        retry_after: bool = True,
        max_concurrent: int | None = None,
    ) -> None:
        super().__init__(record=record)
        limits, given = None, (requests_per_minute, tokens_per_minute, burst)
        if any(value is not None for value in given):
            limits = ProviderLimits(*given)
        self.port = 0
        self._desk = Desk(
            answer,
            errors,
            latency=latency,
            piece_latency=piece_latency,
            api_key=api_key,
            limits=limits,
            headers=headers,
            retry_after=retry_after,
            max_concurrent=max_concurrent,
        )
        self._server: asyncio.Server | None = None
        self._thread: LoopThread | None = None

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
    def latency(self) -> float | Callable[[int, dict[str, Any]], float]:
        """Seconds from a request to its answer; may be set while it runs."""
        return self._desk.latency

    @latency.setter
    def latency(self, value: float | Callable[[int, dict[str, Any]], float]) -> None:
        self._desk.latency = value

    @property
    def piece_latency(self) -> float:
        """Seconds between the events of a stream; may be set while it runs."""
        return self._desk.piece_latency

    @piece_latency.setter
    def piece_latency(self, value: float) -> None:
        self._desk.piece_latency = value

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

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
        """Run the server in a thread of its own and return it, listening.

        Raises:
            UsageError: It is running already.
            OSError: It ran before, and its port was taken by another program since.
        """
        thread = LoopThread("loopback-server")
        try:
            thread.run(self.listen())
        except BaseException:
            thread.stop()
            raise
        self._thread = thread
        return self

    def stop(self) -> None:
        """Stop the server that `start` started; connections are cut."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.run(self.aclose())
            thread.stop()

    async def listen(self) -> None:
        """Open the port, on the running loop; the one it had, if it ran before.

        Raises:
            UsageError: It is running already.
            OSError: It ran before, and its port was taken by another program since.
        """
        if self._server is not None:
            raise UsageError(f"{self!r} is running already. Make another server.")
        loop = asyncio.get_running_loop()
        heads: dict[bytes, Head] = {}
        self._server = await loop.create_server(
            lambda: Connection(self._desk, self, loop, heads),
            "127.0.0.1",
            self.port,
            backlog=4096,
            reuse_address=True,
        )
        if not self.port:
            self.port = self._server.sockets[0].getsockname()[1]
            self._desk.epoch = time.time() - loop.time()

    async def aclose(self) -> None:
        """Close the port, on the running loop, and cut every connection."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in list(self._open):
            connection.cut()
        await server.wait_closed()
        await asyncio.sleep(0)
