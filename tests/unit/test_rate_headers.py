"""What the headers of an answer say about rate limits."""

import datetime
import email.utils
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from inf_engine.clients.headers import _seconds, rate_hint, retry_after
from inf_engine.types import Quota, RateHint

NOW = "Wed, 21 Oct 2015 07:28:00 GMT"
OPENAI = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-reset-tokens": "120ms",
}
ANTHROPIC = {
    "date": NOW,
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-requests-reset": "2015-10-21T07:28:01Z",
    "anthropic-ratelimit-input-tokens-limit": "30000",
    "anthropic-ratelimit-input-tokens-remaining": "29000",
    "anthropic-ratelimit-input-tokens-reset": "2015-10-21T07:28:02.5Z",
    "anthropic-ratelimit-output-tokens-limit": "8000",
    "anthropic-ratelimit-output-tokens-remaining": "8000",
    "anthropic-ratelimit-output-tokens-reset": "2015-10-21T09:27:00+02:00",
    "anthropic-ratelimit-tokens-limit": "38000",
    "anthropic-ratelimit-tokens-remaining": "37000",
    "anthropic-ratelimit-tokens-reset": "2015-10-21T07:28:30Z",
}


def proxied(headers: Mapping[str, str]) -> CIMultiDictProxy[str]:
    """Headers as aiohttp gives them, in the capitals that a server may use."""
    return CIMultiDictProxy(CIMultiDict({k.title(): v for k, v in headers.items()}))


def test_openai_style() -> None:
    """Limits, remainders, and resets as lengths of time."""
    hint = RateHint(Quota(60, 59, 1.0), Quota(150_000, 149_984, 0.12))
    assert rate_hint(OPENAI) == rate_hint(proxied(OPENAI)) == hint


def test_anthropic_style() -> None:
    """Resets are dates, read against the answer's own; one that is over is 0."""
    hint = RateHint(
        requests=Quota(50, 49, 1.0),
        tokens=Quota(38_000, 37_000, 30.0),
        input_tokens=Quota(30_000, 29_000, 2.5),
        output_tokens=Quota(8_000, 8_000, 0.0),
    )
    assert rate_hint(ANTHROPIC) == rate_hint(proxied(ANTHROPIC)) == hint


def test_a_date_without_the_answers_date_says_nothing() -> None:
    """The clock of this machine is not asked."""
    headers = {k: v for k, v in ANTHROPIC.items() if k != "date"}
    hint = rate_hint(headers)
    assert hint is not None
    assert hint.requests == Quota(50, 49, None)


def test_the_style_of_the_draft() -> None:
    """The IETF draft has requests only, and resets in seconds."""
    headers = {"ratelimit-limit": "10", "ratelimit-reset": "7"}
    assert rate_hint(headers) == RateHint(Quota(10, None, 7.0))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"date": NOW, "content-type": "application/json"},
        {"x-ratelimit-limit-requests": "many"},
        {"anthropic-ratelimit-requests-limit": ""},
        {"ratelimit-limit": "10;w=60"},
    ],
)
def test_nothing_said_is_no_hint(headers: dict[str, str]) -> None:
    """No header, or only damaged ones, are None and not an empty hint."""
    assert rate_hint(headers) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("2m59.56s", 179.56),
        ("0s", 0.0),
        ("1m", 60.0),
        ("1s500ms", 1.5),
        ("20", 20.0),
        ("-5", 0.0),
        ("1738000000", None),
        ("soon", None),
        ("", None),
        (" ", None),
        ("1x", None),
        ("1s1s", None),
        ("nan", None),
        ("9" * 400 + "h", None),
        ("9" * 60 + "h", None),
    ],
)
def test_lengths_of_time(text: str, seconds: float | None) -> None:
    """Lengths of time become seconds; nonsense, and dates as numbers, are nothing."""
    gone = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": text}
    hint = rate_hint({**OPENAI, **gone})
    assert hint is not None
    assert hint.requests is not None
    assert hint.requests.reset == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h2m3.5s", 3723.5), ("1d", 86_400.0), ("2d1h", 176_400.0)]
)
def test_hours_and_days(text: str, seconds: float) -> None:
    """They are read, though no limit per minute has them."""
    assert _seconds(text) == seconds


def told(limit: str | None, remaining: str | None, reset: str | None) -> Quota | None:
    """Return what OpenAI's headers of requests are read as."""
    given = {"limit": limit, "remaining": remaining, "reset": reset}
    headers = {
        f"x-ratelimit-{name}-requests": text
        for name, text in given.items()
        if text is not None
    }
    hint = rate_hint(headers)
    return None if hint is None else hint.requests


