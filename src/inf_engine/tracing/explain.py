"""Errors that leave a forward: their chain, and the fix where a proxy was refused."""

from inf_engine.errors import TracingError


def linked(error: BaseException) -> list[BaseException]:
    """Return an exception with its causes and the members of its groups, each once."""
    found: dict[int, BaseException] = {}
    stack: list[BaseException | None] = [error]
    while stack:
        here = stack.pop()
        if here is None or id(here) in found:
            continue
        found[id(here)] = here
        stack += [here.__cause__, here.__context__]
        if isinstance(here, BaseExceptionGroup):
            stack += here.exceptions
    return list(found.values())


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
