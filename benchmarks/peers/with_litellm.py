"""LiteLLM's Router with asyncio.gather.

A semaphore keeps to the slots: the router's own `max_parallel_requests` refuses what is
too many instead of letting it wait.
"""

import asyncio
from typing import Any

import common
from litellm import Router  # ty: ignore[import-not-found]


def router(url: str, **options: Any) -> Any:
    params = {"model": "openai/m", "api_base": url, "api_key": common.KEY}
    deployment = {"model_name": common.MODEL, "litellm_params": params}
    return Router(model_list=[deployment], **options)


async def ask(to: Any, system: str, prompt: str) -> str:
    messages = common.messages(system, prompt)
    done = await to.acompletion(model=common.MODEL, messages=messages)
    return done.choices[0].message.content


async def calls(url: str) -> common.Times:
    to = router(url)
    return await common.gathered(lambda *texts: ask(to, *texts))


async def limit(url: str, retries: str) -> common.Times:
    to = router(url, **common.tries(retries, "num_retries"))
    return await common.limited(lambda *texts: ask(to, *texts))


common.main(
    calls=lambda url: asyncio.run(calls(url)),
    limit=lambda url, retries: asyncio.run(limit(url, retries)),
)
