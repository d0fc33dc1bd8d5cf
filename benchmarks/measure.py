"""What the benchmarks share: timing, a server in a process of its own, a table."""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass

_SERVER = """
import sys
from inf_engine.testing import LoopbackServer
with LoopbackServer("fine", latency=float(sys.argv[1]), record=False) as server:
    print(server.base_url, flush=True)
    sys.stdin.readline()
    print(server.count, server.max_in_flight, flush=True)
"""


@dataclass(frozen=True)
class Figure:
    """One measured figure and what it is allowed to be."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    def line(self) -> str:
        """Return the figure as a line of the table."""
        verdict = ""
        if self.limit is not None:
            verdict = (
                f"{'ok' if self.value <= self.limit else 'OVER':<5}<= {self.limit:.3g}"
            )
        text = f"{self.value:10.3g} {self.unit}"
        return f"{self.name:<44}{text:<22}{verdict:<14}{self.note}"


async def timed(run: Callable[[], Awaitable[object]], repeats: int = 5) -> float:
    """Return the median seconds of some runs, after one that does not count."""
    await run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        await run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@contextlib.contextmanager
def server(
    latency: float,
) -> Generator[tuple[str, Callable[[], tuple[int, int]]], None, None]:
    """Run a loopback server in a process of its own.

    Yields:
        Its base URL, and a function that ends it and gives the number of requests and
        the most that were open at once.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(latency)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def end() -> tuple[int, int]:
        out, _ = process.communicate("\n", timeout=30)
        count, most = out.split()
        return int(count), int(most)

    try:
        yield process.stdout.readline().strip(), end
    finally:
        if process.poll() is None:
            process.communicate("\n", timeout=30)


def resident_mb() -> float:
    """Return the memory that the process holds now, in MB (Linux)."""
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return pages * resource.getpagesize() / 1e6


def in_children(code: str, times: int) -> list[dict[str, float]]:
    """Return the JSON that fresh interpreters print for some code, bytecode cached."""
    command = [sys.executable, "-c", code]
    with tempfile.TemporaryDirectory() as cache:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        outputs = [
            subprocess.run(
                command, capture_output=True, text=True, check=True, env=environ
            ).stdout
            for _ in range(times + 1)
        ]
    return [json.loads(output) for output in outputs[1:]]
