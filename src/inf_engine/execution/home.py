"""`Home`: the private loop of an engine, for synchronous callers.

An engine that nobody closes must not be heard of when the interpreter exits, so the
loop and its thread also end with the garbage collector or at exit. They end after what
was opened on the loop, because finalizers run in the order of youngest first.
"""

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from inf_engine.errors import EngineStateError

_LONGEST_END = 1.0
"""Seconds to wait for a thread at exit, where code of the user may be stuck in it."""

Check = Callable[[asyncio.AbstractEventLoop | None], None]


class Home:
    """A loop in a thread of its own, made on first use.

    Args:
        check: Raises if the engine cannot be used on a loop (None: a new one).
    """

    def __init__(self, check: Check) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._finalizer: Any = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether there is a private loop, and it is not the running one."""
        return self._loop is not None and self._loop is not asyncio.get_running_loop()

    def call(
        self,
        begin: Callable[[], Coroutine[Any, Any, Any]],
        check: Check | None = None,
    ) -> Any:
        """Run a coroutine on the private loop and wait for what it gives.

        Args:
            begin: Makes the coroutine.
            check: Instead of the check that was given to the home.

        Raises:
            EngineStateError: If the engine cannot be used there, or from here.
        """
        (check or self._check)(self._loop)
        if self._thread is threading.current_thread():
            raise EngineStateError(
                "run_sync was called on the engine's own loop, where it would wait for "
                "itself. Call the module in forward, or await engine.run."
            )
        loop = self._started()
        future = asyncio.run_coroutine_threadsafe(_guarded(begin()), loop)
        try:
            value, error = future.result()
        except BaseException:
            future.cancel()
            raise
        if error is not None:
            raise error
        return value

    def stop(self) -> None:
        """End the loop and its thread; nothing if there is none."""
        with self._lock:
            loop, thread = self._loop, self._thread
            finalizer, self._finalizer = self._finalizer, None
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        finalizer.detach()
        asyncio.run_coroutine_threadsafe(_wind_up(loop), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        """Return the loop; several threads may ask for it at once."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="inf-engine", daemon=True
                )
                self._thread.start()
                self._finalizer = weakref.finalize(
                    self, _end, self._loop, self._thread, os.getpid()
                )
            return self._loop


async def _guarded(
    coroutine: Coroutine[Any, Any, Any],
) -> tuple[Any, BaseException | None]:
    """Return what a coroutine gives, and what else would end the loop."""
    try:
        return await coroutine, None
    except (KeyboardInterrupt, SystemExit) as exc:
        return None, exc


def _end(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int
) -> None:
    """End the loop of an engine that nobody closed; a forked child has no thread."""
    if os.getpid() != process or loop.is_closed():
        return
    ending = _stop_when_idle(loop)
    asyncio.run_coroutine_threadsafe(ending, loop)
    if thread is not threading.current_thread():
        thread.join(_LONGEST_END)
        if not thread.is_alive():
            loop.close()


async def _stop_when_idle(loop: asyncio.AbstractEventLoop) -> None:
    """Stop the running loop once what is on it has closed itself."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, late = await asyncio.wait(others, timeout=_LONGEST_END / 2)
        for task in late:
            task.cancel()
        await asyncio.sleep(0)
    await loop.shutdown_asyncgens()
    loop.stop()


async def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Close what generators and threads a loop still has."""
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
