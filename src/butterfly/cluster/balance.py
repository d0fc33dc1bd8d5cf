"""`Balance`: which stages take longer than their share, and `fastest`: what to do then.

All stages see the same frames, so the times that frames bring along can be compared. A
stage's speed is its layers (the head counted in layers) by its seconds. New ranges are
worth a pause only if the slowest stage would take a fifth less, if two windows of
frames in a row say so, and if the last change is long enough ago. After a change the
times fit the ranges, so nothing swings.
"""

import math
from collections.abc import Sequence

_FRAMES = 64  # of a window
_WINDOWS = 2
_GAIN = 0.8  # of the slowest stage's time that may be left
_LEAST = 1e-9


class Balance:
    """Finds out whether other ranges would be faster.

    Args:
        depth: How many layers the model has.
        head: What the head costs, in layers.
        pause: The least seconds before a change, and between two; 0 for no change ever.
    """

    def __init__(self, depth: int, head: float, pause: float) -> None:
        self._depth, self._head, self._pause = depth, head, pause
        self._since: float | None = None
        self.begin(())

    def begin(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Forget what was measured: an epoch begins.

        Args:
            ranges: The layers of each stage.
        """
        self._ranges = list(ranges)
        self._seconds = [0.0] * len(ranges)
        self._count = self._windows = 0

    def add(self, seconds: Sequence[float], now: float) -> list[float] | None:
        """Take a frame, and return the stages' speeds if other ranges are due.

        Args:
            seconds: What each stage computed for it.
            now: The time, in seconds.
        """
        if not self._pause or len(seconds) != len(self._ranges) or len(seconds) < 2:
            return None
        self._since = now if self._since is None else self._since
        self._seconds = [a + b for a, b in zip(self._seconds, seconds, strict=True)]
        self._count += 1
        if self._count < _FRAMES:
            return None
        speeds = self._speeds()
        self._windows = self._windows + 1 if self._pays(speeds) else 0
        self._seconds, self._count = [0.0] * len(self._ranges), 0
        if self._windows < _WINDOWS or now - self._since < self._pause:
            return None
        self._since = now
        return speeds

    def _speeds(self) -> list[float]:
        """Return the layers a second of each stage in this window."""
        each = zip(self._ranges, self._seconds, strict=True)
        return [
            cost(first, last, self._depth, self._head) * self._count / max(_LEAST, took)
            for (first, last), took in each
        ]

    def _pays(self, speeds: Sequence[float]) -> bool:
        """Say whether other ranges would be faster by enough."""
        there = slowest(self._ranges, speeds, self._depth, self._head)
        other = fastest(self._depth, self._head, speeds)
        return slowest(other, speeds, self._depth, self._head) <= _GAIN * there


def cost(first: int, last: int, depth: int, head: float) -> float:
    """Return what a range costs, in layers.

    Args:
        first: The first layer.
        last: The layer after the last one.
        depth: How many layers the model has.
        head: What the head costs, in layers.
    """
    return last - first + (head if last == depth else 0.0)


def slowest(
    ranges: Sequence[tuple[int, int]],
    speeds: Sequence[float],
    depth: int,
    head: float,
) -> float:
    """Return the seconds that the slowest stage takes for a frame.

    Args:
        ranges: The layers of each stage.
        speeds: Layers a second of each stage.
        depth: How many layers the model has.
        head: What the head costs, in layers.
    """
    each = zip(ranges, speeds, strict=True)
    return max(cost(a, b, depth, head) / max(_LEAST, speed) for (a, b), speed in each)


def fastest(depth: int, head: float, speeds: Sequence[float]) -> list[tuple[int, int]]:
    """Return ranges whose slowest stage takes the least, one layer each at least.

    Args:
        depth: How many layers the model has.
        head: What the head costs, in layers.
        speeds: Layers a second of each stage, in the order of the ring.
    """
    best: list[tuple[float, list[int]]] = [(0.0, [0])]  # by the end of the last range
    best += [(math.inf, [])] * depth
    for speed in speeds:
        later: list[tuple[float, list[int]]] = [(math.inf, [])]
        for end in range(1, depth + 1):
            found = math.inf, list[int]()
            for start in range(end):
                took = cost(start, end, depth, head) / max(_LEAST, speed)
                worst = max(best[start][0], took)
                if worst < found[0]:
                    found = worst, [*best[start][1], end]
            later.append(found)
        best = later
    cuts = best[depth][1]
    return list(zip(cuts, cuts[1:], strict=False))
