"""One timer for many waits of one length."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from inf_engine.clients.deadlines import Deadlines
from inf_engine.testing import VirtualTimeLoop


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Return the test on a loop on which waiting takes no time."""

    @functools.wraps(test)
    def run() -> None:
        VirtualTimeLoop.run(test())

    return run


async def waiting(deadlines: Deadlines, seconds: float) -> tuple[str, float]:
    """Wait with a deadline, and say how that ended and when."""
    loop = asyncio.get_running_loop()
    task = deadlines.begin()
    try:
        await asyncio.sleep(seconds)
        return "done", loop.time()
    except asyncio.CancelledError:
        if not deadlines.is_over(task):
            raise
        return "late", loop.time()
    finally:
        deadlines.end(task)


@virtual
async def test_each_wait_has_its_own_end() -> None:
    """Waits that began at different times end at theirs; others go on."""
    deadlines = Deadlines(10, asyncio.get_running_loop())
    tasks = []
    began = asyncio.get_running_loop().time()
    for seconds in (4, 20, 20, 9.5, 30):
        tasks.append(asyncio.ensure_future(waiting(deadlines, seconds)))
        await asyncio.sleep(1)
    ends = [began + at for at in (4, 11, 12, 12.5, 14)]
    words = ["done", "late", "late", "done", "late"]
    said = await asyncio.gather(*tasks)
    assert [word for word, _ in said] == words
    assert [at for _, at in said] == ends


@virtual
async def test_a_deadline_leaves_no_cancellation_behind() -> None:
    """After it, the task waits as if nothing had been."""
    deadlines = Deadlines(1, asyncio.get_running_loop())
    assert (await waiting(deadlines, 2))[0] == "late"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    async with asyncio.timeout(1):
        await asyncio.sleep(0.5)


@virtual
async def test_a_cancelled_wait_is_no_late_one() -> None:
    """Whoever cancels the task, before or at the deadline, has it cancelled."""
    loop = asyncio.get_running_loop()
    for at in (1, 2):
        task = asyncio.ensure_future(waiting(Deadlines(2, loop), 5))
        loop.call_later(at, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task


@virtual
async def test_a_task_that_was_cancelled_before_may_still_be_late() -> None:
    """What cleans up after a cancellation has deadlines like everything else."""
    deadlines = Deadlines(1, asyncio.get_running_loop())

    async def cleaning_up() -> tuple[str, float]:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            return await waiting(deadlines, 5)
        return "not cancelled", 0.0

    task = asyncio.ensure_future(cleaning_up())
    await asyncio.sleep(1)
    task.cancel()
    assert (await task)[0] == "late"


@virtual
async def test_another_error_at_the_deadline_is_not_swallowed() -> None:
    """The error of what was waited for comes out, and the books are clean."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(1, loop)
    task = deadlines.begin()
    with pytest.raises(OSError, match="hung up"):
        try:
            await asyncio.sleep(2)
        except asyncio.CancelledError as exc:
            raise OSError("hung up") from exc
        finally:
            deadlines.end(task)
    assert task.cancelling() == 0


@virtual
async def test_the_timer_waits_for_nobody_after_close() -> None:
    """Closed without waits there is no timer; with one, its deadline holds."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(1, loop)
    deadlines.end(deadlines.begin())
    deadlines.close()
    assert deadlines._timer is None
    task = asyncio.ensure_future(waiting(deadlines, 5))
    await asyncio.sleep(0)
    deadlines.close()
    assert (await task)[0] == "late"


@virtual
async def test_a_deadline_needs_a_task() -> None:
    """In a callback there is nothing to cancel."""
    loop = asyncio.get_running_loop()
    began = loop.create_future()

    def begin() -> None:
        with pytest.raises(RuntimeError, match="needs a task"):
            Deadlines(1, loop).begin()
        began.set_result(None)

    loop.call_soon(begin)
    await began
