"""`Children`: the node processes that `butterfly serve` starts on its own machine.

A child ends when its control connection closes, so none outlives the head, however
that ends. One that dies is replaced; one that ends with 2 says that its setup is wrong.
They stand in process groups of their own: Ctrl-C is the head's, which sends them home.
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
from asyncio.subprocess import DEVNULL, Process

from butterfly.config import API_KEY, SECRET, place_of

_log = logging.getLogger("butterfly.children")
_EARLY = 30.0  # a child that lives shorter than these seconds may never live
_MOST_PAUSE = 30.0  # seconds
_SETUP = 2  # the exit code for a wrong setup
_PARTING = 3.0  # seconds to go home


class Children:
    """Node processes on this machine.

    Args:
        count: How many.
        host: Where the head is.
        port: Its control port.
        secret: The cluster's secret.
        options: More options for `butterfly node`.
    """

    def __init__(
        self, count: int, host: str, port: int, secret: str, *options: str
    ) -> None:
        self._command = [sys.executable, "-m", "butterfly", "node"]
        self._command += ["--join", place_of(host, port), *options]
        self._environ = {**os.environ, SECRET: secret}
        self._environ.pop(API_KEY, None)  # it is none of their business
        self._count = count
        self._processes: dict[int, Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.refused = asyncio.Event()
        """Set when one ended with 2: its setup is wrong."""

    def start(self) -> None:
        """Start them, and replace those that die from now on."""
        self._tasks = [asyncio.ensure_future(self._keep(n)) for n in range(self._count)]

    async def release(self) -> None:
        """Replace them no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Wait for them to go home, and end those that do not."""
        await self.release()
        waits = [asyncio.ensure_future(p.wait()) for p in self._processes.values()]
        if waits:
            await asyncio.wait(waits, timeout=_PARTING)
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*waits)

    async def _keep(self, number: int) -> None:
        """Run one child, again and again."""
        pause = 0.0
        while True:
            began = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *("--name", f"node-{number + 1}"),
                stdin=DEVNULL,
                env=self._environ,
                process_group=0,
            )
            self._processes[number] = process
            code = await process.wait()
            if code == _SETUP:
                self.refused.set()
            lived = time.monotonic() - began
            pause = min(_MOST_PAUSE, 2 * pause + 1.0) if lived < _EARLY else 0.0
            _log.warning("node-%d ended with %d: starting another", number + 1, code)
            await asyncio.sleep(pause)
