"""Errors that leave a forward: their chain, and the fix where a proxy was refused.

Python's own code and libraries refuse what is not known yet in their own words. Such an
error is told from one that the user's program raises by where it comes from (not from a
``raise`` in user code) and by what was refused: a proxy, or the placeholder of one.
"""

import opcode
import os
import re
from types import TracebackType
from typing import Any

from inf_engine.errors import TracingError
from inf_engine.template import has_placeholder
from inf_engine.tracing.proxy import AsyncProxy, Proxy

_RAISES = {opcode.opmap[name] for name in ("RAISE_VARARGS", "RERAISE")}
_LIBRARY = os.path.dirname(os.__file__)
_WANTS_TEXT = re.compile(r"must be (?:a )?str|non-string|string argument")


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
    if isinstance(error, TracingError) or not _is_refusal(error):
        return error
    told = TracingError(
        f"forward gave a value that is not known yet to code that needs it at once "
        f"({type(error).__name__}: {_first_line(error)}). Use str(p) to wait for it, "
        "an f-string f'{p}' to pass it on to a call, or move that code into an @op "
        "function."
    )
    told.__cause__ = error
    return told.with_traceback(error.__traceback__)


def _is_refusal(error: BaseException) -> bool:
    is_validation = type(error).__name__ == "ValidationError"
    if isinstance(error, TypeError) or is_validation:
        if "Proxy" in str(error):
            return True
    elif not isinstance(error, (ValueError, LookupError)):
        return False
    innermost = _innermost(error)
    if innermost is None or _is_raised_by_user(innermost):
        return False
    texts = [*error.args, getattr(error, "doc", None)]
    if any(isinstance(text, str) and has_placeholder(text) for text in texts):
        return True
    wanted = _is_library(innermost) or _WANTS_TEXT.search(str(error)) is not None
    return isinstance(error, TypeError) and wanted and _holds_proxy(innermost)


def _innermost(error: BaseException) -> TracebackType | None:
    here = error.__traceback__
    while here is not None and here.tb_next is not None:
        here = here.tb_next
    return here


def _is_library(place: TracebackType) -> bool:
    name = place.tb_frame.f_code.co_filename
    return name.startswith(_LIBRARY) or "site-packages" in name


def _is_raised_by_user(place: TracebackType) -> bool:
    code = place.tb_frame.f_code.co_code
    return not _is_library(place) and code[place.tb_lasti] in _RAISES


def _holds_proxy(place: TracebackType) -> bool:
    def is_proxy(value: Any) -> bool:
        return type(value) is Proxy or type(value) is AsyncProxy

    return any(map(is_proxy, place.tb_frame.f_locals.values()))


def _first_line(error: BaseException) -> str:
    text = str(error)
    if has_placeholder(text):
        return "it was given a placeholder"
    return text.splitlines()[0] if text else "no message"
