"""The journal file: what it keeps, and what it refuses."""

import errno
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inf_engine.errors import JournalError
from inf_engine.journal import rows as journal_rows
from inf_engine.journal.rows import Row
from inf_engine.journal.store import JournalStore
from inf_engine.types import ImagePart

ROOT = Path(__file__).parents[2]
FULL = Row(
    key=b"0123456789abcdef",
    kind="op",
    path="a.b[0]",
    alias="main",
    model="m",
    input="0" * 32,
    number=3,
    request='{"messages":[]}',
    response='{"text":"é 😀"}',
    created="2020-01-01T00:00:00+00:00",
)


def key(number: int) -> bytes:
    """Return a key."""
    return number.to_bytes(16, "big")


def row(number: int, **fields: Any) -> Row:
    """Return a row with this key."""
    return Row(key(number), response=f"answer {number}", **fields)


def change(path: Path, *statements: str) -> None:
    """Change a journal as only another program does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal may be made."""
    return tmp_path / "run.db"


@pytest.fixture
def kept(path: Path) -> Path:
    """A journal with three answers, closed."""
    with JournalStore(path) as store:
        for i in range(3):
            store.append(row(i))
    return path


@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_is_appended_is_there(path: Path, durability: Any) -> None:
    """An answer is got by its key, at once and after opening again."""
    with JournalStore(path, durability=durability) as store:
        assert store.get(FULL.key) is None
        assert store.append(FULL)
        assert store.get(FULL.key) == FULL.response
        store.commit()
        assert len(store) == 1
    with JournalStore(path) as store:
        assert store.get(FULL.key) == FULL.response
        (found,) = store.rows()
        assert found == Row(*[getattr(FULL, n) for n in FULL.__slots__[:-2]], id=1)


def test_the_first_answer_wins(path: Path) -> None:
    """A key that is there already is not appended, now or after opening again."""
    with JournalStore(path) as store:
        assert store.append(FULL)
        assert not store.append(Row(FULL.key, response="other"))
    with JournalStore(path) as store:
        assert not store.append(Row(FULL.key, response="other"))
        assert store.get(FULL.key) == FULL.response
    change(path, "INSERT INTO answers(key, response) SELECT key, 'x' FROM answers")
    with JournalStore(path) as store:
        assert store.get(FULL.key) == FULL.response


def test_rows_come_in_order(path: Path) -> None:
    """Rows are paged, in order, after any id; those appended meanwhile are seen."""
    with JournalStore(path) as store:
        for i in range(600):
            store.append(row(i))
        seen = []
        for found in store.rows(after=100):
            seen.append(found.id)
            if len(seen) == 1:
                store.append(row(600))
        assert seen == list(range(101, 602))
        assert list(store.rows(after=601)) == []


def test_the_moment_is_noted(path: Path) -> None:
    """A row without a time gets that of its append, in UTC."""
    with JournalStore(path) as store:
        store.append(row(1))
        (found,) = store.rows()
    assert found.created[:2] == "20"
    assert found.created.endswith("+00:00")


def test_sqlite3_reads_it(kept: Path) -> None:
    """The table has the promised columns, and says who wrote it."""
    with closing(sqlite3.connect(kept)) as database:
        names = [c[1] for c in database.execute("PRAGMA table_info(answers)")]
        meta = dict(database.execute("SELECT * FROM meta"))
        (mode,) = database.execute("PRAGMA journal_mode").fetchone()
    assert names == [
        *("id", "key", "kind", "path", "alias", "model", "input", "number"),
        *("request", "response", "created", "place", "first", "crc"),
    ]
    assert meta["format"] == "inf-engine journal 2"
    assert meta["library"] == journal_rows.LIBRARY
    assert meta["user"].startswith(f"process {os.getpid()} on ")
    assert mode == "wal"


