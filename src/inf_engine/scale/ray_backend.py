"""`RayBackend`: the inputs of a `map` or a `stream` over the actors of a Ray cluster.

All that knows Ray is in this file: how a cluster is found, how a `Worker` and the
`Coordinator` become actors, and what their deaths are called. The coordinator runs on
the machine of the caller, because the journal is a file there.
"""

import asyncio
import itertools
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from inf_engine.errors import (
    ActorLostError,
    ConfigurationError,
    InfEngineError,
    UnknownAliasError,
)
from inf_engine.execution.recall import Identity
from inf_engine.execution.scheduler import Scheduler
from inf_engine.execution.settings import ExecutionSettings
from inf_engine.journal import Row
from inf_engine.resources.funds import NOTHING, Amounts, FundsAsk
from inf_engine.resources.lease import Ask
from inf_engine.scale.coordinator import Charge, Coordinator, Which
from inf_engine.scale.far_batch import FarBatch
from inf_engine.scale.keeper import Grants
from inf_engine.scale.parcel import (
    Errand,
    Item,
    Kept,
    Report,
    dumper,
    first_line,
)
from inf_engine.scale.worker import Worker

logger = logging.getLogger("inf_engine")

KNOCK_SECONDS = 5.0

_CALLS = 1_000  # that an actor takes at once


def _ray() -> Any:
    """Return Ray, which takes a second to import.

    Raises:
        ConfigurationError: If it is not installed.
    """
    try:
        import ray  # noqa: PLC0415
        import ray.cloudpickle  # noqa: PLC0415
        import ray.exceptions  # noqa: PLC0415
        import ray.util.scheduling_strategies  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigurationError(
            "RayBackend needs Ray: pip install 'inf-engine[ray]'"
        ) from exc
    return ray


