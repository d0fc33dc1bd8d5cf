"""`Worker`: one update, from waiting feedback to a version that serves, or not.

    queued       what waits in the ledger, and which version is live, is written down
    teaching     the feedback that the model cannot follow in context is left out
    training     the learner makes a candidate; it becomes a version
    candidate    the gate judges it
    gated        the verdict decides
    promoted     it is loaded under a name of its own, then `live` moves: never first
    serving      the ledger is told; the version before is unloaded after a grace
    rejected     the ledger is told; the feedback waits for a later batch
    unteachable  the ledger is told; the adapter is as it was
    failed       the feedback waits for a later batch

**Nothing is lost.** Each step can be done twice: a version carries the id of its update,
so it is found and not made again; loading what is loaded, moving an alias to where it
is and marking what is marked change nothing. So after a `kill -9` at any place
`resume` (or the next `update`) does the step of the state again. A step that was begun
`ATTEMPTS` times and never ended makes its update fail.

**Errors.** A `ServingError` or `StorageError` is passed on and the update waits where it
is. Another `ClaasError` ends it as ``failed``. Anything else is a defect: the update
ends as ``failed`` (only the kind of error is written down: its words may hold a
prompt), and it is raised.

**Locks.** One update of an adapter at a time (`storage.updating`), held while training.
`live` moves under a lock of its own (`storage.switching`), so a rollback never waits
for a training. An update whose parent is no longer live when it would be promoted has
been judged against the wrong one, and fails.
"""

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from claas import storage
from claas.errors import (
    ClaasError,
    ConflictError,
    NotFoundError,
    ServingError,
    StorageError,
    TeachingError,
)
from claas.names import LoraName
from claas.types import Candidate, Feedback, Lesson, Receipt, Verdict
from claas.updates import State, Update, Updates
from claas.volumes import Volume

ATTEMPTS = 3
"""How often a step is begun before its update fails."""

_WAITING: tuple[State, ...] = ("queued", "teaching", "training", "candidate", "gated")


class Learner(Protocol):
    """What trains."""

    def untaught(self, adapter: Path, lessons: Sequence[Lesson]) -> Mapping[str, str]:
        """Return why which lessons cannot be taught, by the feedback's id."""
        ...

    def train(self, adapter: Path, lessons: Sequence[Lesson], out: Path) -> Candidate:
        """Train an adapter on lessons; write what comes of it into a folder."""
        ...


class Gate(Protocol):
    """What judges."""

    def judge(
        self,
        before: Path,
        after: Path,
        lessons: Sequence[Lesson],
        probes: Sequence[Lesson],
    ) -> Verdict:
        """Judge a candidate; `probes` are the lessons of earlier updates."""
        ...


class Serving(Protocol):
    """The inference server."""

    def load(self, name: str, path: str) -> None:
        """Load an adapter; one that is loaded already stays."""
        ...

    def unload(self, name: str) -> None:
        """Unload an adapter; one that is not loaded stays so."""
        ...

    def names(self) -> Sequence[str]:
        """Return what is loaded."""
        ...


class Mark(Protocol):
    """What became of a feedback."""

    @property
    def state(self) -> str:
        """What it is since then."""
        ...

    @property
    def version(self) -> int | None:
        """The version that it is about."""
        ...


class Entry(Protocol):
    """A feedback with what became of it."""

    @property
    def feedback(self) -> Feedback:
        """The feedback."""
        ...

    @property
    def marks(self) -> Sequence[Mark]:
        """What became of it, the oldest first."""
        ...


class Ledger(Protocol):
    """All feedback."""

    def open(self, lora: str) -> Sequence[Feedback]:
        """Return what waits for an update, the oldest first."""
        ...

    def history(self, lora: str) -> Sequence[Entry]:
        """Return all feedback of an adapter, the oldest first."""
        ...

    def mark(
        self, ids: Iterable[str], state: Any, version: int | None, why: str
    ) -> None:
        """Write down what became of feedback."""
        ...


class Receipts(Protocol):
    """All receipts."""

    def get(self, receipt_id: str, /) -> Receipt:
        """Return a receipt."""
        ...


