"""The picture of a graph: what is in it, where it stands, and how large it gets."""

import re
import time
import xml.etree.ElementTree as ET
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inf_engine.graph import GraphNode, InferenceGraph, NodeKind
from inf_engine.llm import LLMInference
from inf_engine.pages.layout import BOX_GAP, Box, arrange
from inf_engine.svg import graph_svg
from inf_engine.template import Hole, Template

SVG = "{http://www.w3.org/2000/svg}"
FAST = LLMInference(alias="fast")


def add(
    graph: InferenceGraph,
    kind: NodeKind = "llm",
    path: str = "ask",
    *deps: GraphNode,
    target: Any = FAST,
    **more: Any,
) -> GraphNode:
    """Append a node to a graph."""
    number = 1 + sum(node.path == path for node in graph.nodes[-50:])
    args = more.pop("args", deps)
    node = GraphNode(
        len(graph.nodes), kind, path, number, target, args, {}, deps, **more
    )
    graph.nodes.append(node)
    return node


def diamond() -> InferenceGraph:
    """Two calls side by side and one that joins them."""
    graph = InferenceGraph()
    start = add(graph, "op", "clean", target=None)
    left, right = (add(graph, "llm", p, start) for p in ("left", "right"))
    graph.output = add(graph, "llm", "join", left, right)
    return graph


def titles(svg: str) -> list[str]:
    """The titles of the drawn nodes, by well-formed XML."""
    return [found.text or "" for found in ET.fromstring(svg).iter(f"{SVG}title")]


def paths(svg: str, look: str) -> int:
    """How many edges have a class."""
    return svg.count(f'<path class="{look}" d=')


def place_of(svg: str, name: str) -> tuple[float, float]:
    """Where the box of a node stands: left and top."""
    pattern = f'<title>{re.escape(name)}:.*?<rect x="([^"]*)" y="([^"]*)"'
    found = re.search(pattern, svg)
    assert found, name
    return float(found[1]), float(found[2])


def test_each_node_is_there_with_a_title() -> None:
    """Every node has a box with its name, kind and alias, and the output has one."""
    found = titles(graph_svg(diamond()))
    assert found[0] == "clean#1: op"
    assert "left#1: llm, alias fast" in found
    assert len(found) == 5
    assert found[-1] == "output"


def test_it_is_an_image_with_a_summary() -> None:
    """A reader that cannot see it hears that it is an image, and of what."""
    root = ET.fromstring(graph_svg(diamond()))
    assert root.get("role") == "img"
    assert root.get("aria-label") == "Graph of 4 nodes, 3 model calls."


def test_a_node_stands_below_all_that_it_waits_for() -> None:
    """Rows go down; nodes of one row stand beside each other."""
    svg = graph_svg(diamond())
    tops = [place_of(svg, f"{n}#1")[1] for n in ("clean", "left", "right", "join")]
    assert tops[0] < tops[1] == tops[2] < tops[3]
    assert place_of(svg, "left#1")[0] < place_of(svg, "right#1")[0]


def test_the_critical_path_is_one_line() -> None:
    """Only edges between consecutive nodes of the path are hot, to the output too."""
    graph = diamond()
    shortcut = graph.nodes[0]
    graph.nodes[3].deps = (*graph.nodes[3].deps, shortcut)
    svg = graph_svg(graph, critical=[0, 1, 3])
    assert paths(svg, "hot") == 3
    assert svg.count('hot"><title>') == 3


def test_seconds_and_bad_ends_are_written_into_the_boxes() -> None:
    """A box says how long its node took, or that it failed."""
    svg = graph_svg(diamond(), seconds={1: 1.5, 2: 0.25}, outcomes={2: "failed"})
    assert ">fast · 1.50 s</text>" in svg
    assert ">fast · failed</text>" in svg
    assert '<g class="llm failed">' in svg


def test_links_lead_to_cards() -> None:
    """The nodes that are asked for link to the page; the picture is a group then."""
    svg = graph_svg(diamond(), links=[1])
    assert svg.count("<a href=") == 1
    assert '<a href="#n1"><g class="llm"><title>left#1' in svg
    assert 'role="group"' in svg


def test_what_python_did_is_small() -> None:
    """Fields, items, calls and operators are pills that say what they do."""
    graph = InferenceGraph()
    base = add(graph)
    field = add(graph, "getattr", ".label", base, target="label")
    add(graph, "getitem", "getitem", base, target="getitem", args=(base, "key"))
    add(graph, "call", "call", field, target="call", args=(field, 3))
    graph.output = add(graph, "operator", "eq", field, target="eq", args=(field, "bug"))
    texts = [t.text for t in ET.fromstring(graph_svg(graph)).iter(f"{SVG}text")]
    wanted = {".label", "['key']", "(3)", "== 'bug'"}
    assert wanted <= set(texts)


def test_a_branch_is_outlined_with_what_it_recorded() -> None:
    """The outline holds the branch and its nodes, and starts below its input."""
    graph = InferenceGraph()
    asked = add(graph, "llm", "asked")
    branch = add(graph, "branch", "cond", asked)
    inside = add(graph, "llm", "inside", parent=branch)
    branch.inner = (inside,)
    graph.output = branch
    svg = graph_svg(graph)
    assert svg.count('class="group"') == 1
    tops = [place_of(svg, f"{n}#1")[1] for n in ("asked", "inside", "cond")]
    assert tops == sorted(tops)


