"""Tasks: those whose first step is made at once, where Python can (3.12), and groups.

Most of what an engine starts sends a request in its first step: made at once, the
request leaves a turn of the loop earlier, and what does not suspend needs no turn.
"""

import asyncio
import sys
from collections.abc import Coroutine, Iterable
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


def start_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, None],
    context: Context | None,
) -> asyncio.Task[None]:
    """Start a task; it may have ended when this returns.

    Args:
        loop: The running loop. If it has a task factory, that makes the task, its way.
        coroutine: What the task runs.
        context: What it runs in, None for a copy of the current context.
    """
    if sys.version_info >= (3, 12) and loop.get_task_factory() is None:
        return asyncio.Task(coroutine, loop=loop, context=context, eager_start=True)
    return loop.create_task(coroutine, context=context)


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what coroutines give; the first that raises cancels the others.

    Args:
        coroutines: What runs at the same time.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
