"""The command line, against a loopback server that counts; in process, and for real."""

import asyncio
import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inf_engine.cli import main
from inf_engine.journal import JournalStore
from inf_engine.testing import LoopbackServer

SOURCE = Path(__file__).parents[2] / "src"
SECONDS = 30  # after which a child that hangs is an error

PIPES = """
from dataclasses import dataclass
from inf_engine import InferenceModule, LLMInference, Sequential

class Ask(InferenceModule):
    def __init__(self, alias="m", style=None):
        super().__init__()
        self.llm = LLMInference(alias, system_prompt=style)
    def forward(self, text):
        return self.llm(f"{text}")

class Compare(InferenceModule):
    def __init__(self):
        super().__init__()
        self.each = LLMInference("m")
        self.join = LLMInference("m")
    def forward(self, left: str, right: str = "nothing") -> str:
        return self.join(f"{self.each(left)}+{self.each(right)}")

class Many(InferenceModule):
    def __init__(self):
        super().__init__()
        self.llm = LLMInference("m")
    def forward(self, *texts):
        return self.llm(" ".join(map(str, texts)))

class Options(InferenceModule):
    def forward(self, text, *, loud=False):
        return [text, loud]

class ByKeyword(InferenceModule):
    def forward(self, text, *, loud):
        return text

class Nothing(InferenceModule):
    def forward(self):
        return 1

class Branchy(InferenceModule):
    def forward(self, text):
        return text if text else "no"

@dataclass
class Point:
    x: int
    name: str

class Typed(InferenceModule):
    def forward(self, kind):
        if kind == "object":
            return object()
        return {"point": [Point(1, "é")], "odd": "\\ud800", "nan": float("nan")}[kind]

class Broken(InferenceModule):
    def __init__(self):
        raise ValueError("no such style\\nmore")

steps = Sequential(Compare(), Ask())
leaf = LLMInference("m")
number = 3
def make(alias): return Ask(alias)
def wrong(): return 3
"""


@dataclass
class Shell:
    """A folder with modules and a resources file, and the command line in it."""

    folder: Path
    server: LoopbackServer
    capture: pytest.CaptureFixture[str]
    err: str = field(default="", init=False)
    out: str = field(default="", init=False)

    def __call__(self, line: str) -> int:
        """Run a command line in this process; return its exit code."""
        code = main(shlex.split(line))
        self.out, self.err = self.capture.readouterr()
        return code

    def run(self, target: str, *inputs: Any, more: str = "") -> int:
        """Run a target over inputs, each one a line."""
        self.write("in.jsonl", "".join(json.dumps(i) + "\n" for i in inputs))
        return self(f"{RUN} {target} {FILES} {more}")

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        (self.folder / name).write_text(text, encoding="utf-8")

    def lines(self, name: str = "out.jsonl") -> list[Any]:
        """Return what stands in a file, one JSON value a line."""
        text = (self.folder / name).read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]

    @property
    def outputs(self) -> list[Any]:
        """The outputs, in input order."""
        rows = sorted(self.lines(), key=lambda row: row["index"])
        return [row["output"] for row in rows]


RUN = "run --no-progress"
FILES = "--inputs in.jsonl --out out.jsonl --resources r.toml"


