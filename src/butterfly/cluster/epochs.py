"""`Epochs`: one assignment of layers to nodes after the other.

When an epoch breaks, the next one begins with the nodes that are left, and what open
sequences have until then is sent as their prompt. Their clients notice a pause. What
ends an epoch: a node that is gone, a link that breaks, a frame that is out too long
(`guard`); and, on purpose and with an empty ring, a node that came or a stage that is
slower than its share. A standby loads a stage's layers before it is needed.
"""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from butterfly.cluster.adapters import AdapterTable
from butterfly.cluster.balance import Balance, fastest
from butterfly.cluster.joining import joined, store_at, store_of
from butterfly.cluster.members import Member
from butterfly.cluster.options import HeadOptions
from butterfly.cluster.patience import Patience, Place
from butterfly.cluster.planning import Planning, Split
from butterfly.cluster.pump import Pump
from butterfly.cluster.roles import Role, head_layers, limits_of, roles_of
from butterfly.cluster.share import Share
from butterfly.communication.frames import Frame, Kind
from butterfly.communication.links import Ring
from butterfly.errors import ButterflyError, ClusterError
from butterfly.scheduling import Scheduler

_log = logging.getLogger("butterfly.head")
_GATHERING = 0.1  # seconds in which all nodes that died together are found missing
_NONE = -1  # the epoch of what is only prepared
_MOST_PAUSE = 5.0  # seconds between epochs that do not begin
_ROUND = 0.5  # seconds between two looks at what is out
_FORGIVEN = 60.0  # seconds after which an old stuck frame is not held against a node
_MOST_STUCK = 2  # frames, until a node is sent away
_MOST_BARREN = 5  # epochs in a row from which no frame came back
READY = 600.0
"""Seconds to load layers and join the ring."""


