"""A budget is checked before a request leaves."""

import dataclasses
import math
import re
from typing import Any

import pytest

from inf_engine.errors import BudgetExceededError, ConfigurationError
from inf_engine.resources.budget import Budget, BudgetAccount, BudgetSpent


def account(**limits: Any) -> BudgetAccount:
    """Return an account that began at second 100."""
    return BudgetAccount(Budget(**limits), began=100.0)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "no limit is given. Give at least one of requests, tokens, usd"),
        ({"requests": 0}, "requests must be a positive whole number, or None for no"),
        ({"requests": 1.0}, "requests must be a positive whole number, .* not 1.0"),
        ({"requests": True}, "requests must be a positive whole number"),
        ({"tokens": -5}, "tokens must be a positive whole number"),
        ({"tokens": "5"}, "tokens must be a positive whole number, .* not '5'"),
        ({"usd": 0.0}, "usd must be a positive finite number"),
        ({"usd": math.nan}, "usd must be a positive finite number"),
        ({"usd": math.inf}, "usd must be a positive finite number"),
        ({"seconds": False}, "seconds must be a positive finite number"),
    ],
)
def test_a_budget_that_limits_nothing_is_refused(
    limits: dict[str, Any], message: str
) -> None:
    """Each limit is a positive number, and there is one at least."""
    with pytest.raises(ConfigurationError, match=message):
        Budget(**limits)


def test_only_money_needs_prices() -> None:
    """Tokens, requests and time can be checked without a price."""
    assert Budget(usd=1).needs_price
    assert not Budget(tokens=1, requests=1, seconds=1).needs_price


