"""What an answer costs: prices, and the arithmetic of them.

Where a user gives no price, that of the public table ``genai-prices`` holds, which is
installed with this library: looking a price up sends nothing. Only the providers
``openai`` and ``anthropic`` are looked up. A model that runs here (``local``), or
behind an address of its own (``openai-compatible``), may bear the name of a sold one
and cost nothing or something else; it has a price only where the user gives one.

A table may say that above so many tokens of input *all* tokens of the request cost
another rate, so a price is one of a single request, never of a sum of them. Rates are
those of the day of the first look-up, of the standard service tier, and kept as long
as the process lives. Tokens that a provider wrote to its cache have the rate of its
shortest lifetime: an answer counts them together, whatever a request asked for.

Money is added up in whole `UNITS` of 1e-12 USD, not in floats: a price per million
tokens with up to six decimals gives whole units for any number of tokens, so that
sums are exact in any order, and ten times 0.1 USD is 1 USD.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from inf_engine.errors import ConfigurationError, known_names
from inf_engine.types import Usage

UNITS = 10**12
"""Units of money in one USD."""

_MILLION = 1e6
_LISTED = ("openai", "anthropic")  # the same names in genai-prices
_FIELDS = {
    "input": "input_per_million",
    "output": "output_per_million",
    "cached": "cached_per_million",
    "cache_write": "cache_write_per_million",
}
_NEEDED = ("input", "output")


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, in USD per million tokens; 0 is free.

    Args:
        input_per_million: Tokens read.
        output_per_million: Tokens written, reasoning included.
        cached_per_million: Tokens read that the provider had cached, None if they
            cost what the others do.
        cache_write_per_million: Tokens read that the provider wrote to its cache,
            None if they cost what the others do.

    Raises:
        ConfigurationError: If a value is no finite number of at least 0.
    """

    input_per_million: float
    output_per_million: float
    cached_per_million: float | None = None
    cache_write_per_million: float | None = None

    def __post_init__(self) -> None:
        given = {key: getattr(self, name) for key, name in _FIELDS.items()}
        problems = _wrong_values(given)
        if problems:
            raise _refusal(problems)

    @classmethod
    def of(cls, data: Any) -> "Price":
        """Return the price that a resources file gives.

        Args:
            data: A mapping with ``input``, ``output`` and, where they differ,
                ``cached`` and ``cache_write``, each in USD per million tokens. A
                `Price` is returned as it is.

        Raises:
            ConfigurationError: If it is no mapping, or its keys or values are wrong;
                every problem is named.
        """
        if isinstance(data, Price):
            return data
        if not isinstance(data, Mapping):
            kind = type(data).__name__
            raise _refusal([f"has to be a table, not {kind}"])
        unknown = [key for key in data if key not in _FIELDS]
        problems = [
            f"{str(key)[:30]} is no known key; {known_names(str(key)[:30], _FIELDS)}"
            for key in unknown
        ]
        problems += [f"{key} is missing" for key in _NEEDED if key not in data]
        problems += _wrong_values({k: v for k, v in data.items() if k in _FIELDS})
        if problems:
            raise _refusal(problems)
        return cls(**{_FIELDS[key]: value for key, value in data.items()})

    def cost(self, usage: Usage) -> float:
        """Return what one request costs.

        Args:
            usage: Its tokens; those of the cache are part of the input, reasoning of
                the output.

        Returns:
            USD.
        """
        fresh, rate = usage.input_tokens, self.input_per_million
        read = 0.0
        for count, own in (
            (usage.cached_tokens, self.cached_per_million),
            (usage.cache_write_tokens, self.cache_write_per_million),
        ):
            if count and own is not None:
                part = min(count, fresh)
                fresh -= part
                read += part * own
        read += fresh * rate
        return (read + usage.output_tokens * self.output_per_million) / _MILLION

    @property
    def dearest_input(self) -> float:
        """USD per million tokens of input, whatever the cache does."""
        own = self.cached_per_million, self.cache_write_per_million
        return max(self.input_per_million, *(rate or 0.0 for rate in own))


class _Tier(NamedTuple):
    """The price of requests with more tokens of input than `above`.

    Args:
        above: Tokens of input; -1 for the lowest tier.
        price: What the tokens of such a request cost.
    """

    above: int
    price: Price


