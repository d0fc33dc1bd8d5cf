"""`Interrupts`: what Ctrl-C does while a batch runs."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any, Self


class Interrupts:
    """Calls `once` at the first SIGINT and `twice` at the second; a third one kills.

    Outside of the main thread nothing is changed: Python gives signals to that only.

    Args:
        once: Called on the running loop.
        twice: Likewise.

    Attributes:
        count: How many there were.
    """

    def __init__(self, once: Callable[[], object], twice: Callable[[], object]) -> None:
        self.count = 0
        self._once = once
        self._twice = twice
        self._loop = asyncio.get_running_loop()
        self._restore: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        before = signal.getsignal(signal.SIGINT)
        try:
            self._loop.add_signal_handler(signal.SIGINT, self._hit)
        except NotImplementedError:  # on Windows
            signal.signal(signal.SIGINT, self._hit_from_afar)
            self._restore = lambda: signal.signal(signal.SIGINT, before)
        except (ValueError, RuntimeError):
            pass
        else:
            self._restore = lambda: self._loop.remove_signal_handler(signal.SIGINT)
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore()

    def _hit_from_afar(self, *_: Any) -> None:
        self._loop.call_soon_threadsafe(self._hit)

    def _hit(self) -> None:
        self.count += 1
        if self.count == 1:
            self._once()
        elif self.count == 2:
            self._restore()
            self._restore = lambda: None
            self._twice()
