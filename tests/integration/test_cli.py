"""The command line: graph, journal, check, and the program as a real process."""

import asyncio
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.integration.cli_helpers import (
    FILES,
    RUN,
    Interrupted,
    Shell,
    child,
    environ,
    resources,
    shell_in,
    shout,
)

from inf_engine.cli.summary import summary
from inf_engine.journal import JournalStore, Row
from inf_engine.resources.statistics import Statistics
from inf_engine.startup import is_program
from inf_engine.testing import LoopbackServer

SECONDS = 30  # after which a child that hangs is an error


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Generator[Shell]:
    """A shell in a fresh folder."""
    with shell_in(tmp_path, monkeypatch, capsys) as made:
        yield made


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


def test_rows_that_are_no_answers_of_a_model(journal: Shell) -> None:
    """The values of ops, and texts of another version, are shown and compared."""
    for name, value in (("a.db", "[1]"), ("b.db", "not JSON")):
        with JournalStore(name) as store:
            store.append(Row(bytes(16), kind="op", path="load", response=value))
    assert journal("journal show a.db") == 0
    row = journal.out.splitlines()[-1].split()
    assert row[2:] == ["op", "load", "-", "-", "-", "0", "-"]
    assert journal("journal diff a.db b.db") == 1
    assert "3 only in a.db, 0 only in b.db, 1 with another answer" in journal.out
    assert journal("journal export b.db --out rows.jsonl") == 0
    assert journal.lines("rows.jsonl")[0]["response"] == "not JSON"


def test_journal_export(journal: Shell) -> None:
    """One JSON line for each row, in a file of mode 0600."""
    assert journal("journal export a.db --out rows.jsonl") == 0
    rows = journal.lines("rows.jsonl")
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert sorted(row["response"]["text"] for row in rows) == ["Q1", "Q2", "Q3"]
    with JournalStore("a.db", read_only=True) as store:
        assert store.get(bytes.fromhex(rows[0]["key"])) is not None
    assert stat.S_IMODE((journal.folder / "rows.jsonl").stat().st_mode) == 0o600


def test_journal_export_to_stdout(journal: Shell) -> None:
    """The same lines, and nothing else; no file is made."""
    names = sorted(journal.folder.iterdir())
    assert journal("journal export a.db --out -") == 0
    told = [json.loads(line)["text"] for line in journal.out.splitlines()]
    assert sorted(told) == ["Q1", "Q2", "Q3"]
    assert journal.err == ""
    assert sorted(journal.folder.iterdir()) == names


def test_journal_export_writes_over_nothing(journal: Shell) -> None:
    """But with --force; the help names the columns."""
    rows = journal.folder / "rows.jsonl"
    rows.write_text("mine")
    assert journal("journal export a.db --out rows.jsonl") == 2
    assert "rows.jsonl is there already" in journal.err
    assert rows.read_text() == "mine"
    assert journal("journal export a.db --out rows.jsonl --force") == 0
    assert len(journal.lines("rows.jsonl")) == 3
    assert journal("journal export --help") == 0
    assert "NAME.parquet" in journal.out
    assert "finish_reason" in journal.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("show no.db", "no.db' does not exist. Check the name."),
        ("diff a.db no.db", "no.db' does not exist"),
        ("export a.db --out no/rows.jsonl", "cannot write to no/rows.jsonl: No such"),
        ("export a.db --out .", ". is not a plain file. Name another file."),
        ("export a.db --out rows.csv", "name a file that ends in .jsonl or .parquet"),
        ("show a.db --limit x", "argument --limit: invalid number value: 'x'"),
        ("show a.db --limit -1", "argument --limit: "),
        ("", "the following arguments are required"),
    ],
)
def test_journal_errors(journal: Shell, line: str, message: str) -> None:
    """Exit code 2 and what is wrong."""
    assert journal(f"journal {line}") == 2
    assert message in journal.err


LOOKS = ("show a.db", "diff a.db a.db", "export a.db --out rows.jsonl --force")


def files_of(shell: Shell) -> dict[str, bytes]:
    """The journal's files in the folder of a shell."""
    return {f.name: f.read_bytes() for f in sorted(shell.folder.glob("a.db*"))}


