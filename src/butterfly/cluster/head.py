"""`Head`: the process that clients and nodes connect to.

It holds no weights. It has the store, the control connections, the scheduler and the
two ends of the ring. An epoch is one assignment of layers to nodes; when it breaks the
head begins another with the nodes that are left, and sends what open sequences have
until then as their prompt. Their clients notice a pause.
"""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np

from butterfly.cluster.adapters import AdapterTable
from butterfly.cluster.joining import joined, store_at
from butterfly.cluster.members import Member
from butterfly.cluster.options import HeadOptions
from butterfly.cluster.planning import Planning, Split
from butterfly.cluster.roles import Role, limits_of, roles_of
from butterfly.cluster.token import Token
from butterfly.communication.control import Connection
from butterfly.communication.frames import Frame, Hop, Kind
from butterfly.communication.links import Ring
from butterfly.engine.sampling import Drawn, unpack
from butterfly.engine.weights import Checkpoint
from butterfly.errors import ButterflyError, ClusterError, RequestError
from butterfly.scheduling import Batch, Scheduler, Sequence

_log = logging.getLogger("butterfly.head")
_SILENCE = 5.0  # seconds without a heartbeat
_GATHERING = 0.1  # seconds in which all nodes that died together are found missing
_NONE = -1  # the epoch of what is only prepared
_PARTING = 2.0  # seconds for nodes to go home
_READY = 600.0  # seconds to load layers and join the ring


