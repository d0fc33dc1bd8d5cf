"""`JournalStore`: answers in an SQLite file, each committed before it is used.

**What survives what.** In WAL mode with ``synchronous=NORMAL`` a commit is a write to
the file, not yet to the disk: it survives any death of the process (kill -9 too), and
costs no fsync. After a loss of power the last commits may be missing; the file is whole
all the same. With ``durability="power"`` no row may be used before `commit`, an fsync
of the log by our own hand that many rows share. It is what ``synchronous=FULL`` does,
but any thread can do it while this one goes on: SQLite itself syncs the log before it
copies it into the file, and the file before it begins the log anew.

**Append only.** A row is never changed, and the first answer to a key wins. Rows lie in
the order of their ids, so that a commit touches the last page. An index by key would
touch a random page for every row and cost several times as much; the keys are held in
memory instead, and read at opening.

**One writer.** It holds a lock for life on a file beside the journal, ``NAME-lock``: an
SQLite transaction, so it works wherever SQLite does and ends with the process, however
that ends. The lock is not on the journal itself, for readers come in beside a writer.
The file stays when the journal is closed: deleting a lock file is a race.

**Never a silent fresh start.** A new journal is made under another name, in WAL mode
already, and then renamed: an empty one was truncated, and no death leaves one that has
to be rolled back. A ``-wal`` without its journal is refused: SQLite would replay it
into the new file. At each commit the names must still stand for the files that were
opened.

**Readers leave nothing behind.** Whoever reads a WAL file makes ``-wal`` and ``-shm``,
and only who may write can take them away. So a reader opens the file to write too, with
``query_only``, and SQLite clears up if it is the last to close it: what a dead process
has left in the log is then in the file. Where that is not allowed, a file without a log
is opened as ``immutable``, and anew once it has changed; one with a log has both files.

What this cannot see: a ``-wal`` that was lost or cut off while nobody had it open holds
the newest rows, and SQLite takes what is left for the whole. A journal is copied when
nobody has it open.
"""

import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from inf_engine.errors import JournalError
from inf_engine.journal.database import (
    FIXES,
    check,
    connect,
    connect_reader,
    create,
    load_sqlite,
    lock,
    pragma,
    reason_of,
    remedy,
)
from inf_engine.journal.files import (
    PERMISSIONS,
    journal_error,
    look,
    place_of,
    state_of,
    sync_file,
)
from inf_engine.journal.pictures import keep_images, read_image
from inf_engine.journal.rows import (
    COLUMNS,
    INSERT,
    Row,
    checksum,
    values_of,
)

if TYPE_CHECKING:
    import sqlite3
    from types import TracebackType

T = TypeVar("T")

_PAGE = 256  # rows that are read at a time


