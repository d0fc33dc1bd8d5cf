"""`write_report`: a run as one HTML page that needs no network and no script.

What is asked first stands first: did it work, how long, how much; what went in and
came out; then the graph, the timeline, the aliases, and a card for each call. A page
is bounded: of a run of thousands of calls it shows the first, the failed ones and the
critical path, and says how many it leaves out.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inf_engine.errors import ExecutionError
from inf_engine.pages import cards, timeline
from inf_engine.pages.markup import (
    Piece,
    counted,
    escape,
    page,
    pictures,
    seconds_text,
    text_block,
    usd_text,
    value_block,
)
from inf_engine.pages.private import write_private
from inf_engine.pages.shapes import CallShape, NodeRecordShape, RecordShape
from inf_engine.svg import graph_svg
from inf_engine.template import pieces_of
from inf_engine.tree import map_leaves
from inf_engine.types import ImagePart, Usage

MOST_CARDS = 200
MOST_LANES = 120
MOST_FAILED = 20
MOST_INPUTS = 20

_CALLED = ("llm", "op", "leaf", "branch", "first")

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--panel:#fff;--ink:#1c2128;--soft:#57606a;
--line:#d8dee4;--grid:#e6eaee;--accent:#0b5cad;--ok:#1a6b35;--err:#b42318;
--err-bg:#fef1f0;--text:#f6f8fa;--node:#dcebfd;--node-l:#1f5aab;--param:#f9e8c7;
--param-l:#7a5300;--wait:#6e7781;--work:#3b78c9;--span:#cfe0f6;--bad:#b42318;
--bad-2:#f0b6b0;--hot:#d4581a;--hot-2:#f8d4bd;--hot-ink:#a63a08;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media (prefers-color-scheme:dark){:root{--bg:#0d1117;--panel:#161b22;--ink:#e6edf3;
--soft:#9ba5b0;--line:#30363d;--grid:#262c34;--accent:#6cb2f7;--ok:#63c281;
--err:#ff8a7d;--err-bg:#2d1512;--text:#0f141a;--node:#173050;--node-l:#6aa5f0;
--param:#3a2c0c;--param-l:#d9a03f;--wait:#8b949e;--work:#4d8fe0;--span:#1d3557;
--bad:#e5675a;--bad-2:#6b2a24;--hot:#ef8544;--hot-2:#54290f;--hot-ink:#ffa366}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 var(--sans)}
main{max-width:1180px;margin:0 auto;padding:28px clamp(14px,3.5vw,40px) 64px}
h1{font-size:clamp(24px,4vw,31px);line-height:1.2;letter-spacing:-.015em;margin:0;
font-weight:680;overflow-wrap:anywhere}
h2{font-size:18px;line-height:1.3;margin:38px 0 12px;letter-spacing:-.005em}
h2 small{font-size:13px;font-weight:400;color:var(--soft);margin-left:8px;
letter-spacing:0}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
.top{display:flex;flex-wrap:wrap;align-items:center;gap:6px 14px}
.facts{display:flex;flex-wrap:wrap;gap:1px;
margin:20px 0 0;background:var(--line);border:1px solid var(--line);
border-radius:10px;overflow:hidden}
.facts div{flex:1 1 130px;background:var(--panel);padding:10px 16px 12px}
.facts dt{font-size:12.5px;color:var(--soft)}
.facts dd{margin:0;font-size:20px;font-weight:620;line-height:1.35;
font-variant-numeric:tabular-nums}
.facts dd small{display:block;font-size:12px;font-weight:400;color:var(--soft)}
nav{margin:16px 0 0;display:flex;flex-wrap:wrap;gap:4px 18px;font-size:14px}
.panel{background:var(--panel);border:1px solid var(--line);border-radius:10px;
padding:14px 18px 16px;min-width:0}
.panel h3{font-size:13px;color:var(--soft);font-weight:600;margin:0 0 6px}
.panel h3:not(:first-child){margin-top:14px}
.pair{display:grid;gap:14px;grid-template-columns:minmax(0,1fr);margin-top:16px}
@media (min-width:900px){.pair{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}
.scroll{overflow-x:auto}
.picture{max-height:85vh;overflow:auto}
.picture svg{display:block;margin:0 auto;max-width:100%;height:auto;
min-width:calc(var(--width)*.72)}
pre{margin:0;padding:9px 12px;background:var(--text);border:1px solid var(--line);
border-radius:7px;white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;
font:13.5px/1.6 var(--sans)}
pre.code{font:12.5px/1.55 var(--mono)}
details>summary{cursor:pointer;font-size:13px;color:var(--soft);padding:4px 0;
overflow-wrap:anywhere}
summary b{color:var(--accent);font-weight:600}
.none{color:var(--soft);font-size:13px;margin:4px 0}
mark{color:inherit;border-radius:3px;padding:1px 3px;
-webkit-box-decoration-break:clone;box-decoration-break:clone}
mark.node{background:var(--node);box-shadow:inset 0 -2px var(--node-l)}
mark.parameter{background:var(--param);box-shadow:inset 0 -2px var(--param-l)}
mark .source{font:600 11px/1 var(--mono);margin-right:5px;user-select:none}
mark.node .source{color:var(--node-l)}mark.parameter .source{color:var(--param-l)}
mark .source a{color:inherit}
.legend{display:flex;flex-wrap:wrap;gap:6px 16px;font-size:13px;color:var(--soft);
margin:0 0 12px}
.error pre{background:var(--err-bg);border-color:var(--err)}
.alarm{margin:20px 0 0;padding:14px 18px 16px;background:var(--err-bg);
border:1px solid var(--err);border-radius:10px}
.alarm h2{margin:0 0 6px;font-size:16px;color:var(--err)}
.alarm p{margin:8px 0 0;overflow-wrap:anywhere}
.alarm pre{background:none;border:0;padding:0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;
font-size:14px}
th,td{text-align:right;padding:7px 12px;white-space:nowrap;
border-bottom:1px solid var(--line)}
th{font-weight:600;font-size:12.5px;color:var(--soft)}
th:first-child,td:first-child{text-align:left;padding-left:2px}
tr:last-child td{border-bottom:0}tfoot td{font-weight:600}
@media print{body{background:none}.picture{max-height:none}}
"""


