"""`JournalStore`: answers in an SQLite file, each committed before it is used.

**What survives what.** In WAL mode with ``synchronous=NORMAL`` a commit is a write to
the file, not yet to the disk: it survives any death of the process (kill -9 too), and
costs no fsync. After a loss of power the last commits may be missing; the file is whole
all the same. ``durability="power"`` fsyncs: rows are gathered by `append` and made
lasting by one `commit`, and no answer may be used before it.

**Append only.** A row is never changed, and the first answer to a key wins. Rows lie in
the order of their ids, so that a commit touches the last page. An index by key would
touch a random page for every row and cost several times as much; the keys are held in
memory instead, and read at opening.

**One writer.** It holds a lock for life on a file beside the journal, ``NAME-lock``: an
SQLite transaction, so it works wherever SQLite does and ends with the process, however
that ends. The lock is not on the journal itself, for readers come in beside a writer.
The file stays when the journal is closed: deleting a lock file is a race.

**Never a silent fresh start.** A new journal is made under another name and then
renamed, so a journal that is empty was truncated. And a ``-wal`` without its journal is
refused: SQLite would replay it into the new file.

What this cannot see: a ``-wal`` that was lost or cut off holds the newest rows, and
SQLite takes what is left for the whole. A journal is copied when nobody has it open.
"""

import os
import socket
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inf_engine.errors import JournalError
from inf_engine.journal.files import (
    PERMISSIONS,
    journal_error,
    look,
    make_private,
    remove,
    sync_folder,
)
from inf_engine.journal.keys import KEY_BYTES
from inf_engine.journal.rows import (
    APPLICATION,
    COLUMNS,
    INSERT,
    TABLES,
    VERSION,
    Row,
    checksum,
    values_of,
)

if TYPE_CHECKING:
    import sqlite3
    from types import ModuleType, TracebackType

_PAGE = 256  # rows that are read at a time
_WAIT = 5.0  # seconds, for a foreign program that writes into the file

_CODES = {  # SQLite's result codes, by what is to be done
    "perm": (3, 8, 14, 23),
    "busy": (5, 6),
    "disk": (10, 13),
    "damaged": (1, 11, 26),
}
_FIXES = {
    "perm": PERMISSIONS,
    "busy": "Close the program that has it open.",
    "disk": "Make room on the disk, or mend it, and run again: what is in the journal "
    "is not called again.",
    "damaged": "It is damaged, or not a journal: restore it from a copy, or name "
    "another file.",
}


