"""`Gate`: the slots of one endpoint, handed out in order.

Whoever asks is put into a queue. Free slots are granted in the next turn of the loop,
or before it by `grant`, which a run calls when it has worked off what an answer made
ready. So the order decides who goes first, not the accident of who asked first in the
same moment, and no slot is idle for longer than a turn.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Ticket:
    """A place in the queue.

    Args:
        start: Called with the slot when its turn has come.
    """

    __slots__ = ("gone", "start")

    def __init__(self, start: Callable[[], None]) -> None:
        self.start = start
        self.gone = False


def _started() -> None:
    """Stand where `start` stood, which would keep alive what it has started."""


class Gate:
    """At most `limit` holders at a time; who waits is served lowest order first.

    Args:
        limit: The number of slots, None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.in_use = 0
        self._numbers = itertools.count()
        self._waiting: list[tuple[Any, int, Ticket]] = []
        self._gone = 0
        self._will_grant = False

    def request(self, order: Any, start: Callable[[], None]) -> Ticket:
        """Ask for a slot; `start` is called once it is there, never from in here."""
        ticket = Ticket(start)
        heapq.heappush(self._waiting, (order, next(self._numbers), ticket))
        self._grant_soon()
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Leave the queue; nothing if its turn has come already."""
        if ticket.gone:
            return
        ticket.gone = True
        self._gone += 1
        if 2 * self._gone > len(self._waiting):
            self._waiting = [entry for entry in self._waiting if not entry[2].gone]
            heapq.heapify(self._waiting)
            self._gone = 0

    def release(self) -> None:
        """Give a slot back."""
        self.in_use -= 1
        self._grant_soon()

    def grant(self) -> None:
        """Give free slots to those who wait, lowest order first."""
        while self._waiting and self._is_open:
            _, _, ticket = heapq.heappop(self._waiting)
            if ticket.gone:
                self._gone -= 1
            else:
                start, ticket.start = ticket.start, _started
                ticket.gone = True
                self.in_use += 1
                start()

    async def acquire(self, order: Any = ()) -> None:
        """Take a slot, waiting for it."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = self.request(order, lambda: turn.set_result(None))
        try:
            await turn
        except asyncio.CancelledError:
            if ticket.gone:
                self.release()
            self.withdraw(ticket)
            raise

    @property
    def _is_open(self) -> bool:
        return self.limit is None or self.in_use < self.limit

    def _grant_soon(self) -> None:
        if self._waiting and self._is_open and not self._will_grant:
            self._will_grant = True
            asyncio.get_running_loop().call_soon(self._grant_now)

    def _grant_now(self) -> None:
        self._will_grant = False
        self.grant()
