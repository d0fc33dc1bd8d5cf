"""How long a frame may be out, and where it is then."""

import pytest

from butterfly.cluster.patience import Patience, Place, where


def test_the_first_frames_have_time() -> None:
    """Nothing was measured: six floors."""
    assert Patience(2.0).limit(1) == 12.0


def test_it_follows_what_was_measured_but_not_below_the_floor() -> None:
    """Eight times the longest round trip of frames with as many rows."""
    patience = Patience(2.0)
    patience.learn(1, 0.1)
    assert patience.limit(1) == 2.0
    patience.learn(1, 0.5)
    patience.learn(100, 3.0)
    assert patience.limit(1) == patience.limit(100) == 24.0
    for _ in range(64):
        patience.learn(4, 0.5)
    assert patience.limit(4) == 4.0


def test_more_rows_than_ever_may_take_longer() -> None:
    """In proportion: a long prompt after short ones is not stuck."""
    patience = Patience(1.0)
    patience.learn(2, 0.25)
    assert patience.limit(200) == 8 * 25.0


def test_each_verdict_doubles_it_until_a_frame_comes_back() -> None:
    """So no machine is too slow to ever answer."""
    patience = Patience(1.0)
    limits = []
    for _ in range(3):
        limits.append(patience.limit(1))
        patience.double()
    assert limits == [6.0, 12.0, 24.0]
    patience.learn(1, 0.01)
    assert patience.limit(1) == 1.0


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([(7, 7), (7, 7)], Place(1, False)),
        ([(8, 7), (7, 7)], Place(1, True)),
        ([(9, 8), (7, 7)], Place(2, False)),
        ([(9, 9), (8, 7)], Place(2, True)),
        ([(9, 9), (9, 8)], Place(0, False)),
    ],
)
def test_counts_say_where_the_oldest_frame_is(
    counts: list[tuple[int, int]], expected: Place
) -> None:
    """Seven came back; the eighth is at the first place that has not had it."""
    assert where(7, counts) == expected


def test_a_stage_that_computes_has_more_time() -> None:
    """A link has nothing to do but carry."""
    assert Place(1, True).limits > Place(1, False).limits == 1.0
