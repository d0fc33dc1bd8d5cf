"""The books of what was asked and spent."""

import dataclasses
import math
import time

import pytest

from inf_engine.resources.ledger import Ledger
from inf_engine.resources.statistics import EngineStatistics, Statistics
from inf_engine.types import Usage

USAGE = Usage(1, 100, 20, 30, 5, 40)


def test_an_answer_is_a_request() -> None:
    """Its tokens, its money and its time are booked on alias, module and total."""
    books = Ledger()
    books.waited("fast", "a.b", 0.5)
    books.sent("fast", "a.b")
    books.answered("fast", "a.b", USAGE, 0.25, 2.0)
    wanted = Statistics(
        requests=1,
        tries=1,
        input_tokens=100,
        output_tokens=20,
        cached_tokens=30,
        reasoning_tokens=5,
        cache_write_tokens=40,
        cost=0.25,
        wait_seconds=0.5,
        wire_seconds=2.0,
    )
    found = books.snapshot()
    assert found == EngineStatistics(wanted, {"fast": wanted}, {"a.b": wanted})
    assert found.total.usage == USAGE


def test_each_try_has_one_end() -> None:
    """It is in flight until it is answered, failed or unknown."""
    books = Ledger()
    for _ in range(4):
        books.sent("fast", "m")
    assert books.snapshot().total.in_flight == 4
    books.failed("fast", "m", 1.0)
    books.lost("fast", "m", 500, 0.125, 2.0)
    books.lost("fast", "m", 300, None, 0.0)
    total = books.snapshot().total
    assert (total.tries, total.failures, total.unknown) == (4, 1, 2)
    assert total.in_flight == 1
    assert total.unknown_tokens == 800
    assert total.unknown_cost == 0.125
    assert total.wire_seconds == 3.0
    assert total.requests == total.cost == 0


@pytest.mark.parametrize("cost", [None, math.nan, math.inf, -1.0])
def test_what_is_no_cost_is_no_price(cost: float | None) -> None:
    """A paid answer is never lost to a client that tells nonsense."""
    books = Ledger()
    books.sent("fast", "m")
    books.answered("fast", "m", USAGE, cost, 1.0)
    books.sent("fast", "m")
    books.lost("fast", "m", 1, cost, 1.0)
    total = books.snapshot().total
    assert (total.requests, total.unpriced, total.unknown) == (1, 1, 1)
    assert total.cost == total.unknown_cost == 0.0


def test_a_free_answer_is_priced() -> None:
    """Zero is a price."""
    books = Ledger()
    books.answered("fast", "m", USAGE, 0.0, 1.0)
    assert books.snapshot().total.unpriced == 0


def test_what_is_used_again_is_no_try() -> None:
    """Journal and cache are counted apart, and cost nothing."""
    books = Ledger()
    books.reused("fast", "m", "journal")
    books.reused("fast", "m", "cache")
    books.reused("fast", "m", "cache")
    wanted = Statistics(journal_hits=1, cache_hits=2)
    assert books.snapshot().total == wanted


def test_parts_come_in_order_of_first_use() -> None:
    """Aliases and modules, each by itself, and each the sum of its part."""
    books = Ledger()
    for alias, path in [("z", "m"), ("a", "k"), ("z", "k"), ("a", "")]:
        books.sent(alias, path)
    found = books.snapshot()
    assert list(found.by_alias) == ["z", "a"]
    assert list(found.by_module) == ["m", "k", ""]
    assert [part.tries for part in found.by_module.values()] == [1, 2, 1]


def test_a_snapshot_stays_as_it_is() -> None:
    """It is frozen, and the books go on without it."""
    books = Ledger()
    before = books.snapshot()
    books.sent("fast", "m")
    assert before == EngineStatistics(Statistics(), {}, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.total.tries = 3  # type: ignore[misc]  # ty: ignore[invalid-assignment]


def test_money_does_not_drift() -> None:
    """A hundred thousand answers of a tenth of a cent are a hundred dollars."""
    books = Ledger()
    for _ in range(100_000):
        books.answered("fast", "m", USAGE, 0.001, 0.0)
    assert books.snapshot().total.cost == 100.0


def test_statistics_add_up() -> None:
    """Every field is summed."""
    names = [field.name for field in dataclasses.fields(Statistics)]
    one = Statistics(*range(1, len(names) + 1))
    both = one + one
    assert [getattr(both, name) for name in names] == [
        2 * n for n in range(1, len(names) + 1)
    ]
    assert one + Statistics() == one


def test_statistics_print_as_a_table() -> None:
    """A line for each part, and below it what the numbers leave open."""
    books = Ledger()
    books.waited("fast", "extract", 0.25)
    for _ in range(4):
        books.sent("fast", "extract")
    books.answered("fast", "extract", Usage(1, 1_200, 40), 0.0125, 1.5)
    books.answered("fast", "extract", Usage(1, 10, 4), None, 0.5)
    books.lost("fast", "extract", 2_048, 0.5, 1.0)
    books.sent("own", "")
    books.answered("own", "", Usage(1, 10, 4), None, 1.0)
    books.reused("fast", "extract", "cache")
    lines = str(books.snapshot()).splitlines()
    assert [line.split() for line in lines[:6]] == [
        "requests tries failed unknown reused input output cost queued on the "
        "wire".split(),
        "total 3 5 0 1 1 1,220 48 $0.012500 0.25 s 4.00 s".split(),
        "alias fast 2 4 0 1 1 1,210 44 $0.012500 0.25 s 3.00 s".split(),
        "alias own 1 1 0 0 0 10 4 ? 0.00 s 1.00 s".split(),
        "module extract 2 4 0 1 1 1,210 44 $0.012500 0.25 s 3.00 s".split(),
        "no module 1 1 0 0 0 10 4 ? 0.00 s 1.00 s".split(),
    ]
    assert len({len(line) for line in lines[:6]}) == 1
    assert lines[6:] == [
        "In flight: 1.",
        "Answers without a known price, not in the cost: 2. Give the endpoint a price.",
        "Tries that may have been answered: 1; they cost at most 2,048 tokens, "
        "$0.500000.",
    ]


def test_large_sums_are_shown_in_cents() -> None:
    """And nothing is remarked where nothing is open."""
    text = str(EngineStatistics(Statistics(requests=1, tries=1, cost=1234.5), {}, {}))
    assert "$1,234.50" in text
    assert len(text.splitlines()) == 2


def test_the_books_are_cheap() -> None:
    """A try and its answer together, far below what a request costs (bound: 3 µs)."""
    books, best = Ledger(), math.inf
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(1_000):
            books.sent("fast", "a.b")
            books.answered("fast", "a.b", USAGE, 0.00125, 0.5)
        best = min(best, time.perf_counter() - start)
    assert best / 1_000 < 30e-6


def test_what_other_books_have_drained_adds_up() -> None:
    """Nothing is counted twice, and nothing is lost between two drains."""
    far, here = Ledger(), Ledger()
    for _ in range(2):
        far.sent("fast", "a")
        far.answered("fast", "a", USAGE, 0.25, 2.0)
        here.add(far.drain())
    assert far.drain() == []
    total = here.snapshot().total
    assert (total.requests, total.tries, total.cost) == (2, 2, 0.5)
    assert here.snapshot().by_module["a"] == total
