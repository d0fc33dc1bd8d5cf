"""Intervals: the published figures, the edges of the scale, and how often they hold."""

import math
import random
from collections.abc import Callable

import pytest

from inf_engine.errors import UsageError
from inf_engine.optimization.intervals import (
    Interval,
    mean_interval,
    paired_interval,
)

Draw = Callable[[random.Random], float]


def test_zero_and_one_scores_have_the_interval_of_wilson() -> None:
    """8 of 10, computed by hand from the formula of 1927."""
    found = mean_interval([1] * 8 + [0] * 2)
    assert found.mean == 0.8
    assert (found.low, found.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert (found.n, found.confidence) == (10, 0.95)


def test_paired_differences_have_the_interval_of_bonett_and_price() -> None:
    """Computed by hand: (3 - 1) / 22 plus or minus z sqrt((6/22 - (2/22)^2) / 22)."""
    found = paired_interval([1] * 3 + [-1] * 1 + [0] * 16)
    half = 1.959963985 * math.sqrt((6 / 22 - (2 / 22) ** 2) / 22)
    assert (found.low, found.high) == pytest.approx((2 / 22 - half, 2 / 22 + half))
    assert found.mean == 0.1


def test_no_scores_say_that_nothing_is_known() -> None:
    """The whole scale and its middle, and the text says so."""
    assert mean_interval([]) == Interval(0.5, 0.0, 1.0, 0)
    assert paired_interval([]) == Interval(0.0, -1.0, 1.0, 0)
    assert str(mean_interval([])) == "no scores"


@pytest.mark.parametrize("score", [0.0, 0.7, 1.0, True])
def test_one_score_says_little(score: float) -> None:
    """The interval of one score covers most of the scale, and holds the score."""
    found = mean_interval([score])
    assert found.width > 0.75
    assert score in found


@pytest.mark.parametrize("score", [0.0, 0.3, 0.5, 1.0])
def test_equal_scores_leave_something_to_learn(score: float) -> None:
    """Eight equal scores have no spread, and still no interval without width."""
    assert mean_interval([score] * 8).width > 0.2
    assert paired_interval([0.0] * 8).width > 0.5


def test_more_scores_and_less_confidence_make_it_narrower() -> None:
    """As they should."""
    few, many = mean_interval([0.2, 0.9] * 5), mean_interval([0.2, 0.9] * 50)
    assert many.width < few.width
    assert mean_interval([0.2, 0.9] * 5, 0.8).width < few.width
    assert mean_interval([0.2, 0.9] * 5, 0.8).confidence == 0.8


def test_it_reads_as_a_sentence() -> None:
    """Mean, ends, number."""
    assert str(mean_interval([1, 1, 0, 1])) == "0.750 [0.301, 0.954], n=4"


DRAWS: dict[str, tuple[Draw, float]] = {
    "even": (lambda r: r.random(), 0.5),
    "mostly 1": (lambda r: 1.0 if r.random() < 0.9 else r.random() / 2, 0.925),
    "mostly equal": (lambda r: 0.3 if r.random() < 0.05 else 1.0, 0.965),
    "close": (lambda r: 0.9 + 0.1 * r.random(), 0.95),
    "0 or 1": (lambda r: float(r.random() < 0.8), 0.8),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("n", [8, 30])
def test_it_holds_the_true_mean_as_often_as_it_says(name: str, n: int) -> None:
    """1,000 seeded data sets each; 0.93 is 0.95 less three standard errors."""
    draw, mean = DRAWS[name]
    r = random.Random(f"{name}{n}")
    sets = [[draw(r) for _ in range(n)] for _ in range(1000)]
    assert sum(mean in mean_interval(scores) for scores in sets) >= 930


@pytest.mark.parametrize(("wins", "losses"), [(0.1, 0.1), (0.3, 0.3), (0.3, 0.05)])
@pytest.mark.parametrize("n", [8, 30])
def test_a_paired_interval_holds_too(wins: float, losses: float, n: int) -> None:
    """1,000 seeded data sets of wins, losses and ties."""
    r = random.Random(f"{wins}{losses}{n}")

    def draw() -> float:
        u = r.random()
        return 1.0 if u < wins else -1.0 if u < wins + losses else 0.0

    sets = [[draw() for _ in range(n)] for _ in range(1000)]
    assert sum(wins - losses in paired_interval(d) for d in sets) >= 930


@pytest.mark.parametrize(
    ("score", "shown"),
    [(1.5, "1.5"), (-0.1, "-0.1"), (math.nan, "nan"), ("high", "str"), (None, "None")],
)
def test_what_is_no_score_is_refused(score: object, shown: str) -> None:
    """With its place, and without the text that stood there."""
    with pytest.raises(UsageError, match=f"score 1 is {shown}.*, not a number from 0"):
        mean_interval([0.5, score])  # ty: ignore[invalid-argument-type]


def test_what_is_no_difference_is_refused() -> None:
    """The scale of differences is another one."""
    assert paired_interval([-1.0, 1.0]).mean == 0.0
    with pytest.raises(UsageError, match="difference 0 is -1.5, not a number from -1"):
        paired_interval([-1.5])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, "0.95"])
def test_what_is_no_confidence_is_refused(confidence: float) -> None:
    """It is a share, not a percentage."""
    with pytest.raises(UsageError, match="confidence=.*: give a number between 0 and"):
        mean_interval([1.0], confidence)
