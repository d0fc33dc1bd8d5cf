"""`Gate`: the slots of one endpoint, handed out in order.

A slot is not given at once but a few turns of the loop later, so that everything that
becomes ready at the same moment takes part: the order then decides who goes first, not
the order in which tasks happened to run.
"""

import asyncio
import heapq
import itertools
from typing import Any

_TURNS = 4
"""Turns between a call that ends and the request of an async forward waiting for it."""


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
        self._gone = 0
        self._granting = False

    async def acquire(self, order: Any = ()) -> None:
        """Take a slot, waiting for one if need be."""
        if self.limit is None:
            self.in_use += 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, next(self._tickets), turn))
        self._grant_soon()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            else:
                self._forget()
            raise

    def release(self) -> None:
        """Give a slot back; it goes to whoever waits with the lowest order."""
        self.in_use -= 1
        self._grant_soon()

    def _grant_soon(self) -> None:
        if self._waiting and not self._granting and self._is_open:
            self._granting = True
            self._after(_TURNS)

    @property
    def _is_open(self) -> bool:
        return self.limit is None or self.in_use < self.limit

    def _after(self, turns: int) -> None:
        loop = asyncio.get_running_loop()
        if turns:
            loop.call_soon(self._after, turns - 1)
        else:
            self._grant()

    def _grant(self) -> None:
        self._granting = False
        while self._waiting and self._is_open:
            _, _, turn = heapq.heappop(self._waiting)
            if turn.done():
                self._gone -= 1
            else:
                self.in_use += 1
                turn.set_result(None)

    def _forget(self) -> None:
        """Drop those who left, once they are the most: nobody may ever get to them."""
        self._gone += 1
        if 2 * self._gone > len(self._waiting):
            self._waiting = [entry for entry in self._waiting if not entry[2].done()]
            heapq.heapify(self._waiting)
            self._gone = 0
