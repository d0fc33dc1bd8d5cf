"""Which notes say the same, and what is remembered of them."""

import json

import pytest

from inf_engine.optimization.instructions import Instructions, alike
from inf_engine.optimization.notes import Evidence, Note
from inf_engine.optimization.search import Change

NAMED = "Your name is Kuro."


def said(
    content: str, answer: str = "r1", score: float = 0.0, target: str = ""
) -> Note:
    """A note on one answer of a model."""
    call = Evidence(0, "answer#1", "model", answer=answer)
    return Note(content, score, evidence=(call,))


def heard(*steps: list[Note], recurring: int = 2) -> Instructions:
    """What is remembered after some steps."""
    found = Instructions(recurring, alike)
    for notes in steps:
        found.hear(notes, 1.0)
    return found


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (NAMED, NAMED, True),
        (NAMED, "always say that your NAME is Kuro!", True),
        (NAMED, "Introduce yourself as Kuro.", False),
        ("It is too long.", "It is too short.", False),
        ("It is too long.", "This answer was too long", True),
        ("Use emoji.", "Do not use emoji.", False),
        ("Don't use emoji.", "Never use emoji!", True),
        ("Be kind.", "Be brief.", False),
        ("Is it you?", "Is it you", True),
        ("Paris, not Rome", "Berlin, not Bonn", False),
        ("短く答えて", "短く答えて", True),
        ("!", "?", False),
    ],
)
def test_words_decide_what_is_the_same(one: str, other: str, same: bool) -> None:
    """Small words do not count, a no does; order and marks do not matter."""
    assert alike(one, other) is same
    assert alike(other, one) is same


def test_an_instruction_counts_once_a_step() -> None:
    """However often it was said in it, and of however many answers."""
    found = heard([said(NAMED, "r1"), said("Say your name is Kuro", "r2")])
    [one] = found.known
    assert (one.text, one.times) == (NAMED, 1)
    assert [lesson.receipt for lesson in one.lessons] == ["r1", "r2"]
    assert found.due() == []
    found.hear([said(NAMED, "r3")], 1.0)
    assert found.due() == [one]


def test_without_an_answer_that_is_known_there_is_nothing_to_send() -> None:
    """The call failed, say: it counts, and waits."""
    found = heard([said(NAMED, "")], [said(NAMED, "")], [said("  ", "r1")])
    assert ([one.times for one in found.known], found.due()) == ([2], [])


def test_the_newest_are_kept() -> None:
    """Of instructions, of lessons about one, and of praise."""
    words = [json.dumps([number]) for number in range(80)]
    found = heard(*[[said(word, word)] for word in words])
    assert [one.text for one in found.known] == words[-64:]
    found = heard([said(NAMED, word) for word in words])
    assert [lesson.receipt for lesson in found.known[0].lessons] == words[-64:]
    found = heard([said("Good.", word, 1.0) for word in words])
    assert [lesson.receipt for lesson in found.praise] == words[-8:]


def test_an_instruction_that_is_said_is_kept_longer() -> None:
    """The one that was not said for the longest time goes."""
    others = [[said(json.dumps([number]))] for number in range(63)]
    found = heard([said(NAMED)], *others, [said(NAMED)], [said("Be kind.")])
    assert [one.times for one in found.known if one.text == NAMED] == [2]
    assert len(found.known) == 64


def test_a_new_sentence_belongs_to_the_instruction_it_is_like() -> None:
    """Or to the only one; what it shares no word with is nobody's."""
    found = Instructions(2, alike)
    both = found.hear([said(NAMED), said("It is too long.")], 1.0)
    after = "Hi. Avoid a long reply. You are called Kuro. Smile."
    found.credit(both, [Change("rules", "Hi.", after)])
    assert [one.sentences for one in both] == [
        ["You are called Kuro."],
        ["Avoid a long reply."],
    ]
    [alone] = found.hear([said(NAMED)], 1.0)
    found.credit([alone], [Change("rules", "Hi.", "Hi. Smile.")])
    assert alone.sentences == ["You are called Kuro.", "Smile."]


def test_a_sentence_in_place_of_another_is_nobodys() -> None:
    """What the old one said would go with it."""
    found = Instructions(2, alike)
    both = found.hear([said(NAMED)], 1.0)
    found.credit(both, [Change("rules", "Hi. Smile.", "Hi. Smile as Kuro.")])
    assert both[0].sentences == []


def test_only_what_was_sent_leaves_the_prompts() -> None:
    """By its words, or by what it brought into them."""
    found = heard([said(NAMED), said("It is too long.")])
    found.known[0].sentences = ["Smile."]
    prompt = ["Call me Kuro.", "Smile.", "Be not too long."]
    assert found.said_by(prompt) == []
    found.sent(found.known[:1])
    assert found.known[0].lessons == []
    assert found.said_by(prompt) == ["Smile."]
    assert found.said_by([*prompt, "Your name: Kuro"]) == ["Smile.", "Your name: Kuro"]
