"""`Ledger`: all feedback, and what became of it.

Nothing in it is changed, and nothing deleted but with its adapter, or because somebody
takes back what he wrote: then an empty row says that there was something.

What became of a feedback is a row, too: its state is that of its newest row, and `open`
where it has none. The rows say which feedback went into which version, so any adapter
can be made again:

    open ──▶ trained (a candidate has it) ──▶ promoted (it serves)
      ▲                                   ├─▶ rejected (waits for a later batch)
      └───────────── counts as open ──────┘
      ├──▶ unteachable (the model cannot follow it in context)
      ├──▶ dropped (a version serves that does not know it)
      └──▶ forgotten (its words are gone, for good)
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from claas.database import Database
from claas.errors import ConflictError, NotFoundError
from claas.types import Check, Feedback

State = Literal[
    "open",
    "trained",
    "promoted",
    "rejected",
    "unteachable",
    "dropped",
    "forgotten",
]

OPEN: tuple[State, ...] = ("open", "rejected")
"""The states in which a feedback waits for an update."""


_WAITING = (
    "FROM feedback f WHERE f.lora = ? AND coalesce((SELECT m.state FROM marks m "
    "WHERE m.feedback = f.number ORDER BY m.number DESC LIMIT 1), 'open') "
    f"IN ({', '.join('?' * len(OPEN))})"
)
_MARK = (
    "INSERT INTO marks (feedback, state, version, why, created) VALUES (?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """What became of a feedback.

    Args:
        state: What it is since then.
        version: The version that it is about, if there is one.
        why: A sentence.
        created: Seconds since 1970.
    """

    state: State
    version: int | None
    why: str
    created: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A feedback with all that became of it.

    Args:
        feedback: The feedback.
        user: Whose it is.
        lora: The adapter, ``user/model``.
        marks: What became of it, the oldest first.
    """

    feedback: Feedback
    user: str
    lora: str
    marks: tuple[Mark, ...] = ()

    @property
    def state(self) -> State:
        """What it is now."""
        return self.marks[-1].state if self.marks else "open"


class Ledger:
    """The feedback in a database.

    Args:
        path: The database, or its file.

    Raises:
        StorageError: If the file cannot be used.
    """

    def __init__(self, path: Path | Database) -> None:
        self._database = path if isinstance(path, Database) else Database(path)

    def add(self, user: str, lora: str, feedback: Feedback) -> bool:
        """Keep a feedback, once; say whether it is new.

        Args:
            user: Whose it is.
            lora: The adapter, ``user/model``.
            feedback: The feedback.

        Raises:
            ConflictError: If its id was used for another one.
            StorageError: If it cannot be written.
        """
        return self.add_all(user, [(lora, feedback)])[0]

    def add_all(self, user: str, given: Sequence[tuple[str, Feedback]]) -> list[bool]:
        """Keep feedback, all of it or none; say which is new.

        Args:
            user: Whose it is.
            given: Each with its adapter.

        Raises:
            ConflictError: If an id was used for another one.
            StorageError: If it cannot be written.
        """
        with self._database.change() as db:
            return [_added(db, user, lora, feedback) for lora, feedback in given]

    def open(self, lora: str) -> list[Feedback]:
        """Return the feedback that waits for an update, the oldest first.

        Args:
            lora: The adapter.
        """
        asked = f"SELECT f.body {_WAITING} ORDER BY f.number"
        with self._database.read() as db:
            rows = db.execute(asked, (lora, *OPEN)).fetchall()
        return [_read(body) for (body,) in rows]

    def waiting(self, lora: str) -> int:
        """Return how much feedback waits for an update, however much there is in all.

        Args:
            lora: The adapter.
        """
        with self._database.read() as db:
            asked = f"SELECT count(*) {_WAITING}"
            return int(db.execute(asked, (lora, *OPEN)).fetchone()[0])

    def mark(
        self, ids: Iterable[str], state: State, version: int | None, why: str
    ) -> None:
        """Write down what became of feedback.

        Args:
            ids: The ids of the feedback.
            state: What it is now.
            version: The version that it is about, if there is one.
            why: A sentence.

        Raises:
            NotFoundError: If there is no such feedback; then nothing is written.
        """
        now = time.time()
        with self._database.change() as db:
            for name in ids:
                asked = "SELECT number FROM feedback WHERE id = ?"
                row = db.execute(asked, (name,)).fetchone()
                if row is None:
                    raise NotFoundError(f"there is no feedback {name[:80]!r}.")
                db.execute(_MARK, (row[0], state, version, why, now))

    def history(self, lora: str) -> list[Entry]:
        """Return all feedback of an adapter with its marks, the oldest first.

        Args:
            lora: The adapter.
        """
        asked = (
            "SELECT f.number, f.user, f.body, m.state, m.version, m.why, m.created "
            "FROM feedback f LEFT JOIN marks m ON m.feedback = f.number "
            "WHERE f.lora = ? ORDER BY f.number, m.number"
        )
        with self._database.read() as db:
            rows = db.execute(asked, (lora,)).fetchall()
        found: dict[int, tuple[str, str, list[Mark]]] = {}
        for number, user, body, *mark in rows:
            marks = found.setdefault(number, (user, body, []))[2]
            if mark[0] is not None:
                marks.append(Mark(*mark))
        return [
            Entry(_read(body), user, lora, tuple(marks))
            for user, body, marks in found.values()
        ]

    def forget(self, lora: str) -> None:
        """Delete the feedback of an adapter, with what became of it.

        Args:
            lora: The adapter.

        Raises:
            StorageError: If it cannot be written.
        """
        mine = "(SELECT {} FROM feedback WHERE lora = ?)"
        with self._database.change() as db:
            asked = "DELETE FROM receipts WHERE lora = '' AND id IN " + mine
            based = "AND id NOT IN (SELECT receipt FROM feedback WHERE lora != ?)"
            db.execute(asked.format("receipt") + based, (lora, lora))
            asked = "DELETE FROM marks WHERE feedback IN " + mine
            db.execute(asked.format("number"), (lora,))
            db.execute("DELETE FROM feedback WHERE lora = ?", (lora,))

    def erase(
        self, lora: str, ids: Iterable[str], receipts: Iterable[str]
    ) -> list[str]:
        """Delete what was said in feedback, and the answers that it was about.

        A row stays, with its id and what became of it: the same id is not taken again.
        An answer stays if other feedback is about it. What was explained goes, too.

        Args:
            lora: The adapter.
            ids: The ids of the feedback.
            receipts: Answers to delete, and all feedback of the adapter on them.

        Returns:
            The ids of all feedback that is forgotten, also of what was before.

        Raises:
            NotFoundError: If there is no such feedback; then nothing is deleted.
            StorageError: If it cannot be written, or stays in the database's log.
        """
        answers = [*receipts]
        with self._database.change() as db:
            names = list(dict.fromkeys([*ids, *_said_of(db, lora, answers)]))
            answers += [_emptied(db, lora, name) for name in names]
            asked = "DELETE FROM receipts WHERE id = ? AND id NOT IN "
            asked += "(SELECT receipt FROM feedback)"
            db.executemany(asked, [(name,) for name in answers])
            asked = "DELETE FROM ratings WHERE receipt = ? AND receipt NOT IN "
            asked += "(SELECT id FROM receipts)"
            db.executemany(asked, [(name,) for name in answers])
            asked = "DELETE FROM jobs WHERE lora = ? AND state IN ('done', 'failed') "
            asked += "AND json_extract(body, '$.kind') = 'explain'"
            db.execute(asked, (lora,))
        self._database.settle()
        return names

    def into(self, lora: str, version: int) -> list[Feedback]:
        """Return the feedback that a version was trained on.

        Args:
            lora: The adapter.
            version: The number of the version.
        """
        return [
            entry.feedback
            for entry in self.history(lora)
            if any(m.state == "trained" and m.version == version for m in entry.marks)
        ]


