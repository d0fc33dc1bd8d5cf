"""Equal calls keep their own answers, and ops that are journaled run once."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Flow, echo
from tests.integration.journal_helpers import mapped, ran, rows, shuffled

from inf_engine import InferenceModule, LLMInference, op
from inf_engine import functional as F
from inf_engine.errors import ExecutionError, JournalError
from inf_engine.journal import JournalStore
from inf_engine.types import LLMRequest


class Three(InferenceModule):
    """`first` and `last` tell their calls apart, `same` does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Any = LLMInference("m")
        self.same: Any = LLMInference("m")
        self.last: Any = LLMInference("m")


class InOrder(Three):
    """Equal calls whose inputs come in any order."""

    def forward(self, text: str) -> Any:
        parts = [self.first(f"part {n}") for n in range(6)]
        equal = [self.same(part) for part in parts]
        return [self.last(f"{n} of {one}") for n, one in enumerate(equal)]


class InBranches(Three):
    """Equal calls, each in a branch of its own."""

    def forward(self, text: str) -> Any:
        def part(number: int) -> Any:
            if self.first(f"part {number}") == "done":
                return self.last(f"{number} of {self.same('equal')}")
            return None

        return F.map(part, list(range(6)))


class InTasks(Three):
    """Equal calls in tasks of two coroutine functions."""

    async def left(self, number: int) -> str:
        await self.first(f"left {number}")
        return await self.last(f"left {number} of {await self.same('equal')}")

    async def right(self, number: int) -> str:
        await self.first(f"right {number}")
        await self.first(f"more {number}")
        return await self.last(f"right {number} of {await self.same('equal')}")

    async def forward(self, text: str) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(part(n))
                for n in range(3)
                for part in (self.left, self.right)
            ]
        return [task.result() for task in tasks]


def sampled(prefix: str = "sample") -> Callable[[LLMRequest], str]:
    """Return what answers as a model of some temperature does: never twice the same.

    The first calls are all answered alike.
    """
    count = iter(range(10**6))

    def answer(request: LLMRequest) -> str:
        told_apart = any(word in request.prompt for word in ("part", "left", "right"))
        if told_apart and " of " not in request.prompt:
            return "done"
        return f"{prefix} {next(count)}"

    return answer


@pytest.mark.parametrize("program", [InOrder, InBranches, InTasks])
@pytest.mark.parametrize("seed", range(4))
def test_each_call_gets_its_own_answer_again(
    tmp_path: Path, program: type[Three], seed: int
) -> None:
    """In whatever order the answers come, the second run asks nothing."""
    path = tmp_path / "run.db"
    output = ran(path, program(), "a", client=shuffled(seed, sampled()))
    second = shuffled(seed + 100, sampled("another"))
    assert ran(path, program(), "a", client=second) == output
    assert second.requests == []


@pytest.mark.parametrize("program", [InOrder, InBranches, InTasks])
def test_a_run_that_was_cut_off_keeps_them_apart(
    tmp_path: Path, program: type[Three]
) -> None:
    """What a call was given before the end, it is given after it."""
    path = tmp_path / "run.db"
    asked = cancelled = 0
    output = None
    for number in range(100):
        client = shuffled(number, sampled(f"run {number}"))
        try:
            output = ran(path, program(), "a", client=client, timeout=2.0)
        except TimeoutError:
            continue
        finally:
            asked += len(client.requests)
            cancelled += client.cancelled
        break
    assert output is not None
    assert asked - cancelled == len(rows(path))
    last = shuffled(7, sampled("never"))
    assert ran(path, program(), "a", client=last) == output
    assert last.requests == []


def test_an_edited_program_finds_the_answers_of_equal_calls(tmp_path: Path) -> None:
    """A call that was put in front of them moves their places, and pays only itself."""
    path = tmp_path / "run.db"
    before = Flow(lambda m, x: [m.llm("equal") for _ in range(4)])
    after = Flow(lambda m, x: [m.llm("new"), *[m.llm("equal") for _ in range(4)]])
    outputs = ran(path, before, "a", client=shuffled(1, sampled()))
    client = shuffled(2, sampled("another"))
    changed = ran(path, after, "a", client=client)
    assert [request.prompt for request in client.requests] == ["new"]
    assert sorted(changed[1:]) == sorted(outputs)


def test_one_more_equal_call_asks_once(tmp_path: Path) -> None:
    """Samples that are there are taken, the rest is asked for and kept."""
    path = tmp_path / "run.db"
    for count, asked in ((2, 2), (5, 3), (5, 0), (3, 0)):
        flow = Flow(lambda m, x, n=count: [m.llm("equal") for _ in range(n)])
        client = shuffled(count, sampled(f"of {count}"))
        assert len(set(ran(path, flow, "a", client=client))) == count
        assert len(client.requests) == asked
    assert sorted(row.number for row in rows(path)) == [0, 1, 2, 3, 4]


# -- ops ---------------------------------------------------------------------------


