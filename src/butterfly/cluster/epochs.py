"""`Epochs`: one assignment of layers to nodes after the other.

When an epoch breaks, the next one begins with the nodes that are left, and what open
sequences have until then is sent as their prompt. Their clients notice a pause.
"""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
from typing import Any

from butterfly.cluster.adapters import AdapterTable
from butterfly.cluster.joining import joined, store_at
from butterfly.cluster.members import Member
from butterfly.cluster.membership import Membership
from butterfly.cluster.options import HeadOptions
from butterfly.cluster.pump import Pump
from butterfly.cluster.roles import Role, roles_of
from butterfly.communication.frames import Frame, Kind
from butterfly.communication.links import Ring
from butterfly.errors import ButterflyError
from butterfly.scheduling import Scheduler

_log = logging.getLogger("butterfly.head")
_GATHERING = 0.1  # seconds in which all nodes that died together are found missing
_NONE = -1  # the epoch of what is only prepared
READY = 600.0
"""Seconds to load layers and join the ring."""


class Epochs:
    """The epochs of a cluster.

    Args:
        options: What the head was told.
        config: The transformers configuration of the model.
        adapters: The adapters that are loaded.

    Attributes:
        number: The number of the present epoch.
        membership: The nodes.
        pump: What serves sequences over the ring of the epoch.
        is_serving: Set while the ring is whole.
        turning: Held while all stages are told to do something.
    """

    def __init__(
        self, options: HeadOptions, config: Any, adapters: AdapterTable
    ) -> None:
        self._options, self._config, self._adapters = options, config, adapters
        self.number = 0
        self.membership = Membership(options, self)
        scheduler = Scheduler(
            options.lanes,
            options.positions,
            frames=options.frames or options.stages,
            chunk=options.chunk,
            reuse=options.reuse,
        )
        self.pump = Pump(scheduler, self.broke)
        self.is_serving = asyncio.Event()
        self.turning = asyncio.Lock()
        self._store: Any = None
        self._changed = asyncio.Event()
        self._lost = asyncio.Event()  # a node of the epoch is gone
        self._is_closing = False

    def start(self) -> None:
        """Open the store."""
        self._store = store_at(self._options.address)

    def close(self) -> None:
        """Leave the ring; no epoch follows."""
        self._is_closing = True
        self.pump.end()

    @property
    def stages(self) -> list[Member]:
        """The nodes of the present epoch."""
        members = self.membership.members
        return [m for m in members if m.role and m.role.epoch == self.number]

    # -- what happens -----------------------------------------------------------

    def came(self, member: Member) -> None:
        """A node is here: see whether it is needed."""
        del member
        self.stir()

    def stir(self) -> None:
        """See whether an epoch is to begin or to end."""
        self._changed.set()

    def heard(self, member: Member, message: dict[str, Any]) -> None:
        """Take what a node said."""
        role, epoch = member.role, message.get("epoch")
        if message.get("event") == "beat":
            member.told = message
        elif message.get("event") == "ready" and role and epoch == role.epoch:
            member.is_ready = True
        elif message.get("event") in ("asleep", "awake") and epoch == self.number:
            member.is_asleep = message["event"] == "asleep"
        elif message.get("event") == "adapted":
            member.adapters[message["number"]] = str(message.get("error", ""))
        elif message.get("event") == "prepared":
            member.is_ready = True
        elif message.get("event") == "failed" and epoch == _NONE:
            self.membership.leave(member, str(message.get("error")))
        elif message.get("event") == "failed" and epoch == self.number:
            self.broke(self.number, f"{member.name}: {message.get('error')}")
        self.pump.stir()

    def left(self, member: Member, why: str) -> None:
        """A node is gone: its epoch is over if it had a role in it."""
        self.pump.stir()
        if member.role is not None and member.role.epoch == self.number:
            self.broke(self.number, f"{member.name}: {why}")

    def broke(self, epoch: int, why: str) -> None:
        """End an epoch; the next one begins as soon as there are nodes.

        Args:
            epoch: Its number.
            why: What happened.
        """
        if epoch != self.number or self._is_closing:
            return
        self._lost.set()
        if self.pump.ring is None:
            return
        _log.warning("epoch %d is over: %s", epoch, why)
        self.pump.end()
        self.is_serving.clear()
        self.stir()

    # -- what is done -----------------------------------------------------------

    async def reign(self) -> None:
        """Begin an epoch whenever there is none and there are nodes."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self.pump.is_asleep:
                continue
            if self.pump.ring is not None and self._is_short():
                await self._prepare()
            if self.pump.ring is not None and self._is_short():
                await self._retire()
            if self.pump.ring is None and self._count() >= self._needed():
                await self._try()

    async def _try(self) -> None:
        """Begin an epoch, unless the nodes are to sleep; come again if it fails."""
        async with self.turning:
            if self.pump.is_asleep:
                return
            try:
                await self._begin()
                return
            except ButterflyError as exc:
                _log.warning("epoch %d did not begin: %s", self.number, exc)
        self._changed.set()
        await asyncio.sleep(0.2)

    def _needed(self) -> int:
        """Return how many nodes an epoch takes: all at first, later any."""
        return self._options.stages if self.number == 0 else 1

    def _count(self) -> int:
        """Return how many stages there could be."""
        return min(self._options.stages, len(self.membership.members))

    def _is_short(self) -> bool:
        """Say whether there are nodes for more stages than there are."""
        return len(self.stages) < self._count()

    async def _prepare(self) -> None:
        """Let the nodes that came load what they will be; the others go on."""
        members = self.membership.members
        chosen = zip(members, self._roles("", self._count()), strict=False)
        new = [(m, r) for m, r in chosen if not m.role or m.role.epoch != self.number]
        for member, role in new:
            role = dataclasses.replace(role, epoch=_NONE)
            member.connection.send({**role.message(), "do": "prepare"})
        while self.pump.ring is not None and any(
            member in members and not member.is_ready for member, _ in new
        ):
            await self.pump.changed()

    async def _retire(self) -> None:
        """End an epoch that is whole, to begin one with more stages."""
        self.pump.is_retiring = True
        await self.pump.drained()
        self.pump.is_retiring = False
        ring = self.pump.end()
        self.is_serving.clear()
        if ring is not None:
            _log.warning("epoch %d is over: a node came", self.number)
            with contextlib.suppress(ButterflyError):
                ring.send(Frame(self.number, 0, (), Kind.END, b""))

    async def _begin(self) -> None:
        """Give out roles, join the ring, and go on with what is open."""
        await asyncio.sleep(_GATHERING)
        self.number += 1
        self._lost.clear()
        name = secrets.token_hex(8)
        chosen = self.membership.members[: self._options.stages]
        roles = self._roles(name, len(chosen))
        for member, role in zip(chosen, roles, strict=True):
            member.role, member.is_ready, member.is_asleep = role, False, False
            member.connection.send(role.message())
        ring = await joined(
            lambda: Ring(
                *(self._store, name, self.number, 0, len(roles) + 1),
                frame_bytes=roles[0].frame_bytes,
                depth=roles[0].depth,
                address=self._options.address,
                patience=READY,
            ),
            self._lost,
        )
        self.pump.begin(ring, self._options.frames or len(roles))
        self.is_serving.set()

    def _roles(self, name: str, count: int) -> list[Role]:
        """Return the roles of an epoch, in the order of the ring."""
        place = self.number, name, self._store.port
        roles = roles_of(self._options, self._config, place, count)
        adapters = self._adapters.folders
        return [dataclasses.replace(role, adapters=adapters) for role in roles]
