"""The journal under kill -9, a full disk, and forks: real processes, real signals."""

import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from inf_engine.errors import JournalError
from inf_engine.journal.rows import Row
from inf_engine.journal.store import JournalStore

ROOT = Path(__file__).parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
SECONDS = 30  # after which a child that hangs is an error

FORKER = """
import os, sys
from inf_engine.journal import JournalStore, Row

def work(path):
    with JournalStore(path) as store:
        number = len(store)
        while True:
            number += 1
            text = "x" * (37 * number % 3000)
            store.append(Row(number.to_bytes(16, "big"), response=text))
            os.write(1, b"%d\\n" % number)

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            work(line.strip())
        finally:
            os._exit(1)
    os.write(1, b"pid %d\\n" % child)
    _, status = os.waitpid(child, 0)
    os.write(1, b"end %d\\n" % os.waitstatus_to_exitcode(status))
"""

STEPPER = """
import os, signal, sqlite3, sys
from inf_engine.journal import JournalStore, Row

connect, left = sqlite3.connect, [0]

def dying(function):
    def called(*args, **options):
        result = function(*args, **options)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return called

class Connection(sqlite3.Connection):
    execute = dying(sqlite3.Connection.execute)
    close = dying(sqlite3.Connection.close)

def work(path, steps):
    left[0] = steps
    for name in ("open", "close", "chmod", "rename", "remove", "fsync"):
        setattr(os, name, dying(getattr(os, name)))
    sqlite3.connect = lambda *a, **o: connect(*a, factory=Connection, **o)
    with JournalStore(path, durability="power") as store:
        for number in range(len(store), len(store) + 2):
            store.append(Row(number.to_bytes(16, "big"), response="x" * 3000))
            store.commit()
            sys.stdout.write("kept\\n")
            sys.stdout.flush()

for line in sys.stdin:
    steps, path = line.split()
    child = os.fork()
    if not child:
        try:
            work(path, int(steps))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    print("end", os.waitstatus_to_exitcode(status), flush=True)
"""

FULL_DISK = """
import resource, sys
from inf_engine.errors import JournalError
from inf_engine.journal import JournalStore, Row

resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
with JournalStore(sys.argv[1], durability=sys.argv[2]) as store:
    for number in range(1000):
        try:
            store.append(Row(number.to_bytes(16, "big"), response="x" * 1000))
            store.commit()
            print(number, flush=True)
        except JournalError as error:
            print(error, file=sys.stderr)
"""


def key(number: int) -> bytes:
    """Return a key."""
    return number.to_bytes(16, "big")


@contextmanager
def forker() -> "Generator[subprocess.Popen[bytes]]":
    """Run a process that forks a child for each path, which appends until killed."""
    command = [sys.executable, "-c", FORKER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=ENVIRON, stdin=pipe, stdout=pipe) as process:
        try:
            yield process
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(SECONDS)


def read_some(process: "subprocess.Popen[bytes]") -> bytes:
    """Return what the process has written meanwhile, at least a byte."""
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], SECONDS)
    assert ready, "the child writes nothing"
    return os.read(process.stdout.fileno(), 65536)


def killed(process: "subprocess.Popen[bytes]", path: Path, after: int) -> list[int]:
    """Kill a child that appends once it has written so many bytes; return its keys."""
    assert process.stdin
    process.stdin.write(f"{path}\n".encode())
    process.stdin.flush()
    seen = b""
    while b"pid " not in seen or seen.find(b"\n", seen.find(b"pid ")) < 0:
        seen += read_some(process)
    start = seen.find(b"pid ") + 4
    child = int(seen[start : seen.find(b"\n", start)])
    while len(seen) < after:
        seen += read_some(process)
    os.kill(child, signal.SIGKILL)
    while b"end " not in seen or not seen.endswith(b"\n"):
        seen += read_some(process)
    lines = seen.split(b"\n")
    assert b"end -9" in lines
    return [int(line) for line in lines if line.isdigit()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_at_any_moment(tmp_path: Path) -> None:
    """Every row whose append had returned is there after kill -9, 20 times over."""
    path = tmp_path / "run.db"
    rng = random.Random(7)
    promised = 0
    with forker() as process:
        for _ in range(20):
            keys = killed(process, path, after=int(2 ** rng.uniform(1, 11.5)))
            promised = max([promised, *keys])
            with JournalStore(path) as store:
                assert promised <= len(store) <= promised + 1
                assert all(store.get(key(n)) is not None for n in keys)
                found = [r.key for r in store.rows()]
            assert found == [key(n + 1) for n in range(len(found))]
            promised = len(found)
    assert promised > 300


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_while_the_file_is_made(tmp_path: Path) -> None:
    """A death before the first row leaves no file, or a whole one."""
    rng = random.Random(3)
    with forker() as process:
        for number in range(6):
            path = tmp_path / f"{number}.db"
            keys = killed(process, path, after=rng.randrange(3))
            with JournalStore(path) as store:
                assert len(keys) <= len(store) <= len(keys) + 1


@contextmanager
def stepper() -> "Generator[Callable[[int, Path], tuple[int, int]]]":
    """Run stores that die after so many steps; gives the rows kept and the exit."""
    command = [sys.executable, "-c", STEPPER]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=ENVIRON, stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdin and process.stdout

        def stepped(steps: int, path: Path) -> tuple[int, int]:
            assert process.stdin and process.stdout
            process.stdin.write(f"{steps} {path}\n")
            process.stdin.flush()
            kept = 0
            while (line := process.stdout.readline()) == "kept\n":
                kept += 1
            return kept, int(line.split()[1])

        yield stepped
        process.stdin.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "old"])