@pytest.mark.parametrize(
    ("limit", "remaining", "reset"),
    [
        ("14400", "14370", "2m59.56s"),  # Groq, whose limit of requests is one a day
        ("14400", "14399", "6s"),
        ("1000", "999", "1m26.4s"),
        ("1000", "0", "24h0m0s"),
        ("10000", "9999", "8.64s"),  # OpenAI, accounts with a limit of a day
        ("200", "199", "7m12s"),
        ("1000", "400", "11h20m0s"),  # a day's window
        ("1000", None, "11h20m0s"),
        (None, "999", "11h20m0s"),
    ],
)
def test_a_limit_of_a_day_is_not_one_of_a_minute(
    limit: str | None, remaining: str | None, reset: str
) -> None:
    """It is dropped whole: the 429 tells when it is used up."""
    assert told(limit, remaining, reset) is None


@pytest.mark.parametrize(
    ("limit", "remaining", "reset"),
    [
        ("14400", None, None),
        ("10000", "9999", "6ms"),
        ("10000", "9999", "1s"),
        ("1000", "999", "59s"),
        ("1000", "1", "60s"),
        ("60", "0", "1m0s"),
        ("60", "0", "3m0s"),  # in debt
        ("60", "60", "0s"),
        ("60", "61", "1s"),
        ("0", "0", "1s"),
        (None, "3", "1s"),
    ],
)
def test_what_may_be_a_minute_is_one(
    limit: str | None, remaining: str | None, reset: str | None
) -> None:
    """A bucket's reset grows to a minute, a window's falls from one; a debt adds."""
    quota = told(limit, remaining, reset)
    assert quota is not None
    assert quota.limit == (None if limit is None else float(limit))


def test_the_tokens_of_a_minute_stay_beside_the_requests_of_a_day() -> None:
    """Each limit is judged by itself."""
    groq = {
        "x-ratelimit-limit-requests": "14400",
        "x-ratelimit-remaining-requests": "14370",
        "x-ratelimit-reset-requests": "2m59.56s",
        "x-ratelimit-limit-tokens": "18000",
        "x-ratelimit-remaining-tokens": "17997",
        "x-ratelimit-reset-tokens": "7.66ms",
    }
    hint = rate_hint(groq)
    assert hint is not None
    assert (hint.requests, hint.input_tokens) == (None, None)
    assert hint.tokens is not None
    assert hint.tokens.limit == 18_000
    assert hint.tokens.reset == pytest.approx(0.00766)


@given(
    limit=st.integers(1, 10**6),
    used=st.floats(0, 1),
    period=st.sampled_from([60.0, 86_400.0]),
)
def test_buckets_are_told_apart(limit: int, used: float, period: float) -> None:
    """One of a minute is always heeded; one of a day hardly ever for long."""
    gone = used * limit
    reset, left = gone * period / limit, int(limit - gone)
    quota = told(str(limit), str(left), f"{reset:.3f}s")
    if period == 60.0:
        assert quota is not None
    elif reset > (600.0 if left == 0 else 66.0):
        assert quota is None


@pytest.mark.parametrize(
    "date", ["", "tomorrow", "2015-10-21", "2015-10-21T07:28:00", "2015-13-41T99:99Z"]
)
def test_a_damaged_date_says_nothing(date: str) -> None:
    """A date that is none, or that has no zone, leaves the rest of its quota."""
    hint = rate_hint({**ANTHROPIC, "anthropic-ratelimit-requests-reset": date})
    assert hint is not None
    assert hint.requests == Quota(50, 49, None)
    assert hint.tokens is not None


@given(
    st.dictionaries(
        st.sampled_from([*OPENAI, *ANTHROPIC, "ratelimit-reset", "retry-after"]),
        st.text() | st.sampled_from(["1e999", "-1", "0001-01-01T00:00:00+23:59", NOW]),
    )
)
def test_garbage_is_never_raised(headers: dict[str, str]) -> None:
    """Whatever the headers hold, reading them fails nothing; counts are not below 0."""
    hint = rate_hint(headers)
    quotas = [hint.requests, hint.tokens] if hint else []
    for quota in filter(None, quotas):
        for number in (quota.limit, quota.remaining, quota.reset):
            assert number is None or 0 <= number < float("inf")
    wait = retry_after(headers)
    assert wait is None or wait >= 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ],
)
def test_retry_after_in_seconds(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds and milliseconds are read, the milliseconds first; nonsense is None."""
    assert retry_after(headers) == seconds


def test_retry_after_date_is_read_against_the_answers_date() -> None:
    """A date counts from the answer's Date, whatever the clock here says."""
    now = datetime.datetime(2001, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    later = now + datetime.timedelta(seconds=90)
    date, then = (email.utils.format_datetime(t, usegmt=True) for t in (now, later))
    assert retry_after({"date": date, "retry-after": then}) == 90.0
    assert retry_after({"date": then, "retry-after": date}) == 0.0
    assert retry_after({"retry-after": then}) is None
