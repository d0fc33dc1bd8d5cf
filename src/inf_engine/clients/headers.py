"""What the headers of an answer say: how much may be sent, and when to come again.

Three ways of writing a rate limit are read, each as its provider documents it:

==========================================  ======================================
``x-ratelimit-remaining-requests``          OpenAI and its likes: resets are lengths
                                            of time (``6m0s``, ``120ms``)
``anthropic-ratelimit-requests-remaining``  Anthropic: resets are RFC 3339 dates
``ratelimit-remaining``                     the IETF draft 07: resets are seconds
==========================================  ======================================

Dates are read against the answer's own ``Date``, so that the clocks of the two
machines need not agree; without one they say nothing. What is damaged is passed over,
because a header is never worth failing an answer for. Every answer comes by here, and
most have no such header, so that a few look-ups decide.

A `Quota` says what the headers say. Some endpoints mean a day by their limit; that
shows in a `reset` beyond a minute, and is for the reader of the quota to judge.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

from inf_engine.types import Quota, RateHint

Names = tuple[str, str, str]
"""The headers of a quota: its limit, what remains of it, and when it is whole."""

_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")


def _names(form: str) -> tuple[Names, ...]:
    """The headers of each kind of quota, by the way that a provider names them."""

    def name(kind: str, field: str) -> str:
        return form.format(kind=kind, field=field)

    return tuple(
        (name(kind, "limit"), name(kind, "remaining"), name(kind, "reset"))
        for kind in _KINDS
    )


_OPENAI = _names("x-ratelimit-{field}-{kind}")[:2]
_ANTHROPIC = _names("anthropic-ratelimit-{kind}-{field}")
_DRAFT = _names("ratelimit-{field}")[:1]

_PROBES = (
    (_OPENAI[0][1], _OPENAI),
    (_OPENAI[1][1], _OPENAI),
    (_OPENAI[0][0], _OPENAI),
    (_OPENAI[1][0], _OPENAI),
    (_ANTHROPIC[0][0], _ANTHROPIC),
    (_ANTHROPIC[1][0], _ANTHROPIC),
    (_ANTHROPIC[2][0], _ANTHROPIC),
    (_DRAFT[0][1], _DRAFT),
    (_DRAFT[0][0], _DRAFT),
)
"""Which headers give a style away."""

_DURATION = re.compile(
    r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d*\.?\d+)s)?(?:(\d*\.?\d+)ms)?"
)
_UNITS = (86_400.0, 3600.0, 60.0, 1.0, 0.001)

_LONGEST_HEADER = 64
"""No header read here is longer, in characters; a longer one is damaged."""

_LONGEST_RESET = 31 * 86_400.0
"""No limit takes longer to come back, in seconds; such a number is a date."""


def rate_hint(headers: Mapping[str, str]) -> RateHint | None:
    """Return what the headers of an answer say about rate limits, None if nothing.

    Args:
        headers: To be looked up by lower-case names.
    """
    for probe, style in _PROBES:
        if probe in headers:
            quotas = [_quota(headers, names, style) for names in style]
            return RateHint(*quotas) if any(quotas) else None
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, None if it does not say.

    Args:
        headers: To be looked up by lower-case names.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or not text:
        return seconds
    then, now = _http_date(text), _http_date(headers.get("date"))
    return _between(now, then)


def _quota(
    headers: Mapping[str, str], names: Names, style: tuple[Names, ...]
) -> Quota | None:
    """What the headers say about one kind of limit, None if nothing."""
    limit, remaining, reset = (headers.get(name) for name in names)
    if limit is remaining is reset is None:
        return None
    if style is _ANTHROPIC:
        seconds = _between(_http_date(headers.get("date")), _rfc_3339(reset))
    else:
        seconds = _seconds(reset)
    if seconds is not None and seconds > _LONGEST_RESET:
        seconds = None
    fields = _number(limit), _number(remaining), seconds
    return None if fields == (None, None, None) else Quota(*fields)


def _number(text: str | None) -> float | None:
    """The number that `text` holds, 0 for one below, None for what is none."""
    if not text or len(text) > _LONGEST_HEADER:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return max(0.0, value) if math.isfinite(value) else None


def _seconds(text: str | None) -> float | None:
    """The seconds in a length of time like ``1h2m3.5s`` or ``120ms``.

    A number without a unit is seconds, as some servers write it.
    """
    if not text or len(text) > _LONGEST_HEADER:
        return None
    match = _DURATION.fullmatch(text)
    if match is None:
        return _number(text)
    seconds = 0.0
    for number, unit in zip(match.groups(), _UNITS, strict=True):
        if number is not None:
            seconds += float(number) * unit
    return seconds


def _between(now: datetime | None, then: datetime | None) -> float | None:
    """The seconds from `now` to `then`, 0 if that is over."""
    if now is None or then is None:
        return None
    return max(0.0, (then - now).total_seconds())


def _rfc_3339(text: str | None) -> datetime | None:
    """The moment that an RFC 3339 date names; one without a zone names none."""
    if not text or len(text) > _LONGEST_HEADER:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


@lru_cache(maxsize=16)
def _http_date(text: str | None) -> datetime | None:
    """The moment that an HTTP date names; most answers of a second share theirs."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415

    if not text or len(text) > _LONGEST_HEADER:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else None
