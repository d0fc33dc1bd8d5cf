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
from typing import Any, NamedTuple

_SERVER = """
import json, sys
from inf_engine.testing import LoopbackServer
options = json.loads(sys.argv[1])
if options.pop("told", False):
    options["latency"] = lambda index, body: float(body["messages"][-1]["content"][:5])
with LoopbackServer(record=False, **options) as server:
    print(server.base_url, flush=True)
    sys.stdin.readline()
    print(json.dumps([server.count, server.statuses[200], server.max_in_flight]))
"""


class Seen(NamedTuple):
    """What a server saw: requests, those it answered well, the most at once."""

    count: int
    answered: int
    most: int


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
def served(
    *, answer: str = "fine", told: bool = False, **options: Any
) -> Generator[tuple[str, Callable[[], Seen]], None, None]:
    """Run a loopback server in a process of its own.

    Args:
        answer: What it says.
        told: Whether the last message begins with the seconds that it takes.
        **options: As for `LoopbackServer`.

    Yields:
        Its base URL, and a function that ends it and says what it saw.
    """
    given = json.dumps({"answer": answer, "told": told, **options})
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None

    def end() -> Seen:
        out, _ = process.communicate("\n", timeout=30)
        return Seen(*json.loads(out))

    try:
        yield process.stdout.readline().strip(), end
    finally:
        if process.poll() is None:
            process.communicate("\n", timeout=30)


def reached(url: str, **limits: Any) -> dict[str, Any]:
    """Return resources whose alias "m" is the server at a URL."""
    config = {"provider": "openai-compatible", "model": "m", "base_url": url, **limits}
    return {"endpoints": {"m": config}}


def cpu() -> float:
    """Return the CPU seconds of this process until now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


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
