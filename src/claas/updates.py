"""Updates: how far each one is, in SQLite; so that no step is lost when a worker dies.

    queued ▶ teaching ▶ training ▶ candidate ▶ gated ▶ promoted ▶ serving ▶ done
      │          └▶ unteachable ▶ done           └▶ rejected ▶ done
      └▶ done, if nothing waits       any before serving ▶ failed ▶ done

A state names the step that comes next, or that was begun: to resume is to do the step
of the state again, and each can be done twice (see `claas.worker`). A rollback, or a
promotion by hand, is an update that begins at ``promoted``. Which state may follow
which is the table `NEXT`; every move is one transaction, on the disk before it counts.
"""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from claas.errors import ConflictError, NotFoundError, StorageError
from claas.types import Verdict

State = Literal[
    "queued",
    "teaching",
    "training",
    "candidate",
    "gated",
    "promoted",
    "serving",
    "rejected",
    "unteachable",
    "failed",
    "done",
]
"""How far an update is."""

NEXT: Mapping[State, tuple[State, ...]] = {
    "queued": ("teaching", "failed", "done"),
    "teaching": ("training", "unteachable", "failed"),
    "training": ("candidate", "unteachable", "failed"),
    "candidate": ("gated", "failed"),
    "gated": ("promoted", "rejected", "failed"),
    "promoted": ("serving", "failed"),
    "serving": ("done",),
    "rejected": ("done",),
    "unteachable": ("done",),
    "failed": ("done",),
    "done": (),
}
"""The states that may follow a state."""

ATTEMPTS, HALVED = 3, 2
"""How often the worker may die in a step before its update fails, or is halved."""

