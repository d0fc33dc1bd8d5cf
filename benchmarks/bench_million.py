"""1,000,000 inputs x 5 no-op nodes through `stream`: does memory stay flat?

The inputs come from a generator and the results are dropped, so whatever stays was
kept by the engine. It runs in an interpreter of its own: what other benchmarks left
behind in this one would be counted too, or reused and not counted. BENCH_INPUTS in the
environment makes it shorter.
"""

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.bench_noop import Diamond
from benchmarks.measure import Figure, resident_mb
from inf_engine import Engine
from inf_engine.testing import FunctionClient

INPUTS, NODES, WARM, LOOK_EVERY = 1_000_000, 5, 5_000, 5_000
LIMIT = 50.0
_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from benchmarks.bench_million import child
child(int(sys.argv[2]))
"""


@dataclass(frozen=True)
class Told:
    """What the child tells: MB after the first inputs, most MB after, CPU, wall."""

    inputs: int
    warm: float
    most: float
    cpu: float
    wall: float


async def streamed(inputs: int) -> Told:
    """Stream so many inputs; times begin with the first one."""
    warm = most = 0.0
    done = 0
    client = FunctionClient(lambda _: "")
    async with Engine({"unused": client}, progress=False) as engine:
        began, cpu_began = time.perf_counter(), time.process_time()
        async for result in engine.stream(Diamond(), (n for n in range(inputs))):
            result.unwrap()
            done += 1
            if done == WARM:
                gc.collect()
                warm = resident_mb()
            elif done % LOOK_EVERY == 0:
                most = max(most, resident_mb())
        cpu, wall = time.process_time() - cpu_began, time.perf_counter() - began
    return Told(done, warm, max(most, resident_mb()), cpu, wall)


def child(inputs: int) -> None:
    """Measure in this interpreter, and print what `measure` reads."""
    print(json.dumps(asdict(asyncio.run(streamed(inputs)))))


async def measure() -> list[Figure]:
    """Return the figures of one run in an interpreter of its own."""
    inputs = int(os.environ.get("BENCH_INPUTS", INPUTS))
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", _CHILD, root, str(inputs)]
    done = subprocess.run(  # noqa: ASYNC221
        command, stdout=subprocess.PIPE, text=True, check=True
    )
    told = Told(**json.loads(done.stdout))
    each = told.cpu / told.inputs / NODES * 1e6
    what = f"{told.inputs:,} inputs x {NODES} no-op nodes"
    note = f"after the first {WARM:,}; {told.warm:.0f} MB there"
    return [
        Figure(f"{what}, growth", told.most - told.warm, "MB", LIMIT, note),
        Figure("the same: CPU", each, "us a node", None, f"{told.wall:.0f} s in all"),
    ]
