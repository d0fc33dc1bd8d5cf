"""Of edits and proposals: what holds for all texts."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inf_engine.optimization.edits import (
    Edit,
    apply_edits,
    clean_proposal,
    diff_edits,
    unchanged,
)

FEW = settings(max_examples=200, deadline=None)
SENTENCES = ["Be brief.", "Be kind!", "- a", "Why? ", "{x}", "...", "  ", "é 1.5"]
GAPS = st.sampled_from([" ", "\n", "\n\n", "", "\t"])
PIECES = st.lists(st.tuples(st.sampled_from(SENTENCES), GAPS), max_size=8)
TEXTS = PIECES.map(lambda pieces: "".join(s + gap for s, gap in pieces)) | st.text(
    alphabet=" \n.!ab\r\u2028`", max_size=20
)
EDITS = st.lists(
    st.builds(Edit, TEXTS | st.sampled_from(["Be", "a", "brief."]), TEXTS), max_size=5
)


@FEW
@given(TEXTS, TEXTS)
def test_the_difference_makes_the_new_text_of_the_old(old: str, new: str) -> None:
    """Exactly, by edits of which none is refused."""
    assume(old.strip() and new.strip())
    edits = diff_edits(old, new)
    found = apply_edits(old, edits, len(edits))
    assert found.text == new
    assert found.applied == edits
    assert bool(edits) == (old != new)


@FEW
@given(TEXTS, EDITS, st.integers(0, 4))
def test_every_edit_is_made_or_refused(text: str, edits: list[Edit], most: int) -> None:
    """None is lost, no more than allowed are made, each for a reason."""
    found = apply_edits(text, edits, most)
    assert len(found.applied) <= most
    refused = [edit for edit, _ in found.refused]
    assert sorted(map(repr, found.applied + refused)) == sorted(map(repr, edits))
    assert all(why for _, why in found.refused)
    if not found.applied:
        assert found.text == text


@FEW
@given(TEXTS, EDITS)
def test_made_edits_can_be_made_again(text: str, edits: list[Edit]) -> None:
    """Those that were made stand on their own: without the others, the same text."""
    found = apply_edits(text, edits, 9)
    again = apply_edits(text, found.applied, len(found.applied))
    assert again == (found.text, found.applied, [])


@FEW
@given(TEXTS, EDITS)
def test_the_order_of_edits_only_decides_between_them(
    text: str, edits: list[Edit]
) -> None:
    """Replacements that exclude nothing are the same in every order."""
    found = apply_edits(text, [edit for edit in edits if edit.find], 9)
    turned = apply_edits(text, found.applied[::-1], 9)
    assert turned.text == found.text


@FEW
@given(TEXTS | st.text(max_size=30))
def test_a_clean_proposal_is_clean(text: str) -> None:
    """Twice is once; it is a part of the answer; there is no outer white space."""
    clean = clean_proposal(text)
    assert clean_proposal(clean) == clean == clean.strip()
    assert "".join(clean.split()) in "".join(text.split())


@FEW
@given(
    TEXTS,
    st.lists(
        st.sampled_from(
            ["`````text\n{}\n`````", "Here is the improved prompt:\n{}", " {}\n\n"]
        ),
        max_size=4,
    ),
)
def test_wrapping_is_undone(prompt: str, wrappings: list[str]) -> None:
    """Any number of layers, for texts that are clean themselves."""
    prompt = clean_proposal(prompt)
    assume(prompt and "`````" not in prompt)
    text = prompt
    for wrapping in wrappings:
        text = wrapping.replace("{}", text)
    assert unchanged(clean_proposal(text), prompt)
