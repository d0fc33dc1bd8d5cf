"""Extract and compare over 500 inputs: wall time against the bound of the slots."""

import asyncio
import math
import time

from benchmarks.measure import Figure, cpu, reached, served
from inf_engine import Engine, InferenceModule, LLMInference, LLMRequest
from inf_engine.clients.openai import OpenAIClient
from inf_engine.types import Message

INPUTS, CALLS, LATENCY, SLOTS = 500, 3, 0.05, 100
BOUND = math.ceil(INPUTS * CALLS / SLOTS) * LATENCY
LIMIT, CPU_LIMIT = 1.25, 0.3
ROUNDS = 5


class ExtractAndCompare(InferenceModule):
    def __init__(self) -> None:
        super().__init__()
        self.extract = LLMInference("m", "List the key facts.")
        self.compare = LLMInference("m", "Compare.")

    def forward(self, left: str, right: str) -> str:
        a, b = self.extract(left), self.extract(right)
        return self.compare(f"A: {a}\nB: {b}")


async def plain(client: OpenAIClient, slots: asyncio.Semaphore) -> None:
    """Do the same calls with asyncio, a semaphore and the same client."""

    async def ask(system: str, prompt: str) -> str:
        messages = (Message("system", system), Message("user", prompt))
        async with slots:
            return (await client.complete(LLMRequest(messages))).text

    async def one(left: str, right: str) -> str:
        system = "List the key facts."
        a, b = await asyncio.gather(ask(system, left), ask(system, right))
        return await ask("Compare.", f"A: {a}\nB: {b}")

    await asyncio.gather(*[one(f"left {i}", f"right {i}") for i in range(INPUTS)])


async def measure() -> list[Figure]:
    """Return the figures; ours and plain asyncio's in turn, the medians of each."""
    with served(latency=LATENCY) as (url, end):
        lefts = [f"left {i}" for i in range(INPUTS)]
        rights = [f"right {i}" for i in range(INPUTS)]
        client = OpenAIClient("m", base_url=url, compatible=True, api_key=None)
        slots = asyncio.Semaphore(SLOTS)
        ours, theirs, spent = [], [], []
        async with Engine(reached(url, max_concurrent=SLOTS), progress=False) as engine:
            module = ExtractAndCompare()
            await engine.map(module, lefts, rights)
            await plain(client, slots)
            for _ in range(ROUNDS):
                began, cpu_began = time.perf_counter(), cpu()
                await engine.map(module, lefts, rights)
                ours.append(time.perf_counter() - began)
                spent.append(cpu() - cpu_began)
                began = time.perf_counter()
                await plain(client, slots)
                theirs.append(time.perf_counter() - began)
        await client.aclose()
        most = end().most
    wall, peer, used = (sorted(s)[ROUNDS // 2] for s in (ours, theirs, spent))
    note = f"{wall:.2f} s for a bound of {BOUND:.2f} s; plain asyncio {peer:.2f} s"
    cpu_note = "client and framework"
    return [
        Figure("500 x extract-and-compare, wall", wall / BOUND, "x bound", LIMIT, note),
        Figure("the same, against plain asyncio", wall / peer, "x asyncio"),
        Figure("CPU a call", used / INPUTS / CALLS * 1e3, "ms", CPU_LIMIT, cpu_note),
        Figure("most requests the server saw at once", most, "", SLOTS),
    ]
