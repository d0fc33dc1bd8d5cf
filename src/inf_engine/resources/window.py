"""`ConcurrencyWindow`: how many requests may be in flight.

AIMD, as TCP does it. Every answer to a request that was in flight while the window was
full widens it: by one in slow start, which doubles it per round trip, later by
1 / size, which adds one per round trip. Overload narrows it by the factor 0.7, at most
once per round trip: whatever was sent before the last decrease tells nothing new.

*The end of slow start.* TCP learns from a loss only that it was too much. Here the
refusals can be counted: what was in flight, less what of it is refused, is what the
endpoint took. So the first overload ends slow start, and until something that was sent
after it is answered every refusal takes one off: nobody takes the place of a refused
request. 64 sent to an endpoint that takes 40 leave a window of 40, and it is full all
the time, where 0.7 * 64 is still too much and its square too little. The window was
half as large a round trip ago, so 0.7 of that half is the least that is left.

*The ceiling.* The size at the last overload is worth coming back to. Below nine tenths
of it the window grows by a tenth of it per round trip, then by one, and around it by a
twentieth of one: so it stays close under what the endpoint takes, instead of climbing
up to it and falling back most of the time. (The shape is that of CUBIC, RFC 9438, in
three straight pieces.) A small window is back soon anyway, and may have been narrowed
by chance.

*Chance.* Some endpoints lose one request in ten whatever the load, and a window that
heeded every loss would never be larger than a few. What is lost soon after a decrease,
at four fifths or less of the size where overload struck, is lost by chance, and its
share is kept in mind. Every answer earns credit for twice that share, eight losses at
most, and a loss that there is credit for narrows nothing. Then the largest size that
overload ever struck at is the ceiling again, for the decreases were a mistake. Load
earns no credit: an endpoint that takes forty loses none of thirty.

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
HOLD = 0.05
SMALL = 16

_SAFE = 0.8
_MEMORY = 24
_MARGIN = 2.0
_MOST_CREDIT = 8.0
_NEGLIGIBLE = 1e-3


class ConcurrencyWindow:
    """A number of requests in flight that follows what the endpoint can take.

    Args:
        start: The first size and the largest ever, None to find out.

    Raises:
        ValueError: If `start` is below 1.
    """

    __slots__ = (
        "_ceiling",
        "_chance",
        "_credit",
        "_cut_at",
        "_full_at",
        "_is_shedding",
        "_is_slow_start",
        "_largest",
        "_least",
        "_most",
        "_size",
        "_struck",
    )

    def __init__(self, start: int | None) -> None:
        if start is not None and start < 1:
            raise ValueError(
                f"a window of {start} requests lets nothing through; give at least 1, "
                "or None to find out"
            )
        self._size = float(FIRST_SIZE if start is None else start)
        self._most = float(MOST if start is None else start)
        self._is_slow_start = start is None
        self._is_shedding = False
        self._cut_at = self._full_at = -math.inf
        self._ceiling = self._struck = self._largest = 0.0
        self._least = 1.0
        self._chance = self._credit = 0.0

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
        if self._is_shedding and sent_at > self._cut_at:
            self._is_shedding = False
        if self._chance and sent_at >= self._cut_at:
            self._earn()
        if in_flight >= size - 1:
            self._full_at = now
        elif sent_at > self._full_at:
            return
        if size >= self._most or sent_at < self._cut_at:
            return
        size += 1.0 if self._is_slow_start else self._step() / size
        self._size = size if size < self._most else self._most

    def overloaded(self, in_flight: int, sent_at: float, now: float) -> None:
        """Narrow the window, at most once per round trip, unless it is chance.

        Args:
            in_flight: How many other requests are in flight.
            sent_at: When the refused or lost request was sent.
            now: Seconds on the loop's clock.
        """
        if self._is_slow_start:
            self._is_slow_start = False
            self._is_shedding = True
            self._cut_at = now
            self._least = max(1.0, self._size / 2 * DECREASE)
            self._shed(min(self._size, in_flight))
        elif self._is_shedding:
            self._shed(self._size - 1.0)
        elif sent_at >= self._cut_at < now and not self._is_chance():
            size = self._size
            self._struck = self._ceiling = size
            self._largest = max(self._largest, size)
            self._size = max(1.0, size * DECREASE)
            self._cut_at = now

    def _step(self) -> float:
        """Return what the window grows by in a round trip."""
        size, ceiling = self._size, self._ceiling
        if size < NEAR * ceiling:
            return max(1.0, RETURN * ceiling)
        is_there = abs(size - ceiling + 0.5) < 1.0
        return HOLD if is_there and SMALL < ceiling < self._most else 1.0

    def _shed(self, size: float) -> None:
        """Narrow the window to what was not refused; one more was too much."""
        self._size = max(self._least, size)
        self._struck = self._ceiling = self._largest = self._size + 1.0

    def _is_chance(self) -> bool:
        """Take note of a loss; say whether there is credit for it."""
        if self._size <= _SAFE * self._struck:
            self._chance += (1.0 - self._chance) / _MEMORY
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        self._ceiling = max(self._ceiling, self._largest)
        return True

    def _earn(self) -> None:
        """Take note of an answer, where some are lost by chance."""
        if self._size <= _SAFE * self._struck:
            self._chance -= self._chance / _MEMORY
            if self._chance < _NEGLIGIBLE:
                self._chance = 0.0
        self._credit = min(_MOST_CREDIT, self._credit + _MARGIN * self._chance)
