"""`Lease`: the part of a deployment's limits that this process may use for now.

Where several processes share an endpoint, one of them keeps its limits, and the others
hold leases (`inf_engine.scale`). A lease has slots, which are held until they are given
back, and portions of requests and tokens: each may be used from a moment on, and comes
back if it is not used soon after. So nobody asks before a call: whoever has room left
goes, and the next ask tells what was used. The keeper of the limits never lends more
than there is, and what is lent is in one place only; that is why the sum over all
holders stays within the limit.

A holder that was not heard for `LEASE_SECONDS` starts nothing more before it has asked
again, so what it holds is free by then, but for what is on the wire.

All of it is arithmetic of `now`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from inf_engine.resources.bucket import MINUTE, TokenBucket
from inf_engine.resources.config import EndpointConfig
from inf_engine.resources.window import ConcurrencyWindow

LEASE_SECONDS = 10.0
BURST_SECONDS = 0.1  # less than a bucket's own: what is lent can be late, too
LEAST_VALID = 0.02  # seconds that a portion may be used late: the loop is, too

_CLOSE = 1e-6
_MOST_PIECES = 256


@dataclass(frozen=True, slots=True)
class Terms:
    """The limits of a deployment that are lent.

    Args:
        slots: The most requests in flight, None for no limit.
        requests: Requests per minute, None for no limit.
        tokens: Tokens per minute, None for no limit.
        timeout: Seconds that a request is on the wire at most.
    """

    slots: int | None
    requests: float | None
    tokens: float | None
    timeout: float

    @classmethod
    def of(cls, config: EndpointConfig | None) -> "Terms | None":
        """Return the terms of a deployment, None if nothing of it is lent.

        Nobody shares a model that runs in this process, or a client that was handed
        in.
        """
        if config is None or config.provider == "local":
            return None
        limits = (
            config.max_concurrent,
            config.requests_per_minute,
            config.tokens_per_minute,
        )
        if all(limit is None for limit in limits):
            return None
        return cls(*limits, config.timeout)


class Wish(NamedTuple):
    """What is wanted of requests or tokens, and what comes back of them.

    Args:
        back: What was not used in time; below zero if more was.
        undone: What was held for later, and goes back.
        first: What the first in line cannot go without; 0 if it lacks nothing.
        size: What one more needs.
        count: For how many more.
    """

    back: float = 0.0
    undone: float = 0.0
    first: float = 0.0
    size: float = 1.0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """What a holder tells of one deployment.

    Args:
        slots: How many it keeps.
        wanted: How many it could use: in flight or in line.
        requests: What it wishes of them.
        tokens: What it wishes of them.
    """

    slots: int = 0
    wanted: int = 0
    requests: Wish = Wish()
    tokens: Wish = Wish()


Portions = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a holder gets of one deployment.

    Args:
        slots: How many it holds now.
        most: How many it may keep, once those beyond are free.
        requests: Seconds from now, and how many may go then.
        tokens: Seconds from now, and how many may go then.
        is_scarce: Whether others could use more slots than they hold.
    """

    slots: int = 0
    most: int = 0
    requests: Portions = ()
    tokens: Portions = ()
    is_scarce: bool = False


def capacity_of(per_minute: float) -> float:
    """Return how much of a limit may go at once: a tenth of a second's worth."""
    return max(1.0, per_minute / MINUTE * BURST_SECONDS)


def valid_seconds(per_minute: float) -> float:
    """Return for how long a portion may be used; what is late makes a burst."""
    spare = (capacity_of(per_minute) - 1.0) / per_minute * MINUTE
    return max(LEAST_VALID, min(BURST_SECONDS, spare))


class LeasedWindow(ConcurrencyWindow):
    """A window of which some slots are held here; it narrows as any other.

    Args:
        most: All slots of the deployment.

    Attributes:
        held: How many of them are held here.
        most: How many of these may be used; the others go back as soon as they are
            free.
    """

    __slots__ = ("_all", "held", "most")

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._all = most
        self.held = self.most = 0

    @property
    def size(self) -> int:
        """How many requests may be in flight here; 0 if no slot is held."""
        held = min(self.held, self.most)
        share = int(self._size * held / self._all + _CLOSE)
        return max(share, min(held, 1))

    def answered(self, in_flight: int, sent_at: float, now: float) -> None:
        """Widen it, as `ConcurrencyWindow` does."""
        super().answered(self._in_all(in_flight), sent_at, now)

    def _in_all(self, in_flight: int) -> int:
        """Return how many are in flight everywhere, if all are as busy."""
        return math.ceil(in_flight * self._all / self.held) if self.held else in_flight


