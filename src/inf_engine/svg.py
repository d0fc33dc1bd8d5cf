"""`graph_svg`: a graph as a picture that needs nothing but a browser.

Calls of models, ops and leaves are boxes; what Python did to their values (a field, an
item, an operator) are pills. A branch is outlined together with what it recorded, if
nothing else stands inside the outline. The picture follows the reader's light or dark
setting and has no script, no font and no id, so that several fit on one page. Of a
large graph it shows the first rows, and says how much it leaves out.
"""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inf_engine.pages.layout import Box, Point, arrange
from inf_engine.pages.markup import counted, escape, seconds_text
from inf_engine.pages.shapes import GraphShape, NodeShape
from inf_engine.template import Template
from inf_engine.tree import map_leaves

MOST_NODES = 300
MOST_IN_ROW = 16
MOST_EDGES = 1500
MOST_LETTERS = 30
MARGIN = 22.0
GROUP_PADDING = 10.0

_PILLS = ("getattr", "getitem", "call", "operator")
_KINDS = ("input", "llm", "op", "leaf", "branch", "first")
_SYMBOLS = {
    **{"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="},
    **{"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//"},
    **{"mod": "%", "pow": "**", "and_": "&", "or_": "|", "xor": "^", "neg": "-"},
}

STYLE = """
.inf-graph{--g-bg:#fff;--g-ink:#1c2128;--g-soft:#57606a;--g-line:#8c959f;
--g-llm:#e7f0fd;--g-llm-l:#2f6fc4;--g-op:#e8f6ec;--g-op-l:#2c7d45;--g-leaf:#f3ecfd;
--g-leaf-l:#7c4dbd;--g-branch:#fdf3df;--g-branch-l:#9a6a00;--g-pill:#f3f5f7;
--g-pill-l:#afb8c1;--g-hot:#c2410c;--g-bad:#b42318;--g-bad-b:#fef1f0;
background:var(--g-bg);
font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media (prefers-color-scheme:dark){.inf-graph{--g-bg:#161b22;--g-ink:#e6edf3;
--g-soft:#9ba5b0;--g-line:#6e7681;--g-llm:#16294a;--g-llm-l:#6aa5f0;--g-op:#12301d;
--g-op-l:#55b373;--g-leaf:#2a1d42;--g-leaf-l:#b08ae6;--g-branch:#33270e;
--g-branch-l:#d9a03f;--g-pill:#21262d;--g-pill-l:#545d68;--g-hot:#ff9d5c;
--g-bad:#ff8a7d;--g-bad-b:#3a1512}}
.inf-graph text{fill:var(--g-ink);font-size:12px;text-anchor:middle}
.inf-graph .sub{fill:var(--g-soft);font-size:10.5px}
.inf-graph .note{fill:var(--g-soft);text-anchor:start;font-size:11px}
.inf-graph rect{fill:var(--g-pill);stroke:var(--g-pill-l);stroke-width:1.2}
.inf-graph .llm rect{fill:var(--g-llm);stroke:var(--g-llm-l)}
.inf-graph .op rect{fill:var(--g-op);stroke:var(--g-op-l)}
.inf-graph .leaf rect{fill:var(--g-leaf);stroke:var(--g-leaf-l)}
.inf-graph .branch rect,.inf-graph .first rect{fill:var(--g-branch);
stroke:var(--g-branch-l)}
.inf-graph .end rect{fill:none;stroke:var(--g-line)}
.inf-graph .more rect{fill:none;stroke:var(--g-line);stroke-dasharray:4 3}
.inf-graph .group{fill:none;stroke:var(--g-branch-l);stroke-dasharray:5 4;opacity:.75}
.inf-graph path{fill:none;stroke:var(--g-line);stroke-width:1.3}
.inf-graph path.tip{fill:var(--g-line);stroke:none}
.inf-graph path.hot{stroke:var(--g-hot);stroke-width:2.4}
.inf-graph path.tip.hot{fill:var(--g-hot);stroke:none}
.inf-graph .hot rect{stroke:var(--g-hot);stroke-width:2.4}
.inf-graph .failed rect{fill:var(--g-bad-b);stroke:var(--g-bad);stroke-width:2}
.inf-graph .failed .sub{fill:var(--g-bad)}
.inf-graph .cancelled rect{fill:none;stroke:var(--g-line);stroke-dasharray:2 3}
.inf-graph a:hover rect,.inf-graph a:focus rect{stroke-width:3}
"""


