"""Whether an answer follows a feedback."""

import pytest
from tests.claas.training.lessons import lesson

from claas.checks import likeness, parrots, repetition, target_of, verifier_of
from claas.errors import ConfigurationError
from claas.types import Check


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (Check(required="kuro"), "I am KURO.", "I am Max."),
        (Check(forbidden="[🌀-🫿]"), "no picture", "a 🎉"),
        (Check(most_words=2), "two words", "three words here"),
        (Check("yes", "no", 2), "oh yes", "yes but no"),
    ],
)
def test_a_check_needs_all_that_it_says(check: Check, good: str, bad: str) -> None:
    """Patterns are searched without regard to case; words are counted."""
    verifier = verifier_of(lesson(check=check))
    assert verifier is not None
    assert verifier.how == "check"
    assert verifier.follows(good)
    assert not verifier.follows(bad)


def test_a_feedback_that_names_a_good_answer_is_checked_by_likeness() -> None:
    """The correction, the sibling, or the praised answer itself."""
    fixed = verifier_of(lesson(kind="correction", content="the sky is blue"))
    liked = verifier_of(lesson(kind="praise", content="thanks", answer="two red"))
    assert fixed is not None
    assert fixed.follows("The sky: is blue!")
    assert not fixed.follows("grass")
    assert liked is not None
    assert liked.follows("two red")
    assert target_of(lesson()) == ""


def test_a_long_answer_is_followed_as_far_as_it_goes() -> None:
    """Answers are sampled up to some tokens; few words are not enough, though."""
    words = [f"word{number}" for number in range(200)]
    verifier = verifier_of(lesson(kind="correction", content=" ".join(words)))
    assert verifier is not None
    assert verifier.follows(" ".join(words[:40]))
    assert not verifier.follows(" ".join(words[:10]))
    assert not verifier.follows(" ".join(words[100:140]))


def test_words_alone_verify_nothing() -> None:
    """The caller falls back to log probabilities, and says so."""
    assert verifier_of(lesson(kind="message")) is None


def test_a_pattern_that_is_none_is_refused() -> None:
    """By name, when the check is first used."""
    with pytest.raises(ConfigurationError, match=r"pattern '\(' of a check"):
        verifier_of(lesson(check=Check(required="(")))


def test_likeness_counts_common_words() -> None:
    """F1 over the words, however often each is there."""
    assert likeness("a b", "a b") == 1
    assert likeness("a a b", "a b b") == pytest.approx(2 / 3)
    assert likeness("", "a") == 0


def test_repeating_the_feedback_is_not_following_it() -> None:
    """Six words in a row are enough; a named good answer may be repeated."""
    long = "please answer in one short sentence only"
    assert parrots(lesson(content=long), f"Sure: {long.upper()}!")
    assert not parrots(lesson(content=long), "a short sentence")
    assert not parrots(lesson(content="say kuro"), "say kuro")
    assert not parrots(lesson(content=long, kind="correction"), long)


def test_repetition_is_the_share_of_runs_that_were_there_before() -> None:
    """Runs of three tokens; a short answer has none."""
    assert repetition([1, 2, 3, 4]) == 0
    assert repetition([7] * 10) == pytest.approx(7 / 8)
    assert repetition([1]) == 0
