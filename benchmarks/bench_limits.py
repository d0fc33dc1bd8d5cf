"""Limits that nobody told, and a join over random latencies: wall against the bound."""

import random
import time
from typing import Any

from benchmarks.measure import Figure, reached, served
from inf_engine import Engine, InferenceModule, LLMInference

ROUNDS = 3
RPM, BURST, RATED_CALLS = 1200, 20, 200
AT_ONCE, LATENCY, SHORT_CALLS = 40, 0.05, 1000
LANES, STEPS, INPUTS = 4, 5, 20


class Ask(InferenceModule):
    def __init__(self) -> None:
        super().__init__()
        self.llm = LLMInference("m")

    def forward(self, text: str) -> Any:
        return self.llm(text)


class Lanes(InferenceModule):
    """Chains of calls side by side, and one call that joins them.

    Each prompt begins with the seconds that the server takes for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.llm = LLMInference("m")

    def forward(self, lanes: list[list[float]], last: float) -> Any:
        ends = []
        for lane in lanes:
            said: Any = ""
            for seconds in lane:
                said = self.llm(f"{seconds:.3f} {said}")
            ends.append(said)
        return self.llm(f"{last:.3f} {' '.join(f'{end}' for end in ends)}")


async def found_out(calls: int, **options: Any) -> tuple[float, int, int]:
    """Return the seconds of so many calls, and how many were refused and failed.

    Nothing is known of the limits: each time the engine is new, and so is the server.
    """
    texts = [f"text {n}" for n in range(calls)]
    with served(**options) as (url, end):
        async with Engine(reached(url), progress=False) as engine:
            began = time.perf_counter()
            results = await engine.map(Ask(), texts, errors="collect")
            wall = time.perf_counter() - began
            seen = end()
    failed = sum(not result.ok for result in results)
    return wall, seen.count - seen.answered, failed


async def joined(inputs: list[Any]) -> float:
    """Return the seconds that lanes with a join take, over the critical paths."""
    with served(told=True) as (url, _):
        resources = reached(url, max_concurrent=LANES)
        async with Engine(resources, progress=False) as engine:
            module = Lanes()
            await engine.run(module, [[0.001]] * LANES, 0.001)
            ratios = []
            for lanes, last in inputs:
                began = time.perf_counter()
                await engine.run(module, lanes, last)
                seconds = time.perf_counter() - began
                ratios.append(seconds / (max(map(sum, lanes)) + last))
    return sum(ratios) / len(ratios)


def drawn(rng: random.Random) -> tuple[list[list[float]], float]:
    """Return random latencies, to the millisecond as the server is told them."""

    def one() -> float:
        return round(rng.uniform(0.02, 0.2), 3)

    return [[one() for _ in range(STEPS)] for _ in range(LANES)], one()


async def measure() -> list[Figure]:
    """Return the figures: the medians of some runs."""
    await found_out(1)  # what is imported late
    bound = (RATED_CALLS - BURST) * 60 / RPM
    rate = {"requests_per_minute": RPM, "burst": BURST, "latency": LATENCY}
    rated = sorted([await found_out(RATED_CALLS, **rate) for _ in range(ROUNDS)])
    wall, refused, failed = rated[ROUNDS // 2]
    told = f"{wall:.2f} s for a bound of {bound:.2f} s"

    short = {"max_concurrent": AT_ONCE, "latency": LATENCY}
    hidden = sorted([await found_out(SHORT_CALLS, **short) for _ in range(ROUNDS)])
    wall_2, refused_2, failed_2 = hidden[ROUNDS // 2]
    bound_2 = SHORT_CALLS / AT_ONCE * LATENCY
    told_2 = f"{wall_2:.2f} s for a bound of {bound_2:.2f} s; {refused_2} were refused"

    hid = wall_2 / bound_2
    rng = random.Random(0)
    lanes = await joined([drawn(rng) for _ in range(INPUTS)])
    share = 100 * refused / RATED_CALLS
    return [
        Figure("unknown 1,200 RPM, 200 calls", wall / bound, "x bound", 1.05, told),
        Figure("the same: failed", failed, "calls", 0),
        Figure("the same: refused", share, "%", 2.0),
        Figure("hidden limit of 40, 1,000 calls", hid, "x bound", 1.35, told_2),
        Figure("the same: failed", failed_2, "calls", 0),
        Figure("4 x 5 calls and a join, mean of 20", lanes, "x path", 1.05),
    ]
