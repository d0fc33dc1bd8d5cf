"""Patterns of clients are searched for, and none can hang whoever does it."""

import time

import pytest

from claas.checks import verifier_of
from claas.errors import ConfigurationError
from claas.patterns import PATIENCE_S, Pattern, slow_one
from claas.types import Check, Feedback, Lesson, Receipt

SLOW = "^(a|a)*$"
LONG = "a" * 60 + "!"
NOBODY = Receipt("r", "ann", "ann/kuro", 0, (), (), (), (), "")


def test_a_pattern_is_found_whatever_the_case() -> None:
    """As Python's `re` would."""
    assert Pattern(r"\bkuro\b").found_in("I am KURO.")
    assert not Pattern(r"\bkuro\b").found_in("kurosawa")


@pytest.mark.parametrize("text", ["(", "(?R)", r"\p{L}", "a**"])
def test_what_python_does_not_know_is_no_pattern(text: str) -> None:
    """So a pattern means what its writer knows."""
    with pytest.raises(ConfigurationError, match="no regular expression that can be"):
        Pattern(text)


def test_a_pattern_that_would_fill_the_memory_is_refused() -> None:
    """`regex` writes repeats out; this one once ended the process."""
    with pytest.raises(ConfigurationError, match="repeats more than 1000 times"):
        Pattern("(?:(?:ab|c){1000}){1000}")
    assert Pattern(r"\d{4}-\d{2}-\d{2}").found_in("on 2026-11-22")


def test_a_search_ends() -> None:
    """After its time, and at once when the same pattern is searched for again."""
    pattern, start = Pattern(SLOW), time.process_time()
    for _ in range(50):
        with pytest.raises(TimeoutError):
            pattern.found_in(LONG)
    assert time.process_time() - start < 20 * PATIENCE_S


@pytest.mark.parametrize("text", ["(a+)+$", SLOW, "(z|zz)+$", "(.*,){11}P"])
def test_slow_patterns_are_found_on_ordinary_text(text: str) -> None:
    """Their own letters, repeated."""
    assert slow_one(["kuro", r"\b(4|four)\b", text]) == text


def test_sound_patterns_are_not_slow() -> None:
    """However many; but they share a time."""
    many = ["kuro", "^yes", r"\.$", "[🌀-🫿]", ".*foo.*bar.*baz", r"(?:\s*\w+\s*)+:"]
    assert slow_one(many) is None
    assert slow_one([SLOW], seconds=0.0) == SLOW


@pytest.mark.parametrize("check", [Check(required=SLOW), Check(forbidden=SLOW)])
def test_an_answer_that_cannot_be_checked_does_not_follow(check: Check) -> None:
    """The gate goes on; neither side of a pattern is taken for granted."""
    feedback = Feedback("f", "r", "critique", "x", check=check)
    verifier = verifier_of(Lesson(feedback, NOBODY))
    assert verifier is not None and not verifier.follows(LONG)


def test_a_check_that_asks_for_nothing_verifies_nothing() -> None:
    """Held-out prompts alone do not say what an answer must be like."""
    feedback = Feedback("f", "r", "critique", "x", check=Check(prompts=("Hello?",)))
    assert verifier_of(Lesson(feedback, NOBODY)) is None
