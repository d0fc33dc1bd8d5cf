"""What a proxy lets wait: it becomes a node or a hole, and parallelism is kept."""

import collections
import copy
import dataclasses
import operator
import pickle
from collections.abc import Callable
from typing import Any

import pydantic
import pytest
from tests.unit.tracing_helpers import (
    clients_for,
    echo,
    module,
    ran,
    run,
    same,
    silent,
)

from inf_engine import LLMInference, Parameter, TracingError, op, trace
from inf_engine.testing import assert_runs_alike

Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024


@dataclasses.dataclass
class Note:
    """A dataclass that a forward may pass around."""

    text: Any
    size: int = 1


class Card(pydantic.BaseModel):
    """A pydantic model with a text field."""

    name: str


class Loose(pydantic.BaseModel):
    """A pydantic model that accepts anything."""

    held: Any


TEXTS: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("f-string", lambda s, p: f"a {p} b"),
    ("two holes", lambda s, p: f"{p}{p}"),
    ("spec", lambda s, p: f"{p:>8}|{p:.2}"),
    ("repr", lambda s, p: f"{p!r} and {p!r:>9}"),
    ("debug", lambda s, p: f"{p=}"),
    ("nested f-string", lambda s, p: f"({f'<{p}>'})"),
    ("nested spec", lambda s, p: f"{p:>{4 + 4}}"),
    ("str.format", lambda s, p: "{} and {p!r}".format(p, p=p)),  # noqa: UP032
    ("format attribute", lambda s, p: "{[1]}".format(p)),  # noqa: UP032
    ("format()", lambda s, p: format(p, "^9")),
    ("format_map", lambda s, p: "{p}".format_map({"p": p})),
    ("percent r", lambda s, p: "%r" % [p]),
    ("join of templates", lambda s, p: ", ".join([f"{p}", "x", f"{p}"])),
    ("sum of templates", lambda s, p: f"{p}" + " and " + f"{p}"),
    ("times", lambda s, p: f"{p}" * 2),
    ("left concat", lambda s, p: "left " + p),
    ("right concat", lambda s, p: p + " right"),
    ("method", lambda s, p: p.strip("[]").upper()),
    ("method with proxy", lambda s, p: p.replace("x", s.llm("r"))),
    ("item", lambda s, p: p[1]),
    ("slice", lambda s, p: p[1:-1]),
    ("repr()", lambda s, p: repr(p)),
    ("repr in a list", lambda s, p: f"{[p]} {(p, 1)!r}"),
    ("repr cut", lambda s, p: f"{p!r:.2}"),
]


@pytest.mark.parametrize("use", [t[1] for t in TEXTS], ids=[t[0] for t in TEXTS])
def test_text_waits(use: Callable[[Any, Any], Any]) -> None:
    """Text made from a proxy is what Python makes, and pauses nothing."""

    def forward(self: Any, x: str) -> Any:
        return use(self, self.llm(x)), self.llm("beside")

    got = ran(forward, "x")
    plain = module(lambda s, x: (use(s, s.llm(x)), s.llm("beside")))
    assert got.output == assert_runs_alike(plain, "x", clients=clients_for(echo))
    assert got.seconds == 1.0
    assert set(got.arrivals) == {0.0}


def test_text_reaches_client() -> None:
    """A template is filled before the request leaves."""
    got = ran(lambda s, x: s.llm(f"a: {s.llm(x)} b: {s.llm('y')!r:>6}"), "x")
    assert got.output == "[a: [x] b:  '[y]']"
    assert got.prompts == ["x", "y", "a: [x] b:  '[y]'"]
    assert got.arrivals == [0.0, 0.0, 1.0]


BINARY = "add sub mul truediv floordiv mod pow lshift rshift and_ or_ xor".split()


@pytest.mark.parametrize("name", BINARY)
def test_arithmetic(name: str) -> None:
    """Arithmetic, reflected too, is computed when its inputs are known."""
    compute = getattr(operator, name)

    def forward(self: Any) -> Any:
        p, q = self.number("7"), self.number("2")
        return [compute(p, q), compute(p, 3), compute(9, p), self.llm("beside")]

    got = ran(forward, answer=same)
    assert got.output == [compute(7, 2), compute(7, 3), compute(9, 7), "beside"]
    assert got.seconds == 1.0


