"""`Interrupts`: what Ctrl-C and SIGTERM do while a batch runs."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any, Self


class Interrupts:
    """Calls `once` at the first signal and `twice` at the second; a third one kills.

    SIGINT (Ctrl-C) and SIGTERM count alike, and together. Outside of the main thread
    nothing is changed: Python gives signals to that only.

    Args:
        once: Called on the running loop.
        twice: Likewise.

    Attributes:
        count: How many there were.
        last: The one that came last, None before the first.
    """

    def __init__(self, once: Callable[[], object], twice: Callable[[], object]) -> None:
        self.count = 0
        self.last: signal.Signals | None = None
        self._once = once
        self._twice = twice
        self._loop = asyncio.get_running_loop()
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._catch(number)
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore()

    def _catch(self, number: signal.Signals) -> None:
        """Take over a signal, if this is where signals come."""
        before = signal.getsignal(number)
        try:
            self._loop.add_signal_handler(number, self._hit, number)
        except NotImplementedError:  # on Windows
            signal.signal(number, self._hit_from_afar)
            self._undo.append(lambda: signal.signal(number, before))
        except (ValueError, RuntimeError):
            pass
        else:
            self._undo.append(lambda: self._loop.remove_signal_handler(number))

    def _restore(self) -> None:
        """Let signals be what they are without this."""
        undo, self._undo = self._undo, []
        for step in undo:
            step()

    def _hit_from_afar(self, number: int, *_: Any) -> None:
        self._loop.call_soon_threadsafe(self._hit, signal.Signals(number))

    def _hit(self, number: signal.Signals) -> None:
        self.count += 1
        self.last = number
        if self.count == 1:
            self._once()
        elif self.count == 2:
            self._restore()
            self._twice()
