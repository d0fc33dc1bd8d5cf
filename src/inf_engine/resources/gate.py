"""`Gate`: the slots of one endpoint, handed out in order."""

import asyncio
import heapq
import itertools
from typing import Any


class Gate:
    """At most `limit` holders at a time; who waits is served lowest order first.

    Args:
        limit: The number of slots, None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.in_use = 0
        self._tickets = itertools.count()
        self._waiting: list[tuple[Any, int, asyncio.Future[None]]] = []

    async def acquire(self, order: Any = ()) -> None:
        """Take a slot, waiting for one if need be."""
        if self.limit is None or self.in_use < self.limit:
            self.in_use += 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, next(self._tickets), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back; it goes to whoever waits with the lowest order."""
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self.in_use -= 1
