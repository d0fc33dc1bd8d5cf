"""Chrome traces: what Perfetto needs, what lies where, and what is never in one."""

import json
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from inf_engine import Engine, InferenceModule, LLMInference
from inf_engine.errors import ExecutionError, UsageError
from inf_engine.execution.chrome import (
    ChromeTraceFile,
    chrome_trace,
    run_events,
    write_chrome_trace,
)
from inf_engine.graph import GraphNode, InferenceGraph
from inf_engine.record import Call, NodeRecord, RunRecord
from inf_engine.testing import FunctionClient, VirtualTimeLoop
from inf_engine.types import LLMRequest, LLMResponse, Message, Usage

ASK = LLMRequest((Message("user", "a SECRET prompt"),))
USAGE = Usage(1, 12, 4)


class Pair(InferenceModule):
    """Two calls at once, and one that joins them."""

    def __init__(self) -> None:
        super().__init__()
        self.each = LLMInference("m")
        self.join = LLMInference("m")

    def forward(self, text: str) -> str:
        return self.join(f"{self.each(text)} {self.each(text)}")


def recorded(client: Any) -> RunRecord:
    """Run `Pair` on a virtual clock."""

    async def main() -> RunRecord:
        async with Engine({"m": client}, progress=False) as engine:
            return await engine.record(Pair(), "SECRET")

    return VirtualTimeLoop.run(main())


def node(index: int, **facts: Any) -> NodeRecord:
    """A record of a model call."""
    made = GraphNode(index, "llm", "ask", index + 1, LLMInference("m"), (), {}, ())
    outcome = facts.pop("outcome", "done")
    return NodeRecord(made, outcome, **facts)


def record_of(*nodes: NodeRecord, error: BaseException | None = None) -> RunRecord:
    """A record of a run of two seconds."""
    graph = InferenceGraph([n.node for n in nodes])
    return RunRecord("Ask", ("SECRET",), {}, "SECRET", error, graph, nodes, USAGE, 2.0)


