"""When to try again: plain functions of the error, the attempt and a random number."""

from inf_engine.errors import EndpointError, RateLimitError

BASE_SECONDS = 0.5
CAP_SECONDS = 30.0
PATIENCE_SECONDS = 600.0
"""How long after it first left a request may still be tried again."""


def may_retry(
    error: EndpointError, failures: int, retries: int, seconds: float
) -> bool:
    """Say whether a request is tried again.

    Refusals by a rate limit do not use up tries: they are the limit's doing, and pass.

    Args:
        error: Why the last try failed.
        failures: How many tries have failed, refusals by a rate limit aside.
        retries: How many tries are allowed after the first; 0 for none at all.
        seconds: How long ago the request left for the first time.
    """
    if not error.retryable or not retries or seconds >= PATIENCE_SECONDS:
        return False
    return failures <= retries


def wait_seconds(error: EndpointError, failures: int, random: float) -> float:
    """Return how long to pause before the next try: exponential, full jitter.

    After a refusal by a rate limit that is 0: the deployment itself pauses then.

    Args:
        error: Why this try failed; what its endpoint asks for is obeyed.
        failures: How many tries have failed, refusals by a rate limit aside.
        random: A random number in [0, 1).
    """
    if isinstance(error, RateLimitError):
        return 0.0
    backoff = random * min(CAP_SECONDS, BASE_SECONDS * 2 ** (failures - 1))
    return max(backoff, error.retry_after or 0.0)
