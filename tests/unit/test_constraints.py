"""Constraints: what a proposal must keep, and what its maker is told."""

import pytest

from inf_engine.errors import UsageError
from inf_engine.optimization.constraints import (
    Constraint,
    FrozenSpans,
    KeepsFields,
    Matches,
    MaxLength,
    Predicate,
    Violation,
    check,
)


def told(constraint: Constraint, new: str, old: str = "Old.") -> list[str]:
    """Return what one constraint says."""
    return [violation.message for violation in check([constraint], old, new)]


def test_frozen_spans_stay_character_by_character() -> None:
    """Each that is gone is named, word for word."""
    spans = FrozenSpans("Answer in JSON.", "Be safe.")
    assert told(spans, "Be brief. Answer in JSON. Be safe.") == []
    assert told(spans, "Answer in  JSON. Be safe.") == [
        'The prompt must contain, word for word: "Answer in JSON.". Put it back.'
    ]
    assert spans.rule == 'Keep, word for word: "Answer in JSON.", "Be safe.".'
    assert spans == FrozenSpans("Answer in JSON.", "Be safe.")


@pytest.mark.parametrize("texts", [(), ("",), ("a", 1)])
def test_frozen_spans_are_texts(texts: tuple[str, ...]) -> None:
    """At least one, none empty."""
    with pytest.raises(UsageError, match="FrozenSpans needs the texts that must stay"):
        FrozenSpans(*texts)


def test_a_length_is_counted_in_characters_words_or_tokens() -> None:
    """Up to the limit, included."""
    assert told(MaxLength(chars=4), "abcd") == []
    assert told(MaxLength(chars=4), "abcde") == [
        "The prompt has 5 characters; it may have 4 at most. Shorten it."
    ]
    assert told(MaxLength(words=2), "a\nb") == []
    assert told(MaxLength(words=2), "a b  c") == [
        "The prompt has 3 words; it may have 2 at most. Shorten it."
    ]
    assert told(MaxLength(tokens=2), "a" * 8) == []
    assert told(MaxLength(tokens=2), "a" * 9) == [
        "The prompt has about 3 tokens; it may have 2 at most. Shorten it."
    ]


def test_every_limit_that_is_given_holds() -> None:
    """And is told beforehand."""
    limit = MaxLength(chars=3, words=1)
    assert len(told(limit, "ab cd")) == 2
    assert limit.rule == "Write at most 3 characters and 1 words."


def test_a_length_without_a_limit_is_refused() -> None:
    """So is one that nothing fits in."""
    for limits in ({}, {"chars": 0}, {"words": 5, "tokens": -1}):
        with pytest.raises(UsageError, match="MaxLength needs chars, words or tokens"):
            MaxLength(**limits)


@pytest.mark.parametrize(
    "new", ["Use {a} and {b!r}.", "{b:>3}{a}{a}", "{{x}} {a} {b}", "{{{a}}} {b}"]
)
def test_fields_that_stay_are_fine(new: str) -> None:
    """In any order, number and format; doubled braces are text."""
    assert told(KeepsFields(), new, "First {a}, then {b}.") == []


def test_a_field_is_neither_lost_nor_added() -> None:
    """Each is named."""
    assert told(KeepsFields(), "Only {a} and {c.d}.", "First {a}, then {b}.") == [
        "The prompt lost the field {b}, which is filled in later. Put it back.",
        "The prompt has a new field {c.d}, which nobody fills in. Leave it out, or "
        "write its braces twice to mean them as text.",
    ]
    assert len(told(KeepsFields(), "{{a}} {b}", "{a} {b}")) == 1
    assert len(told(KeepsFields(), "{1}", "{0}")) == 2


@pytest.mark.parametrize("new", ['{a} as {"x": 1}', "{a} {", "{a} }"])
def test_a_template_stays_one_that_can_be_filled(new: str) -> None:
    """`str.format` would fail on it."""
    (message,) = told(KeepsFields(), new, "Use {a}.")
    assert message.startswith("The prompt has a brace that is neither of a field nor")
    assert told(KeepsFields(), '{a} as {{"x": 1}}', "Use {a}.") == []


def test_braces_of_a_text_that_is_no_template_are_text() -> None:
    """JSON in a plain prompt."""
    assert told(KeepsFields(), 'Answer {"a": {"b": 1}}.', "Answer in JSON.") == []
    assert told(KeepsFields(), 'Use {q}: {"a": 2}', '{q} as {"a": 1}') == []
    assert "{field}" in KeepsFields().rule


def test_a_pattern_matches_somewhere() -> None:
    """With a sentence of its own, or with the pattern."""
    assert told(Matches(r"JSON\b"), "Use JSON.") == []
    assert told(Matches(r"^\d"), "a1") == [
        r"The prompt must match the regular expression ^\d"
    ]
    assert told(Matches(r"^\d", "Begin with a number."), "a") == [
        "Begin with a number."
    ]
    assert Matches("a").rule == "Match the regular expression a"
    assert Matches("a", "Say a.").rule == "Say a."


def test_a_pattern_that_is_none_is_refused() -> None:
    """At once."""
    with pytest.raises(UsageError, match="pattern of Matches is no regular expression"):
        Matches("(")


def test_a_function_says_whether_a_prompt_is_fine() -> None:
    """And its message is told."""
    ascii_only = Predicate(str.isascii, "Write ASCII only.")
    assert told(ascii_only, "plain") == []
    assert told(ascii_only, "é") == [ascii_only.rule] == ["Write ASCII only."]


def test_a_function_without_words_is_refused() -> None:
    """The rewriter would have to guess."""
    for fn, message in ((str.isascii, " "), ("no function", "Write.")):
        with pytest.raises(UsageError, match="Predicate needs a function of the text"):
            Predicate(fn, message)  # ty: ignore[invalid-argument-type]


def test_a_function_that_fails_is_the_callers_fault() -> None:
    """Its error is the cause, and the prompt is not repeated."""
    with pytest.raises(UsageError, match="of a Predicate failed with ZeroDiv") as info:
        check([Predicate(lambda text: 1 / 0, "Never.")], "old", "secret")
    assert isinstance(info.value.__cause__, ZeroDivisionError)
    assert "secret" not in str(info.value)


def test_all_that_is_wrong_is_told_in_order() -> None:
    """With the kind of each."""
    found = check([MaxLength(words=1), FrozenSpans("x")], "old", "a b")
    assert [violation.constraint for violation in found] == ["MaxLength", "FrozenSpans"]
    assert str(found[0]) == found[0].message
    assert check([], "old", "a b") == []


@pytest.mark.parametrize("new", ["", " \n"])
def test_an_empty_proposal_is_always_wrong(new: str) -> None:
    """And nothing else is told."""
    wrong = Violation("NotEmpty", "The prompt is empty. Write it in full.")
    assert check([], "old", new) == check([MaxLength(chars=1)], "old", new) == [wrong]
