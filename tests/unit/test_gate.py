"""`Gate`: the lowest order first, when it may; who left is forgotten."""

import asyncio
import math
from typing import Any

import pytest

from inf_engine.resources.gate import Gate
from inf_engine.resources.job import Job, JobState, Order
from inf_engine.testing import VirtualTimeLoop
from inf_engine.types import LLMRequest


class Door:
    """A gate with so many slots; each job holds one for a second."""

    def __init__(
        self, slots: int | None, ready: dict[str, float] | None = None
    ) -> None:
        self.slots = slots
        self.ready = ready or {}
        self.in_use = 0
        self.asked = 0
        self.started: list[tuple[float, str]] = []
        self.gate = Gate(self.ready_at, self.start, lambda: self.slots)

    def ready_at(self, job: Job, now: float) -> float:
        self.asked += 1
        if self.slots is not None and self.in_use >= self.slots:
            return math.inf
        return self.ready.get(job.alias, 0.0)

    def start(self, job: Job, now: float) -> None:
        loop = asyncio.get_running_loop()
        job.state = JobState.ON_WIRE
        self.in_use += 1
        self.started.append((now, job.alias))
        loop.call_later(1.0, self.end)

    def end(self) -> None:
        self.in_use -= 1
        self.gate.grant()


def job(name: str, *order: int) -> Job:
    """A job of that name."""
    return Job(name, LLMRequest(()), Order(*order))


def started(door: Door, *jobs: Job, ending: bool = False) -> list[tuple[float, str]]:
    """When each of some jobs that join at the same moment is started."""

    async def main() -> None:
        door.gate.end(ending)
        for each in jobs:
            door.gate.join(each)
        assert not door.started  # never from in there
        await asyncio.sleep(100)

    VirtualTimeLoop.run(main())
    return door.started


def test_the_lowest_order_goes_first_also_among_those_that_come_together() -> None:
    """Even the very first slot."""
    jobs = [job("c", 3), job("a", 1), job("b", 2)]
    assert started(Door(1), *jobs) == [(0.0, "a"), (1.0, "b"), (2.0, "c")]
    jobs = [job("c", 3), job("a", 1), job("b", 2)]
    assert started(Door(2), *jobs) == [(0.0, "a"), (0.0, "b"), (1.0, "c")]


def test_equal_orders_go_in_order_of_arrival() -> None:
    """Requests without an order, say."""
    assert [n for _, n in started(Door(1), job("x"), job("y"), job("z"))] == [*"xyz"]


def test_what_is_in_front_goes_before_all_of_its_priority() -> None:
    """A retry, but not before a higher priority."""
    again = job("again", 0, 9)
    again.order = again.order.in_front()
    jobs = [job("old", 0, 1), again, job("urgent", -1, 5)]
    assert [n for _, n in started(Door(1), *jobs)] == ["urgent", "again", "old"]


def test_no_limit_lets_everybody_in_at_once() -> None:
    """None is no limit."""
    jobs = [job(str(n)) for n in range(100)]
    assert {when for when, _ in started(Door(None), *jobs)} == {0.0}


def test_the_first_in_line_is_waited_for_with_one_timer() -> None:
    """Nobody passes it, and nobody polls."""
    door = Door(None, {"big": 7.5})
    got = started(door, job("small", 2), job("big", 1))
    assert got == [(7.5, "big"), (7.5, "small")]
    assert door.asked <= 4


def test_who_left_is_passed_over_and_forgotten() -> None:
    """A busy endpoint does not keep a thousand that gave up."""

    async def main() -> None:
        door = Door(1)
        jobs = [job(str(n), n) for n in range(1000)]
        for each in jobs:
            door.gate.join(each)
        await asyncio.sleep(0.5)
        for each in jobs[1:-1]:
            each.state = JobState.CANCELLED
            door.gate.leave()
        assert len(door.gate._line) < 10
        await asyncio.sleep(5)
        assert [name for _, name in door.started] == ["0", "999"]
        assert len(door.gate) == 0

    VirtualTimeLoop.run(main())


BATCH = [job(f"{n}{'ab'[p]}", 0, n, -p) for n in range(3) for p in (0, 1)]


@pytest.mark.parametrize(
    ("slots", "ending", "expected"),
    [
        (1, False, "0b 0a 1b 1a 2b 2a"),
        (1, True, "0b 0a 1b 1a 2b 2a"),
        (4, False, "0b 0a 1b 1a 2b 2a"),
        (4, True, "0b 1b 2b 0a 1a 2a"),
    ],
)
def test_the_longest_path_goes_first_in_the_last_two_rounds(
    slots: int, ending: bool, expected: str
) -> None:
    """Only if no more inputs come, and less than two rounds wait."""
    jobs: list[Any] = [job(each.alias, *each.order) for each in BATCH]
    assert [
        n for _, n in started(Door(slots), *jobs, ending=ending)
    ] == expected.split()


def test_the_oldest_goes_first_again_when_more_inputs_come() -> None:
    """The end of one batch is not the end of all."""
    door = Door(4)

    async def main() -> None:
        door.in_use = 4
        door.gate.end(True)
        for each in BATCH:
            door.gate.join(job(each.alias, *each.order))
        await asyncio.sleep(0)
        door.gate.end(False)
        door.in_use = 0
        door.gate.grant()
        await asyncio.sleep(5)

    VirtualTimeLoop.run(main())
    assert [name for _, name in door.started] == "0b 0a 1b 1a 2b 2a".split()
