"""`Latencies`: how long the last answers of a deployment took."""

import math
from collections import deque

ENOUGH = 20
KEPT = 200
_FRESH = 10  # answers after which the quantile is computed anew
_QUANTILE = 0.95


class Latencies:
    """The last answers' times, and the one that 95 in 100 of them kept under."""

    __slots__ = ("_age", "_last", "_p95")

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=KEPT)
        self._p95: float | None = None
        self._age = 0

    def add(self, seconds: float) -> None:
        """Take note of an answer, or of one that was given up after so long."""
        self._last.append(seconds)
        self._age += 1

    @property
    def p95(self) -> float | None:
        """The 95th percentile in seconds, None before there are enough answers."""
        count = len(self._last)
        if count < ENOUGH:
            return None
        if self._p95 is None or self._age >= _FRESH:
            self._age = 0
            self._p95 = sorted(self._last)[math.ceil(_QUANTILE * count) - 1]
        return self._p95