@dataclass(slots=True)
class _Item:
    """A drawn box: its texts, and where it stands."""

    box: Box
    label: str
    sub: str = ""
    look: str = ""
    title: str = ""
    index: int = -1


@dataclass(slots=True)
class _Drawing:
    """What is drawn: items, the edges between them by number, and the groups."""

    items: list[_Item] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    hot: set[tuple[int, int]] = field(default_factory=set)
    number: dict[int, int] = field(default_factory=dict)  # item of a node's index
    left_out: int = 0


def graph_svg(
    graph: GraphShape,
    *,
    seconds: Mapping[int, float] | None = None,
    critical: Collection[int] = (),
    outcomes: Mapping[int, str] | None = None,
    links: Collection[int] = (),
) -> str:
    """Return a graph as an ``<svg>`` element.

    Args:
        graph: The graph.
        seconds: How long nodes took, by index; written into their boxes.
        critical: The nodes of the critical path, by index; drawn in another colour.
        outcomes: How nodes ended, by index; ``failed`` and ``cancelled`` ones are told
            apart.
        links: The nodes that link to the element ``n<index>`` of the same page.
    """
    drawing = _drawing(graph, seconds or {}, outcomes or {}, frozenset(critical))
    routes = arrange([item.box for item in drawing.items], drawing.edges)
    width, height = _shift(drawing, routes)
    parts = [_group(drawing, group) for group in _groups(drawing)]
    for edge, route in zip(drawing.edges, routes, strict=True):
        parts.append(_edge(route, edge in drawing.hot))
    parts += [_box(item, item.index in links) for item in drawing.items]
    if drawing.left_out:
        drawn = f"{len(graph.nodes) - drawing.left_out:,} of {len(graph.nodes):,}"
        parts.append(f'<text class="note" x="8" y="15">{drawn} nodes drawn</text>')
    role = "group" if links else "img"  # an image's links would not be announced
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="inf-graph" role="{role}" '
        f'aria-label="{escape(_summary(graph, drawing))}" width="{width}" '
        f'height="{height}" style="--width:{width}px" viewBox="0 0 {width} {height}">'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>"
    )


def _summary(graph: GraphShape, drawing: _Drawing) -> str:
    models = sum(node.kind == "llm" for node in graph.nodes)
    text = f"Graph of {counted(len(graph.nodes), 'node')}, "
    text += f"{counted(models, 'model call')}."
    return text + (f" {drawing.left_out:,} not drawn." if drawing.left_out else "")


def _drawing(
    graph: GraphShape,
    seconds: Mapping[int, float],
    outcomes: Mapping[int, str],
    critical: frozenset[int],
) -> _Drawing:
    rows = _rows(graph)
    kept = _kept(rows, critical)
    drawing = _Drawing()
    for row, nodes in enumerate(kept):
        for node in nodes:
            drawing.number[node.index] = len(drawing.items)
            ended = outcomes.get(node.index, "done")
            item = _item(node, row, seconds.get(node.index), ended)
            item.look += " hot" * (node.index in critical)
            drawing.items.append(item)
    shown = [node for nodes in kept for node in nodes]
    chain = [node.index for node in shown if node.index in critical]
    _add_edges(drawing, shown, dict(zip(chain[1:], chain, strict=False)))
    _add_output(drawing, graph, len(kept), chain)
    _add_left_out(drawing, rows, kept)
    if not rows:
        drawing.items.append(_end("no calls", 0, "more"))
    return drawing


def _rows(graph: GraphShape) -> list[list[NodeShape]]:
    """Return the nodes by the longest way to them."""
    row = [0] * len(graph.nodes)
    for node in graph.topological_order():
        waits = [*node.deps, *node.inner]
        if node.parent is not None:  # what a branch recorded began after its inputs
            waits += node.parent.deps
        row[node.index] = max([row[dep.index] + 1 for dep in waits], default=0)
    rows: list[list[NodeShape]] = [[] for _ in range(max(row, default=-1) + 1)]
    for node in graph.nodes:
        rows[row[node.index]].append(node)
    return rows


