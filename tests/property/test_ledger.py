"""Books agree, whatever happens in whatever order."""

import math
from collections.abc import Callable, Iterable
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inf_engine.errors import BudgetExceededError
from inf_engine.resources.budget import Budget, BudgetAccount, Reservation
from inf_engine.resources.ledger import Ledger
from inf_engine.resources.statistics import Statistics
from inf_engine.types import Usage

COUNTS = [
    f.name for f in fields(Statistics) if isinstance(f.default, int)
]  # money and seconds are floats
MEASURES = [f.name for f in fields(Statistics) if f.name not in COUNTS]

places = st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "m", "m.n"]))
amounts = st.integers(0, 10**9)
seconds = st.floats(0, 1e6)
costs = st.none() | st.floats(0, 1e4)
entries = st.tuples(places, st.sampled_from("wsaflrc"), amounts, costs, seconds)


class Model:
    """What the books should say, kept the long way."""

    def __init__(self) -> None:
        self.in_flight: dict[tuple[str, str], int] = {}
        self.ended = 0
        self.tries = 0
        self.tokens = 0
        self.costs: list[float] = []
        self.at_most: list[float] = []
        self.seconds: list[float] = []


def book(
    books: Ledger,
    model: Model,
    entry: tuple[tuple[str, str], str, int, float | None, float],
) -> None:
    """Make one entry, if it is a legal one."""
    place, kind, amount, cost, duration = entry
    if kind == "w":
        books.waited(*place, duration)
    elif kind == "s":
        books.sent(*place)
        model.tries += 1
        model.in_flight[place] = model.in_flight.get(place, 0) + 1
    elif kind in "rc":
        books.reused(*place, "journal" if kind == "r" else "cache")
    elif model.in_flight.get(place):
        end(books, model, entry)


def end(
    books: Ledger,
    model: Model,
    entry: tuple[tuple[str, str], str, int, float | None, float],
) -> None:
    """Let a try that is in flight end."""
    place, kind, amount, cost, duration = entry
    model.in_flight[place] -= 1
    model.ended += 1
    model.seconds.append(duration)
    if kind == "a":
        books.answered(*place, Usage(1, amount, 1, amount, 1), cost, duration)
        model.tokens += amount
        model.costs.append(cost or 0.0)
    elif kind == "f":
        books.failed(*place, duration)
    else:
        books.lost(*place, amount, cost, duration)
        model.at_most.append(cost or 0.0)


def check_sums(total: Statistics, parts: Iterable[Statistics]) -> None:
    """Parts sum up to the total: counts exactly, measures to 1e-9."""
    each = list(parts)
    for name in COUNTS:
        assert sum(getattr(part, name) for part in each) == getattr(total, name)
    for name in MEASURES:
        summed = math.fsum(getattr(part, name) for part in each)
        assert summed == pytest.approx(getattr(total, name), rel=1e-12, abs=1e-9)


@given(st.lists(entries, max_size=60))
def test_the_books_agree_at_any_moment(
    given_entries: list[tuple[tuple[str, str], str, int, float | None, float]],
) -> None:
    """Tries are answered, failed, unknown or in flight; parts make up the whole."""
    books, model = Ledger(), Model()
    for entry in given_entries:
        book(books, model, entry)
        found = books.snapshot()
        total = found.total
        in_flight = sum(model.in_flight.values())
        assert total.tries == model.tries
        assert total.requests + total.failures + total.unknown == model.ended
        assert total.in_flight == in_flight == model.tries - model.ended
        assert total.input_tokens == total.cached_tokens == model.tokens
        assert total.output_tokens == total.requests
        assert total.cost == pytest.approx(math.fsum(model.costs), abs=1e-9)
        assert total.unknown_cost == pytest.approx(math.fsum(model.at_most), abs=1e-9)
        assert total.wire_seconds == pytest.approx(math.fsum(model.seconds))
        check_sums(total, found.by_alias.values())
        check_sums(total, found.by_module.values())


@given(st.permutations([0.1, 0.2, 0.3, 1e-9, 123.456, 1e-6, 0.7]))
def test_the_order_of_answers_does_not_matter(order: list[float]) -> None:
    """Money is exact, so every order gives the same sum."""
    books = Ledger()
    for n, cost in enumerate(order):
        books.answered("a", f"m{n % 3}", Usage(), cost, 0.0)
    assert books.snapshot().total.cost == 124.756001001


requests = st.tuples(
    st.integers(0, 60), st.integers(0, 60), st.integers(0, 2), st.sampled_from("srkcn")
)


@given(st.lists(requests, max_size=60), st.integers(1, 20), st.integers(1, 200))
def test_no_budget_is_overrun_by_more_than_the_estimates_err(
    plan: list[tuple[int, int, int, str]], most: int, tokens: int
) -> None:
    """Requests never, tokens by what answers cost beyond their reservation."""
    account = BudgetAccount(Budget(requests=most, tokens=tokens), began=0.0)
    open_ones: list[Reservation] = []
    beyond = 0
    for estimate, actual, index, end_by in plan:
        try:
            open_ones.append(account.reserve(now=0.0, tokens=estimate, usd=0.1))
        except BudgetExceededError:
            pass
        if end_by != "n" and index < len(open_ones):
            reservation = open_ones.pop(index)
            close(account, reservation, actual, end_by)
            if end_by == "s":
                beyond += max(0, actual - reservation.tokens)
        spent = account.spent
        booked = spent.tokens + spent.unknown_tokens + spent.reserved_tokens
        assert spent.requests + spent.reserved_requests <= most
        assert booked <= tokens + beyond
        assert spent.reserved_requests == len(open_ones)
        assert spent.reserved_tokens == sum(r.tokens for r in open_ones)
    for reservation in open_ones:
        account.cancel(reservation)
    assert account.spent.reserved_tokens == 0
    assert account.spent.reserved_usd == 0.0


def close(
    account: BudgetAccount, reservation: Reservation, actual: int, end_by: str
) -> None:
    """Close a reservation in one of the four ways."""
    ends: dict[str, Callable[[], None]] = {
        "s": lambda: account.settle(reservation, actual, 0.2),
        "r": lambda: account.release(reservation),
        "k": lambda: account.keep(reservation),
        "c": lambda: account.cancel(reservation),
    }
    ends[end_by]()
