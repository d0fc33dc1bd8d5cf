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


IDLE = Candidate(
    {"desk": f"Work. Be so kind. {GIFTS} {GLASS} Enjoy it.", "till": "Bill. Smile."}
)


def test_what_no_example_has_a_word_of_is_idle() -> None:
    """A quarter of the sentences at a time, those that are covered least first."""
    cut = pruning(most=4).idle(IDLE, scored())
    assert cut is not None and not cut.must_gain
    assert cut.sentences == ("Be so kind.",)
    assert cut.candidate.values["desk"] == f"Work. {GIFTS} {GLASS} Enjoy it."
    assert (len(cut.first), len(cut.then)) == (4, 4)


def test_two_that_were_missed_are_enough() -> None:
    """Until there are new sentences; a group is halved first."""
    cuts, scores = pruning(), scored()
    for sentence in ("Be so kind.", "Enjoy it."):
        cut = cuts.idle(IDLE, scores)
        assert cut is not None and cut.sentences == (sentence,)
        cuts.missed(cut)
    assert cuts.idle(IDLE, scores) is None
    more = IDLE.with_values({"till": "Bill. Smile. Wave. Bow. Nod. Wink."})
    cut = cuts.idle(more, scores)
    assert (
        cut is not None and cut.sentences == ("Smile.", "Wave.")[: len(cut.sentences)]
    )
    many = IDLE.with_values({"till": " ".join(f"Say {n}." for n in range(9))})
    group = cuts.idle(many, scores)
    assert group is not None and len(group.sentences) == 2
    cuts.missed(group)
    half = cuts.idle(many, scores)
    assert half is not None and half.sentences == group.sentences[:1]
    assert cuts.idle(IDLE, {}) is None
