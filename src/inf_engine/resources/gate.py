"""`Gate`: the slots of one endpoint, handed out in order.

Whoever asks is put into a queue. Free slots are granted in the next turn of the loop,
or before it by `grant`, which a run calls when it has worked off what an answer made
ready. So the order decides who goes first, not the accident of who asked first in the
same moment, and no slot is idle for longer than a turn.

Who waits is served oldest input first. At the end of a batch that would leave slots
idle: the last inputs would begin last, and their longest paths stick out. So when no
more inputs come, and less than two rounds of the slots wait, the longest path goes
first.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple


class Order(NamedTuple):
    """Who goes first: the lowest.

    Args:
        priority: The priority of the run, negated.
        age: The number of the input; older ones have lower numbers.
        path: The length of the longest recorded path below the node, negated.
        place: The place of the node in its run.
    """

    priority: int
    age: int
    path: int
    place: int

    def at_the_end(self) -> tuple[int, ...]:
        """Return what decides at the end of a batch: the path before the age."""
        return self.priority, self.path, self.age, self.place


class Ticket:
    """A place in the queue.

    Args:
        order: Who goes first: the lowest.
        start: Called with the slot when its turn has come.
    """

    __slots__ = ("gone", "order", "start")

    def __init__(self, order: Any, start: Callable[[], None]) -> None:
        self.order = order
        self.start = start
        self.gone = False


def _by_age(order: Any) -> Any:
    return order


def _by_path(order: Any) -> Any:
    return order.at_the_end() if isinstance(order, Order) else order


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
        self._key: Callable[[Any], Any] = _by_age
        self._ending = False

    def request(self, order: Any, start: Callable[[], None]) -> Ticket:
        """Ask for a slot; `start` is called once it is there, never from in here."""
        ticket = Ticket(order, start)
        entry = (self._key(order), next(self._numbers), ticket)
        heapq.heappush(self._waiting, entry)
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
            self._look_ahead()
            _, _, ticket = heapq.heappop(self._waiting)
            if ticket.gone:
                self._gone -= 1
            else:
                start, ticket.start = ticket.start, _started
                ticket.gone = True
                self.in_use += 1
                start()

    def end(self, ending: bool) -> None:
        """Take note that no more inputs come, or that they do."""
        self._ending = ending
        if not ending and self._key is not _by_age:
            self._arrange(_by_age)

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

    def _look_ahead(self) -> None:
        """Let the longest path go first from now on, if the end is near."""
        if self._ending and self._key is _by_age and self.limit is not None:
            if len(self._waiting) < 2 * self.limit:
                self._arrange(_by_path)

    def _arrange(self, key: Callable[[Any], Any]) -> None:
        self._key = key
        self._waiting = [(key(t.order), n, t) for _, n, t in self._waiting]
        heapq.heapify(self._waiting)

    def _grant_soon(self) -> None:
        if self._waiting and self._is_open and not self._will_grant:
            self._will_grant = True
            asyncio.get_running_loop().call_soon(self._grant_now)

    def _grant_now(self) -> None:
        self._will_grant = False
        self.grant()
