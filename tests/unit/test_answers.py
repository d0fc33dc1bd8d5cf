"""`plausible` answers any request: the same each time, and fitting its schema."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from inf_engine import InferenceModule, LLMInference
from inf_engine.schema import OutputType
from inf_engine.testing import FunctionClient, assert_runs_alike, eager, plausible


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
    plain = eager(Two(), clients)
    assert plain("tea") == eager(Two(), clients, "tea") == plain(text="tea")
    assert plain() == plain("none")