class Epochs:
    """The epochs of a cluster.

    Args:
        options: What the head was told.
        config: The transformers configuration of the model.
        adapters: The adapters that are loaded.
        planning: Says who is which stage.
        share: The nodes of this ring.
        numbers: Gives the numbers of epochs; no two rings have the same.
        stranded: Is told when an epoch cannot begin: others may serve what is open.

    Attributes:
        epoch: The number of the present epoch.
        store: Where its nodes find each other.
        planning: Says who is which stage.
        share: The nodes of this ring.
        pump: What serves sequences over the ring of the epoch.
        is_serving: Set while the ring is whole.
        turning: Held while all stages are told to do something.
        trouble: Why nothing can be served, and will not be soon; empty if it can.
        failure: Why a node could not load its layers, empty if all could.
    """

    def __init__(
        self,
        options: HeadOptions,
        config: Any,
        adapters: AdapterTable,
        planning: Planning,
        *,
        share: Share,
        numbers: Iterator[int],
        stranded: Callable[["Epochs"], None],
    ) -> None:
        self._options, self._config, self._adapters = options, config, adapters
        self.planning, self.share = planning, share
        self._numbers, self._stranded = numbers, stranded
        self.epoch = 0
        scheduler = Scheduler(
            *(options.lanes, options.positions),
            reuse=options.reuse,
            speculate=options.speculate,
        )
        patience = Patience(options.patience)
        self.pump = Pump(scheduler, self.broke, self._measured, patience)
        self._head_layers = head_layers(config)
        self._balance = Balance(
            config.num_hidden_layers, self._head_layers, options.rebalance
        )
        self.is_serving = asyncio.Event()
        self.turning = asyncio.Lock()
        self.store: Any = None
        self._changed = asyncio.Event()
        self._lost = asyncio.Event()  # a node of the epoch is gone
        self._is_closing = self._is_uneven = False
        self._since = time.monotonic()  # when an epoch was whole, or the head began
        self._pause = 0.2
        self._barren = 0
        self.trouble = self.failure = ""

    def start(self) -> None:
        """Open the store."""
        self.store = store_at(self._options.address)

    def close(self) -> None:
        """Leave the ring; no epoch follows."""
        self._is_closing = True
        self._leave_ring()

    @property
    def members(self) -> list[Member]:
        """The nodes that are here."""
        return self.share.members

    @property
    def stages(self) -> list[Member]:
        """The nodes of the present epoch."""
        ranks = {
            m.role.rank: m
            for m in self.members
            if m.role and m.role.epoch == self.epoch
        }
        return [ranks[rank] for rank in sorted(ranks)]

    @property
    def standbys(self) -> list[Member]:
        """The nodes that are no stages now."""
        return [m for m in self.members if m not in self.stages]

    async def changed(self) -> None:
        """Wait until a frame or a word came, or the ring broke."""
        await self.pump.changed()

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
        epoch = message.get("epoch")
        if message.get("event") == "beat":
            member.beat(message)
        elif message.get("event") in ("asleep", "awake") and epoch == self.epoch:
            member.is_asleep = message["event"] == "asleep"
        elif message.get("event") == "adapted":
            member.adapters[int(message["number"])] = str(message.get("error", ""))
        elif message.get("event") == "measured":
            member.answers[str(message.get("key"))] = message
        elif message.get("event") == "prepared":
            member.is_ready = True
        elif message.get("event") == "failed" and epoch in (_NONE, self.epoch):
            self._failed(member, message)
        self.pump.stir()

    def _failed(self, member: Member, message: dict[str, Any]) -> None:
        """A node could not do what it was told, or its ring broke."""
        said = f"{member.name}: {message.get('error')}"
        if message.get("epoch") == _NONE and member in self.stages:
            _log.warning("%s: it loads layers when the epoch is over", said)
            member.is_ready = True
            return
        is_final = bool(message.get("is_final"))
        if is_final:
            self.failure = said
        if message.get("epoch") == _NONE or (is_final and not member.has_served):
            self.share.dismiss(member, said)
        else:
            self.broke(self.epoch, said)

    def left(self, member: Member, why: str) -> None:
        """A node is gone: its epoch is over if it had a role in it."""
        self.pump.stir()
        if member.role is not None and member.role.epoch == self.epoch:
            self.broke(self.epoch, f"{member.name}: {why}")
        elif not self._is_closing:
            _log.warning("%s is gone: %s", member.name, why)

    def broke(self, epoch: int, why: str) -> None:
        """End an epoch; the next one begins as soon as there are nodes.

        Args:
            epoch: Its number.
            why: What happened.
        """
        if epoch != self.epoch or self._is_closing:
            return
        self._lost.set()
        if self.pump.ring is None:
            return
        _log.warning("epoch %d is over: %s", epoch, why)
        self._leave_ring()
        self._barren += 1
        if self._barren >= _MOST_BARREN:
            self._barren = 0
            self.pump.fail(
                ClusterError(
                    f"{_MOST_BARREN} times in a row no frame came back, at last: {why}."
                )
            )
        self.stir()

    def _leave_ring(self) -> None:
        """Leave a ring that is not whole; who waits on it is woken."""
        ring = self.pump.end()
        self.is_serving.clear()
        self._since = time.monotonic()
        if ring is not None:
            ring.abort()

    def _rest(self) -> None:
        """Let standbys give away what they have prepared."""
        for member in self.standbys:
            member.prepared = None
            member.connection.send({"do": "sleep"})

    def _measured(self, seconds: list[float]) -> None:
        """Take what the stages computed for a frame."""
        self._barren = 0
        speeds = self._balance.add(seconds, time.monotonic())
        if speeds is not None and not self._is_uneven:  # else others are prepared
            usual = sum(speeds) / len(speeds)
            for member, speed in zip(self.stages, speeds, strict=True):
                member.speed = speed / usual
            self._is_uneven = True
            self.stir()

    async def guard(self) -> None:
        """End epochs whose frames are stuck, and let nobody wait for ever."""
        while True:
            await asyncio.sleep(min(_ROUND, self._options.patience / 4))
            counts = [_counts(member) for member in self.stages]
            if (found := self.pump.stuck(counts)) is not None:
                self._unstick(*found)
            if self.epoch and not self.members and self._is_late():
                self._give_up("no node is left, start some with `butterfly node`")

    def _unstick(self, place: Place, seconds: float) -> None:
        """End an epoch whose frame is stuck; who is at fault again is sent away."""
        if time.monotonic() - self._since > _FORGIVEN:
            for member in self.stages:
                member.stuck = 0
        stages = self.stages
        ends = stages[max(0, place.rank - 2) : place.rank] or stages[-1:]
        for member in ends[-1:] if place.is_computing else ends:
            member.stuck += _MOST_STUCK if place.is_computing else 1
        self.pump.patience.double()
        worst = max(reversed(stages), key=lambda member: member.stuck)
        name = stages[place.rank - 1].name if place.rank else "the head"
        at = "at" if place.is_computing else "on the way to"
        why = f"a frame is out for {seconds:.1f} s, {at} {name}"
        self.broke(self.epoch, why)
        if worst.stuck >= _MOST_STUCK and len(self.members) > 1:
            self.share.dismiss(
                worst, f"{why}, and frames were stuck at {worst.name} before."
            )

    def _is_late(self) -> bool:
        """Say whether clients have waited for an epoch long enough."""
        late = time.monotonic() - self._since > self._options.wait
        return late and self.pump.ring is None and not self.pump.is_asleep

    def _give_up(self, why: str) -> None:
        """Let nobody wait any longer."""
        self.trouble = f"nothing can be served: {why}."
        self.pump.fail(ClusterError(self.trouble))

    # -- what is done -----------------------------------------------------------

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to all stages.

        Args:
            message: JSON.
        """
        for member in self.stages:
            member.connection.send(message)

    async def sleep(self) -> None:
        """Let the nodes give their layers and lanes away; what is open stays."""
        async with self.turning:
            self.pump.is_asleep = True
            await self.pump.drained()
            await self._turn("sleep", True)

    async def wake(self) -> None:
        """Let the nodes load their layers again, and go on."""
        async with self.turning:
            if not self.pump.is_asleep:
                return
            await self._turn("wake", False)
            self.pump.is_asleep = False
            self.pump.scheduler.reset()
            self.stir()
            self.pump.push()

    async def _turn(self, do: str, is_asleep: bool) -> None:
        """Tell the stages to sleep or to wake, until they have or the ring broke."""
        stages, pump = self.stages, self.pump
        if pump.ring is not None:
            self.tell({"do": do})
            self._rest()
        while pump.ring is not None and any(m.is_asleep != is_asleep for m in stages):
            await pump.changed()

    async def reign(self) -> None:
        """Begin an epoch whenever there is none and there are nodes."""
        planning = self.planning
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self.pump.is_asleep:
                continue
            if self._why():
                await self._prepare()
            async with self.turning:
                if (why := self._why()) and not self.pump.is_asleep:
                    await self._retire(why)
            if self.pump.ring is None and planning.can_begin(self):
                await self._try()
            if self.pump.ring is not None:
                self._warm()

    async def _try(self) -> None:
        """Begin an epoch, unless the nodes are to sleep; come again if it fails."""
        async with self.turning:
            if self.pump.is_asleep:
                return
            late = self._is_late()
            try:
                await self._begin()
                return
            except ButterflyError as exc:
                why = self.failure or str(exc)
                _log.warning("epoch %d did not begin: %s", self.epoch, why)
                if late:
                    self._give_up(why.rstrip("."))
        self._stranded(self)
        self._changed.set()
        await asyncio.sleep(self._pause)
        self._pause = min(_MOST_PAUSE, 2 * self._pause)

    def _why(self) -> str:
        """Return why the epoch is to end though it is whole; empty if it is not."""
        if self.pump.ring is None:
            return ""
        if self.planning.is_outdated(self.members):
            return "a node came"
        return "a stage is slower than its share" if self._is_uneven else ""

    async def _prepare(self) -> None:
        """Let nodes load what they will be, while the present epoch serves."""
        members = self.members
        try:
            split = await self.planning.split(self)
        except ClusterError as exc:
            _log.warning("the next epoch is not prepared: %s", exc)
            return
        chosen = zip(split.members, self._roles("", split), strict=True)
        new = [(m, r) for m, r in chosen if not self._has(m, r)]
        for member, role in new:
            member.is_ready, member.prepared = False, None
            role = dataclasses.replace(role, epoch=_NONE)
            member.connection.send({**role.message(), "do": "prepare"})
        while self.pump.ring is not None and any(
            member in members and not member.is_ready for member, _ in new
        ):
            await self.pump.changed()

    def _has(self, member: Member, role: Role) -> bool:
        """Say whether a node serves the layers of a role."""
        now = member.role
        if now is None or now.epoch != self.epoch:
            return False
        return (now.first, now.last) == (role.first, role.last)

    def _warm(self) -> None:
        """Let standbys load the layers of a stage: the last one first."""
        stages = self.stages
        for number, member in enumerate(self.standbys):
            role = stages[-1 - number % len(stages)].role
            if role is None or member.prepared == (role.first, role.last):
                continue
            member.prepared = role.first, role.last
            role = dataclasses.replace(role, epoch=_NONE)
            member.connection.send({**role.message(), "do": "prepare"})

    async def _retire(self, why: str) -> None:
        """End an epoch that is whole, to begin another."""
        self.pump.is_retiring = True
        await self.pump.drained()
        self.pump.is_retiring = False
        ring = self.pump.end()
        self.is_serving.clear()
        if ring is not None:
            _log.warning("epoch %d is over: %s", self.epoch, why)
            self._since = time.monotonic()
            with contextlib.suppress(ButterflyError):
                ring.send(Frame(self.epoch, 0, (), Kind.END, b""))

    async def _begin(self) -> None:
        """Give out roles, join the ring, and go on with what is open."""
        if self._lost.is_set():
            await asyncio.sleep(_GATHERING)
        if not self.members:
            raise ClusterError("no node is left.")
        self.epoch = next(self._numbers)
        self._lost.clear()
        name = secrets.token_hex(8)
        split = await self.planning.split(self)
        roles = self._roles(name, split)
        self.planning.current = split
        address = self._options.address
        for member, role in zip(split.members, roles, strict=True):
            member.role, member.is_ready, member.is_asleep = role, False, False
            member.prepared = None
            member.connection.send(role.message())
        ring = await joined(
            lambda over: Ring(
                *(store_of(address, self.store.port), name, self.epoch),
                *(0, len(roles) + 1),
                frame_bytes=roles[0].frame_bytes,
                depth=roles[0].depth,
                address=address,
                patience=READY,
                over=over,
            ),
            self._lost,
        )
        self.pump.begin(ring, limits_of(self._options, split.chain))
        self.is_serving.set()
        self._balance.begin([(role.first, role.last) for role in roles])
        self._since, self._pause, self._is_uneven = time.monotonic(), 0.2, False
        self.trouble = self.failure = ""
        for member in split.members:
            member.has_served = True

    def _roles(self, name: str, split: Split) -> list[Role]:
        """Return the roles of an epoch, in the order of the ring."""
        place = self.epoch, name, self.store.port
        roles = roles_of(self._options, self._config, place, split.chain)
        adapters = self._adapters.folders
        ranges = self._measured_ranges(split) or [(r.first, r.last) for r in roles]
        return [
            dataclasses.replace(
                role, first=first, last=last, adapters=adapters, patience=READY
            )
            for role, (first, last) in zip(roles, ranges, strict=True)
        ]

    def _measured_ranges(self, split: Split) -> list[tuple[int, int]]:
        """Return ranges by measured speeds, none if no stage was found to be slow.

        What the user decided, a plan or an even split, is kept.
        """
        told = [member.speed for member in split.members]
        if split.rule in ("plan", "even") or told.count(None) == len(told):
            return []
        speeds = [1.0 if speed is None else speed for speed in told]
        return fastest(self._config.num_hidden_layers, self._head_layers, speeds)


def _counts(member: Member) -> tuple[int, int]:
    """Return how many frames a stage received and sent, as its last heartbeat said."""
    told = member.told
    if member.role is None or told.get("epoch") != member.role.epoch:
        return 0, 0
    return told["received"][0], told["sent"][0]
