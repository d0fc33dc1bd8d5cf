"""SQLite under the journal: opening a file, in which mode, and what its errors mean."""

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inf_engine.errors import JournalError
from inf_engine.journal.files import (
    PERMISSIONS,
    has_no_log,
    journal_error,
    make_private,
    may_write,
    remove_database,
    sync_file,
    sync_folder,
)
from inf_engine.journal.keys import KEY_BYTES
from inf_engine.journal.rows import APPLICATION, TABLES, VERSION

if TYPE_CHECKING:
    import sqlite3
    from types import ModuleType

_WAIT = 5.0  # seconds, for a foreign program that writes into the file

_CODES = {  # SQLite's result codes, by what is to be done
    "perm": (3, 8, 14, 23),
    "busy": (5, 6),
    "disk": (10, 13),
    "damaged": (1, 11, 26),
}
FIXES = {
    "perm": PERMISSIONS,
    "busy": "Close the program that has it open.",
    "disk": "Make room on the disk, or mend it, and run again: what is in the journal "
    "is not called again.",
    "damaged": "It is damaged, or not a journal: restore it from a copy, or name "
    "another file.",
    "moved": "If it was moved, bring it and its '-wal' back and run again: what is in "
    "them is not called again.",
}
"""What to do about an error, by what `remedy` returns."""


def load_sqlite(path: str) -> "ModuleType":
    """Return the module sqlite3, which some builds of Python lack.

    Args:
        path: The journal, for the message.

    Raises:
        JournalError: If it is not there.
    """
    try:
        import sqlite3  # noqa: PLC0415
    except ImportError as error:
        raise JournalError(
            f"the journal '{path}' cannot be opened: this Python was built without "
            "sqlite3. Use another build, or run without a journal."
        ) from error
    return sqlite3


def remedy(error: BaseException) -> str:
    """Return what is to be done about an error of SQLite or of the system."""
    if isinstance(error, FileNotFoundError):
        return "moved"
    if isinstance(error, OSError):
        return "disk"
    code = getattr(error, "sqlite_errorcode", 1) & 0xFF
    return next((name for name, codes in _CODES.items() if code in codes), "disk")


def reason_of(error: Exception) -> str:
    """Return what went wrong, in the words of SQLite or of the system."""
    if isinstance(error, FileNotFoundError):
        return "it, or its '-wal', was deleted, moved or replaced while it was in use"
    return str(getattr(error, "strerror", None) or error)


def connect(
    sqlite: "ModuleType", name: str, options: str, wait: float = _WAIT
) -> "sqlite3.Connection":
    """Open a file that exists; every statement is a transaction.

    Args:
        sqlite: The module sqlite3.
        name: The file.
        options: Of SQLite's address of it, like ``mode=rw``.
        wait: How long to wait for others, in seconds.
    """
    return sqlite.connect(
        f"{Path(name).as_uri()}?{options}",
        uri=True,
        timeout=wait,
        isolation_level=None,
        check_same_thread=False,
    )


def connect_reader(
    sqlite: "ModuleType", name: str
) -> "tuple[sqlite3.Connection, bool]":
    """Open a journal to look at, so that nothing is left behind.

    Args:
        sqlite: The module sqlite3.
        name: The journal.

    Returns:
        The connection, and whether it sees no change: whether it has to be opened anew
        when the file has changed.
    """
    if may_write(name):
        database = connect(sqlite, name, "mode=rw")
        database.execute("PRAGMA query_only = 1")
        return database, False
    if has_no_log(name):
        return connect(sqlite, name, "mode=ro&immutable=1"), True
    return connect(sqlite, name, "mode=ro"), False


def pragma(database: "sqlite3.Connection", text: str) -> Any:
    """Return what a pragma of SQLite answers, None if it is silent.

    Args:
        database: The open file.
        text: The pragma.
    """
    found = database.execute(f"PRAGMA {text}").fetchone()
    return found[0] if found else None


def check(path: str, database: "sqlite3.Connection") -> None:
    """Refuse a file that this version did not write, or that is damaged.

    Args:
        path: The journal, for the message.
        database: The open file.

    Raises:
        JournalError: If it is one.
    """
    if pragma(database, "application_id") != APPLICATION:
        problem = "is an SQLite file of another program"
        raise journal_error(path, problem, "Name another file.")
    version = pragma(database, "user_version")
    if version != VERSION:
        raise journal_error(
            path,
            f"has format {version}, and this version of the library knows format "
            f"{VERSION} only",
            "Read it with the version that wrote it (the table 'meta' names it), "
            "or begin a new journal.",
        )
    if pragma(database, "quick_check(1)") != "ok":
        raise journal_error(path, "is damaged", FIXES["damaged"])
    query = "SELECT id FROM answers WHERE typeof(key) <> 'blob' OR length(key) <> ?"
    if odd := database.execute(f"{query} LIMIT 1", (KEY_BYTES,)).fetchone():
        raise journal_error(path, f"has no key in row {odd[0]}", FIXES["damaged"])


def create(sqlite: "ModuleType", path: str) -> None:
    """Make an empty journal under another name, then give it its own.

    It has all modes that are kept in the file before it has the name: the switch to
    WAL is a transaction of the old kind, after whose death only a writer can open it.
    While it has no name it need not survive anything: it is synced once, as a whole.

    Args:
        sqlite: The module sqlite3.
        path: The journal, which does not exist.
    """
    fresh = f"{path}-new"
    remove_database(fresh)
    make_private(fresh, path)
    with closing(connect(sqlite, fresh, "mode=rw")) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA journal_mode = MEMORY")
        database.execute("BEGIN")
        for statement in TABLES:
            database.execute(statement)
        database.execute("COMMIT")
        database.execute("PRAGMA journal_mode = WAL")
    sync_file(fresh, os.stat(fresh).st_ino)
    os.rename(fresh, path)
    sync_folder(os.path.dirname(path))


def lock(sqlite: "ModuleType", path: str) -> "sqlite3.Connection":
    """Take the lock of a journal; it is held until the connection is closed.

    Args:
        sqlite: The module sqlite3.
        path: The journal.

    Raises:
        JournalError: If another has it, or it cannot be made.
    """
    name = f"{path}-lock"
    make_private(name, path)
    database = None
    try:
        database = connect(sqlite, name, "mode=rw", wait=0)
        database.execute("PRAGMA journal_mode = OFF")  # it is never written
        database.execute("BEGIN EXCLUSIVE")
    except sqlite.Error as error:
        if database is not None:
            database.close()
        if remedy(error) != "busy":
            problem = f"cannot be locked: {error} ('{name}')"
            raise journal_error(path, problem, PERMISSIONS) from error
        raise journal_error(
            path,
            f"is in use by {_user(sqlite, path)}",
            "Wait until it has ended, or give each process a journal of its own; "
            "read_only=True looks at it meanwhile.",
        ) from error
    return database


def _user(sqlite: "ModuleType", path: str) -> str:
    """Return who writes into a journal, as far as it says."""
    query = "SELECT value FROM meta WHERE name = 'user'"
    with suppress(sqlite.Error):
        with closing(connect_reader(sqlite, path)[0]) as database:
            found = database.execute(query).fetchone()
        if found and found[0]:
            return str(found[0])
    return "another process"