class Counted(InferenceModule):
    """Calls an op on what a model says."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.llm = LLMInference("m")
        self.function = function

    def forward(self, text: str) -> Any:
        return self.function(self.llm(text), [1, 2])


def counting(kind: str, calls: list[Any], **options: Any) -> Any:
    """Return an op of a kind that notes its calls."""

    def plain(text: str, numbers: list[int]) -> Any:
        calls.append(text)
        if kind == "thread":
            time.sleep(0.0)
        return {"text": text, "numbers": numbers, "none": None}

    async def suspends(text: str, numbers: list[int]) -> Any:
        await asyncio.sleep(0.0)
        return plain(text, numbers)

    if kind == "async":
        return op(**options)(suspends)
    return op(thread=kind == "thread", **options)(plain)


@pytest.mark.parametrize("kind", ["inline", "thread", "async"])
def test_a_journaled_op_runs_once(tmp_path: Path, kind: str) -> None:
    """A second run takes its value from the file; without journal=True it runs."""
    path, calls = tmp_path / "run.db", list[Any]()
    for journal, expected in ((True, 1), (True, 1), (False, 2), (False, 3)):
        module = Counted(counting(kind, calls, journal=journal))
        value = ran(path, module, "a", client=echo(0.0))
        assert value == {"text": "A", "numbers": [1, 2], "none": None}
        assert len(calls) == expected
    assert [row.kind for row in rows(path)] == ["call", "op"]


def test_a_journaled_op_runs_for_other_arguments(tmp_path: Path) -> None:
    """Its arguments and the input are in its key; equal calls are kept apart."""
    path, calls = tmp_path / "run.db", list[Any]()

    @op(journal=True)
    def draw(text: str) -> int:
        calls.append(text)
        return len(calls)

    flow = Flow(lambda m, x: [draw("one"), draw("one"), draw(f"{x}")])
    first = mapped(path, flow, ["a", "b"], echo(0.0))
    assert first == [[1, 2, 3], [4, 5, 6]]
    assert mapped(path, flow, ["b", "a"], echo(0.0)) == [[4, 5, 6], [1, 2, 3]]
    assert calls == ["one", "one", "a", "one", "one", "b"]


def test_ops_of_one_name_are_two(tmp_path: Path) -> None:
    """Functions of the same name and arguments never share a value."""
    path = tmp_path / "run.db"

    class One:
        @staticmethod
        def measure(text: str) -> int:
            return 1

    class Two:
        @staticmethod
        def measure(text: str) -> int:
            return 2

    one, two = op(journal=True)(One.measure), op(journal=True)(Two.measure)
    flow = Flow(lambda m, x: [one(x), two(x)])
    for _ in range(2):
        assert ran(path, flow, "a", client=echo(0.0)) == [1, 2]


def test_what_a_journaled_op_may_return(tmp_path: Path) -> None:
    """A value that JSON would not give back as it is fails the op, not silently."""
    for value in ((1, 2), {1: "a"}, {"a": {2}}, float("nan"), object()):
        keeper = op(journal=True)(lambda x, v=value: v)
        with pytest.raises(JournalError, match="keeps JSON values only: return str"):
            ran(
                tmp_path / "run.db",
                Flow(lambda m, x, k=keeper: k(x)),
                "a",
                client=echo(),
            )
    assert rows(tmp_path / "run.db") == []


def test_what_a_journaled_op_may_be_given(tmp_path: Path) -> None:
    """Arguments that cannot be told from others are refused, before it runs."""
    keeper = op(journal=True)(lambda x, y: 1)
    flow = Flow(lambda m, x: keeper(x, object()))
    with pytest.raises(JournalError, match="identity"):
        ran(tmp_path / "run.db", flow, "a", client=echo())


def test_without_a_journal_it_is_an_op(tmp_path: Path) -> None:
    """A cache does not count, for it is asked about models only."""
    calls = list[Any]()
    module = Counted(counting("inline", calls, journal=True))
    for expected in (1, 2):
        ran(None, module, "a", client=echo(0.0), cache=tmp_path / "cache.db")
        assert len(calls) == expected


def test_a_failed_op_is_not_kept(tmp_path: Path) -> None:
    """It runs again, and what it gives then is kept."""
    path, calls = tmp_path / "run.db", list[Any]()

    @op(journal=True)
    def flaky(text: str) -> str:
        calls.append(text)
        if len(calls) == 1:
            raise ValueError("not yet")
        return "fine"

    flow = Flow(lambda m, x: flaky(x))
    with pytest.raises(ExecutionError, match="not yet"):
        ran(path, flow, "a", client=echo())
    assert [ran(path, flow, "a", client=echo()) for _ in range(2)] == ["fine", "fine"]
    assert len(calls) == 2


def test_an_op_in_a_journal_of_power(tmp_path: Path) -> None:
    """Its value is on the disk before it is used."""
    calls = list[Any]()
    module = Counted(counting("inline", calls, journal=True))
    with JournalStore(tmp_path / "run.db", durability="power") as store:
        for _ in range(2):
            ran(store, module, "a", client=echo(0.0))
            assert store.unsettled() == []
    assert calls == ["A"]


def test_a_call_outside_of_the_forward_is_in_the_journal(tmp_path: Path) -> None:
    """A module that is one call has a place like any other."""
    path = tmp_path / "run.db"
    ran(path, Ask(), "a", client=echo(0.0))
    assert [row.place for row in rows(path)] == ["0"]