def write_report(record: RecordShape, path: Path) -> None:
    """Write one self-contained HTML page about a run.

    Args:
        record: What happened.
        path: The file. It is replaced in one step and readable by its owner only,
            because prompts and answers are in it.

    Raises:
        OSError: If the folder does not exist or cannot be written to.
    """
    write_private(path, report_html(record).encode())


def report_html(record: RecordShape, *, above: str = "", running: bool = False) -> str:
    """Return the page about a run as text.

    Args:
        record: What happened.
        above: Markup that stands above all, e.g. a link back.
        running: Whether the run still goes on.
    """
    critical = frozenset(node.node.index for node in record.critical_path())
    shown = _shown(record.nodes, MOST_CARDS, critical)
    ids = {node.node.index: f"n{node.node.index}" for node in shown}
    parts = [above, _header(record, ids, running), _in_and_out(record, running)]
    parts += [_graph(record, critical, ids), _timeline(record, critical, ids)]
    parts += [_aliases(record), _cards(record, shown, ids)]
    style = STYLE + timeline.STYLE + cards.STYLE + pictures(_images(record, shown))
    body = f"<main>{''.join(parts)}</main>"
    return page(f"{record.module} · inf-engine", style, body)


def _images(record: RecordShape, shown: Sequence[NodeRecordShape]) -> list[ImagePart]:
    """Return the images of the inputs, the output and the calls that are shown."""
    found: list[ImagePart] = []

    def look(leaf: Any) -> Any:
        found.extend(p for p in pieces_of(leaf) if isinstance(p, ImagePart))
        return leaf

    pieces = [piece.image for node in shown for piece in node.prompt]
    nodes = [(pieces, node.args, node.kwargs, node.output) for node in shown]
    map_leaves(look, (record.args, record.kwargs, record.output, nodes))
    return found


def _shown(
    nodes: Sequence[NodeRecordShape], most: int, critical: frozenset[int]
) -> list[NodeRecordShape]:
    """Return at most so many calls: failed ones, the critical path, then the first."""
    called = [n for n in nodes if n.node.kind in _CALLED or n.outcome == "failed"]
    rank = {"failed": 0}
    called.sort(key=lambda n: (rank.get(n.outcome, 1), n.node.index not in critical))
    return sorted(called[:most], key=lambda n: n.node.index)


def _header(record: RecordShape, ids: dict[int, str], running: bool) -> str:
    outcome = "done" if record.error is None else "failed"
    outcome = "running" if running else outcome
    facts = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>"
        for name, value, more in _facts(record)
    )
    sections = ("In and out", "Graph", "Timeline", "Models", "Calls")
    links = "".join(f'<a href="#{_anchor(s)}">{s}</a>' for s in sections)
    return (
        f'<header><div class="top"><h1>{escape(record.module)}</h1>'
        f'<span class="badge {outcome}">{outcome}</span></div>'
        f"{_alarm(record, ids)}"
        f'<dl class="facts">{facts}</dl><nav aria-label="Sections">{links}</nav>'
        "</header>"
    )


