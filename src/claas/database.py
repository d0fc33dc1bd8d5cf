"""`Database`: the one SQLite file with receipts, feedback and jobs.

It is private (mode 0600), in WAL mode, so that the worker's process may read it while
this one writes, and each change is on the disk before it is answered
(``synchronous=FULL``). The version of the schema is in ``user_version``.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Generator
from pathlib import Path

from claas.errors import StorageError

SCHEMA = 3
"""The version of the schema."""

_PATIENCE = 10.0  # seconds for another process to end its change
_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE receipts (
    id TEXT PRIMARY KEY, user TEXT NOT NULL, lora TEXT NOT NULL,
    created REAL NOT NULL, body TEXT NOT NULL, bytes INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX receipts_by_user ON receipts (user, created, bytes);
CREATE TABLE feedback (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, user TEXT NOT NULL,
    lora TEXT NOT NULL, receipt TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX feedback_by_lora ON feedback (lora, number);
CREATE INDEX feedback_by_receipt ON feedback (receipt);
CREATE TABLE marks (
    number INTEGER PRIMARY KEY, feedback INTEGER NOT NULL REFERENCES feedback,
    state TEXT NOT NULL, version INTEGER, why TEXT NOT NULL, created REAL NOT NULL
);
CREATE INDEX marks_by_feedback ON marks (feedback, number);
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, user TEXT NOT NULL,
    lora TEXT NOT NULL, state TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX jobs_by_lora ON jobs (lora, number);
PRAGMA user_version = 2;
COMMIT;
"""
_SIZES = """
BEGIN IMMEDIATE;
ALTER TABLE receipts ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE receipts SET bytes = length(body);
DROP INDEX receipts_by_user;
CREATE INDEX receipts_by_user ON receipts (user, created, bytes);
PRAGMA user_version = 2;
COMMIT;
"""
_RATINGS = """
BEGIN IMMEDIATE;
CREATE TABLE ratings (
    number INTEGER PRIMARY KEY, receipt TEXT NOT NULL UNIQUE, lora TEXT NOT NULL,
    version INTEGER NOT NULL, rating REAL NOT NULL, created REAL NOT NULL
);
CREATE INDEX ratings_by_version ON ratings (lora, version, number, rating);
PRAGMA user_version = 3;
COMMIT;
"""
_FROM = {0: _TABLES, 1: _SIZES, 2: _RATINGS}  # what makes the next one of a schema


class Database:
    """An open file of SQLite; threads take turns.

    Args:
        path: The file; it is made where it is missing.

    Raises:
        StorageError: If it cannot be opened, is damaged, or is of a newer claas.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._converted():
            _make_private(path)
            self._inner = sqlite3.connect(
                path, _PATIENCE, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._inner.close()
                raise

    @contextlib.contextmanager
    def change(self) -> Generator[sqlite3.Connection, None, None]:
        """Make a change that is made whole or not at all.

        Raises:
            StorageError: If it cannot be made.
        """
        with self._lock, self._converted():
            self._inner.execute("BEGIN IMMEDIATE")
            try:
                yield self._inner
                self._inner.execute("COMMIT")
            except BaseException:
                if self._inner.in_transaction:
                    self._inner.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def read(self) -> Generator[sqlite3.Connection, None, None]:
        """Read.

        Raises:
            StorageError: If it cannot be read.
        """
        with self._lock, self._converted():
            yield self._inner

    def settle(self) -> None:
        """Leave nothing behind of what was deleted: not in the log of changes either.

        What was deleted or replaced in the file itself is overwritten at once.

        Raises:
            StorageError: If somebody reads an older state for too long.
        """
        with self._lock, self._converted():
            asked = "PRAGMA wal_checkpoint(TRUNCATE)"
            if self._inner.execute(asked).fetchone()[0]:
                raise StorageError(
                    f"{self.path} is in use, so what was deleted is still in its log: "
                    "try again."
                )

    def close(self) -> None:
        """Close it."""
        with self._lock:
            self._inner.close()

    def _prepare(self) -> None:
        """Set the connection up, and make the tables where they are missing."""
        do = self._inner.execute
        do("PRAGMA journal_mode = WAL")
        do("PRAGMA synchronous = FULL")
        do("PRAGMA foreign_keys = ON")
        do("PRAGMA secure_delete = ON")
        while (found := self._schema()) in _FROM:
            self._create(found)
        if found != SCHEMA:
            raise StorageError(
                f"{self.path} is of another claas (schema {found}, this one reads "
                f"{SCHEMA}): run that one, or name another database."
            )

    def _schema(self) -> int:
        """Return the version of the schema that the file has."""
        return int(self._inner.execute("PRAGMA user_version").fetchone()[0])

    def _create(self, found: int) -> None:
        """Make the next schema, unless another process does so at the same time."""
        try:
            self._inner.executescript(_FROM[found])
        except sqlite3.OperationalError:
            if self._inner.in_transaction:
                self._inner.execute("ROLLBACK")
            if self._schema() == found:
                raise

    @contextlib.contextmanager
    def _converted(self) -> Generator[None, None, None]:
        """Turn SQLite's errors into claas's."""
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise StorageError(
                f"{self.path} cannot be used: {exc}. Look whether the disk is full, "
                "the file is whole, and yours to write."
            ) from exc


def _make_private(path: Path) -> None:
    """Make an empty file of mode 0600, whatever the umask, if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.fchmod(handle, 0o600)
        os.close(handle)
