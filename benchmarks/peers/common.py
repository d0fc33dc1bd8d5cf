"""What every peer's script shares; only the standard library, any interpreter runs it.

A script is called as ``python with_NAME.py calls URL``, ``limit URL RETRIES`` or
``noop``, and prints one line of JSON. RETRIES is a number, or "default" for what the
library does when nothing is said.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

INPUTS, SLOTS = 500, 100
LIMITED_CALLS = 200
CHAIN, FAN_OUT, DIAMONDS, DIAMOND_NODES = 1_000, 10_000, 1_000, 5
ROUNDS, PATIENCE, REFILL = 3, 20.0, 0.3
KEY, MODEL = "no-key", "m"
EXTRACT, COMPARE = "List the key facts.", "Compare."

Pair = tuple[str, str]
Times = dict[str, float]
Ask = Callable[[str, str], Awaitable[str]]


def pairs(inputs: int = INPUTS) -> list[Pair]:
    """Return the inputs of extract-and-compare."""
    return [(f"left {n}", f"right {n}") for n in range(inputs)]


def compared(left: str, right: str) -> str:
    """Return the prompt of the call that compares two answers."""
    return f"A: {left}\nB: {right}"


async def timed(batch: Callable[[list[Pair]], Awaitable[Iterable[Any]]]) -> Times:
    """Return the least of some rounds of extract-and-compare, after a short one.

    Args:
        batch: Does all the calls for some inputs, and gives the last answers.

    Raises:
        RuntimeError: If an answer is wrong or missing.
    """
    await batch(pairs(SLOTS))
    walls: list[float] = []
    spent: list[float] = []
    while len(walls) < ROUNDS and sum(walls) < PATIENCE:
        began, cpu = time.perf_counter(), time.process_time()
        answers = list(await batch(pairs()))
        walls.append(time.perf_counter() - began)
        spent.append(time.process_time() - cpu)
        if sum("fine" in str(answer) for answer in answers) != INPUTS:
            raise RuntimeError(f"wrong answers, e.g. {answers[0]!r}")
    return {"wall": min(walls), "cpu": min(spent)}


async def gathered(ask: Ask, slots: int | None = SLOTS) -> Times:
    """Return the times of extract-and-compare with asyncio.gather.

    Args:
        ask: One call, of a system prompt and a prompt.
        slots: A semaphore's; None where the library keeps to a limit by itself.
    """
    free = asyncio.Semaphore(slots or 10**9)

    async def one(system: str, prompt: str) -> str:
        async with free:
            return await ask(system, prompt)

    async def pair(left: str, right: str) -> str:
        facts = await asyncio.gather(one(EXTRACT, left), one(EXTRACT, right))
        return await one(COMPARE, compared(*facts))

    return await timed(lambda inputs: asyncio.gather(*[pair(*both) for both in inputs]))


async def limited(
    ask: Callable[[str, str], Awaitable[object]], at_once: int = SLOTS
) -> Times:
    """Return the wall of 200 calls under a limit, and how many of them failed.

    One call before opens what is opened late; the limit gets over it.

    Args:
        ask: One call; what it raises is a lost call.
        at_once: The most calls that are under way.
    """
    slots = asyncio.Semaphore(at_once)
    await ask(EXTRACT, "text")
    await asyncio.sleep(REFILL)

    async def one(number: int) -> object:
        async with slots:
            return await ask(EXTRACT, f"text {number}")

    began = time.perf_counter()
    calls = [one(number) for number in range(LIMITED_CALLS)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    wall = time.perf_counter() - began
    lost = [a for a in answers if isinstance(a, BaseException)]
    return {"wall": wall, "failed": len(lost)}


def per_node(run: Callable[[], object], nodes: int) -> float:
    """Return the µs of CPU a node: the median of some rounds, after a first one."""
    spent: list[float] = []
    began = time.perf_counter()
    while len(spent) <= ROUNDS and time.perf_counter() - began < PATIENCE:
        cpu = time.process_time()
        run()
        spent.append((time.process_time() - cpu) / nodes * 1e6)
    return statistics.median(spent[1:] or spent)


def shapes(
    chain: Callable[[], object],
    fan_out: Callable[[], object],
    diamonds: Callable[[], object],
) -> Times:
    """Return the µs of CPU of a node that does nothing, in three shapes of graph."""
    return {
        "chain": per_node(chain, CHAIN),
        "fan-out": per_node(fan_out, FAN_OUT),
        "diamonds": per_node(diamonds, DIAMONDS * DIAMOND_NODES),
    }


def main(**measures: Callable[..., Times]) -> None:
    """Run the measure that the command line names; print what it gives."""
    what, *rest = sys.argv[1:]
    if what not in measures:
        print(json.dumps(None))
        return
    print(json.dumps(measures[what](*rest)))


def tries(retries: str, name: str = "max_retries") -> dict[str, Any]:
    """Return the number of tries as an argument, or none for the default."""
    return {} if retries == "default" else {name: int(retries)}


def messages(system: str, prompt: str) -> list[dict[str, str]]:
    """Return both prompts as the chat API takes them."""
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": prompt},
    ]
