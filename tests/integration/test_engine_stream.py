"""`map`, `stream` and `stream_tokens`: order, laziness, back-pressure, leaving."""

import asyncio
import gc
import itertools
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.integration.engine_helpers import (
    Ask,
    Compare,
    Flow,
    echo,
    engines,
)

from inf_engine import (
    ConfigurationError,
    Engine,
    EngineStateError,
    ExecutionError,
    InferenceModule,
    ModuleError,
    Result,
)
from inf_engine.types import LLMRequest, Usage


class Same(InferenceModule):
    """A forward that calls nothing."""

    def forward(self, value: Any) -> Any:
        return value


class Counted:
    """An endless iterator that counts how often it was asked."""

    def __init__(self) -> None:
        self.pulled = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.pulled += 1
        return str(self.pulled - 1)


class CountedAsync(Counted):
    """The same, async, one item each `pause` seconds."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        self.pause = pause

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        await asyncio.sleep(self.pause)
        return next(self)


async def aiter_of(*items: str) -> AsyncIterator[str]:
    """An async generator."""
    for item in items:
        await asyncio.sleep(0)
        yield item


# -- map --------------------------------------------------------------------------


def test_map_gives_outputs_in_input_order_and_runs_them_at_once() -> None:
    """The first input is the slowest, and still the first in the list."""
    client = echo(lambda r: 5.0 - len(r.prompt))
    assert engines(lambda e: e.map(Ask(), ["a", "bb", "ccc"]), client) == [
        "A",
        "BB",
        "CCC",
    ]
    assert client.arrivals == [0.0] * 3


def test_map_zips_its_iterables_like_the_builtin() -> None:
    """The shortest iterable ends it, also among sync and async ones."""
    wanted = ["A+1", "B+2"]
    assert engines(lambda e: e.map(Compare(), "abc", ["1", "2"])) == wanted
    mixed = engines(lambda e: e.map(Compare(), aiter_of(*"abc"), iter("12")))
    assert mixed == wanted
    assert engines(lambda e: e.map(Compare(), "ab", CountedAsync())) == ["A+0", "B+1"]


@pytest.mark.parametrize("inputs", [[], (), iter([]), aiter_of()])
def test_no_inputs_give_no_results(inputs: Any) -> None:
    """An empty iterable of any kind is an empty list."""
    assert engines(lambda e: e.map(Ask(), inputs)) == []


def test_map_raises_the_failure_that_came_first_and_cancels_the_rest() -> None:
    """The error names its node; what was in flight is closed when it is raised."""

    def answer(request: LLMRequest) -> Any:
        return ValueError("bad") if request.prompt == "2" else request.prompt

    client = echo(lambda r: float(r.prompt), answer)

    async def body(engine: Engine) -> None:
        with pytest.raises(ExecutionError, match="'llm#1'") as caught:
            await engine.map(Ask(), ["3", "2", "9"])
        assert caught.value.__notes__ == ["It was input 1 of the map."]
        assert asyncio.get_running_loop().time() == 2.0
        assert client.in_flight == 0
        assert len(asyncio.all_tasks()) == 1

    engines(body, client)
    assert client.cancelled == 2


def test_a_failing_run_has_ended_all_its_tasks_when_map_raises() -> None:
    """Also the other requests of the very run that failed are closed by then."""

    async def slow_goodbye(request: LLMRequest) -> Any:
        if request.prompt == "bad":
            return ValueError("bad")
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(3)

    client = echo(1.0, slow_goodbye)
    module = Flow(lambda m, x: [m.llm(x), m.llm("other")])

    async def body(engine: Engine) -> None:
        with pytest.raises(ExecutionError):
            await engine.map(module, ["bad"])
        assert client.in_flight == 0

    engines(body, client)


def test_map_collects_when_asked_to() -> None:
    """errors="collect" gives a Result for each input, failed ones too."""

    def answer(request: LLMRequest) -> Any:
        return ValueError("bad") if request.prompt == "b" else request.prompt

    async def body(engine: Engine) -> list[Any]:
        one = await engine.map(Ask(), "abc", errors="collect")
        two = await engine.using(errors="collect").map(Ask(), "abc")
        return [one, two]

    for results in engines(body, echo(1.0, answer)):
        assert [r.ok for r in results] == [True, False, True]
        assert [r.index for r in results] == [0, 1, 2]
        assert [r.inputs for r in results] == [("a",), ("b",), ("c",)]
        assert [r.output for r in results] == ["a", None, "c"]
        assert [r.seconds for r in results] == [1.0] * 3
        assert results[0].usage.requests == 1
        assert results[0].unwrap() == "a"
        assert results[0].record is None
        with pytest.raises(ExecutionError, match="ValueError: bad"):
            results[1].unwrap()
        with pytest.raises(AttributeError):
            results[0].output = "x"


def test_map_with_record_gives_results_with_records() -> None:
    """record=True keeps what happened, and raises as without it."""
    results = engines(lambda e: e.map(Compare(), "a", "b", record=True))
    assert results[0].record.output == "A+B"
    assert [n.name for n in results[0].record.nodes] == [
        "extract#1",
        "extract#2",
        "join#1",
    ]


def test_map_refuses_an_unknown_error_policy() -> None:
    """The policies are named."""
    with pytest.raises(ConfigurationError, match="errors must be 'raise' or 'collect'"):
        engines(lambda e: e.map(Ask(), "a", errors="ignore"))


@pytest.mark.parametrize(
    ("iterables", "message"),
    [((), "at least one iterable"), ((5,), "argument 1 of map or stream .* not int")],
)
def test_map_refuses_what_is_no_iterable(iterables: Any, message: str) -> None:
    """A single value is an input of run, not of map."""
    with pytest.raises(ModuleError, match=message):
        engines(lambda e: e.map(Ask(), *iterables))


# -- stream -----------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
def test_stream_yields_as_they_finish_or_in_order(ordered: bool) -> None:
    """Unordered: the fastest first. Ordered: the first input first."""
    client = echo(lambda r: float(r.prompt))

    async def body(engine: Engine) -> list[tuple[int, float]]:
        loop = asyncio.get_running_loop()
        stream = engine.stream(Ask(), ["3", "1", "2"], ordered=ordered)
        return [(r.index, loop.time()) async for r in stream]

    wanted = [(0, 3.0), (1, 3.0), (2, 3.0)] if ordered else [(1, 1), (2, 2), (0, 3)]
    assert engines(body, client) == wanted


@pytest.mark.parametrize("source", [Counted, CountedAsync])
@pytest.mark.parametrize("ordered", [False, True])
def test_an_endless_iterable_is_pulled_lazily(source: Any, ordered: bool) -> None:
    """Never more than max_inflight inputs are ahead of what was taken."""
    inputs = source()

    async def body(engine: Engine) -> None:
        taken = 0
        async for result in engine.stream(Ask(), inputs, ordered=ordered):
            assert result.ok
            taken += 1
            assert inputs.pulled <= taken + 3
            if taken == 20:
                break

    client = echo(lambda r: float(int(r.prompt) % 4 + 1))
    engines(body, client, max_inflight=3)
    assert client.max_in_flight == 3
    assert inputs.pulled <= 23


@pytest.mark.parametrize("module", [Same(), Ask()])
def test_a_slow_consumer_holds_the_producer_back(module: InferenceModule) -> None:
    """Results nobody has taken count as inflight."""
    inputs = Counted()

    async def body(engine: Engine) -> None:
        taken = 0
        async for _ in engine.stream(module, inputs):
            taken += 1
            await asyncio.sleep(50)
            assert inputs.pulled <= taken + 2
            if taken == 10:
                return

    engines(body, max_inflight=2)


def test_leaving_the_loop_stops_pulling_and_cancels_what_is_in_flight() -> None:
    """After break nothing is in flight, nothing is pulled, no task is left."""
    inputs, client = Counted(), echo(lambda r: 1.0 if r.prompt == "0" else 100.0)

    async def body(engine: Engine) -> None:
        async for _ in engine.stream(Ask(), inputs):
            break
        for _ in range(10):
            await asyncio.sleep(0)
        assert client.in_flight == 0
        assert len(asyncio.all_tasks()) == 1
        assert asyncio.get_running_loop().time() == 1.0

    engines(body, client, max_inflight=8)
    assert (inputs.pulled, client.cancelled) == (8, 7)


def test_an_error_in_the_loop_body_leaves_nothing_behind() -> None:
    """As break, by an exception."""
    client = echo(lambda r: float(r.prompt))

    async def body(engine: Engine) -> None:
        with pytest.raises(ZeroDivisionError):
            async for result in engine.stream(Ask(), ["1", "50", "60"]):
                _ = result.index / 0
        for _ in range(10):
            await asyncio.sleep(0)
        assert client.in_flight == 0

    engines(body, client)


def test_cancelling_a_stream_that_waits_for_an_async_input_stops_it() -> None:
    """The pull that was awaited is cancelled with the rest."""

    async def body(engine: Engine) -> None:
        task = asyncio.ensure_future(engine.map(Ask(), CountedAsync(pause=7.0)))
        await asyncio.sleep(10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    engines(body)


async def broken_async() -> AsyncIterator[str]:
    """Two items, then an error."""
    yield "1"
    yield "2"
    raise OSError("the disk is gone")


def broken() -> Iterator[str]:
    """The same, sync."""
    yield from ["1", "2"]
    raise OSError("the disk is gone")


@pytest.mark.parametrize("source", [broken, broken_async])
@pytest.mark.parametrize("ordered", [False, True])
def test_an_iterable_that_raises_loses_nothing_that_was_paid(
    source: Any, ordered: bool
) -> None:
    """The results of what had been pulled come first, then the error."""
    got: list[Any] = []

    async def body(engine: Engine) -> None:
        async for result in engine.stream(Ask(), source(), ordered=ordered):
            got.append(result.output)

    with pytest.raises(OSError, match="the disk is gone"):
        engines(body, echo(lambda r: float(r.prompt)))
    assert got == ["1", "2"]


def test_a_failed_input_costs_only_itself() -> None:
    """A stream goes on after a failure."""

    def answer(request: LLMRequest) -> Any:
        return ValueError("bad") if request.prompt == "1" else request.prompt

    async def body(engine: Engine) -> list[Any]:
        stream = engine.stream(Ask(), "0123", ordered=True)
        return [r.ok async for r in stream]

    assert engines(body, echo(1.0, answer)) == [True, False, True, True]


def test_a_trivial_module_does_not_starve_the_loop() -> None:
    """Another task gets its turn every sixteen inputs, at least."""
    turns = 0

    async def body(engine: Engine) -> None:
        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        try:
            async for result in engine.stream(Same(), itertools.count()):
                if result.output >= 500:
                    break
        finally:
            task.cancel()
            await asyncio.wait([task])

    engines(body)
    assert turns >= 500 // 16


def test_results_are_not_retained() -> None:
    """What a stream has handed out is gone when the consumer drops it."""

    class Value:
        pass

    seen: list[weakref.ref[Any]] = []

    def values() -> Iterator[Value]:
        for _ in range(40):
            value = Value()
            seen.append(weakref.ref(value))
            yield value

    async def body(engine: Engine) -> None:
        most = 0
        async for result in engine.stream(Same(), values()):
            at = result.index
            del result
            if at % 8:
                continue
            gc.collect()
            most = max(most, sum(ref() is not None for ref in seen))
        assert most <= 10

    engines(body, max_inflight=4)


def test_closing_the_engine_ends_a_stream_with_an_error() -> None:
    """A stream whose engine is closed does not go on against closed clients."""

    async def body(engine: Engine) -> None:
        with pytest.raises(EngineStateError, match="this engine is closed"):
            async for _ in engine.stream(Ask(), Counted()):
                await engine.aclose()

    engines(body, max_inflight=2)


def test_an_interrupt_in_forward_leaves_the_stream() -> None:
    """KeyboardInterrupt is never a mere result."""

    def forward(m: Any, x: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engines(lambda e: e.map(Flow(forward), "a", errors="collect"))


def test_the_default_keeps_every_slot_busy() -> None:
    """Without max_inflight at least two inputs a slot are alive."""
    client = echo()

    async def body(engine: Engine) -> None:
        await engine.map(Ask(), map(str, range(300)))

    engines(body, client)
    assert client.max_in_flight == 128
    assert client.arrivals[-1] == 2.0


def test_a_result_is_a_frozen_record_of_one_input() -> None:
    """Result is public."""
    result = Result(0, ("a",), "A", None, Usage(), 1.0)
    assert result.ok
    assert result.unwrap() == "A"


@pytest.mark.parametrize("is_async", [False, True])
def test_generators_of_inputs_are_closed_when_a_stream_is_left(is_async: bool) -> None:
    """Their finally runs then, not when the garbage collector comes by."""
    closed = []

    def endless() -> Iterator[str]:
        try:
            while True:
                yield "a"
        finally:
            closed.append("sync")

    async def endless_too() -> AsyncIterator[str]:
        try:
            while True:
                yield "b"
        finally:
            closed.append("async")

    inputs = [endless(), endless_too()] if is_async else [endless()]

    async def body(engine: Engine) -> None:
        stream = engine.stream(Flow(lambda m, *x: m.llm(x[0])), *inputs)
        async for _ in stream:
            break
        await stream.aclose()
        assert closed == (["sync", "async"] if is_async else ["sync"])

    engines(body)
