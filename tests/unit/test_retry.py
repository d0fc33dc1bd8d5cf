"""When to try again: plain functions of the attempt and chance."""

from random import Random
from typing import Any

import pytest
import tenacity

from inf_engine import errors
from inf_engine.errors import (
    ConfigurationError,
    EndpointError,
    EndpointServerError,
    RateLimitError,
)
from inf_engine.resources.retry import (
    PATIENCE_SECONDS,
    Failure,
    RetryPolicy,
    may_retry,
    wait_seconds,
)

PASSING = [
    errors.EndpointConnectionError,
    errors.EndpointTimeoutError,
    errors.RateLimitError,
    errors.EndpointServerError,
    errors.MalformedResponseError,
]
FINAL = [errors.AuthenticationError, errors.RequestRefusedError, EndpointError]
DOWN = EndpointServerError("down")


class Chance(Random):
    """Always the same number."""

    def __init__(self, number: float = 0.0) -> None:
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number


def again(
    error: EndpointError, failures: int, retries: int, seconds: float = 0.0
) -> bool:
    """Whether it is tried again, without a policy."""
    return may_retry(Failure(error, failures, seconds), retries, None, Chance())


def wait(error: EndpointError, failures: int, chance: float = 1.0) -> float:
    """How long to wait, without a policy."""
    return wait_seconds(Failure(error, failures, 0.0), None, Chance(chance))


@pytest.mark.parametrize("kind", PASSING + FINAL)
def test_only_what_may_pass_is_tried_again(kind: type[EndpointError]) -> None:
    """A refused request or key will be refused again."""
    assert again(kind("x"), 1, 2) is (kind in PASSING)


def test_retries_are_tries_after_the_first() -> None:
    """With two retries the third try is the last."""
    assert [again(DOWN, n, 2) for n in (1, 2, 3)] == [True, True, False]
    assert not again(DOWN, 1, 0)


def test_tries_are_bounded_in_time() -> None:
    """However many are left."""
    assert again(DOWN, 1, 9, PATIENCE_SECONDS - 1)
    assert not again(DOWN, 1, 9, PATIENCE_SECONDS)
    assert not again(RateLimitError("x"), 0, 9, PATIENCE_SECONDS)


def test_a_refusal_by_a_rate_limit_uses_up_no_try() -> None:
    """It is no failure; but who wants no retries gets none."""
    assert again(RateLimitError("x"), 9, 1)
    assert not again(RateLimitError("x"), 0, 0)


def test_waits_double_up_to_a_cap() -> None:
    """Half a second at first, never more than thirty; any part of it by chance."""
    assert [wait(DOWN, n) for n in (1, 2, 3, 7, 60)] == [0.5, 1.0, 2.0, 30.0, 30.0]
    assert wait(DOWN, 3, 0.25) == 0.5
    assert wait(DOWN, 3, 0.0) == 0.0


def test_retry_after_is_the_least() -> None:
    """A longer backoff stays; a rate limit makes the deployment wait, not the job."""
    assert wait(EndpointServerError("x", retry_after=7.0), 1) == 7.0
    assert wait(EndpointServerError("x", retry_after=0.1), 1) == 0.5
    assert wait(RateLimitError("x", retry_after=7.0), 0) == 0.0


POLICIES: dict[str, Any] = {
    "functions": RetryPolicy(lambda n, rng: n * 10.0, lambda n, rng: n >= 4),
    "tenacity": RetryPolicy(
        tenacity.wait_incrementing(10, 10), tenacity.stop_after_attempt(4)
    ),
    "combined": RetryPolicy(
        tenacity.wait_fixed(0) + tenacity.wait_incrementing(10, 10),
        tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(1e6),
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_decides_with_functions_or_strategies_of_tenacity(name: str) -> None:
    """Instead of the endpoint's number of retries."""
    policy, rng = POLICIES[name], Chance()
    tries = [Failure(DOWN, n, 1.0) for n in (1, 2, 3, 4)]
    assert [may_retry(t, 0, policy, rng) for t in tries] == [True, True, True, False]
    assert [wait_seconds(t, policy, rng) for t in tries[:2]] == [10.0, 20.0]


def test_time_reaches_tenacity() -> None:
    """As seconds since the request first left, and the error with it."""
    policy = RetryPolicy(
        tenacity.wait_exception(lambda error: len(str(error))),
        tenacity.stop_after_delay(10),
    )
    failures = [Failure(DOWN, 1, seconds) for seconds in (9.0, 11.0)]
    assert [may_retry(f, 0, policy, Chance()) for f in failures] == [True, False]
    assert wait_seconds(failures[0], policy, Chance()) == 4.0


def test_a_policy_of_anything_else_is_refused() -> None:
    """Numbers, say."""
    three: Any = 3
    with pytest.raises(ConfigurationError, match="wait must be a function of .attempt"):
        RetryPolicy(wait=three)


@pytest.mark.parametrize(
    "wrong", [lambda attempt: 1.0, tenacity.stop_after_attempt, lambda: 0, "1"]
)
def test_what_cannot_be_asked_is_refused_at_once(wrong: Any) -> None:
    """One argument, a class in the place of an object, no function at all."""
    with pytest.raises(ConfigurationError, match="stop must be a function of .attempt"):
        RetryPolicy(stop=wrong)


@pytest.mark.parametrize("wrong", ["x", None, -1.0, float("nan"), float("inf"), True])
def test_a_wait_that_is_no_time_is_refused(wrong: Any) -> None:
    """It names itself."""
    policy = RetryPolicy(wait=lambda attempt, rng: wrong)
    with pytest.raises(ConfigurationError, match="wait of the RetryPolicy gave"):
        wait_seconds(Failure(DOWN, 1, 0.0), policy, Chance())


def test_a_policy_that_fails_says_so() -> None:
    """With the cause, and what it is called with."""
    policy = RetryPolicy(stop=lambda attempt, rng: 1 // 0)
    with pytest.raises(ConfigurationError, match="RetryPolicy failed with ZeroDiv.*by"):
        may_retry(Failure(DOWN, 1, 0.0), 2, policy, Chance())
