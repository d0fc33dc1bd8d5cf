"""`Lease`: what a process holds of limits that it shares, on a clock."""

import math

from inf_engine.resources.config import EndpointConfig
from inf_engine.resources.lease import (
    LEASE_SECONDS,
    Grant,
    Lease,
    LeasedBucket,
    LeasedWindow,
    Terms,
    Wish,
)
from inf_engine.scale.lease_book import LeaseBook


def test_only_limits_that_were_set_and_are_shared_are_lent() -> None:
    """Not those of a model in this process."""
    url = "http://127.0.0.1/v1"
    free = EndpointConfig("openai-compatible", model="x", base_url=url)
    tight = EndpointConfig("openai", model="x", max_concurrent=4, timeout=5.0)
    assert Terms.of(None) is None
    assert Terms.of(free) is None
    assert Terms.of(EndpointConfig("local", max_concurrent=4)) is None
    assert Terms.of(tight) == Terms(4, None, None, 5.0)


def test_a_window_has_as_many_slots_as_are_held_and_may_be_kept() -> None:
    """None at first; what is too much goes back as requests end."""
    window = LeasedWindow(8)
    assert window.size == 0
    window.held, window.most = 6, 4
    assert window.size == 4


def test_a_window_narrows_in_proportion_to_what_is_held() -> None:
    """An overload counts for the part that is here, and one slot is always left."""
    window = LeasedWindow(8)
    window.held = window.most = 4
    window.overloaded(3, 1.0, 2.0)
    assert window.size == 2
    window.held = window.most = 1
    assert window.size == 1


def test_a_bucket_asks_when_something_is_missing() -> None:
    """And lets go at the moment that was granted."""
    needs: list[None] = []
    bucket = LeasedBucket(6_000.0, lambda: needs.append(None))
    assert bucket.ready_at(1, 5.0) == math.inf
    assert len(needs) == 1
    assert bucket.wish(3, 0, 5.0) == Wish(0.0, 0.0, 1.0, 1.0, 2)
    bucket.add(((0.0, 1.0), (0.5, 1.0)), 5.0)
    assert bucket.ready_at(1, 5.0) == 5.0
    bucket.take(1, 5.0)
    assert bucket.ready_at(1, 5.0) == 5.5


def test_what_is_not_used_in_time_goes_back() -> None:
    """It would make a burst; what nobody asks for is not asked for again."""
    bucket = LeasedBucket(6_000.0, lambda: None)
    bucket.add(((0.0, 1.0), (0.3, 1.0)), 5.0)
    assert bucket.wish(0, 0, 5.05).back == 0.0
    assert bucket.wish(0, 0, 5.2).back == 1.0
    assert bucket.held == 1.0


def test_too_little_goes_back_while_more_is_awaited() -> None:
    """The whole is booked anew: a part of it would get old meanwhile."""
    bucket = LeasedBucket(6_000.0, lambda: None)
    bucket.add(((0.0, 5.0), (1.0, 7.0)), 5.0)
    assert bucket.ready_at(20, 5.0) == math.inf
    wish = bucket.wish(1, 0, 5.0)
    assert (wish.back, wish.undone, wish.first) == (5.0, 7.0, 20)


def test_what_an_answer_used_beyond_is_told() -> None:
    """So it is paid back where all share it."""
    bucket = LeasedBucket(6_000.0, lambda: None)
    bucket.add(((0.0, 10.0),), 5.0)
    bucket.take(10, 5.0)
    bucket.give(-30, 6.0)
    assert bucket.wish(0, 0, 6.0).back == -30.0


def test_an_old_lease_lets_nothing_go_before_it_was_renewed() -> None:
    """The keeper may have given its slots to others by then."""
    needs: list[None] = []
    lease = Lease(Terms(8, None, None, 60.0), lambda: needs.append(None))
    assert lease.is_over(0.0)
    lease.granted(Grant(4, 4), 0.0, 0.1)
    assert not lease.is_over(LEASE_SECONDS - 0.1)
    assert lease.is_over(LEASE_SECONDS)
    assert len(needs) == 2


def test_an_old_lease_keeps_only_the_slots_in_use() -> None:
    """The keeper may have lent the others again: there are no two of them."""
    slots, book = 8, LeaseBook({0: Terms(8, None, None, 60.0)})
    silent, other = (Lease(Terms(8, None, None, 60.0), lambda: None) for _ in "ab")
    for name, lease, now in (("a", silent, 0.0), ("b", other, 80.0), ("a", silent, 81)):
        asked = {0: lease.ask(in_use=0, waiting=20, now=now)}
        lease.granted(book.sync(name, asked, now)[0], now, now)
    assert other.window is not None
    assert silent.window is not None
    assert other.window.size + silent.window.size <= slots


def test_slots_in_use_are_kept_and_the_others_go_back() -> None:
    """As many as are beyond the fair share."""
    lease = Lease(Terms(8, None, None, 60.0), lambda: None)
    lease.granted(Grant(8, 3), 0.0, 0.0)
    assert lease.ask(in_use=5, waiting=9, now=1.0).slots == 5
    assert lease.ask(in_use=2, waiting=9, now=2.0).slots == 3
