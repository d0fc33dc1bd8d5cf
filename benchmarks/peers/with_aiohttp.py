"""aiohttp with asyncio.gather and a semaphore: the least that a program can do.

It never tries again by itself; told to, it does what `Retry-After` says.
"""

import asyncio

import common
from aiohttp import ClientSession, TCPConnector


def session() -> ClientSession:
    return ClientSession(connector=TCPConnector(limit=0))


async def ask(
    http: ClientSession, url: str, system: str, prompt: str, retries: int = 0
) -> str:
    body = {"model": common.MODEL, "messages": common.messages(system, prompt)}
    for left in range(retries, -1, -1):
        async with http.post(f"{url}/chat/completions", json=body) as response:
            if response.status == 429 and left:
                wait = float(response.headers.get("Retry-After", 1))
            else:
                response.raise_for_status()
                answer = await response.json()
                return answer["choices"][0]["message"]["content"]
        await asyncio.sleep(wait)
    raise AssertionError


async def calls(url: str) -> common.Times:
    async with session() as http:
        return await common.gathered(lambda *texts: ask(http, url, *texts))


async def limit(url: str, retries: str) -> common.Times:
    tries = common.tries(retries, "retries")
    async with session() as http:
        return await common.limited(lambda *texts: ask(http, url, *texts, **tries))


common.main(
    calls=lambda url: asyncio.run(calls(url)),
    limit=lambda url, retries: asyncio.run(limit(url, retries)),
)
