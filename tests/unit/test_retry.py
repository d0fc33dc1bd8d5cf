"""When to try again: plain functions."""

import pytest

from inf_engine import errors
from inf_engine.errors import EndpointError, EndpointServerError, RateLimitError
from inf_engine.resources.retry import should_retry, wait_seconds

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
    assert should_retry(kind("x"), 1, 2) is (kind in PASSING)


def test_retries_are_tries_after_the_first() -> None:
    """With two retries the third try is the last."""
    error = EndpointServerError("x")
    assert [should_retry(error, n, 2) for n in (1, 2, 3)] == [True, True, False]
    assert not should_retry(error, 1, 0)


def test_waits_double_up_to_a_cap() -> None:
    """Half a second at first, never more than thirty."""
    error = EndpointServerError("x")
    waits = [wait_seconds(error, n, 1.0) for n in (1, 2, 3, 7, 60)]
    assert waits == [0.5, 1.0, 2.0, 30.0, 30.0]
    assert wait_seconds(error, 3, 0.25) == 0.5
    assert wait_seconds(error, 3, 0.0) == 0.0


def test_retry_after_is_the_least() -> None:
    """A longer backoff stays."""
    assert wait_seconds(RateLimitError("x", retry_after=7.0), 1, 1.0) == 7.0
    assert wait_seconds(RateLimitError("x", retry_after=0.1), 1, 1.0) == 0.5