def cost_of(
    usage: Usage, provider: str, model: str, override: Price | None = None
) -> float | None:
    """Return what one answer costs.

    Args:
        usage: The tokens of the answer, not of several.
        provider: The provider of the endpoint.
        model: The model as the endpoint's configuration or request names it.
        override: The price that the user gives.

    Returns:
        USD; None if no price is known, or the provider told no tokens.
    """
    if not (usage.input_tokens or usage.output_tokens):
        return None
    if override is not None:
        return override.cost(usage)
    tier = _tier(provider, model, usage.input_tokens)
    return None if tier is None else tier.price.cost(usage)


def upper_bound(
    input_tokens: int,
    max_output_tokens: int,
    provider: str,
    model: str,
    override: Price | None = None,
) -> float | None:
    """Return what a request may cost at most, its input not being larger than said.

    Args:
        input_tokens: Tokens that it will read, as estimated.
        max_output_tokens: The most tokens that it may write.
        provider: The provider of the endpoint.
        model: The model as the endpoint's configuration or request names it.
        override: The price that the user gives.

    Returns:
        USD, as if each token of input were of the dearest kind (cached or not, written
        to the cache or not); None if no price is known.
    """
    price = override
    if price is None:
        tier = _tier(provider, model, input_tokens)
        if tier is None:
            return None
        price = tier.price
    written = max_output_tokens * price.output_per_million
    return (input_tokens * price.dearest_input + written) / _MILLION


def is_priced(provider: str, model: str, override: Price | None = None) -> bool:
    """Return whether a price is known, e.g. before a budget in USD is relied on.

    The first look-up of a process takes some 0.2 s of CPU, so this is best called
    before anything waits.

    Args:
        provider: The provider of the endpoint.
        model: The model as the endpoint's configuration or request names it.
        override: The price that the user gives.
    """
    return override is not None or bool(_tiers(provider, model))


def _tier(provider: str, model: str, input_tokens: int) -> _Tier | None:
    """Return the listed price of a request with so many tokens of input."""
    for tier in _tiers(provider, model):
        if input_tokens > tier.above:
            return tier
    return None


@lru_cache(maxsize=1024)
def _tiers(provider: str, model: str) -> tuple[_Tier, ...]:
    """Return the listed prices of a model, highest tier first; () if none is known."""
    if provider not in _LISTED or not model:
        return ()
    listed = _look_up(provider, model)
    if listed is None or listed.input_mtok is None or listed.output_mtok is None:
        return ()
    rates = [
        *(listed.input_mtok, listed.output_mtok),
        *(listed.cache_read_mtok, listed.cache_write_mtok),
    ]
    above = {tier.start: None for rate in rates for tier in getattr(rate, "tiers", ())}
    return tuple(_tier_of(rates, n) for n in (*sorted(above, reverse=True), -1))


def _look_up(provider: str, model: str) -> Any:
    """Return the ``ModelPrice`` of a model, None if genai-prices knows none."""
    import genai_prices  # noqa: PLC0415

    try:
        found = genai_prices.calc_price(
            genai_prices.Usage(), model, provider_id=provider
        )
    except LookupError:
        return None
    return found.model_price


def _tier_of(rates: list[Any], above: int) -> _Tier:
    """Return the price of requests with more than `above` tokens of input."""
    read, written, cached, cache_write = (_rate(rate, above) for rate in rates)
    return _Tier(above, Price(read or 0.0, written or 0.0, cached, cache_write))


def _rate(rate: Any, above: int) -> float | None:
    """Return a rate, one with tiers being that of just more than `above` tokens."""
    if rate is None or not hasattr(rate, "tiers"):
        return None if rate is None else float(rate)
    reached = [tier for tier in rate.tiers if tier.start <= above]
    best = max(reached, key=lambda tier: tier.start, default=None)
    return float(rate.base if best is None else best.price)


def _wrong_values(given: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the values, by the keys of a resources file."""
    return [
        f"{key} has to be a number of USD per million tokens, 0 or more"
        for key, value in given.items()
        if not (_is_rate(value) or (value is None and key not in _NEEDED))
    ]


def _is_rate(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value < math.inf


def _refusal(problems: list[str]) -> ConfigurationError:
    """Return the error that names every problem, and what a price looks like."""
    return ConfigurationError(
        f"price: {'; '.join(problems)}. Write it in USD per million tokens, e.g. "
        "price = { input = 0.5, output = 1.5, cached = 0.05 }"
    )