def test_the_version_is_the_projects() -> None:
    """The version that journals note is that of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == journal_rows.LIBRARY


def test_files_are_private(path: Path) -> None:
    """All its files have mode 0600, whatever the umask, and a close takes two away."""
    for mask in (0o000, 0o777):
        before = os.umask(mask)
        try:
            with JournalStore(f"{path}{mask}") as store:
                store.append(row(1))
                files = sorted(path.parent.glob(f"run.db{mask}*"))
                assert len(files) == 4
                modes = [stat.S_IMODE(f.stat().st_mode) for f in files]
        finally:
            os.umask(before)
        assert modes == [0o600] * 4
        names = sorted(f.name for f in path.parent.glob(f"run.db{mask}*"))
        assert names == [f"run.db{mask}", f"run.db{mask}-lock"]


def test_a_link_is_the_same_journal(kept: Path) -> None:
    """A symbolic link leads to the same file and the same lock."""
    link = kept.with_name("link.db")
    link.symlink_to(kept)
    with JournalStore(link):
        with pytest.raises(JournalError, match="is in use"):
            JournalStore(kept)


def test_odd_names(tmp_path: Path) -> None:
    """A name that means something in an address is a name."""
    for name in ("a b?mode=memory#x%20.db", "é.db", ":memory:"):
        with JournalStore(tmp_path / name) as store:
            store.append(row(1))
        assert (tmp_path / name).is_file()


def test_two_writers(kept: Path) -> None:
    """A second writer is told who has the journal; after the close it may come in."""
    store = JournalStore(kept)
    said = rf"is in use by process {os.getpid()} on .*\. Wait until .* read_only=True"
    with pytest.raises(JournalError, match=said):
        JournalStore(kept)
    store.append(row(7))
    store.close()
    with JournalStore(kept) as again:
        assert len(again) == 4


def test_another_process(kept: Path) -> None:
    """A second process is told the same, and may look."""
    script = (
        "import sys; from inf_engine.journal import JournalStore as S\n"
        "print(len(list(S(sys.argv[1], read_only=True).rows())))\n"
        "S(sys.argv[1])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", script, str(kept)]
    with JournalStore(kept) as store:
        store.append(row(3))
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False
        )
        assert store.append(row(4))
    assert done.stdout == "4\n"
    assert f"is in use by process {os.getpid()}" in done.stderr


def test_a_reader_beside_a_writer(kept: Path) -> None:
    """`read_only` opens beside a writer, sees its rows, and writes nothing."""
    with JournalStore(kept) as writer:
        writer.append(row(3))
        with JournalStore(kept, read_only=True) as reader:
            assert len(reader) == 4
            assert reader.get(key(3)) == "answer 3"
            writer.append(row(4))
            assert [r.id for r in reader.rows(after=3)] == [4, 5]
            with pytest.raises(JournalError, match="is open to read only. Open it wi"):
                reader.append(row(5))
        assert writer.append(row(5))


def test_a_reader_makes_no_file(kept: Path) -> None:
    """`read_only` does not lock, and begins no journal."""
    with JournalStore(kept, read_only=True), JournalStore(kept) as writer:
        assert writer.append(row(3))
    with pytest.raises(JournalError, match="does not exist. Check the name"):
        JournalStore(kept.with_name("other.db"), read_only=True)
    assert not kept.with_name("other.db").exists()


def test_power_is_one_commit(path: Path) -> None:
    """With `power`, rows last after `commit`, all at once, or after a close."""
    with JournalStore(path, durability="power") as store:
        store.append(row(1))
        store.append(row(2))
        assert not store.append(row(2))
        assert not store.is_lasting(key(1))
        store.commit()
        store.commit()
        assert store.is_lasting(key(1)) and store.is_lasting(key(2))
        store.append(row(3))
    with JournalStore(path) as store:
        assert len(store) == 3
        store.append(row(4))
        assert store.is_lasting(key(4))


@pytest.mark.parametrize(("durability", "syncs"), [("process", 0), ("power", 2)])
def test_durability_reaches_the_disk(
    path: Path, durability: Any, syncs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`process` leaves it to SQLite's checkpoints, `power` syncs at each commit."""
    synced = []
    fsync = os.fsync
    with JournalStore(path, durability=durability) as store:
        monkeypatch.setattr(os, "fsync", lambda n: synced.append(fsync(n)))
        for i in range(6):
            store.append(row(i))
            if i % 3 == 2:
                store.commit()
        assert len(synced) == syncs
        assert store._usable().execute("PRAGMA synchronous").fetchone()[0] == 1


