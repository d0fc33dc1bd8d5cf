"""A t-string (PEP 750) is a template with the holes of the f-string of the same text.

Python 3.14 has the syntax; before it a class of the same shape stands in for it.
"""

import sys
from dataclasses import dataclass
from typing import Any

import pytest

from inf_engine import InferenceModule, LLMInference, Parameter
from inf_engine.graph import nodes_in
from inf_engine.template import Template, interpolated, is_t_string
from inf_engine.testing import FunctionClient, assert_runs_alike
from inf_engine.tracing.symbolic import trace


@dataclass
class Interpolation:
    value: Any
    conversion: str | None = None
    format_spec: str = ""


class TString:
    def __init__(self, *pieces: Any) -> None:
        self.strings = [p for p in pieces if isinstance(p, str)]
        self.interpolations = [p for p in pieces if not isinstance(p, str)]


TString.__module__, TString.__name__ = "string.templatelib", "Template"


def clients() -> dict[str, FunctionClient]:
    return {"m": FunctionClient(lambda request: f"<{request.prompt}>")}


class Ask(InferenceModule):
    def __init__(self) -> None:
        super().__init__()
        self.style = Parameter("Be brief.")
        self.llm = LLMInference("m")

    def forward(self, text: str) -> str:
        answer = self.llm(TString("say ", Interpolation(text), ""))
        again = TString("", Interpolation(answer, "r"), " ", Interpolation(text), "!")
        style = Interpolation(self.style)
        return self.llm(
            TString(
                "",
                style,
                " ",
                Interpolation(again),
                " ",
                Interpolation(3, None, ">4"),
                "",
            )
        )


def test_holes_are_filled_when_their_values_are_known() -> None:
    """Conversions, specs and nested t-strings do what they do in an f-string."""
    output = assert_runs_alike(Ask(), "x", clients=clients)
    assert output == "<Be brief. '<say x>' x!    3>"


def test_the_graph_knows_the_holes() -> None:
    """The call depends on the node in the hole; the parameter is a hole of its own."""
    graph = trace(Ask(), "x")
    first, second = (node for node in graph if node.kind == "llm")
    assert first in second.deps
    (prompt,) = second.args
    assert isinstance(prompt, Template)
    assert [type(hole.source).__name__ for hole in prompt.holes][0] == "Parameter"
    assert first in nodes_in(second.args)


def test_other_objects_are_no_t_strings() -> None:
    """Neither our templates nor texts."""
    assert not any(map(is_t_string, ["text", Template(()), None]))
    assert interpolated(TString("plain")) == "plain"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="the syntax is Python 3.14's")
def test_the_syntax() -> None:
    """A real one, where there is the syntax."""
    name = "x"
    assert interpolated(eval('t"hello {name!r:>5}"', {"name": name})) == "hello   'x'"
