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

**Nothing is lost.** Each step can be done twice: a version carries the id of its
update, so it is found and not made again; loading what is loaded, moving an alias to
where it is and marking what is marked change nothing. So after a `kill -9` at any place
`resume` (or the next `update`) does the step of the state again. A step in which the
worker died `ATTEMPTS` times makes its update fail; where more than one lesson is taught
or trained on, it tries half of them first. A lesson of which it dies alone is marked as
unteachable, and after a death in the gate the next update takes half.

**Errors.** A `ServingError` or `StorageError` is passed on; the update waits where it
is. Another `ClaasError` ends it as ``failed``. So does anything else, which is raised
as well; only its kind is written down, for its words may hold a prompt.

**Locks.** One update of an adapter at a time (`storage.updating`), held while training.
`live` moves under a lock of its own (`storage.switching`), so a rollback never waits
for a training. An update whose parent is no longer live when it would be promoted has
been judged against the wrong one, and fails.
"""

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import claas.storage as storage
from claas.bench import Bench
from claas.errors import (
    ClaasError,
    ConflictError,
    NotFoundError,
    ServingError,
    StorageError,
    TeachingError,
)
from claas.forgetting import Forgetting
from claas.lessons import Lessons
from claas.loaded import Loaded, check_base
from claas.names import LoraName
from claas.parts import Ledger, Receipts, Serving, Teaching
from claas.types import TokenRow
from claas.updates import NEXT, State, Update, Updates
from claas.volumes import Volume


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
        scratch: Where candidates are written before they are versions.
        volume: Where adapters are; None for `storage.default_storage`.
        most_lessons: The most feedback of one update, the oldest first.
        most_probes: The most earlier lessons that the gate asks again, the newest.
        most_versions: How many versions of an adapter are kept to roll back to, and as
            many others; 0 for all of them. See `claas.versions.surplus`.
        base: The base model that adapters must belong to; empty for any.
        grace: Seconds until what does not serve is unloaded.
        patience: Seconds to wait for another update of the same adapter.
        clock: Seconds since 1970.
    """

    updates: Updates
    ledger: Ledger
    receipts: Receipts
    serving: Serving
    teaching: Callable[[], Teaching]
    scratch: Path
    volume: Volume | None = None
    most_lessons: int = 32
    most_probes: int = 64
    most_versions: int = 0
    base: str = ""
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
        storage.version(f"{lora}@live", self.volume)
        begun = self.updates.add(Update(update_id or uuid.uuid4().hex, lora))
        if not begun.is_done:
            self._run_all(lora)
            self.retire()
        return self.updates.get(begun.id)

    def resume(self) -> list[Update]:
        """End every update that was interrupted; after a start of the worker.

        Returns:
            The updates that were not done. One that still is not waits for another
            worker, which has it, or for what its `error` says.
        """
        left = self.updates.unfinished()
        self._bench.sweep([update.id for update in left])
        for lora in dict.fromkeys(update.lora for update in left):
            with contextlib.suppress(ServingError, StorageError):
                self._run_all(lora)
        self.retire()
        return [self.updates.get(update.id) for update in left]

    def switch(
        self,
        lora: str,
        to: str | None = None,
        update_id: str | None = None,
        *,
        why: str = "",
        waits: bool = False,
        leaving: str | None = None,
    ) -> Update:
        """Let a version serve: a rollback, or a promotion by hand. No gate is asked.

        The feedback that the version does not know is marked as dropped, that which
        it knows as promoted. It does not wait for an update that is being trained:
        that one fails when it would be promoted.

        Args:
            lora: The adapter, ``user/model``.
            to: The version, ``user/model@v2``; None for the parent of the live one.
            update_id: As in `update`.
            why: Why, if nobody asked for it by hand. No update promotes the version
                that serves now again then.
            waits: Whether what is dropped waits for a later update.
            leaving: The version that must be live; None for any.

        Returns:
            The update, done.

        Raises:
            IdentifierError: If a name is none.
            NotFoundError: If there is no such version, or no parent.
            ConflictError: If another version is live than the one to leave.
            StorageError: If another switch holds the adapter, or the disk refuses.
            ServingError: If the inference server refuses. After both the version before
                serves, and nothing waits.
        """
        update_id = update_id or uuid.uuid4().hex
        live = storage.version(f"{lora}@live", self.volume)
        to = to or live.meta.get("parent")
        if leaving not in (None, live.id):
            raise ConflictError(f"{live.id} is live by now, not {leaving}.")
        if to is None:
            raise NotFoundError(f"{live.id} has no parent: name a version to go to.")
        target = storage.version(to, self.volume)
        if LoraName.of(target.id).lora != lora:
            raise NotFoundError(f"{target.id} is no version of {lora}.")
        begun = Update(
            *(update_id, lora, "promoted", "switch", "promoted"),
            parent=live.number,
            version=target.number,
            why=why,
            waits=waits,
        )
        with self._switching(begun):
            try:
                found = self._walk(self.updates.add(begun))
            except (ServingError, StorageError) as error:
                left = self.updates.get(update_id)
                if left.state == "promoted":  # it must not happen later, unasked
                    self._close(self._failed(left, str(error)))
                raise
        self.retire()
        return found

    def forget(
        self,
        lora: str,
        feedback: Sequence[str],
        receipts: Sequence[str] = (),
        forget_id: str | None = None,
        replays: bool = True,
    ) -> Mapping[str, Any]:
        """Make an adapter as if something had never been said; see `Forgetting.forget`.

        What was begun is ended first. Else only what runs is waited for.
        """
        name = forget_id or uuid.uuid4().hex
        with storage.updating(lora, "forgetting", self.patience, self.volume):
            for update in self.updates.unfinished(lora):
                self._run(update)
            told = self._forgetting.forget(
                lora, feedback, receipts, name, replays=replays
            )
        self.retire()
        return told

    def rebuild(self, version_id: str, rebuild_id: str | None = None) -> str:
        """Make a version again from the ledger; see `Bench.rebuild`."""
        return self._bench.rebuild(version_id, rebuild_id)

    def explain(self, version_id: str, feedback_id: str) -> Sequence[TokenRow]:
        """Return what a feedback pushes, token by token; see `Bench.explain`."""
        return self._bench.explain(version_id, feedback_id)

    def diff(self, first: str, second: str) -> Mapping[str, Any]:
        """Return how two versions differ; see `Bench.diff`."""
        return self._bench.diff(first, second)

    def lend(self, version_id: str) -> None:
        """Have a version unloaded after the grace; see `Loaded.lend`."""
        self._loaded.lend(version_id)

    def retire(self) -> list[str]:
        """Unload what does not serve, after the grace; see `Loaded.retire`."""
        return self._loaded.retire()

    @property
    def _lessons(self) -> Lessons:
        """What is known of feedback."""
        return Lessons(self.ledger, self.receipts, self.volume)

    @property
    def _bench(self) -> Bench:
        """What needs the base model apart from an update."""
        return Bench(
            lessons=self._lessons,
            updates=self.updates,
            teaching=self.teaching,
            volume=self.volume,
            scratch=self.scratch,
            patience=self.patience,
        )

    @property
    def _forgetting(self) -> Forgetting:
        """What takes feedback out of an adapter."""
        return Forgetting(
            lessons=self._lessons,
            bench=self._bench,
            updates=self.updates,
            switch=lambda lora, to, why: self.switch(lora, to, why=why, waits=True),
            clock=self.clock,
        )

    @property
    def _loaded(self) -> Loaded:
        """Which versions the inference server has."""
        return Loaded(
            updates=self.updates,
            serving=self.serving,
            volume=self.volume,
            grace=self.grace,
            clock=self.clock,
        )

    def _run_all(self, lora: str) -> None:
        """Do what is left of all updates of an adapter, the oldest first."""
        with storage.updating(lora, "an update", self.patience, self.volume):
            for update in self.updates.unfinished(lora):
                self._run(update)
            self._loaded.prune(lora, self.most_versions)

    def _run(self, update: Update) -> Update:
        """Do what is left of an update; a switch is made by one worker at a time."""
        if update.kind == "update":
            return self._walk(update)
        with self._switching(update):
            return self._walk(self.updates.get(update.id))

    def _switching(self, update: Update) -> AbstractContextManager[None]:
        """Hold what serves."""
        return storage.switching(update.lora, update.id, storage=self.volume)

    def _walk(self, update: Update) -> Update:
        """Do one step after the other."""
        while not update.is_done:
            update = self.updates.begin(self.updates.survived(update))
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
                self._failed(update, f"it was ended by {type(error).__name__}")
                raise
        return update

    def _failed(self, update: Update, error: str) -> Update:
        """Let an update fail; where it is too late for that, it waits."""
        if "failed" not in NEXT[update.state]:
            self.updates.keep(update, error)
            raise StorageError(f"the update {update.id} cannot be ended: {error}")
        return self.updates.move(update, "failed", outcome="failed", error=error)

    def _untaught(self, update: Update, why: str) -> Update:
        """Let an update end because nothing of it can be taught."""
        if "unteachable" not in NEXT[update.state]:
            return self._failed(update, why)
        untaught = {**update.untaught, **dict.fromkeys(update.lessons, why)}
        return self.updates.move(
            update, "unteachable", outcome="unteachable", untaught=untaught, lessons=()
        )

    def _collect(self, update: Update) -> Update:
        """queued: write down what waits and which version is live."""
        check_base(f"{update.lora}@live", self.base, self.volume)
        live = storage.version(f"{update.lora}@live", self.volume).number
        most = self.updates.most(update.lora, self.most_lessons)
        ids = self._lessons.waiting(update.lora)[:most]
        if not ids:
            return self.updates.move(update, "done", outcome="empty", parent=live)
        return self.updates.move(update, "teaching", lessons=ids, parent=live)

    def _teach(self, update: Update) -> Update:
        """teaching: leave out what the model cannot follow in context."""
        lessons, untaught = self._lessons.of(update.lora, update.lessons)
        folder = self._folder(update, update.parent)
        if lessons:
            untaught |= self.teaching().learner.untaught(folder, lessons)
        ids = tuple(i for i in update.lessons if i not in untaught)
        state: State = "training" if ids else "unteachable"
        return self.updates.move(
            *(update, state),
            outcome="" if ids else state,
            lessons=ids,
            untaught=untaught,
        )

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
        lessons, _ = self._lessons.of(update.lora, update.lessons)
        with self._bench.room(update.id) as out:
            folder = self._folder(update, update.parent)
            candidate = self.teaching().learner.train(folder, lessons, out)
            meta = {
                "update": update.id,
                "parent": f"{update.lora}@v{update.parent}",
                "lessons": list(update.lessons),
                "figures": {**candidate.figures, "steps": candidate.steps},
            }
            return storage.save_lora(candidate.folder, update.lora, meta, self.volume)

    def _judge(self, update: Update) -> Update:
        """candidate: ask the gate."""
        why = f"version {update.version} was trained on it"
        self._lessons.mark(update.lora, update.lessons, "trained", update.version, why)
        lessons, _ = self._lessons.of(update.lora, update.lessons)
        before = self._folder(update, update.parent)
        after = self._folder(update, update.version)
        known = self._lessons.taught(update.lora, update.parent)[-self.most_probes :]
        probes, _ = self._lessons.of(update.lora, known)
        verdict = self.teaching().gate.judge(before, after, lessons, probes)
        return self.updates.move(update, "gated", verdict=verdict)

    def _decide(self, update: Update) -> Update:
        """gated: follow the verdict."""
        is_promoted = update.verdict is not None and update.verdict.is_promoted
        state: State = "promoted" if is_promoted else "rejected"
        return self.updates.move(update, state, outcome=state)

    def _promote(self, update: Update) -> Update:
        """promoted: load it, then let `live` point to it."""
        is_held = update.kind == "switch"
        with contextlib.nullcontext() if is_held else self._switching(update):
            return self._switch(update)

    def _switch(self, update: Update) -> Update:
        """Load the version, then let `live` point to it; the lock is held."""
        lora, new = update.lora, f"{update.lora}@v{update.version}"
        live = storage.version(f"{lora}@live", self.volume).number
        if live not in (update.parent, update.version):
            raise ConflictError(
                f"version {live} of {lora} went live meanwhile, and this update began "
                f"from version {update.parent}: its feedback waits for the next one."
            )
        if update.kind == "update" and update.version in self.updates.left(lora):
            raise ConflictError(f"{new} served, and was taken back: see its history.")
        name = LoraName.of(new).serving
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
        if self._loaded.live(lora) != LoraName.of(lora).versioned(version or 0):
            return self._close(update)  # a switch came between, and has told
        knows = self._lessons.taught(lora, version)
        knew = self._lessons.taught(lora, update.parent)
        dropped = tuple(i for i in knew if i not in knows)
        why = update.why or f"version {version} serves and does not know it"
        state = "rejected" if update.waits else "dropped"
        self._lessons.mark(lora, dropped, state, version, why)
        added = tuple(i for i in knows if i not in knew)
        why = f"version {version} serves"
        self._lessons.mark(lora, added, "promoted", version, why)
        return self._close(update)

    def _reject(self, update: Update) -> Update:
        """rejected, failed: tell the ledger that the feedback waits again."""
        if update.version is not None and update.kind == "update":
            reasons = update.verdict.reasons if update.verdict else ()
            why = update.error or " ".join(reasons) or "rejected by the gate"
            live = self._loaded.live(update.lora)  # it may have been promoted by hand
            knows = self._lessons.taught(update.lora, live.version if live else None)
            known = {*knows, *update.untaught}
            ids = tuple(i for i in update.lessons if i not in known)
            self._lessons.mark(update.lora, ids, "rejected", update.version, why)
        return self._close(update)

    def _close(self, update: Update) -> Update:
        """End an update: what cannot be taught is told, nothing is a candidate."""
        for name, why in update.untaught.items():
            self._lessons.mark(update.lora, (name,), "unteachable", None, why)
        lora, mine = update.lora, f"{update.lora}@v{update.version}"
        with contextlib.suppress(NotFoundError):  # the adapter was deleted
            if storage.alias(lora, "candidate", self.volume) == mine:
                storage.move_alias(lora, "candidate", None, self.volume)
        shutil.rmtree(self.scratch / update.id, ignore_errors=True)
        return self.updates.move(update, "done")

    def _folder(self, update: Update, number: int | None) -> Path:
        """Return the folder of a version."""
        return storage.load_lora(f"{update.lora}@v{number}", self.volume)


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