def resources(server: LoopbackServer, **fields: Any) -> str:
    """Return the text of a resources file with one alias."""
    table = {
        "provider": "openai-compatible",
        "model": "tiny",
        "base_url": server.base_url,
        "retries": 0,
        **fields,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(["[endpoints.m]", *lines, ""])


def shout(body: dict[str, Any]) -> str:
    """Answer with the prompt in upper case."""
    return body["messages"][-1]["content"].upper()


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Generator[Shell]:
    """A shell in a fresh folder, which is where modules are imported from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["inf-engine"])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "pipes_of_cli", raising=False)
    with LoopbackServer(shout) as server:
        made = Shell(tmp_path, server, capsys)
        made.write("pipes_of_cli.py", PIPES)
        made.write("r.toml", resources(server))
        yield made
    sys.modules.pop("pipes_of_cli", None)


# -- run ------------------------------------------------------------------------------


def test_run_writes_a_line_for_each_input(shell: Shell) -> None:
    """Outputs are in the file with their index, the summary is on stderr."""
    assert shell.run("pipes_of_cli:Ask", "a", "b", "c") == 0
    assert shell.outputs == ["A", "B", "C"]
    assert shell.out == ""
    assert shell.err.startswith("3 inputs, 0 failed, 3 requests, ")
    assert " tokens, cost unknown, " in shell.err
    assert stat.S_IMODE((shell.folder / "out.jsonl").stat().st_mode) == 0o600
    assert not (shell.folder / "out.jsonl.partial").exists()


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ('["a", "b"]', "A+B"),
        ('["a"]', "A+NOTHING"),
        ('{"left": "a", "right": "b"}', "A+B"),
        ('{"right": "b", "left": "a"}', "A+B"),
        ('{"left": "a"}', "A+NOTHING"),
        ('"a"', "A+NOTHING"),
        ("7", "7+NOTHING"),
    ],
)
def test_what_a_line_means(shell: Shell, line: str, prompt: str) -> None:
    """An array is by position, an object by keyword, anything else the only input."""
    shell.write("in.jsonl", f"\ufeff\n  \n{line}\n\n")
    assert shell(f"{RUN} pipes_of_cli:Compare {FILES}") in (0, 1)
    if line == "7":  # not a prompt, so that input fails
        assert shell.lines()[0]["error"]["type"] == "ModuleError"
    else:
        assert shell.outputs == [prompt]


def test_an_object_of_other_keys_is_the_only_input(shell: Shell) -> None:
    """So is one that is empty, and what stands in an array."""
    given = [{"a": 1}, {}, None, [["x", "y"]], [{"text": 1}]]
    assert shell.run("pipes_of_cli:Ask", *given) == 0
    expected = ["{'A': 1}", "{}", "NONE", "['X', 'Y']", "{'TEXT': 1}"]
    assert shell.outputs == expected


@pytest.mark.parametrize(
    ("target", "given", "output"),
    [
        ("steps", ["a", "b"], "A+B"),
        ("steps", {"left": "a"}, "A+NOTHING"),
        ("leaf", "hi", "HI"),
        ("Many", ["a", "b", "c"], "A B C"),
        ("Many", {"texts": 1}, "{'TEXTS': 1}"),
        ("Options", "a", ["a", False]),
        ("make --set alias=m", "a", "A"),
        ("Typed", "point", [{"x": 1, "name": "é"}]),
        ("Typed", "odd", "\ud800"),
    ],
)
def test_targets(shell: Shell, target: str, given: Any, output: Any) -> None:
    """A class, a module object, a function, a leaf; typed outputs become JSON."""
    assert shell.run(f"pipes_of_cli:{target}", given) == 0
    assert shell.outputs == [output]


def test_set_gives_the_arguments_of_the_class(shell: Shell) -> None:
    """A value that is JSON is what it says, anything else is text."""
    more = "--set style='Be brief.' --set 'alias=\"m\"'"
    assert shell.run("pipes_of_cli:Ask", "a", more=more) == 0
    assert shell.server.bodies[0]["messages"][0]["content"] == "Be brief."


def test_bad_lines_are_told_before_anything_is_paid(shell: Shell) -> None:
    """Each with its number and what is wrong, never with its content."""
    lines = [
        '["good"]',
        '["a", "b", "SECRET"]',
        "",
        '{"left": "SECRET",}',
        '{"right": "SECRET"}',
        '{"left": "a", "color": "SECRET"}',
        '{"left": "a", "odd key SECRET": 1}',
        "[" * 100_000,
        "1" * 5000,
    ]
    text = "\n".join(lines).encode() + b'\n"\xff"\n'
    (shell.folder / "in.jsonl").write_bytes(text)
    assert shell(f"{RUN} pipes_of_cli:Compare {FILES}") == 2
    told = shell.err.splitlines()
    takes = "forward takes (left: str, right: str = 'nothing')"
    by_place = "is no parameter that forward takes by position (left, right); leave"
    assert told[0] == "inf-engine: error: in.jsonl: 8 bad lines, and nothing was sent:"
    assert told[1] == f"  line 2: too many positional arguments; {takes}"
    assert told[2].startswith("  line 4: not JSON: ")
    assert " at column " in told[2]
    assert told[3] == f"  line 5: missing a required argument: 'left'; {takes}"
    assert told[4].startswith(f"  line 6: 'color' {by_place}")
    assert told[5].startswith(f"  line 7: a key {by_place}")
    assert told[6] == "  line 8: a number too long, or nested too deep"
    assert told[7] == "  line 9: a number too long, or nested too deep"
    assert told[8] == "  line 10: not UTF-8 text"
    assert "SECRET" not in shell.err
    assert "Traceback" not in shell.err
    assert shell.server.count == 0
    assert not (shell.folder / "out.jsonl.partial").exists()


def test_only_the_first_bad_lines_are_listed(shell: Shell) -> None:
    """Ten, and how many more there are."""
    shell.write("in.jsonl", "[\n" * 12)
    assert shell(f"{RUN} pipes_of_cli:Ask {FILES}") == 2
    assert len(shell.err.splitlines()) == 12
    assert shell.err.endswith("  and 2 more\n")


def test_star_args_are_as_many_on_each_line(shell: Shell) -> None:
    """Because a batch has columns."""
    assert shell.run("pipes_of_cli:Many", ["a", "b"], ["c"]) == 2
    assert "line 2: 1 inputs, but line 1 gives 2; give all lines" in shell.err
    assert shell.run("pipes_of_cli:Many", []) == 2
    assert "its lines give no inputs. Give at least one." in shell.err


def test_no_inputs_are_no_error(shell: Shell) -> None:
    """An empty file gives an empty file, also over an old one."""
    shell.write("out.jsonl", "old\n")
    assert shell.run("pipes_of_cli:Ask") == 0
    assert shell.lines() == []


def test_a_failed_input_costs_only_itself(shell: Shell) -> None:
    """Its line has the error and its cause's type; the exit code is 1."""
    with LoopbackServer(shout, errors=[None, 400]) as server:
        shell.write("r.toml", resources(server, max_concurrent=1))
        assert shell.run("pipes_of_cli:Ask", "a", "b", "c", more="--ordered") == 1
    first, second, third = shell.lines()
    assert first == {"index": 0, "output": "A"}
    assert third == {"index": 2, "output": "C"}
    assert second["index"] == 1
    assert second["error"]["type"] == "RequestRefusedError"
    assert "'llm#1' (alias 'm') failed" in second["error"]["message"]
    assert "3 inputs, 1 failed, 2 requests" in shell.err
    assert "failed: 1 × RequestRefusedError" in shell.err


def test_an_output_that_json_cannot_carry_has_failed(shell: Shell) -> None:
    """It is told like any other failure, with its type."""
    assert shell.run("pipes_of_cli:Typed", "object", "nan") == 1
    rows = sorted(shell.lines(), key=lambda row: row["index"])
    assert [row["error"]["type"] for row in rows] == ["UsageError", "UsageError"]
    assert (
        "the output, a object, cannot be written as JSON" in rows[0]["error"]["message"]
    )
    assert "the output, a float, cannot be written" in rows[1]["error"]["message"]


def test_errors_raise_stops_at_the_first(shell: Shell) -> None:
    """What was done is in the partial file, and how to go on is said."""
    with LoopbackServer(shout, errors=[None, 400]) as server:
        shell.write("r.toml", resources(server, max_concurrent=1))
        more = "--errors raise --max-inflight 1 --journal run.db"
        assert shell.run("pipes_of_cli:Ask", *"abcdef", more=more) == 1
        assert server.count <= 3
        rows = shell.lines("out.jsonl.partial")
        assert [row["index"] for row in rows] == [0, 1]
        assert "not finished: 2 of 6 inputs in out.jsonl.partial" in shell.err
        assert f"  inf-engine {RUN} pipes_of_cli:Ask {FILES} {more}\n" in shell.err
        assert not (shell.folder / "out.jsonl").exists()
        assert shell.run("pipes_of_cli:Ask", *"abcdef", more=more) == 0
        assert shell.outputs == list("ABCDEF")


def test_ordered_outputs_are_in_input_order(shell: Shell) -> None:
    """Also where the first input is the slowest."""
    slow = LoopbackServer(shout, latency=lambda index, _: 0.0 if index else 0.05)
    with slow as server:
        shell.write("r.toml", resources(server))
        assert shell.run("pipes_of_cli:Ask", *"abcd", more="--ordered") == 0
    assert [row["index"] for row in shell.lines()] == [0, 1, 2, 3]


def test_max_inflight_is_the_most_at_once(shell: Shell) -> None:
    """The server never sees more."""
    shell.server.latency = 0.005
    assert shell.run("pipes_of_cli:Ask", *range(12), more="--max-inflight 3") == 0
    assert shell.server.max_in_flight <= 3


def test_the_journal_answers_the_second_time(shell: Shell) -> None:
    """The same command again sends nothing and gives the same outputs."""
    more = "--journal run.db"
    assert shell.run("pipes_of_cli:Compare", ["a", "b"], "c", more=more) == 0
    before, count = shell.outputs, shell.server.count
    assert shell.run("pipes_of_cli:Compare", ["a", "b"], "c", more=more) == 0
    assert shell.server.count == count == 6
    assert shell.outputs == before
    assert "0 requests" in shell.err
    assert "6 answers reused" in shell.err
    with JournalStore("run.db", read_only=True) as store:
        assert sorted({row.path for row in store.rows()}) == ["each", "join"]


def test_an_input_is_the_same_however_it_is_given(shell: Shell) -> None:
    """By keyword, by position, with a default written out, among other lines."""
    more = "--journal run.db"
    assert shell.run("pipes_of_cli:Compare", ["a", "nothing"], more=more) == 0
    assert shell.server.count == 3
    assert shell.run("pipes_of_cli:Compare", {"left": "a"}, more=more) == 0
    assert shell.run("pipes_of_cli:Compare", ["x", "y"], "a", more=more) == 0
    assert shell.server.count == 6


def test_the_cache_answers_other_inputs(shell: Shell) -> None:
    """Equal requests of other inputs are sent once."""
    assert shell.run("pipes_of_cli:Ask", "a", more="--cache c.db") == 0
    more = "--cache c.db --set alias=m"
    assert shell.run("pipes_of_cli:make", "a", more=more) == 0
    assert shell.server.count == 1


def test_a_budget_is_kept(shell: Shell) -> None:
    """What does not fit is not sent, and told as a failure."""
    more = "--budget-requests 2"
    assert shell.run("pipes_of_cli:Ask", *"abcd", more=more) == 1
    assert shell.server.count == 2
    assert "failed: 2 × BudgetExceededError" in shell.err


@pytest.mark.parametrize("name", ["usd", "requests", "tokens", "seconds"])
def test_a_budget_of_nothing_is_refused(shell: Shell, name: str) -> None:
    """It is not taken for no budget."""
    assert shell.run("pipes_of_cli:Ask", "a", more=f"--budget-{name} 0") == 2
    assert f"Budget: {name} must be a positive" in shell.err


def test_money_is_in_the_summary(shell: Shell) -> None:
    """Where the price is known."""
    text = resources(shell.server) + "price = { input = 1000000, output = 0 }\n"
    shell.write("r.toml", text)
    assert shell.run("pipes_of_cli:Ask", "a") == 0
    assert "1 input, 0 failed, 1 request, " in shell.err
    assert ", $" in shell.err


def test_the_trace_has_every_input(shell: Shell) -> None:
    """A Chrome trace with a process for each, in the order of the file."""
    assert shell.run("pipes_of_cli:Ask", "a", "b", more="--trace t.json") == 0
    events = json.loads((shell.folder / "t.json").read_text())["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {"input 0: Ask", "input 1: Ask"}
    assert all(e["ts"] >= 0 for e in events if e["ph"] == "X")


def test_logs_have_no_text(shell: Shell) -> None:
    """Once: each input; twice: each node; never a prompt or an answer."""
    assert shell.run("pipes_of_cli:Ask", "Secret", more="-v") == 0
    assert "INFO event=input_finished input=0 seconds=" in shell.err
    assert "node_" not in shell.err
    assert shell.run("pipes_of_cli:Ask", "Secret", more="-vv") == 0
    assert "DEBUG event=node_started input=0 node=llm#1 alias=m" in shell.err
    assert "DEBUG event=node_finished input=0 node=llm#1 alias=m" in shell.err
    assert "secret" not in shell.err.lower()
    assert shell.run("pipes_of_cli:Ask", "Secret") == 0
    assert "event=" not in shell.err


def test_failures_are_logged_as_warnings(shell: Shell) -> None:
    """With the type of the error."""
    with LoopbackServer(errors=[400]) as server:
        shell.write("r.toml", resources(server))
        assert shell.run("pipes_of_cli:Ask", "a", more="-v") == 1
    assert "WARNING event=input_finished input=0" in shell.err
    assert "error=ExecutionError" in shell.err


WRONG = [
    (
        "pipes_of_cli",
        "'pipes_of_cli' names no module class: write package.module:Class",
    ),
    ("pipes_of_cli:", "names no module class"),
    ("no_such_file:Ask", "cannot import no_such_file: ModuleNotFoundError: No module"),
    ("pipes_of_cli:Aks", "pipes_of_cli has no 'Aks'; known: Ask, Branchy"),
    ("pipes_of_cli:number", "gives int and no module: name a class that derives"),
    ("pipes_of_cli:wrong", "gives int and no module"),
    ("pipes_of_cli:Point --set x=1 --set name=n", "gives Point and no module"),
    (
        "pipes_of_cli:Broken",
        "cannot make pipes_of_cli:Broken(): ValueError: no such st",
    ),
    ("pipes_of_cli:Ask --set styl=1", "unexpected keyword argument 'styl'"),
    ("pipes_of_cli:leaf --set a=1", "is a module already and takes no arguments"),
    ("pipes_of_cli:Ask --set style", "--set takes key=value, each key once, not 'sty"),
    ("pipes_of_cli:Ask --set a=1 --set a=2", "--set takes key=value, each key once"),
    ("pipes_of_cli:Nothing", "the forward of Nothing takes no inputs by position"),
    ("pipes_of_cli:ByKeyword", "needs 'loud' by keyword, but inputs are given by pos"),
    ("pipes_of_cli:Ask --set alias=x", "unknown alias 'x' used by 'llm'; known: m"),
    ("pipes_of_cli:Ask --max-inflight 0", "max_inflight must be an int ≥ 1"),
    ("pipes_of_cli:Ask --trace no/t.json", "cannot write the trace to no/t.json"),
    (
        "pipes_of_cli:Ask --out no/o",
        "cannot write the outputs to no/o.partial: No such",
    ),
    ("pipes_of_cli:Ask --out .", ". is not a plain file. Name another --out."),
    ("pipes_of_cli:Ask --out in.jsonl", "--out is the file of the inputs."),
    ("pipes_of_cli:Ask --inputs no.jsonl", "cannot read the inputs no.jsonl: No such"),
    ("pipes_of_cli:Ask --inputs .", ". is not a plain file, and the inputs are read"),
    ("pipes_of_cli:Ask --resources no.toml", "there is no such resources file"),
    ("pipes_of_cli:Ask --journal in.jsonl", "the journal '"),
    ("pipes_of_cli:Ask --errors ignore", "argument --errors: invalid choice"),
    ("pipes_of_cli:Ask --out", "argument --out: expected one argument"),
]


@pytest.mark.parametrize(("target", "message"), WRONG)
def test_what_is_wrong_is_told_before_anything_is_sent(
    shell: Shell, target: str, message: str
) -> None:
    """Exit code 2, what is wrong on stderr, and nothing is left behind."""
    shell.write("in.jsonl", '"a"\n')
    assert shell(f"{RUN} {FILES} {target}") == 2
    assert message in shell.err
    assert "Traceback" not in shell.err
    assert "not finished" not in shell.err
    assert shell.server.count == 0
    left = {p.name for p in shell.folder.iterdir()}
    assert left - {"in.jsonl-lock"} == {"in.jsonl", "r.toml", "pipes_of_cli.py"}


def test_a_failure_of_the_users_code_has_its_place(shell: Shell) -> None:
    """File and line, for an import and for a constructor; the message's first line."""
    assert shell.run("pipes_of_cli:Broken", "a") == 2
    assert "no such style (" in shell.err
    assert "pipes_of_cli.py line " in shell.err
    assert "more" not in shell.err
    shell.write("broken_of_cli.py", "import json\n\nx = undefined\n")
    assert shell("graph broken_of_cli:Ask") == 2
    assert "NameError: name 'undefined' is not defined (" in shell.err
    assert "broken_of_cli.py line 3)" in shell.err


def test_a_key_by_keyword_is_refused(shell: Shell) -> None:
    """A batch gives inputs by position, so a keyword-only one is told."""
    assert shell.run("pipes_of_cli:Options", {"text": "a", "loud": True}) == 2
    assert "line 1: 'loud' is no parameter that forward takes by position" in shell.err


def test_a_missing_key_is_told(shell: Shell) -> None:
    """The name of the variable, before anything is sent."""
    shell.write("r.toml", resources(shell.server, api_key_env="NO_SUCH_KEY_OF_CLI"))
    assert shell.run("pipes_of_cli:Ask", "a") == 2
    assert "the environment variable NO_SUCH_KEY_OF_CLI is not set" in shell.err


def test_a_partial_file_without_a_journal_is_kept(shell: Shell) -> None:
    """Its answers are nowhere else; with a journal it is written anew."""
    shell.write("out.jsonl.partial", '{"index": 0, "output": "paid"}\n')
    assert shell.run("pipes_of_cli:Ask", "a") == 2
    assert "out.jsonl.partial holds the outputs of a run that was inter" in shell.err
    assert shell.lines("out.jsonl.partial")[0]["output"] == "paid"
    assert shell.server.count == 0
    assert shell.run("pipes_of_cli:Ask", "a", more="--journal run.db") == 0
    assert shell.outputs == ["A"]


def test_a_file_that_changes_meanwhile(shell: Shell) -> None:
    """A line that is no input any more ends the run; what was done is there."""

    def answer(body: dict[str, Any]) -> str:
        shell.write("in.jsonl", '"a"\n' + "[\n" * 3000)
        return shout(body)

    with LoopbackServer(answer) as server:
        shell.write("r.toml", resources(server))
        many = ["a" * 9000] * 40
        assert shell.run("pipes_of_cli:Ask", *many, more="--max-inflight 1") == 2
    assert "in.jsonl has changed while it was read: line " in shell.err
    assert shell.lines("out.jsonl.partial")


# -- graph ----------------------------------------------------------------------------


def test_graph_prints_the_trace(shell: Shell) -> None:
    """As text, as Mermaid, as DOT; nothing is sent."""
    assert shell("graph pipes_of_cli:Compare") == 0
    assert shell.out.startswith("InferenceGraph of 4 nodes\n")
    assert shell("graph pipes_of_cli:Compare --mermaid") == 0
    assert shell.out.startswith("flowchart") or shell.out.startswith("graph")
    assert shell("graph pipes_of_cli:Compare --dot") == 0
    assert shell.out.startswith("digraph")
    assert shell.server.count == 0


def test_a_graph_that_cannot_be_traced(shell: Shell) -> None:
    """The error of the trace, with its fix."""
    assert shell("graph pipes_of_cli:Branchy") == 2
    assert "inf-engine: error: cannot branch on the output of 'text#1'" in shell.err


# -- journal --------------------------------------------------------------------------


@pytest.fixture
def journal(shell: Shell) -> Shell:
    """A shell with a journal of three answers."""
    assert shell.run("pipes_of_cli:Ask", "q1", "q2", "q3", more="--journal a.db") == 0
    return shell


def test_journal_show_has_no_text(journal: Shell) -> None:
    """Rows without prompts and answers; with --full with them."""
    assert journal("journal show a.db") == 0
    head, *rows = journal.out.splitlines()
    assert head.split()[:4] == ["row", "created", "kind", "module"]
    assert [row.split()[2:6] for row in rows] == [["call", "llm", "m", "tiny"]] * 3
    assert "q1" not in journal.out.lower()
    assert "3 answers in " in journal.err
    assert journal("journal show a.db --limit 1 --full") == 0
    told = json.loads(journal.out)
    assert told["request"]["messages"][0]["content"] == "q1"
    assert told["response"]["text"] == "Q1"


def test_journal_diff(journal: Shell) -> None:
    """Rows of one only, and rows with another answer; time and cost do not count."""
    assert journal("journal diff a.db a.db") == 0
    assert journal.out == "0 only in a.db, 0 only in a.db, 0 with another answer\n"
    other = {"Q1": "Q1", "Q2": "another"}
    with LoopbackServer(lambda b: other.get(shout(b), "new")) as server:
        journal.write("r.toml", resources(server))
        run = journal.run("pipes_of_cli:Ask", "q1", "q2", "q4", more="--journal b.db")
        assert run == 0
    assert journal("journal diff a.db b.db") == 1
    *rows, last = journal.out.splitlines()
    assert [row[0] for row in rows] == [" ", "-", "+", "~"]
    assert last == "1 only in a.db, 1 only in b.db, 1 with another answer"
    assert "another" not in "".join(rows)


def test_journal_export(journal: Shell) -> None:
    """One JSON line for each row, in a file of mode 0600."""
    assert journal("journal export a.db --out rows.jsonl") == 0
    rows = journal.lines("rows.jsonl")
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert sorted(row["response"]["text"] for row in rows) == ["Q1", "Q2", "Q3"]
    with JournalStore("a.db", read_only=True) as store:
        assert store.get(bytes.fromhex(rows[0]["key"])) is not None
    assert stat.S_IMODE((journal.folder / "rows.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("show no.db", "no.db' does not exist. Check the name."),
        ("diff a.db no.db", "no.db' does not exist"),
        ("export a.db --out no/rows.jsonl", "cannot write to no/rows.jsonl: No such"),
        ("export a.db --out .", ". is not a plain file. Name another --out."),
        ("show a.db --limit x", "argument --limit: invalid number value: 'x'"),
        ("show a.db --limit -1", "argument --limit: "),
        ("", "the following arguments are required"),
    ],
)
def test_journal_errors(journal: Shell, line: str, message: str) -> None:
    """Exit code 2 and what is wrong."""
    assert journal(f"journal {line}") == 2
    assert message in journal.err


# -- check ----------------------------------------------------------------------------


def test_check_calls_each_deployment(shell: Shell) -> None:
    """One line each; a failure is its error's first line, and exit code 1."""
    with LoopbackServer(errors=lambda *_: 500) as broken:
        more = (
            f"[endpoints.two]\nprovider = 'openai-compatible'\nmodel = 'x'\n"
            f"[[endpoints.two.deployments]]\nbase_url = '{shell.server.base_url}'\n"
            f"[[endpoints.two.deployments]]\nbase_url = '{broken.base_url}'\n"
        )
        shell.write("r.toml", resources(shell.server) + more)
        assert shell("check r.toml") == 1
        assert broken.count == 1
    assert shell.server.count == 2
    first, second, third = shell.out.splitlines()
    assert first.split()[:4] == ["m", "openai-compatible", "tiny", "ok,"]
    assert first.endswith(" ms")
    assert second.startswith("two[0]  openai-compatible  x     ok, ")
    assert third.startswith("two[1]  openai-compatible  x     FAILED: EndpointServerEr")
    assert shell.server.bodies[0]["messages"][-1]["content"] == "Say ok."


def test_check_is_content(shell: Shell) -> None:
    """Exit code 0 where all answer."""
    assert shell("check r.toml") == 0
    assert shell("check r.toml --no-call") == 0
    assert shell.out.splitlines()[0].endswith("  needs no key")
    assert shell.server.count == 1


def test_check_does_not_wait_for_ever(shell: Shell) -> None:
    """A deployment that hangs has failed after --timeout."""
    with LoopbackServer(errors=["hang"]) as server:
        shell.write("r.toml", resources(server))
        assert shell("check r.toml --timeout 0.05") == 1
    assert "FAILED: EndpointTimeoutError" in shell.out
    assert shell("check r.toml --timeout 0") == 2


def test_check_without_calls_looks_for_keys(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is set is not shown."""
    shell.write("r.toml", resources(shell.server, api_key_env="KEY_OF_CLI"))
    assert shell("check r.toml --no-call") == 1
    assert "FAILED: MissingKeyError: endpoint 'm'" in shell.out
    monkeypatch.setenv("KEY_OF_CLI", "sk-SECRET")
    assert shell("check r.toml --no-call") == 0
    assert shell.out == "m  openai-compatible  tiny  key is set\n"
    assert shell.server.count == 0


def test_check_of_a_wrong_file(shell: Shell) -> None:
    """Exit code 2 and every problem."""
    shell.write("r.toml", "[endpoints.m]\nprovider = 'x'\n")
    assert shell("check r.toml") == 2
    assert "inf-engine: error: r.toml" in shell.err


# -- the program ----------------------------------------------------------------------


def child(*arguments: str) -> list[str]:
    """Return the command of a real process."""
    return [sys.executable, "-W", "error", "-m", "inf_engine", *arguments]


def environ() -> dict[str, str]:
    """Return the environment of a child."""
    return {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}


def test_version_and_help(shell: Shell) -> None:
    """They exit with 0; no command at all is wrong usage."""
    assert shell("--version") == 0
    assert shell.out.startswith("inf-engine 0.")
    assert shell("run --help") == 0
    assert "--inputs IN.jsonl" in shell.out
    assert "130 Ctrl-C" in shell.out
    assert shell("") == 2
    assert shell("rnu") == 2


def test_the_version_loads_nothing_heavy() -> None:
    """No HTTP library, no bar, no pydantic, no database."""
    probe = (
        "import sys; from inf_engine.cli import main; main(['--version']); "
        "print([m for m in ('aiohttp', 'rich', 'pydantic', 'openai', 'anthropic', "
        "'httpx', 'tenacity', 'sqlite3', 'genai_prices', 'yaml') if m in sys.modules])"
    )
    command = [sys.executable, "-c", probe]
    done = subprocess.run(
        command, env=environ(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[1] == "[]"


def test_the_module_is_the_program(shell: Shell) -> None:
    """`python -m inf_engine` in a bare process: a run, and its exit code."""
    shell.write("in.jsonl", '"a"\n[\n')
    line = f"{RUN} pipes_of_cli:Ask {FILES}"
    done = subprocess.run(
        child(*shlex.split(line)), env=environ(), capture_output=True, text=True
    )
    assert done.returncode == 2
    name = f"{os.path.basename(sys.executable)} -m inf_engine"
    assert done.stderr.startswith(f"{name}: error: in.jsonl: 1 bad lines")


@pytest.mark.skipif(os.name == "nt", reason="needs a shell's pipe")
def test_a_reader_that_leaves(journal: Shell) -> None:
    """`... | head` ends it without a traceback."""
    read, write = os.pipe()
    os.close(read)
    command = child("journal", "show", "a.db", "--full")
    done = subprocess.run(
        command, env=environ(), stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


class Interrupted:
    """A real process that runs over many inputs and is sent SIGINTs."""

    def __init__(self, folder: Path, server: LoopbackServer, more: str) -> None:
        self.folder = folder
        self.line = f"{RUN} pipes_of_cli:Ask {FILES} {more}"
        fields = resources(server, max_concurrent=2)
        (folder / "r.toml").write_text(fields)
        (folder / "pipes_of_cli.py").write_text(PIPES)
        lines = "".join(f'"q{number}"\n' for number in range(20))
        (folder / "in.jsonl").write_text(lines)

    async def start(self) -> asyncio.subprocess.Process:
        """Start the process."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *child(*shlex.split(self.line)),
            cwd=self.folder,
            env=environ(),
            stderr=pipe,
        )

    def lines(self, name: str) -> list[Any]:
        """Return the lines of a file."""
        text = (self.folder / name).read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
async def test_ctrl_c_finishes_what_is_in_flight(tmp_path: Path) -> None:
    """Nothing paid is lost: the command again sends only what had not been sent."""
    async with asyncio.timeout(SECONDS), LoopbackServer(shout, latency=0.1) as server:
        job = Interrupted(tmp_path, server, "--journal run.db --max-inflight 2")
        process = await job.start()
        assert process.stderr
        await server.until(lambda: server.answered >= 2 and server.in_flight == 2)
        process.send_signal(2)
        told = (await process.stderr.read()).decode()
        assert await process.wait() == 130
        seen = server.count
        assert seen < 20
        assert server.answered == seen
        assert "stopping: " in told
        assert "Ctrl-C again to cancel them" in told
        assert f"not finished: {seen} of 20 inputs in out.jsonl.partial" in told
        name = f"{os.path.basename(sys.executable)} -m inf_engine"
        assert told.endswith(f"in the journal:\n  {name} {job.line}\n")
        assert len(job.lines("out.jsonl.partial")) == seen
        assert not (tmp_path / "out.jsonl").exists()

        server.latency = 0.0
        process = await job.start()
        assert process.stderr
        told = (await process.stderr.read()).decode()
        assert await process.wait() == 0
        assert server.count == 20
        assert f"{seen} answers reused" in told
    rows = sorted(job.lines("out.jsonl"), key=lambda row: row["index"])
    assert [row["output"] for row in rows] == [f"Q{n}" for n in range(20)]
    assert not (tmp_path / "out.jsonl.partial").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
async def test_ctrl_c_twice_cancels_at_once(tmp_path: Path) -> None:
    """What is in flight is let go of, and what was answered before is there."""
    late = lambda index, _: 0.0 if index < 3 else 1000.0  # noqa: E731
    async with asyncio.timeout(SECONDS), LoopbackServer(shout, latency=late) as server:
        job = Interrupted(tmp_path, server, "--max-inflight 2")
        process = await job.start()
        assert process.stderr
        await server.until(lambda: server.answered == 3 and server.in_flight == 2)
        process.send_signal(2)
        first = (await process.stderr.readline()).decode()
        assert first.startswith("stopping: ")
        process.send_signal(2)
        told = (await process.stderr.read()).decode()
        assert await process.wait() == 130
        await server.until(lambda: not server.in_flight)
    assert "Traceback" not in told
    assert "3 inputs, 0 failed, 3 requests" in told
    assert "2 lost tries, which may have cost up to " in told
    assert "without --journal no answer is kept: move that file away" in told
    assert told.endswith(f"{job.line} --journal run.db\n")
    assert len(job.lines("out.jsonl.partial")) == 3
