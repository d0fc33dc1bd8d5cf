"""`Relevance`: facts about which examples a sentence is about."""

from inf_engine.optimization.relevance import Relevance


def known() -> Relevance:
    """Four orders."""
    relevance = Relevance()
    for place, text in enumerate(
        (
            "An order from Graz. It is a gift.",
            "An order from Porto. A part is of glass.",
            "An order from Turku. It is a gift, of glass.",
            "An order from Lyon.",
        )
    ):
        relevance.add(place, [text])
    return relevance


def test_rare_words_tell_what_a_sentence_is_about() -> None:
    """Those that all examples have say nothing, and nothing shared is nothing."""
    relevance = known()
    assert relevance.about("Wrap the order if it is a gift.", range(4)) == [0, 2]
    assert relevance.about("Write to Lyon at once, an order.", range(4)) == [3]
    assert relevance.about("Answer in French.", range(4)) == []
    assert relevance.about("An order from somewhere.", range(4)) == []
    assert relevance.about("A gift?", []) == relevance.about("", range(4)) == []


def test_what_is_said_of_an_example_later_is_added() -> None:
    """The feedback on one of its runs, and what is no text."""
    relevance = known()
    relevance.add(3, ["A voucher is missing.", 17])
    assert relevance.about("Take the voucher.", range(4)) == [3]
    assert relevance.about("At most 17 a day.", range(4)) == [3]
    assert relevance.about("At most 18 day trips.", range(4)) == []


def test_the_sentences_choose_in_turn_and_the_rest_fills_up() -> None:
    """Each its best example, none twice, no more than asked for."""
    relevance = known()
    told = ["Wrap a gift.", "Pad the glass.", "Answer in French."]
    assert relevance.chosen(told, [3, 2, 1, 0], 2) == [2, 1]
    assert relevance.chosen(told, [3, 2, 1, 0], 9) == [2, 1, 0, 3]
    assert relevance.chosen([], [3, 1], 1) == [3]
    assert relevance.chosen(told, [], 4) == []
