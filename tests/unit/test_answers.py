"""`plausible` answers any request: the same each time, and fitting its schema."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from inf_engine import InferenceModule, LLMInference, Sequential, TracingError, op
from inf_engine.schema import OutputType
from inf_engine.testing import (
    FunctionClient,
    ScriptedClient,
    assert_runs_alike,
    eager,
    plausible,
)
from inf_engine.testing.answered import Answered
from inf_engine.tracing.proxy import Proxy


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    names: list[str] = Field(min_length=2)
    score: float = Field(ge=0, le=1)
    colour: Colour


class Outer(BaseModel):
    inner: Inner
    maybe: Inner | None
    pair: tuple[int, str]
    short: str = Field(min_length=3, max_length=5)
    count: int = Field(gt=4)


class Tree(BaseModel):
    label: str
    below: list["Tree"]


@dataclass
class Point:
    x: float
    y: int = 0


TYPES = [
    *(Outer, Inner, Tree, Point, Colour, Literal["a", "b"], list[str], bool, int),
    *(dict[str, int], int | str, list[Point]),
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("asked", ["one", "two", "three", "four"])
def test_an_answer_fits_the_schema(kind: Any, asked: str) -> None:
    """It parses to the type that was asked for, and is the same the next time."""
    llm = LLMInference("m", response_format=kind)
    request = llm.build_request((asked,), {})
    answer = plausible(request)
    OutputType.of(kind).parse(answer)
    assert answer == plausible(request)


def test_a_text_depends_on_the_whole_conversation() -> None:
    """System prompt and question both change it."""
    texts = {
        plausible(LLMInference("m", system).build_request((asked,), {}))
        for system in (None, "a", "b")
        for asked in ("x", "y")
    }
    assert len(texts) == 6


class Two(InferenceModule):
    def __init__(self) -> None:
        super().__init__()
        self.pick = LLMInference("a", response_format=Literal["x", "y"])
        self.tell = LLMInference("b")

    def forward(self, text: str = "none") -> str:
        return self.tell(f"{self.pick(text)} {text}")


def test_assert_runs_alike_needs_no_clients() -> None:
    """Every alias of the module gets a client that answers plausibly."""
    assert assert_runs_alike(Two(), "tea").startswith("answer ")


def test_eager_without_inputs_is_a_function_that_takes_them() -> None:
    """`eager(module, clients)` is the module as plain Python, with clients."""
    clients = {"a": FunctionClient(plausible), "b": FunctionClient(plausible)}
    plain = eager(Sequential(Two()), clients)
    told = plain("tea")
    assert told == eager(Two(), clients, "tea") == eager(Two(), clients, text="tea")
    assert eager(LLMInference("b"), clients)("x").startswith("answer ")


def test_eager_runs_at_once_where_forward_needs_no_inputs() -> None:
    """Its defaults are the inputs."""
    clients = {"a": FunctionClient(plausible), "b": FunctionClient(plausible)}
    assert eager(Two(), clients) == eager(Two(), clients, "none")


def test_a_script_given_to_assert_runs_alike_serves_both_runs() -> None:
    """The plain run reads a copy of it."""
    script = ScriptedClient(["one", "two"])
    twice = Sequential(LLMInference("a"), LLMInference("a"))
    assert assert_runs_alike(twice, "x", clients={"a": script}) == "two"
    assert script.prompts == ["x", "one"]


# -- async forwards -----------------------------------------------------------------


@dataclass
class Boxed:
    """Carries a value."""

    held: Any


@op
def same_list(left: Any, right: Any) -> list[bool]:
    """Look at what came."""
    return [left is right, type(left.held) is str]


class Operators(InferenceModule):
    """An async forward that computes with what it has not awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.llm: Any = LLMInference("a")
        self.number: Any = LLMInference("a", response_format=int)

    async def forward(self) -> list[Any]:
        text, n = self.llm("x"), self.number("7")
        waiting = [
            text + "z",
            "z" + text,
            text == self.llm("x"),
            text != self.llm("x"),
            -n,
            abs(~n),
            2**n,
            n // 2 - n % 4,
            round(n),
            divmod(n, 2),
            divmod(20, n),
            n * self.number("2"),
        ]
        boxed = Boxed(text)
        told = f"{text + '!'} {n + 1:>3}"
        return [*[await w for w in waiting], told, await same_list.acall(boxed, boxed)]


def asked_prompt(request: Any) -> str:
    """The answer is the prompt."""
    return request.prompt


def test_operators_on_what_is_not_awaited_are_eager_as_traced() -> None:
    """They wait, as those of the proxies do."""
    clients = {"a": FunctionClient(asked_prompt)}
    got = assert_runs_alike(Operators(), clients=clients)
    assert got[:4] == ["xz", "zx", True, False]
    assert got[4:12] == [-7, 8, 128, 0, 7, (3, 1), (2, 6), 14]
    assert got[12:] == ["x!   8", [True, True]]


@pytest.mark.parametrize(
    ("use", "why"),
    [
        (bool, "branch on"),
        (str, "make text of"),
        (len, "measure"),
        (iter, "iterate over"),
        (int, "make a number of"),
        (lambda p: p < "a", "order"),
        (lambda p: "a" in p, "search in"),
        (lambda p: setattr(p, "a", 1), "change"),
    ],
)
def test_what_needs_a_value_at_once_is_refused_in_both(use: Any, why: str) -> None:
    """Before it is awaited."""

    class Uses(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.llm = LLMInference("a")

        async def forward(self) -> Any:
            return use(self.llm("x"))

    got = assert_runs_alike(Uses())
    assert isinstance(got, TracingError)
    with pytest.raises(TracingError, match=f"cannot {why} the output.*awaited. Write"):
        eager(Uses(), {"a": FunctionClient(plausible)})


def test_what_stands_for_answers_has_every_operation_of_a_proxy() -> None:
    """And one hash for each object."""
    own = {"init", "slots", "doc", "module", "class", "weakref", "dict", "getattr"}
    own |= {"copy", "deepcopy", "reduce_ex"}
    wanted = {n for n in Proxy.__dict__ if n.startswith("__")}
    assert wanted - {f"__{n}__" for n in own} <= set(Answered.__dict__)
    one, other = Answered("a"), Answered("a")
    assert len({one, other, one}) == 2


def test_ops_get_the_very_objects_of_a_forward() -> None:
    """Only what holds an unawaited value is rebuilt."""
    seen: list[Any] = []
    look: Any = op(lambda *given: seen.extend(given))
    held, known = Boxed("x"), ["a", {"b": 1}]

    class Hands(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.llm = LLMInference("a")

        async def forward(self) -> None:
            await look(known, held, [self.llm("x")], {"k": Boxed(self.llm("y"))})

    eager(Hands(), {"a": FunctionClient(asked_prompt)})
    assert seen[0] is known
    assert seen[1] is held
    assert seen[2:] == [["x"], {"k": Boxed("y")}]
