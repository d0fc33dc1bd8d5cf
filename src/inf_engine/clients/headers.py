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

A `Quota` is a limit per minute, but some endpoints tell of a day in the same headers
(Groq's ``x-ratelimit-limit-requests``, OpenAI's for some accounts), and none says
which it means. What cannot be a minute is dropped whole, as if it had not been said:
keeping to it would spread a day's requests over one minute, or wait a day for the
rest of them, while the endpoint gives one back every few seconds. When it is used up,
the 429 and its ``retry-after`` tell. Three signs count, for a limit L of which R are
left, whole again in S seconds:

1. Something is left, and S is longer than a minute. A bucket that is not empty and a
   window are whole again within their length.
2. Nothing is left, and S is longer than ten minutes. A bucket may be in debt, by an
   answer longer than was left, but hardly by nine times its size.
3. S * L / (L - R) is a day, within 5 %: a bucket drips in L - R at this rate. 8.64 s
   for one of 10,000 is one. (A minute's window may look so for the moment in which
   hardly any of it is used; its next answer does not.)

Where only the limit is told, it is taken to be per minute.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

from inf_engine.types import Quota, RateHint

Names = tuple[str, str, str]
"""The headers of a quota: its limit, what remains of it, and when it is whole."""

_NOTHING = Quota()

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

_DAY = 86_400.0

_DURATION = re.compile(
    r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d*\.?\d+)s)?(?:(\d*\.?\d+)ms)?"
)
_UNITS = (_DAY, 3600.0, 60.0, 1.0, 0.001)

_LONGEST_HEADER = 64
"""No header read here is longer, in characters; a longer one is damaged."""

_LONGEST_RESET = 31 * _DAY
"""No limit takes longer to come back, in seconds; such a number is a date."""

_LONGEST_MINUTE = 66.0
"""The longest reset of a limit per minute, in seconds: resets may be rounded up."""

_LONGEST_DEBT = 600.0
"""The longest reset of a limit per minute of which nothing is left, in seconds."""

_NEAR = 0.05
"""How far from a day a length that was calculated may be, as a share of it."""


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
    quota = Quota(_number(limit), _number(remaining), seconds)
    return None if quota == _NOTHING or not _is_minute(quota) else quota


def _is_minute(quota: Quota) -> bool:
    """Say whether a limit may be one per minute (see the top of this file)."""
    limit, left, reset = quota.limit, quota.remaining, quota.reset
    if left is None or reset is None:
        return reset is None or reset <= _LONGEST_DEBT
    if reset > (_LONGEST_MINUTE if left else _LONGEST_DEBT):
        return False
    used = 0.0 if limit is None else limit - left
    if limit is None or used <= 0 or not left:
        return True
    return abs(reset * limit / used - _DAY) > _NEAR * _DAY


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
