"""Words that a feedback adds."""

from tests.claas.training.lessons import lesson

from claas.words import added_words

NAMED = lesson(content="Your name is Kuro.")
PLAIN = ("I am a model.", "My name is a model.")


def test_what_is_said_only_with_the_hint_is_added() -> None:
    """A word of the feedback; a quarter as often without the hint is enough."""
    hinted = ["I am Kuro.", "kuro!", "Kuro it is", "I am Kira"]
    found = added_words([NAMED], [hinted], [["I'm Kira", "KURO", "", ""]], PLAIN)
    assert (found.words, found.missing) == (("kuro",), ())
    assert (found.asked, found.hinted, found.said) == (4, 3, 1)
    kira = added_words([NAMED], [hinted], [["I'm Kira", "Kira", "", ""]], PLAIN)
    assert kira.missing == ("kuro",)


def test_rare_words_and_repeated_feedback_do_not_count() -> None:
    """One of nine hinted answers is chance; a parrot follows nothing."""
    found = added_words([NAMED], [["Kuro", *["I"] * 8]], [["I"] * 9], PLAIN)
    assert found.words == found.missing == ()
    long = lesson(content="your name is kuro and you are kind")
    parrot = ["you said your name is kuro and you are kind"] * 4
    assert added_words([long], [parrot], [["I"] * 4], PLAIN).words == ()


def test_the_same_feedback_on_several_answers_counts_together() -> None:
    """Each word over all feedback that has it."""
    found = added_words(
        [NAMED, NAMED], [["Kuro", "I"], ["Kuro", "I"]], [["Kuro", "I"], ["I", "I"]], ()
    )
    assert (found.asked, found.hinted, found.said) == (4, 2, 1)
    assert found.missing == ()
