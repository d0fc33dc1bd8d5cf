"""`Budget`: how much may be spent, checked before a request leaves.

A request reserves the most it may cost, and whoever sends it says later what became
of it. So a budget is overrun by no more than the estimates of the calls in flight are
wrong. Rules:

1. ``requests`` counts tries that left, those that failed or were refused too: it is
   what the endpoint sees, and it is exact.
2. A reservation is closed once: *settled* at what the answer cost, *released* if the
   try left and certainly cost nothing, *kept* at its upper bound if the answer was
   lost, *cancelled* if it never left. Closing it again does nothing, so ``finally``
   may close what a success has closed already.
3. ``seconds`` is wall-clock time since the account began. It stops requests that have
   not left; those in flight go on.

Money is added up in whole units (`prices.UNITS`): ten times 0.1 USD fits into 1 USD.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

from inf_engine.errors import BudgetExceededError, ConfigurationError
from inf_engine.resources.prices import UNITS

_WHOLE = ("requests", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be spent; None is no limit.

    Args:
        requests: Tries that leave for an endpoint.
        tokens: Tokens read and written.
        usd: Money, which needs a price for every model that is called.
        seconds: Wall-clock time in which requests may leave.

    Raises:
        ConfigurationError: If nothing is limited, or a limit is no positive number.
    """

    requests: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        limits = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, limit in limits.items():
            if limit is not None and not _is_limit(limit, whole=name in _WHOLE):
                kind = "whole number" if name in _WHOLE else "finite number"
                raise ConfigurationError(
                    f"Budget: {name} must be a positive {kind}, or None for no limit, "
                    f"not {limit!r}."
                )
        if all(limit is None for limit in limits.values()):
            raise ConfigurationError(
                "Budget: no limit is given. Give at least one of requests, tokens, "
                "usd and seconds, or leave the budget out."
            )

    @property
    def needs_price(self) -> bool:
        """Whether a request without a known price cannot be checked against it."""
        return self.usd is not None


def _is_limit(value: Any, whole: bool) -> bool:
    kinds = (int,) if whole else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """What is set aside for a request in flight; equal only to itself.

    Args:
        requests: Tries.
        tokens: The most tokens it may cost.
        units: The most money it may cost, in units of 1e-12 USD.
    """

    requests: int
    tokens: int
    units: int

    @property
    def usd(self) -> float:
        """The most money it may cost, in USD."""
        return self.units / UNITS


@dataclass(frozen=True, slots=True)
class BudgetSpent:
    """What became of a budget; each token and dollar stands in one place only.

    Args:
        requests: Tries that left and have ended, whatever their end.
        tokens: Tokens of the answers.
        usd: USD of the answers.
        reserved_requests: Tries that are in flight, or about to leave.
        reserved_tokens: The most tokens that those may cost.
        reserved_usd: The most USD that those may cost.
        unknown_tokens: The most tokens that tries may have cost whose answers were
            lost.
        unknown_usd: The most USD that those may have cost, and answers whose price
            was not known.
    """

    requests: int = 0
    tokens: int = 0
    usd: float = 0.0
    reserved_requests: int = 0
    reserved_tokens: int = 0
    reserved_usd: float = 0.0
    unknown_tokens: int = 0
    unknown_usd: float = 0.0


class _Sum:
    """Requests, tokens and units of money."""

    __slots__ = ("requests", "tokens", "units")

    def __init__(self) -> None:
        self.requests = self.tokens = self.units = 0

    def add(self, requests: int, tokens: int, units: int) -> None:
        self.requests += requests
        self.tokens += tokens
        self.units += units


