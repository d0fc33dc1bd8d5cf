"""Random module trees, made from plain numbers, so that any process can make them.

`build` turns a `Plan` into a module; `plans` is the Hypothesis strategy for plans. A
tree mixes composites of both kinds, containers, shared children, ops, templates, graph
breaks, branches on values, `cond`, `map`, `vote` and structures.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from inf_engine import (
    InferenceModule,
    LLMInference,
    ModuleList,
    Parameter,
    Sequential,
    op,
)
from inf_engine import functional as F
from inf_engine.types import LLMRequest

LEAVES = ("llm", "styled", "op", "thread op", "async op", "small")
KINDS = (
    *("fan", "chain", "texts", "branch", "loop", "measured", "cond", "map", "gathered"),
    *("items", "talk", "caught", "sequential", "mutated", "async fan", "async chain"),
    *("async branch", "async texts"),
)


@dataclass(frozen=True)
class Plan:
    """What to build: a kind and the plans of the children, some of them shared."""

    kind: str
    children: tuple["Plan", ...] = ()
    shared: bool = False


def plans() -> st.SearchStrategy[Plan]:
    """Plans of trees of up to about a dozen modules."""
    leaf = st.sampled_from(LEAVES).map(Plan)

    def larger(below: st.SearchStrategy[Plan]) -> st.SearchStrategy[Plan]:
        kids = st.lists(below, min_size=1, max_size=3).map(tuple)
        return st.builds(Plan, st.sampled_from(KINDS), kids, st.booleans())

    return st.recursive(leaf, larger, max_leaves=8)


def answer(request: LLMRequest) -> str:
    """An answer that depends on the whole request: a few words, never empty."""
    text = f"{request.system}|{request.prompt}|{len(request.messages)}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return " ".join([digest[:2], digest[2:4], digest[4:7]])


def latency(request: LLMRequest) -> float:
    """Between 1 and 16 virtual seconds, so that answers overtake each other."""
    return 1.0 + int(hashlib.sha256(request.prompt.encode()).hexdigest()[0], 16)


@op
def shorten(text: Any) -> str:
    """An op on the loop."""
    return str(text)[:12] + "."


@op(thread=True)
def reverse(text: Any) -> str:
    """An op in a thread."""
    return str(text)[::-1][:20]


@op
async def double(text: Any) -> str:
    """An op that suspends."""
    await asyncio.sleep(0)
    return str(text)[:10] * 2


class Node(InferenceModule):
    """A module with children and a call of its own."""

    def __init__(self, children: list[InferenceModule]) -> None:
        super().__init__()
        self.style = Parameter("Be brief.")
        self.own = LLMInference(alias="a")
        self.styled = LLMInference(alias="b", system_prompt=self.style)
        self.kids = ModuleList(children)


def _value(text: Any) -> Any:
    """A text as one value, which can be measured and padded; see design_docs."""
    return F.render("{text}", text=text)


def _small(self: Any, x: Any) -> Any:
    p = self.own(x)
    return (p.upper() + "!").strip("0") + p[0:2]


def _fan(self: Any, x: Any) -> Any:
    return " ".join(f"{kid(x)}" for kid in self.kids)


def _chain(self: Any, x: Any) -> Any:
    for kid in self.kids:
        x = kid(x)
    return self.own(f"{x}")


def _texts(self: Any, x: Any) -> Any:
    a, b = _value(self.kids[0](x)), _value(self.kids[-1](x))
    return self.own(f"{self.style} <{a!r:>9}> {b:<9}" + "%r" % [a])


def _branch(self: Any, x: Any) -> Any:
    if self.own(x)[0] < "8":
        return self.kids[0](x)
    return f"{self.kids[-1](f'else {x}')} else"


def _loop(self: Any, x: Any) -> Any:
    found = [self.kids[0](word) for word in self.own(x).split()]
    return ", ".join(str(item) for item in found)


def _measured(self: Any, x: Any) -> Any:
    p = _value(self.kids[0](x))
    return self.own(f"{len(str(p))} {p} {'a' in str(p)} {str(p) < 'b'}")


def _cond(self: Any, x: Any) -> Any:
    p = self.own(x)
    return F.cond(p[0] == "a", self.kids[0], self.kids[-1], f"<{p}>").strip()


def _map(self: Any, x: Any) -> Any:
    words = self.own(x).split()
    head = f"{self.styled(x)}"
    mapped = F.map(lambda word: self.kids[0](f"{word} {head}"), words)
    return self.own(f"{mapped}")


def _gathered(self: Any, x: Any) -> Any:
    answers = F.gather(*[kid(x) for kid in self.kids], self.own(x))
    return F.vote(answers) + F.render(" {first}", first=answers[0])


def _items(self: Any, x: Any) -> Any:
    items = F.map(self.kids[0], [x, f"{x}?", self.own(x)])
    return "".join(f"[{item}]" for item in items)


def _talk(self: Any, x: Any) -> Any:
    talk = [{"role": "user", "content": f"{x}"}]
    for kid in self.kids:
        said = self.own(talk)
        talk.append({"role": "assistant", "content": said})
        talk.append({"role": "user", "content": f"{kid(said)}"})
    return talk[-1]["content"] + talk[-2]["content"]


def _caught(self: Any, x: Any) -> Any:
    try:
        return str(self.own(x).index("0")) + self.kids[0](x)
    except ValueError as exc:
        return self.kids[-1](f"{type(exc).__name__} {x}")


def _sequential(self: Any, x: Any) -> Any:
    return Sequential(*self.kids).forward(x) + f" {self.style}"


def _mutated(self: Any, x: Any) -> Any:
    words = self.own(x).split()
    before = self.kids[0](f"{words}")
    words.append("more")
    words[0] = f"{self.styled(x)}"
    return f"{before} {words}"


async def _async_fan(self: Any, x: Any) -> Any:
    found = await asyncio.gather(*[kid(x) for kid in self.kids])
    return " ".join(found)


async def _async_chain(self: Any, x: Any) -> Any:
    for kid in self.kids:
        x = await kid(x)
    return await self.own.acall(x)


async def _async_branch(self: Any, x: Any) -> Any:
    if (await self.own(x))[0] in "01234567":
        return await self.kids[0](x)
    return f"{self.kids[-1](f'else {x}')} else"


async def _async_texts(self: Any, x: Any) -> Any:
    a, b = _value(self.kids[0](x)), _value(self.kids[-1](x))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(self.own(f"{self.style} <{a!r:>9}> {b:<9}"))
    return task.result() + f"{a}"


FORWARDS: dict[str, Callable[..., Any]] = {
    "small": _small,
    "llm": lambda self, x: self.own(x),
    "styled": lambda self, x: self.styled(x),
    "op": lambda self, x: shorten(x),
    "thread op": lambda self, x: reverse(x),
    "async op": lambda self, x: double(x),
    **{kind: globals()[f"_{kind.replace(' ', '_')}"] for kind in KINDS},
}
CLASSES = {
    kind: type("Node", (Node,), {"forward": forward})
    for kind, forward in FORWARDS.items()
}


def build(plan: Plan) -> InferenceModule:
    """Return the module of a plan; with `shared`, its children are one module."""
    children = [build(child) for child in plan.children]
    if plan.shared and children:
        children = [children[0]] * len(children)
    return CLASSES[plan.kind](children)