OTHERS: list[tuple[str, Callable[[Any], Any]]] = [
    ("neg", lambda p: -p),
    ("pos", lambda p: +p),
    ("invert", lambda p: ~p),
    ("abs", lambda p: abs(p)),
    ("round", lambda p: round(p)),
    ("round digits", lambda p: round(p, -1)),
    ("divmod", lambda p: divmod(p, 2)),
    ("reflected divmod", lambda p: divmod(20, p)),
    ("three-argument pow", lambda p: pow(p, 2, 5)),
    ("eq", lambda p: p == 7),
    ("reflected eq", lambda p: 7 == p),
    ("ne", lambda p: p != 7),
    ("attribute", lambda p: p.real),
    ("sum", lambda p: sum([p, p, 1])),
]


@pytest.mark.parametrize("use", [t[1] for t in OTHERS], ids=[t[0] for t in OTHERS])
def test_other_operators(use: Callable[[Any], Any]) -> None:
    """Everything else that can wait is a small node, with Python's own result."""
    got = ran(lambda s: [use(s.number("7")), s.llm("beside")], answer=same)
    assert got.output == [use(7), "beside"]
    assert type(got.output[0]) is type(use(7))
    assert got.seconds == 1.0


def test_matmul_calls_and_items() -> None:
    """``@``, calls and items with proxies as keys work on any value."""

    class Matrix:
        def __matmul__(self, other: Any) -> str:
            return f"matmul {other}"

        def __rmatmul__(self, other: Any) -> str:
            return f"rmatmul {other}"

        def __call__(self, *args: Any, **kwargs: Any) -> str:
            return f"call {args} {kwargs}"

    @op
    def matrix() -> Matrix:
        return Matrix()

    def forward(self: Any) -> Any:
        m, n = matrix(), self.number("1")
        items = self.numbers("[4, 5, 6]")
        return m @ 2, 2 @ m, m(n, k=n), items[n], items[n:], items[:n:-1]

    got = ran(forward, answer=same)
    assert got.output == (
        *("matmul 2", "rmatmul 2", "call (1,) {'k': 1}"),
        *(5, [5, 6], [6]),
    )
    assert got.seconds == 1.0


STRUCTURES: list[tuple[str, Callable[[Any], Any]]] = [
    ("list", lambda p: [1, p, [p]]),
    ("tuple", lambda p: (p, (p, 2))),
    ("dict", lambda p: {"a": p, "b": {"c": p}}),
    ("named tuple", lambda p: Pair(p, [p])),
    ("dataclass", lambda p: Note(p, 3)),
    ("nested dataclass", lambda p: [Note({"k": Note(p)})]),
    ("constructed model", lambda p: Card.model_construct(name=p)),
    ("loose model", lambda p: Loose(held=[p])),
    ("template inside", lambda p: {"k": [f"<{p}>", f"{p}!"]}),
    ("template as key", lambda p: {f"<{p}>": 1, "z": 2}),
    ("template in set", lambda p: {f"<{p}>", "z"}),
    ("none", lambda p: None),
    ("constants", lambda p: (1, "x", 2.5, None, b"y")),
]


@pytest.mark.parametrize(
    "build", [t[1] for t in STRUCTURES], ids=[t[0] for t in STRUCTURES]
)
def test_structure_is_kept(build: Callable[[Any], Any]) -> None:
    """Proxies in structures are filled in, in what is returned and passed to calls."""
    seen: list[Any] = []

    @op
    def look(value: Any, *, again: Any) -> int:
        seen.append((value, again))
        return 1

    def forward(self: Any, x: str) -> Any:
        p = self.llm(x)
        return build(p), look(build(p), again=build(p)), self.llm("beside")

    got = ran(forward, "x")
    expected = build("[x]")
    assert got.output[0] == expected
    assert type(got.output[0]) is type(expected)
    assert seen == [(expected, expected)]
    assert got.seconds == 1.0


def test_proxy_keys_and_members() -> None:
    """A proxy as a dict key or set member is a graph break; the structure is exact."""

    def forward(self: Any) -> Any:
        return {self.llm("k"): self.llm("v"), "z": 1}, {self.llm("m"), "z"}

    got = ran(forward)
    assert got.output == ({"[k]": "[v]", "z": 1}, {"[m]", "z"})


def test_identical_objects_unchanged() -> None:
    """An object without proxies reaches an op as itself."""
    given = Note("plain")
    seen: list[Any] = []

    @op
    def look(value: Any) -> None:
        seen.append(value)

    ran(lambda s: look(given))
    assert seen[0] is given