class JournalStore:
    """The answers of one journal file; a new file is made with mode 0600.

    All keys are held in memory: about 140 MB per million rows. It may be handed from
    thread to thread, but used by one at a time.

    Args:
        path: The file.
        durability: What a row survives, once it is committed: ``process`` for any
            death of the process, ``power`` for a loss of power too. With ``process``,
            `append` commits; with ``power``, `commit` does.
        read_only: Open it to look at, also beside a process that writes. Rows that are
            appended later are seen by `rows`, not by `get` and ``len``.

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
        self.read_only = read_only
        self._gathers = durability == "power"
        self._gathered: list[bytes] | None = None  # None outside of a transaction
        self._broken = ""
        self._process = os.getpid()
        self._ids: dict[bytes, int] = {}
        self._sqlite = _load_sqlite(self.path)
        self._database: sqlite3.Connection | None = None
        self._lock: sqlite3.Connection | None = None
        try:
            self._open()
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
        return len(self._ids)

    def get(self, key: bytes) -> str | None:
        """Return the answer to a key, None if there is none.

        Args:
            key: 16 bytes.

        Raises:
            JournalError: If it cannot be read, or the store is closed or forked.
        """
        database = self._usable()
        row_id = self._ids.get(key)
        if row_id is None:
            return None
        query = "SELECT response, crc FROM answers WHERE id = ?"
        with self._explained("cannot be read"):
            found = database.execute(query, (row_id,)).fetchone()
        if found is None or not isinstance(found[0], str):
            raise self._error(f"has lost row {row_id}", _FIXES["damaged"])
        if found[1] != checksum(key, found[0]):
            problem = f"is damaged: row {row_id} is not as it was written"
            raise self._error(problem, _FIXES["damaged"])
        return found[0]

    def append(self, row: Row) -> bool:
        """Keep an answer, and say whether it is new; the first one of a key stays.

        When it returns, the row is committed; with ``durability="power"`` not before
        `commit`.

        Args:
            row: The answer; its `id` is ignored.

        Raises:
            JournalError: If it could not be kept. Unless the row itself is wrong, the
                store then refuses all further ones.
        """
        database = self._writable()
        if row.key in self._ids:
            return False
        values = values_of(row, self.path)
        try:
            if self._gathers and self._gathered is None:
                database.execute("BEGIN IMMEDIATE")
                self._gathered = []
            number = database.execute(INSERT, values).lastrowid
        except self._sqlite.Error as error:
            raise self._lost(error) from error
        self._ids[row.key] = number or 0
        if self._gathered is not None:
            self._gathered.append(row.key)
        return True

    def commit(self) -> None:
        """Make all appended rows survive a loss of power, with one fsync.

        Nothing is left to do with ``durability="process"``.

        Raises:
            JournalError: If it failed: the rows since the last commit are not kept,
                and the store refuses further ones.
        """
        database = self._writable()
        if self._gathered is None:
            return
        try:
            database.execute("COMMIT")
        except self._sqlite.Error as error:
            raise self._lost(error) from error
        self._gathered = None

    def rows(self, after: int = 0) -> Iterator[Row]:
        """Yield the rows in the order they came; reading holds up no writer.

        Args:
            after: The id of a row; only later ones are read.

        Raises:
            JournalError: If they cannot be read, or the store is closed or forked.
        """
        query = f"SELECT {COLUMNS}, id FROM answers WHERE id > ? ORDER BY id LIMIT ?"
        while True:
            database = self._usable()
            with self._explained("cannot be read"):
                page = database.execute(query, (after, _PAGE)).fetchall()
            yield from (Row(*values) for values in page)
            if len(page) < _PAGE:
                return
            after = page[-1][-1]

    def close(self) -> None:
        """Commit what is appended, and let go of the file; twice is once.

        In a forked child nothing happens: the file is the parent's.

        Raises:
            JournalError: If the last commit failed.
        """
        if os.getpid() != self._process:
            return
        try:
            if self._gathered is not None and not self._broken:
                self.commit()
        finally:
            for connection in (self._database, self._lock):
                if connection is not None:
                    connection.close()
            self._database = self._lock = None

    def _open(self) -> None:
        """Find the file, lock it, make it if it is new, and read its keys."""
        look(self.path, must_exist=self.read_only)
        if not self.read_only:
            self._take_lock()
            if not look(self.path, must_exist=False):
                self._create()
        with self._explained("cannot be opened"):
            self._database = self._connect(self.path, "ro" if self.read_only else "rw")
            self._check()
            self._load(self._database)
            if not self.read_only:
                self._claim(self._database)

    def _take_lock(self) -> None:
        """Hold the lock for the life of the store, or say who has it."""
        name = f"{self.path}-lock"
        make_private(name, self.path)
        try:
            self._lock = self._connect(name, "rw", wait=0)
            self._lock.execute("PRAGMA journal_mode = OFF")  # it is never written
            self._lock.execute("BEGIN EXCLUSIVE")
        except self._sqlite.Error as error:
            if _remedy(error) != "busy":
                raise self._error(
                    f"cannot be locked: {error} ('{name}')", PERMISSIONS
                ) from error
            raise self._error(
                f"is in use by {self._user()}",
                "Wait until it has ended, or give each process a journal of its own; "
                "read_only=True looks at it meanwhile.",
            ) from error

    def _user(self) -> str:
        """Return who writes into the journal, as far as it says."""
        query = "SELECT value FROM meta WHERE name = 'user'"
        with suppress(self._sqlite.Error):
            with closing(self._connect(self.path, "ro")) as database:
                found = database.execute(query).fetchone()
            if found and found[0]:
                return str(found[0])
        return "another process"

    def _create(self) -> None:
        """Make an empty journal under another name, then give it its own."""
        fresh = f"{self.path}-new"
        with self._explained("cannot be made"):
            for leftover in (fresh, f"{fresh}-journal"):
                remove(leftover)
            make_private(fresh, self.path)
            with closing(self._connect(fresh, "rw")) as database:
                database.execute("BEGIN")
                for statement in TABLES:
                    database.execute(statement)
                database.execute("COMMIT")
            os.rename(fresh, self.path)
        sync_folder(os.path.dirname(self.path))

    def _connect(
        self, name: str, mode: str, wait: float = _WAIT
    ) -> "sqlite3.Connection":
        """Open a file that exists; waiting for others is in seconds."""
        address = f"{Path(name).as_uri()}?mode={mode}"
        if mode == "ro" and not os.access(os.path.dirname(name), os.W_OK):
            if not os.path.exists(f"{name}-wal"):  # else SQLite must write beside it
                address += "&immutable=1"
        return self._sqlite.connect(
            address,
            uri=True,
            timeout=wait,
            isolation_level=None,
            check_same_thread=False,
        )

    def _check(self) -> None:
        """Refuse a file that this version did not write."""
        if self._pragma("application_id") != APPLICATION:
            raise self._error(
                "is an SQLite file of another program", "Name another file."
            )
        version = self._pragma("user_version")
        if version != VERSION:
            raise self._error(
                f"has format {version}, and this version of the library knows format "
                f"{VERSION} only",
                "Read it with the version that wrote it (the table 'meta' names it), "
                "or begin a new journal.",
            )

    def _claim(self, database: "sqlite3.Connection") -> None:
        """Set the modes, and write down who uses it."""
        if self._pragma("journal_mode = WAL") != "wal":
            raise self._error(
                "lies where SQLite cannot keep a write-ahead log (a network folder?)",
                "Put it on a local disk.",
            )
        self._pragma(f"synchronous = {'FULL' if self._gathers else 'NORMAL'}")
        user = f"process {os.getpid()} on {socket.gethostname()}"
        query = "INSERT OR REPLACE INTO meta VALUES ('user', ?)"
        database.execute(query, (user,))

    def _load(self, database: "sqlite3.Connection") -> None:
        """Read the keys; of equal ones the first counts."""
        found = self._pragma("quick_check(1)")
        if found != "ok":
            raise self._error("is damaged", _FIXES["damaged"])
        ids = self._ids
        for row_id, key in database.execute("SELECT id, key FROM answers ORDER BY id"):
            if not isinstance(key, bytes) or len(key) != KEY_BYTES:
                raise self._error(f"has no key in row {row_id}", _FIXES["damaged"])
            ids.setdefault(key, row_id)

    def _pragma(self, text: str) -> Any:
        database = self._usable()
        found = database.execute(f"PRAGMA {text}").fetchone()
        return found[0] if found else None

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
        if self._broken:
            raise self._error(
                f"takes no more answers, an earlier one was lost: {self._broken}",
                _FIXES["disk"],
            )
        return database

    def _lost(self, error: "sqlite3.Error") -> JournalError:
        """Note that an answer was not kept; return the error that says so."""
        self._broken = str(error)
        for key in self._gathered or ():
            self._ids.pop(key, None)
        if self._gathered is not None and self._database is not None:
            self._gathered = None
            with suppress(self._sqlite.Error):
                self._database.execute("ROLLBACK")
        fix = _FIXES[_remedy(error)]
        return self._error(f"could not keep an answer: {error}", fix)

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
            fix = _FIXES[_remedy(error)]
            raise self._error(f"{what}: {reason}", fix) from (error if told else None)

    def _error(self, problem: str, fix: str) -> JournalError:
        return journal_error(self.path, problem, fix)


def _load_sqlite(path: str) -> "ModuleType":
    """Return the module sqlite3, which some builds of Python lack."""
    try:
        import sqlite3  # noqa: PLC0415
    except ImportError as error:
        raise JournalError(
            f"the journal '{path}' cannot be opened: this Python was built without "
            "sqlite3. Use another build, or run without a journal."
        ) from error
    return sqlite3


def _remedy(error: BaseException) -> str:
    """Return what is to be done about an error of SQLite."""
    code = getattr(error, "sqlite_errorcode", 1) & 0xFF
    return next((name for name, codes in _CODES.items() if code in codes), "disk")
