"""`Ratings`: how good users found the answers of each version, from 0 to 1."""

import time
from dataclasses import dataclass

from claas.database import Database
from claas.errors import ConflictError
from claas.types import Receipt


@dataclass(frozen=True, slots=True)
class Ratings:
    """The ratings in a database; an answer has one.

    Args:
        database: The database.
    """

    database: Database

    def add(self, receipt: Receipt, rating: float, *, is_first: bool = False) -> bool:
        """Keep a rating of an answer, once; say whether it is new.

        Args:
            receipt: The answer, given by a version of an adapter.
            rating: From 0 to 1.
            is_first: Whether another one that was there before stands.

        Raises:
            ConflictError: If the answer was rated otherwise.
            StorageError: If it cannot be written.
        """
        with self.database.change() as db:
            asked = "SELECT rating FROM ratings WHERE receipt = ?"
            row = db.execute(asked, (receipt.id,)).fetchone()
            if row is None:
                told = (receipt.id, receipt.lora, receipt.version, rating, time.time())
                db.execute("INSERT INTO ratings VALUES (NULL, ?, ?, ?, ?, ?)", told)
                return True
        if row[0] != rating and not is_first:
            raise ConflictError(
                f"the answer {receipt.id[:80]!r} was rated {row[0]:g} before: rate "
                "each answer once."
            )
        return False

    def of(self, lora: str, version: int) -> list[float]:
        """Return the ratings of a version, the oldest first.

        Args:
            lora: The adapter, ``user/model``.
            version: The number of the version.
        """
        asked = "SELECT rating FROM ratings WHERE lora = ? AND version = ? ORDER BY "
        with self.database.read() as db:
            rows = db.execute(asked + "number", (lora, version)).fetchall()
        return [rating for (rating,) in rows]

    def means(self, lora: str) -> dict[int, tuple[int, float]]:
        """Return how many ratings each version has, and their mean, by its number.

        Args:
            lora: The adapter.
        """
        asked = "SELECT version, count(*), avg(rating) FROM ratings WHERE lora = ? "
        with self.database.read() as db:
            rows = db.execute(asked + "GROUP BY version", (lora,)).fetchall()
        return {version: (count, mean) for version, count, mean in rows}

    def forget(self, lora: str) -> None:
        """Delete the ratings of an adapter.

        Args:
            lora: The adapter.

        Raises:
            StorageError: If it cannot be written.
        """
        with self.database.change() as db:
            db.execute("DELETE FROM ratings WHERE lora = ?", (lora,))
