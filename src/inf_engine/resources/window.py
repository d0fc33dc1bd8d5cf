"""`ConcurrencyWindow`: how many requests may be in flight.

AIMD, as TCP does it. Every answer to a request that was in flight while the window was
full widens it: by one in slow start, which doubles it per round trip, later by
1 / size, which adds one per round trip. Overload narrows it by the factor 0.7, at most
once per round trip: whatever was sent before the last decrease tells nothing new.

The size at the last overload is a ceiling that is worth coming back to. Below nine
tenths of it the window grows by a tenth of it per round trip, then by one, and around
it by a tenth of one: so it stays close under what the endpoint takes, instead of
climbing up to it and falling back most of the time. (The shape is that of CUBIC, RFC
9438, in three straight pieces.) A small window is back soon anyway, and may have been
narrowed by chance.

A size that the user gave is where the window starts and the most it ever is; there is
no slow start then. Without one it starts at 8 and slow start lasts until the first
overload.
"""

import math

FIRST_SIZE = 8
MOST = 1024
DECREASE = 0.7
NEAR = 0.9
RETURN = 0.1
HOLD = 0.1
SMALL = 16


class ConcurrencyWindow:
    """A number of requests in flight that follows what the endpoint can take.

    Args:
        start: The first size and the largest ever, None to find out.

    Raises:
        ValueError: If `start` is below 1.
    """

    __slots__ = ("_ceiling", "_cut_at", "_full_at", "_is_slow_start", "_most", "_size")

    def __init__(self, start: int | None) -> None:
        if start is not None and start < 1:
            raise ValueError(
                f"a window of {start} requests lets nothing through; give at least 1, "
                "or None to find out"
            )
        self._size = float(FIRST_SIZE if start is None else start)
        self._most = float(MOST if start is None else start)
        self._is_slow_start = start is None
        self._cut_at = self._full_at = -math.inf
        self._ceiling = 0.0

    @property
    def size(self) -> int:
        """How many requests may be in flight, at least 1."""
        return int(self._size)

    def answered(self, in_flight: int, sent_at: float, now: float) -> None:
        """Widen the window, if it is in use.

        Args:
            in_flight: How many requests are in flight, this one or not.
            sent_at: When this one was sent, seconds on the loop's clock.
            now: Seconds on the loop's clock.
        """
        size = self._size
        if in_flight >= size - 1:
            self._full_at = now
        elif sent_at > self._full_at:
            return
        if size >= self._most or sent_at < self._cut_at:
            return
        size += 1.0 if self._is_slow_start else self._step() / size
        self._size = size if size < self._most else self._most

    def _step(self) -> float:
        """Return what the window grows by in a round trip."""
        size, ceiling = self._size, self._ceiling
        if size < NEAR * ceiling:
            return max(1.0, RETURN * ceiling)
        is_there = abs(size - ceiling + 0.5) < 1.0
        return HOLD if is_there and SMALL < ceiling < self._most else 1.0

    def overloaded(self, sent_at: float, now: float) -> None:
        """Narrow the window, at most once per round trip.

        Args:
            sent_at: When the refused or lost request was sent.
            now: Seconds on the loop's clock.
        """
        if sent_at <= self._cut_at:
            return
        self._ceiling = self._size
        self._size = max(1.0, self._size * DECREASE)
        self._is_slow_start = False
        self._cut_at = now
