"""`Patience`: how long a frame may be out; `where`: the place where it is stuck.

A frame that is out too long ends the epoch, even if all nodes send heartbeats. Too long
is a multiple of the round trips that were measured with as many rows on the ring, and
never less than a floor. Each verdict doubles it until a frame comes back, so that a
limit that is too low for a slow machine cannot keep it from ever answering.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_FACTOR = 8.0
_FIRST = 6.0  # floors for the first frames: caches are cold, pages untouched
_COMPUTING = 6.0  # limits for a stage that says it computes
_KEPT = 64


class Patience:
    """How long a frame may be out.

    Args:
        floor: The least seconds.
    """

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self._seen: deque[tuple[int, float]] = deque(maxlen=_KEPT)
        self._doubled = 1.0

    def learn(self, rows: int, seconds: float) -> None:
        """Take note of a frame that came back.

        Args:
            rows: How many rows were on the ring when it left, its own included.
            seconds: How long it was out.
        """
        self._seen.append((rows, seconds))
        self._doubled = 1.0

    def limit(self, rows: int) -> float:
        """Return how many seconds a frame may be out.

        Args:
            rows: How many rows were on the ring when it left.
        """
        if not self._seen:
            return self._doubled * self._floor * _FIRST
        known = [seconds for seen, seconds in self._seen if seen >= rows]
        known = known or [t * rows / max(1, seen) for seen, t in self._seen]
        return self._doubled * max(self._floor, _FACTOR * max(known))

    def double(self) -> None:
        """Be twice as patient, until a frame comes back."""
        self._doubled *= 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame is.

    Args:
        rank: The rank that it is at, or on the way to; 0 is the head.
        is_computing: Whether it is at the rank, and not on the way.
    """

    rank: int
    is_computing: bool

    @property
    def limits(self) -> float:
        """How many limits a frame may stay there: a node may have much to compute."""
        return _COMPUTING if self.is_computing else 1.0


def where(received: int, counts: Sequence[tuple[int, int]]) -> Place:
    """Return where the oldest frame is that has not come back.

    Args:
        received: How many frames came back to the head.
        counts: How many each stage received and sent, in the order of the ring.
    """
    for rank, (came, went) in enumerate(counts, 1):
        if came <= received:
            return Place(rank, False)
        if went <= received:
            return Place(rank, True)
    return Place(0, False)
