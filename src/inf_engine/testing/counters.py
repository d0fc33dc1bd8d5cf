"""`Counters`: what a loopback server has seen and done.

A request is in `count` from its last byte on. It gets into `statuses` once, when its
reply begins, under its status or the name of its fault; or into `left`, if its client
left (or the server stopped) before. So when nothing is in flight,
``count == statuses.total() + left``.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from inf_engine.testing.exchange import Reply, ServerRequest


class OpenConnection(Protocol):
    """What is known of a connection here."""

    def cut(self) -> None:
        """Reset the connection."""
        ...


class Counters:
    """The counters of a loopback server; its connections call the ``on_...`` methods.

    Args:
        record: Keep the requests.

    Attributes:
        requests: The requests, unless `record` is off.
        count: How many requests came.
        in_flight: How many are being answered now.
        max_in_flight: The most that ever were, refused ones included.
        connections: How many connections were made.
        disconnects: How many requests lost their connection before their reply was
            written whole.
        statuses: What the requests got: statuses, and names of faults.
        left: How many requests lost their connection before their reply began.
    """

    def __init__(self, *, record: bool) -> None:
        self.requests: list[ServerRequest] = []
        self.count = self.in_flight = self.max_in_flight = 0
        self.connections = self.disconnects = self.left = 0
        self.statuses: Counter[int | str] = Counter()
        self._answered = 0
        self._record = record
        self._waiters: list[asyncio.Future[None]] = []
        self._open: dict[OpenConnection, None] = {}

    @property
    def answered(self) -> int:
        """How many requests got a complete 200 answer, sent on an open connection.

        Sent means that the operating system has taken the last byte. So every answer
        that a client has read whole is among them (in another thread or process, a
        moment later). The other way round it cannot be known: a client may have gone,
        or given up, without reading what was sent; and whether it could use the answer
        only the client knows. Trickled answers are complete, so they count here; in
        `statuses` they are under "trickle".
        """
        return self._answered

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the recorded requests."""
        return [request.body for request in self.requests]

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

    def on_open(self, connection: OpenConnection) -> None:
        """Count a connection that was made.

        Args:
            connection: The connection.
        """
        self.connections += 1
        self._open[connection] = None
        self._changed()

    def on_close(self, connection: OpenConnection, *, busy: bool, begun: bool) -> None:
        """Count a connection out, and the request that it was busy with.

        Args:
            connection: The connection.
            busy: Whether a request on it was not answered whole.
            begun: Whether the reply to that had begun.
        """
        self._open.pop(connection, None)
        if busy:
            self.disconnects += 1
            self.left += not begun
            self.in_flight -= 1
        self._changed()

    def on_request(self, request: ServerRequest) -> None:
        """Count a request in.

        Args:
            request: The request, with the present `count` as its index.
        """
        if self._record:
            self.requests.append(request)
        self.count += 1
        self.in_flight += 1
        if self.in_flight > self.max_in_flight:
            self.max_in_flight = self.in_flight
        self._changed()

    def on_reply(self, reply: Reply) -> None:
        """Count a reply that begins.

        Args:
            reply: The reply.
        """
        self.statuses[reply.fault or reply.status] += 1

    def on_end(self) -> None:
        """Count a request out whose reply is written."""
        self.in_flight -= 1
        self._changed()

    def on_flush(self) -> None:
        """Count a complete answer that was sent."""
        self._answered += 1
        self._changed()

    def _changed(self) -> None:
        """Ask the waiting conditions again."""
        if not self._waiters:
            return
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
