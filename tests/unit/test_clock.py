"""`VirtualTimeLoop`: waiting takes no time, and times are exact."""

import asyncio
import sys
import threading
import time

import pytest

from inf_engine.testing import VirtualTimeLoop


def test_sleeping_jumps_to_the_next_timer() -> None:
    """An hour takes no time, and the clock says an hour."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        seen = [loop.time()]
        for seconds in (3600, 0.25, 0):
            await asyncio.sleep(seconds)
            seen.append(loop.time())
        return seen

    started = time.monotonic()
    assert VirtualTimeLoop.run(main()) == [0.0, 3600.0, 3600.25, 3600.25]
    assert time.monotonic() - started < 5


def test_timers_fire_in_order_of_their_time() -> None:
    """Whatever the order in which they were set."""
    seen: list[int] = []

    async def note(seconds: int) -> None:
        await asyncio.sleep(seconds)
        seen.append(seconds)

    async def main() -> None:
        await asyncio.gather(*map(note, [5, 1, 3]))

    VirtualTimeLoop.run(main())
    assert seen == [1, 3, 5]


def test_the_clock_stands_still_while_a_thread_is_busy() -> None:
    """What a thread does takes no virtual time."""

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        timer = asyncio.ensure_future(asyncio.sleep(10))
        await asyncio.to_thread(time.sleep, 0.02)
        after_thread = loop.time()
        await timer
        return after_thread, loop.time()

    assert VirtualTimeLoop.run(main()) == (0.0, 10.0)


def test_the_clock_stands_still_until_a_result_is_handed_over() -> None:
    """A thread that is interrupted between its last steps is still at work."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        timer = asyncio.ensure_future(asyncio.sleep(10))
        await asyncio.to_thread(int)
        timer.cancel()
        return loop.time()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert {VirtualTimeLoop.run(main()) for _ in range(600)} == {0.0}
    finally:
        sys.setswitchinterval(before)


def test_a_thread_that_nobody_waits_for_any_more_still_holds_the_clock() -> None:
    """It ends when it ends, not when its future is cancelled."""
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(5)
        done.set()

    async def main() -> None:
        task = asyncio.ensure_future(asyncio.to_thread(work))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        asyncio.get_running_loop().call_soon(go.set)
        await asyncio.sleep(100)
        assert done.is_set()

    VirtualTimeLoop.run(main())


def test_exceptions_and_results_of_threads_arrive() -> None:
    """As with any loop."""

    def fail() -> None:
        raise LookupError("in a thread")

    async def main() -> int:
        with pytest.raises(LookupError, match="in a thread"):
            await asyncio.to_thread(fail)
        return await asyncio.to_thread(lambda: 7)

    assert VirtualTimeLoop.run(main()) == 7


def test_a_deadlock_is_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ready, no timer, no thread: nothing can ever happen."""
    monkeypatch.setattr("inf_engine.testing.clock._DEADLOCK_SECONDS", 0.01)

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="deadlock on a VirtualTimeLoop"):
        VirtualTimeLoop.run(main())


def test_a_timeout_fires_at_its_time() -> None:
    """asyncio.timeout goes by the loop's clock."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.sleep(1000)
        return asyncio.get_running_loop().time()

    assert VirtualTimeLoop.run(main()) == 7.0
