"""`Deadlines`: the same time for each of many waits, with one timer for all.

A timer for each request is a handle, a place in the heap of the loop and a cancelled
handle that stays there for minutes: 4 % of what a call costs. But waits of one length
end in the order in which they began, so one timer for the oldest is enough. What
happens at the end is what `asyncio.timeout` does: the task is cancelled, and whoever
began the wait turns that into a timeout.
"""

import asyncio
from typing import Any


class Deadlines:
    """Cancels tasks that wait for too long.

    Args:
        seconds: How long each may wait.
        loop: The running loop.

    Example:
        >>> async def main():
        ...     deadlines = Deadlines(0.01, asyncio.get_running_loop())
        ...     task = deadlines.begin()
        ...     try:
        ...         await asyncio.sleep(1)
        ...     except asyncio.CancelledError:
        ...         if not deadlines.is_over(task):
        ...             raise
        ...     finally:
        ...         deadlines.end(task)
        ...     return "too late"
        >>> asyncio.run(main())
        'too late'
    """

    __slots__ = ("_late", "_loop", "_seconds", "_timer", "_waits")

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._seconds = seconds
        self._loop = loop
        # the end of each wait and how often its task had been cancelled, oldest first
        self._waits: dict[asyncio.Task[Any], tuple[float, int]] = {}
        self._late: dict[asyncio.Task[Any], int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> asyncio.Task[Any]:
        """Begin a wait of the current task, and return that.

        Raises:
            RuntimeError: If this is no task.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task that it can cancel.")
        end = self._loop.time() + self._seconds
        self._waits[task] = end, task.cancelling()
        if self._timer is None:
            self._timer = self._loop.call_at(end, self._look)
        return task

    def is_over(self, task: asyncio.Task[Any]) -> bool:
        """Say whether a task was cancelled because its time is over, and only so."""
        before = self._late.get(task)
        return before is not None and task.cancelling() - 1 <= before

    def end(self, task: asyncio.Task[Any]) -> None:
        """End a wait, in time or not."""
        if self._waits.pop(task, None) is None:
            del self._late[task]
            task.uncancel()

    def close(self) -> None:
        """Drop the timer, unless something waits: nothing more is to begin."""
        if self._timer is not None and not self._waits:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Cancel those whose time is over, and set the timer for the next."""
        self._timer = None
        now = self._loop.time()
        for task, (end, cancelled) in list(self._waits.items()):
            if end > now:
                self._timer = self._loop.call_at(end, self._look)
                return
            del self._waits[task]
            self._late[task] = cancelled
            task.cancel()
