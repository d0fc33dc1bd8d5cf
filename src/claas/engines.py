"""Engines: where updates are trained.

`LocalEngine` has a process of its own that keeps the base model loaded, so a training
takes no time from the process that answers requests, and a crash of it (out of memory)
ends neither. `ModalEngine` has its learner and gate on Modal.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextvars import ContextVar
from multiprocessing.connection import wait
from typing import Any, Protocol

from claas.errors import ClaasError, ConfigurationError
from claas.types import TokenRow
from claas.updates import Update
from claas.worker import Worker

DEATHS = 16
"""How often the process may die in one update: lessons are halved each time."""

_MAKE: ContextVar[Callable[[], Worker]] = ContextVar("claas_make")
_WORKER: ContextVar[Worker] = ContextVar("claas_worker")


class Engine(Protocol):
    """Where updates are trained."""

    def update(self, lora: str, update_id: str | None = None) -> Update:
        """Make an update of an adapter; see `Worker.update`. Waits for it."""
        ...

    def rebuild(self, version: str, rebuild_id: str) -> str:
        """Make a version again from the ledger; see `Worker.rebuild`."""
        ...

    def explain(self, version: str, feedback: str) -> Sequence[TokenRow]:
        """Return what a feedback pushes; see `Worker.explain`."""
        ...

    def diff(self, first: str, second: str) -> Mapping[str, Any]:
        """Return how two versions differ; see `Worker.diff`."""
        ...

    def forget(
        self, lora: str, feedback: Sequence[str], receipts: Sequence[str], name: str
    ) -> Mapping[str, Any]:
        """Make an adapter as if something had never been said; see `Worker.forget`."""
        ...

    def close(self) -> None:
        """End what is running; an update goes on when it is resumed."""
        ...


class LocalEngine:
    """A worker in a process of its own, started with the first update.

    Updates take turns. When the process dies, another one is started and goes on where
    that one was.

    Args:
        make: Makes the worker, in that process; importable, as it is pickled.
    """

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._pid: Future[int] | None = None
        self._is_closed = False

    def update(self, lora: str, update_id: str | None = None) -> Update:
        """Make an update of an adapter, and wait for it.

        Args:
            lora: The adapter, ``user/model``.
            update_id: Its id; None for a new one.

        Returns:
            The update, done.

        Raises:
            ConfigurationError: If the process dies again and again.
            ClaasError: If the engine is closed, and what `Worker.update` raises.
        """
        update_id = update_id or uuid.uuid4().hex
        for _ in range(DEATHS):
            with contextlib.suppress(BrokenProcessPool):
                return self._asked("update", lora, update_id)
        raise ConfigurationError(
            f"the worker's process died {DEATHS} times in the update {update_id}: give "
            "it more memory, or a smaller base model or batch."
        )

    def forget(
        self, lora: str, feedback: Sequence[str], receipts: Sequence[str], name: str
    ) -> Mapping[str, Any]:
        """Make an adapter as if something had never been said.

        If the process dies of what is to be learnt again, that waits for the next
        update: forgetting does not.

        Args:
            lora: The adapter, ``user/model``.
            feedback: The ids of what was said.
            receipts: Further receipts to delete.
            name: What this is called; the same twice is one forgetting.

        Raises:
            ConfigurationError: If the process dies again and again.
            ClaasError: If the engine is closed, and what `Worker.forget` raises.
        """
        given = lora, feedback, receipts, name
        for replays in (True, *[False] * (DEATHS - 1)):
            with contextlib.suppress(BrokenProcessPool):
                return self._asked("forget", *given, replays)
        raise self._died("forget", lora)

    def rebuild(self, version: str, rebuild_id: str) -> str:
        """Make a version again from the ledger; return the new one.

        Args:
            version: ``user/model@v3``.
            rebuild_id: Its id; the same id twice is one rebuild.

        Raises:
            ConfigurationError: If the process dies.
            ClaasError: If the engine is closed, and what `Worker.rebuild` raises.
        """
        return self._once("rebuild", version, rebuild_id)

    def explain(self, version: str, feedback: str) -> Sequence[TokenRow]:
        """Return what a feedback pushes, token by token of its answer.

        Args:
            version: The student, ``user/model@v3``.
            feedback: The id of the feedback.

        Raises:
            ConfigurationError: If the process dies.
            ClaasError: If the engine is closed, and what `Worker.explain` raises.
        """
        return self._once("explain", version, feedback)

    def diff(self, first: str, second: str) -> Mapping[str, Any]:
        """Return how two versions differ.

        Args:
            first: ``user/model@v1``.
            second: ``user/model@v3``.

        Raises:
            ConfigurationError: If the process dies.
            ClaasError: If the engine is closed, and what `Worker.diff` raises.
        """
        return self._once("diff", first, second)

    def _once(self, what: str, *given: Any) -> Any:
        """Ask the process, and no other one if it dies."""
        try:
            return self._asked(what, *given)
        except BrokenProcessPool as exc:
            raise self._died(what, given[0]) from exc

    def _died(self, what: str, name: str) -> ConfigurationError:
        return ConfigurationError(
            f"the worker's process died in the {what} of {name}: give it more memory, "
            "or a smaller base model or batch."
        )

    def _asked(self, what: str, *given: Any) -> Any:
        """Ask the process; forget it if it dies."""
        pool = self._running()
        try:
            return pool.submit(_called, what, *given).result()
        except BrokenProcessPool:
            self._forget(pool)
            raise

    def close(self) -> None:
        """End the process; an update that it was making goes on when it is resumed."""
        with self._lock:
            self._is_closed = True
            pool, pid = self._pool, self._pid
            self._pool = self._pid = None
        if pool is None or pid is None:
            return
        with contextlib.suppress(BrokenProcessPool, ProcessLookupError):
            os.kill(pid.result(), signal.SIGKILL)
        pool.shutdown(wait=True, cancel_futures=True)

    def _running(self) -> ProcessPoolExecutor:
        """Return the process, started if need be."""
        with self._lock:
            if self._is_closed:
                raise ClaasError(
                    "the worker is closed: the update goes on when it is started again."
                )
            if self._pool is None:
                spawn = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(1, spawn, _begin, (self._make,))
                self._pid = self._pool.submit(os.getpid)
            return self._pool

    def _forget(self, pool: ProcessPoolExecutor) -> None:
        """Let a dead process go; one thread does so, for a pool closes files twice."""
        with self._lock:
            is_mine = self._pool is pool
            if is_mine:
                self._pool = self._pid = None
        if is_mine:
            pool.shutdown(wait=True)


class ModalEngine:
    """A worker in this process, whose learner and gate are on Modal.

    The transaction stays beside its database; only what needs the base model is asked
    of a function there, see `claas.web.remote`. So this process waits, no more.

    Args:
        worker: The worker.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._is_resumed = False

    def update(self, lora: str, update_id: str | None = None) -> Update:
        """Make an update of an adapter, and wait for it.

        Args:
            lora: The adapter, ``user/model``.
            update_id: Its id; None for a new one.

        Raises:
            ClaasError: What `Worker.update` raises.
        """
        return self._ready().update(lora, update_id)

    def rebuild(self, version: str, rebuild_id: str) -> str:
        """Make a version again from the ledger; see `Worker.rebuild`."""
        return self._ready().rebuild(version, rebuild_id)

    def explain(self, version: str, feedback: str) -> Sequence[TokenRow]:
        """Return what a feedback pushes; see `Worker.explain`."""
        return self._ready().explain(version, feedback)

    def diff(self, first: str, second: str) -> Mapping[str, Any]:
        """Return how two versions differ; see `Worker.diff`."""
        return self._ready().diff(first, second)

    def forget(
        self, lora: str, feedback: Sequence[str], receipts: Sequence[str], name: str
    ) -> Mapping[str, Any]:
        """Make an adapter as if something had never been said; see `Worker.forget`."""
        return self._ready().forget(lora, feedback, receipts, name)

    def _ready(self) -> Worker:
        """Return the worker; what was interrupted is ended first."""
        if not self._is_resumed:
            self._is_resumed = True
            self._worker.resume()
        return self._worker

    def close(self) -> None:
        """Do nothing: Modal ends what is idle."""


def _begin(make: Callable[[], Worker]) -> None:
    """Make a process ready: Ctrl-C is for the parent, without which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _MAKE.set(make)


def _end_with_parent() -> None:
    """Wait for the parent to end, however, and end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _called(what: str, *given: Any) -> Any:
    """Call the worker in this process; it is made once."""
    worker = _WORKER.get(None)
    if worker is None:
        worker = _MAKE.get()()
        _WORKER.set(worker)
        worker.resume()
    return getattr(worker, what)(*given)