def test_a_budget_is_frozen() -> None:
    """What was agreed does not change under a run."""
    budget = Budget(requests=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        budget.requests = 2  # type: ignore[misc]  # ty: ignore[invalid-assignment]


def test_requests_are_exact() -> None:
    """Five fit into five, in flight or not; the sixth is refused."""
    books = account(requests=5)
    first = [books.reserve(now=100) for _ in range(3)]
    books.settle(first[0], 10, None)
    books.release(first[1])
    books.keep(first[2])
    books.reserve(now=100)
    books.reserve(now=100)
    with pytest.raises(
        BudgetExceededError, match="1 request, but the limit is 5 requests: 3 requ"
    ):
        books.reserve(now=100)
    assert books.spent.requests == 3
    assert books.spent.reserved_requests == 2


def test_a_refusal_says_it_all() -> None:
    """What is spent, unknown, reserved and asked for, the limit, and the fix."""
    books = account(tokens=10_000, requests=100)
    books.settle(books.reserve(now=100, tokens=8_000), 7_000, 0.0)
    books.keep(books.reserve(now=100, tokens=500))
    books.reserve(now=100, tokens=1_500)
    message = (
        "the budget does not allow the next request: it asks for up to 1,200 tokens, "
        "but the limit is 10,000 tokens: 7,000 tokens spent, 500 tokens perhaps spent "
        "on lost answers, 1,500 tokens reserved for requests in flight. It was not "
        "sent. Raise the limit (Budget(tokens=...)), or ask for fewer max_tokens."
    )
    with pytest.raises(BudgetExceededError, match=f"^{re.escape(message)}$"):
        books.reserve(now=100, tokens=1_200)


def test_a_refusal_names_every_limit() -> None:
    """Whoever raises one limit learns of the next one, too."""
    books = account(requests=1, usd=0.25, seconds=10)
    books.settle(books.reserve(now=100, usd=0.2), 0, 0.2)
    with pytest.raises(BudgetExceededError) as caught:
        books.reserve(now=110.04, usd=0.0625)
    message = str(caught.value)
    assert "asks for 1 request, but the limit is 1 request: 1 request spent" in message
    assert "asks for up to $0.0625, but the limit is $0.25: $0.20 spent" in message
    assert "10.0 of 10 seconds are over" in message
    assert "Raise the limit (Budget(requests=..., usd=..., seconds=...))" in message


def test_a_refusal_changes_nothing() -> None:
    """What was refused is not reserved."""
    books = account(tokens=100)
    for _ in range(3):
        with pytest.raises(BudgetExceededError, match="up to 101 tokens"):
            books.reserve(now=100, tokens=101)
    assert books.spent == BudgetSpent()
    books.reserve(now=100, tokens=100)


def test_a_settled_answer_costs_what_it_cost() -> None:
    """The estimate goes, the actual spending stays, more or less than reserved."""
    books = account(tokens=1_000, usd=1.0)
    books.settle(books.reserve(now=100, tokens=900, usd=0.9), 300, 0.3)
    assert books.spent == BudgetSpent(requests=1, tokens=300, usd=0.3)
    books.settle(books.reserve(now=100, tokens=700, usd=0.7), 900, 0.75)
    assert books.spent == BudgetSpent(requests=2, tokens=1_200, usd=1.05)
    with pytest.raises(BudgetExceededError, match="1,200 tokens spent"):
        books.reserve(now=100)


def test_an_answer_without_a_price_stays_at_its_upper_bound() -> None:
    """Its tokens are known, its money is not."""
    books = account(usd=1.0)
    books.settle(books.reserve(now=100, tokens=50, usd=0.5), 20, None)
    assert books.spent == BudgetSpent(requests=1, tokens=20, unknown_usd=0.5)


def test_a_lost_answer_stays_booked() -> None:
    """It may have been paid for, so its upper bound is never given back."""
    books = account(tokens=100)
    books.keep(books.reserve(now=100, tokens=60, usd=0.5))
    assert books.spent == BudgetSpent(requests=1, unknown_tokens=60, unknown_usd=0.5)
    with pytest.raises(BudgetExceededError, match="60 tokens perhaps spent on lost"):
        books.reserve(now=100, tokens=41)


def test_a_refused_try_costs_a_request_and_nothing_else() -> None:
    """It left; a request that never left costs nothing at all."""
    books = account(tokens=100)
    books.release(books.reserve(now=100, tokens=100, usd=0.5))
    assert books.spent == BudgetSpent(requests=1)
    books.cancel(books.reserve(now=100, tokens=100, usd=0.5))
    assert books.spent == BudgetSpent(requests=1)


@pytest.mark.parametrize("again", ["settle", "release", "keep", "cancel"])
def test_the_first_word_counts(again: str) -> None:
    """A reservation that is closed, or another account's, is left alone."""
    books = account(tokens=100)
    reservation = books.reserve(now=100, tokens=40)
    books.settle(reservation, 7, 0.0)
    foreign = account(tokens=100).reserve(now=100, tokens=40)
    rest = (5, 0.0) if again == "settle" else ()
    for other in (reservation, foreign):
        getattr(books, again)(other, *rest)
    assert books.spent == BudgetSpent(requests=1, tokens=7)


def test_time_is_over_at_its_last_second() -> None:
    """Requests leave before the limit; one in flight is not cut short."""
    books = account(seconds=5)
    reservation = books.reserve(now=104.999)
    with pytest.raises(BudgetExceededError, match="5.0 of 5 seconds are over"):
        books.reserve(now=105.0)
    books.settle(reservation, 1, None)
    assert books.spent.requests == 1


def test_money_is_added_exactly() -> None:
    """Ten times ten cents are a dollar, which three times ten in floats is not."""
    books = account(usd=1)
    for _ in range(10):
        books.settle(books.reserve(now=100, usd=0.1), 1, 0.1)
    assert books.spent.usd == 1.0
    with pytest.raises(
        BudgetExceededError, match=r"\$0.000001, but the limit is \$1.00: "
    ):
        books.reserve(now=100, usd=1e-6)


def test_what_only_waits_for_others_may_fit_later() -> None:
    """Reservations go away; what is spent, unknown or too large does not."""
    books = account(tokens=100, seconds=5)
    reservation = books.reserve(now=100, tokens=80)
    with pytest.raises(BudgetExceededError, match="80 tokens reserved for requests in"):
        books.reserve(now=100, tokens=30)
    assert books.may_fit_later(now=100, tokens=30)
    assert not books.may_fit_later(now=100, tokens=101)
    assert not books.may_fit_later(now=105, tokens=30)
    books.keep(reservation)
    assert not books.may_fit_later(now=100, tokens=30)


def test_a_reservation_tells_its_money() -> None:
    """In USD, as it was asked for."""
    assert account(usd=1).reserve(now=100, usd=0.3).usd == 0.3