def _added(db: sqlite3.Connection, user: str, lora: str, feedback: Feedback) -> bool:
    """Write a feedback down unless it is there; say whether it is new."""
    asked = "SELECT user, lora, body FROM feedback WHERE id = ?"
    row = db.execute(asked, (feedback.id,)).fetchone()
    if row is None:
        written = _written(feedback)
        db.execute(
            "INSERT INTO feedback (id, user, lora, receipt, body) "
            "VALUES (?, ?, ?, ?, ?)",
            (feedback.id, user, lora, feedback.receipt, written),
        )
        return True
    known = replace(_read(row[2]), created=feedback.created)
    if (row[0], row[1], known) != (user, lora, feedback):
        raise ConflictError(
            f"the id {feedback.id[:80]!r} was used for another feedback: give each "
            "feedback an id of its own, or none."
        )
    return False


def _said_of(
    db: sqlite3.Connection, lora: str, receipts: Iterable[str]
) -> Iterator[str]:
    """Give the ids of an adapter's feedback on answers, also of what is forgotten."""
    asked = "SELECT id FROM feedback WHERE lora = ? AND "
    asked += "json_extract(body, '$.receipt') = ? ORDER BY number"
    for receipt in receipts:
        yield from (name for (name,) in db.execute(asked, (lora, receipt)))


def _emptied(db: sqlite3.Connection, lora: str, name: str) -> str:
    """Delete what was said in a feedback; return which answer it was about."""
    asked = "SELECT number, body FROM feedback WHERE id = ? AND lora = ?"
    row = db.execute(asked, (name, lora)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no feedback {name[:80]!r}.")
    said = replace(_read(row[1]), content="", check=None, score=None)
    asked = "UPDATE feedback SET receipt = '', body = ? WHERE number = ?"
    db.execute(asked, (_written(said), row[0]))
    if _state(db, row[0]) != "forgotten":
        why = "it was asked for"
        db.execute(_MARK, (row[0], "forgotten", None, why, time.time()))
    return said.receipt


def _state(db: sqlite3.Connection, number: int) -> str | None:
    """Return what a feedback is now."""
    asked = "SELECT state FROM marks WHERE feedback = ? ORDER BY number DESC LIMIT 1"
    row = db.execute(asked, (number,)).fetchone()
    return row and row[0]


def _written(feedback: Feedback) -> str:
    return json.dumps(asdict(feedback), separators=(",", ":"))


def _read(text: str) -> Feedback:
    """Return the feedback that a row has."""
    body = json.loads(text)
    if check := body["check"]:
        check["prompts"] = tuple(check["prompts"])
        body["check"] = Check(**check)
    return Feedback(**body)