class BudgetAccount:
    """A budget, and what is spent of it.

    Args:
        budget: The limits.
        began: When the account began, in seconds of the clock that `reserve` is
            given.
    """

    def __init__(self, budget: Budget, began: float) -> None:
        self.budget = budget
        self.began = began
        self._open: set[Reservation] = set()
        self._spent = _Sum()
        self._reserved = _Sum()
        self._unknown = _Sum()
        self._limits: tuple[float, float, float] = (
            math.inf if budget.requests is None else budget.requests,
            math.inf if budget.tokens is None else budget.tokens,
            math.inf if budget.usd is None else round(budget.usd * UNITS),
        )

    def reserve(
        self, *, now: float, tokens: int = 0, usd: float = 0.0, requests: int = 1
    ) -> Reservation:
        """Set aside what a request may cost at most, before it leaves.

        Args:
            now: The time, in seconds of the clock that `began` was read from.
            tokens: The estimated input and `max_tokens`; without `max_tokens`, and so
                without an upper bound, an estimate of the output.
            usd: What those tokens cost at most.
            requests: Tries.

        Raises:
            BudgetExceededError: If that and what is spent, unknown and reserved would
                be more than a limit; then nothing is reserved.
        """
        asked = self._reservation(requests, tokens, usd)
        if not (self._fits(asked, self._reserved) and self._in_time(now)):
            raise BudgetExceededError(self._refusal(asked, now))
        self._reserved.add(asked.requests, asked.tokens, asked.units)
        self._open.add(asked)
        return asked

    def fits(
        self, *, now: float, tokens: int = 0, usd: float = 0.0, requests: int = 1
    ) -> bool:
        """Return whether `reserve` would allow a request now; the same arguments."""
        asked = self._reservation(requests, tokens, usd)
        return self._fits(asked, self._reserved) and self._in_time(now)

    def may_fit_later(
        self, *, now: float, tokens: int = 0, usd: float = 0.0, requests: int = 1
    ) -> bool:
        """Return whether a request can fit once those in flight have ended.

        It is so if only their reservations stand in its way: they mostly cost less
        than was reserved.

        Args:
            now: The time, in seconds of the clock that `began` was read from.
            tokens: As for `reserve`.
            usd: As for `reserve`.
            requests: As for `reserve`.
        """
        asked = self._reservation(requests, tokens, usd)
        return self._fits(asked, _Sum()) and self._in_time(now)

    def settle(self, reservation: Reservation, tokens: int, usd: float | None) -> None:
        """Book what an answer cost in place of what was reserved for it.

        Args:
            reservation: What `reserve` gave.
            tokens: Tokens that it cost.
            usd: USD that it cost; None if that is not known, so that what was reserved
                stays booked, as unknown.
        """
        if not self._close(reservation):
            return
        units = 0 if usd is None else round(usd * UNITS)
        self._spent.add(reservation.requests, tokens, units)
        if usd is None:
            self._unknown.add(0, 0, reservation.units)

    def release(self, reservation: Reservation) -> None:
        """Free what was reserved for a try that left and certainly cost nothing.

        The endpoint refused it, e.g. with 400 or 429. Its request counts.

        Args:
            reservation: What `reserve` gave.
        """
        if self._close(reservation):
            self._spent.add(reservation.requests, 0, 0)

    def keep(self, reservation: Reservation) -> None:
        """Leave booked, as unknown, what was reserved for a try with a lost answer.

        Args:
            reservation: What `reserve` gave.
        """
        if self._close(reservation):
            self._spent.add(reservation.requests, 0, 0)
            self._unknown.add(0, reservation.tokens, reservation.units)

    def cancel(self, reservation: Reservation) -> None:
        """Free all that was reserved for a request that never left.

        Args:
            reservation: What `reserve` gave.
        """
        self._close(reservation)

    @property
    def spent(self) -> BudgetSpent:
        """What is spent, reserved and unknown now."""
        return BudgetSpent(
            requests=self._spent.requests,
            tokens=self._spent.tokens,
            usd=self._spent.units / UNITS,
            reserved_requests=self._reserved.requests,
            reserved_tokens=self._reserved.tokens,
            reserved_usd=self._reserved.units / UNITS,
            unknown_tokens=self._unknown.tokens,
            unknown_usd=self._unknown.units / UNITS,
        )

    @property
    def left(self) -> tuple[float, float, float]:
        """Requests, tokens and units of money that are left; infinity for any."""
        (requests, tokens, units), limits = self.used, self._limits
        return limits[0] - requests, limits[1] - tokens, limits[2] - units

    @property
    def used(self) -> tuple[int, int, int]:
        """Requests, tokens and units of money that are spent, or may be."""
        spent, unknown = self._spent, self._unknown
        tokens, units = spent.tokens + unknown.tokens, spent.units + unknown.units
        return spent.requests, tokens, units

    def book(self, requests: int, tokens: int, units: int) -> None:
        """Book what was spent elsewhere.

        Args:
            requests: Tries.
            tokens: Tokens.
            units: Money, in units of 1e-12 USD.
        """
        self._spent.add(requests, tokens, units)

    @staticmethod
    def _reservation(requests: int, tokens: int, usd: float) -> Reservation:
        return Reservation(requests, tokens, round(usd * UNITS))

    def _close(self, reservation: Reservation) -> bool:
        """Take a reservation back; False if that has been done already."""
        if reservation not in self._open:
            return False
        self._open.remove(reservation)
        r = reservation
        self._reserved.add(-r.requests, -r.tokens, -r.units)
        return True

    def _fits(self, asked: Reservation, reserved: _Sum) -> bool:
        """Whether a request fits into what the limits leave, time aside."""
        spent, unknown = self._spent, self._unknown
        requests, tokens, units = self._limits
        return (
            spent.requests + reserved.requests + asked.requests <= requests
            and spent.tokens + unknown.tokens + reserved.tokens + asked.tokens <= tokens
            and spent.units + unknown.units + reserved.units + asked.units <= units
        )

    def _in_time(self, now: float) -> bool:
        seconds = self.budget.seconds
        return seconds is None or now - self.began < seconds

    def _refusal(self, asked: Reservation, now: float) -> str:
        """Return what is said of a request that does not fit."""
        limits = self._limits
        sums = (self._spent, self._unknown, self._reserved, asked)
        counts = (
            ("requests", limits[0], [s.requests for s in sums], _whole),
            ("tokens", limits[1], [s.tokens for s in sums], _whole),
            ("usd", limits[2], [s.units for s in sums], _usd),
        )
        over = [line for line in counts if sum(line[2]) > line[1]]
        reasons = [_reason(*line) for line in over]
        names = [line[0] for line in over]
        if not self._in_time(now):
            limit, names = self.budget.seconds, [*names, "seconds"]
            over_by = f"{now - self.began:,.1f} of {limit:,} seconds are over"
            reasons.append(over_by)
        raised = ", ".join(f"{name}=..." for name in names)
        return (
            f"the budget does not allow the next request: {'; '.join(reasons)}. It was "
            f"not sent. Raise the limit (Budget({raised})){_other_fix(names)}."
        )


def _whole(count: float, name: str) -> str:
    return f"{count:,} {name if count != 1 else name[:-1]}"


def _usd(units: float, _: str) -> str:
    usd = f"{units / UNITS:,.12f}".rstrip("0")
    whole, decimals = usd.split(".")
    return f"${whole}.{decimals.ljust(2, '0')}"


def _reason(name: str, limit: float, amounts: list[int], show: Any) -> str:
    """Return why a request does not fit under one limit."""
    spent, unknown, reserved, asked = (show(amount, name) for amount in amounts)
    parts = [f"{spent} spent"]
    if amounts[1]:
        parts.append(f"{unknown} perhaps spent on lost answers")
    if amounts[2]:
        parts.append(f"{reserved} reserved for requests in flight")
    most = "" if name == "requests" else "up to "
    return (
        f"it asks for {most}{asked}, but the limit is {show(limit, name)}: "
        f"{', '.join(parts)}"
    )


def _other_fix(names: list[str]) -> str:
    """Return what may help besides a higher limit."""
    can_ask_less = "tokens" in names or "usd" in names
    return ", or ask for fewer max_tokens" if can_ask_less else ""
