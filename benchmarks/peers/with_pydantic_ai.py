"""pydantic-ai: two agents, their model limited by its own ConcurrencyLimitedModel.

The nodes that do nothing are those of pydantic-graph.
"""

import asyncio
from typing import Any

import common
from openai import AsyncOpenAI
from pydantic_ai import Agent  # ty: ignore[import-not-found]
from pydantic_ai.models.concurrency import (  # ty: ignore[import-not-found]
    ConcurrencyLimitedModel,
)
from pydantic_ai.models.openai import OpenAIChatModel  # ty: ignore[import-not-found]
from pydantic_ai.providers.openai import (  # ty: ignore[import-not-found]
    OpenAIProvider,
)
from pydantic_graph import (  # ty: ignore[import-not-found]
    GraphBuilder,
    StepContext,
    reduce_list_append,
    reduce_sum,
)

In = StepContext[None, None, int]


def asked(url: str, **options: Any) -> common.Ask:
    client = AsyncOpenAI(base_url=url, api_key=common.KEY, **options)
    provider = OpenAIProvider(openai_client=client)
    model = OpenAIChatModel(common.MODEL, provider=provider)
    limited = ConcurrencyLimitedModel(model, limiter=common.SLOTS)
    systems = (common.EXTRACT, common.COMPARE)
    agents = {system: Agent(limited, instructions=system) for system in systems}

    async def ask(system: str, prompt: str) -> str:
        return (await agents[system].run(prompt)).output

    return ask


async def calls(url: str) -> common.Times:
    return await common.gathered(asked(url), slots=None)


async def limit(url: str, retries: str) -> common.Times:
    return await common.limited(asked(url, **common.tries(retries)))


async def increment(ctx: In) -> int:
    return ctx.inputs + 1


def builder(output: Any = int) -> Any:
    return GraphBuilder(input_type=int, output_type=output)


def chain_graph() -> Any:
    graph = builder()
    steps = [graph.step(increment, node_id=f"n{n}") for n in range(common.CHAIN)]
    ends = [*steps, graph.end_node]
    for before, after in zip([graph.start_node, *steps], ends, strict=True):
        graph.add(graph.edge_from(before).to(after))
    return graph.build()


def fan_out_graph() -> Any:
    graph = builder(list[int])

    async def numbers(ctx: In) -> list[int]:
        return [0] * common.FAN_OUT

    source, side = graph.step(numbers), graph.step(increment)
    collect = graph.join(reduce_list_append, initial_factory=list)
    graph.add(
        graph.edge_from(graph.start_node).to(source),
        graph.edge_from(source).map().to(side),
        graph.edge_from(side).to(collect),
        graph.edge_from(collect).to(graph.end_node),
    )
    return graph.build()


def diamond_graph() -> Any:
    graph = builder()
    top, left, right, last = [
        graph.step(increment, node_id=name) for name in ("top", "left", "right", "last")
    ]
    add = graph.join(reduce_sum, initial=0)
    graph.add(
        graph.edge_from(graph.start_node).to(top),
        graph.edge_from(top).to(left, right),
        graph.edge_from(left, right).to(add),
        graph.edge_from(add).to(last),
        graph.edge_from(last).to(graph.end_node),
    )
    return graph.build()


def noop() -> common.Times:
    chain, fan_out, diamond = chain_graph(), fan_out_graph(), diamond_graph()

    async def diamonds() -> None:
        for x in range(common.DIAMONDS):
            assert await diamond.run(inputs=x) == 2 * x + 5

    return common.shapes(
        lambda: asyncio.run(chain.run(inputs=0)),
        lambda: asyncio.run(fan_out.run(inputs=0)),
        lambda: asyncio.run(diamonds()),
    )


common.main(
    calls=lambda url: asyncio.run(calls(url)),
    limit=lambda url, retries: asyncio.run(limit(url, retries)),
    noop=noop,
)