class RayBackend:
    """Runs the inputs of a `map` or a `stream` in the actors of a Ray cluster.

    The sum over all actors keeps to each endpoint's limits, and the journal is the
    engine's: what was paid there is not paid here, and the other way round. A module
    travels by value. An API key does not travel: each actor reads its own environment,
    which on this machine is the one that Ray was started in.

    Args:
        address: Of a cluster, ``"auto"`` or ``"host:port"``; None for the one that this
            process is connected to, that ``RAY_ADDRESS`` names or that runs on this
            machine, else a new one here.
        actors: How many, None for as many as the cluster has room for.
        cpus: Cores that each actor takes.
        patience: Seconds to wait until an actor runs.
        init: More arguments of ``ray.init``, where that is called.
        runtime_env: What Ray installs for the actors, as ``ray.remote`` takes it.

    Raises:
        ConfigurationError: If an argument is wrong.

    Example::

        outputs = await engine.map(module, inputs, backend=RayBackend())
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        actors: int | None = None,
        cpus: float = 1.0,
        patience: float = 120.0,
        init: Mapping[str, Any] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        if actors is not None and (type(actors) is not int or actors < 1):
            raise ConfigurationError(
                f"actors must be an int ≥ 1, or None for as many as there is room "
                f"for, not {actors!r}."
            )
        for name, value in (("cpus", cpus), ("patience", patience)):
            if not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"{name} must be above 0, not {value!r}.")
        _refuse_client(address)
        self.address = address
        self.actors = actors
        self.cpus = cpus
        self.patience = patience
        self.init = dict(init or {})
        self.runtime_env = runtime_env

    def __repr__(self) -> str:
        return f"RayBackend({self.address!r}, actors={self.actors})"

    def batch(
        self,
        scheduler: Scheduler,
        module: Any,
        iterables: tuple[Any, ...],
        settings: ExecutionSettings,
        *,
        ordered: bool,
        record: bool,
        identity: Identity | None,
    ) -> FarBatch:
        """Return the inputs, ready to run; `Engine.stream` calls it.

        Args:
            scheduler: That of the engine.
            module: The module.
            iterables: Inputs, zipped.
            settings: How each input is run.
            ordered: Whether results come in input order.
            record: Whether results carry records.
            identity: What stands for an input in the journal.

        Raises:
            ModuleError: If it is not a module.
            ConfigurationError: If Ray is not installed, or an alias is not bound.
        """
        manager = scheduler.manager
        for alias, path in scheduler.aliases(module).items():
            if alias not in manager.aliases:
                raise UnknownAliasError(alias, manager.aliases, path)
        if manager.environ is not os.environ:
            raise ConfigurationError(
                "these resources were given an environ= of their own, and keys are not "
                "sent to actors. Set the variables where Ray is started, and leave "
                "environ out."
            )
        errand = Errand(
            module,
            manager.bindings,
            settings,
            identity or scheduler.identity,
            record,
        )
        crew = RayCrew(self, _ray())
        return FarBatch(crew, scheduler, errand, iterables, ordered=ordered)


class RayCrew:
    """The coordinator and the actors of one map.

    Args:
        backend: What the caller wants.
        ray: Ray.

    Attributes:
        size: How many actors there are to be; 0 before `start`.
    """

    def __init__(self, backend: RayBackend, ray: Any) -> None:
        self._backend = backend
        self._ray = ray
        self.dump = dumper(ray.cloudpickle)
        self.load = ray.cloudpickle.loads
        self.size = 0
        self._numbers = itertools.count()
        self._coordinator: Any = None
        self._early: list[RayHand] = []

    async def start(self, charge: Charge) -> frozenset[bytes] | None:
        """Start the coordinator; return the keys in the cache, None without one.

        Raises:
            ConfigurationError: If there is no cluster.
            JournalError: If the coordinator cannot have the files.
        """
        if not self._ray.is_initialized():
            await asyncio.wrap_future(_in_a_thread(self._connect))
        ray, backend = self._ray, self._backend
        there = ray.cluster_resources().get("CPU", 0.0)
        self.size = backend.actors or max(1, int(there / backend.cpus))
        node = ray.get_runtime_context().get_node_id()
        strategies = ray.util.scheduling_strategies
        here = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        make = ray.remote(Coordinator).options(num_cpus=0, scheduling_strategy=here)
        self._coordinator = make.remote(charge)
        self._early = [self._hired() for _ in range(self.size)]  # while it opens
        error = await self._told("open")
        if error is not None:
            raise error
        return await self._told("cached")

    def hire(self) -> "RayHand":
        """Start an actor, or take one that `start` has started.

        Raises:
            ActorLostError: If Ray was shut down.
        """
        return self._early.pop(0) if self._early else self._hired()

    def _hired(self) -> "RayHand":
        _check_up(self._ray)
        backend = self._backend
        options: dict[str, Any] = {
            "num_cpus": backend.cpus,
            "max_concurrency": _CALLS,
            "max_restarts": 0,
        }
        if backend.runtime_env is not None:
            options["runtime_env"] = dict(backend.runtime_env)
        name = f"actor-{next(self._numbers)}"
        make = self._ray.remote(WorkerActor).options(**options)
        actor = make.remote(name, self._coordinator)
        self._coordinator.join.remote(name)
        return RayHand(self._ray, name, actor, backend.patience)

    async def forget(self, name: str) -> None:
        """Tell the coordinator that an actor is dead."""
        await self._told("forget", name)

    async def stop(self) -> Amounts:
        """Have the coordinator close its files, and end it; return what was spent."""
        if self._coordinator is None:
            return NOTHING
        for hand in self._early:
            hand.kill()
        try:
            return await self._told("close")
        except ActorLostError:
            return NOTHING
        finally:
            _kill(self._ray, self._coordinator)

    async def _told(self, method: str, *args: Any) -> Any:
        return await _asked(self._ray, self._coordinator, method, *args)

    def _connect(self) -> None:
        """Connect to a cluster, or start one on this machine."""
        backend = self._backend
        address = backend.address or os.environ.get("RAY_ADDRESS")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": 40}
        if address is None:
            options["include_dashboard"] = False
        else:
            options["address"] = address
        _refuse_client(address)
        try:
            _knock(address)
            self._ray.init(**{**options, **backend.init})
        except (OSError, RuntimeError, ValueError) as exc:
            raise ConfigurationError(
                "no Ray cluster could be reached or started at "
                f"{address or 'this machine'}: {first_line(exc)} Start one "
                "there (ray start --head; the same RAY_AUTH_TOKEN here and there), or "
                "leave address out for one on this machine."
            ) from exc


class RayHand:
    """An actor, as the process that started it sees it.

    Args:
        ray: Ray.
        name: What it is called.
        actor: Its handle.
        patience: Seconds to wait until it runs.
    """

    def __init__(self, ray: Any, name: str, actor: Any, patience: float) -> None:
        self.name = name
        self._ray = ray
        self._actor = actor
        self._patience = patience

    async def open(self, errand: bytes) -> BaseException | None:
        """Get it ready; return why that cannot be."""
        try:
            async with asyncio.timeout(self._patience):
                return await _asked(self._ray, self._actor, "open", errand)
        except TimeoutError:
            return ConfigurationError(
                f"no actor came up within {self._patience:g} s: the cluster has no "
                "room for it. Ask for fewer with RayBackend(actors=...), for less of "
                "each with cpus=..., or wait longer with patience=..."
            )

    def put(self, items: list[Item]) -> None:
        """Give it inputs; what goes wrong is told by `take`."""
        try:
            _check_up(self._ray)
            self._actor.put.remote(items)
        except Exception as exc:  # noqa: BLE001 - of a lost cluster; `take` tells
            logger.debug("an actor was not reached: %s", type(exc).__name__)

    async def take(self) -> Report:
        """Wait for its next report."""
        return await _asked(self._ray, self._actor, "take")

    async def close(self) -> Report:
        """Have it cancel what it does, and take its last report."""
        return await _asked(self._ray, self._actor, "close")

    def kill(self) -> None:
        """End its process."""
        _kill(self._ray, self._actor)


class WorkerActor:
    """A `Worker` in a process of Ray's.

    Args:
        name: What it is called.
        coordinator: The handle of the coordinator.
    """

    def __init__(self, name: str, coordinator: Any) -> None:
        ray = _ray()
        link = RayLink(ray, coordinator)
        dump, load = dumper(ray.cloudpickle), ray.cloudpickle.loads
        self._worker = Worker(name, link, dump, load)

    async def open(self, errand: bytes) -> BaseException | None:
        """See `Worker.open`."""
        return await self._worker.open(errand)

    async def put(self, items: list[Item]) -> None:
        """See `Worker.put`."""
        await self._worker.put(items)

    async def take(self) -> Report:
        """See `Worker.take`."""
        return await self._worker.take()

    async def close(self) -> Report:
        """See `Worker.close`."""
        return await self._worker.close()


class RayLink:
    """The coordinator, as an actor reaches it.

    Args:
        ray: Ray.
        coordinator: Its handle.
    """

    def __init__(self, ray: Any, coordinator: Any) -> None:
        self._ray = ray
        self._coordinator = coordinator

    async def sync(
        self, holder: str, asks: dict[int, Ask], funds: FundsAsk | None
    ) -> Grants:
        """See `Coordinator.sync`."""
        return await _asked(self._ray, self._coordinator, "sync", holder, asks, funds)

    async def recall(self, identities: list[str]) -> dict[str, list[Kept]] | Any:
        """See `Coordinator.recall`."""
        return await _asked(self._ray, self._coordinator, "recall", identities)

    def append(self, which: Which, rows: list[Row]) -> InfEngineError | None:
        """See `Coordinator.append`; waits, in any thread."""
        return self._waited("append", which, rows)

    def fetch(self, key: bytes) -> str | InfEngineError | None:
        """See `Coordinator.fetch`; waits, in any thread."""
        return self._waited("fetch", key)

    def _waited(self, method: str, *args: Any) -> Any:
        try:
            return self._ray.get(getattr(self._coordinator, method).remote(*args))
        except self._ray.exceptions.RayError as exc:
            return _lost(exc)


def _refuse_client(address: str | None) -> None:
    """Refuse an address that leaves this process outside of the cluster."""
    if address is not None and address.startswith("ray://"):
        raise ConfigurationError(
            "RayBackend cannot use a Ray Client (ray://): the journal is a file of "
            "this machine, and the coordinator runs here. Run this program on a "
            "machine of the cluster (ray job submit), with address='auto'."
        )


def _knock(address: str | None) -> None:
    """Make sure that somebody listens; Ray itself tries for minutes.

    Raises:
        OSError: If nobody does.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def _in_a_thread(call: Callable[[], None]) -> "Future[None]":
    """Call in a thread that lives as long as this process.

    The kernel ends the processes of a cluster together with the thread that started
    them.
    """
    future: Future[None] = Future()

    def live() -> None:
        try:
            future.set_result(call())
        except BaseException as exc:  # noqa: BLE001 - raised where it is awaited
            future.set_exception(exc)
        threading.Event().wait()

    threading.Thread(target=live, name="ray", daemon=True).start()
    return future


