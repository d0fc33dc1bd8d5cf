"""`Statistics`: what was asked, answered, lost, spent and waited for; frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import add, attrgetter

from inf_engine.types import Usage


@dataclass(frozen=True, slots=True)
class Statistics:
    """What happened to some requests; sums with ``+``.

    A request that is sent again is one more try. Each try is answered, failed, or
    unknown, or still in flight.

    Args:
        requests: Tries that were answered.
        tries: Tries that left for an endpoint.
        failures: Tries that ended in an error which says that they were not answered.
        unknown: Tries of which nobody knows whether they were answered: the connection
            was reset, the time was over, or the caller cancelled.
        unknown_tokens: The most tokens that those may have cost.
        input_tokens: Tokens read, cached ones included.
        output_tokens: Tokens written, reasoning included.
        cached_tokens: The part of the input that the provider had cached.
        reasoning_tokens: The part of the output that was reasoning.
        cache_write_tokens: The part of the input that the provider wrote to its cache.
        cost: USD, of the answers whose price is known.
        unpriced: Answers whose price is not known.
        unknown_cost: USD that the unknown tries may have cost at most, of those whose
            price is known.
        wait_seconds: Time in the queue, summed over requests.
        wire_seconds: Time on the wire, summed over tries.
        journal_hits: Answers that came from the journal; they were no tries.
        cache_hits: Answers that came from the cache; they were no tries.
        hedges: Tries that were the second for the same answer, because the first took
            long; counted in `tries`, too.
    """

    requests: int = 0
    tries: int = 0
    failures: int = 0
    unknown: int = 0
    unknown_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0
    unknown_cost: float = 0.0
    wait_seconds: float = 0.0
    wire_seconds: float = 0.0
    journal_hits: int = 0
    cache_hits: int = 0
    hedges: int = 0

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(*map(add, _values(self), _values(other)))

    @property
    def in_flight(self) -> int:
        """Tries that have left and not ended."""
        return self.tries - self.requests - self.failures - self.unknown

    @property
    def usage(self) -> Usage:
        """Requests and tokens of the answers."""
        return Usage(
            self.requests,
            self.input_tokens,
            self.output_tokens,
            self.cached_tokens,
            self.reasoning_tokens,
            self.cache_write_tokens,
        )


_values = attrgetter(*Statistics.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """What happened so far, in all and in parts; prints as a table.

    Args:
        total: All of it.
        by_alias: The part of each alias, in order of first use.
        by_module: The part of each module, by its path, in order of first use.
    """

    total: Statistics
    by_alias: Mapping[str, Statistics]
    by_module: Mapping[str, Statistics]

    def __str__(self) -> str:
        rows = [_HEAD, _row("total", self.total)]
        rows += [_row(f"alias {alias}", part) for alias, part in self.by_alias.items()]
        rows += [
            _row(f"module {path}" if path else "no module", part)
            for path, part in self.by_module.items()
        ]
        return "\n".join([*_aligned(rows), *_remarks(self.total)])


_HEAD = (
    *("", "requests", "tries", "failed", "unknown", "reused", "input", "output"),
    *("cost", "queued", "on the wire"),
)


def _row(name: str, part: Statistics) -> tuple[str, ...]:
    """Return a line of the table, in the order of `_HEAD`."""
    counts = (
        *(part.requests, part.tries, part.failures, part.unknown),
        *(part.journal_hits + part.cache_hits, part.input_tokens, part.output_tokens),
    )
    is_unpriced = part.unpriced > 0 and part.cost == 0
    return (
        name,
        *(f"{count:,}" for count in counts),
        "?" if is_unpriced else _usd(part.cost),
        f"{part.wait_seconds:,.2f} s",
        f"{part.wire_seconds:,.2f} s",
    )


def _usd(cost: float) -> str:
    return f"${cost:,.2f}" if cost >= 100 or cost == 0 else f"${cost:.6f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return lines of equal columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [text.rjust(n) for text, n in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return lines


def _remarks(total: Statistics) -> list[str]:
    """Return what the numbers of the table leave open."""
    lines = []
    if total.in_flight:
        lines.append(f"In flight: {total.in_flight:,}.")
    if total.hedges:
        lines.append(
            f"Tries that were hedges, the second for one answer: {total.hedges:,}."
        )
    if total.unpriced:
        lines.append(
            f"Answers without a known price, not in the cost: {total.unpriced:,}. "
            "Give the endpoint a price."
        )
    if total.unknown:
        cost = f", {_usd(total.unknown_cost)}" if total.unknown_cost else ""
        lines.append(
            f"Tries that may have been answered: {total.unknown:,}; they cost at most "
            f"{total.unknown_tokens:,} tokens{cost}."
        )
    return lines
