"""Edits: what is found and made, what is refused and why, what a proposal is."""

import pytest

from inf_engine.errors import UsageError
from inf_engine.optimization.edits import (
    Edit,
    apply_edits,
    clean_proposal,
    diff_edits,
    unchanged,
)

TEXT = "Be brief. Be kind.\nAnswer in French."


def test_edits_are_made_up_to_the_number_allowed() -> None:
    """The first ones count; the rest is refused with the number."""
    edits = [Edit("brief", "short"), Edit("kind", "polite"), Edit("French", "Dutch")]
    found = apply_edits(TEXT, edits, 2)
    assert found.text == "Be short. Be polite.\nAnswer in French."
    assert found.applied == edits[:2]
    assert found.refused == [(edits[2], "only 2 edits may be made in one step")]
    assert apply_edits(TEXT, edits, 1).refused[0][1] == (
        "only 1 edit may be made in one step"
    )


def test_no_edit_may_be_made_at_a_rate_of_zero() -> None:
    """A schedule may end there; below it nothing is defined."""
    assert apply_edits(TEXT, [Edit("brief", "short")], 0)[:2] == (TEXT, [])
    with pytest.raises(UsageError, match="most=-1: give how many edits may be made"):
        apply_edits(TEXT, [], -1)


def test_a_refused_edit_does_not_use_up_the_number() -> None:
    """The one after it is still made."""
    edits = [Edit("absent", "x"), Edit("kind", "kind"), Edit("brief", "short")]
    found = apply_edits(TEXT, edits, 1)
    assert found.applied == edits[2:]
    assert [why for _, why in found.refused] == [
        "the text that it is to replace is not in the prompt; quote it exactly",
        "it changes nothing",
    ]


def test_every_edit_means_the_text_as_it_was() -> None:
    """What another edit brings in is not found, whatever the order."""
    swap = [Edit("brief", "kind"), Edit("kind", "brief")]
    assert apply_edits("Be brief, be kind.", swap, 2).text == "Be kind, be brief."
    assert apply_edits("Be brief, be kind.", swap[::-1], 2).text == "Be kind, be brief."


@pytest.mark.parametrize(
    ("find", "times"), [("Be", 2), ("e", 3), ("aba", 2), ("Be \n", 2)]
)
def test_what_stands_at_several_places_is_refused(find: str, times: int) -> None:
    """Overlapping places count; so do those found by words only."""
    text = "ababa" if find == "aba" else "Be  brief, Be  kind."
    ((_, why),) = apply_edits(text, [Edit(find, "x")], 1).refused
    assert f"in the prompt {times} times; quote more" in why


def test_edits_of_the_same_words_exclude_each_other() -> None:
    """The first one is made; neighbours do not touch."""
    edits = [Edit("Be brief.", "Be short."), Edit("brief. Be kind", "x")]
    found = apply_edits(TEXT, edits, 2)
    assert found.applied == edits[:1]
    assert found.refused[0][1] == "it changes the same words as an edit before it"
    assert apply_edits("ab", [Edit("a", "x"), Edit("b", "y")], 2).text == "xy"


@pytest.mark.parametrize(
    ("find", "replace", "new"),
    [
        ("Be kind. Answer", "Reply", "Be brief. Reply in French."),
        ("Be   brief.\n", "Be short.\n", "Be short. Be kind.\nAnswer in French."),
        ("\n Be kind.  Answer", "\n Reply", "Be brief. Reply in French."),
    ],
)
def test_white_space_may_be_misquoted(find: str, replace: str, new: str) -> None:
    """Outside of the words nothing is added; the exact text goes first."""
    assert apply_edits(TEXT, [Edit(find, replace)], 1).text == new


def test_an_exact_quote_is_meant_exactly() -> None:
    """Though its words stand elsewhere, too."""
    text = "a b\na  b"
    assert apply_edits(text, [Edit("a  b", "c")], 1).text == "a b\nc"


@pytest.mark.parametrize(
    ("text", "addition", "new"),
    [
        ("Be brief.", "Be kind.", "Be brief. Be kind."),
        ("- a\n- b", "- c", "- a\n- b\n- c"),
        ("- a\n- b\n", "- c", "- a\n- b\n- c"),
        ("Be brief.", "\n\nBe kind.", "Be brief.\n\nBe kind."),
        ("", "Be kind.", "Be kind."),
    ],
)
def test_an_empty_find_appends(text: str, addition: str, new: str) -> None:
    """Apart from what is there, in its manner."""
    assert apply_edits(text, [Edit("", addition)], 1).text == new


def test_several_additions_come_in_their_order() -> None:
    """Beside other edits."""
    edits = [Edit("", "B."), Edit("A.", "X."), Edit("", "C.")]
    assert apply_edits("A.", edits, 3).text == "X. B. C."


@pytest.mark.parametrize(
    ("text", "find", "new"),
    [
        ("A. B. C.", "B.", "A. C."),
        ("A. B. C.", "A.", "B. C."),
        ("A. B. C.", "C.", "A. B."),
        ("- a\n- b\n- c", "- b", "- a\n- c"),
        ("A. B.\nC.", "B.", "A.\nC."),
        ("A.\nB. C.", "B.", "A.\nC."),
        ("A. B.", " B.", "A."),
        ("unkind", "un", "kind"),
        ("A.", "A.", ""),
    ],
)
def test_a_deletion_leaves_no_hole(text: str, find: str, new: str) -> None:
    """One of the two white spaces goes, too."""
    assert apply_edits(text, [Edit(find, "")], 1).text == new


