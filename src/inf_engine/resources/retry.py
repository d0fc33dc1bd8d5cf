"""When to try again, and after how long: plain functions of the attempt and chance.

A `RetryPolicy` has two: ``wait(attempt, rng)`` gives seconds, ``stop(attempt, rng)``
says whether to give up; `attempt` counts the tries that failed, from 1, and `rng` is a
`random.Random`. Any strategy of tenacity will do instead: it is asked with a state that
has ``attempt_number``, ``seconds_since_start``, ``outcome`` and ``idle_for``.

What may be tried again at all is not the policy's to say: that is in the type of the
error. Refusals by a rate limit do not count as tries: they are the limit's doing, and
the deployment pauses for all.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from random import Random
from typing import Any

from inf_engine.errors import ConfigurationError, EndpointError, RateLimitError

BASE_SECONDS = 0.5
CAP_SECONDS = 30.0
PATIENCE_SECONDS = 3600.0
"""How long after it first left a request may still be tried again: longer than a few
tries at the default timeout take."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to try again, and when.

    Args:
        wait: Seconds before the next try, of (attempt, rng); or a tenacity strategy.
            None for exponential backoff with full jitter.
        stop: Whether to give up, of (attempt, rng); or a tenacity strategy. None for
            the endpoint's own number of retries.

    Raises:
        ConfigurationError: If one of them cannot be called.
    """

    wait: Callable[..., Any] | None = None
    stop: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name in ("wait", "stop"):
            given = getattr(self, name)
            if given is not None and not _is_strategy(given):
                raise ConfigurationError(
                    f"RetryPolicy: {name} must be a function of (attempt, rng) or a "
                    f"tenacity strategy, not {given!r}."
                )


def _is_strategy(given: Any) -> bool:
    """Say whether it can be asked: called with two, or an object of tenacity."""
    if not callable(given) or isinstance(given, type):
        return False
    if _is_tenacitys(given):
        return True
    try:
        signature(given).bind(1, Random)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not say what it takes
        return True
    return True


def _is_tenacitys(strategy: Any) -> bool:
    return type(strategy).__module__.partition(".")[0] == "tenacity"


class _Outcome:
    """What tenacity's strategies ask of a try that failed."""

    failed = True

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def exception(self) -> BaseException:
        return self._error


@dataclass(slots=True)
class _State:
    """What tenacity's strategies are asked with."""

    attempt_number: int
    seconds_since_start: float
    outcome: _Outcome
    idle_for: float = 0.0
    upcoming_sleep: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A try that failed, for deciding about the next.

    Args:
        error: Why.
        failures: How many tries have failed, refusals by a rate limit aside.
        seconds: How long ago the request left for the first time.
    """

    error: EndpointError
    failures: int
    seconds: float


def may_retry(
    failure: Failure, retries: int, policy: RetryPolicy | None, rng: Random
) -> bool:
    """Say whether a request is tried again.

    Args:
        failure: How the last try failed.
        retries: How many tries are allowed after the first; 0 for none at all.
        policy: Decides instead of `retries`, if it has a `stop`.
        rng: Chance.
    """
    if not failure.error.retryable or failure.seconds >= PATIENCE_SECONDS:
        return False
    stop = None if policy is None else policy.stop
    if isinstance(failure.error, RateLimitError):
        return stop is not None or retries > 0
    if stop is None:
        return failure.failures <= retries
    return not _asked(stop, failure, rng)


def wait_seconds(failure: Failure, policy: RetryPolicy | None, rng: Random) -> float:
    """Return how long to pause before the next try.

    After a refusal by a rate limit that is 0: the deployment itself pauses then.

    Args:
        failure: How this try failed; what its endpoint asks for is obeyed.
        policy: Decides, if it has a `wait`; else exponential with full jitter.
        rng: Chance.
    """
    if isinstance(failure.error, RateLimitError):
        return 0.0
    if policy is not None and policy.wait is not None:
        backoff = _seconds(_asked(policy.wait, failure, rng))
    else:
        most = min(CAP_SECONDS, BASE_SECONDS * 2 ** (failure.failures - 1))
        backoff = rng.random() * most
    return max(backoff, failure.error.retry_after or 0.0)


def _asked(strategy: Callable[..., Any], failure: Failure, rng: Random) -> Any:
    """Ask a function, or a strategy of tenacity."""
    try:
        if _is_tenacitys(strategy):
            outcome = _Outcome(failure.error)
            return strategy(_State(failure.failures, failure.seconds, outcome))
        return strategy(failure.failures, rng)
    except Exception as exc:
        raise ConfigurationError(
            f"the RetryPolicy failed with {type(exc).__name__}: {exc}. Correct its "
            "wait or stop; they are called with (attempt, rng)."
        ) from exc


def _seconds(wait: Any) -> float:
    """Return the seconds that a policy wants to wait."""
    is_number = isinstance(wait, (int, float)) and not isinstance(wait, bool)
    if not is_number or not 0.0 <= wait < math.inf:
        raise ConfigurationError(
            f"the wait of the RetryPolicy gave {wait!r}; it has to give seconds, 0 or "
            "more and finite."
        )
    return float(wait)