@dataclass(frozen=True, slots=True)
class Teaching:
    """What needs the base model in memory."""

    learner: Learner
    gate: Gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Makes updates.

    Args:
        updates: The table of updates.
        ledger: The feedback.
        receipts: The receipts.
        serving: The inference server.
        teaching: Gives the learner and the gate, the same ones each time; called when
            something is to be trained, so a rollback needs no base model.
        volume: Where adapters are; None for `storage.default_storage`.
        scratch: Where candidates are written before they are versions.
        most_lessons: The most feedback of one update, the oldest first.
        most_probes: The most earlier lessons that the gate asks again, the newest.
        grace: Seconds until the version before is unloaded.
        patience: Seconds to wait for another update of the same adapter.
        clock: Seconds since 1970.
    """

    updates: Updates
    ledger: Ledger
    receipts: Receipts
    serving: Serving
    teaching: Callable[[], Teaching]
    volume: Volume | None = None
    scratch: Path = field(
        default_factory=lambda: Path(tempfile.gettempdir(), "claas-scratch")
    )
    most_lessons: int = 32
    most_probes: int = 64
    grace: float = 60.0
    patience: float = 0.0
    clock: Callable[[], float] = time.time

    def update(self, lora: str, update_id: str | None = None) -> Update:
        """Make an update of an adapter from the feedback that waits.

        An update of it that was interrupted is ended first.

        Args:
            lora: The adapter, ``user/model``.
            update_id: Its id; the same id twice is one update. None for a new one.

        Returns:
            The update, done; its `outcome` says what came of it.

        Raises:
            IdentifierError: If the name is none.
            NotFoundError: If there is no such adapter.
            ConflictError: If the id was used for another adapter.
            StorageError: If another update holds the adapter, or the disk refuses; the
                update waits where it is.
            ServingError: If the inference server refuses; likewise.
        """
        update_id = update_id or uuid.uuid4().hex
        storage.version(f"{lora}@live", self.volume)
        with storage.updating(lora, f"update {update_id}", self.patience, self.volume):
            for left in self.updates.unfinished(lora):
                if left.kind == "update" and left.id != update_id:
                    self._run(left)
            found = self._run(self.updates.add(Update(update_id, lora)))
        self.retire()
        return found

    def resume(self) -> list[Update]:
        """End every update that was interrupted; after a start of the worker.

        Returns:
            The updates, done; one of an adapter that another worker holds is left out.

        Raises:
            StorageError: As in `update`.
            ServingError: As in `update`.
        """
        found = []
        for left in self.updates.unfinished():
            if left.kind == "switch":
                found.append(self._run(left))
            else:
                found.append(self.update(left.lora, left.id))
        self.retire()
        return found

    def switch(
        self, lora: str, to: str | None = None, update_id: str | None = None
    ) -> Update:
        """Let a version serve: a rollback, or a promotion by hand. No gate is asked.

        The feedback that the version does not know is marked as dropped, that which
        it knows as promoted. It does not wait for an update that is being trained:
        that one fails when it would be promoted.

        Args:
            lora: The adapter, ``user/model``.
            to: The version, ``user/model@v2``; None for the one that was live before.
            update_id: As in `update`.

        Returns:
            The update, done.

        Raises:
            IdentifierError: If a name is none.
            NotFoundError: If there is no such version, or none was live before.
            StorageError: As in `update`.
            ServingError: As in `update`.
        """
        update_id = update_id or uuid.uuid4().hex
        live = storage.version(f"{lora}@live", self.volume).number
        target = storage.version(to, self.volume) if to else self._before(lora, live)
        if LoraName.of(target.id).lora != lora:
            raise NotFoundError(f"{target.id} is no version of {lora}.")
        begun = Update(
            *(update_id, lora, "promoted", "switch", "promoted"),
            parent=live,
            version=target.number,
        )
        found = self._run(self.updates.add(begun))
        self.retire()
        return found

    def restore(self) -> list[str]:
        """Load what is live and not loaded: after a start of the inference server.

        Returns:
            The serving names that were loaded.

        Raises:
            ServingError: If the inference server refuses.
        """
        known, loaded = set(self.serving.names()), []
        for lora in storage.list_loras(storage=self.volume):
            live = storage.alias(lora, "live", self.volume)
            if live is not None and (name := LoraName.of(live).serving) not in known:
                self.serving.load(name, str(storage.load_lora(live, self.volume)))
                loaded.append(name)
        return loaded

    def retire(self) -> list[str]:
        """Unload versions that were replaced longer ago than the grace.

        Returns:
            Their serving names. An inference server that does not answer is asked
            again the next time.
        """
        gone = []
        for lora, name in self.updates.due(self.clock()):
            try:
                with storage.switching(lora, f"unload {name}", 0, self.volume):
                    live = storage.alias(lora, "live", self.volume)
                    if live is None or LoraName.of(live).serving != name:
                        self.serving.unload(name)
                        gone.append(name)
            except NotFoundError:  # the adapter was deleted
                self.serving.unload(name)
            except (ServingError, StorageError):
                continue
            self.updates.unretire(name)
        return gone

    def _run(self, update: Update) -> Update:
        """Do what is left of an update."""
        while not update.is_done:
            if update.attempts >= ATTEMPTS and update.state in (*_WAITING, "promoted"):
                error = update.error or f"interrupted {ATTEMPTS} times"
                update = self._failed(update, f"{update.state}: {error}")
                continue
            update = self.updates.begin(update)
            try:
                update = _STEPS[update.state](self, update)
            except (ServingError, StorageError) as error:
                self.updates.keep(update, str(error))
                raise
            except TeachingError as error:
                update = self._untaught(update, str(error))
            except ClaasError as error:
                update = self._failed(update, str(error))
            except Exception as error:
                self._failed(update, f"a defect in claas: {type(error).__name__}")
                raise
        return update

    def _failed(self, update: Update, error: str) -> Update:
        return self.updates.move(update, "failed", outcome="failed", error=error)

    def _untaught(self, update: Update, why: str) -> Update:
        untaught = {**update.untaught, **dict.fromkeys(update.lessons, why)}
        return self.updates.move(
            update, "unteachable", outcome="unteachable", untaught=untaught, lessons=()
        )

    def _collect(self, update: Update) -> Update:
        """queued: write down what waits and which version is live."""
        live = storage.version(f"{update.lora}@live", self.volume).number
        waiting = self.ledger.open(update.lora)[: self.most_lessons]
        if not waiting:
            return self.updates.move(update, "done", outcome="empty", parent=live)
        ids = tuple(feedback.id for feedback in waiting)
        return self.updates.move(update, "teaching", lessons=ids, parent=live)

    def _teach(self, update: Update) -> Update:
        """teaching: leave out what the model cannot follow in context."""
        lessons, untaught = self._lessons(update)
        folder = self._folder(update, update.parent)
        if lessons:
            untaught |= self.teaching().learner.untaught(folder, lessons)
        ids = tuple(i for i in update.lessons if i not in untaught)
        if not ids:
            return self.updates.move(
                *(update, "unteachable"),
                outcome="unteachable",
                untaught=untaught,
                lessons=ids,
            )
        return self.updates.move(update, "training", lessons=ids, untaught=untaught)

    def _train(self, update: Update) -> Update:
        """training: make a version, unless it was made before the worker died."""
        made = [
            version
            for version in storage.versions(update.lora, self.volume)
            if version.meta.get("update") == update.id
        ]
        if not made:
            made = [storage.version(self._trained(update), self.volume)]
        version = made[0]
        storage.move_alias(update.lora, "candidate", version.id, self.volume)
        figures = version.meta.get("figures", {})
        return self.updates.move(
            update, "candidate", version=version.number, figures=figures
        )

    def _trained(self, update: Update) -> str:
        """Train, and save what came of it; return the version."""
        lessons, _ = self._lessons(update)
        out = self.scratch / update.id
        shutil.rmtree(out, ignore_errors=True)
        try:
            out.mkdir(parents=True, mode=0o700)
            folder = self._folder(update, update.parent)
            candidate = self.teaching().learner.train(folder, lessons, out)
            meta = {
                "update": update.id,
                "parent": f"{update.lora}@v{update.parent}",
                "lessons": list(update.lessons),
                "figures": {**candidate.figures, "steps": candidate.steps},
            }
            return storage.save_lora(candidate.folder, update.lora, meta, self.volume)
        except OSError as error:
            raise StorageError(
                f"cannot write the candidate to {out}: {error.strerror}."
            ) from error
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def _judge(self, update: Update) -> Update:
        """candidate: ask the gate."""
        why = f"version {update.version} was trained on it"
        self._mark(update.lora, update.lessons, "trained", update.version, why)
        lessons, _ = self._lessons(update)
        before = self._folder(update, update.parent)
        after = self._folder(update, update.version)
        probes = self._probes(update)
        verdict = self.teaching().gate.judge(before, after, lessons, probes)
        return self.updates.move(update, "gated", verdict=verdict)

    def _decide(self, update: Update) -> Update:
        """gated: follow the verdict."""
        is_promoted = update.verdict is not None and update.verdict.is_promoted
        state: State = "promoted" if is_promoted else "rejected"
        return self.updates.move(update, state, outcome=state)

    def _promote(self, update: Update) -> Update:
        """promoted: load it, then let `live` point to it."""
        lora, new = update.lora, f"{update.lora}@v{update.version}"
        with storage.switching(lora, f"update {update.id}", storage=self.volume):
            live = storage.version(f"{lora}@live", self.volume).number
            if live not in (update.parent, update.version):
                raise ConflictError(
                    f"version {live} of {lora} went live meanwhile, and this update "
                    f"was judged against version {update.parent}: its feedback waits "
                    "for the next one."
                )
            name = LoraName.of(new).serving
            self.updates.unretire(name)
            self.serving.load(name, str(storage.load_lora(new, self.volume)))
            storage.move_alias(lora, "live", new, self.volume)
            retired = {}
            if update.parent != update.version:
                old = LoraName.of(f"{lora}@v{update.parent}").serving
                retired[old] = self.clock() + self.grace
            return self.updates.move(update, "serving", retired)

    def _record(self, update: Update) -> Update:
        """serving: tell the ledger which feedback the live version knows."""
        lora, version = update.lora, update.version
        knows = self._taught(lora, version)
        knew = self._taught(lora, update.parent)
        dropped = tuple(i for i in knew if i not in knows)
        why = f"version {version} serves and does not know it"
        self._mark(lora, dropped, "dropped", version, why)
        added = tuple(i for i in knows if i not in knew)
        self._mark(lora, added, "promoted", version, f"version {version} serves")
        return self._close(update)

    def _reject(self, update: Update) -> Update:
        """rejected, failed: tell the ledger that the feedback waits again."""
        if update.version is not None and update.kind == "update":
            reasons = update.verdict.reasons if update.verdict else ()
            why = update.error or " ".join(reasons) or "rejected by the gate"
            version = update.version
            self._mark(update.lora, update.lessons, "rejected", version, why)
        return self._close(update)

    def _close(self, update: Update) -> Update:
        """End an update: what cannot be taught is told, nothing is a candidate."""
        for name, why in update.untaught.items():
            self._mark(update.lora, (name,), "unteachable", None, why)
        lora, mine = update.lora, f"{update.lora}@v{update.version}"
        if storage.alias(lora, "candidate", self.volume) == mine:
            storage.move_alias(lora, "candidate", None, self.volume)
        return self.updates.move(update, "done")

    def _lessons(self, update: Update) -> tuple[list[Lesson], dict[str, str]]:
        """Return the lessons of an update, and why some are none."""
        entries = {e.feedback.id: e for e in self.ledger.history(update.lora)}
        lessons, missing = [], {}
        for name in update.lessons:
            feedback = entries[name].feedback
            try:
                lessons.append(Lesson(feedback, self.receipts.get(feedback.receipt)))
            except NotFoundError:
                missing[name] = "its receipt is gone"
        return lessons, missing

    def _probes(self, update: Update) -> list[Lesson]:
        """Return earlier lessons that the candidate must still keep."""
        known = self._taught(update.lora, update.parent)[-self.most_probes :]
        return self._lessons(Update(update.id, update.lora, lessons=known))[0]

    def _taught(self, lora: str, number: int | None) -> tuple[str, ...]:
        """Return the ids of the feedback in a version and its parents, oldest first."""
        ids: list[str] = []
        name: str | None = f"{lora}@v{number}"
        while name is not None:
            try:
                meta = storage.version(name, self.volume).meta
            except NotFoundError:  # a version that was deleted
                break
            ids = [*meta.get("lessons", ()), *ids]
            name = meta.get("parent")
        return tuple(dict.fromkeys(ids))

    def _mark(
        self, lora: str, ids: Iterable[str], state: str, version: int | None, why: str
    ) -> None:
        """Tell the ledger, unless it knows."""
        marks = {e.feedback.id: e.marks for e in self.ledger.history(lora)}
        told = [
            name
            for name in ids
            if name in marks
            and not (
                marks[name]
                and (marks[name][-1].state, marks[name][-1].version) == (state, version)
            )
        ]
        if told:
            self.ledger.mark(told, state, version, why)

    def _folder(self, update: Update, number: int | None) -> Path:
        """Return the folder of a version."""
        return storage.load_lora(f"{update.lora}@v{number}", self.volume)

    def _before(self, lora: str, live: int) -> storage.Version:
        """Return the version that was live before the live one."""
        for update in reversed(self.updates.history(lora)):
            is_it = update.outcome == "promoted" and update.version == live
            if is_it and update.is_done and update.parent not in (None, live):
                return storage.version(f"{lora}@v{update.parent}", self.volume)
        raise NotFoundError(
            f"no version of {lora} was live before v{live}: name the version."
        )


_STEPS: Mapping[State, Callable[[Worker, Update], Update]] = {
    "queued": Worker._collect,
    "teaching": Worker._teach,
    "training": Worker._train,
    "candidate": Worker._judge,
    "gated": Worker._decide,
    "promoted": Worker._promote,
    "serving": Worker._record,
    "rejected": Worker._reject,
    "unteachable": Worker._close,
    "failed": Worker._reject,
}
