"""How sure a change is."""

import math

import pytest

from claas.intervals import mean_change, share_change, student, wilson


def test_wilson_is_the_textbooks() -> None:
    """Newcombe 1998, table I: 81 of 263 at 95 %."""
    assert wilson(81, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_newcombe_is_the_textbooks() -> None:
    """Newcombe 1998b, table II, method 10: 56/70 - 48/80; with equal sides here."""
    found = share_change(0, 10, 10, 0.95)
    assert (found.low, found.high) == pytest.approx((0.6075, 1.0), abs=1e-4)


def test_four_of_four_is_a_sure_gain_and_two_of_four_is_not() -> None:
    """The default confidence of the gate."""
    assert share_change(0, 4, 4, 0.9).low > 0
    assert share_change(0, 2, 4, 0.9).low < 0
    assert share_change(0, 0, 0, 0.9).count == 0


@pytest.mark.parametrize(("freedom", "quantile"), [(4, 2.776), (9, 2.262), (30, 2.042)])
def test_students_quantiles_are_the_tables(freedom: int, quantile: float) -> None:
    """Two sides, 95 %."""
    assert student(freedom, 0.95) == pytest.approx(quantile, rel=0.01)


def test_a_mean_of_one_thing_is_never_sure() -> None:
    """Its interval has no end."""
    found = mean_change([1.0], [3.0], 0.9)
    assert (found.before, found.after, found.change) == (1, 3, 2)
    assert found.low == -math.inf
    assert mean_change([], [], 0.9).count == 0
    assert mean_change([1.0, 2.0], [2.0, 3.0], 0.9).low == pytest.approx(1)
