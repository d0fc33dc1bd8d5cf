"""Ray: what two actors cost an input, what they gain, and limits that they share."""

import asyncio
import os
import statistics
import time
from importlib.util import find_spec
from typing import Any

from benchmarks.measure import Figure, reached, served
from inf_engine import Engine, InferenceModule, LLMInference, op
from inf_engine.scale import RayBackend

ROUNDS = 3
INPUTS, WARM = 3_000, 500
BUSY_INPUTS, BUSY_WARM, BUSY_LOOPS = 300, 40, 200_000
RPM, RATED_CALLS, LATENCY = 3_000, 750, 0.1
SLOTS, SLOT_CALLS = 40, 2_000
CLUSTER: dict[str, Any] = {
    "address": "local",  # not one that runs here already
    "num_cpus": 2,
    "object_store_memory": 100_000_000,
}


@op
def same(value: Any) -> Any:
    return value


@op
def busy(value: Any) -> int:
    total = 0
    for number in range(BUSY_LOOPS):
        total += number & 3
    return total


class Same(InferenceModule):
    def forward(self, value: Any) -> Any:
        return same(value)


class Busy(InferenceModule):
    def forward(self, value: Any) -> Any:
        return busy(value)


class Ask(InferenceModule):
    def __init__(self) -> None:
        super().__init__()
        self.llm = LLMInference("m")

    def forward(self, text: str) -> Any:
        return self.llm(text)


async def paced(
    engine: Engine, module: Any, count: int, warm: int, actors: int
) -> float:
    """Return the seconds an input, once the actors are up and so many are through.

    No actors are a local engine.
    """
    inputs = [f"text {n}" for n in range(count)]
    seen, began = 0, 0.0
    backend = RayBackend(actors=actors, init=CLUSTER) if actors else None
    async for result in engine.stream(module, inputs, backend=backend):
        result.unwrap()
        seen += 1
        if seen == warm:
            began = time.perf_counter()
    return (time.perf_counter() - began) / (count - warm)


async def plain(count: int, warm: int) -> float:
    """Return the seconds an input of calls to two actors of Ray, as many in flight."""
    import ray  # noqa: PLC0415

    class Actor:
        async def same(self, value: Any) -> Any:
            return value

    make = ray.remote(Actor).options(num_cpus=1)
    actors: list[Any] = [make.remote() for _ in range(2)]
    numbers = iter(range(count))
    times = []

    async def caller(actor: Any) -> None:
        for number in numbers:
            await actor.same.remote(f"text {number}")
            times.append(time.perf_counter())

    await asyncio.gather(*[caller(actors[n % 2]) for n in range(32)])
    for actor in actors:
        ray.kill(actor)
    return (times[-1] - times[warm - 1]) / (count - warm)


async def overhead() -> tuple[float, float]:
    """Return the seconds an input that does nothing takes, ours and plain Ray's."""
    ours, theirs = [], []
    async with Engine(reached("http://127.0.0.1:9"), progress=False) as engine:
        for _ in range(ROUNDS):
            ours.append(await paced(engine, Same(), INPUTS, WARM, 2))
            theirs.append(await plain(INPUTS, WARM))
    return statistics.median(ours), statistics.median(theirs)


async def scaling() -> tuple[float, float]:
    """Return the seconds an input of a busy op takes, with one actor and with two.

    The best of some runs: what others take of two cores takes more from two actors.
    """
    one, two = [], []
    async with Engine(reached("http://127.0.0.1:9"), progress=False) as engine:
        for _ in range(ROUNDS):
            one.append(await paced(engine, Busy(), BUSY_INPUTS, BUSY_WARM, 1))
            two.append(await paced(engine, Busy(), BUSY_INPUTS, BUSY_WARM, 2))
    return min(one), min(two)


async def limited(
    calls: int, warm: int, told: dict[str, Any], actors: int = 2, **limits: Any
) -> Any:
    """Return the calls a second of some actors, and what the server saw."""
    with served(latency=LATENCY, **told) as (url, end):
        async with Engine(reached(url, **limits), progress=False) as engine:
            pace = await paced(engine, Ask(), calls, warm, actors)
        return 1 / pace, end()


async def slotted() -> tuple[float, float, Any]:
    """Return the calls a second of two actors, and of an engine here, in turns."""
    slots = {"max_concurrent": SLOTS}
    full, local, seen = [], [], None
    for _ in range(ROUNDS):
        local.append((await limited(SLOT_CALLS, 200, slots, 0, **slots))[0])
        pace, seen = await limited(SLOT_CALLS, 200, slots, **slots)
        full.append(pace)
    return statistics.median(full), statistics.median(local), seen


async def measure() -> list[Figure]:
    """Return the figures; the medians of some runs, the limits of one each."""
    if find_spec("ray") is None:
        return [Figure("left out: pip install 'inf-engine[ray]'", 0, "")]
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ours, theirs = await overhead()
    one, two = await scaling()
    rate, slots = RPM / 60, SLOTS / LATENCY
    rpm: dict[str, Any] = {"requests_per_minute": RPM}
    rated, seen = await limited(RATED_CALLS, 100, rpm, max_concurrent=SLOTS, **rpm)
    full, local, seen_2 = await slotted()
    import ray  # noqa: PLC0415

    ray.shutdown()
    note = f"{ours * 1e6:.0f} µs; plain Ray, a call for each input, {theirs * 1e6:.0f}"
    gain = f"{one * 1e3:.1f} ms an input with one, {two * 1e3:.1f} with two"
    told = f"{rated:.1f} a second of {rate:.0f}"
    told_2 = f"{full:.0f} a second; {slots:.0f} if a round trip took no time"
    refused = seen.count - seen.answered + seen_2.count - seen_2.answered
    return [
        Figure("overhead an input, 2 actors", ours / theirs, "x plain Ray", 1.0, note),
        Figure("CPU-bound ops, 2 actors", one / two, "x one actor", None, gain),
        Figure(f"{RPM:,} RPM, 2 actors", rated / rate * 100, "% reached", None, told),
        Figure(f"{SLOTS} slots, an engine", local / full, "x 2 actors", 1.03, told_2),
        Figure("the same: most at once at the server", seen_2.most, "", SLOTS),
        Figure("the same two: refused", refused, "calls", 0),
    ]
