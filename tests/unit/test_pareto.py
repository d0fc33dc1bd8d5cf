"""The pool of an evolution, who is best on what, crossing, and estimates."""

import random

import pytest

from inf_engine.optimization.pareto import (
    Member,
    Pool,
    ancestors,
    common_ancestor,
    merge,
    merge_texts,
)
from inf_engine.optimization.racing import Entry, Race, estimate
from inf_engine.optimization.search import Candidate


def member(
    name: str, scores: dict[int, float] | None = None, *parents: Member
) -> Member:
    """A member whose only value is its name."""
    return Member(Candidate({"text": name}), parents, scores or {})


def pool_of(*members: Member) -> Pool:
    pool = Pool()
    for each in members:
        pool.add(each)
    return pool


def names(members: list[Member]) -> list[str]:
    return [each.candidate.values["text"] for each in members]


def test_the_only_one_that_is_right_on_an_example_stays_on_the_front() -> None:
    """A specialist is a parent though its mean is lower."""
    special = member("special", {0: 1.0, 1: 0.0, 2: 0.0})
    broad = member("broad", {0: 0.0, 1: 1.0, 2: 1.0})
    weights = pool_of(special, broad).weights()
    assert weights == {special: 1.0, broad: 2.0}


def test_one_that_is_best_only_where_a_better_one_is_too_is_left_out() -> None:
    """What is covered by another one is no parent."""
    worse, better = member("w", {0: 1.0, 1: 0.0}), member("b", {0: 1.0, 1: 1.0})
    assert list(pool_of(better, worse).weights()) == [better]


def test_of_two_that_are_equal_the_later_one_stays() -> None:
    """Ties go to the child, so that a search moves on."""
    first, second = member("1", {0: 1.0, 1: 0.0}), member("2", {0: 1.0, 1: 0.0})
    assert list(pool_of(first, second).weights()) == [second]


def test_examples_on_which_several_are_best_count_in_parts() -> None:
    """Two that share an example have half of it each."""
    one, two = member("1", {0: 1.0, 1: 1.0, 2: 0}), member("2", {0: 1.0, 1: 0, 2: 1.0})
    assert pool_of(one, two).weights() == {one: 1.5, two: 1.5}


def test_who_was_not_run_counts_where_it_is_thought_to_be_as_good() -> None:
    """A short race does not keep a strong child from being a parent."""
    old, new = member("old", {0: 1.0, 1: 1.0, 2: 1.0}), member("new", {0: 1.0})
    pool = pool_of(old, new)
    assert list(pool.weights()) == [old]
    assert list(pool.weights({old: 0.5, new: 0.7})) == [new]
    assert list(pool.weights({old: 0.7, new: 0.5})) == [old]


def test_parents_are_drawn_from_the_front_only_and_by_their_weight() -> None:
    """Dominated candidates are never drawn; sharpness favours the heavy ones."""
    dominated = member("d", {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0})
    special = member("s", {0: 1.0, 1: 0.0, 2: 0.0, 3: 0.0})
    broad = member("b", {0: 0.0, 1: 1.0, 2: 1.0, 3: 1.0})
    pool = pool_of(dominated, special, broad)
    rng = random.Random(1)
    plain = names([pool.draw(rng) for _ in range(400)])
    sharp = names([pool.draw(rng, 3.0) for _ in range(400)])
    assert set(plain) == {"s", "b"}
    assert 60 < plain.count("s") < 140
    assert 5 < sharp.count("s") < 40


def test_a_draw_follows_from_the_seed() -> None:
    """Equal seeds draw equal parents."""
    pool = pool_of(member("1", {0: 1.0, 1: 0.0}), member("2", {0: 0.0, 1: 1.0}))
    draws = [[pool.draw(random.Random(s)) for s in range(20)] for _ in range(2)]
    assert names(draws[0]) == names(draws[1])
    assert len(set(names(draws[0]))) == 2


def test_without_any_score_the_newest_is_drawn() -> None:
    """There is a parent before there are scores."""
    pool = pool_of(member("1"), member("2"))
    assert names([pool.draw(random.Random(0))]) == ["2"]
    with pytest.raises(IndexError):
        Pool().draw(random.Random(0))