@pytest.mark.parametrize("line", LOOKS)
def test_a_look_leaves_nothing_behind(journal: Shell, line: str) -> None:
    """Not beside an idle journal; beside one that is written, what was there."""
    before = files_of(journal)
    assert list(before) == ["a.db", "a.db-lock"]
    assert journal(f"journal {line}") == 0
    assert files_of(journal) == before
    with JournalStore("a.db") as store:
        store.append(Row(bytes(16), response="{}"))
        names = list(files_of(journal))
        assert journal(f"journal {line}") == 0
        assert list(files_of(journal)) == names
        assert store.append(Row(bytes(15) + b"1", response="{}"))
    assert list(files_of(journal)) == ["a.db", "a.db-lock"]
    with JournalStore("a.db", read_only=True) as store:
        assert len(store) == 5


@pytest.mark.parametrize("line", LOOKS)
def test_a_look_at_what_a_dead_process_left(journal: Shell, line: str) -> None:
    """Its newest answers are there, and no leftover."""
    script = (
        "import os; from inf_engine.journal import JournalStore, Row\n"
        "JournalStore('a.db').append(Row(bytes(16), response='{}')); os._exit(9)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environ(), cwd=journal.folder, check=False)
    assert done.returncode == 9
    assert "a.db-wal" in files_of(journal)
    assert journal(f"journal {line}") == 0
    assert list(files_of(journal)) == ["a.db", "a.db-lock"]
    with JournalStore("a.db") as store:
        assert len(store) == 4


def test_a_journal_is_not_written_over(journal: Shell) -> None:
    """Neither by its own export."""
    assert journal("journal export a.db --out ./a.db") == 2
    assert "--out is the journal itself. Name another file." in journal.err


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


def test_check_of_a_file_that_is_not_there(shell: Shell) -> None:
    """The name, where it was looked for, and the fix."""
    assert shell("check nope.toml") == 2
    place = Path("nope.toml").absolute()
    assert shell.err == (
        "inf-engine: error: nope.toml: there is no such resources file: looked for "
        f"{place}. Correct the path, or write the file\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "r.toml: endpoints: binds no alias. Add a table [endpoints.<alias>]"),
        (
            "[endpoints.m]\nprovider = 'local'\ndeployments = []\n",
            "r.toml: endpoints.m.deployments: is empty, so nothing would answer. Leave",
        ),
    ],
)
def test_check_of_a_file_that_binds_nothing(
    shell: Shell, text: str, message: str
) -> None:
    """Nothing would answer, so it is told."""
    shell.write("r.toml", text)
    assert shell("check r.toml") == 2
    assert f"inf-engine: error: {message}" in shell.err


def test_a_price_that_is_known_of_some_only() -> None:
    """What is known is summed up, what is not is counted."""
    some = Statistics(requests=2, cost=0.5, unpriced=1, unknown=1, unknown_tokens=7)
    assert summary(2, Counter(), some, 1.0) == (
        "2 inputs, 0 failed, 2 requests, 0 tokens, $0.500000 and 1 answer of unknown "
        "cost, 1.0 s\n1 lost try, which may have cost up to 7 tokens"
    )


# -- the program ----------------------------------------------------------------------


def test_version_and_help(shell: Shell) -> None:
    """They exit with 0; no command at all is wrong usage."""
    assert shell("--version") == 0
    assert shell.out.startswith("inf-engine 0.")
    assert shell("run --help") == 0
    assert "--inputs IN.jsonl" in shell.out
    told = " ".join(shell.out.split())
    assert "130 Ctrl-C, 143 SIGTERM" in told
    assert "A key that is no parameter is an error" in told
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
    assert done.stderr.startswith(f"{name}: error: in.jsonl:2: not JSON: Expecting")


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