def test_killed_after_every_step(tmp_path: Path, is_new: bool) -> None:
    """Whatever a death leaves can be read, also by a reader, and goes on."""
    code, steps = -signal.SIGKILL, 0
    with stepper() as stepped:
        while code:
            steps += 1
            path = tmp_path / f"{steps if is_new else 'run'}.db"
            before = 0
            if path.exists():
                with JournalStore(path, read_only=True) as store:
                    before = len(store)
            kept, code = stepped(steps, path)
            for read_only in (True, False):
                if read_only and not path.exists():
                    assert not kept
                    continue
                with JournalStore(path, read_only=read_only) as store:
                    assert kept <= len(store) - before <= kept + 1
                    assert all(store.get(key(n)) for n in range(len(store)))
            left = {f.name for f in tmp_path.glob(f"{path.name}*")}
            assert left == {path.name, f"{path.name}-lock"}
    assert code == 0 and steps > 15


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_journal_has_its_modes_before_its_name(tmp_path: Path) -> None:
    """A death at the first moment leaves what a reader who may not write can open.

    The switch to WAL is a transaction with a file ``-journal``: a journal whose maker
    died in it has to be rolled back, which only a writer can do.
    """
    script = """
import os, sys
from inf_engine.journal import JournalStore
rename = os.rename
os.rename = lambda a, b: (rename(a, b), os._exit(9))
JournalStore(sys.argv[1])
"""
    path = tmp_path / "run.db"
    command = [sys.executable, "-c", script, str(path)]
    assert subprocess.run(command, env=ENVIRON, check=False).returncode == 9
    write_version, read_version = path.read_bytes()[18:20]
    assert (write_version, read_version) == (2, 2)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["run.db", "run.db-lock"]


def test_a_journal_that_is_deleted_under_a_run(tmp_path: Path) -> None:
    """A process whose file goes is told so; what it was promised is an error."""
    script = """
import os, sys
from inf_engine.journal import JournalStore, Row
from inf_engine.errors import JournalError
with JournalStore(sys.argv[1]) as store:
    for number in range(10):
        try:
            store.append(Row(number.to_bytes(16, "big"), response="a"))
            print("kept", flush=True)
        except JournalError as error:
            print(error, flush=True)
        sys.stdin.readline()
"""
    path = tmp_path / "run.db"
    command = [sys.executable, "-c", script, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=ENVIRON, stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "kept\n"
        path.unlink()
        said, _ = process.communicate("\n" * 10, timeout=SECONDS)
    lines = said.splitlines()
    assert "was deleted, moved or replaced while it was in use" in lines[0]
    assert len(lines) == 9
    assert all("takes no more answers" in line for line in lines[1:])


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_full_disk(tmp_path: Path, durability: str) -> None:
    """A file that may not grow: an error for each answer not kept, all others there."""
    path = tmp_path / "run.db"
    command = [sys.executable, "-c", FULL_DISK, str(path), durability]
    done = subprocess.run(
        command, env=ENVIRON, capture_output=True, text=True, check=True
    )
    kept = [int(line) for line in done.stdout.split()]
    told = done.stderr.splitlines()
    assert kept == list(range(len(kept)))
    assert 20 < len(kept) < 400
    assert len(kept) + len(told) == 1000
    assert "could not keep an answer" in told[0]
    assert "Make room on the disk" in told[0]
    assert all("takes no more answers" in line for line in told[1:])
    with JournalStore(path) as store:
        assert [r.key for r in store.rows()] == [key(n) for n in kept]
        assert store.append(Row(key(5000)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child(tmp_path: Path) -> None:
    """A child may not use its parent's store, nor does it harm it by ending."""
    script = """
import gc, os, sys
from inf_engine.errors import JournalError
from inf_engine.journal import JournalStore, Row
store = JournalStore(sys.argv[1])
store.append(Row(bytes(16), response="a"))
if not os.fork():
    for use in (
        lambda: store.get(bytes(16)),
        lambda: store.append(Row(bytes(15) + b"1")),
        lambda: list(store.rows()),
        lambda: store.commit(),
        lambda: JournalStore(sys.argv[1]),
    ):
        try:
            use()
        except JournalError as error:
            print(error)
    store.close()
    del store, use
    gc.collect()
    sys.exit()
os.wait()
store.append(Row(bytes(15) + b"2", response="b"))
os._exit(0)
"""
    path = tmp_path / "run.db"
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(
        command, env=ENVIRON, capture_output=True, text=True, check=True
    )
    said = done.stdout.splitlines()
    assert len(said) == 5
    for line in said[:4]:
        assert "was opened before this process was forked. Open a journal of" in line
    assert "is in use by process" in said[4]
    with JournalStore(path) as store:
        assert [r.response for r in store.rows()] == ["a", "b"]


def test_a_log_that_is_left_alone(tmp_path: Path) -> None:
    """A journal that was deleted without its log is not begun anew in silence."""
    path = tmp_path / "run.db"
    script = """
import os, sys
from inf_engine.journal import JournalStore, Row
store = JournalStore(sys.argv[1])
store.append(Row(bytes(16), response="a"))
os._exit(0)
"""
    command = [sys.executable, "-c", script, str(path)]
    subprocess.run(command, env=ENVIRON, check=True)
    path.rename(tmp_path / "moved.db")
    with pytest.raises(JournalError, match="is gone, but 'run.db-wal' with its newest"):
        JournalStore(path)
    (tmp_path / "moved.db").rename(path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT response FROM answers").fetchall() == [("a",)]
    with JournalStore(path) as store:
        assert len(store) == 1