def test_a_loss_of_power(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was on the disk at the last fsync has all that lasts, and opens."""
    disk = tmp_path / "disk"
    fsync = os.fsync

    def copied(number: int) -> None:
        fsync(number)
        disk.mkdir(exist_ok=True)
        for name in ("run.db", "run.db-wal"):
            (disk / name).write_bytes((tmp_path / name).read_bytes())

    with JournalStore(path, durability="power") as store:
        monkeypatch.setattr(os, "fsync", copied)
        for i in range(40):
            store.append(row(i, request="x" * 1000))
            assert not store.is_lasting(key(i))
            if i % 8 == 7:
                store.commit()
                with JournalStore(disk / "run.db", read_only=True) as lasting:
                    assert len(lasting) == i + 1 == len(list(lasting.rows()))
                    assert all(store.is_lasting(key(n)) for n in range(i + 1))


def test_a_thread_waits_for_the_disk(path: Path) -> None:
    """Rows that are appended while it does so wait for the next time."""
    with JournalStore(path, durability="power") as store:
        store.append(row(1))
        keys = store.unsettled()
        assert keys == [key(1)]
        thread = threading.Thread(target=store.sync)
        thread.start()
        store.append(row(2))
        thread.join()
        store.settle(keys)
        assert store.is_lasting(key(1)) and not store.is_lasting(key(2))
        assert store.unsettled() == [key(2)]
        store.commit()
        assert store.unsettled() == []


def test_a_disk_that_does_not_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not on the disk does not count, what was there before does."""

    def broken(number: int) -> None:
        raise OSError(5, "Input/output error")

    with JournalStore(path, durability="power") as store:
        store.append(row(1))
        store.commit()
        store.append(row(2))
        keys = store.unsettled()
        store.append(row(3))
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", broken)
            with pytest.raises(OSError, match="Input/output") as caught:
                store.sync()
        said = "could not keep an answer: Input/output error. Make room on the disk, or"
        with pytest.raises(JournalError, match=said):
            store.settle(keys, caught.value)
        assert store.get(key(1)) == "answer 1"
        assert store.get(key(2)) is store.get(key(3)) is None
        with pytest.raises(JournalError, match="takes no more .*: Input/output error"):
            store.check()


def test_a_full_disk_keeps_what_was_gathered(path: Path) -> None:
    """An answer that finds no room takes no other of its group with it."""
    with JournalStore(path, durability="power") as store:
        store._usable().execute("PRAGMA max_page_count = 8")
        store.append(row(1))
        with pytest.raises(JournalError, match="full"):
            store.append(row(2, request="x" * 100_000))
        store.commit()
        assert store.get(key(1)) == "answer 1"
    with JournalStore(path) as store:
        assert [r.key for r in store.rows()] == [key(1)]


def deleted(path: Path) -> None:
    path.unlink()


def all_deleted(path: Path) -> None:
    for name in ("run.db", "run.db-wal", "run.db-shm"):
        path.with_name(name).unlink()


def log_deleted(path: Path) -> None:
    path.with_name("run.db-wal").unlink()


def moved(path: Path) -> None:
    path.rename(path.with_name("other.db"))


def replaced(path: Path) -> None:
    path.with_name("copy.db").write_bytes(path.read_bytes())
    path.with_name("copy.db").rename(path)


def folder_moved(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


LOSSES = [deleted, all_deleted, log_deleted, moved, replaced, folder_moved]


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("lose", LOSSES, ids=lambda x: x.__name__)
def test_a_file_that_is_taken_away(tmp_path: Path, lose: Any, durability: Any) -> None:
    """The next commit notices, and no answer counts that the next run cannot find."""
    path = tmp_path / "folder" / "run.db"
    path.parent.mkdir()
    store = JournalStore(path, durability=durability)
    store.append(row(1))
    store.commit()
    lose(path)
    said = (
        "could not keep an answer: it, or its '-wal', was deleted, moved or replaced "
        "while it was in use. If it was moved, bring it and its '-wal' back and run"
    )
    with pytest.raises(JournalError, match=said):
        store.append(row(2))
        store.commit()
    assert store.get(key(2)) is None
    with pytest.raises(JournalError, match="takes no more .*: it, or its '-wal', was"):
        store.append(row(3))
    store.close()


def test_a_file_that_is_brought_back(path: Path) -> None:
    """With its log, it has every answer."""
    store = JournalStore(path)
    store.append(row(1))
    moved(path)
    with pytest.raises(JournalError, match="was deleted, moved or replaced"):
        store.append(row(2))
    store.close()
    with pytest.raises(JournalError, match="is gone, but 'run.db-wal' with its newest"):
        JournalStore(path)
    path.with_name("other.db").rename(path)
    with JournalStore(path) as again:
        assert again.get(key(1)) == "answer 1"


def names_in(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def test_a_reader_leaves_nothing_behind(kept: Path) -> None:
    """After a look, the folder is as it was."""
    before = names_in(kept.parent)
    for _ in range(2):
        with JournalStore(kept, read_only=True) as store:
            assert store.get(key(1)) == "answer 1"
            assert len(list(store.rows())) == 3
        assert names_in(kept.parent) == before


def test_a_reader_that_outlives_the_writer(kept: Path) -> None:
    """The last to leave clears up, whoever it is; the rows are in the file."""
    writer = JournalStore(kept)
    reader = JournalStore(kept, read_only=True)
    writer.append(row(3))
    writer.close()
    assert len(list(reader.rows())) == 4
    reader.close()
    assert list(names_in(kept.parent)) == ["run.db", "run.db-lock"]
    with closing(sqlite3.connect(f"{kept.as_uri()}?immutable=1", uri=True)) as file:
        assert file.execute("SELECT count(*) FROM answers").fetchone() == (4,)


def test_a_reader_cannot_write(kept: Path) -> None:
    """Not even past the store."""
    with JournalStore(kept, read_only=True) as store:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store._usable().execute("DELETE FROM answers")


def test_a_death_of_the_old_kind(path: Path, tmp_path: Path) -> None:
    """A journal that has to be rolled back first is, also by a reader."""
    with JournalStore(path) as store:
        store.append(row(1))
    change(path, "PRAGMA journal_mode = DELETE")
    dead = tmp_path / "dead"
    dead.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA cache_size = 1")
        database.execute("BEGIN")
        database.execute("UPDATE answers SET response = 'lost'")
        database.executemany(
            "INSERT INTO answers(key, request) VALUES (?, ?)",
            [(key(n), "x" * 3000) for n in range(100, 150)],
        )
        for name in ("run.db", "run.db-journal"):
            (dead / name).write_bytes((tmp_path / name).read_bytes())
    with JournalStore(dead / "run.db", read_only=True) as store:
        assert store.get(key(1)) == "answer 1"
    with JournalStore(dead / "run.db") as store:
        assert [r.response for r in store.rows()] == ["answer 1"]


def test_an_unknown_durability(path: Path) -> None:
    """A durability that does not exist is refused."""
    wrong: Any = "none"
    with pytest.raises(JournalError, match="'none': write 'process' or 'power'"):
        JournalStore(path, durability=wrong)


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 500)


def text(path: Path) -> None:
    path.write_bytes(b"short")


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * 8192)


def foreign(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE a(b)")


def newer(path: Path) -> None:
    change(path, "PRAGMA user_version = 3")


def no_table(path: Path) -> None:
    change(path, "DROP TABLE answers")


def bad_key(path: Path) -> None:
    change(path, "UPDATE answers SET key = 'short' WHERE id = 2")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def log_alone(path: Path) -> None:
    path.unlink()
    path.with_name("run.db-wal").write_bytes(b"rows")


DAMAGES = [
    (garbage, "cannot be opened: file is not a database. It is damaged, or not a jour"),
    (text, "cannot be opened: file is not a database"),
    (cut, "cannot be opened: database disk image is malformed. It is damaged"),
    (overwritten, "is damaged|is malformed"),
    (emptied, "is empty: it was cut off, .* delete it to begin"),
    (foreign, "is an SQLite file of another program. Name another file"),
    (newer, "has format 3, .* format 2 only. Read it with the version that wrote"),
    (no_table, "cannot be opened: no such table: answers. It is damaged"),
    (bad_key, "has no key in row 2. It is damaged"),
    (folder, "is a folder. Name a file in it"),
    (pipe, "is not a plain file. Name another"),
    (log_alone, "is gone, but 'run.db-wal' with its newest .* Bring the journal back"),
]


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=lambda x: str(x)[:20])
def test_a_damaged_file(kept: Path, damage: Any, said: str, read_only: bool) -> None:
    """What is not a whole journal is refused, left as it is, and not locked."""
    damage(kept)
    before = kept.read_bytes() if kept.is_file() else None
    for _ in range(2):
        with pytest.raises(JournalError, match=f"the journal '.*run.db' ({said})"):
            JournalStore(kept, read_only=read_only)
    assert (kept.read_bytes() if kept.is_file() else None) == before


def test_no_folder(tmp_path: Path) -> None:
    """A folder is not made by guess."""
    with pytest.raises(JournalError, match="has no folder. Make the folder '.*/gone'"):
        JournalStore(tmp_path / "gone" / "run.db")


@pytest.fixture
def nobody(kept: Path) -> Iterator[None]:
    """Stop being root, who may do everything, for one test."""
    is_root = os.geteuid() == 0
    folders = [f for f in kept.parents if f.stat().st_uid == 0]
    modes = [(f, stat.S_IMODE(f.stat().st_mode)) for f in folders]
    if is_root:
        for folder_, mode in modes:
            folder_.chmod(mode | 0o055)
        os.setresuid(65534, 65534, 0)
    yield
    if is_root:
        os.setresuid(0, 0, 0)
        for folder_, mode in modes:
            folder_.chmod(mode)


def test_a_file_without_permission(kept: Path, request: pytest.FixtureRequest) -> None:
    """Who may not read or write is told to check the permissions."""
    kept.chmod(0o000)
    kept.with_name("run.db-lock").chmod(0o666)
    request.getfixturevalue("nobody")
    for read_only in (False, True):
        with pytest.raises(JournalError, match="unable to open .* Check the permiss"):
            JournalStore(kept, read_only=read_only)


def test_a_folder_without_permission(
    kept: Path, request: pytest.FixtureRequest
) -> None:
    """In a folder that may not be written, a journal can be looked at."""
    kept.chmod(0o644)
    kept.with_name("run.db-lock").unlink()
    kept.parent.chmod(0o555)
    request.getfixturevalue("nobody")
    with pytest.raises(JournalError, match="cannot be written: Permission denied"):
        JournalStore(kept)
    with JournalStore(kept, read_only=True) as store:
        assert len(store) == 3
    assert [f.name for f in kept.parent.iterdir()] == ["run.db"]


def test_a_folder_that_only_another_may_write(
    kept: Path, request: pytest.FixtureRequest
) -> None:
    """A reader that may leave nothing sees what a writer does all the same."""
    if os.geteuid():
        pytest.skip("needs root, who may become another and come back")
    kept.chmod(0o644)
    kept.parent.chmod(0o755)
    request.getfixturevalue("nobody")
    with JournalStore(kept, read_only=True) as before:
        os.setresuid(0, 0, 0)
        with JournalStore(kept) as writer:
            for n in range(3, 600):
                writer.append(row(n, request="x" * 5000))
            os.setresuid(65534, 65534, 0)
            assert len(list(before.rows())) == 600
            with JournalStore(kept, read_only=True) as beside:
                assert len(beside) == len(list(beside.rows())) == 600
            os.setresuid(0, 0, 0)
        os.setresuid(65534, 65534, 0)
        assert len(list(before.rows())) == 600
        assert before.get(key(1)) == "answer 1"


def test_a_lock_that_is_no_lock(kept: Path) -> None:
    """A file of another kind in the place of the lock is told of."""
    kept.with_name("run.db-lock").write_bytes(b"x" * 4096)
    with pytest.raises(JournalError, match=r"cannot be locked: .* \('.*run.db-lock'\)"):
        JournalStore(kept)


def test_leftovers_of_a_death(path: Path) -> None:
    """What a process left that died while it made a journal is cleared away."""
    path.with_name("run.db-new").write_bytes(b"half")
    path.with_name("run.db-new-journal").write_bytes(b"half")
    with JournalStore(path) as store:
        assert store.append(row(1))
    names = sorted(f.name for f in path.parent.iterdir())
    assert names == ["run.db", "run.db-lock"]


@pytest.mark.parametrize("durability", ["process", "power"])
def test_an_answer_that_is_not_kept(path: Path, durability: Any) -> None:
    """A full file is an error that says so; then nothing more is taken."""
    big = "x" * 100_000
    with JournalStore(path, durability=durability) as store:
        store.append(row(1))
        store.commit()
        store._usable().execute("PRAGMA max_page_count = 8")
        with pytest.raises(JournalError, match="could not keep an .*full. Make room"):
            store.append(row(2, request=big))
        assert store.get(key(2)) is None
        with pytest.raises(JournalError, match="no more answers, an earlier one was"):
            store.append(row(3))
        assert store.get(key(1)) == "answer 1"
    with JournalStore(path) as store:
        assert len(store) == 1
        assert store.append(row(2))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"key": b"short"}, "its key is not 16 bytes: make it with call_key"),
        ({"number": 2**63}, "its number is not a whole number of at most 63 bits"),
        ({"number": 1.5}, "its number is not a whole number"),
        ({"response": None}, "a field is not text"),
        ({"path": "\ud83d"}, "or has half a character"),
    ],
)
def test_a_row_that_cannot_be_stored(path: Path, wrong: Any, said: str) -> None:
    """A wrong row is refused, and the next one is taken."""
    with JournalStore(path) as store:
        with pytest.raises(JournalError, match=f"cannot store a row. .*{said}"):
            store.append(replace(row(1), **wrong))
        assert store.append(row(2))