def _kept(
    rows: Sequence[list[NodeShape]], critical: frozenset[int]
) -> list[list[NodeShape]]:
    """Return the nodes to draw: all, or the first rows, cut to a readable width."""
    if sum(map(len, rows)) <= MOST_NODES:
        return list(rows)
    kept, room = [], MOST_NODES
    for row in rows:
        if room <= 0:
            break
        first = sorted(row, key=lambda node: (node.index not in critical, node.index))
        chosen = first[: min(MOST_IN_ROW, room)]
        kept.append(sorted(chosen, key=lambda node: node.index))
        room -= len(chosen)
    return kept


def _item(node: NodeShape, row: int, seconds: float | None, ended: str) -> _Item:
    pill = node.kind in _PILLS
    label = _short(_pill_text(node) if pill else node.name)
    sub = "" if pill or node.kind == "input" else _short(node.alias or node.kind)
    title = f"{node.name}: {node.kind}"
    title += f", alias {node.alias}" if node.alias else ""
    facts = [] if seconds is None else [seconds_text(seconds)]
    facts = [ended] if ended != "done" else facts
    sub = " · ".join([sub, *facts]) if sub else ""
    title = ", ".join([title, *facts])
    width = max(7.3 * _columns(label), 6.5 * _columns(sub)) + 24
    box = Box(max(width, 40 if pill else 92), 44 if sub else 24, row, _path(node))
    look = node.kind if node.kind in _KINDS else "pill"
    look += f" {ended}" if ended in ("failed", "cancelled") else ""
    return _Item(box, label, sub, look, title, node.index)


def _pill_text(node: NodeShape) -> str:
    if node.kind == "getattr":
        return f".{node.target}"
    literal = [repr(a) for a in node.args[1:] if type(a) in (str, int, float, bool)]
    if node.kind == "getitem":
        return f"[{', '.join(literal) or '…'}]"
    if node.kind == "call":
        return f"({', '.join(literal)})"
    name = str(node.target).strip("_")
    return " ".join([_SYMBOLS.get(name, name), *literal])


def _path(node: NodeShape) -> tuple[int, ...]:
    """Return the branches that a node stands in, outermost first."""
    path = [node.index] if node.kind == "branch" else []
    above = node.parent
    while above is not None and len(path) < 20:
        path.append(above.index)
        above = above.parent
    return tuple(path[::-1])


def _short(text: str) -> str:
    """Cut the middle out of a long text: the end tells nodes apart."""
    text = " ".join(text.split())
    if len(text) <= MOST_LETTERS:
        return text
    return f"{text[: MOST_LETTERS // 2]}…{text[-MOST_LETTERS // 2 + 1 :]}"


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _add_edges(
    drawing: _Drawing, nodes: Sequence[NodeShape], before: Mapping[int, int]
) -> None:
    """Add the edges; `before` is the critical path, node by node."""
    for node in nodes:
        for dep in (*node.deps, *node.inner):
            upper = drawing.number.get(dep.index)
            if upper is None or len(drawing.edges) >= MOST_EDGES:
                continue
            edge = upper, drawing.number[node.index]
            drawing.edges.append(edge)
            if before.get(node.index) == dep.index:
                drawing.hot.add(edge)


def _add_output(
    drawing: _Drawing, graph: GraphShape, row: int, chain: Sequence[int]
) -> None:
    numbers = [drawing.number.get(index) for index in _outputs(graph)]
    shown = [number for number in numbers if number is not None][:MOST_EDGES]
    if not shown:
        return
    last = len(drawing.items)
    drawing.items.append(_end("output", row, "end"))
    for number in shown:
        drawing.edges.append((number, last))
        if chain and drawing.items[number].index == chain[-1]:
            drawing.hot.add((number, last))


def _outputs(graph: GraphShape) -> list[int]:
    """Return the nodes that the output uses, by index, each once."""
    index_of = {id(node): node.index for node in graph.nodes}
    found: dict[int, None] = {}

    def look(leaf: Any) -> Any:
        sources = [hole.source for hole in leaf.holes] if type(leaf) is Template else []
        for source in (leaf, *sources):
            if id(source) in index_of:
                found[index_of[id(source)]] = None
        return leaf

    map_leaves(look, graph.output)
    return list(found)


