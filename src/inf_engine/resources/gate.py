"""`Gate`: the line in front of one deployment, served in order.

Whoever asks is put into the line. Those who may go are started in the next turn of the
loop, or before it by `grant`, which is called when what an answer made ready has been
worked off. So the order decides who goes first, not the accident of who asked first in
the same moment, and no slot is idle for longer than a turn.

Who may go is not decided here: the gate asks when the first in line may, and sets one
timer if that is later. Nobody passes the first in line: a big request that waits for
tokens would never go if small ones did.

Who waits is served oldest input first. At the end of a batch that would leave slots
idle: the last inputs would begin last, and their longest paths stick out. So when no
more inputs come, and less than two rounds of the slots wait, the longest path goes
first.
"""

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

from inf_engine.resources.job import Job, JobState, Order

_Entry = tuple[Any, int, Job, int]


def _waits(entry: _Entry) -> bool:
    """Say whether a place in line is still somebody's."""
    _, _, job, turn = entry
    return job.state is JobState.WAITING and job.turn == turn


class Gate:
    """Starts the jobs in line as soon as they may, lowest order first.

    Args:
        ready_at: Says when a job may start, given the time now; infinity if only the
            end of another job can tell.
        start: Starts a job, given the time now.
        slots: Says how many jobs fit in one round, None for any number.
        pump: Called when it is time to grant; None for `grant`.
    """

    def __init__(
        self,
        ready_at: Callable[[Job, float], float],
        start: Callable[[Job, float], None],
        slots: Callable[[], int | None] = lambda: None,
        pump: Callable[[], None] | None = None,
    ) -> None:
        self._pump = pump or self.grant
        self._ready_at = ready_at
        self._start = start
        self._slots = slots
        self._numbers = itertools.count()
        self._line: list[_Entry] = []
        self._left = 0
        self._timer: asyncio.Handle | None = None
        self._wakes_at = math.inf
        self._key: Callable[[Order], Any] = _by_age
        self._ending = False

    def __len__(self) -> int:
        """How many wait, about: some may have left the line unseen."""
        return len(self._line) - self._left

    def join(self, job: Job) -> None:
        """Put a job into the line; it is never started from in here."""
        entry = (self._key(job.order), next(self._numbers), job, job.turn)
        heapq.heappush(self._line, entry)
        self.wake()

    def wake(self) -> None:
        """Grant in the next turn of the loop."""
        self._wake(0.0)

    def leave(self) -> None:
        """Take note that a job of the line does not wait any more."""
        self._left += 1
        if 2 * self._left > len(self._line):
            self._line = [entry for entry in self._line if _waits(entry)]
            heapq.heapify(self._line)
            self._left = 0

    def grant(self) -> None:
        """Start those who may go now."""
        now = asyncio.get_running_loop().time()
        while self.grant_one(now):
            pass

    def grant_one(self, now: float) -> bool:
        """Start the first in line if it may go now; say whether it was."""
        job = self._first()
        if job is None:
            return False
        when = self._ready_at(job, now)
        if when > now:
            self._wake(when)
            return False
        heapq.heappop(self._line)
        self._start(job, now)
        return True

    def waiting(self) -> list[Job]:
        """Return those who wait, in no order."""
        return [entry[2] for entry in self._line if _waits(entry)]

    def end(self, ending: bool) -> None:
        """Take note that no more inputs come, or that they do."""
        self._ending = ending
        if not ending and self._key is not _by_age:
            self._arrange(_by_age)

    def close(self) -> None:
        """Drop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _first(self) -> Job | None:
        """Return the first who still waits."""
        if self._ending and self._key is _by_age:
            self._look_ahead()
        line = self._line
        while line and not _waits(line[0]):
            heapq.heappop(line)
            self._left = max(0, self._left - 1)
        return line[0][2] if line else None

    def _look_ahead(self) -> None:
        """Let the longest path go first from now on, if the end is near."""
        slots = self._slots()
        if slots is not None and 1 < len(self) < 2 * slots:
            self._arrange(Order.at_the_end)

    def _arrange(self, key: Callable[[Order], Any]) -> None:
        self._key = key
        self._line = [(key(job.order), n, job, t) for _, n, job, t in self._line]
        heapq.heapify(self._line)

    def _wake(self, when: float) -> None:
        """Grant again at a time, 0.0 for the next turn; not if that happens before."""
        if when >= self._wakes_at or when == math.inf:
            return
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._wakes_at = when
        if when > 0.0:
            self._timer = loop.call_at(when, self._woken)
        else:
            self._timer = loop.call_soon(self._woken)

    def _woken(self) -> None:
        self._timer = None
        self._wakes_at = math.inf
        self._pump()


def _by_age(order: Order) -> Any:
    return order
