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
        return [rating for _, rating in self._rows(lora, version)]

    def pair(
        self, lora: str, before: int, after: int
    ) -> tuple[list[float], list[float]]:
        """Return the ratings of two versions in the order to compare them in.

        Opinions change with time, so those of the version before begin with the last
        one that was given when the other was not rated yet, and go back from there;
        then come those that were given later. A rating never changes its place.

        Args:
            lora: The adapter, ``user/model``.
            before: The number of the version before.
            after: The number of the version after.
        """
        old, new = (self._rows(lora, version) for version in (before, after))
        known = sum(number < new[0][0] for number, _ in old) if new else len(old)
        old = [*old[:known][::-1], *old[known:]]
        return [rating for _, rating in old], [rating for _, rating in new]

    def _rows(self, lora: str, version: int) -> list[tuple[int, float]]:
        """Return when, in order, a version was rated, and how."""
        asked = "SELECT number, rating FROM ratings WHERE lora = ? AND version = ? "
        with self.database.read() as db:
            return db.execute(asked + "ORDER BY number", (lora, version)).fetchall()

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