def _facts(record: RecordShape) -> list[tuple[str, str, str]]:
    """Return the figures of the run: name, value, and what to know about it."""
    calls = [call for node in record.nodes for call in node.calls]
    work = seconds_text(sum(call.seconds for call in calls))
    sent = sum(call.reused is None for call in calls)
    failed = sum(call.error is not None for call in calls)
    models = sum(node.node.kind == "llm" for node in record.nodes)
    usage = record.usage
    cached = f"{usage.cached_tokens:,} cached" if usage.cached_tokens else ""
    thought = f"{usage.reasoning_tokens:,} reasoning" if usage.reasoning_tokens else ""
    return [
        ("Took", seconds_text(record.seconds), f"{work} of requests"),
        ("Nodes", f"{len(record.nodes):,}", counted(models, "model call")),
        ("Requests", f"{sent:,}", f"{failed:,} failed" if failed else ""),
        ("Tokens in", f"{usage.input_tokens:,}", cached),
        ("Tokens out", f"{usage.output_tokens:,}", thought),
        ("Cost", usd_text(record.cost), _about_cost(calls)),
    ]


def _about_cost(calls: Sequence[CallShape]) -> str:
    """Return what to know about a cost: prices that miss, answers paid before."""
    unpriced = sum(call.cost is None for call in calls)
    notes = [f"no price for {counted(unpriced, 'answer')}"] if unpriced else []
    sources = [call.reused for call in calls if call.reused is not None]
    notes += [f"{sources.count(s):,} from {s}" for s in dict.fromkeys(sources)]
    return ", ".join(notes)


def _alarm(record: RecordShape, ids: dict[int, str]) -> str:
    """Return the error of the run and the nodes that failed, empty if none did."""
    failed = [node for node in record.nodes if node.outcome == "failed"]
    cancelled = sum(node.outcome == "cancelled" for node in record.nodes)
    if record.error is None and not failed:
        return ""
    parts = ["<h2>Some nodes failed</h2>"]
    if record.error is not None:
        where = ""
        if isinstance(record.error, ExecutionError):
            where = f" in {escape(record.error.node)}"
        text = text_block([Piece(cards.error_text(record.error))])
        parts = [f"<h2>The run failed{where}</h2>{text}"]
    if failed:
        links = [_link(node, ids) for node in failed[:MOST_FAILED]]
        more = len(failed) - len(links)
        tail = f" and {more:,} more" if more else ""
        parts.append(f"<p>Failed: {', '.join(links)}{tail}</p>")
    if cancelled:
        parts.append(f"<p>{counted(cancelled, 'node')} cancelled</p>")
    return f'<div class="alarm" role="alert">{"".join(parts)}</div>'


def _link(node: NodeRecordShape, ids: dict[int, str]) -> str:
    name = escape(node.node.name)
    card = ids.get(node.node.index)
    return f'<a href="#{card}">{name}</a>' if card else name


def _section(title: str, body: str, note: str = "") -> str:
    small = f"<small>{note}</small>" if note else ""
    return f'<section id="{_anchor(title)}"><h2>{title}{small}</h2>{body}</section>'


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _in_and_out(record: RecordShape, running: bool) -> str:
    named = [(f"Input {number}", value) for number, value in enumerate(record.args, 1)]
    if len(named) == 1:
        named = [("Input", record.args[0])]
    named += list(record.kwargs.items())
    inputs = [f"<h3>{escape(n)}</h3>{value_block(v)}" for n, v in named[:MOST_INPUTS]]
    if len(named) > MOST_INPUTS:
        left = len(named) - MOST_INPUTS
        inputs.append(f'<p class="none">{left:,} more left out</p>')
    given = "".join(inputs) or '<h3>Input</h3><p class="none">none</p>'
    output = value_block(record.output)
    if record.error is not None:
        output = '<p class="none">none: the run failed</p>'
    elif running:
        output = '<p class="none">none yet: the run goes on</p>'
    body = f'<div class="panel">{given}</div>'
    body += f'<div class="panel"><h3>Output</h3>{output}</div>'
    return _section("In and out", f'<div class="pair">{body}</div>')


