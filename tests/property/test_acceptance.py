"""Of tests and intervals: what holds for all scores."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inf_engine.optimization.acceptance import (
    Gate,
    SequentialTest,
    accept,
    sign_flip_p,
)
from inf_engine.optimization.intervals import mean_interval, paired_interval

FEW = settings(max_examples=150, deadline=None)
SCORES = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1.0]), max_size=30)
DIFFERENCES = st.lists(
    st.floats(-1, 1) | st.sampled_from([-1.0, 0.0, 1.0]), max_size=30
)
PAIRS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=20)


@FEW
@given(SCORES, st.floats(0.01, 0.99), st.randoms())
def test_an_interval_is_on_the_scale_and_around_the_mean(
    scores: list[float], confidence: float, chance: random.Random
) -> None:
    """For any scores at any confidence, in any order."""
    found = mean_interval(scores, confidence)
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0
    chance.shuffle(scores)
    again = mean_interval(scores, confidence)
    assert (again.low, again.high) == pytest.approx((found.low, found.high))


@FEW
@given(DIFFERENCES)
def test_a_paired_interval_turns_around_with_its_differences(ds: list[float]) -> None:
    """Who wins is a name."""
    found, turned = paired_interval(ds), paired_interval([-d for d in ds])
    assert -1.0 <= found.low <= found.mean <= found.high <= 1.0
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


@FEW
@given(DIFFERENCES)
def test_a_race_turns_around_with_its_differences(ds: list[float]) -> None:
    """Better and worse are judged by the same measure."""
    one, other = SequentialTest(), SequentialTest()
    for d in ds:
        one.observe(d)
        other.observe(-d)
    assert one.evidence == pytest.approx(other.evidence[::-1])
    names = {"better": "worse", "worse": "better", "undecided": "undecided"}
    assert other.verdict == names[one.verdict]


@FEW
@given(DIFFERENCES, st.randoms())
def test_the_order_moves_only_the_moment(
    ds: list[float], chance: random.Random
) -> None:
    """The capital at the end is the same for every order."""
    one, other = SequentialTest(), SequentialTest()
    for d in ds:
        one.observe(d)
    chance.shuffle(ds)
    for d in ds:
        other.observe(d)
    assert one.evidence == pytest.approx(other.evidence)


@FEW
@given(DIFFERENCES)
def test_a_p_value_is_one(ds: list[float]) -> None:
    """A chance; both sides together hold every sum, the one in the middle twice."""
    p, turned = sign_flip_p(ds), sign_flip_p([-d for d in ds])
    assert 0.0 < p <= 1.0
    assert p + turned >= 1.0 - 1e-9


@FEW
@given(PAIRS)
def test_who_improves_is_not_worse(pairs: list[tuple[float, float]]) -> None:
    """The rules are in order, and nobody beats himself."""
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    if accept(before, after).accepted:
        assert accept(before, after, rule="not worse").accepted
        assert not accept(after, before, rule="not worse").accepted
    assert not accept(before, before).accepted
    assert not Gate("significant").judge(before, before).accepted
