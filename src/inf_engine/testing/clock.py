"""`VirtualTimeLoop`: an event loop on which waiting takes no time.

When nothing is ready, the clock jumps to the next timer instead of sleeping, so tests
assert exact times. It never jumps while a thread is busy for the loop: what the thread
does takes no virtual time.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_DEADLOCK_SECONDS = 30.0


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """A selector that advances the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.busy_threads = 0

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready; jump if nothing is and no thread is at work."""
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if self.busy_threads:
            return super().select(None)
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            ready = super().select(_DEADLOCK_SECONDS)
            if not ready:
                raise RuntimeError(
                    "deadlock on a VirtualTimeLoop: nothing is ready, no timer is set "
                    "and no thread is at work."
                )
            return ready
        self.now += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and jumps from timer to timer.

    Example:
        >>> async def nap():
        ...     await asyncio.sleep(3600)
        ...     return asyncio.get_running_loop().time()
        >>> VirtualTimeLoop.run(nap())
        3600.0
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        self._threads = ThreadPoolExecutor(thread_name_prefix="virtual-time")
        super().__init__(self._jumping)
        self.set_default_executor(self._threads)

    def time(self) -> float:
        """Return the virtual time, seconds since the loop was made."""
        return self._jumping.now

    def run_in_executor(
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run a function in a thread; the clock stands still until it is done."""
        self._jumping.busy_threads += 1
        future = (executor or self._threads).submit(func, *args)
        waited = asyncio.wrap_future(future, loop=self)
        future.add_done_callback(self._thread_done)  # after the result was handed over
        return waited

    def _thread_done(self, future: Future[Any]) -> None:
        """Count a thread out when it ends, not when nobody waits for it any more."""
        if not self.is_closed():
            self.call_soon_threadsafe(self._count_out)

    def _count_out(self) -> None:
        self._jumping.busy_threads -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait for the threads to end; the clock stands still meanwhile."""
        self._jumping.busy_threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._count_out()

    @classmethod
    def run(cls, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on a new loop, like `asyncio.run`."""
        with asyncio.Runner(loop_factory=cls) as runner:
            return runner.run(main)