def bars(trace: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The bars of one category."""
    return [e for e in trace["traceEvents"] if e["ph"] == "X" and e["cat"] == kind]


def assert_perfetto_opens(trace: Any) -> None:
    """Every event is whole, and bars of one row lie in each other or side by side."""
    rows: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str)
        assert event["ph"] in ("M", "X")
        assert event["pid"] > 0
        if event["ph"] == "M":
            assert event["args"]
            continue
        assert event["dur"] >= 0
        begin = event["ts"]
        row = rows.setdefault((event["pid"], event["tid"]), [])
        row.append((begin, begin + event["dur"]))
    for row in rows.values():
        row.sort(key=lambda bar: (bar[0], -bar[1]))
        ends: list[int] = []
        for begin, end in row:
            while ends and ends[-1] <= begin:
                ends.pop()
            assert not ends or end <= ends[-1]
            ends.append(end)


def test_a_run_that_really_was() -> None:
    """Two parallel calls have a row each, and the one that joins them the first."""
    record = recorded(FunctionClient(lambda r: "ok", latency=1.0))
    trace = chrome_trace([record])
    assert_perfetto_opens(trace)
    found = [(e["name"], e["ts"], e["dur"], e["tid"]) for e in bars(trace, "llm")]
    assert found == [
        ("each#1", 0, 1_000_000, 1),
        ("each#2", 0, 1_000_000, 2),
        ("join#1", 1_000_000, 1_000_000, 1),
    ]
    assert [(e["name"], e["dur"]) for e in bars(trace, "run")] == [("Pair", 2_000_000)]
    assert len(bars(trace, "request")) == 3


def test_each_run_is_a_process_with_a_name() -> None:
    """Runs are told apart by their numbers, and begin when they did."""
    trace = chrome_trace([record_of(), record_of()], began=[10.0, 10.5])
    names = [e for e in trace["traceEvents"] if e["name"] == "process_name"]
    told = [(e["pid"], e["args"]["name"]) for e in names]
    assert told == [(1, "input 0: Ask"), (2, "input 1: Ask")]
    assert [e["ts"] for e in bars(trace, "run")] == [10_000_000, 10_500_000]


def test_waiting_and_requests_lie_in_the_node() -> None:
    """A node shows its time in the queue, then each try with its end."""
    calls = (
        Call(ASK, None, ExecutionError("SECRET", node="ask#1"), 0.5, 0.25),
        Call(
            *(ASK, LLMResponse("SECRET", usage=USAGE, model="x-1", cost=0.25)),
            *(None, 1.0, 0.5),
        ),
    )
    ask = node(0, ready=0.25, started=0.5, seconds=1.0, calls=calls, usage=USAGE)
    trace = chrome_trace([record_of(ask)])
    assert_perfetto_opens(trace)
    (bar,) = bars(trace, "llm")
    assert (bar["ts"], bar["dur"]) == (250_000, 1_250_000)
    assert bar["args"]["alias"] == "m"
    assert bar["args"]["output_tokens"] == 4
    assert bar["args"]["usd"] == bars(trace, "run")[0]["args"]["usd"] == 0.25
    assert [(e["ts"], e["dur"]) for e in bars(trace, "queue")] == [
        *((250_000, 250_000), (750_000, 250_000)),
    ]
    first, second = bars(trace, "request")
    assert first["args"] == {"error": "ExecutionError"}
    assert second["args"]["model"] == "x-1"
    assert second["args"]["input_tokens"] == 12
    assert second["args"]["usd"] == 0.25


def test_a_price_that_is_not_known_and_an_answer_that_was_there() -> None:
    """No amount is better than a wrong one; what was reused says from where."""
    unpriced = Call(ASK, LLMResponse("SECRET", usage=USAGE), None, 0.0, 1.0)
    there = Call(ASK, LLMResponse("SECRET", cost=0.0), None, 1.0, 0.0, 0.0, "journal")
    ask = node(0, ready=0.0, started=0.0, seconds=1.0, calls=(unpriced, there))
    trace = chrome_trace([record_of(ask)])
    assert_perfetto_opens(trace)
    assert "usd" not in bars(trace, "run")[0]["args"]
    first, second = bars(trace, "request")
    assert "usd" not in first["args"]
    assert (second["args"]["usd"], second["args"]["from"]) == (0.0, "journal")


def test_a_failure_is_told_by_its_type() -> None:
    """The outcome and the type of the error are there, its message is not."""
    wrong = ValueError("SECRET")
    ask = node(0, ready=0.0, started=0.0, seconds=1.0, outcome="failed", error=wrong)
    trace = chrome_trace([record_of(ask, error=wrong)])
    assert bars(trace, "run")[0]["args"]["outcome"] == "failed"
    assert bars(trace, "llm")[0]["args"]["error"] == "ValueError"


def test_what_never_started_is_left_out() -> None:
    """A node that was cancelled before its turn has no bar."""
    trace = chrome_trace([record_of(node(0, outcome="cancelled", ready=0.5))])
    assert bars(trace, "llm") == []


def test_no_text_is_in_a_trace() -> None:
    """Neither prompts nor answers nor messages of errors."""
    record = recorded(FunctionClient(lambda r: "SECRET"))
    call = Call(ASK, LLMResponse("SECRET"), None, 0.0, 1.0)
    other = record_of(node(0, started=0.0, seconds=1.0, calls=(call,)))
    text = json.dumps(chrome_trace([record, other]))
    assert "SECRET" not in text
    assert "prompt" not in text


def test_rows_are_reused_and_never_overlap() -> None:
    """However nodes overlap, bars of a row do not, and the lowest free row is taken."""
    spans = [(0.0, 4.0), (0.1, 1.0), (0.2, 0.3), (1.0, 1.0), (1.5, 2.0), (1.6, 0.1)]
    nodes = [
        node(i, ready=begin, started=begin, seconds=end - begin if end > begin else 0.5)
        for i, (begin, end) in enumerate(spans)
    ]
    trace = chrome_trace([record_of(*nodes)])
    assert_perfetto_opens(trace)
    rows = [e["tid"] for e in bars(trace, "llm")]
    assert rows == [1, 2, 3, 2, 2, 3]
    names = [e for e in trace["traceEvents"] if e["name"] == "thread_name"]
    assert [e["args"]["name"] for e in names][:2] == ["run", "nodes 1"]
    assert all(a["tid"] < b["tid"] for a, b in pairwise(names))


def test_the_file_is_the_trace(tmp_path: Path) -> None:
    """A file is written run by run and holds what the function returns, mode 0600."""
    path = tmp_path / "trace.json"
    records = [record_of(node(0, started=0.0, seconds=1.0)), record_of()]
    assert write_chrome_trace(iter(records), path, [0.0, 3.0]) == path
    assert json.loads(path.read_text()) == chrome_trace(records, [0.0, 3.0])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert write_chrome_trace([], path) == path
    assert json.loads(path.read_text())["traceEvents"] == []


def test_an_interrupted_file_is_whole(tmp_path: Path) -> None:
    """Whatever ends the block, what was added is in a file that opens."""
    path = tmp_path / "trace.json"
    with pytest.raises(KeyboardInterrupt), ChromeTraceFile(path) as file:
        file.add(record_of(), 7)
        raise KeyboardInterrupt
    file.close()
    told = json.loads(path.read_text())["traceEvents"]
    assert told == list(run_events(record_of(), 7))


@pytest.mark.parametrize("name", ["none/trace.json", ""])
def test_a_file_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    """A missing folder, or a folder as the file, is told at once."""
    with pytest.raises(UsageError, match="cannot write the trace to .* in a folder"):
        ChromeTraceFile(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path: Path) -> None:
    """A disk that is full is told, and leaves no draft behind."""
    file = ChromeTraceFile(tmp_path / "trace.json")
    file._file.close()
    file._file = open("/dev/full", "w", buffering=1)  # noqa: SIM115 - closed below
    with pytest.raises(UsageError, match="No space left on device"):
        file.add(record_of(), 0)
    with pytest.raises(UsageError, match="No space left on device"):
        file.close()
    assert list(tmp_path.iterdir()) == []
