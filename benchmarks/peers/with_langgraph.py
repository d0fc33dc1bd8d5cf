"""LangGraph: a StateGraph with two nodes side by side and one after them, `abatch`.

Its own limit is `max_concurrency`, which counts inputs in `abatch` and steps in a run;
so a run of the graph may have two calls under way.
"""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import common
from langchain_openai import ChatOpenAI  # ty: ignore[import-not-found]
from langgraph.graph import END, START, StateGraph  # ty: ignore[import-not-found]
from langgraph.types import Send  # ty: ignore[import-not-found]


class Texts(TypedDict, total=False):
    left: str
    right: str
    left_facts: str
    right_facts: str
    answer: str


class Number(TypedDict, total=False):
    x: int
    sides: Annotated[list[int], operator.add]


def asked(url: str, **options: Any) -> common.Ask:
    llm = ChatOpenAI(model="m", base_url=url, api_key=common.KEY, **options)

    async def ask(system: str, prompt: str) -> str:
        return (await llm.ainvoke(common.messages(system, prompt))).content

    return ask


def compare_graph(ask: common.Ask) -> Any:
    async def left(state: Texts) -> Texts:
        return {"left_facts": await ask(common.EXTRACT, state["left"])}

    async def right(state: Texts) -> Texts:
        return {"right_facts": await ask(common.EXTRACT, state["right"])}

    async def compare(state: Texts) -> Texts:
        prompt = common.compared(state["left_facts"], state["right_facts"])
        return {"answer": await ask(common.COMPARE, prompt)}

    graph = StateGraph(Texts)
    for node in (left, right, compare):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "left")
    graph.add_edge(START, "right")
    graph.add_edge(["left", "right"], "compare")
    graph.add_edge("compare", END)
    return graph.compile()


async def calls(url: str) -> common.Times:
    graph = compare_graph(asked(url))

    async def batch(pairs: list[common.Pair]) -> list[str]:
        inputs = [{"left": left, "right": right} for left, right in pairs]
        config = {"max_concurrency": common.SLOTS}
        return [out["answer"] for out in await graph.abatch(inputs, config)]

    return await common.timed(batch)


async def limit(url: str, retries: str) -> common.Times:
    return await common.limited(asked(url, **common.tries(retries)))


def increment(state: Number) -> Number:
    return {"x": state["x"] + 1}


def chain_graph() -> Any:
    graph = StateGraph(Number)
    names = [f"n{number}" for number in range(common.CHAIN)]
    for name in names:
        graph.add_node(name, increment)
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph.compile()


def side(state: Number) -> Number:
    return {"sides": [state["x"] + 1]}


def fan_out_graph() -> Any:
    graph = StateGraph(Number)
    graph.add_node("side", side)
    sends = [Send("side", {"x": 0}) for _ in range(common.FAN_OUT)]
    graph.add_conditional_edges(START, lambda state: sends, ["side"])
    return graph.compile()


def diamond_graph() -> Any:
    graph = StateGraph(Number)
    graph.add_node("top", increment)
    graph.add_node("left", side)
    graph.add_node("right", side)
    graph.add_node("add", lambda state: {"x": sum(state["sides"])})
    graph.add_node("last", increment)
    graph.add_edge(START, "top")
    graph.add_edge("top", "left")
    graph.add_edge("top", "right")
    graph.add_edge(["left", "right"], "add")
    graph.add_edge("add", "last")
    graph.add_edge("last", END)
    return graph.compile()


def noop() -> common.Times:
    chain, fan_out, diamond = chain_graph(), fan_out_graph(), diamond_graph()
    deep = {"recursion_limit": common.CHAIN + 10}

    def diamonds() -> None:
        for x in range(common.DIAMONDS):
            assert diamond.invoke({"x": x})["x"] == 2 * x + 5

    return common.shapes(
        lambda: chain.invoke({"x": 0}, deep),
        lambda: fan_out.invoke({"x": 0}),
        diamonds,
    )


common.main(
    calls=lambda url: asyncio.run(calls(url)),
    limit=lambda url, retries: asyncio.run(limit(url, retries)),
    noop=noop,
)