def test_snapshot_at_call() -> None:
    """A call gets its arguments as they were when it was made."""

    def forward(self: Any, x: str) -> Any:
        talk = [{"role": "user", "content": x}]
        for turn in range(3):
            answer = self.llm(talk)
            talk.append({"role": "assistant", "content": answer})
            talk.append({"role": "user", "content": f"{answer} {turn}"})
        return talk[-1]["content"]

    got = ran(forward, "x")
    assert got.output == "[[[x] 0] 1] 2"
    assert [len(r.messages) for r in got.client.requests] == [1, 3, 5]
    assert got.prompts == ["x", "[x] 0", "[[x] 0] 1"]


@pytest.mark.parametrize(
    "held", ["system", "template", "through composite", "text around"]
)
def test_parameter_is_a_hole(held: str) -> None:
    """A Parameter reaches the client as text, and the graph as a hole of its own."""
    style = Parameter("Be brief.", description="style")
    inner = module(lambda s, text: s.llm(f"in: {text}"))
    forwards: dict[str, Callable[[Any, Any], Any]] = {
        "system": lambda s, x: s.styled(x),
        "template": lambda s, x: s.asked(question=f"{s.style}"),
        "through composite": lambda s, x: s.inner(f"{s.style}"),
        "text around": lambda s, x: s.llm(f"{s.style:>12} " + f"{x}"),
    }
    made = module(
        forwards[held],
        style=style,
        inner=inner,
        styled=LLMInference(alias="a", system_prompt=style),
        asked=LLMInference(alias="a", prompt="Q: {question}"),
    )
    sent = {
        "system": "x",
        "template": "Q: Be brief.",
        "through composite": "in: Be brief.",
        "text around": "   Be brief. x",
    }
    got = run(made, "x")
    assert got.prompts == [sent[held]]
    if held == "system":
        assert got.client.requests[0].system == "Be brief."
        return
    (node,) = [n for n in trace(made, "x") if n.kind == "llm"]
    (given,) = [*node.args, *node.kwargs.values()]
    sources = [hole.source for hole in given.holes]
    assert sources[0] is style


def test_parameter_value_of_now() -> None:
    """A hole of a parameter keeps the value at the time of the call."""
    style = Parameter("old")

    def forward(self: Any) -> Any:
        before = self.llm(f"{self.style}")
        self.style.value = "new"
        return before, self.llm(f"{self.style}")

    assert run(module(forward, style=style)).output == ("[old]", "[new]")


def test_copies_are_the_same_proxy() -> None:
    """copy and deepcopy of a proxy wait for the same node; pickling is refused."""

    def forward(self: Any, x: str) -> Any:
        p = self.llm(x)
        return copy.copy(p), copy.deepcopy([p]), self.llm("beside")

    got = ran(forward, "x")
    assert got.output == ("[x]", ["[x]"], "[beside]")
    assert got.prompts == ["x", "beside"]
    with pytest.raises(TracingError, match=r"cannot pickle the output of 'llm#1'"):
        ran(lambda s, x: pickle.dumps(s.llm(x)), "x")


def test_every_name_is_reachable() -> None:
    """A proxy has no names of its own: any field of the value can be asked for."""

    class Odd:
        send, close, args, throw, node, frame = "s", "c", "a", "t", "n", "f"

    @op
    def odd() -> Odd:
        return Odd()

    def forward(self: Any) -> Any:
        o = odd()
        return o.send, o.close, o.args, o.throw, o.node, o.frame

    assert ran(forward).output == ("s", "c", "a", "t", "n", "f")


def test_missing_attribute_is_named() -> None:
    """Asking a value for what it has not fails at that node; dunders fail at once."""
    with pytest.raises(Exception, match=r"'.nonsense#1' failed: AttributeError"):
        ran(lambda s, x: s.llm(x).nonsense, "x")
    client = silent()
    with pytest.raises(AttributeError, match=r"a Proxy has no __enter__"):
        ran(lambda s, x: s.llm(x).__enter__(), "x", client=client)
    assert client.requests == []


@pytest.mark.parametrize("names", [("x",), ("x", "y", "z")])
def test_calls_run_at_once(names: tuple[str, ...]) -> None:
    """Independent calls leave together, also from comprehensions and generators."""
    got = ran(lambda s: s.llm(", ".join(f"{s.llm(n)}" for n in names)))
    assert got.output == f"[{', '.join(f'[{n}]' for n in names)}]"
    assert got.arrivals == [0.0] * len(names) + [1.0]
