"""What an answer costs."""

import math
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot

from inf_engine.errors import ConfigurationError
from inf_engine.resources.prices import Price, cost_of, is_priced, upper_bound
from inf_engine.types import Usage

PRICE = Price(2.0, 8.0, 0.5)
TIERED = "claude-sonnet-4-5"  # another rate above 200,000 tokens of input

SHAPES = [(1_000, 0, 10), (1_000, 400, 77), (200_000, 9, 5), (200_001, 9, 5)]
SHAPES += [(100_001, 1_000, 3), (272_000, 0, 1), (272_001, 272_001, 1), (0, 0, 5)]


def usage(read: int, cached: int, written: int, stored: int = 0) -> Usage:
    """Return the usage of one answer."""
    return Usage(1, read, written, cached, 0, stored)


def listed_models() -> list[tuple[str, str]]:
    """Return the provider and id of every model of which we look up the price."""
    return [
        (provider.id, model.id)
        for provider in get_snapshot().providers
        if provider.id in ("openai", "anthropic")
        for model in provider.models
        if is_priced(provider.id, model.id)
    ]


def test_a_listed_price_is_what_genai_prices_calculates() -> None:
    """For every model, below and above each tier, out of a cache or into it."""
    models = listed_models()
    assert len(models) > 50
    for provider, model in models:
        for read, cached, written in SHAPES:
            stored = (read - cached) // 3
            tokens = genai_prices.Usage(
                input_tokens=read,
                cache_read_tokens=cached,
                cache_write_tokens=stored,
                output_tokens=written,
            )
            wanted = genai_prices.calc_price(tokens, model, provider_id=provider)
            cost = cost_of(usage(read, cached, written, stored), provider, model)
            assert cost == pytest.approx(float(wanted.total_price), abs=1e-12), model


def test_a_tier_is_of_one_request() -> None:
    """Above the start of a tier all tokens cost its rate, at the start none do."""
    below = cost_of(usage(200_000, 0, 0), "anthropic", TIERED)
    above = cost_of(usage(200_001, 0, 0), "anthropic", TIERED)
    assert below == pytest.approx(200_000 * 3e-6)
    assert above == pytest.approx(200_001 * 6e-6)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "no-such-model"),
        ("openai", "my-gpt-4o-clone"),
        ("openai", ""),
        ("openai", "text-embedding-3-small"),
        ("anthropic", "gpt-4o"),
        ("openai-compatible", "gpt-4o"),
        ("local", "gpt-4o"),
        ("groq", "llama-3.3-70b-versatile"),
    ],
)
def test_a_price_that_is_not_known_is_none(provider: str, model: str) -> None:
    """A name alone is no price: not of a look-alike, not of a server of one's own."""
    assert not is_priced(provider, model)
    assert cost_of(usage(10, 0, 10), provider, model) is None
    assert upper_bound(10, 10, provider, model) is None


@pytest.mark.parametrize("provider", ["openai", "local", "openai-compatible"])
def test_the_user_has_the_last_word(provider: str) -> None:
    """An override wins over the table, and prices what is in no table."""
    assert is_priced(provider, "gpt-4o", PRICE)
    cost = cost_of(usage(1_000_000, 0, 1_000_000), provider, "gpt-4o", PRICE)
    assert cost == 10.0
    assert upper_bound(1_000_000, 1_000_000, provider, "gpt-4o", PRICE) == 10.0


def test_cached_and_reasoning_tokens_are_parts() -> None:
    """They are not paid twice; cached ones without a price of their own are input."""
    tokens = Usage(1, 1_000_000, 500_000, cached_tokens=400_000, reasoning_tokens=9)
    assert PRICE.cost(tokens) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.5 * 8)
    assert Price(2.0, 8.0).cost(tokens) == pytest.approx(2 + 0.5 * 8)
    assert PRICE.cost(usage(0, 7, 0)) == 0.0


def test_tokens_written_to_a_cache_are_parts_too() -> None:
    """At their own rate if they have one; no token is paid for twice."""
    tokens = usage(1_000_000, 400_000, 0, 500_000)
    dear = Price(2.0, 8.0, 0.5, 2.5)
    assert dear.cost(tokens) == pytest.approx(0.1 * 2 + 0.4 * 0.5 + 0.5 * 2.5)
    assert PRICE.cost(tokens) == pytest.approx(0.6 * 2 + 0.4 * 0.5)
    too_many = usage(100, 80, 0, 70)
    assert dear.cost(too_many) == pytest.approx((80 * 0.5 + 20 * 2.5) / 1e6)


