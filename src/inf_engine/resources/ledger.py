"""`Ledger`: the books of every request, by alias and by module.

There is one tally for each pair of alias and module path, and one entry writes into
one tally. Sums over aliases, over modules and in all are made when somebody asks, of
the same tallies; so they agree at any moment. Money is in whole units
(`prices.UNITS`), so that the order of the answers does not change a sum.

The books believe what they are told: each ``sent`` is followed by exactly one of
``answered``, ``failed`` and ``lost``.
"""

import math
from collections import defaultdict
from typing import Literal

from inf_engine.resources.prices import UNITS
from inf_engine.resources.statistics import EngineStatistics, Statistics
from inf_engine.types import Usage

Reuse = Literal["journal", "cache"]
Entries = list[tuple[str, str, tuple[float, ...]]]
"""Alias, path and counts of some bookings."""


class _Tally:
    """The counts of one alias and module; the fields of `Statistics`, money in units.

    `priced` is what the answers cost, `at_most` what the lost tries may have cost.
    """

    __slots__ = (
        *("requests", "tries", "failures", "unknown", "unknown_tokens"),
        *("input", "output", "cached", "reasoning", "cache_written"),
        *("priced", "unpriced", "at_most"),
        *("waited", "wired", "journal_hits", "cache_hits", "hedges"),
    )

    def __init__(self) -> None:
        self.requests = self.tries = self.failures = 0
        self.unknown = self.unknown_tokens = 0
        self.input = self.output = self.cached = self.reasoning = 0
        self.cache_written = 0
        self.priced = self.unpriced = self.at_most = 0
        self.waited = self.wired = 0.0
        self.journal_hits = self.cache_hits = self.hedges = 0


class Ledger:
    """What was asked and spent, counted as it happens."""

    __slots__ = ("_tallies",)

    def __init__(self) -> None:
        self._tallies: defaultdict[tuple[str, str], _Tally] = defaultdict(_Tally)

    def waited(self, alias: str, path: str, seconds: float) -> None:
        """Book the time that a request was in the queue.

        Args:
            alias: The alias that was asked for.
            path: The path of the module that asked; empty if none did.
            seconds: The time, of this request or of this try.
        """
        self._tallies[alias, path].waited += seconds

    def sent(self, alias: str, path: str) -> None:
        """Book a try that leaves for an endpoint.

        Args:
            alias: The alias that was asked for.
            path: The path of the module that asked; empty if none did.
        """
        self._tallies[alias, path].tries += 1

    def hedged(self, alias: str, path: str) -> None:
        """Book that the try which leaves is the second one of a request.

        Args:
            alias: The alias that was asked for.
            path: The path of the module that asked; empty if none did.
        """
        self._tallies[alias, path].hedges += 1

    def answered(
        self,
        alias: str,
        path: str,
        usage: Usage,
        cost: float | None,
        wire_seconds: float,
    ) -> None:
        """Book the answer to a try; it counts as one request, of use or not.

        Args:
            alias: The alias that was asked for.
            path: The path of the module that asked; empty if none did.
            usage: The tokens of the answer.
            cost: USD; None, or what cannot be a cost (a client of the user's may say
                so), if it is not known.
            wire_seconds: From sending to the last byte.
        """
        tally = self._tallies[alias, path]
        tally.requests += 1
        tally.wired += wire_seconds
        tally.input += usage.input_tokens
        tally.output += usage.output_tokens
        tally.cached += usage.cached_tokens
        tally.reasoning += usage.reasoning_tokens
        tally.cache_written += usage.cache_write_tokens
        if cost is not None and 0 <= cost < math.inf:
            tally.priced += round(cost * UNITS)
        else:
            tally.unpriced += 1

    def failed(self, alias: str, path: str, wire_seconds: float) -> None:
        """Book a try that ended in an error, and certainly without a paid answer.

        Args:
            alias: The alias that was asked for.
            path: The path of the module that asked; empty if none did.
            wire_seconds: From sending to the error.
        """
        tally = self._tallies[alias, path]
        tally.failures += 1
        tally.wired += wire_seconds

    def lost(
        self,
        alias: str,
        path: str,
        tokens: int,
        cost: float | None,
        wire_seconds: float,
    ) -> None:
        """Book a try of which nobody knows whether it was answered.

        Args:
            alias: The alias that was asked for.
            path: The path of the module that asked; empty if none did.
            tokens: The most it may have cost: the estimated input and `max_tokens`.
            cost: The most it may have cost in USD, None if no price is known.
            wire_seconds: From sending to the end of the wait.
        """
        tally = self._tallies[alias, path]
        tally.unknown += 1
        tally.unknown_tokens += tokens
        tally.wired += wire_seconds
        if cost is not None and 0 <= cost < math.inf:
            tally.at_most += round(cost * UNITS)

    def reused(self, alias: str, path: str, kind: Reuse) -> None:
        """Book an answer for which nothing was sent.

        Args:
            alias: The alias that was asked for.
            path: The path of the module that asked; empty if none did.
            kind: Where it came from.
        """
        tally = self._tallies[alias, path]
        if kind == "journal":
            tally.journal_hits += 1
        else:
            tally.cache_hits += 1

    def drain(self) -> Entries:
        """Return all that is booked, and begin anew; for `add` of other books."""
        tallies, names = self._tallies, _Tally.__slots__
        self._tallies = defaultdict(_Tally)
        return [
            (*key, tuple(getattr(tally, name) for name in names))
            for key, tally in tallies.items()
        ]

    def add(self, entries: Entries) -> None:
        """Book what other books have drained."""
        for alias, path, values in entries:
            tally = self._tallies[alias, path]
            for name, value in zip(_Tally.__slots__, values, strict=True):
                setattr(tally, name, getattr(tally, name) + value)

    def snapshot(self) -> EngineStatistics:
        """Return what the books say now."""
        by_alias: dict[str, list[_Tally]] = {}
        by_path: dict[str, list[_Tally]] = {}
        for (alias, path), tally in self._tallies.items():
            by_alias.setdefault(alias, []).append(tally)
            by_path.setdefault(path, []).append(tally)
        return EngineStatistics(
            _sum(list(self._tallies.values())),
            {alias: _sum(tallies) for alias, tallies in by_alias.items()},
            {path: _sum(tallies) for path, tallies in by_path.items()},
        )


def _sum(tallies: list[_Tally]) -> Statistics:
    """Return the sum of any number of tallies."""
    return Statistics(
        requests=sum(t.requests for t in tallies),
        tries=sum(t.tries for t in tallies),
        failures=sum(t.failures for t in tallies),
        unknown=sum(t.unknown for t in tallies),
        unknown_tokens=sum(t.unknown_tokens for t in tallies),
        input_tokens=sum(t.input for t in tallies),
        output_tokens=sum(t.output for t in tallies),
        cached_tokens=sum(t.cached for t in tallies),
        reasoning_tokens=sum(t.reasoning for t in tallies),
        cache_write_tokens=sum(t.cache_written for t in tallies),
        cost=sum(t.priced for t in tallies) / UNITS,
        unpriced=sum(t.unpriced for t in tallies),
        unknown_cost=sum(t.at_most for t in tallies) / UNITS,
        wait_seconds=math.fsum(t.waited for t in tallies),
        wire_seconds=math.fsum(t.wired for t in tallies),
        journal_hits=sum(t.journal_hits for t in tallies),
        cache_hits=sum(t.cache_hits for t in tallies),
        hedges=sum(t.hedges for t in tallies),
    )
