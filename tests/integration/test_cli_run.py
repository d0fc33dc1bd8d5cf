"""``inf-engine run``, against a loopback server that counts."""

import json
import os
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.cli_helpers import (
    FILES,
    RUN,
    Shell,
    environ,
    resources,
    shell_in,
    shout,
)

from inf_engine.journal import JournalStore
from inf_engine.testing import LoopbackServer

LIMITED = """
import resource, sys
from inf_engine.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Generator[Shell]:
    """A shell in a fresh folder."""
    with shell_in(tmp_path, monkeypatch, capsys) as made:
        yield made


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
    ],
)
def test_what_a_line_means(shell: Shell, line: str, prompt: str) -> None:
    """An array is by position, an object by keyword, anything else the only input."""
    shell.write("in.jsonl", f"\ufeff\n  \n{line}\n\n")
    assert shell(f"{RUN} pipes_of_cli:Compare {FILES}") == 0
    assert shell.outputs == [prompt]


def test_an_array_holds_any_input(shell: Shell) -> None:
    """Also one that is an array or an object itself."""
    given = [None, [["x", "y"]], [{"text": 1}], [{}]]
    assert shell.run("pipes_of_cli:Ask", *given) == 0
    assert shell.outputs == ["NONE", "['X', 'Y']", "{'TEXT': 1}", "{}"]


@pytest.mark.parametrize("target", ["Ask", "Compare", "Items", "Damaged", "leaf"])
def test_a_misspelled_key_is_told_before_it_is_paid_for(
    shell: Shell, target: str
) -> None:
    """Also where it is the only key of the line; the right ones are listed."""
    assert shell.run(f"pipes_of_cli:{target}", {"txet": "SECRET"}) == 2
    known = {"Compare": "left, right", "Items": "items", "leaf": "prompt"}
    assert shell.err.startswith(
        "inf-engine: error: in.jsonl:1: 'txet' is no parameter that forward takes by "
        f"position; known: {known.get(target, 'text')}"
    )
    assert "Correct the key, or put the object into an array, [{...}], to" in shell.err
    assert "SECRET" not in shell.err
    assert shell.server.count == 0


@pytest.mark.parametrize(
    "kind",
    [
        *("dict", "Mapping[str, Any]", "dict | None", "Any", "'object'", "Told"),
        "Annotated[dict[str, int], 'all']",
    ],
)
def test_a_forward_that_asks_for_an_object_gets_it(shell: Shell, kind: str) -> None:
    """It has one parameter, annotated so; its own name still is a key."""
    pipes = f"""
from typing import Annotated, Any, Mapping, TypedDict
from inf_engine import InferenceModule

class Told(TypedDict):
    a: int

class Count(InferenceModule):
    def forward(self, item: {kind}):
        return [sorted(item)]