def test_the_output_may_use_nodes_inside_of_text_and_structures() -> None:
    """A hole of a template and a value in a dict both lead to the output."""
    graph = diamond()
    hole = Hole(graph.nodes[1], "", "", "here")
    graph.output = {"a": Template(("so: ", hole)), "b": [graph.nodes[3]]}
    assert graph_svg(graph).count('class="tip"') == 4 + 2


def test_no_nodes() -> None:
    """A graph without nodes is a picture that says so."""
    svg = graph_svg(InferenceGraph())
    assert titles(svg) == ["no calls"]


@pytest.mark.parametrize(
    "name", ["<script>x</script>", 'a"b', "a&b", "a\x00\x1b\ud800"]
)
def test_names_are_text(name: str) -> None:
    """Whatever a name holds, the picture stays well-formed XML without new tags."""
    graph = InferenceGraph()
    graph.output = add(graph, "op", name, target=None)
    root = ET.fromstring(graph_svg(graph))
    kinds = {found.tag.removeprefix(SVG) for found in root.iter()}
    assert kinds == {"svg", "style", "path", "g", "title", "rect", "text"}


def test_long_names_keep_their_end() -> None:
    """A long name loses its middle in the box; the title has it whole."""
    graph = InferenceGraph()
    add(graph, "op", "a." * 40 + "last", target=None)
    svg = graph_svg(graph)
    assert re.search(r">a\.[a.]*…[a.]*last#1</text>", svg)
    assert titles(svg)[0].startswith("a." * 40 + "last#1")


@pytest.mark.parametrize("shape", ["chain", "fan"])
def test_a_large_graph_is_cut_and_says_so(shape: str) -> None:
    """Of 100,000 nodes some are drawn, the rest is counted, within two seconds."""
    graph = InferenceGraph()
    last = None
    for index in range(100_000):
        deps = () if last is None else (last,)
        node = GraphNode(index, "llm", "ask", index + 1, FAST, deps, {}, deps)
        graph.nodes.append(node)
        if shape == "chain" or last is None:
            last = node
    graph.output = graph.nodes[-1]
    began = time.process_time()
    svg = graph_svg(graph, critical=range(100_000))
    assert time.process_time() - began < 2
    drawn = [title for title in titles(svg) if "ask#" in title]
    assert 17 <= len(drawn) <= 300
    assert f"{100_000 - len(drawn):,} not drawn." in svg
    assert f"{len(drawn)} of 100,000 nodes drawn</text>" in svg
    assert len(svg) < 300_000


def test_of_a_cut_row_the_critical_nodes_stay() -> None:
    """The critical path is drawn even where it is far to the right."""
    graph = InferenceGraph()
    start = add(graph)
    for _ in range(400):
        add(graph, "llm", "wide", start)
    svg = graph_svg(graph, critical=[0, 399])
    assert '<g class="llm hot"><title>' in svg
    assert paths(svg, "hot") == 1
    assert "+ 384 more" in svg


def test_the_same_graph_gives_the_same_picture() -> None:
    """There is no chance in the layout."""
    assert graph_svg(diamond()) == graph_svg(diamond())


@st.composite
def boxes_and_edges(draw: Any) -> tuple[list[Box], list[tuple[int, int]]]:
    """Boxes in rows without holes, and edges that lead down."""
    rows = sorted(draw(st.lists(st.integers(0, 6), min_size=1, max_size=25)))
    boxes = [
        Box(
            draw(st.integers(20, 200)), 20, row, draw(st.sampled_from([(), (1,), (2,)]))
        )
        for row in rows
    ]
    pairs = [(a, b) for a, b in combinations(range(len(boxes)), 2) if rows[a] < rows[b]]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return boxes, edges


@given(boxes_and_edges())
def test_layout(drawn: tuple[list[Box], list[tuple[int, int]]]) -> None:
    """Boxes never touch, stay right of 0, and each edge joins its two boxes."""
    boxes, edges = drawn
    routes = arrange(boxes, edges)
    assert min(box.x - box.width / 2 for box in boxes) >= -1e-6
    for one, other in combinations(boxes, 2):
        if one.row == other.row:
            space = abs(one.x - other.x) - (one.width + other.width) / 2
            assert space >= BOX_GAP - 1e-6
        else:
            assert one.y + one.height < other.y
    for (upper, lower), route in zip(edges, routes, strict=True):
        assert route[0] == (boxes[upper].x, boxes[upper].y + boxes[upper].height)
        assert route[-1] == (boxes[lower].x, boxes[lower].y)
        assert [y for _, y in route] == sorted(y for _, y in route)


def test_the_boxes_of_a_group_stand_side_by_side() -> None:
    """Edges that pull a group apart do not."""
    boxes = [Box(50, 20, 0) for _ in range(4)]
    boxes += [Box(50, 20, 1, (7,) if n in (0, 3) else ()) for n in range(4)]
    arrange(boxes, [(n, n + 4) for n in range(4)])
    order = sorted(boxes[4:], key=lambda box: box.x)
    assert [bool(box.groups) for box in order].index(True) in (0, 1, 2)
    inside = [index for index, box in enumerate(order) if box.groups]
    assert inside[1] - inside[0] == 1
