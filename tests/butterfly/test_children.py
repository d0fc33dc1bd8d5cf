"""Node processes of `serve`: who dies is replaced, who has a wrong setup is told."""

import asyncio
import os
import signal
import sys
from typing import Any

import pytest

from butterfly.cluster import children as module
from butterfly.cluster.children import Children


def test_a_child_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none is left in the end; one that ends with 2 has a wrong setup."""
    monkeypatch.setattr(module, "_EARLY", 0.0)  # it is no child that can never live

    async def main() -> None:
        children = Children(1, "127.0.0.1", 1, "s")
        children._command = [sys.executable, "-c", "import time; time.sleep(60)"]
        children.start()
        first = await running(children)
        os.kill(first.pid, signal.SIGKILL)
        second = await running(children, first)
        assert second.pid != first.pid and not children.refused.is_set()
        children._command = [sys.executable, "-c", "raise SystemExit(2)"]
        os.kill(second.pid, signal.SIGKILL)
        await asyncio.wait_for(children.refused.wait(), 30)
        monkeypatch.setattr(module, "_PARTING", 0.0)
        await children.close()
        assert all(p.returncode is not None for p in children._processes.values())

    asyncio.run(main())


async def running(children: Children, other: Any = None) -> Any:
    """Return the child, when there is one that is not another one."""
    async with asyncio.timeout(30):
        while children._processes.get(0) is other:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    return children._processes[0]
