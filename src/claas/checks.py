"""Checks: whether an answer follows a feedback, and whether it is an answer at all.

Whether a feedback is followed is said by, in this order, the feedback's own `Check`, or
likeness to the answer that the feedback names (a correction, a successful sibling, a
praised answer). Where there is neither, only log probabilities are left; a template
that wins by those alone may train worse, so that is a fall-back, and whoever uses it
says so.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from claas.patterns import Pattern
from claas.types import Check, Lesson

How = Literal["check", "likeness"]

ALIKE = 0.6
"""The share of common words from which on two answers say the same."""

_PARROTED = 6
_ENOUGH = 24
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Verifier:
    """Says of an answer whether it follows a feedback.

    Args:
        how: What it goes by.
        follows: Takes an answer.
    """

    how: How
    follows: Callable[[str], bool]


def verifier_of(lesson: Lesson) -> Verifier | None:
    """Return what can tell whether an answer follows a lesson.

    Args:
        lesson: The feedback and its answer.

    Returns:
        The verifier, or None if there is nothing to go by but log probabilities.

    Raises:
        ConfigurationError: If a pattern of the check is no regular expression.
    """
    check = lesson.feedback.check
    if check is not None and (check.required or check.forbidden or check.most_words):
        return Verifier("check", _checker(check))
    target = target_of(lesson)
    if target:
        return Verifier("likeness", lambda text: _says_so(text, target))
    return None


def target_of(lesson: Lesson) -> str:
    """Return the answer that a feedback holds up as good, empty if it names none.

    Args:
        lesson: The feedback and its answer.
    """
    if lesson.feedback.kind in ("correction", "sibling"):
        return lesson.feedback.content
    return lesson.receipt.text if lesson.feedback.is_praise else ""


def likeness(one: str, other: str) -> float:
    """Return the share of words that two texts have in common (F1, 0 to 1).

    Args:
        one: A text.
        other: Another.
    """
    a, b = (Counter(_WORD.findall(text.lower())) for text in (one, other))
    common = (a & b).total()
    return 2 * common / (a.total() + b.total()) if common else 0.0


def parrots(lesson: Lesson, text: str) -> bool:
    """Say whether an answer repeats the feedback instead of following it.

    Args:
        lesson: The feedback; one that names a good answer may be repeated.
        text: The answer.
    """
    said = _WORD.findall(lesson.feedback.content.lower())
    if target_of(lesson) or len(said) < _PARROTED:
        return False
    runs = {tuple(said[i : i + _PARROTED]) for i in range(len(said) - _PARROTED + 1)}
    words = _WORD.findall(text.lower())
    return any(tuple(words[i : i + _PARROTED]) in runs for i in range(len(words)))


def repetition(tokens: Sequence[int], size: int = 3) -> float:
    """Return the share of token runs in an answer that stood there before (0 to 1).

    Args:
        tokens: The answer.
        size: The tokens of a run.
    """
    runs = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _says_so(text: str, target: str) -> bool:
    """Whether an answer says what another one says, as far as it goes.

    Answers are sampled up to some tokens, so one of `_ENOUGH` words is compared with as
    many of the other's: a long answer could else be followed by none.
    """
    words, others = (_WORD.findall(one) for one in (text, target))
    if len(words) >= _ENOUGH:
        others = others[: len(words)]
    return likeness(" ".join(words), " ".join(others)) >= ALIKE


def _checker(check: Check) -> Callable[[str], bool]:
    """Return what a check says of an answer."""
    required, forbidden = (
        Pattern(text) if text else None for text in (check.required, check.forbidden)
    )

    def follows(text: str) -> bool:
        if check.most_words and len(text.split()) > check.most_words:
            return False
        try:
            lacks = required is not None and not required.found_in(text)
            return not lacks and not (forbidden and forbidden.found_in(text))
        except TimeoutError:  # what cannot be seen is not followed
            return False

    return follows
