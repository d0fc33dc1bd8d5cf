"""`CircuitBreaker`: opens after failures in a row, and lets one probe through."""

import math

import pytest

from inf_engine.resources.breaker import CircuitBreaker


def opened(now: float = 0.0) -> CircuitBreaker:
    """Return a breaker that has just opened."""
    breaker = CircuitBreaker()
    for _ in range(5):
        breaker.failed(now)
    assert breaker.state == "open"
    return breaker


def test_it_opens_after_five_failures_in_a_row() -> None:
    """A success in between starts the count anew."""
    breaker = CircuitBreaker()
    for _ in range(4):
        breaker.failed(0.0)
    breaker.succeeded(0.0)
    for _ in range(4):
        breaker.failed(1.0)
    assert (breaker.state, breaker.ready_at(1.0)) == ("closed", 1.0)
    breaker.failed(2.0)
    assert (breaker.state, breaker.ready_at(2.0)) == ("open", 3.0)


def test_after_the_cooldown_one_probe_goes() -> None:
    """And its success closes the breaker."""
    breaker = opened()
    assert breaker.ready_at(5.0) == 5.0
    breaker.sent(5.0)
    assert (breaker.state, breaker.ready_at(5.0)) == ("half-open", math.inf)
    breaker.succeeded(6.0)
    assert (breaker.state, breaker.ready_at(6.0)) == ("closed", 6.0)


def test_the_cooldown_doubles_while_probes_fail_and_starts_anew_after() -> None:
    """One second, up to a minute."""
    breaker, waits, now = opened(), [], 0.0
    for _ in range(9):
        ready = breaker.ready_at(now)
        waits.append(ready - now)
        breaker.sent(ready)
        now = ready + 0.5
        breaker.failed(now, ready)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    now = breaker.ready_at(now)
    breaker.sent(now)
    breaker.succeeded(now)
    for _ in range(5):
        breaker.failed(now)
    assert breaker.ready_at(now) == now + 1


def test_failures_from_before_it_opened_change_nothing() -> None:
    """A hundred time-outs of requests that were on their way are no hundred probes."""
    breaker = opened(10.0)
    breaker.failed(10.5, 9.0)
    breaker.succeeded(10.5)
    assert (breaker.state, breaker.ready_at(10.5)) == ("open", 11.0)
    breaker.sent(11.0)
    breaker.failed(11.5, 9.0)
    assert breaker.state == "half-open"


def test_a_request_sent_before_the_cooldown_ends_is_no_probe() -> None:
    """The table knows no such transition."""
    breaker = opened()
    breaker.sent(0.5)
    assert breaker.state == "open"


def test_a_lost_probe_is_followed_by_another() -> None:
    """Cancelled: it tells nothing."""
    breaker = opened()
    breaker.sent(1.0)
    breaker.lost(1.5)
    assert (breaker.state, breaker.ready_at(1.5)) == ("open", 1.5)
    breaker.lost(1.5)
    assert breaker.state == "open"


def test_every_setting_has_an_effect() -> None:
    """How many failures, how long, how long at most."""
    breaker = CircuitBreaker(failures=1, cooldown=3.0, longest=4.0)
    breaker.failed(0.0)
    assert breaker.ready_at(0.0) == 3.0
    breaker.sent(3.0)
    breaker.failed(3.0)
    assert breaker.ready_at(3.0) == 7.0


def test_no_failures_at_all_is_refused() -> None:
    """It would never be closed."""
    with pytest.raises(ValueError, match="cannot open after 0 failures"):
        CircuitBreaker(failures=0)
