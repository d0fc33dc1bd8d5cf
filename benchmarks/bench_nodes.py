"""What the framework costs per node: traced and run, against plain asyncio tasks."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from benchmarks.measure import Figure, timed
from inf_engine import Engine, InferenceModule, op
from inf_engine.testing import FunctionClient

LIMIT = 3.0


async def plain_increment(x: int) -> int:
    return x + 1


increment = op(plain_increment)


class Chain(InferenceModule):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: int) -> int:
        for _ in range(self.length):
            x = increment(x)
        return x


class FanOut(InferenceModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: int) -> list[int]:
        return [increment(x) for _ in range(self.width)]


class Diamond(InferenceModule):
    def forward(self, x: int) -> tuple[int, int]:
        top = increment(x)
        left, right = increment(top), increment(top)
        return increment(left), increment(right)


async def plain_chain(length: int) -> None:
    x = 0
    for _ in range(length):
        x = await asyncio.create_task(plain_increment(x))


async def plain_fan_out(width: int) -> None:
    await asyncio.gather(
        *[asyncio.create_task(plain_increment(0)) for _ in range(width)]
    )


async def plain_diamond(x: int) -> None:
    top = await asyncio.create_task(plain_increment(x))
    left = asyncio.create_task(plain_increment(top))
    right = asyncio.create_task(plain_increment(top))
    below = [
        asyncio.create_task(plain_increment(await left)),
        asyncio.create_task(plain_increment(await right)),
    ]
    await asyncio.gather(*below)


async def plain_diamonds(inputs: int) -> None:
    await asyncio.gather(
        *[asyncio.create_task(plain_diamond(x)) for x in range(inputs)]
    )


async def measure() -> list[Figure]:
    """Return the figures."""
    async with Engine(
        {"unused": FunctionClient(lambda r: "")}, progress=False
    ) as engine:
        figures = []
        for name, ours, plain, nodes in cases(engine):
            mine, theirs = await timed(ours) / nodes, await timed(plain) / nodes
            note = f"{mine * 1e6:.1f} us a node, asyncio {theirs * 1e6:.1f}"
            figures.append(Figure(name, mine / theirs, "x asyncio", LIMIT, note))
        for name, module, plain in (
            ("chain", Chain, plain_chain),
            ("fan-out", FanOut, plain_fan_out),
        ):
            figures.append(await growth(engine, name, module, plain))
    return figures


async def growth(
    engine: Engine, name: str, module: type, plain: Callable[[int], Awaitable[None]]
) -> Figure:
    """Return how the cost of a node grows to 100,000, against how asyncio's does."""
    small = await timed(lambda: engine.run(module(1_000), 0)) / 1_000
    large = await timed(lambda: engine.run(module(100_000), 0), 3) / 100_000
    plain_small = await timed(lambda: plain(1_000)) / 1_000
    plain_large = await timed(lambda: plain(100_000), 3) / 100_000
    ours, theirs = large / small, plain_large / plain_small
    note = f"{small * 1e6:.1f} -> {large * 1e6:.1f} us; asyncio grows {theirs:.2f} x"
    return Figure(
        f"{name} of 100,000 against 1,000", ours, "x", max(1.5, 1.2 * theirs), note
    )


def cases(engine: Engine) -> Iterator[tuple]:
    """Yield name, our run, plain asyncio's run, and how many nodes each has."""
    chain, fan_out, diamond = Chain(1_000), FanOut(10_000), Diamond()
    yield (
        "chain of 1,000",
        lambda: engine.run(chain, 0),
        lambda: plain_chain(1_000),
        1_000,
    )
    yield (
        "fan-out of 10,000",
        lambda: engine.run(fan_out, 0),
        lambda: plain_fan_out(10_000),
        10_000,
    )
    yield (
        "1,000 inputs x 5-node diamond",
        lambda: engine.map(diamond, range(1_000)),
        lambda: plain_diamonds(1_000),
        5_000,
    )
