"""`Pattern`: a regular expression that a client wrote, which can hang nobody.

Searching for ``(a|a)*b`` in forty letters takes longer than anybody lives. The search
here is that of the package ``regex``, which gives up after a time and lets other
threads run meanwhile. Two things are looked at before:

- It must be a pattern of Python's ``re``, so that it means what its writer knows, and
  what only ``regex`` has (recursion, fuzzy matches) stays out.
- ``regex`` writes ``{1000}`` out, a thousand times; nested, that takes all memory there
  is. So the product of all such numbers has a limit, `MOST_REPEATS`.

A pattern that is slow on ordinary text is found at once by `slow_one`. It cannot find
each of them; whoever searches is safe without it.
"""

import math
import re
import time
from collections.abc import Iterable, Iterator

import regex

from claas.errors import ConfigurationError

PATIENCE_S = 0.1
"""Seconds of a search; a sound pattern needs a thousandth of them."""

MOST_REPEATS = 1000
"""The largest product of the least numbers of repeats, ``{n}`` and ``{n,m}``."""

_REPEATS = re.compile(r"\{\s*(\d+)")
_LETTERS, _LENGTH = 24, 400  # of what a pattern is tried on
_NO_PATTERN = (re.error, regex.error, OverflowError, RecursionError, MemoryError)


class Pattern:
    """A regular expression; case does not matter.

    Args:
        text: The expression, as Python's ``re`` has them.

    Raises:
        ConfigurationError: If it is none, or would take too much memory.
    """

    def __init__(self, text: str) -> None:
        self._gave_up = False
        try:
            re.compile(text, re.IGNORECASE)
            repeats = math.prod([max(int(n), 1) for n in _REPEATS.findall(text)])
            if repeats > MOST_REPEATS:
                raise OverflowError(
                    f"it repeats more than {MOST_REPEATS} times, all its repeats "
                    "together"
                )
            self._inner = regex.compile(text, regex.IGNORECASE)
        except _NO_PATTERN as exc:
            raise ConfigurationError(
                f"the pattern {text[:80]!r} of a check is no regular expression that "
                f"can be used: {exc}."
            ) from exc

    def found_in(self, text: str, seconds: float = PATIENCE_S) -> bool:
        """Say whether it is in a text.

        Args:
            text: The text.
            seconds: The longest to look for it.

        Raises:
            TimeoutError: If that takes longer; each later time at once.
        """
        if self._gave_up:
            raise TimeoutError
        try:
            return bool(self._inner.search(text, timeout=seconds, concurrent=True))
        except TimeoutError:
            self._gave_up = True
            raise


def slow_one(patterns: Iterable[str], seconds: float = 1.0) -> str | None:
    """Return the first pattern that takes too long on ordinary text, if there is one.

    Args:
        patterns: Regular expressions.
        seconds: The longest for all of them together; so many that it is not enough
            are too slow, too.

    Raises:
        ConfigurationError: If one is no regular expression.
    """
    end = time.monotonic() + seconds
    for text in dict.fromkeys(patterns):
        pattern = Pattern(text)
        for sample in _samples(text):
            left = max(end - time.monotonic(), 1e-4)
            try:
                pattern.found_in(sample, min(PATIENCE_S, left))
            except TimeoutError:
                return text
    return None


def _samples(pattern: str) -> Iterator[str]:
    """Give texts that a pattern is likely to be slow on: its own letters, repeated."""
    letters = dict.fromkeys([c for c in pattern if c.isalnum()])
    for letter in [*letters][:_LETTERS]:
        yield letter * _LENGTH + "\0"
    for word in ("a", "0", " ", "word ", "a,", "x=1 "):
        yield word * (_LENGTH // len(word)) + "\0"
