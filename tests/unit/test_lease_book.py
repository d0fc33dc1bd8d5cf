"""`LeaseBook`: limits that several processes share, on a clock."""

import pytest

from inf_engine.resources.lease import LEASE_SECONDS, Ask, Terms, Wish
from inf_engine.scale.lease_book import Drip, LeaseBook, shares


def asks(slots: int = 0, wanted: int = 0, **wishes: Wish) -> dict[int, Ask]:
    """What a holder tells of the one deployment."""
    return {0: Ask(slots, wanted, **wishes)}


@pytest.mark.parametrize(
    ("slots", "wanted", "expected"),
    [
        (8, {"a": 0, "b": 0}, {"a": 4, "b": 4}),
        (8, {"a": 9, "b": 9}, {"a": 4, "b": 4}),
        (8, {"a": 1, "b": 9}, {"a": 1, "b": 7}),
        (8, {"a": 1, "b": 3}, {"a": 3, "b": 5}),
        (9, {"a": 1, "b": 9, "c": 9}, {"a": 1, "b": 4, "c": 4}),
        (1, {"a": 5, "b": 5}, {"a": 1, "b": 0}),
        (0, {"a": 5}, {"a": 0}),
    ],
)
def test_shares_are_fair_and_use_all_slots(
    slots: int, wanted: dict[str, int], expected: dict[str, int]
) -> None:
    """Nobody gets more than it can use while others lack; the rest is spread."""
    found = shares(slots, wanted, 0)
    assert sum(found.values()) == slots
    assert found == expected


def test_holders_take_turns_where_slots_are_too_few() -> None:
    """Whose turn it is goes round."""
    wanted = {"a": 5, "b": 5, "c": 5}
    turns = [shares(1, wanted, turn) for turn in range(4)]
    assert [max(each, key=lambda h: each[h]) for each in turns] == ["a", "b", "c", "a"]


def test_no_more_slots_are_lent_than_there_are() -> None:
    """What one holds the other has to wait for, until it was given back."""
    book = LeaseBook({0: Terms(8, None, None, 60.0)})
    assert book.sync("a", asks(0, 20), 0.0)[0].slots == 8
    book.join("b", 0.0)
    grant = book.sync("b", asks(0, 20), 0.1)[0]
    assert (grant.slots, grant.most) == (0, 4)
    grant = book.sync("a", asks(6, 20), 0.2)[0]
    assert (grant.slots, grant.most, grant.is_scarce) == (6, 4, True)
    assert book.sync("b", asks(0, 20), 0.3)[0].slots == 2
    assert sum(book.held(0).values()) == 8


def test_those_who_are_counted_on_find_their_part_free() -> None:
    """The first that asks does not take all."""
    book = LeaseBook({0: Terms(8, None, None, 60.0)})
    book.join("a", 0.0)
    book.join("b", 0.0)
    assert book.sync("a", asks(0, 0), 0.0)[0].slots == 4


def test_a_dead_holder_is_forgotten_at_once() -> None:
    """All that it held is free."""
    book = LeaseBook({0: Terms(8, None, None, 60.0)})
    book.sync("a", asks(0, 20), 0.0)
    book.forget("a")
    assert book.sync("b", asks(0, 20), 0.1)[0].slots == 8


def test_a_silent_holder_loses_its_lease_when_nothing_of_it_can_be_in_flight() -> None:
    """It starts nothing after its lease, and no request takes longer than its time."""
    book = LeaseBook({0: Terms(8, None, None, 60.0)})
    book.sync("a", asks(0, 20), 0.0)
    book.join("b", 0.0)
    assert book.sync("b", asks(0, 20), LEASE_SECONDS + 60.0)[0].slots == 0
    assert book.sync("b", asks(0, 20), LEASE_SECONDS + 60.1)[0].slots == 8


def test_requests_are_booked_ahead_in_the_order_of_the_asks() -> None:
    """At one a second two holders alternate."""
    book = LeaseBook({0: Terms(None, 60.0, None, 60.0)})
    wish = Wish(first=1.0, count=5)
    found = [
        book.sync(name, asks(requests=wish), now)[0].requests
        for name, now in (("a", 0.0), ("b", 0.0), ("a", 0.5))
    ]
    assert found == [((0.0, 1.0),), ((1.0, 1.0),), ((1.5, 1.0),)]


def test_what_comes_back_before_its_time_is_there_for_the_next() -> None:
    """A portion that was held for later moves the drip back."""
    drip = Drip(60.0)
    assert drip.granted(Wish(first=1.0), 0.0) == ((0.0, 1.0),)
    assert drip.granted(Wish(first=1.0), 0.0) == ((1.0, 1.0),)
    ((delay, _),) = drip.granted(Wish(undone=1.0, first=1.0), 0.1)
    assert delay == pytest.approx(0.9)


def test_what_was_not_used_in_time_is_a_small_credit() -> None:
    """It may go at once, but no more than a bucket holds; at low rates nothing."""
    drip = Drip(6_000.0)
    drip.granted(Wish(first=500.0), 0.0)
    found = drip.granted(Wish(back=400.0, count=30, size=1.0), 0.0)
    assert [delay for delay, _ in found] == [0.0] * 9
    slow = Drip(60.0)
    slow.granted(Wish(first=1.0), 0.0)
    assert slow.granted(Wish(back=1.0, first=1.0), 0.1)[0][0] == pytest.approx(0.9)


def test_what_was_used_beyond_is_waited_for() -> None:
    """Answers may cost more tokens than was estimated."""
    drip = Drip(6_000.0)
    assert drip.granted(Wish(first=10.0), 0.0) == ((0.0, 10.0),)
    ((delay, amount),) = drip.granted(Wish(back=-100.0, first=10.0), 0.0)
    assert amount == 10.0
    assert delay == pytest.approx(1.1)


def test_more_than_fits_at_once_goes_when_all_is_there() -> None:
    """As in a local bucket; the next waits until that has dripped in."""
    drip = Drip(6_000.0)
    assert drip.granted(Wish(first=500.0), 0.0) == ((0.0, 500.0),)
    assert drip.when(25.0, 0.0) == pytest.approx(5.0)


def test_only_a_quarter_of_a_second_is_booked_ahead() -> None:
    """What many wait for is left to those who ask later."""
    drip = Drip(6_000.0)
    portions = drip.granted(Wish(count=200), 0.0)
    assert 30 <= len(portions) <= 36
    assert max(delay for delay, _ in portions) <= 0.25
