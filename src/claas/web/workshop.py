"""`Workshop`: the worker as the API uses it, made from the settings.

Updates are made by an engine, in a process of its own. Switching to another version
needs no base model: the worker in this process does it.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from claas.config import Limits, Settings
from claas.database import Database
from claas.engines import Engine, LocalEngine, ModalEngine
from claas.errors import ConfigurationError, ConflictError
from claas.ledger import Ledger
from claas.ratings import Ratings
from claas.receipts import Receipts
from claas.serving import Serving
from claas.types import TokenRow
from claas.updates import Update, Updates
from claas.volumes import LocalVolume, ModalVolume, Volume, modal_library
from claas.watch import Watch
from claas.web.remote import Ask, RemoteTeaching
from claas.worker import Teaching, Worker


@dataclass(frozen=True, slots=True)
class Workshop:
    """What trains, and what switches.

    Args:
        worker: What switches.
        engine: Where updates are trained.
        guard: What takes a version back for its ratings, if anything does.
    """

    worker: Worker
    engine: Engine
    guard: Watch | None = None

    def update(self, lora: str, update_id: str) -> Update:
        """Make an update of an adapter, and wait for it.

        Args:
            lora: The adapter.
            update_id: Its id; the same id twice is one update.

        Raises:
            ClaasError: If it cannot be made.
        """
        return self.engine.update(lora, update_id)

    def rebuild(self, version: str, rebuild_id: str) -> str:
        """Make a version again from the ledger; return the new one.

        Args:
            version: ``user/model@v3``.
            rebuild_id: Its id; the same id twice is one rebuild.

        Raises:
            ClaasError: If it cannot be made.
        """
        return self.engine.rebuild(version, rebuild_id)

    def explain(self, version: str, feedback: str) -> Sequence[TokenRow]:
        """Return what a feedback pushes, token by token of its answer.

        Args:
            version: The student, ``user/model@v3``.
            feedback: The id of the feedback.

        Raises:
            ClaasError: If it cannot be said.
        """
        return self.engine.explain(version, feedback)

    def diff(self, first: str, second: str) -> Mapping[str, Any]:
        """Return how two versions differ.

        Args:
            first: ``user/model@v1``.
            second: ``user/model@v3``.

        Raises:
            ClaasError: If it cannot be said.
        """
        return self.engine.diff(first, second)

    def forget(
        self, lora: str, feedback: Sequence[str], receipts: Sequence[str], name: str
    ) -> Mapping[str, Any]:
        """Make an adapter as if something had never been said; return what came of it.

        Args:
            lora: The adapter.
            feedback: The ids of what was said.
            receipts: Further receipts to delete.
            name: What this is called; the same twice is one forgetting.

        Raises:
            ClaasError: If it cannot be forgotten now.
        """
        return self.engine.forget(lora, feedback, receipts, name)

    def lend(self, version: str) -> None:
        """Have a version that somebody asked for unloaded after the grace.

        Args:
            version: ``user/model@v3``.

        Raises:
            StorageError: If the database cannot be used.
        """
        self.worker.lend(version)

    def switch(self, lora: str, to: str | None) -> Update:
        """Let a version serve.

        Args:
            lora: The adapter.
            to: The version, ``user/model@v2``; None for the parent of the live one.

        Raises:
            ClaasError: If it cannot serve; then the old one does.
        """
        return _promoted(self.worker.switch(lora, to))

    def watch(self, lora: str) -> Update | None:
        """Take the live version back if it is surely rated worse than the one before.

        Args:
            lora: The adapter.

        Returns:
            The switch to the version before, if there was one.

        Raises:
            ClaasError: If that one cannot serve; then the live one does.
        """
        found = self.guard.look(lora) if self.guard else None
        return found and _promoted(found)

    def retire(self) -> list[str]:
        """Unload versions that were replaced longer ago than the grace.

        Returns:
            Their serving names.

        Raises:
            StorageError: If the database cannot be used.
        """
        return self.worker.retire()

    def close(self) -> None:
        """End what is running; it is taken up again later."""
        self.engine.close()
        self.worker.updates.close()


def _promoted(found: Update) -> Update:
    """Return a switch, if it was made."""
    if found.outcome != "promoted":
        raise ConflictError(f"{found.lora} is as it was: {found.error}")
    return found


def workshop_of(settings: Settings) -> Workshop:
    """Return what trains here: a process that begins with the first update.

    Args:
        settings: What it is told.

    Raises:
        ConfigurationError: If the settings name another engine.
        StorageError: If the database cannot be used.
    """
    if settings.engine != "local":
        raise ConfigurationError(
            f"the engine {settings.engine!r} works where the API is deployed, too: "
            "`claas deploy`."
        )
    engine = LocalEngine(partial(training_worker, settings))
    worker = worker_of(settings)
    return Workshop(worker, engine, guard_of(settings, worker))


def modal_workshop_of(settings: Settings, ask: Ask) -> Workshop:
    """Return what trains on Modal: the worker here, learner and gate there.

    Args:
        settings: What it is told.
        ask: Calls the function that has learner and gate.

    Raises:
        StorageError: If the database cannot be used.
    """
    remote = RemoteTeaching(ask)
    worker = worker_of(settings, lambda: Teaching(remote, remote, remote.explain))
    return Workshop(worker, ModalEngine(worker), guard_of(settings, worker))


def guard_of(settings: Settings, worker: Worker) -> Watch:
    """Return what takes versions back for their ratings.

    Args:
        settings: What it is told.
        worker: What switches.

    Raises:
        StorageError: If the database cannot be used.
    """
    return Watch(
        ratings=Ratings(Database(settings.database_path)),
        limits=settings.ratings,
        updates=worker.updates,
        volume=worker.volume,
        switch=worker.switch,
    )


def volume_of(settings: Settings, *, alone: bool = True) -> Volume:
    """Return where adapters are kept: on Modal a volume, if this is a container there.

    Args:
        settings: What says so.
        alone: Whether nobody else writes there.
    """
    if settings.engine == "modal" and not modal_library().is_local():
        return ModalVolume(settings.volume, settings.storage, alone)
    return LocalVolume(settings.storage)


def worker_of(
    settings: Settings, teaching: Callable[[], Teaching] | None = None
) -> Worker:
    """Return a worker.

    Args:
        settings: What it is told.
        teaching: Gives the learner and the gate; None where nothing is trained.

    Raises:
        StorageError: If the database cannot be used.
    """
    path, limits = settings.database_path, settings.limits
    database = Database(path)
    key = settings.server_key.get_secret_value()
    return Worker(
        updates=Updates(path),
        ledger=Ledger(database),
        receipts=receipts_of(database, limits),
        serving=Serving(settings.server_url, key, timeout=settings.server_timeout),
        teaching=teaching or _nothing,
        scratch=path.with_name(f".{path.name}-scratch"),
        volume=volume_of(settings),
        base=settings.base_model,
        grace=limits.grace,
        patience=limits.patience,
        most_lessons=settings.training.lessons,
        most_probes=settings.training.probes,
        most_versions=limits.versions,
    )


def receipts_of(database: Database, limits: Limits) -> Receipts:
    """Return the receipts in a database.

    Args:
        database: Where they are kept.
        limits: How many, how large and for how long.
    """
    most, size = limits.receipts, limits.receipt_bytes
    return Receipts(database, most=most, days=limits.receipt_days, size=size)


def training_worker(settings: Settings) -> Worker:
    """Return a worker that trains, in a process of its own; the base is loaded once.

    Args:
        settings: What it is told.

    Raises:
        StorageError: If the database cannot be used.
    """

    return worker_of(settings, cache(partial(load_teaching, settings)))


def load_teaching(settings: Settings) -> Teaching:
    """Load the base model; return what trains and what judges on it.

    Args:
        settings: What they are told.

    Raises:
        ConfigurationError: If the model or the device is not there.
    """
    from claas.web.teaching import teaching_of  # noqa: PLC0415 - torch

    return teaching_of(settings)


def settled(settings: Settings) -> Settings:
    """Return settings whose base model is a folder with a config.

    A model of the Hub is fetched, a GGUF file converted, once, in a process of its own:
    torch stays out of the one that answers requests.

    Args:
        settings: What the server is told.

    Raises:
        ConfigurationError: If there is no such model.
    """
    model = settings.base_model
    if not model or settings.engine != "local" or Path(model).is_dir():
        return settings
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        try:
            folder = pool.submit(_base_folder, model).result()
        except BrokenProcessPool as exc:
            raise ConfigurationError(
                f"the process that looked for the base model {model!r} ended: it may "
                "need more memory."
            ) from exc
    return settings.model_copy(
        update={"base_model": folder, "base_name": settings.served}
    )


def _base_folder(model: str) -> str:
    """Return the folder of a base model, in a process of its own."""
    from claas.web.teaching import base_folder  # noqa: PLC0415 - torch

    return base_folder(model)


def _nothing() -> Teaching:
    raise ConfigurationError("this process has no base model, so it trains nothing.")
