"""`ConcurrencyWindow`: slow start and its end, growth, x 0.7, limits, and chance."""

import heapq
import itertools
import random

import pytest

from inf_engine.resources.window import MOST, ConcurrencyWindow

LATENCY = 0.05


def round_trip(window: ConcurrencyWindow, now: float) -> int:
    """Answer as many as the window has; return its size then."""
    size = window.size
    for left in range(size, 0, -1):
        window.answered(max(left, size), now, now + LATENCY)
    return window.size


def test_without_a_size_it_doubles_per_round_trip() -> None:
    """From four, up to what is sane."""
    window = ConcurrencyWindow(None)
    sizes = [window.size] + [round_trip(window, now) for now in range(10)]
    assert sizes[:5] == [8, 16, 32, 64, 128]
    assert sizes[-1] == MOST


def test_a_given_size_is_the_first_and_the_most() -> None:
    """It comes back after an overload, never above."""
    window = ConcurrencyWindow(10)
    assert round_trip(window, 0.0) == 10
    window.overloaded(9, 1.0, 1.5)
    assert window.size == 7
    sizes = [round_trip(window, now) for now in range(2, 9)]
    assert sizes[:3] == [7, 8, 9]
    assert sizes[-1] == 10


def test_overload_counts_once_per_round_trip() -> None:
    """What was sent before the decrease tells nothing new."""
    window = ConcurrencyWindow(100)
    for _ in range(60):
        window.overloaded(99, 1.0, 1.05)
    assert window.size == 70
    window.overloaded(69, 1.06, 1.1)
    assert window.size == 49


def test_answers_of_requests_from_before_a_decrease_do_not_widen() -> None:
    """They had the room of the larger window."""
    window = ConcurrencyWindow(10)
    window.overloaded(9, 1.0, 1.5)
    for _ in range(100):
        window.answered(10, 1.2, 1.6)
    assert window.size == 7


def test_it_never_closes() -> None:
    """At least one is always in flight."""
    window = ConcurrencyWindow(2)
    for now in range(20):
        window.overloaded(1, float(now), now + 0.5)
    assert window.size == 1


def test_a_window_that_is_not_used_does_not_grow() -> None:
    """Two in flight prove nothing about a hundred."""
    window = ConcurrencyWindow(None)
    for now in range(100):
        window.answered(2, float(now), now + 1.0)
    assert window.size == 8


def test_a_window_of_nothing_is_refused() -> None:
    """Nothing could ever leave."""
    with pytest.raises(ValueError, match="a window of 0 requests lets nothing"):
        ConcurrencyWindow(0)


def grown(sizes: int) -> ConcurrencyWindow:
    """A window in slow start, after so many round trips of a second."""
    window = ConcurrencyWindow(None)
    for now in range(sizes):
        round_trip(window, float(now))
    return window


def test_slow_start_ends_at_what_was_not_refused() -> None:
    """64 are in flight, 24 are refused: 40 were taken, and 41 would be too many."""
    window = grown(3)
    for left in range(63, 39, -1):
        window.overloaded(left, 3.0, 3.05)
        assert window.size == left
    assert round_trip(window, 3.1) == 40


def test_slow_start_ends_once_what_was_sent_after_it_is_answered() -> None:
    """Until then a refusal takes one off; from then on it is x 0.7."""
    window = grown(3)
    window.overloaded(63, 3.0, 3.05)
    window.overloaded(62, 3.06, 3.07)
    assert window.size == 62
    window.answered(62, 3.08, 3.13)
    window.overloaded(61, 3.09, 3.14)
    assert window.size == int(62 * 0.7)


def test_the_end_of_slow_start_leaves_a_third() -> None:
    """0.7 of what it was a round trip ago, however many are refused."""
    window = grown(3)
    for left in range(63, -1, -1):
        window.overloaded(left, 3.0, 3.05)
    assert window.size == int(64 / 2 * 0.7)


@pytest.mark.parametrize(("share", "least"), [(0.1, 50), (0.2, 45)])
def test_losses_by_chance_narrow_it_for_a_while_only(share: float, least: int) -> None:
    """One in ten, or in five, whatever the size: most of 64 are used."""
    rng = random.Random(1)
    window, sizes = ConcurrencyWindow(64), list[int]()
    for trip in range(1, 401):
        for _ in range(window.size):
            if rng.random() < share:
                window.overloaded(window.size - 1, float(trip), trip + 0.5)
            else:
                window.answered(window.size, float(trip), trip + 0.5)
        sizes.append(window.size)
    assert min(sizes) < 32
    assert sum(sizes[100:]) / 300 >= least


def test_losses_by_load_earn_no_credit() -> None:
    """All above forty are lost: it is never far above, and every decrease counts."""
    window, sizes = ConcurrencyWindow(64), list[int]()
    for trip in range(1, 401):
        for place in range(size := window.size):
            if place >= 40:
                window.overloaded(size - 1, float(trip), trip + 0.5)
            else:
                window.answered(size, float(trip), trip + 0.5)
        sizes.append(size)
    assert max(sizes[20:]) == 41
    assert sum(sizes) / 400 >= 36


def against(window: ConcurrencyWindow, limit: int, calls: int) -> tuple[float, int]:
    """Wall time and refusals at a server that refuses above `limit` at once."""
    numbers = itertools.count()
    events: list[tuple[float, int, float, bool]] = []
    now, todo, in_flight, working, refused = 0.0, calls, 0, 0, 0
    while todo or events:
        while todo and in_flight < window.size:
            todo, in_flight = todo - 1, in_flight + 1
            is_there = working < limit
            working += is_there
            took = LATENCY if is_there else 0.005
            heapq.heappush(events, (now + took, next(numbers), now, is_there))
        now, _, sent_at, is_there = heapq.heappop(events)
        if is_there:
            working -= 1
            window.answered(in_flight, sent_at, now)
        else:
            refused, todo = refused + 1, todo + 1
            window.overloaded(in_flight - 1, sent_at, now)
        in_flight -= 1
    return now, refused


@pytest.mark.parametrize(
    ("start", "share", "ratio"), [(None, 0.03, 1.2), (100, 0.15, 1.4), (40, 0.0, 1.0)]
)
def test_a_hidden_limit_is_found(start: int | None, share: float, ratio: float) -> None:
    """Forty at once, 1,000 calls of 50 ms: the bound is 1.25 s."""
    wall, refused = against(ConcurrencyWindow(start), 40, 1000)
    assert wall <= ratio * 1000 / 40 * LATENCY + 1e-6
    assert refused <= share * 1000