def test_neighbours_can_both_be_deleted() -> None:
    """The white space between them belongs to one."""
    found = apply_edits("A. B. C. D.", [Edit("B.", ""), Edit("C.", "")], 2)
    assert found.text == "A. D."


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (Edit("", ""), "it changes nothing"),
        (Edit("", " \n"), "it adds only white space"),
        (Edit(" ", "x"), "it finds only white space"),
        (Edit("Be  brief.", "Be brief."), "it changes nothing"),
    ],
)
def test_what_is_no_change_is_refused(edit: Edit, why: str) -> None:
    """By any spelling."""
    found = apply_edits(TEXT, [edit], 1)
    assert found.refused == [(edit, why)]
    assert found.text == TEXT


def test_a_difference_is_told_by_sentences() -> None:
    """Changed, added in the middle, added at the end, deleted."""
    assert diff_edits(TEXT, TEXT) == []
    assert diff_edits(TEXT, TEXT.replace("kind", "polite")) == [
        Edit(" Be kind.", " Be polite.")
    ]
    assert diff_edits("A. C.", "A. B. C.") == [Edit("A.", "A. B.")]
    assert diff_edits("A.", "A. B.") == [Edit("", " B.")]
    assert diff_edits("A. B. C.", "A. C.") == [Edit(" B.", "")]
    assert diff_edits("", "A.") == [Edit("", "A.")]


def test_a_difference_can_be_found_where_sentences_repeat() -> None:
    """Each find occurs once, by as many neighbours as that takes."""
    old = "Check it. Then go. Check it. Then go. Stop."
    new = "Check it. Then go. Check it. Then run. Stop."
    edits = diff_edits(old, new)
    assert [old.count(edit.find) for edit in edits] == [1]
    assert apply_edits(old, edits, 9).text == new


def test_a_proposal_may_be_the_old_text() -> None:
    """White space aside."""
    assert unchanged("Be brief.\n\nBe kind.", " Be brief. Be kind.\n")
    assert not unchanged("Be brief.", "Be Brief.")


PROMPT = "Answer the question.\n\nBe brief."
FENCED = 'Answer in JSON:\n```json\n{"a": 1}\n```\nNothing else.'


@pytest.mark.parametrize("prompt", [PROMPT, FENCED, "Be brief.", 'Say "yes" or "no".'])
@pytest.mark.parametrize(
    "wrapped",
    [
        "{}",
        "\n\n{}  \n",
        "```\n{}\n```",
        "```text\n{}\n```",
        "~~~\n{}\n~~~",
        "````markdown\n{}\n````",
        "Here is the improved prompt:\n\n{}",
        "Sure! Here's the revised prompt:\n{}",
        "Here is my improved version of the prompt:\n```\n{}\n```",
        "Certainly, here is a new system prompt:\n```\n{}\n```\n\nI made it shorter.",
        "Improved prompt:\n{}",
        "**Improved Prompt:**\n\n{}",
        "## Revised instructions\n\n{}",
        "Improved prompt: {}",
        "Here is the prompt:\n```\n{}\n```",
        '"""\n{}\n"""',
        "\u201c{}\u201d",
        "<improved_prompt>\n{}\n</improved_prompt>",
        "<prompt>{}</prompt>",
        "Here is the updated prompt:\n\n<prompt>\n```\n{}\n```\n</prompt>",
    ],
)
def test_a_proposal_is_unwrapped(prompt: str, wrapped: str) -> None:
    """Whatever is around all of it goes; what is inside of it stays."""
    assert clean_proposal(wrapped.replace("{}", prompt)) == prompt


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_around_all_of_it_go(quote: str) -> None:
    """If there are no others inside."""
    assert clean_proposal(f"{quote}{PROMPT}{quote}") == PROMPT


@pytest.mark.parametrize(
    "prompt",
    [
        FENCED,
        "```\nfirst\n```\nbecomes\n```\nsecond\n```",
        '```json\n{"a": 1}\n```\nis how to answer.',
        "How to answer:\n```\nyes\n```",
        '"yes" or "no"',
        "'Tis brief, isn't it'",
        '"',
        '""',
        "Here is the question:\n{question}\nAnswer it.",
        "Here is the input:\n```\n{input}\n```\nSummarise it.",
        "Here is the prompt:\n```\n{prompt}\n```\nRate it.",
        "Here are the instructions:\n1. Be brief.",
        "Prompt: {prompt}",
        "Improve the prompt:\n{prompt}",
        "Improved prompts are short.",
        "The following is new.",
        "New instructions: be brief.",
        "# Task\nBe brief.",
        "<question>{question}</question>",
        "<prompt>a</prompt> and <prompt>b</prompt>",
        "```",
        "```\nnever closed",
        "Use `x`.",
        "```inline``` and ```inline```",
    ],
)
def test_a_prompt_that_only_looks_wrapped_stays(prompt: str) -> None:
    """Where it cannot be told, nothing is taken off."""
    assert clean_proposal(prompt) == prompt


def test_what_the_old_text_has_itself_is_no_wrapping() -> None:
    """Such a prompt is proposed in the same form."""
    old = "```\nBe brief.\n```"
    assert clean_proposal("```\nBe kind.\n```", old) == "```\nBe kind.\n```"
    old = "Here is the improved prompt:\n{prompt}\nRate it."
    new = "Here is the improved prompt:\n{prompt}\nRate it from 1 to 5."
    assert clean_proposal(new, old) == new
    assert clean_proposal(f"```\n{new}\n```", old) == new


@pytest.mark.parametrize(
    "answer", ["", "  \n", "```\n```", "Here is the improved prompt:", "```text\n\n```"]
)
def test_an_answer_without_a_prompt_is_empty(answer: str) -> None:
    """So that the caller can refuse it."""
    assert clean_proposal(answer) == ""
