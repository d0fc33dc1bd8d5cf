"""inf-engine: what the others are compared with."""

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import common
from benchmarks.bench_calls import ExtractAndCompare
from benchmarks.bench_noop import Chain, Diamond, FanOut
from benchmarks.measure import reached

from inf_engine import Engine, LLMInference
from inf_engine.testing import FunctionClient


async def calls(url: str) -> common.Times:
    resources = reached(url, max_concurrent=common.SLOTS)
    async with Engine(resources, progress=False) as engine:
        module = ExtractAndCompare()
        return await common.timed(
            lambda pairs: engine.map(module, *zip(*pairs, strict=True))
        )


async def limit(url: str, retries: str) -> common.Times:
    tries = common.tries(retries, "retries")
    texts = [f"text {number}" for number in range(common.LIMITED_CALLS)]
    module = LLMInference("m", common.EXTRACT)
    async with Engine(reached(url), progress=False) as engine:
        await engine.run(module, "text")  # and forget what it told of the limit
    await asyncio.sleep(common.REFILL)
    async with Engine(reached(url), progress=False, **tries) as engine:
        began = time.perf_counter()
        results = await engine.map(module, texts, errors="collect")
        wall = time.perf_counter() - began
    return {"wall": wall, "failed": sum(not result.ok for result in results)}


def noop() -> common.Times:
    client = {"unused": FunctionClient(lambda _: "")}
    with asyncio.Runner() as runner:
        engine = Engine(client, progress=False)
        chain, fan_out = Chain(common.CHAIN), FanOut(common.FAN_OUT)
        diamond, inputs = Diamond(), range(common.DIAMONDS)
        times = common.shapes(
            lambda: runner.run(engine.run(chain)),
            lambda: runner.run(engine.run(fan_out)),
            lambda: runner.run(engine.map(diamond, inputs)),
        )
        runner.run(engine.aclose())
    return times


common.main(
    calls=lambda url: asyncio.run(calls(url)),
    limit=lambda url, retries: asyncio.run(limit(url, retries)),
    noop=noop,
)
