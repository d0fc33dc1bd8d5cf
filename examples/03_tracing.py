"""What runs at the same time, what makes forward wait, and what is refused.

    python examples/03_tracing.py

Runs on a fake model that takes one second of virtual time per call, so the times below
are exact and the example takes no time.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from inf_engine import Engine, InferenceModule, LLMInference, TracingError, op, trace
from inf_engine.functional import cond, first, map
from inf_engine.testing import FunctionClient, VirtualTimeLoop


class Pipeline(InferenceModule):
    """One forward function over one model."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.llm = LLMInference("fast")
        self.steps = forward

    def forward(self, *inputs: Any) -> Any:
        return self.steps(self.llm, *inputs)


@op
def word_count(text: str) -> int:
    return len(text.split())


def parallel(llm: Any, left: str, right: str) -> str:
    a, b = llm(left), llm(right)  # both under way: 1 s
    return llm(f"{a} and {b}")  # an f-string is a template: 1 s more


def graph_break(llm: Any, text: str) -> str:
    draft, spare = llm(text), llm(f"spare {text}")  # 1 s
    if "tea" in draft:  # waits for draft; spare keeps running
        return llm(f"more {draft}")  # 1 s more
    return spare


def no_break(llm: Any, text: str) -> Any:
    draft = llm(text)
    longer = word_count(draft) == 2  # small nodes: nothing waits
    return cond(longer, lambda: llm(f"short {draft}"), lambda: draft)


def fan_out(llm: Any, text: str) -> list[str]:
    words = llm(text).split(" ")  # a list of unknown length
    return map(lambda word: llm(word), words)  # one call a word, all at once


def race(llm: Any, text: str) -> str:
    return first(llm(f"slowly {text}"), llm(text))  # the other one is cancelled


def caught(llm: Any, text: str) -> str:
    try:
        return str(llm(f"fail {text}"))  # raised where the value is needed
    except ValueError as exc:
        return f"caught: {exc}"


def damaged(llm: Any, text: str) -> str:
    return llm(f"{llm(text)}".upper())  # upper() would only see a placeholder


def refused(llm: Any, text: str) -> str:
    return json.loads(llm(text))  # C code needs the text at once


def model(request: Any) -> str:
    if request.prompt.startswith("fail"):
        raise ValueError("the model is out of tea")
    return f"[{request.prompt}]"


def seconds(request: Any) -> float:
    return 5.0 if request.prompt.startswith("slowly") else 1.0


async def main() -> None:
    async with Engine({"fast": FunctionClient(model, seconds)}) as engine:
        loop = asyncio.get_running_loop()
        runs = [
            (parallel, "tea", "milk"),
            (graph_break, "tea"),
            (no_break, "green tea"),
            (fan_out, "tea milk sugar"),
            (race, "tea"),
            (caught, "tea"),
        ]
        for steps, *inputs in runs:
            began = loop.time()
            output = await engine.run(Pipeline(steps), *inputs)
            print(f"{steps.__name__:<12}{loop.time() - began:.0f} s  {output}")
        for steps in (damaged, refused):
            try:
                await engine.run(Pipeline(steps), "tea")
            except TracingError as exc:
                print(f"\n{steps.__name__}: {exc}")
    print("\nThe graph without a run:\n")
    print(trace(Pipeline(parallel), "left", "right"))


if __name__ == "__main__":
    VirtualTimeLoop.run(main())