class Head:
    """Serves sequences over a ring of nodes.

    Args:
        options: What it was told.

    Attributes:
        members: The nodes that are here.
        epoch: The number of the present epoch.
        is_asleep: Whether the nodes are to be without layers.
    """

    def __init__(self, options: HeadOptions) -> None:
        self.options = options
        self.checkpoint = Checkpoint.of(options.model)
        self.config = self.checkpoint.config()
        self.members: list[Member] = []
        self.epoch = 0
        self.is_asleep = False
        self.adapters = AdapterTable()
        self.planning = Planning(options, self.checkpoint, self.config)
        self.scheduler = Scheduler(
            options.lanes, options.positions, reuse=options.reuse
        )
        self.store: Any = None
        self._queues: dict[Sequence, asyncio.Queue[Token | ButterflyError]] = {}
        self._ring: Ring | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._visits: set[asyncio.Task[None]] = set()  # connections of nodes
        self._listener: threading.Thread | None = None
        self._changed = asyncio.Event()
        self._is_serving = asyncio.Event()
        self._news = asyncio.Event()  # a frame or a word came, or the ring broke
        self._lost = asyncio.Event()  # a node of the epoch is gone
        self._turning = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop
        self._is_closing = self._is_retiring = False

    async def start(self) -> None:
        """Listen for nodes.

        Raises:
            ClusterError: If the port is taken.
        """
        self._loop = asyncio.get_running_loop()
        o = self.options
        self.store = store_at(o.address)
        try:
            self._server = await asyncio.start_server(
                self._joined, o.address, o.control_port, limit=1 << 20
            )
        except OSError as exc:
            raise ClusterError(
                f"cannot listen on {o.address}:{o.control_port} ({exc.strerror}): "
                "take another --control-port."
            ) from exc
        self._spawn(self._watch())
        self._spawn(self._reign())

    @property
    def port(self) -> int:
        """The port that nodes connect to."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def is_serving(self) -> bool:
        """Whether the ring is whole."""
        return self._ring is not None

    async def ready(self, patience: float = _READY) -> None:
        """Wait until the ring serves.

        Args:
            patience: Seconds to wait.

        Raises:
            ClusterError: If it does not in time.
        """
        try:
            await asyncio.wait_for(self._is_serving.wait(), patience)
        except TimeoutError as exc:
            raise ClusterError(
                f"after {patience:g} s {self.planning.lacks(self.members)}: start "
                "more with `butterfly node --join`."
            ) from exc

    async def close(self) -> None:
        """Send all nodes home, and end."""
        self._is_closing, self._ring = True, None
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for member in self.members:
            member.connection.send({"do": "stop"})
        if self._visits:
            await asyncio.wait(self._visits, timeout=_PARTING)
        for member in list(self.members):
            member.connection.close()
        if self._visits:
            await asyncio.wait(self._visits, timeout=_PARTING)
        if self._listener is not None:  # it wakes when the last stage is gone
            await asyncio.to_thread(self._listener.join, _PARTING)

    async def generate(self, sequence: Sequence) -> AsyncGenerator[Token, None]:
        """Give the tokens of a sequence as they come; leaving the loop ends it.

        Args:
            sequence: What to generate.

        Raises:
            RequestError: If it does not fit.
            CapacityError: If too many wait already.
            ClusterError: If no nodes are left to serve it.
        """
        self.scheduler.add(sequence)
        queue = self._queues[sequence] = asyncio.Queue()
        self._pump()
        try:
            while True:
                told = await queue.get()
                if isinstance(told, ButterflyError):
                    raise told
                yield told
                if told.finish:
                    return
        finally:
            del self._queues[sequence]
            if not sequence.finish:
                self.scheduler.abort(sequence)

    async def sleep(self) -> None:
        """Let the nodes give their layers and lanes away.

        Open sequences stay, and go on after `wake`.
        """
        async with self._turning:
            self.is_asleep = True
            while self._ring is not None and self.scheduler.in_flight:
                await self.changed()
            await self._turn("sleep", True)

    async def wake(self) -> None:
        """Let the nodes load their layers again, and go on."""
        async with self._turning:
            if not self.is_asleep:
                return
            await self._turn("wake", False)
            self.is_asleep = False
            self.scheduler.reset()
            self._changed.set()
            self._pump()

    async def _turn(self, do: str, is_asleep: bool) -> None:
        """Tell the stages to sleep or to wake, until they have or the ring broke."""
        stages = self.stages
        if self._ring is not None:
            self.tell({"do": do})
        while self._ring is not None and any(m.is_asleep != is_asleep for m in stages):
            await self.changed()

    async def load_adapter(self, name: str, folder: str) -> None:
        """Load an adapter on all stages; requests may name it then.

        Args:
            name: What requests will call it.
            folder: Where PEFT saved it; every node must find it there.

        Raises:
            ConfigurationError: If the name is taken, or a node cannot load it. Nothing
                is loaded then.
        """
        async with self._turning:
            await self.adapters.load(name, folder, self)

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter; what is generated with it ends.

        Args:
            name: What requests call it.

        Raises:
            ConfigurationError: If there is none.
        """
        gone = self.adapters.remove(name)
        error = RequestError(f"the adapter {name!r} was unloaded.")
        for sequence, queue in self._queues.items():
            if sequence.adapter == gone.number:
                queue.put_nowait(error)
                self.scheduler.abort(sequence)
        while any(s.adapter == gone.number for s in self.scheduler.running.values()):
            await self.changed()
        self.tell({"do": "adapt", "number": gone.number})

    @property
    def stages(self) -> list[Member]:
        """The nodes of the present epoch."""
        return [m for m in self.members if m.role and m.role.epoch == self.epoch]

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to all stages.

        Args:
            message: JSON.
        """
        for member in self.stages:
            member.connection.send(message)

    async def changed(self) -> None:
        """Wait until a frame or a word came, or the ring broke."""
        self._news.clear()
        await self._news.wait()

    # -- the ring ---------------------------------------------------------------

    def _pump(self) -> None:
        """Send frames as long as there is something to send."""
        ring = self._ring
        if ring is None or self.is_asleep or self._is_retiring:
            return
        try:
            while (batch := self.scheduler.plan()) is not None:
                tokens = np.array(batch.tokens, "<i4").tobytes()
                ring.send(
                    Frame(self.epoch, batch.step, batch.segments, Kind.TOKENS, tokens)
                )
        except ButterflyError as exc:
            self._broke(self.epoch, str(exc))

    def _listen(self, ring: Ring) -> None:
        """Take results off the ring, in a thread of their own."""
        try:
            while True:
                frame = ring.receive()
                if frame.kind is Kind.END:
                    return
                payload = bytes(frame.payload)
                told = self._arrived, ring.epoch, frame.step, payload, frame.hops
                self._loop.call_soon_threadsafe(*told)
        except ButterflyError as exc:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._broke, ring.epoch, str(exc))
        except RuntimeError:
            return  # the loop is closed: we are ending

    def _arrived(
        self, epoch: int, step: int, payload: bytes, hops: tuple[Hop, ...]
    ) -> None:
        """Take what came back for a frame, and send the next ones."""
        if epoch != self.epoch or self._ring is None:
            return
        segments = self.scheduler.flying(step).segments
        drawn = {one.lane: one for one in unpack(payload, segments)}
        batch = self.scheduler.settle(step, {k: d.token for k, d in drawn.items()})
        self._pump()
        self._report(batch, drawn, hops)
        self._news.set()

    def _report(
        self, batch: Batch, drawn: dict[int, Drawn], hops: tuple[Hop, ...]
    ) -> None:
        """Tell the clients of a frame what it brought."""
        for sequence, part in zip(batch.sequences, batch.segments, strict=True):
            queue, told = self._queues.get(sequence), drawn.get(part.lane)
            if queue is None or told is None:
                continue
            is_output = told.token is not None and sequence.finish != "stop"
            start = part.start
            queue.put_nowait(Token(told, is_output, sequence.finish, start, hops))

    # -- epochs -----------------------------------------------------------------

    def _broke(self, epoch: int, why: str) -> None:
        """End an epoch; the next one begins as soon as there are nodes."""
        if epoch != self.epoch or self._is_closing:
            return
        self._lost.set()
        if self._ring is None:
            return
        _log.warning("epoch %d is over: %s", epoch, why)
        self._ring = None
        self._is_serving.clear()
        self._changed.set()
        self._news.set()

    async def _reign(self) -> None:
        """Begin an epoch whenever there is none and there are nodes."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self.is_asleep:
                continue
            if self._ring is not None and self.planning.is_outdated(self.members):
                await self._prepare()
            if self._ring is not None and self.planning.is_outdated(self.members):
                await self._retire()
            if self._ring is None and self.planning.can_begin(self):
                await self._try()

    async def _try(self) -> None:
        """Begin an epoch, unless the nodes are to sleep; come again if it fails."""
        async with self._turning:
            if self.is_asleep:
                return
            try:
                await self._begin()
                return
            except ButterflyError as exc:
                _log.warning("epoch %d did not begin: %s", self.epoch, exc)
        self._changed.set()
        await asyncio.sleep(0.2)

    async def _prepare(self) -> None:
        """Let the nodes that came load what they will be; the others go on."""
        try:
            split = await self.planning.split(self)
        except ClusterError as exc:
            _log.warning("the next epoch is not prepared: %s", exc)
            return
        chosen = zip(split.members, self._roles("", split), strict=True)
        new = [(m, r) for m, r in chosen if not m.role or m.role.epoch != self.epoch]
        for member, role in new:
            role = dataclasses.replace(role, epoch=_NONE)
            member.connection.send({**role.message(), "do": "prepare"})
        while self._ring is not None and any(
            member in self.members and not member.is_ready for member, _ in new
        ):
            await self.changed()

    async def _retire(self) -> None:
        """End an epoch that is whole, to begin one with more stages."""
        self._is_retiring = True
        while self._ring is not None and self.scheduler.in_flight:
            await self.changed()
        self._is_retiring = False
        ring, self._ring = self._ring, None
        self._is_serving.clear()
        if ring is not None:
            _log.warning("epoch %d is over: a node came", self.epoch)
            with contextlib.suppress(ButterflyError):
                ring.send(Frame(self.epoch, 0, (), Kind.END, b""))

    async def _begin(self) -> None:
        """Give out roles, join the ring, and go on with what is open."""
        await asyncio.sleep(_GATHERING)
        self.epoch += 1
        self._lost.clear()
        name = secrets.token_hex(8)
        split = await self.planning.split(self)
        roles = self._roles(name, split)
        self.planning.current = split
        for member, role in zip(split.members, roles, strict=True):
            member.role, member.is_ready, member.is_asleep = role, False, False
            member.connection.send(role.message())
        o = self.options
        ring = await joined(
            lambda: Ring(
                *(self.store, name, self.epoch, 0, len(roles) + 1),
                frame_bytes=roles[0].frame_bytes,
                depth=roles[0].depth,
                address=o.address,
                patience=_READY,
            ),
            self._lost,
        )
        self._ring = ring
        self.scheduler.reset(limits_of(o, split.chain))
        self._listener = threading.Thread(
            target=self._listen, args=(ring,), name="listener", daemon=True
        )
        self._listener.start()
        self._is_serving.set()
        self._pump()

    def _roles(self, name: str, split: Split) -> list[Role]:
        place = self.epoch, name, self.store.port
        roles = roles_of(self.options, self.config, place, split.chain)
        adapters = self.adapters.folders
        return [dataclasses.replace(role, adapters=adapters) for role in roles]

    # -- nodes ------------------------------------------------------------------

    async def _joined(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take in a node, and listen to it until it is gone."""
        visit: Any = asyncio.current_task()
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)
        connection = Connection(reader, writer)
        try:
            await connection.prove(self.options.secret, "head", "node")
            about = await connection.receive()
        except ClusterError as exc:
            _log.warning("a connection from %s was refused: %s", connection.peer, exc)
            connection.close()
            return
        member = Member(connection, str(about.get("name", "")), about)
        self.members.append(member)
        self._changed.set()
        try:
            while True:
                self._heard(member, await connection.receive())
        except ClusterError as exc:
            self._left(member, str(exc))

    def _heard(self, member: Member, message: dict[str, Any]) -> None:
        member.seen = time.monotonic()
        role, epoch = member.role, message.get("epoch")
        if message.get("event") == "beat":
            member.told = message
        elif message.get("event") == "ready" and role and epoch == role.epoch:
            member.is_ready = True
        elif message.get("event") in ("asleep", "awake") and epoch == self.epoch:
            member.is_asleep = message["event"] == "asleep"
            self._news.set()
        elif message.get("event") == "measured":
            member.answers[str(message.get("key"))] = message
            self._news.set()
        elif message.get("event") == "adapted":
            member.adapters[message["number"]] = str(message.get("error", ""))
            self._news.set()
        elif message.get("event") == "prepared":
            member.is_ready = True
            self._news.set()
        elif message.get("event") == "failed" and epoch == _NONE:
            self._left(member, str(message.get("error")))
        elif message.get("event") == "failed" and epoch == self.epoch:
            self._broke(self.epoch, f"{member.name}: {message.get('error')}")

    def _left(self, member: Member, why: str) -> None:
        """Forget a node; its epoch is over if it had a role in it."""
        member.connection.close()
        if member in self.members:
            self.members.remove(member)
            self._news.set()
            if member.role is not None and member.role.epoch == self.epoch:
                self._broke(self.epoch, f"{member.name}: {why}")

    async def _watch(self) -> None:
        """Miss the heartbeats of nodes that hang."""
        while True:
            await asyncio.sleep(_SILENCE / 5)
            for member in list(self.members):
                if time.monotonic() - member.seen > _SILENCE:
                    self._left(member, f"no heartbeat for {_SILENCE:g} s")

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
