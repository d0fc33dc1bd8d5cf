"""asyncio.gather over coroutines: a node is a coroutine, and no graph is known."""

import asyncio

import common


async def increment(x: int) -> int:
    return x + 1


async def add(left: int, right: int) -> int:
    return left + right


async def chain() -> int:
    x = 0
    for _ in range(common.CHAIN):
        (x,) = await asyncio.gather(increment(x))
    return x


async def fan_out() -> list[int]:
    return await asyncio.gather(*[increment(0) for _ in range(common.FAN_OUT)])


async def diamond(x: int) -> int:
    (top,) = await asyncio.gather(increment(x))
    sides = await asyncio.gather(increment(top), increment(top))
    (total,) = await asyncio.gather(add(*sides))
    (last,) = await asyncio.gather(increment(total))
    return last


async def diamonds() -> list[int]:
    return await asyncio.gather(*[diamond(x) for x in range(common.DIAMONDS)])


def noop() -> common.Times:
    return common.shapes(
        lambda: asyncio.run(chain()),
        lambda: asyncio.run(fan_out()),
        lambda: asyncio.run(diamonds()),
    )


common.main(noop=noop)
