"""`CircuitBreaker`: an endpoint that keeps failing is left alone for a while.

The legal transitions; what is not in the table changes nothing::

    closed     failed N times in a row      -> open, for 1 s
    open       a request is sent            -> half-open (not before the cooldown's end)
    half-open  it succeeded                 -> closed
    half-open  it failed                    -> open, for twice as long, 60 s at most
    half-open  it ended without a verdict   -> open, its cooldown over

Which failures count is the caller's: connection, timeout, 5xx. A refusal such as 400 or
429 is an answer, and the endpoint is well.
"""

import math
from typing import Literal

State = Literal["closed", "open", "half-open"]
_Event = Literal["tripped", "sent", "succeeded", "failed", "lost"]

FAILURES = 5
FIRST_COOLDOWN = 1.0
LONGEST_COOLDOWN = 60.0

_NEXT: dict[tuple[State, _Event], State] = {
    ("closed", "tripped"): "open",
    ("open", "sent"): "half-open",
    ("half-open", "succeeded"): "closed",
    ("half-open", "failed"): "open",
    ("half-open", "lost"): "open",
}


class CircuitBreaker:
    """Closed, open or half-open.

    Args:
        failures: How many failures in a row open it.
        cooldown: Seconds that it stays open the first time.
        longest: Seconds that it stays open at most.

    Raises:
        ValueError: If `failures` is below 1.
    """

    __slots__ = (
        "_cooldown",
        "_failed",
        "_failures",
        "_first",
        "_longest",
        "_opened_at",
        "_ready_at",
        "_state",
    )

    def __init__(
        self,
        failures: int = FAILURES,
        cooldown: float = FIRST_COOLDOWN,
        longest: float = LONGEST_COOLDOWN,
    ) -> None:
        if failures < 1:
            raise ValueError(
                f"a breaker cannot open after {failures} failures; give at least 1"
            )
        self._failures = failures
        self._first = self._cooldown = cooldown
        self._longest = longest
        self._failed = 0
        self._opened_at = self._ready_at = 0.0
        self._state: State = "closed"

    @property
    def state(self) -> State:
        """Whether requests pass (closed), none does (open), or one is out to probe."""
        return self._state

    def ready_at(self, now: float) -> float:
        """Return when the next request may leave; inf while a probe is out.

        Args:
            now: Seconds on the loop's clock.
        """
        if self._state == "closed":
            return now
        return max(now, self._ready_at) if self._state == "open" else math.inf

    def sent(self, now: float) -> None:
        """Take note of a request; when open, it is the probe."""
        if self._state == "open" and now >= self._ready_at:
            self._go("sent")

    def succeeded(self, now: float) -> None:
        """Take note that the endpoint answered."""
        self._failed = 0
        if self._state == "half-open":
            self._cooldown = self._first
            self._go("succeeded")

    def failed(self, now: float, sent_at: float | None = None) -> None:
        """Take note of a failure that counts.

        Args:
            now: Seconds on the loop's clock.
            sent_at: When the failed request was sent; what was sent before the breaker
                opened tells nothing of the probe. None counts as the probe.
        """
        if self._state == "closed":
            self._failed += 1
            if self._failed >= self._failures:
                self._open(now, "tripped")
        elif self._state == "half-open" and not self._is_old(sent_at):
            self._cooldown = min(self._longest, 2 * self._cooldown)
            self._open(now, "failed")

    def lost(self, now: float, sent_at: float | None = None) -> None:
        """Take note that the probe was cancelled: another may go at once.

        Args:
            now: Seconds on the loop's clock.
            sent_at: When the cancelled request was sent; older ones were no probe. None
                counts as the probe.
        """
        if self._state == "half-open" and not self._is_old(sent_at):
            self._go("lost")

    def _open(self, now: float, event: _Event) -> None:
        self._go(event)
        self._opened_at = now
        self._ready_at = now + self._cooldown

    def _is_old(self, sent_at: float | None) -> bool:
        return sent_at is not None and sent_at < self._opened_at

    def _go(self, event: _Event) -> None:
        self._state = _NEXT[self._state, event]
        self._failed = 0