def _graph(record: RecordShape, critical: frozenset[int], ids: dict[int, str]) -> str:
    took = {
        node.node.index: node.seconds
        for node in record.nodes
        if node.started is not None and node.node.kind in _CALLED
    }
    ended = {node.node.index: node.outcome for node in record.nodes}
    svg = graph_svg(
        record.graph, seconds=took, critical=critical, outcomes=ended, links=ids
    )
    body = (
        '<div class="panel"><div class="scroll picture" tabindex="0" role="region" '
        f'aria-label="Graph">{svg}</div></div>'
    )
    note = "the critical path is highlighted; a box leads to its card"
    return _section("Graph", body, note)


def _timeline(
    record: RecordShape, critical: frozenset[int], ids: dict[int, str]
) -> str:
    started = [n for n in record.nodes if n.started is not None or n.waits]
    shown = _shown(started, MOST_LANES, critical)
    lanes = [
        timeline.Lane(
            node.node.name,
            node.started if node.started is not None else node.ready or 0.0,
            node.seconds,
            tuple(node.waits),
            _work(node),
            node.node.index in critical,
            ids.get(node.node.index, ""),
            node.outcome,
        )
        for node in shown
    ]
    rows = timeline.timeline(lanes, record.seconds)
    if not lanes:
        rows = '<p class="none">nothing started</p>'
    left = sum(n.node.kind in _CALLED for n in started) - len(shown)
    note = f"{left:,} more rows left out" if left > 0 else ""
    return _section("Timeline", f'<div class="panel">{rows}</div>', note)


def _work(node: NodeRecordShape) -> tuple[timeline.Work, ...]:
    """Return the requests of a node; the whole of one that makes none."""
    if not node.calls and node.started is not None and node.node.kind != "branch":
        failed = node.outcome == "failed"
        return (timeline.Work(node.started, node.seconds, failed),)
    calls = [
        (call.started, call.seconds, call.error is not None)
        for call in node.calls
        if call.reused is None
    ]
    return tuple(timeline.Work(*call) for call in calls)


def _aliases(record: RecordShape) -> str:
    by_alias: dict[str, list[NodeRecordShape]] = {}
    for node in record.nodes:
        if node.node.alias is not None:
            by_alias.setdefault(node.node.alias, []).append(node)
    rows = "".join(f"<tr>{_row(a, nodes)}</tr>" for a, nodes in by_alias.items())
    every = [node for nodes in by_alias.values() for node in nodes]
    foot = f"<tfoot><tr>{_row('all', every)}</tr></tfoot>" if len(by_alias) > 1 else ""
    names = ("Alias", "Calls", "Requests", "Failed", "Tokens in", "Cached")
    names += ("Tokens out", "Cost", "Waited", "Time")
    heads = "".join(f"<th>{name}</th>" for name in names)
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Models"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>{foot}</table></div>"
    )
    if not rows:
        table = '<p class="none">no model was called</p>'
    note = "times are sums over requests, many of which were side by side"
    return _section("Models", f'<div class="panel">{table}</div>', note)


def _row(alias: str, nodes: Sequence[NodeRecordShape]) -> str:
    calls = [call for node in nodes for call in node.calls]
    sent = [call for call in calls if call.reused is None]
    usage = Usage.total(node.usage for node in nodes)
    costs = [call.cost for call in calls]
    priced = [cost for cost in costs if cost is not None]
    cells = [
        *(alias, f"{len(nodes):,}", f"{len(sent):,}"),
        f"{sum(call.error is not None for call in calls):,}",
        *(f"{usage.input_tokens:,}", f"{usage.cached_tokens:,}"),
        f"{usage.output_tokens:,}",
        usd_text(math.fsum(priced) if len(priced) == len(costs) else None),
        seconds_text(sum(node.waited for node in nodes)),
        seconds_text(sum(call.seconds for call in calls)),
    ]
    return "".join(f"<td>{escape(cell)}</td>" for cell in cells)


def _cards(
    record: RecordShape, shown: Sequence[NodeRecordShape], ids: dict[int, str]
) -> str:
    names = {n.node.name: ids.get(n.node.index, "") for n in record.nodes}
    left = sum(n.node.kind in _CALLED for n in record.nodes) - len(shown)
    note = f"{left:,} more left out" if left > 0 else "in trace order"
    legend = (
        '<p class="legend"><span><mark class="node">text</mark> came from another '
        'node</span><span><mark class="parameter">text</mark> came from a parameter'
        "</span></p>"
    )
    body = "".join(cards.card(node, names) for node in shown)
    body = f"{legend}{body}" if shown else '<p class="none">nothing was called</p>'
    return _section("Calls", body, note)
