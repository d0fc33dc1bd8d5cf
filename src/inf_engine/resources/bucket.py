"""`TokenBucket`: one limit per minute as arithmetic of `now`.

Two rules hold, and the later one decides.

1. The bucket. Tokens drip in at per_minute / 60 a second, up to the capacity. What is
   sent takes its amount out; what was booked too high or too low is given back. The
   level may fall below zero, and then nothing goes until it has come up again.
2. The window. Where headers say how much is left until a reset, no more than that
   leaves before it.

Headers mean one of two things, and do not say which. A token bucket's `reset` is the
time until it is full: it grows with every request, and remaining + reset * rate, the
size of the bucket, stays the same. A fixed window's `reset` counts down to one moment,
and nothing drips in before. So two answers are compared: what stayed the same tells
the kind (and more than the limit cannot be the size of a bucket). Until it is told,
both rules hold, which is right for either kind; a known bucket needs no window.

The level that an answer's headers tell is an interval. They were written at some time
between sending and answering, so at least remaining minus what was sent since is there,
and at most that plus what dripped in meanwhile. The level is moved into the interval. A
tenth of a server's bucket (a quarter of a second's worth at most) is left in it, so
that a request which is a bit faster than the one before it is not refused. Within one
window our own count is exact and requests may overtake each other, so headers only
lower what is left of it. A limit that a user has set is never widened by headers, only
narrowed.
"""

from dataclasses import dataclass
from typing import Literal

from inf_engine.types import Quota

BURST_SECONDS = 0.25
RESERVE = 0.1
MINUTE = 60.0

_CLOSE = 1e-6
_SURELY_FIXED = 1.05
_HEADER_SECONDS = 0.01

Kind = Literal["unknown", "bucket", "window"]


@dataclass(frozen=True, slots=True)
class _Told:
    """What one answer's headers imply.

    Args:
        ends: When all is there again.
        size: Seconds that it takes to fill the whole bucket, if it is one.
        whole: Whether the reset was in whole seconds, so possibly rounded.
        age: Seconds from sending to answering; the headers were written in between.
    """

    ends: float
    size: float
    whole: bool
    age: float

    def kind_since(self, other: "_Told", slack: float) -> Kind:
        """Say by what stayed the same what kind of limit it is."""
        slack += 1.0 if self.whole and other.whole else 0.0
        slack += abs(self.age - other.age)
        moved = abs(self.ends - other.ends)
        grown = abs(self.size - other.size)
        if abs(moved - grown) <= slack:
            return "unknown"
        return "bucket" if grown < moved else "window"


