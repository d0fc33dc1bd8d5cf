"""`Receipts`: what was asked and sampled, by id.

A receipt that feedback names stays as long as the feedback: without it no adapter could
be made again. The others go when they are too old, or when those of one user are too
many or too large in all, the oldest first.
"""

import json
import sqlite3
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from claas.database import Database
from claas.errors import ConflictError, NotFoundError
from claas.types import Receipt

_DAY = 86_400.0  # seconds
_TUPLES = ("messages", "tools", "prompt_ids", "token_ids", "logprobs")
_FREE = "id NOT IN (SELECT receipt FROM feedback)"


class Receipts:
    """The receipts in a database.

    Args:
        path: The database, or its file.
        most: How many of a user are kept that no feedback names.
        days: How long one is kept that no feedback names, days.
        size: How many bytes of a user are kept that no feedback names.

    Raises:
        StorageError: If the file cannot be used.
    """

    def __init__(
        self,
        path: Path | Database,
        *,
        most: int = 100_000,
        days: float = 30.0,
        size: int = 1 << 30,
    ) -> None:
        self._database = path if isinstance(path, Database) else Database(path)
        self._most, self._days, self._size = most, days, size

    def add(self, *receipts: Receipt) -> None:
        """Keep receipts, all of them or none.

        Args:
            receipts: The receipts.

        Raises:
            ConflictError: If one has the id of another one.
            StorageError: If they cannot be written.
        """
        rows = [
            (r.id, r.user, r.lora, r.created, body, len(body))
            for r, body in ((r, _written(r)) for r in receipts)
        ]
        with self._database.change() as db:
            try:
                db.executemany("INSERT INTO receipts VALUES (?, ?, ?, ?, ?, ?)", rows)
            except sqlite3.IntegrityError as exc:
                ids = ", ".join([receipt.id for receipt in receipts])
                raise ConflictError(f"there is a receipt already: {ids}.") from exc

    def get(self, receipt_id: str) -> Receipt:
        """Return a receipt.

        Args:
            receipt_id: Its id.

        Raises:
            NotFoundError: If there is none.
        """
        with self._database.read() as db:
            asked = "SELECT body FROM receipts WHERE id = ?"
            row = db.execute(asked, (receipt_id,)).fetchone()
        if row is None:
            raise NotFoundError(
                f"there is no receipt {receipt_id[:80]!r}: it is the id of an answer "
                f"that was given here in the last {self._days:g} days."
            )
        return _read(row[0])

    def count(self, user: str) -> int:
        """Return how many receipts of a user there are.

        Args:
            user: The user.
        """
        with self._database.read() as db:
            asked = "SELECT count(*) FROM receipts WHERE user = ?"
            return int(db.execute(asked, (user,)).fetchone()[0])

    def prune(self, now: float | None = None) -> int:
        """Delete what is too old or too much; return how many went.

        Args:
            now: Seconds since 1970; None for the clock's.
        """
        limit = (time.time() if now is None else now) - self._days * _DAY
        with self._database.change() as db:
            asked = f"DELETE FROM receipts WHERE created < ? AND {_FREE}"
            gone = db.execute(asked, (limit,)).rowcount
            for (user,) in db.execute("SELECT DISTINCT user FROM receipts").fetchall():
                gone += self._drop_surplus(db, user)
        return gone

    def forget(self, lora: str) -> None:
        """Delete the receipts of an adapter that no feedback names.

        Args:
            lora: The adapter.
        """
        with self._database.change() as db:
            db.execute(f"DELETE FROM receipts WHERE lora = ? AND {_FREE}", (lora,))

    def _drop_surplus(self, db: sqlite3.Connection, user: str) -> int:
        """Delete a user's oldest receipts beyond what he may have without feedback.

        What is counted stands in an index: no receipt is read for it.
        """
        asked = (
            "DELETE FROM receipts WHERE id IN (SELECT id FROM (SELECT id, "
            "count(*) OVER newest AS many, sum(bytes) OVER newest AS size "
            f"FROM receipts WHERE user = ? AND {_FREE} WINDOW newest AS "
            "(ORDER BY created DESC, id DESC ROWS UNBOUNDED PRECEDING)) "
            "WHERE many > ? OR size > ?)"
        )
        return db.execute(asked, (user, self._most, self._size)).rowcount


def _written(receipt: Receipt) -> str:
    return json.dumps(asdict(receipt), separators=(",", ":"))


def _read(text: str) -> Receipt:
    body: dict[str, Any] = json.loads(text)
    for name in _TUPLES:
        body[name] = tuple(body[name])
    return Receipt(**body)
