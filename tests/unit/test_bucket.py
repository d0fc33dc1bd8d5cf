"""`TokenBucket`: exact times, and what headers make of them."""

import pytest

from inf_engine.resources.bucket import TokenBucket
from inf_engine.types import Quota


def test_what_is_there_goes_at_once_and_the_rest_as_it_drips_in() -> None:
    """60 a minute, three at once."""
    bucket = TokenBucket(60, 10.0, capacity=3)
    times = []
    for _ in range(5):
        times.append(bucket.ready_at(1, 10.0))
        bucket.take(1, 10.0)
    assert times == [10, 10, 10, 11, 12]
    assert bucket.per_minute == 60


@pytest.mark.parametrize(("per_minute", "capacity"), [(1200, 5.0), (60, 1.0)])
def test_a_quarter_of_a_second_goes_at_once(per_minute: int, capacity: float) -> None:
    """At least one."""
    assert TokenBucket(per_minute, 0.0).capacity == capacity


def test_an_amount_above_the_capacity_goes_when_the_bucket_is_full() -> None:
    """And leaves a debt."""
    bucket = TokenBucket(60, 0.0, capacity=3)
    bucket.take(1, 0.0)
    assert bucket.ready_at(100, 0.0) == 1.0
    bucket.take(100, 1.0)
    assert bucket.level(1.0) == -97
    assert bucket.ready_at(1, 1.0) == 99.0


def test_what_is_given_back_is_there_at_once_up_to_the_capacity() -> None:
    """A correction may also take more."""
    bucket = TokenBucket(60, 0.0, capacity=3)
    bucket.take(2, 0.0)
    bucket.give(1, 0.0)
    assert bucket.level(0.0) == 2
    bucket.give(-5, 0.0)
    assert bucket.level(0.0) == -3
    bucket.give(100, 0.0)
    assert bucket.level(0.0) == 3


def test_nothing_left_means_nothing_before_the_reset() -> None:
    """Whatever has dripped in by our own count."""
    bucket = TokenBucket(60, 0.0, capacity=10)
    bucket.learn(Quota(60, 0, 10.0), 1.0, outstanding=0)
    assert bucket.ready_at(1, 1.0) == 11.0
    assert bucket.ready_at(1, 11.0) == 11.0


def test_what_was_sent_since_is_not_left() -> None:
    """Five are left by the headers, and four of them are on their way."""
    bucket = TokenBucket(60, 0.0, capacity=10)
    bucket.learn(Quota(60, 5, 30.0), 0.0, outstanding=4)
    assert bucket.ready_at(1, 0.0) == 0.0
    bucket.take(1, 0.0)
    assert bucket.ready_at(1, 0.0) == 30.0


def test_a_limit_that_was_set_is_narrowed_by_headers_and_not_widened() -> None:
    """Neither in its rate nor at once."""
    bucket = TokenBucket(600, 0.0)
    bucket.learn(Quota(limit=60), 0.0, 0)
    assert bucket.per_minute == 60
    bucket.learn(Quota(6000, 6000, 0.0), 0.0, 0)
    assert (bucket.per_minute, bucket.capacity) == (600, 2.5)
    bucket.take(3, 0.0)
    bucket.learn(Quota(6000, 5999, 0.01), 0.0, 0)
    assert bucket.level(0.0) == -0.5


def test_a_server_with_a_bucket_is_known_by_its_size_staying_the_same() -> None:
    """20 a second, 20 at once: then its reset holds nothing back."""
    bucket = TokenBucket.learnt(Quota(1200, 19, 0.05), 0.0, 0)
    assert bucket is not None
    bucket.learn(Quota(1200, 4, 0.8), 0.01, 0)
    assert bucket.capacity == pytest.approx(18.0)
    bucket.take(bucket.level(0.01), 0.01)
    assert bucket.ready_at(1, 0.01) == pytest.approx(0.06)


def test_a_fixed_window_is_known_by_its_end_staying_the_same() -> None:
    """60 a minute: all of the next window is there when it begins."""
    bucket = TokenBucket.learnt(Quota(60, 30, 20.0), 0.0, 0)
    assert bucket is not None
    bucket.learn(Quota(60, 1, 18.0), 2.0, 0)
    bucket.take(1, 2.0)
    assert bucket.ready_at(1, 2.0) == 20.0
    bucket.take(59, 20.0)
    assert bucket.ready_at(1, 20.0) == 20.0
    bucket.take(1, 20.0)
    assert bucket.ready_at(1, 20.0) == 80.0


def test_headers_of_the_window_before_say_nothing_of_this_one() -> None:
    """An answer that took long comes after the reset."""
    bucket = TokenBucket.learnt(Quota(60, 59, 60.0), 0.0, 0)
    assert bucket is not None
    assert bucket.level(61.0) == 60
    bucket.learn(Quota(60, 0, 1.0), 62.0, 0, age=3.0)
    assert bucket.ready_at(1, 62.0) == 62.0


def test_rounded_headers_of_a_bucket_do_not_make_it_a_window() -> None:
    """Whole seconds: one more or less is no sign."""
    bucket = TokenBucket.learnt(Quota(1200, 19, 1.0), 0.0, 0)
    assert bucket is not None
    for now in (0.5, 1.0, 1.5, 2.5):
        bucket.learn(Quota(1200, 10, 1.0), now, 0)
    bucket.take(bucket.level(2.5), 2.5)
    assert bucket.ready_at(1, 2.5) == pytest.approx(2.55)


@pytest.mark.parametrize("limit", [None, 0.0, -5.0])
def test_headers_without_a_limit_make_no_bucket(limit: float | None) -> None:
    """There is no rate to go by."""
    assert TokenBucket.learnt(Quota(limit, 5, 1.0), 0.0, 0) is None


def test_a_changed_limit_is_adopted() -> None:
    """An account moves up."""
    bucket = TokenBucket.learnt(Quota(60, 59, 1.0), 0.0, 0)
    assert bucket is not None
    bucket.learn(Quota(600, 599, 0.1), 1.0, 0)
    assert bucket.per_minute == 600
    assert bucket.capacity == pytest.approx(600.0)


def test_another_rate_leaves_the_level_as_it_is() -> None:
    """Only what drips in from now on changes."""
    bucket = TokenBucket(60, 0.0, capacity=4)
    bucket.take(4, 0.0)
    bucket.set_rate(600, 1.0)
    assert bucket.level(1.0) == 1
    assert bucket.level(1.1) == pytest.approx(2.0)
