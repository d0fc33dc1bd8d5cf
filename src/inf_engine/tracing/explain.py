"""Turns what Python raises when it refuses a proxy into an error with the fix."""

from inf_engine.errors import TracingError


def explained(error: BaseException) -> BaseException:
    """Return a `TracingError` for what Python raises when it refuses a proxy."""
    refused = isinstance(error, TypeError) or (
        type(error).__name__ == "ValidationError" and isinstance(error, ValueError)
    )
    if not refused or "Proxy" not in str(error):
        return error
    told = TracingError(
        f"forward gave a value that is not known yet to code that needs it at once "
        f"({type(error).__name__}: {_first_line(error)}). Use an f-string f'{{p}}' to "
        "pass it on as text, str(p) to wait for it, or move that code into an @op "
        "function."
    )
    told.__cause__ = error
    return told.with_traceback(error.__traceback__)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]
