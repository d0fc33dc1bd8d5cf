"""`Engine.run` at the far end: what the client got, and exactly when."""

import asyncio
import contextvars
import gc
import os
import signal
import threading
import weakref
from collections import Counter
from typing import Any

import pytest
from tests.integration.engine_helpers import (
    Ask,
    Compare,
    Flow,
    echo,
    limited,
    run,
    virtually,
)

from inf_engine import (
    Engine,
    EngineStateError,
    ExecutionError,
    InferenceModule,
    LLMInference,
    op,
)
from inf_engine.errors import EndpointServerError, RateLimitError
from inf_engine.testing import VirtualTimeLoop


def test_independent_calls_leave_together_and_the_join_after_both() -> None:
    """Two calls leave at 0, the call that needs both at 1."""
    client = echo()
    assert run(Compare(), "a", "b", client=client) == "A+B"
    assert client.arrivals == [0.0, 0.0, 1.0]
    assert client.prompts == ["a", "b", "A+B"]
    assert client.closed


def test_an_output_keeps_the_shape_that_forward_returned() -> None:
    """Lists, dicts and texts with proxies in them come back filled in."""
    module = Flow(lambda m, x: {"a": [m.llm(x), 1], "b": f"<{m.llm('y')}>"})
    assert run(module, "x", client=echo()) == {"a": ["X", 1], "b": "<Y>"}


