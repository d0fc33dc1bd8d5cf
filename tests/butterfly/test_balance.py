"""When a slow stage gets fewer layers, and how many."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from butterfly.cluster.balance import Balance, fastest, slowest

EVEN = [(0, 5), (5, 8)]  # the head costs two layers


def changes(
    balance: Balance, seconds: list[float], count: int, start: float = 0.0
) -> list[tuple[int, list[float]]]:
    """Return at which of some frames, one each second, other ranges are due."""
    each = [(n, balance.add(seconds, start + n)) for n in range(1, count + 1)]
    return [(n, speeds) for n, speeds in each if speeds is not None]


def begun(pause: float = 60.0) -> Balance:
    """Return one for two stages that are told apart by nothing."""
    balance = Balance(8, 2.0, pause)
    balance.begin(EVEN)
    return balance


def test_what_is_even_stays() -> None:
    """Also if one stage is a little slower: moving a layer would not pay."""
    assert changes(begun(), [0.005, 0.005], 1000) == []
    assert changes(begun(), [0.0055, 0.005], 1000) == []


def test_a_slow_stage_is_told_after_two_windows() -> None:
    """Its speed is a quarter of the other's; that is said once, and forgotten then."""
    balance = begun()
    found = changes(balance, [0.02, 0.005], 150)
    (number, (slow, quick)) = found[0]
    assert number == 128 and len(found) == 1
    assert abs(quick / slow - 4.0) < 1e-9
    ranges = fastest(8, 2.0, [slow, quick])
    assert ranges == [(0, 2), (2, 8)]
    balance.begin(ranges)
    assert changes(balance, [0.008, 0.008], 1000, 150.0) == []


def test_one_slow_window_is_not_enough() -> None:
    """It must be slow in two windows in a row."""
    balance = begun()
    for _ in range(5):
        assert changes(balance, [0.02, 0.005], 64) == []
        assert changes(balance, [0.005, 0.005], 64) == []


def test_changes_are_rare() -> None:
    """Not before a pause, nor between two; never if it is zero."""
    balance = begun(pause=300.0)
    times = [n for n, _ in changes(balance, [0.02, 0.005], 1000)]
    assert times == [320, 640, 960]
    assert changes(begun(pause=0.0), [0.02, 0.005], 1000) == []


def test_one_stage_alone_has_no_share() -> None:
    """And a frame of another epoch says nothing."""
    balance = Balance(8, 2.0, 1.0)
    balance.begin([(0, 8)])
    assert changes(balance, [1.0], 200) == []
    assert changes(balance, [1.0, 0.1], 200) == []


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 9),
    st.floats(0.0, 8.0),
    st.lists(st.floats(0.1, 10.0), min_size=1, max_size=4),
)
def test_no_other_ranges_are_faster(
    depth: int, head: float, speeds: list[float]
) -> None:
    """Against all there are."""
    speeds = speeds[:depth]
    found = fastest(depth, head, speeds)
    assert [a for a, _ in found] == [0, *[b for _, b in found[:-1]]]
    assert found[-1][1] == depth and all(a < b for a, b in found)
    every = []
    for inner in combinations(range(1, depth), len(speeds) - 1):
        cuts = [0, *inner, depth]
        ranges = list(zip(cuts, cuts[1:], strict=False))
        every.append(slowest(ranges, speeds, depth, head))
    assert slowest(found, speeds, depth, head) == min(every)