def test_a_row_that_was_lost(kept: Path) -> None:
    """A row that another program took away, or filled with garbage, is an error."""
    with JournalStore(kept) as store:
        change(kept, "DELETE FROM answers WHERE id = 1")
        change(kept, "UPDATE answers SET response = CAST(x'736563ff' AS TEXT)")
        with pytest.raises(JournalError, match="has lost row 1. It is damaged"):
            store.get(key(0))
        with pytest.raises(JournalError, match="cannot be .* not UTF-8") as caught:
            store.get(key(1))
        assert caught.value.__cause__ is None
        with pytest.raises(JournalError, match="cannot be read: .* not UTF-8"):
            list(store.rows())


def test_a_closed_store(kept: Path) -> None:
    """After the close, which may come twice, nothing goes."""
    store = JournalStore(kept)
    store.close()
    store.close()
    with pytest.raises(JournalError, match="is closed. Open it again"):
        store.get(key(1))
    with pytest.raises(JournalError, match="is closed"):
        store.append(row(5))
    with pytest.raises(JournalError, match="is closed"):
        list(store.rows())


def test_a_store_moves_to_the_loops_thread(kept: Path) -> None:
    """A store that was opened here may be used and closed on another thread."""
    store = JournalStore(kept)
    done: list[bool] = []

    def work() -> None:
        done.append(store.append(row(9)))
        store.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_no_sqlite(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that was built without it is told of."""
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    with pytest.raises(JournalError, match="built without sqlite3. Use another build"):
        JournalStore(path)


def test_a_file_that_cannot_be_synced_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that has a name is whole, whatever happens to the machine."""

    def fail(number: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "answers.db"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(JournalError, match=r"answers\.db"):
            JournalStore(path)
    assert not path.exists()
    with JournalStore(path):
        assert path.exists()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_images_are_kept_once(kept: Path, durability: Any) -> None:
    """In a table that the first one makes; those by address are not in it."""
    dot, far = ImagePart(data="aGk="), ImagePart(url="https://h.test/a.png")
    with JournalStore(kept, read_only=True) as store:
        assert store.image(dot.digest) is None
    with JournalStore(kept, durability=durability) as store:
        store.append(replace(row(7), images=(far,)))
        store.append(replace(row(8), images=(dot, dot)))
        store.append(replace(row(9), images=(dot,)))
        assert (store.image(dot.digest), store.image(far.digest)) == (b"hi", None)
    with closing(sqlite3.connect(kept)) as database:
        assert database.execute("SELECT digest, content FROM images").fetchall() == [
            (dot.digest, b"hi")
        ]
    with JournalStore(kept, read_only=True) as store:
        assert store.image(dot.digest) == b"hi"
        assert len(store) == 6
