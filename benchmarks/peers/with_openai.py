"""The OpenAI SDK with asyncio.gather and a semaphore."""

import asyncio
from typing import Any

import common
from openai import AsyncOpenAI


async def ask(client: AsyncOpenAI, system: str, prompt: str) -> str:
    messages: Any = common.messages(system, prompt)
    done = await client.chat.completions.create(model=common.MODEL, messages=messages)
    return done.choices[0].message.content or ""


async def calls(url: str) -> common.Times:
    async with AsyncOpenAI(base_url=url, api_key=common.KEY) as client:
        return await common.gathered(lambda *texts: ask(client, *texts))


async def limit(url: str, retries: str) -> common.Times:
    tries = common.tries(retries)
    async with AsyncOpenAI(base_url=url, api_key=common.KEY, **tries) as client:
        return await common.limited(lambda *texts: ask(client, *texts))


common.main(
    calls=lambda url: asyncio.run(calls(url)),
    limit=lambda url, retries: asyncio.run(limit(url, retries)),
)