class LeasedBucket(TokenBucket):
    """A limit per minute of which portions are held here.

    It is a bucket of the whole limit, too, which heeds what headers tell, as where
    nobody shares the limit.

    Args:
        per_minute: The whole limit.
        need: Called when a portion is missing.
    """

    __slots__ = (
        *("_back", "_mean", "_missing", "_need", "_portions", "_taken", "_valid"),
        "_waits",
    )

    def __init__(self, per_minute: float, need: Callable[[], None]) -> None:
        super().__init__(per_minute, 0.0)
        self._need = need
        self._valid = valid_seconds(per_minute)
        self._portions: list[tuple[float, float]] = []  # from when on, how much
        self._back = self._missing = 0.0  # missing: what the first in line needs
        self._mean = 1.0
        self._taken = 0
        self._waits = False

    @property
    def held(self) -> float:
        """How much is held here, for now or later."""
        return sum(amount for _, amount in self._portions)

    def ready_at(self, amount: float, now: float) -> float:
        """Return when `amount` may be taken; infinity if it has to be asked for."""
        at = max(self._held_at(amount, now), super().ready_at(amount, now))
        self._waits = at > now
        return at

    def _held_at(self, amount: float, now: float) -> float:
        total = 0.0
        for start, size in self._portions:
            total += size
            if total + _CLOSE >= amount:
                self._missing = 0.0
                return max(now, start)
        self._missing = amount
        self._need()
        return math.inf

    def take(self, amount: float, now: float) -> None:
        """Take `amount`; what is not held here is told with the next wish."""
        self._waits = False
        self._missing = 0.0
        self._taken += 1
        self._mean += (amount - self._mean) / min(self._taken, 16)
        super().take(amount, now)
        while amount > _CLOSE and self._portions:
            start, size = self._portions[0]
            used = min(size, amount)
            amount -= used
            if size - used > _CLOSE:
                self._portions[0] = start, size - used
            else:
                del self._portions[0]
        self._back -= max(0.0, amount)

    def give(self, amount: float, now: float) -> None:
        """Give back what was booked and not used; below zero: book more."""
        self._back += amount
        super().give(amount, now)

    def wish(self, ready: int, recent: int, now: float) -> Wish:
        """Return what to ask for, and give back what was not used in time.

        Args:
            ready: How many in line could go if they had it.
            recent: How many went since the last wish; as many are expected.
            now: Seconds on the loop's clock.
        """
        undone = 0.0
        if self._missing:  # a part of it would get old while the rest is awaited
            undone = sum(amount for start, amount in self._portions if start > now)
            self._back += self.held - undone
            self._portions.clear()
        elif not self._waits:
            until = now - self._valid
            late = [each for each in self._portions if each[0] < until]
            self._portions = self._portions[len(late) :]
            self._back += sum(amount for _, amount in late)
        back, self._back = self._back, 0.0
        expected = recent if self._valid > LEAST_VALID else 0
        lacking = max(ready, expected) * self._mean - self.held - self._missing
        count = min(_MOST_PIECES, max(0, math.floor(lacking / self._mean + _CLOSE)))
        return Wish(back, undone, self._missing, self._mean, count)

    def add(self, portions: Portions, now: float) -> None:
        """Take over what was granted."""
        fresh = [(now + delay, amount) for delay, amount in portions]
        self._portions = sorted([*self._portions, *fresh])


class Lease:
    """What a process holds of the limits of one deployment.

    Args:
        terms: The limits.
        need: Called when something is missing that can be asked for.

    Attributes:
        window: The slots, None if they are not limited.
        requests: The requests per minute, None if they are not limited.
        tokens: The tokens per minute, None if they are not limited.
    """

    def __init__(self, terms: Terms, need: Callable[[], None]) -> None:
        self.need = need
        slots, requests, tokens = terms.slots, terms.requests, terms.tokens
        self.window = None if slots is None else LeasedWindow(slots)
        self.requests = None if requests is None else LeasedBucket(requests, need)
        self.tokens = None if tokens is None else LeasedBucket(tokens, need)
        self._is_scarce = False
        self._sent = 0
        self._until = -math.inf

    def is_over(self, now: float) -> bool:
        """Say whether nothing may be used before the next grant."""
        if now < self._until:
            return False
        self.need()
        return True

    def sent(self) -> None:
        """Count a request that leaves."""
        self._sent += 1

    def freed(self, waiting: int) -> None:
        """Take note of a free slot, which others may need.

        Args:
            waiting: Requests in line.
        """
        if self._is_scarce and not waiting:
            self.need()

    def ask(self, in_use: int, waiting: int, now: float) -> Ask:
        """Return what to tell the keeper of the limits; what goes back is gone.

        Args:
            in_use: Requests in flight.
            waiting: Requests in line.
            now: Seconds on the loop's clock.
        """
        recent, self._sent = self._sent, 0
        kept, room = 0, waiting
        if self.window is not None:
            kept = max(in_use, min(self.window.held, self.window.most))
            if now >= self._until:  # others may have what is not in use
                kept = in_use
            self.window.held = kept
            room = min(waiting, max(1, self.window.size - in_use))
        wishes = [
            Wish() if bucket is None else bucket.wish(room, recent, now)
            for bucket in (self.requests, self.tokens)
        ]
        return Ask(kept, in_use + waiting, *wishes)

    def granted(self, grant: Grant, asked: float, now: float) -> bool:
        """Take over what was granted; say whether there is more room now.

        Args:
            grant: The answer to the last `ask`.
            asked: When that was asked, seconds on the loop's clock.
            now: Seconds on the loop's clock.
        """
        gained = now >= self._until or bool(grant.requests or grant.tokens)
        self._until = asked + LEASE_SECONDS
        self._is_scarce = grant.is_scarce
        if self.window is not None:
            gained |= grant.slots > self.window.held
            self.window.held, self.window.most = grant.slots, grant.most
        if self.requests is not None:
            self.requests.add(grant.requests, now)
        if self.tokens is not None:
            self.tokens.add(grant.tokens, now)
        return gained


def limits_under(lease: Lease | None, config: EndpointConfig | None) -> tuple[Any, Any]:
    """Return the limits per minute: leased ones, or what the endpoint says."""
    if config is None:
        return None, None
    if lease is not None:
        return lease.requests, lease.tokens
    return config.requests_per_minute, config.tokens_per_minute
