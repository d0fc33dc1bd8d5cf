"""What a provider allows per minute: two token buckets, and the headers that tell.

A bucket is one number: when it will be full again. Taking moves that moment back; what
is left follows from it. So nothing ticks, and the arithmetic is exact for any `now`.

A request needs one whole request and a token bucket that is not in debt; what its
answer used is taken when it is known, and may leave a debt. So the long-term rate is
exactly the limit, and is exceeded by one answer at most. A refused request costs
nothing.
"""

import math
import time
from dataclasses import dataclass

from inf_engine.errors import UsageError
from inf_engine.types import Quota

_ROUNDING = 1e-6  # seconds; sums of floats are not to refuse anybody
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


@dataclass(slots=True)
class _Bucket:
    """So much per minute, of which `capacity` can be taken at once."""

    per_minute: float
    capacity: float
    full_at: float = -math.inf

    def left(self, now: float) -> float:
        """What is left; negative if too much was taken."""
        return self.capacity - self.reset(now) * self.per_minute / 60

    def reset(self, now: float) -> float:
        """Seconds until it is full."""
        return max(0.0, self.full_at - now)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` is left; 0 if it is."""
        seconds = (amount - self.left(now)) * 60 / self.per_minute
        return seconds if seconds > _ROUNDING else 0.0

    def take(self, amount: float, now: float) -> None:
        self.full_at = max(now, self.full_at) + amount * 60 / self.per_minute

    def quota(self, now: float) -> Quota:
        """The bucket as its headers tell of it."""
        whole = math.floor(self.left(now) + _ROUNDING * self.per_minute / 60)
        return Quota(self.per_minute, max(0, whole), self.reset(now))


class ProviderLimits:
    """Rate limits as a provider keeps them. All times are seconds of any one clock.

    Args:
        requests_per_minute: Requests; None for no limit.
        tokens_per_minute: Tokens read and written; None for no limit.
        burst: Requests that may come at once, and the tokens of the same time; None
            for one second's worth, at least one request.

    Raises:
        UsageError: A limit that is not positive, or a burst of no limited requests.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        burst: float | None = None,
    ) -> None:
        if burst is not None and (requests_per_minute is None or burst < 1):
            raise UsageError(
                f"a loopback server with burst={burst} and requests_per_minute="
                f"{requests_per_minute}: give a burst of at least 1, and its limit."
            )
        seconds = 1.0
        self._requests = self._tokens = None
        if requests_per_minute is not None:
            rate = _positive("requests_per_minute", requests_per_minute) / 60
            seconds = max(1.0, rate) / rate if burst is None else burst / rate
            self._requests = _Bucket(requests_per_minute, seconds * rate)
        if tokens_per_minute is not None:
            rate = _positive("tokens_per_minute", tokens_per_minute) / 60
            self._tokens = _Bucket(tokens_per_minute, seconds * rate)

    def admit(self, now: float) -> float:
        """Take a request out, if it may come in.

        Args:
            now: When it arrived.

        Returns:
            0 if it may come in, else the seconds after which one may.
        """
        wait = 0.0
        if self._requests is not None:
            wait = self._requests.wait(1, now)
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait(0, now))
        if not wait and self._requests is not None:
            self._requests.take(1, now)
        return wait

    def spend(self, tokens: int, now: float) -> None:
        """Take out the tokens of an answer.

        Args:
            tokens: Tokens read and written.
            now: When they became known.
        """
        if self._tokens is not None:
            self._tokens.take(tokens, now)

    def quotas(self, now: float) -> dict[str, Quota]:
        """Return each limit that there is, under "requests" and "tokens".

        What remains is what could come at this moment. So it is of the burst, not of
        the minute, and ``remaining + reset * limit / 60`` is the burst.

        Args:
            now: The moment.
        """
        buckets = {"requests": self._requests, "tokens": self._tokens}
        return {name: b.quota(now) for name, b in buckets.items() if b is not None}


def openai_headers(limits: ProviderLimits, now: float) -> dict[str, str]:
    """Return the ``x-ratelimit-*`` headers; a reset is a duration ("50ms", "6m0s").

    Args:
        limits: The limits to tell of.
        now: The moment, on their clock.
    """
    headers: dict[str, str] = {}
    for name, quota in limits.quotas(now).items():
        headers[f"x-ratelimit-limit-{name}"] = f"{quota.limit:.0f}"
        headers[f"x-ratelimit-remaining-{name}"] = f"{quota.remaining}"
        headers[f"x-ratelimit-reset-{name}"] = duration(quota.reset or 0.0)
    return headers


def anthropic_headers(
    limits: ProviderLimits, now: float, today: float
) -> dict[str, str]:
    """Return the ``anthropic-ratelimit-*`` headers and the ``Date`` they are read by.

    Args:
        limits: The limits to tell of.
        now: The moment, on their clock.
        today: The same moment in seconds since 1970; a reset is a date, rounded up to
            the whole second as theirs are.
    """
    headers = {"Date": http_date(today)}
    for name, quota in limits.quotas(now).items():
        then = time.gmtime(math.ceil(today + (quota.reset or 0.0)))
        prefix = f"anthropic-ratelimit-{name}"
        headers[f"{prefix}-limit"] = f"{quota.limit:.0f}"
        headers[f"{prefix}-remaining"] = f"{quota.remaining}"
        headers[f"{prefix}-reset"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", then)
    return headers


def retry_headers(wait: float, *, anthropic: bool) -> dict[str, str]:
    """Return the headers that say when to come back.

    Args:
        wait: Seconds; told rounded up to whole ones, as the standard wants it.
        anthropic: If not, the milliseconds are told too, as OpenAI does.
    """
    headers = {"retry-after": f"{math.ceil(wait)}"}
    if not anthropic:
        headers["retry-after-ms"] = f"{_milliseconds(wait)}"
    return headers


def duration(seconds: float) -> str:
    """Return seconds as OpenAI writes them: "50ms", "1.5s", "6m0s", "1h0m0s".

    Args:
        seconds: At least 0; rounded up to the millisecond.
    """
    whole = _milliseconds(seconds)
    if whole < 1000:
        return f"{whole}ms"
    minutes, rest = divmod(whole, 60_000)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours}h"] * bool(hours) + [f"{minutes}m"] * bool(hours or minutes)
    return f"{''.join(parts)}{rest / 1000:g}s"


def http_date(today: float) -> str:
    """Return a moment as a ``Date`` header has it, in English everywhere.

    Args:
        today: Seconds since 1970; a part of a second is dropped.
    """
    then = time.gmtime(today)
    day, month = _DAYS[then.tm_wday], _MONTHS[then.tm_mon - 1]
    clock = time.strftime("%Y %H:%M:%S GMT", then)
    return f"{day}, {then.tm_mday:02} {month} {clock}"


def _milliseconds(seconds: float) -> int:
    """Whole milliseconds, rounded up, floats forgiven."""
    return math.ceil((seconds - _ROUNDING) * 1000) if seconds > 0 else 0


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UsageError(
            f"a loopback server with {name}={value}: give a positive number, or None."
        )
    return value
