"""The report of a run: what a reader finds on the page, and what never gets there."""

import os
import re
import stat
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from inf_engine.errors import ExecutionError, RateLimitError, UsageError
from inf_engine.graph import GraphNode, InferenceGraph, NodeKind
from inf_engine.llm import LLMInference
from inf_engine.pages.markup import (
    escape,
    seconds_text,
    text_block,
    usd_text,
    value_block,
)
from inf_engine.pages.timeline import Lane, Work, timeline
from inf_engine.record import Call, NodeRecord, RunRecord, Segment
from inf_engine.report import report_html, write_report
from inf_engine.types import LLMRequest, LLMResponse, Message, ToolCall, Usage

VOID = ("meta", "br")
FAST = LLMInference(alias="fast")
SMART = LLMInference(alias="smart")
USAGE = Usage(1, 1200, 40, 16)


class Page(HTMLParser):
    """A page as a browser reads it; unbalanced tags are an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag; a void one does not open."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag of a picture that closes itself."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close the last tag, which has to be this one."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep what a reader reads."""
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        """All words of the page."""
        return "".join(self.words)

    def having(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        """The tags with such attributes."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        found = [attrs for name, attrs in self.tags if name == tag]
        return [a for a in found if wanted.items() <= a.items()]


def node(
    graph: InferenceGraph,
    path: str,
    *deps: GraphNode,
    kind: NodeKind = "llm",
    **more: Any,
) -> GraphNode:
    """Append a node to a graph."""
    target = more.get("target", FAST)
    made = GraphNode(len(graph.nodes), kind, path, 1, target, deps, {}, deps)
    graph.nodes.append(made)
    return made


def call(text: str, started: float = 0.0, seconds: float = 1.0, **more: Any) -> Call:
    """A request that was answered with a text."""
    request = LLMRequest(more.pop("messages", (Message("user", "hi"),)))
    response = LLMResponse(text, usage=USAGE, model="m-1", **more)
    return Call(request, response, None, started, seconds)


def done(of: GraphNode, started: float, seconds: float, **more: Any) -> NodeRecord:
    """The record of a node that worked."""
    more.setdefault("calls", (call("ok", started, seconds),))
    more.setdefault("ready", started)
    more.setdefault("output", "ok")
    return NodeRecord(of, "done", started=started, seconds=seconds, usage=USAGE, **more)


def run(graph: InferenceGraph, *nodes: NodeRecord, **more: Any) -> RunRecord:
    """The record of a run over these nodes."""
    usage = sum((found.usage for found in nodes), Usage())
    seconds = max((n.seconds + (n.started or 0) for n in nodes), default=0.0)
    fields: dict[str, Any] = {"module": "Compare", "args": ("the input",)}
    fields |= {"kwargs": {}, "output": "the end", "error": None, "seconds": seconds}
    return RunRecord(graph=graph, nodes=nodes, usage=usage, **{**fields, **more})


def two_steps(**more: Any) -> RunRecord:
    """One call and one that uses its answer and a parameter."""
    graph = InferenceGraph()
    first = node(graph, "extract")
    graph.output = second = node(graph, "join", first, target=SMART)
    prompt = (
        Segment("Facts: "),
        Segment("a < b", "extract#1"),
        Segment(" in the style of "),
        Segment("Hemingway", "style"),
    )
    system = (Segment("Be brief.", "join.system_prompt"),)
    return run(
        graph,
        done(first, 0.0, 1.0),
        done(second, 1.5, 0.5, ready=1.0, prompt=prompt, system=system),
        **more,
    )


def failed_run() -> RunRecord:
    """A run whose first call failed for good, so that the second never started."""
    graph = InferenceGraph()
    first = node(graph, "extract")
    second = node(graph, "join", first)
    refused = RateLimitError("fast asked to be called <less> often (429).")
    calls = tuple(
        Call(LLMRequest((Message("user", "hi"),)), None, refused, start, 0.5)
        for start in (0.0, 1.0)
    )
    error = ExecutionError("extract#1 failed", node="extract#1", cause=refused)
    return run(
        graph,
        NodeRecord(
            first, "failed", error=refused, calls=calls, started=0.0, seconds=1.5
        ),
        NodeRecord(second, "cancelled", error=refused),
        output=None,
        error=error,
    )


def many(count: int) -> RunRecord:
    """A run of many calls side by side."""
    graph = InferenceGraph()
    nodes = [node(graph, f"ask{index}") for index in range(count)]
    return run(graph, *[done(n, 0.0, 1.0 + (n.index == 7)) for n in nodes])


@pytest.mark.parametrize(
    "record",
    [two_steps(), failed_run(), many(1000), run(InferenceGraph())],
    ids=["two steps", "failed", "1,000 nodes", "no nodes"],
)
def test_the_page_is_whole_and_fetches_nothing(record: RunRecord) -> None:
    """Tags are balanced, ids are unique; no script, no address but the SVG name."""
    page = Page(report_html(record))
    names = [name for name, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(names)
    html = page.html.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|@import|url\(|src=", html)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [a["href"] or "" for a in page.having("a")]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    policy = [attrs["content"] or "" for attrs in page.having("meta")[1:2]]
    assert policy[0].startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_the_head_says_what_matters() -> None:
    """Module, outcome, time, requests, tokens and nodes stand in the head."""
    text = Page(report_html(two_steps())).text
    for fact in ("Compare", "done", "2.00 s", "1.50 s of requests", "2 model calls"):
        assert fact in text
    assert "Tokens in2,40032 cached" in text
    assert "the input" in text
    assert "the end" in text


def test_every_call_has_a_card_that_the_graph_leads_to() -> None:
    """Box, row of the timeline and name of a source all lead to the card."""
    page = Page(report_html(two_steps()))
    assert [a["id"] for a in page.having("article")] == ["n0", "n1"]
    assert len(page.having("a", href="#n0")) == 3
    assert len(page.having("a", href="#n1")) == 2


def test_holes_are_marked_with_their_source() -> None:
    """A piece from a node and one from a parameter are marked, each in its way."""
    html = report_html(two_steps())
    node_mark = (
        '<mark class="node" title="output of extract#1"><span class="source">'
        '<a href="#n0">extract#1</a></span>a &lt; b</mark>'
    )
    parameter_mark = (
        '<mark class="parameter" title="parameter style"><span class="source">style'
        "</span>Hemingway</mark>"
    )
    assert f"Facts: {node_mark} in the style of {parameter_mark}</pre>" in html


def test_a_prompt_that_is_one_parameter_names_it_in_its_title() -> None:
    """A system prompt is not marked from end to end."""
    html = report_html(two_steps())
    title = 'System prompt <span class="from">join.system_prompt</span>'
    assert f'{title}</h4><pre class="text">Be brief.</pre>' in html


def test_aliases_are_summed() -> None:
    """The table has a row for each alias and one for all."""
    html = report_html(two_steps())
    rows = re.findall(r"<tr>(<td>.*?)</tr>", html)
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
    assert cells == [
        ["fast", "1", "1", "0", "1,200", "16", "40", "unknown", "0 ms", "1.00 s"],
        ["smart", "1", "1", "0", "1,200", "16", "40", "unknown", "500 ms", "500 ms"],
        ["all", "2", "2", "0", "2,400", "32", "80", "unknown", "500 ms", "1.50 s"],
    ]


def priced(cost: float | None, reused: Any = None) -> RunRecord:
    """A run of two calls: one of 0.25 USD, one that cost so much."""
    graph = InferenceGraph()
    first, second = node(graph, "extract"), node(graph, "join", target=SMART)
    other = replace(call("ok", 1.0, 0.5, cost=cost), reused=reused)
    return run(
        graph,
        done(first, 0.0, 1.0, calls=(call("ok", cost=0.25),)),
        done(second, 1.0, 0.5, calls=(other,)),
    )


def test_the_cost_stands_in_the_head_the_table_and_the_cards() -> None:
    """In the head the whole, in each row and on each card its part."""
    page = Page(report_html(priced(0.0125)))
    assert "Cost$0.2625" in page.text
    assert re.findall(r"<td>(\$[^<]*)", page.html) == ["$0.2500", "$0.0125", "$0.2625"]
    assert page.text.count("tokens (16 cached) · $0.2500 · m-1") == 1
    assert page.text.count("tokens (16 cached) · $0.0125 · m-1") == 1


def test_a_price_that_misses_is_told() -> None:
    """The whole is unknown then; the parts that are known stay."""
    page = Page(report_html(priced(None)))
    assert "Costunknownno price for 1 answer" in page.text
    assert "cost unknown · m-1" in page.text
    assert re.findall(r"<td>(\$[^<]*|unknown)", page.html) == [
        *("$0.2500", "unknown", "unknown"),
    ]


@pytest.mark.parametrize("source", ["journal", "cache"])
def test_an_answer_that_was_there_is_no_request(source: str) -> None:
    """It costs nothing, and the card says where it came from."""
    page = Page(report_html(priced(0.0, source)))
    assert f"Cost$0.25001 from {source}" in page.text
    assert f"$0 · from {source} · m-1" in page.text
    assert "Requests1" in page.text
    assert len(page.having("i", class_="work")) == 1 + 1  # and one in the key


def test_waiting_is_told_apart_from_the_wire() -> None:
    """Before the first request, after a failed one, and before the next of a talk."""
    graph = InferenceGraph()
    refused = Call(LLMRequest(()), None, RateLimitError("slow"), 2.0, 1.0, 1.5)
    turn = replace(call("hm", 5.0, 1.0), waited=0.25)
    last = replace(call("ok", 8.0, 2.0), waited=0.5)
    found = done(node(graph, "a"), 2.0, 8.0, ready=0.5, calls=(refused, turn, last))
    assert found.waits == ((0.5, 1.5), (3.0, 2.0), (7.5, 0.5))
    assert found.waited == 4.0
    page = Page(report_html(run(graph, found)))
    bars = [bar["style"] for bar in page.having("i", class_="wait") if "style" in bar]
    assert bars == [
        *("left:5%;width:15%", "left:30%;width:20%", "left:75%;width:5%"),
    ]
    assert "waited 4.00 s" in page.text


def test_a_call_that_never_left_shows_its_wait() -> None:
    """It was ready and was given up: a row with nothing but the wait."""
    graph = InferenceGraph()
    lost = NodeRecord(node(graph, "a"), "cancelled", ready=1.0, ended=3.0)
    page = Page(report_html(run(graph, lost, seconds=4.0)))
    bars = [bar["style"] for bar in page.having("i", class_="wait") if "style" in bar]
    assert bars == ["left:25%;width:50%"]
    assert "waited 2.00 s" in page.text
    assert lost.cost == 0.0


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        *((None, "unknown"), (0.0, "$0"), (1e-9, "<$0.000001"), (2e-6, "$0.000002")),
        *((0.0125, "$0.0125"), (12.5, "$12.5000"), (12345.678, "$12,345.68")),
    ],
)
def test_money_reads_like_money(cost: float | None, text: str) -> None:
    """Small amounts have the decimals that tell something."""
    assert usd_text(cost) == text


def test_bars_are_as_long_as_their_time() -> None:
    """Places and widths are shares of the run; waiting, working and failing differ."""
    work = (Work(1.0, 1.0, failed=True), Work(2.5, 1.5))
    lane = Lane("a", 1.0, 3.0, ((0.5, 0.5),), work, critical=True)
    html = timeline([lane], 4.0)
    assert '<i class="wait" style="left:12.5%;width:12.5%">' in html
    assert '<i class="span" style="left:25%;width:75%">' in html
    assert '<i class="bad" style="left:25%;width:25%">' in html
    assert '<i class="work" style="left:62.5%;width:37.5%">' in html
    assert '<div class="lane hot">' in html
    assert "started at 1.00 s, waited 500 ms, took 3.00 s, 2 requests, 1 failed" in html


@pytest.mark.parametrize("seconds", [0.0, 1e-7, 0.003, 1.0, 9.99, 86400.0])
def test_the_axis_has_few_round_times(seconds: float) -> None:
    """Whatever the length of the run, there are one to eight ticks within it."""
    html = timeline([Lane("a", 0.0, seconds)], seconds)
    ticks = re.findall(r'class="tick" style="left:([^%]*)%', html)
    assert 1 <= len(ticks) <= 8
    assert all(0 <= float(tick) < 100 for tick in ticks)


def test_a_failed_run_says_so_first() -> None:
    """Error, cause and failed node stand above all else; what was cancelled is told."""
    page = Page(report_html(failed_run()))
    assert page.text.index("The run failed in extract#1") < page.text.index("Took")
    assert "RateLimitError: fast asked to be called <less> often (429)." in page.text
    assert "1 node cancelled" in page.text
    assert page.having("article", class_="card failed")
    assert page.having("article", class_="card cancelled")
    assert "Cancelled because of" in page.text
    assert len(page.having("i", class_="bad")) == 2 + 1  # and one in the key


def test_a_node_that_failed_on_the_way_is_told_although_the_run_is_done() -> None:
    """A failure that forward caught is shown without calling the run failed."""
    record = failed_run()
    page = Page(report_html(run(record.graph, *record.nodes)))
    assert "Some nodes failed" in page.text
    assert "The run failed" not in page.text


def test_retries_tool_turns_and_second_questions_are_listed() -> None:
    """A card lists every request: why it was sent, and what came of it."""
    graph = InferenceGraph()
    asked = (Message("user", "hi"),)
    wish = ToolCall("1", "weather", '{"city": "Basel"}')
    told = (*asked, Message("assistant", "", (wish,)), Message("tool", "21 degrees"))
    again = (*told, Message("assistant", "hm"), Message("user", "not JSON"))
    refused = Call(LLMRequest(asked), None, RateLimitError("slow down"), 0.0, 0.1)
    calls = (
        refused,
        call("", 0.5, messages=asked, tool_calls=(wish,), reasoning="I should look"),
        call("hm", 1.5, messages=told, finish_reason="length"),
        call("fine", 2.5, messages=again),
    )
    record = run(graph, done(node(graph, "a"), 0.0, 3.5, calls=calls, output="fine"))
    text = Page(report_html(record)).text
    card = text[text.rindex("4 requests") :]
    order = [
        *("1. at 0 ms", "RateLimitError: slow down", "2. tried again", "I should look"),
        *('weather({"city": "Basel"})', "3. asked again", "length", "21 degrees"),
        *("Answeredhm", "4. asked again", "Told the modelnot JSON"),
    ]
    places = [card.index(piece) for piece in order]
    assert places == sorted(places)
    assert "Answeredfine" not in card


EVIL = "<script>alert(1)</script>\"'&</style></pre>\x00\x1b\ud800 https:evil"


def test_nothing_written_by_models_or_users_is_markup() -> None:
    """Tags, quotes, control characters and lone surrogates come out as text."""
    graph = InferenceGraph()
    evil = node(graph, EVIL, kind="op", target=None)
    seen = NodeRecord(
        *(evil, "done", (EVIL, {EVIL: [EVIL]}), {EVIL: EVIL}, EVIL),
        system=(Segment(EVIL, EVIL),),
        prompt=(Segment(EVIL), Segment(EVIL, EVIL), Segment(EVIL, f"{EVIL}#1")),
        calls=(call(EVIL, reasoning=EVIL, tool_calls=(ToolCall(EVIL, EVIL, EVIL),)),),
        started=0.0,
        seconds=1.0,
    )
    bad = NodeRecord(node(graph, "b"), "failed", error=ValueError(EVIL))
    record = run(
        *(graph, seen, bad),
        **{"module": EVIL, "args": (EVIL,), "kwargs": {EVIL: EVIL}, "output": EVIL},
        error=ExecutionError(EVIL, node=EVIL),
    )
    page = Page(report_html(record))
    assert "<script" not in page.html
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff]", page.html)
    assert not page.having("script")
    assert page.text.count("<script>alert(1)</script>\"'&</style></pre>␀␛\ufffd") > 15


def test_values_are_shown_as_json() -> None:
    """Dataclasses, models, tuples and sets become JSON; strange objects their repr."""

    @dataclass
    class Point:
        x: int

    class Shape(BaseModel):
        name: str

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    html = value_block({"p": Point(1), "s": Shape(name="é"), "t": (1, None), 2: {3}})
    shown = html.replace("&quot;", '"')
    for piece in ('"x": 1', '"name": "é"', "null", '"2": [', '"3"'):
        assert piece in shown
    assert "Broken instance" in value_block([Broken()])
    assert value_block("plain <b>") == '<pre class="text">plain &lt;b&gt;</pre>'


def test_values_without_end_are_bounded() -> None:
    """A list within itself and a long list end in an ellipsis."""
    loop: list[Any] = []
    loop.append(loop)
    assert "…" in value_block(loop)
    assert "… 500 more" in value_block(list(range(1000)))
    assert "more" in value_block(dict.fromkeys(range(1000)))


def test_long_texts_fold_and_huge_ones_are_cut() -> None:
    """1,500 characters stand open, more are folded, beyond 20,000 they are counted."""
    assert "<details>" not in value_block("x" * 1500)
    assert "<details><summary><b>1,501 characters</b>" in value_block("x" * 1501)
    html = value_block("x" * 25_000)
    assert "5,000 more characters left out" in html
    assert html.count("x") < 20_300
    assert text_block([]) == '<p class="none">empty</p>'


def test_of_many_calls_some_are_shown_and_the_rest_is_counted() -> None:
    """200 cards and 120 rows of 1,000, the critical path among them."""
    page = Page(report_html(many(1000)))
    assert len(page.having("article")) == 200
    assert "800 more left out" in page.text
    assert "880 more rows left out" in page.text
    assert "984 not drawn" in page.html  # one row, cut to 16


def test_failed_calls_are_shown_however_late_they_are() -> None:
    """The last of 1,000 calls has a card if it failed."""
    record = many(999)
    last = node(record.graph, "late")
    lost = NodeRecord(last, "failed", error=ValueError("no"), started=0.0)
    page = Page(report_html(run(record.graph, *record.nodes, lost)))
    assert page.having("article", id="n999")


def test_many_inputs_of_one_call_are_one_block() -> None:
    """A join of 1,000 values does not fill the page."""
    graph = InferenceGraph()
    join = node(graph, "join", kind="op", target=None)
    values = tuple(f"value {index}" for index in range(1000))
    named = {f"k{index}": index for index in range(9)}
    record = run(graph, done(join, 0.0, 1.0, args=values, kwargs=named, calls=()))
    text = Page(report_html(record)).text
    assert "Inputs" in text
    assert "… 500 more" in text
    assert '"k8": 8' in text
    assert len(text) < 20_000


def test_a_run_without_nodes_has_a_page() -> None:
    """Every section says that there is nothing, none is missing."""
    text = Page(report_html(run(InferenceGraph()))).text
    for sentence in ("nothing started", "no model was called", "nothing was called"):
        assert sentence in text


def test_the_same_record_gives_the_same_bytes(tmp_path: Path) -> None:
    """There is neither chance nor today's date in a report."""
    record = two_steps()
    write_report(record, tmp_path / "a.html")
    write_report(record, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    """The file has mode 0600, also where a readable one stood before."""
    target = tmp_path / "run.html"
    target.write_text("old")
    target.chmod(0o644)
    write_report(two_steps(), target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_the_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Who has the old file open keeps the old text; no draft stays behind."""
    target = tmp_path / "run.html"
    target.write_text("old")
    with target.open() as reader:
        write_report(two_steps(), target)
        assert reader.read() == "old"
    assert target.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert [found.name for found in tmp_path.iterdir()] == ["run.html"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """A folder in the place of the file is an OSError, and no draft stays behind."""
    target = tmp_path / "run.html"
    (target / "full").mkdir(parents=True)
    with pytest.raises(OSError, match=r"run\.html"):
        write_report(two_steps(), target)
    assert [found.name for found in tmp_path.iterdir()] == ["run.html"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """The OSError passes; `RunRecord.report` makes a sentence of it."""
    target = tmp_path / "nowhere" / "run.html"
    with pytest.raises(FileNotFoundError):
        write_report(two_steps(), target)
    with pytest.raises(UsageError, match="cannot write the report to .*nowhere"):
        two_steps().report(target)


def test_escape_keeps_lines() -> None:
    """Newlines and tabs stay, other control characters become visible."""
    assert escape("a\r\nb\tc\rd\x7f\x85\uffff") == "a\nb\tc␍d␡\ufffd\ufffd"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0, "0 ms"), (0.00042, "0.4 ms"), (0.0421, "42.1 ms"), (0.42, "420 ms")),
        *((0.9996, "1.00 s"), (59.99, "59.99 s"), (59.999, "1 min 00 s")),
        *((125.4, "2 min 05 s"), (7265.0, "2 h 01 min")),
    ],
)
def test_durations_read_like_a_person_wrote_them(seconds: float, text: str) -> None:
    """Three figures or so, in the unit that fits."""
    assert seconds_text(seconds) == text
