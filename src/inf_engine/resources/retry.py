"""When to try again: plain functions of the error, the attempt and a random number."""

from inf_engine.errors import EndpointError

BASE_SECONDS = 0.5
CAP_SECONDS = 30.0


def should_retry(error: EndpointError, attempt: int, retries: int) -> bool:
    """Say whether a request is tried again.

    Args:
        error: Why this try failed.
        attempt: Which try it was, from 1.
        retries: How many tries are allowed after the first.
    """
    return error.retryable and attempt <= retries


def wait_seconds(error: EndpointError, attempt: int, random: float) -> float:
    """Return how long to wait before the next try: exponential, full jitter.

    Args:
        error: Why this try failed; what its endpoint asks for is obeyed.
        attempt: Which try it was, from 1.
        random: A random number in [0, 1).
    """
    backoff = random * min(CAP_SECONDS, BASE_SECONDS * 2 ** (attempt - 1))
    return max(backoff, error.retry_after or 0.0)
