"""`Pruning`: facts about which sentence is left out, and where that is tested."""

from inf_engine.optimization.pruning import Pruning, without
from inf_engine.optimization.relevance import Relevance
from inf_engine.optimization.search import Candidate

GIFTS, GLASS = "Gifts get a ribbon.", "Glass is not padded."
START = Candidate({"desk": f"Work.\n- {GIFTS}\n- {GLASS}", "till": f"Bill. {GLASS}"})


def pruning(most: int = 8) -> Pruning:
    """Ten orders: gifts on even places, glass on odd ones."""
    relevance = Relevance()
    for place in range(10):
        relevance.add(place, ["glass, please" if place % 2 else "gifts, please"])
    return Pruning(relevance, ["desk", "till"], most)


def scored(*wrong: int) -> dict[int, float]:
    """The scores of ten examples."""
    return {place: float(place not in wrong) for place in range(10)}


def test_a_sentence_about_what_goes_wrong_is_suspect() -> None:
    """It is left out of all texts, and tested on what it is about."""
    cut = pruning().harmful(START, scored(1, 3, 5, 4))
    assert cut is not None
    assert cut.sentences == (GLASS,) and cut.must_gain
    assert cut.candidate.values == {"desk": f"Work.\n- {GIFTS}", "till": "Bill."}
    assert (list(cut.first), list(cut.then)) == ([1, 3, 5], [7, 9])


def test_few_mistakes_make_no_suspect() -> None:
    """One is none, fewer than half are none, nor as many as everywhere."""
    assert pruning().harmful(START, scored(1)) is None
    assert pruning().harmful(START, scored(1, 3)) is None
    assert pruning().harmful(START, scored(*range(10))) is None
    assert pruning().harmful(START, {}) is None


def test_each_is_tried_once_in_one_candidate() -> None:
    """In another candidate, again."""
    cuts, scores = pruning(), scored(1, 3, 5)
    assert cuts.harmful(START, scores) is not None
    assert cuts.harmful(START, scores) is None
    assert cuts.harmful(START.with_values({"till": "Bill it."}), scores) is not None


def test_no_more_examples_than_allowed_and_no_first_sentence() -> None:
    """The first one says what a text is for; what is no text is left alone."""
    cut = pruning(most=2).harmful(START, scored(1, 3, 5))
    assert cut is not None and [*cut.first, *cut.then] == [1, 3]
    alone = Candidate({"desk": GLASS, "till": 3})
    assert pruning().harmful(alone, scored(1, 3, 5)) is None
    assert without("Glass. Glass. - Glass. Gift.", {"Glass."}) == "Glass. Gift."