"""
    shell.write("pipes_of_cli.py", pipes)
    given = [{"a": 1, "b": 2}, {}, {"item": {"c": 1}}]
    assert shell.run("pipes_of_cli:Count", *given) == 0
    assert shell.outputs == [[["a", "b"]], [[]], [["c"]]]
    assert shell.run("pipes_of_cli:Count", {"item": {}, "b": 2}) == 2
    assert "in.jsonl:1: 'b' is no parameter" in shell.err


@pytest.mark.parametrize(
    ("target", "given", "output"),
    [
        ("steps", ["a", "b"], "A+B"),
        ("steps", {"left": "a"}, "A+NOTHING"),
        ("leaf", "hi", "HI"),
        ("leaf", {"prompt": "hi"}, "HI"),
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
    takes = "forward takes (left: str, right: str = 'nothing'). Give that"
    by_place = "is no parameter that forward takes by position; known: left, right."
    assert told[0] == (
        "inf-engine: error: 8 bad lines in the inputs, and nothing was sent:"
    )
    assert told[1] == f"  in.jsonl:2: too many positional arguments; {takes}"
    assert told[2].startswith("  in.jsonl:4: not JSON: ")
    assert " at column " in told[2]
    assert told[2].endswith(
        'Write one JSON value a line: a "text" in double quotes, [...] or {...}'
    )
    assert told[3] == f"  in.jsonl:5: missing a required argument: 'left'; {takes}"
    assert told[4].startswith(f"  in.jsonl:6: 'color' {by_place}")
    assert told[5].startswith(f"  in.jsonl:7: a key {by_place}")
    assert told[6].startswith("  in.jsonl:8: a number too long, or nested too deep. S")
    assert told[7].startswith("  in.jsonl:9: a number too long, or nested too deep. S")
    assert told[8] == "  in.jsonl:10: not UTF-8 text. Save the file as UTF-8"
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
    assert "in.jsonl:2: 1 inputs, but line 1 gives 2. Give all lines" in shell.err
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
    ("pipes_of_cli:Ask --out in.jsonl", "--out and --inputs name one file. Name two."),
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
    assert "in.jsonl:1: 'loud' is no parameter that forward takes by p" in shell.err


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


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ("--journal out.jsonl", "--out and --journal"),
        ("--cache ./out.jsonl", "--out and --cache"),
        ("--trace r.toml", "--trace and --resources"),
        ("--trace out.jsonl", "--out and --trace"),
        ("--trace in.jsonl", "--trace and --inputs"),
    ],
)
def test_nothing_is_written_over_what_is_kept(
    shell: Shell, more: str, names: str
) -> None:
    """Two names of one file are refused, though it is not there yet."""
    assert shell.run("pipes_of_cli:Ask", "a", more=more) == 2
    assert f"{names} name one file. Name two." in shell.err
    assert shell.server.count == 0


def test_an_input_that_the_journal_does_not_know(shell: Shell) -> None:
    """What is lost for the journal ends the run; nothing more is paid."""
    more = "--journal run.db --max-inflight 1"
    assert shell.run("pipes_of_cli:Unknown", *"abc", more=more) == 2
    assert "error: 'llm#1' (alias 'm') failed: JournalError: the journal" in shell.err
    assert "not finished: 1 of 3 inputs" in shell.err
    assert shell.server.count == 0


@pytest.mark.skipif(os.name == "nt", reason="needs a limit of the file size")
def test_a_full_disk_ends_the_run(shell: Shell) -> None:
    """When an answer cannot be kept, no more are paid, and those kept are not again."""
    line = f"{RUN} pipes_of_cli:Ask {FILES} --journal run.db --max-inflight 2"
    with LoopbackServer("x" * 2000) as server:
        shell.write("r.toml", resources(server))
        shell.write("in.jsonl", "".join(f'"q{n}"\n' for n in range(200)))
        command = [sys.executable, "-c", LIMITED, *shlex.split(line)]
        done = subprocess.run(command, env=environ(), capture_output=True, text=True)
        assert done.returncode == 2
        told = "could not keep an answer", "an earlier one was lost"  # of the two
        assert any(words in done.stderr for words in told)
        assert "Traceback" not in done.stderr
        with JournalStore("run.db", read_only=True) as store:
            kept = len(store)
        seen = server.count
        assert 10 < kept <= seen <= kept + 2
        assert shell(line) == 0
        assert server.count == seen + 200 - kept
    assert len(shell.lines()) == 200


@pytest.mark.skipif(os.name == "nt", reason="needs a limit of the file size")
def test_outputs_that_cannot_be_written(shell: Shell) -> None:
    """The run ends with what is wrong; what was written is there."""
    line = f"{RUN} pipes_of_cli:Ask {FILES} --max-inflight 2"
    with LoopbackServer("x" * 60_000) as server:
        shell.write("r.toml", resources(server))
        shell.write("in.jsonl", "".join(f'"q{n}"\n' for n in range(20)))
        command = [sys.executable, "-c", LIMITED, *shlex.split(line)]
        done = subprocess.run(command, env=environ(), capture_output=True, text=True)
        assert server.count <= 6
    assert done.returncode == 2
    assert (
        "cannot write the outputs to out.jsonl.partial: File too large" in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_a_run_in_a_thread(shell: Shell) -> None:
    """Where signals do not come, everything else is the same."""
    shell.write("in.jsonl", '"a"\n')
    codes: list[int] = []
    line = f"{RUN} pipes_of_cli:Ask {FILES}"
    thread = threading.Thread(target=lambda: codes.append(shell(line)))
    thread.start()
    thread.join()
    assert codes == [0]
    assert shell.outputs == ["A"]
