"""`unless_gone`: work that ends when the client who asked for it leaves."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")


async def unless_gone(http: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what work gives; None if the client left before, which ends it.

    Args:
        http: The request; its body was read.
        work: The work.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(http: Request) -> None:
    """Wait until the client has left."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
