"""`LeaseBook`: who holds what of the limits that all actors share.

Slots are held until they are given back, so the sum of what is held never exceeds the
limit. Each holder's share is fair (max-min of what they could use, what is left over
in equal parts); who holds more gives back as its requests end, who holds less gets what
is free. Where there are fewer slots than holders, they take turns.

Requests and tokens drip (a generic cell rate algorithm, which is a token bucket that
can be booked ahead): a piece is booked for the moment at which the limit lets it go,
in the order of the asks. So holders alternate at low rates, and at high ones nobody
waits for a round trip. What comes back before its time moves the drip back.

All of it is arithmetic of `now`.
"""

from collections.abc import Iterable, Mapping

from inf_engine.resources.bucket import MINUTE
from inf_engine.resources.lease import (
    LEASE_SECONDS,
    Ask,
    Grant,
    Portions,
    Terms,
    Wish,
    capacity_of,
)

AHEAD_SECONDS = 0.25  # how far ahead more than the first in line is booked
TURN_SECONDS = 3.0


class Drip:
    """A limit per minute that can be booked ahead.

    What was booked and is not used, and not needed for what comes, is a credit. It is
    small, as a bucket is: else all that was estimated too high would leave at once.

    Args:
        per_minute: The limit.
    """

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / MINUTE
        self._capacity = capacity_of(per_minute)
        self._full_at = 0.0  # when nothing of it would be missing any more
        self._credit = 0.0

    def book(self, amount: float, now: float) -> float:
        """Book `amount`, and return for when; more than fits at once for when all is.

        Args:
            amount: How much.
            now: Seconds on the keeper's clock.
        """
        at = self.when(amount, now)
        used = min(amount, self._credit)
        self._credit -= used
        self._take(amount - used, at)
        return at

    def when(self, amount: float, now: float) -> float:
        """Return when `amount` may go."""
        if amount <= self._credit:
            return now
        spare = self._capacity - min(amount - self._credit, self._capacity)
        return max(now, self._full_at - spare / self._rate)

    def give(self, amount: float, now: float) -> None:
        """Take back what was not used in time; below zero: what was used beyond."""
        if amount < 0:
            self._take(-amount, now)
            return
        missing = min(self._capacity, max(0.0, self._full_at - now) * self._rate)
        most = max(0.0, min(missing, self._capacity - 1.0))
        self._credit = max(self._credit, min(most, self._credit + amount))

    def undo(self, amount: float) -> None:
        """Take back what was booked for later."""
        self._full_at -= amount / self._rate

    def _take(self, amount: float, at: float) -> None:
        self._full_at = max(self._full_at, at) + amount / self._rate

    def granted(self, wish: Wish, now: float) -> Portions:
        """Return what is booked for a wish: seconds from now, and how much."""
        self.undo(wish.undone)
        self.give(wish.back, now)
        portions = []
        if wish.first:
            portions.append((self.book(wish.first, now) - now, wish.first))
        for _ in range(wish.count):
            if self.when(wish.size, now) > now + AHEAD_SECONDS:
                break
            portions.append((self.book(wish.size, now) - now, wish.size))
        return tuple(portions)


class _Limits:
    """The limits of one deployment, and who holds what of them."""

    def __init__(self, terms: Terms, holders: Iterable[str]) -> None:
        self.slots = terms.slots
        self.requests = None if terms.requests is None else Drip(terms.requests)
        self.tokens = None if terms.tokens is None else Drip(terms.tokens)
        self.timeout = terms.timeout
        self.held = dict.fromkeys(holders, 0)
        self.wanted = dict.fromkeys(holders, 0)

    def grant(self, holder: str, ask: Ask, now: float) -> Grant:
        requests = self.requests.granted(ask.requests, now) if self.requests else ()
        tokens = self.tokens.granted(ask.tokens, now) if self.tokens else ()
        if self.slots is None:
            return Grant(requests=requests, tokens=tokens)
        self.held[holder] = ask.slots
        self.wanted[holder] = ask.wanted
        most = shares(self.slots, self.wanted, int(now / TURN_SECONDS))[holder]
        free = self.slots - sum(self.held.values())
        self.held[holder] += max(0, min(free, most - ask.slots))
        held, wanted = self.held, self.wanted
        scarce = any(wanted[h] > held[h] for h in held if h != holder)
        return Grant(held[holder], most, requests, tokens, scarce)

    def forget(self, holder: str) -> None:
        self.held.pop(holder, None)
        self.wanted.pop(holder, None)


class LeaseBook:
    """The limits of all deployments, and who holds what of them.

    Args:
        terms: Of each deployment, by its number.
    """

    def __init__(self, terms: Mapping[int, Terms]) -> None:
        self._terms = dict(terms)
        self._limits = {n: _Limits(each, ()) for n, each in terms.items()}
        self._heard: dict[str, float] = {}

    def join(self, holder: str, now: float) -> None:
        """Count on a holder: slots are kept for it.

        Args:
            holder: Its name.
            now: Seconds on the keeper's clock.
        """
        self._heard[holder] = now
        for limits in self._limits.values():
            limits.held.setdefault(holder, 0)
            limits.wanted.setdefault(holder, 0)

    def sync(
        self, holder: str, asks: Mapping[int, Ask], now: float
    ) -> dict[int, Grant]:
        """Take note of what a holder keeps, and grant it more.

        Args:
            holder: Its name.
            asks: What it tells of each deployment.
            now: Seconds on the keeper's clock.
        """
        self.join(holder, now)
        self._expire(now)
        return {n: self._limits[n].grant(holder, ask, now) for n, ask in asks.items()}

    def forget(self, holder: str) -> None:
        """Take back all that a holder held: it is dead."""
        self._heard.pop(holder, None)
        for limits in self._limits.values():
            limits.forget(holder)

    def held(self, number: int) -> dict[str, int]:
        """Return how many slots of a deployment each holder has."""
        return dict(self._limits[number].held)

    def _expire(self, now: float) -> None:
        """Take back what the silent held, once nothing of theirs can be in flight."""
        for limits in self._limits.values():
            over = now - LEASE_SECONDS - limits.timeout
            for holder in [h for h in limits.held if self._heard[h] < over]:
                limits.forget(holder)


def shares(slots: int, wanted: Mapping[str, int], turn: int) -> dict[str, int]:
    """Return how many slots each holder may keep: fair, and all of them.

    Args:
        slots: How many there are.
        wanted: How many each could use.
        turn: Whose turn it is where they cannot be shared evenly.
    """
    names = list(wanted)
    first = turn % max(1, len(names))
    names = names[first:] + names[:first]
    found, left = dict.fromkeys(names, 0), slots
    open_ = [name for name in names if wanted[name] > 0]
    while open_ and left:
        part = max(1, left // len(open_))
        for name in open_[:left]:
            more = min(part, wanted[name] - found[name], left)
            found[name] += more
            left -= more
        open_ = [name for name in open_ if found[name] < wanted[name]]
    for place, name in enumerate(names):
        found[name] += left // len(names) + (place < left % len(names))
    return found
