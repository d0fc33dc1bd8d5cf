"""When to try again: plain functions."""

import pytest

from inf_engine import errors
from inf_engine.errors import EndpointError, EndpointServerError, RateLimitError
from inf_engine.resources.retry import PATIENCE_SECONDS, may_retry, wait_seconds

PASSING = [
    errors.EndpointConnectionError,
    errors.EndpointTimeoutError,
    errors.RateLimitError,
    errors.EndpointServerError,
    errors.MalformedResponseError,
]
FINAL = [errors.AuthenticationError, errors.RequestRefusedError, EndpointError]


@pytest.mark.parametrize("kind", PASSING + FINAL)
def test_only_what_may_pass_is_tried_again(kind: type[EndpointError]) -> None:
    """A refused request or key will be refused again."""
    assert may_retry(kind("x"), 1, 2, 0.0) is (kind in PASSING)


def test_retries_are_tries_after_the_first() -> None:
    """With two retries the third try is the last."""
    error = EndpointServerError("x")
    assert [may_retry(error, n, 2, 0.0) for n in (1, 2, 3)] == [True, True, False]
    assert not may_retry(error, 1, 0, 0.0)


def test_waits_double_up_to_a_cap() -> None:
    """Half a second at first, never more than thirty."""
    error = EndpointServerError("x")
    waits = [wait_seconds(error, n, 1.0) for n in (1, 2, 3, 7, 60)]
    assert waits == [0.5, 1.0, 2.0, 30.0, 30.0]
    assert wait_seconds(error, 3, 0.25) == 0.5
    assert wait_seconds(error, 3, 0.0) == 0.0


def test_tries_are_bounded_in_time() -> None:
    """However many are left."""
    error = EndpointServerError("x")
    assert may_retry(error, 1, 9, PATIENCE_SECONDS - 1)
    assert not may_retry(error, 1, 9, PATIENCE_SECONDS)
    assert not may_retry(RateLimitError("x"), 0, 9, PATIENCE_SECONDS)


def test_a_refusal_by_a_rate_limit_uses_up_no_try() -> None:
    """It is no failure; but who wants no retries gets none."""
    assert may_retry(RateLimitError("x"), 0, 1, 0.0)
    assert not may_retry(RateLimitError("x"), 0, 0, 0.0)


def test_retry_after_is_the_least() -> None:
    """A longer backoff stays; a rate limit makes the deployment wait, not the job."""
    assert wait_seconds(EndpointServerError("x", retry_after=7.0), 1, 1.0) == 7.0
    assert wait_seconds(EndpointServerError("x", retry_after=0.1), 1, 1.0) == 0.5
    assert wait_seconds(RateLimitError("x", retry_after=7.0), 0, 1.0) == 0.0