def test_a_pool_finds_what_it_has() -> None:
    """Candidates are found by their values."""
    held = member("x")
    pool = pool_of(held)
    assert pool.find(Candidate({"text": "x"})) is held
    assert pool.find(Candidate({"text": "y"})) is None
    assert len(pool) == 1


def test_a_mean_of_few_scores_is_drawn_towards_the_prior() -> None:
    """Two right answers are no proof."""
    assert member("x", {0: 1.0, 1: 1.0}).shrunk(0.5, 2.0) == 0.75


def test_the_common_ancestor_is_the_nearest_one() -> None:
    """Also if one comes from the other, or from a cross."""
    root = member("root")
    left, right = member("l", {}, root), member("r", {}, root)
    cross = member("x", {}, left, right)
    assert common_ancestor(left, right) is root
    assert common_ancestor(cross, right) is right
    assert common_ancestor(root, member("other")) is None
    assert names(ancestors(cross)) == ["x", "l", "r", "root"]


def test_a_cross_takes_each_value_from_the_parent_that_changed_it() -> None:
    """By component; what neither changed stays."""
    base = {"a": "A", "b": "B", "c": "C"}
    sides = [{**base, "a": "A2"}, {**base, "b": "B2"}]
    assert merge(base, sides) == {"a": "A2", "b": "B2", "c": "C"}


def test_texts_that_both_changed_are_put_together_by_sentence() -> None:
    """Additions of both, deletions of each, what is said twice only once."""
    base = "You pack.\n- A.\n- B."
    one = "You pack.\n- A.\n- B.\n- C.\n- D."
    two = "You pack.\n- B.\n- D.\n- E."
    assert merge_texts(base, [one, two]) == "You pack.\n- B.\n- C.\n- D.\n- E."


def test_where_both_changed_the_same_words_the_first_one_counts() -> None:
    """A conflict is decided, not glued together."""
    merged = merge_texts(
        "Be brief. Be kind.", ["Be short. Be kind.", "Be long. Be kind."]
    )
    assert merged == "Be short. Be kind."


def test_values_that_are_no_texts_are_taken_from_the_first_that_changed_them() -> None:
    """Numbers and choices have no sentences."""
    base = {"n": 1, "m": 1}
    assert merge(base, [{"n": 1, "m": 2}, {"n": 3, "m": 3}]) == {"n": 3, "m": 2}


def test_a_merge_never_gives_an_empty_text() -> None:
    """Of two that delete different halves the first is taken."""
    assert merge_texts("A a. B b.", ["A a.", "B b."]).strip()


def test_an_estimate_does_not_crown_the_lucky() -> None:
    """Right on two examples is less than right on nearly all of forty."""
    weak = Entry({n: float(n % 2) for n in range(40)})
    lucky = Entry({1: 1.0, 3: 1.0}, [0])
    good = Entry({n: float(n % 10 != 0) for n in range(40)}, [0])
    strengths = estimate([weak, lucky, good])
    assert strengths[0] < strengths[1] < strengths[2]


def test_an_estimate_allows_for_hard_examples() -> None:
    """Equal means, but one was run where everybody fails."""
    base = Entry({n: float(n < 20) for n in range(40)})
    easy = Entry({n: float(n < 9) for n in range(10)}, [0])
    hard = Entry({n: float(n < 29) for n in range(20, 30)}, [0])
    strengths = estimate([base, easy, hard])
    assert strengths[2] > strengths[1]


def test_an_estimate_without_scores_is_the_parents() -> None:
    """A child that was never run is as good as what it comes from."""
    parent, child = estimate([Entry(dict.fromkeys(range(30), 1.0)), Entry({}, [0])])
    assert child == pytest.approx(parent, abs=1e-2)


def test_a_race_that_is_lost_says_so_and_ties_go_on() -> None:
    """Only examples that both were run on count, each once."""
    best = dict.fromkeys(range(8), 1.0)
    lost, tied = Race(), Race()
    assert lost.observe(best, dict.fromkeys(range(8), 0.0)) == "worse"
    assert tied.observe(best, dict.fromkeys(range(12), 1.0)) == "undecided"
    assert tied.observe(best, dict.fromkeys(range(12), 1.0)) == "undecided"
    assert (lost.n, tied.n) == (8, 8)
