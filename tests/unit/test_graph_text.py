"""The text and the drawings of an `InferenceGraph`."""

import json
import re
import shutil
import subprocess

import pytest
from tests.unit.test_graph import branched
from tests.unit.tracing_helpers import module

from inf_engine import (
    InferenceGraph,
    LLMInference,
    trace,
)

LONG = 100_000


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    """str and print show a line a node, what it waits for, and the output."""
    graph = branched()
    lines = [re.sub(r" +", " ", line.strip()) for line in str(graph).splitlines()]
    assert lines == [
        "InferenceGraph of 6 nodes",
        "x#1 input",
        "llm#1 llm alias=a <- x#1",
        "child#1 branch",
        "child.llm#1 llm alias=a <- llm#1",
        "child.llm#2 llm alias=a <- child.llm#1",
        "llm#2 llm alias=a <- child#1",
        "output <- llm#2",
    ]
    graph.print()
    assert capsys.readouterr().out == f"{graph}\n"
    assert repr(graph.nodes[1]) == "<llm node llm#1>"
    assert str(graph.nodes[1]) == "'llm#1'"
    assert (graph.nodes[1].alias, graph.nodes[2].alias) == ("a", None)


AWKWARD = 'a "quoted" <b> & \\n; #1 ünï\n2'


def awkward() -> InferenceGraph:
    """A graph whose labels need escaping."""
    made = module(lambda s, x: s.odd(x))
    made.odd = LLMInference(alias=AWKWARD)
    return trace(made, "x")


def test_mermaid() -> None:
    """Mermaid text has a node a line, edges, and its own escapes in labels."""
    lines = branched().to_mermaid().splitlines()
    assert lines[0] == "flowchart TD"
    assert '  n1["llm#35;1<br/>a"]' in lines
    assert "  n0 --> n1" in lines
    assert "  n5 --> out" in lines
    (label,) = [line for line in awkward().to_mermaid().splitlines() if "odd" in line]
    inside = re.fullmatch(r'  n1\["(.*)"\]', label)
    assert inside is not None
    text = inside[1].replace("<br/>", "\n")
    assert not set('"<') & set(text)
    for name, sign in (("quot", '"'), ("lt", "<"), ("amp", "&"), ("35", "#")):
        text = text.replace(f"#{name};", sign)
    assert text == f"odd#1\n{AWKWARD}"


def test_dot() -> None:
    """DOT text has a node a line, edges, and quoted labels."""
    lines = branched().to_dot().splitlines()
    assert (lines[0], lines[-1]) == ("digraph inference {", "}")
    assert '  n1 [label="llm#1\\na"];' in lines
    assert "  n0 -> n1;" in lines
    assert "  n5 -> out;" in lines
    (label,) = [line for line in awkward().to_dot().splitlines() if "odd" in line]
    inside = re.fullmatch(r"  n1 \[label=(.*)\];", label)
    assert inside is not None
    assert json.loads(inside[1]) == f"odd#1\n{AWKWARD}"
    assert "ünï" in inside[1]


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_dot_is_accepted_by_graphviz() -> None:
    """Graphviz reads the DOT text."""
    subprocess.run(["dot", "-Tplain"], input=awkward().to_dot(), text=True, check=True)


def test_empty_graph() -> None:
    """A graph without nodes is whole, and prints."""
    graph = InferenceGraph()
    graph.lint()
    assert str(graph).endswith("output <- no node")
    assert (len(graph), graph.topological_order()) == (0, [])
    assert graph.to_mermaid().startswith("flowchart")
    assert len(graph.content_hash()) == 64
