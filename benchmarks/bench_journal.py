"""The journal on against off, at about 1,000 results a second.

A server that takes 50 ms, and 60 slots: with what a call costs besides, that is about
1,000 calls a second. Prompts and answers are of 1,000 characters. In each round a batch
runs without a journal and one with a new journal, on new engines; every answer is
committed before it is used.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Figure, cpu, reached, served
from inf_engine import Engine, InferenceModule, LLMInference

INPUTS, SLOTS, LATENCY, CHARACTERS = 2_000, 60, 0.05, 1_000
LIMIT = 1.10
ROUNDS = 5


class Ask(InferenceModule):
    def __init__(self) -> None:
        super().__init__()
        self.llm = LLMInference("m")

    def forward(self, text: str) -> str:
        return self.llm(text)


@dataclass(frozen=True, slots=True)
class Spent:
    """The seconds of one batch."""

    wall: float
    cpu: float


async def batch(url: str, journal: Path | None, inputs: int = INPUTS) -> Spent:
    """Run a batch on a new engine, whose slots are the bound."""
    texts = [f"text {n}".ljust(CHARACTERS, ".") for n in range(inputs)]
    resources = reached(url, max_concurrent=SLOTS)
    async with Engine(resources, journal=journal, progress=False) as engine:
        await engine.map(Ask(), texts[:SLOTS])  # open the connections
        began, cpu_began = time.perf_counter(), cpu()
        await engine.map(Ask(), texts)
        return Spent(time.perf_counter() - began, cpu() - cpu_began)


async def measure() -> list[Figure]:
    """Return the figures: the medians of rounds, off and on in turn."""
    off: list[Spent] = []
    on: list[Spent] = []
    answer = "fine ".ljust(CHARACTERS, ".")
    with (
        served(answer=answer, latency=LATENCY) as (url, _),
        tempfile.TemporaryDirectory() as folder,
    ):
        for number in range(ROUNDS + 1):
            off.append(await batch(url, None))
            on.append(await batch(url, Path(folder, f"{number}.db")))
    wall_off, wall_on = (statistics.median(s.wall for s in x[1:]) for x in (off, on))
    cpu_off, cpu_on = (statistics.median(s.cpu for s in x[1:]) for x in (off, on))
    note = f"{INPUTS / wall_off:,.0f} results/s off, {INPUTS / wall_on:,.0f} on"
    more = f"{cpu_off / INPUTS * 1e3:.2f} -> {cpu_on / INPUTS * 1e3:.2f} ms a result"
    return [
        Figure("journal on against off, wall", wall_on / wall_off, "x", LIMIT, note),
        Figure("the same: CPU", cpu_on / cpu_off, "x", None, more),
    ]