def test_all_keywords_are_the_modules() -> None:
    """No keyword of run is the engine's own."""

    class Keywords(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.llm = LLMInference("m")

        def forward(self, *, module: str, timeout: str, self_: str = "s") -> Any:
            return self.llm(module + timeout + self_)

    async def main() -> Any:
        async with Engine({"m": echo()}) as engine:
            return await engine.run(Keywords(), module="a", timeout="b")

    assert virtually(main) == "ABS"


def test_a_bound_module_is_awaited_like_a_function() -> None:
    """module.bind(engine) makes await module(x) a run."""

    async def main() -> Any:
        async with Engine({"m": echo()}) as engine:
            return await Compare().bind(engine)("a", "b")

    assert virtually(main) == "A+B"


def test_cancelling_the_caller_cancels_every_request_and_leaves_no_task() -> None:
    """A cancelled run closes its requests at once, and frees their slots."""

    async def main() -> Any:
        client = echo(10.0)
        async with Engine(limited(client)) as engine:
            task = asyncio.ensure_future(engine.run(Compare(), "a", "b"))
            await asyncio.sleep(3)
            assert client.in_flight == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert (client.in_flight, client.cancelled) == (0, 1)
            assert await engine.run(Ask(), "next") == "NEXT"
            return client.arrivals

    assert virtually(main) == [0.0, 3.0]


def test_a_thousand_tiny_runs_leave_no_task_and_no_object() -> None:
    """What a run needed is gone once its result is dropped."""

    async def main() -> None:
        async with Engine({"m": echo(0.0)}) as engine:
            seen: list[weakref.ref[Any]] = []

            class Value:
                pass

            @op
            def make(text: str) -> Value:
                value = Value()
                seen.append(weakref.ref(value))
                return value

            module = Flow(lambda m, x: make(m.llm(x)))
            await asyncio.gather(*[engine.run(module, "x") for _ in range(1000)])
            await asyncio.sleep(0)  # the loop still holds what woke this task
            gc.collect()
            assert len(seen) == 1000
            assert sum(ref() is not None for ref in seen) == 0
            assert len(asyncio.all_tasks()) == 1

    virtually(main)


@pytest.mark.parametrize("mode", ["inline", "thread", "async"])
def test_an_op_runs_in_its_mode_once_its_arguments_are_known(mode: str) -> None:
    """Inline and async ops run in the loop's thread, thread ops in another."""
    home = threading.get_ident()
    ran_in = []

    def plain(text: str) -> str:
        ran_in.append(threading.get_ident())
        return text + "!"

    async def coroutine(text: str) -> str:
        await asyncio.sleep(2)
        return plain(text)

    node: Any = {"inline": op(plain), "thread": op(thread=True)(plain)}.get(mode)
    node = node or op(coroutine)
    client = echo()
    module = Flow(lambda m, x: m.llm(node(m.llm(x))))
    assert run(module, "x", client=client) == "X!"
    assert client.arrivals == [0.0, 3.0 if mode == "async" else 1.0]
    assert (ran_in[0] == home) is (mode != "thread")


def test_the_callers_context_reaches_forward_ops_and_clients() -> None:
    """A ContextVar set before run is seen on the whole way, run_sync included."""
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    client = echo(0.0, lambda r: f"{r.prompt}:{who.get()}")
    node = op(thread=True)(lambda text: f"{text}:{who.get()}")
    module = Flow(lambda m, x: node(m.llm(f"{x}:{who.get()}")))
    who.set("ann")
    with Engine({"m": client}) as engine:
        assert engine.run_sync(module, "x") == "x:ann:ann:ann"


# -- run_sync ---------------------------------------------------------------------


async def test_run_sync_works_inside_a_running_loop() -> None:
    """As in a notebook: it runs on a thread of the engine's own."""
    with Engine({"m": echo(0.0)}) as engine:
        assert engine.run_sync(Ask(), "a") == "A"
        assert Ask().bind(engine).run_sync("b") == "B"


def test_run_sync_from_several_threads_shares_one_loop() -> None:
    """Threads that start at once get one private loop, which close ends."""
    client = echo(0.0)
    engine = Engine({"m": client})
    barrier = threading.Barrier(8)
    got: list[Any] = []

    def work(number: int) -> None:
        barrier.wait()
        got.append(engine.run_sync(Ask(), f"q{number}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [f"Q{n}" for n in range(8)]
    assert [t.name for t in threading.enumerate()].count("inf-engine") == 1
    engine.close()
    assert "inf-engine" not in [t.name for t in threading.enumerate()]
    assert client.closed


def test_run_sync_raises_what_run_raises() -> None:
    """Errors cross the thread unchanged."""
    with (
        Engine({"m": echo(0.0, lambda r: ValueError("no"))}) as engine,
        pytest.raises(ExecutionError, match="'llm#1' .alias 'm'. failed: ValueError"),
    ):
        engine.run_sync(Ask(), "a")


def test_run_sync_inside_a_forward_of_the_same_engine_is_refused() -> None:
    """It would wait for itself."""
    with Engine({"m": echo(0.0)}) as engine:
        module = Flow(lambda m, x: engine.run_sync(Ask(), x))
        with pytest.raises(EngineStateError, match="on the engine's own loop"):
            engine.run_sync(module, "a")


def test_closing_an_engine_that_never_ran_closes_its_clients() -> None:
    """`with Engine(...)` closes clients that were handed in, used or not."""
    client = echo()
    with Engine({"m": client, "n": client}):
        pass
    assert client.closed


def test_an_interrupt_in_run_sync_cancels_the_run() -> None:
    """KeyboardInterrupt in an op leaves run_sync, and the engine still works."""

    @op
    def interrupt(text: str) -> str:
        raise KeyboardInterrupt

    async def main() -> Any:
        client = echo(5.0)
        module = Flow(lambda m, x: [m.llm(x), interrupt(x)])
        engine = Engine({"m": client})
        try:
            await engine.run(module, "a")
        finally:
            assert client.in_flight == 0
            assert engine._scheduler._alive == {}

    with pytest.raises(KeyboardInterrupt):
        VirtualTimeLoop.run(main())


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_cancels_what_is_in_flight() -> None:
    """asyncio turns the signal into a cancelled main task, and the run goes with it."""
    client = echo(5.0)
    press = op(lambda text: signal.raise_signal(signal.SIGINT))
    module = Flow(lambda m, x: [m.llm("b"), press(m.llm(x))])
    client._latency = lambda r: 1.0 if r.prompt == "a" else 90.0

    async def main() -> None:
        async with Engine({"m": client}) as engine:
            await engine.run(module, "a")

    with pytest.raises(KeyboardInterrupt):
        VirtualTimeLoop.run(main())
    assert (client.in_flight, client.cancelled, client.closed) == (0, 1, True)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_in_run_sync_cancels_the_run_on_the_private_loop() -> None:
    """The caller gets KeyboardInterrupt at once; close finds nothing in flight."""

    main_thread = threading.get_ident()

    def press(request: Any) -> Any:
        signal.pthread_kill(main_thread, signal.SIGINT)
        return asyncio.sleep(90)

    client = echo(0.0, press)
    with Engine({"m": client}) as engine, pytest.raises(KeyboardInterrupt):
        engine.run_sync(Ask(), "a")
    assert (client.in_flight, client.cancelled) == (0, 1)


# -- order ------------------------------------------------------------------------


def prompts_of(main: Any, slots: int = 1) -> list[str]:
    """The order in which requests reach a client with few slots."""
    client = echo()

    async def whole() -> None:
        async with Engine(limited(client, slots)) as engine:
            await main(engine)

    virtually(whole)
    assert client.max_in_flight <= slots
    assert client.arrivals == [float(n // slots) for n in range(len(client.arrivals))]
    return client.prompts


def test_higher_priority_goes_first() -> None:
    """Of runs that begin at the same moment, the one of higher priority leaves."""

    async def main(engine: Engine) -> None:
        await asyncio.gather(
            engine.run(Ask(), "low"),
            engine.using(priority=-1).run(Ask(), "lowest"),
            engine.using(priority=2).run(Ask(), "high"),
        )

    assert prompts_of(main) == ["high", "low", "lowest"]


def test_the_oldest_input_goes_first() -> None:
    """A later call of an older input goes before the first call of a newer one."""

    def chain(m: Any, x: str) -> Any:
        return m.llm(f"{m.llm(f'{x}0')}1")

    async def main(engine: Engine) -> None:
        await engine.map(Flow(chain), ["a", "b", "c"])

    assert prompts_of(main) == ["a0", "A01", "b0", "B01", "c0", "C01"]


def test_the_oldest_of_those_that_wait_goes_first() -> None:
    """An async forward asks a turn after its answer: a slot does not wait for it."""

    class AsyncChain(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.llm = LLMInference("m")

        async def forward(self, x: str) -> Any:
            return await self.llm.acall((await self.llm.acall(f"{x}0")) + "1")

    async def main(engine: Engine) -> None:
        await engine.map(AsyncChain(), ["a", "b", "c"])

    assert prompts_of(main) == ["a0", "b0", "A01", "B01", "c0", "C01"]


def test_no_slot_is_idle_at_the_end_of_a_batch() -> None:
    """50 x (2 + 1) calls on 10 slots take 15 rounds: the last joins leave together."""
    client = echo()

    async def main() -> None:
        async with Engine(limited(client, 10), progress=False) as engine:
            inputs = [str(n) for n in range(50)]
            await engine.map(Compare(), inputs, inputs)

    virtually(main)
    assert Counter(client.arrivals) == dict.fromkeys(map(float, range(15)), 10)


def test_of_one_input_the_longest_path_goes_first_then_trace_order() -> None:
    """A call that others wait for goes before calls recorded earlier."""

    def forward(m: Any) -> Any:
        short = [m.llm("s1"), m.llm("s2")]
        return short, m.llm(f"{m.llm(m.llm('long'))}!")

    async def main(engine: Engine) -> None:
        await engine.run(Flow(forward))

    assert prompts_of(main) == ["long", "LONG", "s1", "s2", "LONG!"]


def test_slots_are_shared_by_everything_in_the_engine() -> None:
    """Two maps and two runs at once never have more than the slots in flight."""

    async def main(engine: Engine) -> None:
        await asyncio.gather(
            engine.map(Ask(), "abcde"),
            engine.map(Compare(), "fg", "hi"),
            engine.run(Ask(), "x"),
            engine.using(priority=1).run(Ask(), "y"),
        )

    assert len(prompts_of(main, slots=3)) == 13


def test_a_retry_waits_without_a_slot() -> None:
    """While one request waits to be tried again, the other has the slot."""
    tried: list[str] = []

    def answer(request: Any) -> Any:
        tried.append(request.prompt)
        if tried.count("a") == 1 and request.prompt == "a":
            return EndpointServerError("down", retry_after=5.0)
        return "ok"

    client = echo(1.0, answer)

    async def main() -> None:
        async with Engine(limited(client)) as engine:
            await engine.map(Ask(), ["a", "b", "c"])

    virtually(main)
    assert client.prompts == ["a", "b", "c", "a"]
    assert client.arrivals == [0.0, 1.0, 2.0, 6.0]


def test_a_rate_limit_pauses_the_endpoint_for_all() -> None:
    """After the pause the refused request is the probe, in front of all others."""
    script: list[Any] = [RateLimitError("slow down", retry_after=5.0)]
    client = echo(1.0, lambda r: script.pop() if script else r.prompt)

    async def main() -> None:
        async with Engine(limited(client)) as engine:
            await engine.map(Ask(), ["a", "b", "c"])

    virtually(main)
    assert client.prompts == ["a", "a", "b", "c"]
    assert client.arrivals == [0.0, 6.0, 7.0, 8.0]