def test_no_tokens_told_is_no_cost_known() -> None:
    """An answer without a token count is not free."""
    assert cost_of(Usage(requests=1), "openai", "gpt-4o") is None
    assert cost_of(Usage(requests=1), "local", "x", PRICE) is None


def test_an_upper_bound_is_never_below_the_cost() -> None:
    """Whatever the cache does, and also where writing to it costs more."""
    for provider, model in listed_models():
        for read, cached, written in SHAPES:
            stored = read - cached
            cost = cost_of(usage(read, cached, written, stored), provider, model)
            most = upper_bound(read, written, provider, model)
            assert cost is not None
            assert most is not None
            assert most >= cost * (1 - 1e-12)
    assert upper_bound(1_000_000, 0, "x", "y", Price(1.0, 1.0, 3.0)) == 3.0
    assert upper_bound(1_000_000, 0, "x", "y", Price(1.0, 1.0, None, 4.0)) == 4.0
    assert upper_bound(100_000, 0, "anthropic", TIERED) == pytest.approx(0.375)


def test_a_price_is_read_from_a_table() -> None:
    """The keys of a resources file; whole numbers will do, cached may be left out."""
    assert Price.of({"input": 2, "output": 8.0, "cached": 0.5}) == PRICE
    assert Price.of({"input": 0, "output": 0}) == Price(0.0, 0.0, None)
    assert Price.of(PRICE) is PRICE
    both = {"input": 2, "output": 8, "cached": 0.5, "cache_write": 2.5}
    assert Price.of(both) == Price(2.0, 8.0, 0.5, 2.5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"input": 1}, r"price: output is missing\. Write it in USD per million"),
        ({}, "input is missing; output is missing"),
        (3, "price: has to be a table, not int"),
        (
            {"input": 1, "output": 1, "cache": 1},
            r"cache is no known key; known: cache_write, cached, input, output "
            r"\(did you mean 'cached'\?\)",
        ),
        ({"input": -1, "output": 1}, "input has to be a number of USD per million"),
        ({"input": "1", "output": 1}, "input has to be a number"),
        ({"input": 1, "output": True}, "output has to be a number"),
        ({"input": 1, "output": math.inf}, "output has to be a number"),
        ({"input": None, "output": 1}, "input has to be a number"),
        ({"input": 1, "output": 1, "cached": math.nan}, "cached has to be a number"),
    ],
)
def test_a_wrong_price_is_refused(data: Any, message: str) -> None:
    """Every problem is named, and what a price looks like."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        Price.of(data)
    assert "price = { input = 0.5, output = 1.5" in str(caught.value)


def test_a_price_made_in_python_is_checked_too() -> None:
    """The constructor refuses what a file may not say."""
    with pytest.raises(ConfigurationError, match="output has to be a number"):
        Price(1.0, -1.0)


def test_looking_up_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket is opened and no thread started for a price."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a price was looked up in the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert is_priced("openai", "gpt-4o")
    assert not is_priced("openai", "a name that was never looked up before")


def test_the_table_is_loaded_late_and_quietly() -> None:
    """Not by an import, not for an override; its first use starts no thread."""
    script = (
        "import sys, threading\n"
        "from inf_engine.resources.prices import Price, cost_of, is_priced\n"
        "from inf_engine.types import Usage\n"
        "cost_of(Usage(1, 1, 1), 'openai', 'gpt-4o', Price(1, 1))\n"
        "cost_of(Usage(1, 1, 1), 'openai-compatible', 'gpt-4o')\n"
        "assert 'genai_prices' not in sys.modules\n"
        "assert is_priced('openai', 'gpt-4o')\n"
        "assert 'genai_prices' in sys.modules\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_cost_is_cheap() -> None:
    """After the first look-up; far below what a request costs (bound: 2 µs)."""
    tokens = usage(1_000, 100, 50)
    cost_of(tokens, "openai", "gpt-4o")
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(1_000):
            cost_of(tokens, "openai", "gpt-4o")
        best = min(best, time.perf_counter() - start)
    assert best / 1_000 < 20e-6
