"""The limits of the loopback server: arithmetic of `now`, and what the headers say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inf_engine.errors import UsageError
from inf_engine.testing.provider_limits import (
    ProviderLimits,
    anthropic_headers,
    duration,
    http_date,
    openai_headers,
    retry_headers,
)
from inf_engine.types import Quota

NEW_YEAR = 1767225600.0  # 2026-01-01T00:00:00Z, a Thursday


def test_the_burst_comes_at_once_then_one_at_a_time() -> None:
    """1,200 a minute: 20 at once, then one every 50 ms; refused ones cost nothing."""
    limits = ProviderLimits(1200)
    assert [limits.admit(7.0) for _ in range(20)] == [0.0] * 20
    assert [limits.admit(7.0) for _ in range(3)] == pytest.approx([0.05] * 3)
    assert limits.admit(7.04) == pytest.approx(0.01)
    assert limits.admit(7.05) == 0
    assert limits.admit(7.05) == pytest.approx(0.05)


def test_a_slow_limit_lets_one_in() -> None:
    """The default burst is at least one request."""
    limits = ProviderLimits(30)
    assert limits.admit(0.0) == 0
    assert limits.admit(0.0) == pytest.approx(2.0)


def test_a_burst_of_ones_own() -> None:
    """It is the capacity of the requests, and of the tokens of the same time."""
    limits = ProviderLimits(60, 6000, burst=5)
    assert [limits.admit(0.0) for _ in range(5)] == [0.0] * 5
    assert limits.admit(0.0) == pytest.approx(1.0)
    assert limits.quotas(100.0)["tokens"] == Quota(6000, 500, 0.0)


def test_tokens_leave_a_debt() -> None:
    """An answer may use more than is left; then nothing comes in until that is paid."""
    limits = ProviderLimits(tokens_per_minute=6000)
    assert limits.admit(0.0) == 0
    limits.spend(350, 0.0)
    assert limits.admit(0.0) == pytest.approx(2.5)
    assert limits.quotas(0.0) == {"tokens": Quota(6000, 0, 3.5)}
    assert limits.admit(2.5) == 0


def test_the_longer_wait_counts() -> None:
    """With both limits a request waits for the later one, and takes from neither."""
    limits = ProviderLimits(60, 60)
    assert limits.admit(0.0) == 0
    limits.spend(11, 0.0)
    assert limits.admit(0.0) == pytest.approx(10.0)
    assert limits.admit(10.0) == 0


@given(
    rate=st.floats(1, 1e6),
    burst=st.integers(1, 1000),
    gaps=st.lists(st.floats(0, 5), max_size=200),
)
def test_never_more_than_allowed(rate: float, burst: int, gaps: list[float]) -> None:
    """In any time from the start, no more come in than the burst and the rate give."""
    limits, now, admitted = ProviderLimits(rate, burst=burst), 0.0, 0
    for gap in gaps:
        now += gap
        admitted += not limits.admit(now)
        assert admitted <= burst + now * rate / 60 + 1e-3


@given(
    rate=st.floats(1, 1e6),
    gaps=st.lists(st.floats(0, 5), max_size=100),
)
def test_who_waits_as_told_is_let_in(rate: float, gaps: list[float]) -> None:
    """After the wait that was told, a request comes in."""
    limits, now = ProviderLimits(rate), 0.0
    for gap in gaps:
        now += gap
        wait = limits.admit(now)
        if wait:
            now += wait
            assert limits.admit(now) == 0


def test_openai_headers() -> None:
    """Limits are per minute; what remains and the reset are of the burst."""
    limits = ProviderLimits(1200, 60_000)
    limits.admit(0.0)
    limits.spend(10, 0.0)
    assert openai_headers(limits, 0.0) == {
        "x-ratelimit-limit-requests": "1200",
        "x-ratelimit-remaining-requests": "19",
        "x-ratelimit-reset-requests": "50ms",
        "x-ratelimit-limit-tokens": "60000",
        "x-ratelimit-remaining-tokens": "990",
        "x-ratelimit-reset-tokens": "10ms",
    }


def test_anthropic_headers() -> None:
    """A reset is a date, rounded up, to be read against the answer's own `Date`."""
    limits = ProviderLimits(30)
    limits.admit(5.0)
    assert anthropic_headers(limits, 5.0, NEW_YEAR + 0.5) == {
        "Date": "Thu, 01 Jan 2026 00:00:00 GMT",
        "anthropic-ratelimit-requests-limit": "30",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:03Z",
    }


def test_retry_headers() -> None:
    """Whole seconds for all, and milliseconds from OpenAI."""
    told = retry_headers(0.0501, anthropic=False)
    assert told == {"retry-after": "1", "retry-after-ms": "51"}
    assert retry_headers(2.0, anthropic=True) == {"retry-after": "2"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.05, "50ms"),
        (0.0001, "1ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9999, "1m0s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (3723.25, "1h2m3.25s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """A duration is written as OpenAI writes it."""
    assert duration(seconds) == text


def test_dates_are_english() -> None:
    """A date has the form that HTTP wants, whatever the locale is."""
    assert http_date(784111777.9) == "Sun, 06 Nov 1994 08:49:37 GMT"


def test_senseless_limits_are_refused() -> None:
    """A limit is positive, and a burst is one of limited requests."""
    with pytest.raises(UsageError, match="requests_per_minute=0: give a positive"):
        ProviderLimits(0)
    with pytest.raises(UsageError, match="tokens_per_minute=-1: give a positive"):
        ProviderLimits(60, -1)
    with pytest.raises(UsageError, match="burst=3 and requests_per_minute=None: give"):
        ProviderLimits(tokens_per_minute=60, burst=3)
    with pytest.raises(UsageError, match="burst=0.5 and requests_per_minute=60: give"):
        ProviderLimits(60, burst=0.5)