_PATIENCE_S = 10.0
_TABLES = """
CREATE TABLE IF NOT EXISTS updates (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, lora TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS updates_by_lora ON updates (lora, number);
CREATE TABLE IF NOT EXISTS retired (
    name TEXT PRIMARY KEY, lora TEXT NOT NULL, due REAL NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Update:
    """An update, as far as it is.

    Args:
        id: Its id.
        lora: The adapter, ``user/model``.
        state: How far it is.
        kind: ``update``, or ``switch`` for a rollback or a promotion by hand.
        outcome: What was decided: ``promoted``, ``rejected``, ``unteachable``,
            ``failed``, or ``empty`` where no feedback waited; before that nothing.
        parent: The number of the version that was live at its beginning.
        version: The number of the version that it made, or switched to.
        lessons: The ids of the feedback that it trains on.
        untaught: Why each feedback that it left out cannot be taught, by id.
        figures: What the training measured.
        verdict: What the gate said.
        error: What went wrong, the last time.
        is_fatal: Whether the worker died of it, again and again.
        why: Why a switch was made, if nobody asked for it by hand.
        waits: Whether the feedback that a switch drops waits for a later update.
        attempts: How often the step of its state was begun and not ended.
        created: Seconds since 1970.
        changed: When it came to its state, seconds since 1970.
    """

    id: str
    lora: str
    state: State = "queued"
    kind: Literal["update", "switch"] = "update"
    outcome: str = ""
    parent: int | None = None
    version: int | None = None
    lessons: tuple[str, ...] = ()
    untaught: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None
    error: str = ""
    is_fatal: bool = False
    why: str = ""
    waits: bool = False
    attempts: int = 0
    created: float = 0.0
    changed: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.state == "done"


class Updates:
    """The table of updates.

    Args:
        path: The file; it may be one that other tables are in. Made if missing,
            readable by its owner only.

    Raises:
        StorageError: If it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._converted():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(
                path, _PATIENCE_S, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(self, update: Update) -> Update:
        """Write a new update down, once.

        Args:
            update: The update; its times are set here.

        Returns:
            It, or what it has come to if its id is known.

        Raises:
            ConflictError: If the id was used for another adapter.
            StorageError: If it cannot be written.
        """
        now = time.time()
        update = replace(update, created=now, changed=now)
        with self._changing() as db:
            db.execute(
                "INSERT INTO updates (id, lora, state, attempts, body) "
                "VALUES (?, ?, ?, 0, ?) ON CONFLICT (id) DO NOTHING",
                (update.id, update.lora, update.state, _written(update)),
            )
        found = self.get(update.id)
        if (found.lora, found.kind) != (update.lora, update.kind):
            raise ConflictError(
                f"the update {update.id[:80]!r} is one of another adapter: give each "
                "update an id of its own, or none."
            )
        return found

    def get(self, update_id: str) -> Update:
        """Return an update.

        Args:
            update_id: Its id.

        Raises:
            NotFoundError: If there is none.
        """
        found = self._found("WHERE id = ?", update_id)
        if not found:
            raise NotFoundError(f"there is no update {update_id[:80]!r}.")
        return found[0]

    def unfinished(self, lora: str | None = None) -> list[Update]:
        """Return the updates with something left to do, the oldest first.

        Args:
            lora: Only those of an adapter.
        """
        if lora is None:
            return self._found("WHERE state != 'done'")
        return self._found("WHERE state != 'done' AND lora = ?", lora)

    def history(self, lora: str) -> list[Update]:
        """Return all updates of an adapter, the oldest first.

        Args:
            lora: The adapter.
        """
        return self._found("WHERE lora = ?", lora)

    def left(self, lora: str) -> set[int]:
        """Return the versions that a switch left for a reason, see `Update.why`.

        Args:
            lora: The adapter.
        """
        past = [p for p in self.history(lora) if p.why and p.outcome == "promoted"]
        done = [p for p in past if p.state in ("serving", "done")]
        return {p.parent for p in done if p.parent not in (None, p.version)}

    def begin(self, update: Update) -> Update:
        """Count that the step of an update's state is begun.

        Args:
            update: The update.

        Raises:
            ConflictError: If it has moved meanwhile.
            StorageError: If it cannot be written.
        """
        return self._put(update, replace(update, attempts=update.attempts + 1))

    def keep(self, update: Update, error: str) -> Update:
        """Write down what went wrong; the update stays where it is, as if not begun.

        Args:
            update: The update.
            error: A sentence.

        Raises:
            ConflictError: If it has moved meanwhile.
            StorageError: If it cannot be written.
        """
        return self._put(update, replace(update, error=error, attempts=0))

    def survived(self, update: Update) -> Update:
        """Let an update of which the worker dies again and again try less, or end.

        A single lesson of which it dies is not tried again: all later updates would
        have it, too.

        Args:
            update: The update.

        Raises:
            ConflictError: If it has moved meanwhile.
            StorageError: If it cannot be written.
        """
        ids, is_taught = update.lessons, update.state in ("teaching", "training")
        if is_taught and update.attempts >= HALVED and len(ids) > 1:
            return self.halve(update)
        if update.attempts < ATTEMPTS or "failed" not in NEXT[update.state]:
            return update
        why = f"the worker died {ATTEMPTS} times while {update.state}"
        alone = dict.fromkeys(ids, why) if len(ids) == 1 else {}
        return self.move(
            *(update, "failed"),
            outcome="failed",
            error=why,
            is_fatal=True,
            untaught={**update.untaught, **alone},
        )

    def most(self, lora: str, most: int) -> int:
        """Return how many lessons an update may have: half of what was fatal before.

        Args:
            lora: The adapter.
            most: How many it may have at all.
        """
        made = [u for u in self.history(lora) if u.kind == "update" and u.lessons]
        if not (made and made[-1].is_fatal):
            return most
        return max(1, min(most, len(made[-1].lessons) // 2))

    def halve(self, update: Update) -> Update:
        """Leave the second half of an update's lessons to the next one.

        Its step has been begun once, as it were: another death halves them again.

        Args:
            update: The update.

        Raises:
            ConflictError: If it has moved meanwhile.
            StorageError: If it cannot be written.
        """
        half = update.lessons[: len(update.lessons) // 2]
        return self._put(update, replace(update, lessons=half, attempts=1))

    def move(
        self,
        update: Update,
        state: State,
        retired: Mapping[str, float] | None = None,
        **changes: Any,
    ) -> Update:
        """Let an update go on to its next state, in one step.

        Args:
            update: The update.
            state: The next state.
            retired: What to unload, and when (seconds since 1970); by serving name.
            changes: What else is known now; fields of `Update`.

        Raises:
            ConflictError: If that state does not follow, or it has moved meanwhile.
            StorageError: If it cannot be written.
        """
        if state not in NEXT[update.state]:
            raise ConflictError(
                f"the update {update.id} is {update.state!r}: {state!r} does not "
                f"follow, only {', '.join(NEXT[update.state]) or 'nothing'} does."
            )
        changes |= {"state": state, "attempts": 0, "changed": time.time()}
        return self._put(update, replace(update, **changes), retired or {})

    def due(self, now: float) -> list[tuple[str, str]]:
        """Return what is to be unloaded: its adapter and its serving name.

        Args:
            now: Seconds since 1970.
        """
        asked = "SELECT lora, name FROM retired WHERE due <= ? ORDER BY due, name"
        with self._lock, self._converted():
            return self._db.execute(asked, (now,)).fetchall()

    def retire(self, lora: str, names: Iterable[str], due: float) -> None:
        """Write down what is to be unloaded.

        Args:
            lora: The adapter.
            names: The serving names.
            due: When, seconds since 1970.

        Raises:
            StorageError: If it cannot be written.
        """
        with self._changing() as db:
            rows = [(name, lora, due) for name in names]
            db.executemany("INSERT OR REPLACE INTO retired VALUES (?, ?, ?)", rows)

    def unretire(self, name: str) -> None:
        """Forget that something is to be unloaded.

        Args:
            name: Its serving name.

        Raises:
            StorageError: If it cannot be written.
        """
        with self._changing() as db:
            db.execute("DELETE FROM retired WHERE name = ?", (name,))

    def _put(
        self, old: Update, new: Update, retired: Mapping[str, float] | None = None
    ) -> Update:
        """Replace an update that is as we know it."""
        with self._changing() as db:
            done = db.execute(
                "UPDATE updates SET state = ?, attempts = ?, body = ? "
                "WHERE id = ? AND state = ? AND attempts = ?",
                (new.state, new.attempts, _written(new), old.id)
                + (old.state, old.attempts),
            )
            for name, due in (retired or {}).items():
                row = (name, new.lora, due)
                db.execute("INSERT OR REPLACE INTO retired VALUES (?, ?, ?)", row)
            if done.rowcount != 1:
                raise ConflictError(
                    f"the update {old.id} is no longer {old.state!r}: another worker "
                    "has it. Leave it to that one."
                )
        return new

    def _found(self, where: str, *values: object) -> list[Update]:
        """Return some updates, the oldest first."""
        asked = f"SELECT state, attempts, body FROM updates {where} ORDER BY number"
        with self._lock, self._converted():
            rows = self._db.execute(asked, values).fetchall()
            return [_read(*row) for row in rows]

    @contextlib.contextmanager
    def _changing(self) -> Generator[sqlite3.Connection, None, None]:
        """Make a change that is whole or not made."""
        with self._lock, self._converted():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _converted(self) -> Generator[None, None, None]:
        """Turn what SQLite says, and a damaged row, into a `StorageError`."""
        try:
            yield
        except (sqlite3.Error, OSError, KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"the updates in {self.path} cannot be read or written: {error}. See "
                "to the disk (space, rights), or restore the file."
            ) from error


def _written(update: Update) -> str:
    """Return what the columns do not hold, as JSON."""
    body = asdict(update)
    del body["state"], body["attempts"]
    return json.dumps(body, default=str)


def _read(state: State, attempts: int, body: str) -> Update:
    """Return an update from its row."""
    told: dict[str, Any] = json.loads(body)
    verdict = told.pop("verdict")
    if verdict is not None:
        reasons = tuple(verdict["reasons"])
        told["verdict"] = Verdict(verdict["is_promoted"], reasons, verdict["figures"])
    told["lessons"] = tuple(told["lessons"])
    return Update(**told, state=state, attempts=attempts)