async def _asked(ray: Any, actor: Any, method: str, *args: Any) -> Any:
    """Call a method of an actor.

    Raises:
        ActorLostError: If it is gone, or failed as it should not.
    """
    _check_up(ray)
    try:
        sent = getattr(actor, method).remote(*args)
    except Exception as exc:
        raise _lost(exc) from exc  # it is a plain one where the cluster is gone
    try:
        return await sent
    except ray.exceptions.RayError as exc:
        raise _lost(exc) from exc


def _check_up(ray: Any) -> None:
    """Make sure that Ray was not shut down; a call would start a new cluster then.

    Raises:
        ActorLostError: If it was.
    """
    if not ray.is_initialized():
        raise ActorLostError(
            "Ray was shut down while a map was under way. Call ray.shutdown() after "
            "it, and run the same call again: what is in the journal is not paid twice."
        )


def _kill(ray: Any, actor: Any) -> None:
    """End the process of an actor, if it is there."""
    try:
        if ray.is_initialized():
            ray.kill(actor)
    except Exception as exc:  # noqa: BLE001 - a plain one where the cluster is gone
        logger.debug("an actor was gone: %s", type(exc).__name__)


def _lost(error: Exception) -> ActorLostError:
    """Return what is said of an error of Ray's, which ends with the cause."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ActorLostError(
        "a process of the map is gone, or does not answer "
        f"({type(error).__name__}: {lines[-1].strip()[:200] if lines else ''}). What "
        "is in the journal is not paid again: run the same call once more. If it never "
        "began, see that this version of inf-engine is installed where the actors run."
    )
