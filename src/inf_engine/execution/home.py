"""`Home`: the private loop of an engine, for synchronous callers."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from inf_engine.errors import EngineStateError

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

    def call(self, begin: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine on the private loop and wait for what it gives.

        Raises:
            EngineStateError: If the engine cannot be used there, or from here.
        """
        self._check(self._loop)
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
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
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
            return self._loop


async def _guarded(
    coroutine: Coroutine[Any, Any, Any],
) -> tuple[Any, BaseException | None]:
    """Return what a coroutine gives, and what else would end the loop."""
    try:
        return await coroutine, None
    except (KeyboardInterrupt, SystemExit) as exc:
        return None, exc


async def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Close what generators and threads a loop still has."""
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