class JournalStore:
    """The answers of one journal file; a new file is made with mode 0600.

    All keys are held in memory, about 140 MB per million rows; a reader reads them when
    it is first asked for one. It may be handed from thread to thread, but used by one
    at a time.

    Args:
        path: The file.
        durability: What a row survives, once it is committed: ``process`` for any
            death of the process, ``power`` for a loss of power too. With ``process``,
            `append` commits; with ``power``, `commit` does.
        read_only: Open it to look at, also beside a process that writes. `rows` sees
            what is appended later; `get` and ``len`` what was there when one of them
            was first asked.

    Attributes:
        path: The real path of the file.
        read_only: Whether it is open to look at.
        gathers: Whether rows last after `commit` only.

    Raises:
        JournalError: If it cannot be opened, is damaged or foreign, is of a newer
            version, or is in use by another writer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["process", "power"] = "process",
        read_only: bool = False,
    ) -> None:
        if durability not in ("process", "power"):
            raise JournalError(
                f"durability is {durability!r}: write 'process' or 'power'."
            )
        self.path = os.path.realpath(path)
        self.read_only, self.durability = read_only, durability
        self.gathers = durability == "power"
        self._fresh: dict[bytes, None] = {}  # not lasting yet
        self._broken = ("", "")  # what happened, and what to do
        self._place: tuple[int, ...] = ()
        self._seen: tuple[int, ...] | None = None  # of a file that must not change
        self._process = os.getpid()
        self._unread = read_only  # the keys
        self._ids: dict[bytes, int] = {}
        self._more: dict[bytes, list[bytes]] = {}  # key -> keys of later equal calls
        self._sqlite = load_sqlite(self.path)
        self._database: sqlite3.Connection | None = None
        self._lock: sqlite3.Connection | None = None
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "JournalStore":
        return self

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._known())

    def get(self, key: bytes) -> str | None:
        """Return the answer to a key, None if there is none.

        Args:
            key: 16 bytes.

        Raises:
            JournalError: If it cannot be read, or the store is closed or forked.
        """
        self._usable()
        row_id = self._known().get(key)
        if row_id is None:
            return None
        found = self._column("response, crc", row_id)
        if found is None or not isinstance(found[0], str):
            raise self._error(f"has lost row {row_id}", FIXES["damaged"])
        if found[1] != checksum(key, found[0]):
            problem = f"is damaged: row {row_id} is not as it was written"
            raise self._error(problem, FIXES["damaged"])
        return found[0]

    def twins(self, first: bytes) -> list[bytes]:
        """Return the keys of the answers to equal calls, in the order they came.

        Args:
            first: The key of the first of these calls, whose answer may be missing.
        """
        found = [first] if first in self._known() else []
        return [*found, *self._more.get(first, ())]

    def place(self, key: bytes) -> str:
        """Return where in the program the call of an answer stands.

        Args:
            key: That of an answer that is here.

        Raises:
            JournalError: If it cannot be read.
        """
        found = self._column("place", self._ids[key])
        return str(found[0]) if found else ""

    def image(self, digest: str) -> bytes | None:
        """Return the content of an image that a request names, None if it is not here.

        Args:
            digest: Its SHA-256, hex: what follows ``inf-image:`` in the request.

        Raises:
            JournalError: If it cannot be read.
        """
        with self._explained("cannot be read"):
            return self._steadily(lambda database: read_image(database, digest))

    def is_lasting(self, key: bytes) -> bool:
        """Say whether an answer that was appended may be used: its commit is done.

        Args:
            key: 16 bytes.
        """
        return key not in self._fresh

    def check(self) -> None:
        """Make sure that an answer could be appended, as far as is known.

        Raises:
            JournalError: If it could not.
        """
        self._writable()

    def append(self, row: Row, response: str | None = None) -> bool:
        """Keep an answer, and say whether it is new; the first one of a key stays.

        When it returns, the row survives a death of the process; with
        ``durability="power"`` it may be used after `commit`.

        Args:
            row: The answer; its `id` is ignored.
            response: The answer itself, None for that of the row.

        Raises:
            JournalError: If it could not be kept. Unless the row itself is wrong, the
                store then refuses all further ones.
        """
        database = self._writable()
        key = row.key
        if key in self._ids:
            return False
        values = values_of(row, response, self.path)
        try:
            if row.images:
                keep_images(database, row.images)
            number = database.execute(INSERT, values).lastrowid
        except self._sqlite.Error as error:
            raise self._lost(error) from error
        if self.gathers:
            self._fresh[key] = None
        else:
            self._check_place()
        self._note(key, number or 0, row.first)
        return True

    def commit(self) -> None:
        """Make all appended rows survive a loss of power, with one fsync.

        Nothing is left to do with ``durability="process"``.

        Raises:
            JournalError: If it failed: the rows since the last commit are not kept,
                and the store refuses further ones.
        """
        keys = self.unsettled()
        if not keys:
            self._writable()
            return
        failure = None
        try:
            self.sync()
        except OSError as error:
            failure = error
        self.settle(keys, failure)

    def unsettled(self) -> list[bytes]:
        """Return the keys that a `sync` would make lasting; `settle` them after it."""
        return list(self._fresh)

    def sync(self) -> None:
        """Make all appended rows survive a loss of power; any thread may do it.

        Raises:
            OSError: If it failed, or the rows are not where the next run looks for
                them; `settle` them with it.
        """
        if place_of(self.path) != self._place:
            raise FileNotFoundError
        sync_file(f"{self.path}-wal", self._place[-1])

    def settle(self, keys: Iterable[bytes], error: OSError | None = None) -> None:
        """Take note of how a `sync` has ended.

        Args:
            keys: What was `unsettled` before it.
            error: Why it failed; then nothing counts that does not last already, and
                the store refuses further answers.

        Raises:
            JournalError: If it failed, for those who wait for the keys.
        """
        if error is None:
            for key in keys:
                self._fresh.pop(key, None)
            return
        for key in self._fresh:
            self._ids.pop(key, None)
        self._fresh.clear()
        raise self._lost(error) from error

    def rows(self, after: int = 0) -> Iterator[Row]:
        """Yield the rows in the order they came; reading holds up no writer.

        Args:
            after: The id of a row; only later ones are read.

        Raises:
            JournalError: If they cannot be read, or the store is closed or forked.
        """
        query = f"SELECT {COLUMNS}, id FROM answers WHERE id > ? ORDER BY id LIMIT ?"

        def read(database: "sqlite3.Connection") -> list[Any]:
            return database.execute(query, (after, _PAGE)).fetchall()

        while True:
            with self._explained("cannot be read"):
                page = self._steadily(read)
            yield from (Row(*values) for values in page)
            if len(page) < _PAGE:
                return
            after = page[-1][-1]

    def inputs(self) -> "Iterator[tuple[bytes, bytes | None, str]]":
        """Yield key, `first` and input of each row, in the order they came."""
        query = "SELECT key, first, input FROM answers ORDER BY id"
        with self._explained("cannot be read"):
            yield from self._steadily(lambda d: d.execute(query).fetchall())

    def close(self) -> None:
        """Commit what is appended, and let go of the file; twice is once.

        In a forked child nothing happens: the file is the parent's.

        Raises:
            JournalError: If the last commit failed.
        """
        if os.getpid() != self._process:
            return
        try:
            if self._fresh:
                self.commit()
        finally:
            for connection in (self._database, self._lock):
                if connection is not None:
                    connection.close()
            self._database = self._lock = None

    def open(self) -> None:
        """Open the file once more after `close`; others may have written to it.

        Raises:
            JournalError: As for a new store.
        """
        look(self.path, must_exist=self.read_only)
        if not self.read_only:
            self._lock = lock(self._sqlite, self.path)
            if not look(self.path, must_exist=False):
                with self._explained("cannot be made"):
                    create(self._sqlite, self.path)
        with self._explained("cannot be opened"):
            if self.read_only:
                self._open_reader()
            else:
                self._database = connect(self._sqlite, self.path, "mode=rw")
            self._steadily(partial(check, self.path))
            if not self.read_only:
                self._load(self._usable())
                self._claim(self._usable())

    def _open_reader(self) -> None:
        """Open the file to look at, and note its state if no change is seen."""
        state = state_of(self.path)
        self._database, sees_no_change = connect_reader(self._sqlite, self.path)
        self._seen = state if sees_no_change else None

    def _steadily(self, read: "Callable[[sqlite3.Connection], T]") -> T:
        """Read; read again if the file changed and this connection cannot see it."""
        while True:
            database = self._usable()
            try:
                found = read(database)
            except (self._sqlite.Error, JournalError):
                if not self._is_outdated():
                    raise
            else:
                if not self._is_outdated():
                    return found
            database.close()
            self._open_reader()

    def _is_outdated(self) -> bool:
        return self._seen is not None and state_of(self.path) != self._seen

    def _claim(self, database: "sqlite3.Connection") -> None:
        """Set the modes, and write down who uses it."""
        if pragma(database, "journal_mode = WAL") != "wal":
            raise self._error(
                "lies where SQLite cannot keep a write-ahead log (a network folder?)",
                "Put it on a local disk.",
            )
        pragma(database, "synchronous = NORMAL")
        user = f"process {os.getpid()} on {socket.gethostname()}"
        query = "INSERT OR REPLACE INTO meta VALUES ('user', ?)"
        database.execute(query, (user,))
        self._place = place_of(self.path)

    def _load(self, database: "sqlite3.Connection") -> None:
        """Read the keys; of equal ones the first counts."""
        self._ids.clear()
        self._more.clear()
        query = "SELECT id, key, first FROM answers ORDER BY id"
        for row_id, key, first in database.execute(query):
            if key not in self._ids:
                self._note(key, row_id, first)
        self._unread = False

    def _known(self) -> dict[bytes, int]:
        """Return the ids of the rows by key; a reader reads them now."""
        if self._unread:
            with self._explained("cannot be read"):
                self._steadily(self._load)
        return self._ids

    def _note(self, key: bytes, row_id: int, first: bytes | None) -> None:
        """Take note of an answer that is in the file."""
        self._ids[key] = row_id
        if first is not None:
            self._more.setdefault(first, []).append(key)

    def _column(self, name: str, row_id: int) -> Any:
        """Return what stands in a row."""
        query = f"SELECT {name} FROM answers WHERE id = ?"
        with self._explained("cannot be read"):
            return self._steadily(lambda d: d.execute(query, (row_id,)).fetchone())

    def _usable(self) -> "sqlite3.Connection":
        """Return the open file, in the process that opened it."""
        if os.getpid() != self._process:
            raise self._error(
                "was opened before this process was forked",
                "Open a journal of its own in the child.",
            )
        if self._database is None:
            raise self._error("is closed", "Open it again.")
        return self._database

    def _writable(self) -> "sqlite3.Connection":
        """Return the open file, if nothing speaks against writing."""
        database = self._usable()
        if self.read_only:
            raise self._error("is open to read only", "Open it without read_only.")
        reason, fix = self._broken
        if reason:
            raise self._error(
                f"takes no more answers, an earlier one was lost: {reason}", fix
            )
        return database

    def _lost(self, error: Exception) -> JournalError:
        """Note that an answer was not kept; return the error that says so."""
        reason, fix = reason_of(error), FIXES[remedy(error)]
        if not self._broken[0]:
            self._broken = reason, fix
        return self._error(f"could not keep an answer: {reason}", fix)

    def _check_place(self) -> None:
        """Make sure that a row went where the next run will look for it."""
        try:
            if place_of(self.path) == self._place:
                return
        except OSError:
            pass
        raise self._lost(FileNotFoundError())

    @contextmanager
    def _explained(self, what: str) -> Generator[None]:
        """Convert SQLite's errors, and the system's; no text of a row is repeated."""
        try:
            yield
        except OSError as error:
            raise self._error(f"{what}: {error.strerror}", PERMISSIONS) from error
        except self._sqlite.Error as error:
            told = hasattr(error, "sqlite_errorcode")  # else Python's, with a text
            reason = str(error) if told else "a text in it is not UTF-8"
            fix = FIXES[remedy(error)]
            raise self._error(f"{what}: {reason}", fix) from (error if told else None)

    def _error(self, problem: str, fix: str) -> JournalError:
        return journal_error(self.path, problem, fix)