class TokenBucket:
    """A limit per minute.

    The default capacity is a quarter of a second's worth, at least 1. Refill is
    continuous, so a small capacity costs no throughput as long as who waits is told
    when; it only has to cover the moments in which the loop is late. A server's own
    bucket that holds a second's worth then keeps three quarters of it for ever, which
    absorb requests that overtake each other on the way.

    Args:
        per_minute: The limit.
        now: Seconds on the loop's clock; the bucket is full then.
        capacity: The most that may go at once, None for the default.
    """

    __slots__ = (
        "_at",
        "_ends",
        "_is_set",
        "_kind",
        "_left",
        "_level",
        "_limit",
        "_rate",
        "_seen",
        "_set_rate",
        "_told",
        "capacity",
    )

    def __init__(
        self, per_minute: float, now: float, capacity: float | None = None
    ) -> None:
        self._limit = per_minute
        self._rate = self._set_rate = per_minute / MINUTE
        if capacity is None:
            capacity = max(1.0, self._rate * BURST_SECONDS)
        self.capacity = self._level = float(capacity)
        self._at = now
        self._is_set = True
        self._kind: Kind = "unknown"
        self._told: _Told | None = None
        self._seen = 0.0
        self._left = 0.0
        self._ends = 0.0

    @classmethod
    def learnt(
        cls, quota: Quota, now: float, outstanding: float, age: float = 0.0
    ) -> "TokenBucket | None":
        """Return the bucket that headers tell of, None if they name no limit.

        Args:
            quota: What they say.
            now: Seconds on the loop's clock.
            outstanding: See `learn`.
            age: See `learn`.
        """
        if not quota.limit or quota.limit <= 0:
            return None
        bucket = cls(quota.limit, now)
        bucket._is_set = False
        bucket.learn(quota, now, outstanding, age)
        return bucket

    @property
    def per_minute(self) -> float:
        """The limit that is kept to."""
        return self._rate * MINUTE

    def level(self, now: float) -> float:
        """Return what may be taken now; below zero if too much was."""
        self._refill(now)
        return min(self._level, self._left) if now < self._ends else self._level

    def ready_at(self, amount: float, now: float) -> float:
        """Return when `amount` may be taken: `now`, or later.

        An amount above the capacity may go when the bucket is full.

        Args:
            amount: What is to be taken.
            now: Seconds on the loop's clock.
        """
        self._refill(now)
        missing = min(amount, self.capacity) - self._level
        ready = now + missing / self._rate if missing > _CLOSE else now
        if ready < self._ends and self._left + _CLOSE < min(amount, self._limit):
            return self._ends
        return ready

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, whether it is there or not."""
        self._refill(now)
        self._level -= amount
        self._left -= amount

    def give(self, amount: float, now: float) -> None:
        """Give back what was booked and not used; below zero: book more."""
        self._refill(now)
        self._level = min(self.capacity, self._level + amount)
        self._left += amount

    def set_rate(self, per_minute: float, now: float) -> None:
        """Go on at another rate; the level stays as it is."""
        self._refill(now)
        self._limit = per_minute
        self._rate = self._set_rate = per_minute / MINUTE

    def learn(
        self, quota: Quota, now: float, outstanding: float, age: float = 0.0
    ) -> None:
        """Adopt what an answer's headers say.

        Args:
            quota: What they say.
            now: Seconds on the loop's clock.
            outstanding: What was sent after that answer's request.
            age: Seconds since that request was sent.
        """
        self._refill(now)
        if quota.limit and quota.limit > 0:
            self._adopt(quota.limit)
        if quota.remaining is None or self._is_of_an_older_window(quota, now, age):
            return
        if quota.reset is not None:
            self._judge(quota.remaining, quota.reset, now, age)
            self._bound(quota.remaining, outstanding, now + quota.reset, now)
        self._size(quota)
        if self._kind == "window":
            if not self._is_set:
                self._level = self.capacity
            return
        least = quota.remaining - self._reserve() - outstanding
        most = least + age * self._limit / MINUTE
        if not self._is_set:
            self._level = max(self._level, min(self.capacity, least))
        self._level = min(self._level, self.capacity, most)

    def _reserve(self) -> float:
        if self._kind != "bucket":
            return 0.0
        return min(RESERVE * self._seen, max(1.0, self._rate * BURST_SECONDS))

    def _refill(self, now: float) -> None:
        gone = now - self._at
        if gone <= 0.0:
            return
        self._at = now
        level = self._level + gone * self._rate
        self._level = level if level < self.capacity else self.capacity
        if now >= self._ends and self._kind == "window":
            self._ends += MINUTE * ((now - self._ends) // MINUTE + 1)
            self._left = self._limit

    def _adopt(self, limit: float) -> None:
        if limit != self._limit:
            self._limit = limit
            self._seen = 0.0
            self._told = None
        rate = limit / MINUTE
        self._rate = min(rate, self._set_rate) if self._is_set else rate

    def _is_of_an_older_window(self, quota: Quota, now: float, age: float) -> bool:
        """Say whether the window that the headers tell of is over."""
        if self._kind != "window" or quota.reset is None or now >= self._ends:
            return False
        return now + quota.reset - age / 2 < self._ends - MINUTE / 2

    def _judge(self, remaining: float, reset: float, now: float, age: float) -> None:
        """Find out what kind of limit the headers tell of."""
        rate = self._limit / MINUTE
        told = _Told(now + reset, remaining / rate + reset, reset % 1 == 0, age)
        kind: Kind = "unknown"
        if told.size > MINUTE * _SURELY_FIXED + 1 / rate:
            kind = "window"
        elif self._told is not None:
            kind = told.kind_since(self._told, 1 / rate + _HEADER_SECONDS)
        if kind != "unknown":
            self._kind = kind
        if kind != "unknown" or self._told is None:
            self._told = told

    def _bound(
        self, remaining: float, outstanding: float, ends: float, now: float
    ) -> None:
        """Let no more than what is left go until `ends`, unless it is a bucket."""
        if self._kind == "bucket":
            self._ends = 0.0
            return
        is_same = now < self._ends and abs(ends - self._ends) < MINUTE / 2
        self._ends = min(ends, self._ends) if is_same else ends
        if is_same and self._kind == "window":
            self._left = min(self._left, remaining)
        else:
            self._left = remaining - outstanding

    def _size(self, quota: Quota) -> None:
        """Learn how much may go at once."""
        known = (quota.remaining or 0.0) + (quota.reset or 0.0) * self._limit / MINUTE
        self._seen = max(self._seen, min(self._limit, known))
        if self._is_set:
            return
        if self._kind == "window":
            self.capacity = self._limit
        else:
            self.capacity = max(1.0, self._seen - self._reserve())
