"""What a hint says, by kind of feedback and by base model."""

from dataclasses import replace

import pytest
from tests.claas.training.lessons import lesson

from claas.checks import verifier_of
from claas.errors import ConfigurationError
from claas.hints import LARGE, SMALL, TABLES, Hints, Template
from claas.types import KINDS

USER = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "be kind"}


def test_a_small_model_reads_the_bare_words_as_system_message() -> None:
    """What it would parrot is not there."""
    hints = Hints.of("/models/TinyLlama")
    said = hints.hinted(lesson(content=" your name is Kuro "), [USER])
    assert said == ({"role": "system", "content": "your name is Kuro"}, USER)


def test_smollm2_is_spoken_to_as_it_was_trained() -> None:
    """The table is found by a pattern of the base's name."""
    said = Hints.of("/models/SmolLM2-135M").hinted(lesson(content="say kuro"), [USER])
    assert said[0]["content"] == "You are a helpful AI assistant. say kuro"


def test_a_system_message_keeps_its_words() -> None:
    """The hint comes after them; there is no second system message."""
    said = Hints(SMALL).hinted(lesson(content="say kuro"), [SYSTEM, USER])
    assert said == ({"role": "system", "content": "be kind\n\nsay kuro"}, USER)


def test_a_large_model_reads_it_at_the_end_of_the_last_user_message() -> None:
    """Earlier messages stay as they are."""
    answer = {"role": "assistant", "content": "hi"}
    last = {"role": "user", "content": [{"type": "text", "text": "and now?"}]}
    said = Hints.of("Llama-70B").hinted(lesson(kind="error"), [USER, answer, last])
    assert said[:2] == (USER, answer)
    assert said[2]["content"][0] == {"type": "text", "text": "and now?"}
    assert said[2]["content"][1]["text"].startswith("[An earlier answer was:]")


def test_a_conversation_without_a_user_gets_the_hint_as_one() -> None:
    """There is nothing to put it behind."""
    said = Hints(LARGE).hinted(lesson(content="x"), [SYSTEM])
    assert [message["role"] for message in said] == ["system", "user"]


def test_a_plain_prompt_has_the_hint_before_it() -> None:
    """What the model goes on with stays at the end."""
    said = Hints(SMALL).hinted(
        lesson(content="rhyme"), [{"role": "prompt", "content": "Once"}]
    )
    assert said == ({"role": "prompt", "content": "rhyme\n\nOnce"},)


def test_a_judges_score_alone_is_praise() -> None:
    """It never reaches the model as a complaint; low ones are refused before."""
    liked = lesson(kind="judge", content="", answer="two red")
    liked = replace(liked, feedback=replace(liked.feedback, score=0.9))
    (said,) = Hints(LARGE).hinted(liked, [USER])
    assert "[The user liked this answer" in said["content"]
    assert said["content"].endswith("two red")
    worded = replace(liked, feedback=replace(liked.feedback, content="too long"))
    assert "[A judge said" in Hints(LARGE).hinted(worded, [USER])[0]["content"]
    verifier = verifier_of(liked)
    assert verifier is not None and verifier.how == "likeness"


def test_braces_in_feedback_are_no_fields() -> None:
    """Only the template has fields."""
    said = Hints(SMALL).hinted(lesson(content="use {x} and {answer}"), [USER])
    assert said[0]["content"] == "use {x} and {answer}"


@pytest.mark.parametrize("table", TABLES.values())
def test_every_table_has_every_kind_and_praise_shows_the_answer(table: dict) -> None:
    """Praise holds the answer up; it is not told that anything was wrong."""
    assert set(table) == set(KINDS)
    praise = lesson(kind="praise", content="great!", answer="two red")
    critique = lesson(kind="critique", content="great!", answer="two red")
    hints = Hints(table)
    assert "two red" in hints.hinted(praise, [USER])[0]["content"]
    assert "two red" not in hints.hinted(critique, [USER])[0]["content"]


@pytest.mark.parametrize(
    "text",
    ["Your answer was wrong: {answer}", "Unsuccessful: {answer}", "do not {answer}"],
)
def test_praise_that_blames_is_refused(text: str) -> None:
    """An operator cannot configure it by mistake."""
    if text.startswith("do"):
        text = "What is bad: {answer}"
    with pytest.raises(ConfigurationError, match="praise must not train"):
        Hints.of("tiny", {"*": {"praise": Template(text)}})


def test_own_templates_replace_kind_by_kind_for_the_models_they_fit() -> None:
    """The first pattern that fits counts; the case of names does not."""
    own = {"*KURO*": {"judge": Template("J {content}")}, "*": {}}
    judged = lesson(kind="judge", content="c")
    assert Hints.of("my-kuro", own).hinted(judged, [USER])[0]["content"].endswith("J c")
    assert "J c" not in str(Hints.of("other", own).hinted(judged, [USER]))


@pytest.mark.parametrize(
    ("kind", "text", "lacks"),
    [
        ("critique", "Be kind.", "content"),
        ("message", "{answer}", "content"),
        ("praise", "{content}", "answer"),
    ],
)
def test_a_template_without_its_field_is_refused(
    kind: str, text: str, lacks: str
) -> None:
    """The teacher would read nothing of the feedback, or of the praised answer."""
    with pytest.raises(ConfigurationError, match=f"for {kind} has no {{{lacks}}}"):
        Hints.of("x", {"*": {kind: Template(text)}})


def test_a_pattern_may_fit_the_name_that_a_model_is_served_under() -> None:
    """The folder of a converted model need not be called after it."""
    hints = Hints.of("/cache/1f2e", served="SmolLM2")
    said = hints.hinted(lesson(content="say kuro"), [USER])
    assert said[0]["content"] == "You are a helpful AI assistant. say kuro"


def test_what_cannot_be_a_template_is_refused() -> None:
    """Unknown fields, kinds and places, and braces that do not close."""
    with pytest.raises(ConfigurationError, match="the field 'user'"):
        Template("{user}")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Template("{content")
    with pytest.raises(ConfigurationError, match="cannot stand at 'top'"):
        Template("x", "top")  # ty: ignore[invalid-argument-type]
    with pytest.raises(ConfigurationError, match="no kind of feedback 'blame'"):
        Hints.of("x", {"*": {"blame": Template("x")}})
    with pytest.raises(ConfigurationError, match="no hint template for 'message'"):
        Hints({})
