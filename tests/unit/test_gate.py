"""`Gate`: never more than its limit, lowest order first, nothing lost to cancelling."""

import asyncio
import random
from typing import Any

import pytest

from inf_engine.resources.gate import Gate
from inf_engine.testing import VirtualTimeLoop


def order_of(limit: int | None, *orders: Any, hold: float = 1.0) -> list[Any]:
    """(when, order) of each holder, all asking at the same moment."""
    got: list[Any] = []
    gate = Gate(limit)

    async def hold_slot(order: Any) -> None:
        await gate.acquire(order)
        got.append((asyncio.get_running_loop().time(), order))
        assert limit is None or gate.in_use <= limit
        await asyncio.sleep(hold)
        gate.release()

    async def main() -> None:
        await asyncio.gather(*map(hold_slot, orders))
        assert gate.in_use == 0

    VirtualTimeLoop.run(main())
    return got


def test_the_lowest_order_goes_first_also_among_those_that_come_together() -> None:
    """Even the very first slot."""
    assert order_of(1, 3, 1, 2) == [(0.0, 1), (1.0, 2), (2.0, 3)]
    assert order_of(2, 3, 1, 2) == [(0.0, 1), (0.0, 2), (1.0, 3)]


def test_equal_orders_go_in_order_of_arrival() -> None:
    """Requests of one node's retries, say."""
    got = order_of(1, (0, "a"), (0, "a"), (0, "a"))
    assert [when for when, _ in got] == [0.0, 1.0, 2.0]


def test_no_limit_lets_everybody_in_at_once() -> None:
    """None is no limit."""
    assert {when for when, _ in order_of(None, *range(100))} == {0.0}


def test_a_waiter_that_leaves_costs_no_slot() -> None:
    """Cancelled while waiting, or in the moment in which its turn came."""

    async def main() -> None:
        gate = Gate(1)
        await gate.acquire()
        first = asyncio.ensure_future(gate.acquire(1))
        second = asyncio.ensure_future(gate.acquire(2))
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.sleep(0)
        gate.release()
        await second
        assert gate.in_use == 1
        third = asyncio.ensure_future(gate.acquire(3))
        await asyncio.sleep(0)
        gate.release()
        while not gate.in_use:  # noqa: ASYNC110 - turn by turn
            await asyncio.sleep(0)
        third.cancel()  # its turn has come, and it has not run yet
        await asyncio.gather(third, return_exceptions=True)
        await gate.acquire()
        assert gate.in_use == 1

    VirtualTimeLoop.run(main())


def test_waiters_that_left_are_forgotten() -> None:
    """A busy endpoint does not keep a thousand that timed out."""

    async def main() -> None:
        gate = Gate(1)
        await gate.acquire()
        tasks = [asyncio.ensure_future(gate.acquire(n)) for n in range(1000)]
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(gate._waiting) <= 1

    VirtualTimeLoop.run(main())


@pytest.mark.parametrize("seed", range(10))
def test_no_slot_is_lost_or_doubled(seed: int) -> None:
    """Whatever comes, holds, leaves and is cancelled at random."""
    rng = random.Random(seed)

    async def main() -> None:
        gate, most = Gate(3), 0

        async def use() -> None:
            nonlocal most
            await gate.acquire(rng.randrange(5))
            most = max(most, gate.in_use)
            try:
                await asyncio.sleep(rng.random())
            finally:
                gate.release()

        tasks = []
        for _ in range(200):
            tasks.append(asyncio.ensure_future(use()))
            if rng.random() < 0.5:
                rng.choice(tasks).cancel()
            if rng.random() < 0.3:
                await asyncio.sleep(rng.choice([0, 0.2]))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (most, gate.in_use) == (3, 0)
        await asyncio.gather(*[gate.acquire() for _ in range(3)])

    VirtualTimeLoop.run(main())