Signals = pytest.mark.parametrize(
    ("number", "code", "name"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")],
)


@Signals
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
async def test_a_signal_finishes_what_is_in_flight(
    tmp_path: Path, number: int, code: int, name: str
) -> None:
    """Nothing paid is lost: the command again sends only what had not been sent."""
    async with asyncio.timeout(SECONDS), LoopbackServer(shout, latency=0.1) as server:
        job = Interrupted(tmp_path, server, "--journal run.db --max-inflight 2")
        process = await job.start()
        assert process.stderr
        await server.until(lambda: server.answered >= 2 and server.in_flight == 2)
        process.send_signal(number)
        told = (await process.stderr.read()).decode()
        assert await process.wait() == code
        seen = server.count
        assert seen < 20
        assert server.answered == seen
        assert "stopping: " in told
        assert f"{name} again to cancel them" in told
        assert f"not finished: {seen} of 20 inputs in out.jsonl.partial" in told
        prog = f"{os.path.basename(sys.executable)} -m inf_engine"
        assert told.endswith(f"in the journal:\n  {prog} {job.line}\n")
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


@Signals
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
async def test_a_second_signal_cancels_at_once(
    tmp_path: Path, number: int, code: int, name: str
) -> None:
    """What is in flight is let go of, and what was answered before is there."""
    late = lambda index, _: 0.0 if index < 3 else 1000.0  # noqa: E731
    async with asyncio.timeout(SECONDS), LoopbackServer(shout, latency=late) as server:
        job = Interrupted(tmp_path, server, "--max-inflight 2")
        process = await job.start()
        assert process.stderr
        await server.until(lambda: server.answered == 3 and server.in_flight == 2)
        process.send_signal(number)
        first = (await process.stderr.readline()).decode()
        assert first.startswith("stopping: ")
        assert name in first
        process.send_signal(number)
        told = (await process.stderr.read()).decode()
        assert await process.wait() == code
        await server.until(lambda: not server.in_flight)
    assert "Traceback" not in told
    assert "3 inputs, 0 failed, 3 requests" in told
    assert "2 lost tries, which may have cost up to " in told
    assert "without --journal no answer is kept: move that file away" in told
    assert told.endswith(f"{job.line} --journal run.db\n")
    assert len(job.lines("out.jsonl.partial")) == 3


PAUSE = "import signal, sys\nsys.stderr.write('here\\n')\nsignal.pause()\n"


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("way", ["script", "module"])
def test_ctrl_c_while_the_program_loads(tmp_path: Path, way: str) -> None:
    """No traceback: a library that it loads first waits here for the signal."""
    (tmp_path / "greenlet.py").write_text(PAUSE)
    script = tmp_path / "inf-engine"
    script.write_text("from inf_engine.cli import main\nmain()\n")
    command = child("--version")
    if way == "script":
        command = [sys.executable, str(script), "--version"]
    assert interrupted(command, tmp_path) == (130, "")


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_before_the_inputs_run(tmp_path: Path) -> None:
    """What is interrupted is said, and nothing else."""
    (tmp_path / "slow_of_cli.py").write_text(PAUSE)
    told = interrupted(child("graph", "slow_of_cli:Ask"), tmp_path)
    name = f"{os.path.basename(sys.executable)} -m inf_engine"
    assert told == (130, f"{name}: interrupted\n")


def interrupted(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a command that says ``here`` and waits; return its end after Ctrl-C."""
    env = environ()
    env["PYTHONPATH"] = os.pathsep.join([str(folder), env["PYTHONPATH"]])
    with subprocess.Popen(
        command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        assert process.stderr.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    return process.returncode, told


@pytest.mark.parametrize("name", ["other", "inf-engine"])
def test_an_import_leaves_signals_as_they_are(tmp_path: Path, name: str) -> None:
    """In every program but ours, and in ours once its main runs."""
    script = tmp_path / name
    script.write_text(
        "import signal, sys\nfrom inf_engine.cli import main\n"
        "if 'other' in sys.argv[0]:\n    main = lambda _: None\n"
        "main(['--version'])\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, str(script)], env=environ(), check=True)


@pytest.mark.parametrize(
    ("argv", "original", "is_ours"),
    [
        (["/usr/bin/inf-engine", "run"], [], True),
        (["C:/bin/inf-engine.exe"], [], True),
        (["-m", "run"], ["python", "-W", "error", "-m", "inf_engine", "run"], True),
        (["-m"], ["python", "-m", "pytest", "inf_engine"], False),
        (["-m"], ["python", "-m"], False),
        (["-c"], ["python", "-c", "import inf_engine"], False),
        (["/home/me/work.py", "inf-engine"], [], False),
        ([""], [], False),
        ([], [], False),
    ],
)
def test_which_program_it_is(
    argv: list[str], original: list[str], is_ours: bool
) -> None:
    """By how it was called."""
    assert is_program(argv, original) is is_ours
