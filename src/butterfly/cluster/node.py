"""`NodeAgent`: a process that offers itself to a head, and is a stage when told to be.

The control connection has the event loop; layers run in a thread of their own, one for
each epoch. The next epoch closes the ring of the one before, which wakes its thread and
ends it. The process ends when the head is gone.
"""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from butterfly.cluster.joining import store_of
from butterfly.cluster.measuring import answered
from butterfly.cluster.profile import free_memory, shape_of, stage_bytes
from butterfly.cluster.roles import Role
from butterfly.communication.control import Connection
from butterfly.communication.links import Ring
from butterfly.engine.stage import Shape, Stage
from butterfly.engine.team import stage_of
from butterfly.engine.weights import Checkpoint
from butterfly.engine.worker import Worker
from butterfly.errors import ClusterError, ConfigurationError

_log = logging.getLogger("butterfly.node")
BEAT = 0.5  # seconds between heartbeats


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What a node can be told.

    Args:
        host: Where the head is.
        port: Its control port.
        secret: The cluster's secret.
        name: What the node is called; empty for the name of the host.
        address: The address of the interface that frames come in at.
        memory: Bytes that it offers; 0 for what is free.
        device: Where to compute.
        threads: How many threads compute, in each process.
        tensor: How many processes compute each layer together.
    """

    host: str
    port: int
    secret: str
    name: str = ""
    address: str = "127.0.0.1"
    memory: int = 0
    device: str = "cpu"
    threads: int = 1
    tensor: int = 1


class NodeAgent:
    """Offers a process to a head.

    Args:
        options: What it was told.
    """

    def __init__(self, options: NodeOptions) -> None:
        self.options = options
        self._epoch = -1
        self._role: Role | None = None
        self._worker: Worker | None = None
        self._stages: dict[tuple[Any, ...], Stage] = {}
        self._loading = threading.Lock()  # nobody loads what another one loads already
        self._is_asleep = False
        self._over = threading.Event()  # set when the epoch is
        self._loop: asyncio.AbstractEventLoop
        self._connection: Connection

    async def run(self) -> None:
        """Serve until the head is gone.

        Raises:
            ClusterError: If there is no head, or it does not know the secret.
            ConfigurationError: If the head turned it away.
        """
        torch.set_num_threads(self.options.threads)
        o = self.options
        self._loop = asyncio.get_running_loop()
        self._connection = await Connection.to(o.host, o.port, o.secret)
        self._connection.send({"event": "join", **self._about()})
        beats = asyncio.ensure_future(self._beat())
        try:
            while (message := await self._connection.receive()).get("do") != "stop":
                self._obey(message)
            if message.get("error"):
                raise ConfigurationError(str(message["error"]))
        except ClusterError:
            return  # the head is gone
        except (KeyError, TypeError, ValueError) as exc:
            _log.warning("the head sent what is no message: %r", exc)
        finally:
            self._over.set()
            beats.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beats
            self._connection.close()

    # -- inside -----------------------------------------------------------------

    def _obey(self, message: dict[str, Any]) -> None:
        """Do what the head says."""
        if message.get("do") in ("stage", "prepare", "sleep", "wake"):
            self._is_asleep = message["do"] == "sleep"
        if message.get("do") == "stage":
            self._begin(Role.of(message))
        elif message.get("do") == "prepare":
            self._start(self._prepare, Role.of(message))
        elif message.get("do") == "adapt" and self._role is not None:
            self._adapt(message)
        elif message.get("do") == "measure":
            self._measure(message)
        elif message.get("do") == "sleep":
            self._sleep()
        elif message.get("do") == "wake" and self._role is not None:
            self._start(self._wake, self._role)

    def _about(self) -> dict[str, Any]:
        return {
            "name": self.options.name or socket.gethostname(),
            "address": self.options.address,
            "host": socket.gethostname(),
            "memory": self.options.memory or free_memory(self.options.device),
            "device": self.options.device,
            "pid": os.getpid(),
        }

    async def _beat(self) -> None:
        while True:
            worker = self._worker
            told: dict[str, Any] = {"event": "beat", "epoch": self._epoch}
            if worker is not None:
                told["busy"] = worker.busy
                told["sent"] = _traffic(worker.ring.sent)
                told["received"] = _traffic(worker.ring.received)
            self._connection.send(told)
            await asyncio.sleep(BEAT)

    def _begin(self, role: Role) -> None:
        """Begin an epoch in a thread of its own."""
        if self._worker is not None:
            self._worker.stage = None
            self._worker.ring.abort()
        self._over.set()
        self._over = over = threading.Event()
        self._epoch, self._role, self._worker = role.epoch, role, None
        self._start(lambda role: self._serve(role, over), role)

    def _start(self, work: Callable[[Role], None], role: Role) -> None:
        """Do work in a thread of its own; tell the head if it fails."""

        def run() -> None:
            try:
                work(role)
            except Exception as exc:  # noqa: BLE001 - the head is told
                self._tell(
                    {"event": "failed", "epoch": role.epoch, **_failure(exc, role)}
                )

        name = f"epoch-{role.epoch}"
        threading.Thread(target=run, name=name, daemon=True).start()

    def _measure(self, message: dict[str, Any]) -> None:
        """Measure what the head asks for, in a thread of its own."""
        o = self.options
        machine = {"name": o.name or "node", "device": o.device, "memory": o.memory}

        def run() -> None:
            own = {**machine, "tensor": o.tensor}
            self._tell(answered(message, o.host, o.address, **own))

        threading.Thread(target=run, name="measuring", daemon=True).start()

    def _prepare(self, role: Role) -> None:
        """Load the layers of a role that comes later; others may serve meanwhile.

        Without room for both they are loaded when the present ones are gone.
        """
        if self._has_room(role):
            self._stage(role)
        if self._is_asleep:
            self._stages.clear()
        self._tell({"event": "prepared", "epoch": role.epoch})

    def _has_room(self, role: Role) -> bool:
        """Say whether the layers of a role fit beside those that serve."""
        present, o = self._role, self.options
        if present is None or self._present is None:
            return True
        model = shape_of(Checkpoint.of(role.model), dtype=getattr(torch, role.dtype))
        new, old = [
            stage_bytes(model, (r.first, r.last), r.lanes, r.positions)
            for r in (role, present)
        ]
        is_offered = not o.memory or old + new <= o.memory
        return is_offered and new <= free_memory(o.device)

    @property
    def _present(self) -> Stage | None:
        """The stage that serves, None if none does."""
        return None if self._worker is None else self._worker.stage

    def _adapt(self, message: dict[str, Any]) -> None:
        """Load or unload an adapter of the present stage, and those that come."""
        assert self._role is not None
        number, folder = int(message["number"]), message.get("folder")
        others = [pair for pair in self._role.adapters if pair[0] != number]
        added = [] if folder is None else [(number, str(folder))]
        role = dataclasses.replace(self._role, adapters=tuple(others + added))
        self._role = role
        self._start(self._readapt, role)

    def _readapt(self, role: Role) -> None:
        if (stage := self._present) is not None:
            self._match(stage, role)

    def _match(self, stage: Stage, role: Role) -> None:
        """Give a stage the adapters of a role, and tell of each that is new."""
        wanted = {int(number): folder for number, folder in role.adapters}
        for number in stage.adapters.numbers:
            if number not in wanted:
                stage.adapters.unload(number)
        for number in [n for n in wanted if n not in stage.adapters.numbers]:
            told: dict[str, Any] = {"event": "adapted", "number": number}
            try:
                stage.adapters.load(number, Path(wanted[number]))
            except ConfigurationError as exc:
                told["error"] = str(exc)
            self._tell(told)

    def _sleep(self) -> None:
        """Give the layers and lanes away; the links stay."""
        if self._worker is not None:
            self._worker.stage = None
        self._stages.clear()
        gc.collect()
        self._connection.send({"event": "asleep", "epoch": self._epoch})

    def _wake(self, role: Role) -> None:
        """Load the layers again."""
        if self._worker is not None:
            self._worker.stage = self._stage(role)
        self._tell({"event": "awake", "epoch": role.epoch})

    def _serve(self, role: Role, over: threading.Event) -> None:
        """Load the layers, join the ring, and serve."""
        self._stage(role)
        options = self.options
        ring = Ring(
            store_of(options.host, role.store_port),
            *(role.name, role.epoch, role.rank, role.size),
            frame_bytes=role.frame_bytes,
            depth=role.depth,
            address=options.address,
            patience=role.patience,
            over=over,
        )
        # no name of this thread may keep the layers: it may outlive them
        worker = Worker(self._stage(role), ring, codec=role.codec)
        if self._epoch == role.epoch:
            self._worker = worker
            self._readapt(self._role or role)  # it may have been told meanwhile
            worker.run()

    def _stage(self, role: Role) -> Stage:
        """Return the stage of a role; one that is here already is used again.

        Others are dropped before it is loaded, but for the one that serves.
        """
        key = role.model, role.first, role.last, role.lanes, role.positions, role.dtype
        with self._loading:
            found, present = self._stages.pop(key, None), self._present
            if found is not None and not found.is_whole:
                found = None
            kept = self._stages.items() if present is not None else ()
            self._stages = {k: stage for k, stage in kept if stage is present}
            if found is None:
                shape = Shape(role.first, role.last, role.lanes, role.positions)
                found = stage_of(
                    *(Checkpoint.of(role.model), shape),
                    dtype=getattr(torch, role.dtype),
                    device=self.options.device,
                    tensor=self.options.tensor,
                )
            self._stages[key] = found
            self._match(found, role)
            return found

    def _tell(self, message: dict[str, Any]) -> None:
        """Send a message from the thread of an epoch."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: we are ending
            self._loop.call_soon_threadsafe(self._connection.send, message)


def _failure(exc: Exception, role: Role) -> dict[str, Any]:
    """Return what the head is told of an error, and whether it would come again."""
    said, is_final = f"{type(exc).__name__}: {exc}", isinstance(exc, ConfigurationError)
    is_memory = isinstance(exc, (MemoryError, torch.OutOfMemoryError))
    if is_memory or "allocate memory" in said:
        is_final = True
        said = (
            f"there is not the memory for layers {role.first} to {role.last - 1} with "
            f"{role.lanes} lanes of {role.positions} positions ({exc}): serve with "
            "fewer --lanes or --positions, or over more --stages."
        )
    elif is_final:
        said = str(exc)
    return {"error": said[:500], "is_final": is_final}


def _traffic(traffic: Any) -> list[float]:
    return [traffic.frames, traffic.bytes, traffic.waited]