def _add_left_out(
    drawing: _Drawing,
    rows: Sequence[list[NodeShape]],
    kept: Sequence[list[NodeShape]],
) -> None:
    """Say in each cut row, and below the last, how many nodes are not drawn."""
    for row, nodes in enumerate(kept):
        missing = len(rows[row]) - len(nodes)
        drawing.left_out += missing
        if missing:
            drawing.items.append(_end(f"+ {missing:,} more", row, "more"))
    below = sum(map(len, rows[len(kept) :]))
    drawing.left_out += below
    if below:
        text = f"{below:,} more nodes below"
        last = max(item.box.row for item in drawing.items) + 1
        drawing.items.append(_end(text, last, "more"))


def _end(text: str, row: int, look: str) -> _Item:
    return _Item(Box(7.3 * len(text) + 26, 24, row), text, look=look, title=text)


def _shift(drawing: _Drawing, routes: list[list[Point]]) -> tuple[int, int]:
    """Move everything off the edge of the picture; return its width and height."""
    boxes = [item.box for item in drawing.items]
    for box in boxes:
        box.x, box.y = round(box.x + MARGIN, 1), round(box.y + MARGIN, 1)
    for route in routes:
        route[:] = [(round(x + MARGIN, 1), round(y + MARGIN, 1)) for x, y in route]
    right = [box.x + box.width / 2 for box in boxes] + [x for r in routes for x, _ in r]
    bottom = max(box.y + box.height for box in boxes)
    return round(max(right) + MARGIN), round(bottom + MARGIN)


def _groups(drawing: _Drawing) -> list[int]:
    found: dict[int, None] = {}
    for item in drawing.items:
        found.update(dict.fromkeys(item.box.groups))
    return sorted(found)


def _group(drawing: _Drawing, group: int) -> str:
    """Return the outline of a branch, empty if something else stands inside it."""
    inside = [item.box for item in drawing.items if group in item.box.groups]
    depth = max(len(box.groups) - box.groups.index(group) for box in inside)
    space = GROUP_PADDING + 4 * (depth - 1)
    left = min(box.x - box.width / 2 for box in inside) - space
    right = max(box.x + box.width / 2 for box in inside) + space
    top = min(box.y for box in inside) - space
    bottom = max(box.y + box.height for box in inside) + space
    strangers = (i.box for i in drawing.items if group not in i.box.groups)
    hit = any(
        abs(box.x - (left + right) / 2) < (right - left + box.width) / 2
        and top < box.y + box.height
        and box.y < bottom
        for box in strangers
    )
    if hit or len(inside) < 2:
        return ""
    return (
        f'<rect class="group" x="{left:g}" y="{top:g}" width="{right - left:g}" '
        f'height="{bottom - top:g}" rx="10"/>'
    )


def _edge(route: Sequence[Point], hot: bool) -> str:
    x, y = route[0]
    path = [f"M{x:g} {y:g}"]
    last_x, last_y = route[-1][0], route[-1][1] - 5  # room for the tip
    for next_x, next_y in [*route[1:-1], (last_x, last_y)]:
        middle = round((y + next_y) / 2, 1)
        path.append(f"C{x:g} {middle:g} {next_x:g} {middle:g} {next_x:g} {next_y:g}")
        x, y = next_x, next_y
    look = ' class="hot"' if hot else ""
    tip = f"M{x - 4:g} {y - 1:g}h8l-4 6z"
    return (
        f'<path{look} d="{"".join(path)}"/><path class="tip{" hot" * hot}" d="{tip}"/>'
    )


def _box(item: _Item, link: bool) -> str:
    box = item.box
    round_corner = 7 if item.sub else box.height / 2
    middle = box.y + box.height / 2
    first = middle - 3 if item.sub else middle + 4
    parts = [
        f"<title>{escape(item.title)}</title>",
        f'<rect x="{box.x - box.width / 2:g}" y="{box.y:g}" width="{box.width:g}" '
        f'height="{box.height:g}" rx="{round_corner:g}"/>',
        f'<text x="{box.x:g}" y="{first:g}">{escape(item.label)}</text>',
    ]
    if item.sub:
        place = f'x="{box.x:g}" y="{middle + 13:g}"'
        parts.append(f'<text class="sub" {place}>{escape(item.sub)}</text>')
    body = f'<g class="{item.look}">{"".join(parts)}</g>'
    return f'<a href="#n{item.index}">{body}</a>' if link else body
