"""`Head`: the process that clients and nodes connect to.

It holds no weights. Four parts do its work: `Membership` knows the nodes, `Rings` deals
them and the sequences over one or more rings; of each ring, `Epochs` gives the nodes
layers, `Pump` sends frames around and tells clients of their tokens.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from butterfly.cluster.adapters import AdapterTable
from butterfly.cluster.epochs import READY, Epochs
from butterfly.cluster.members import Member
from butterfly.cluster.options import HeadOptions
from butterfly.cluster.pump import Moved
from butterfly.cluster.rings import Rings
from butterfly.cluster.token import Token
from butterfly.engine.weights import Checkpoint
from butterfly.errors import ClusterError, RequestError
from butterfly.scheduling import Scheduler, Sequence

_log = logging.getLogger("butterfly.head")
_PARTING = 2.0  # seconds for a thread to end


class Head:
    """Serves sequences over rings of nodes.

    Args:
        options: What it was told.

    Attributes:
        rings: The rings, each with all layers.
    """

    def __init__(self, options: HeadOptions) -> None:
        self.options = options
        self.checkpoint = Checkpoint.of(options.model)
        self.config = self.checkpoint.config()
        self.adapters = AdapterTable()
        self._all = Rings(options, self.checkpoint, self.config, self.adapters)
        self.rings = self._all.each
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listen for nodes.

        Raises:
            ClusterError: If the port is taken.
        """
        for ring in self.rings:
            ring.start()
        membership = self._all.membership
        await membership.start()
        works = [work() for ring in self.rings for work in (ring.reign, ring.guard)]
        works.append(membership.watch())
        self._tasks = [asyncio.ensure_future(work) for work in works]
        for task in self._tasks:
            task.add_done_callback(_ended)

    async def ready(self, patience: float = READY) -> None:
        """Wait until a ring serves.

        Args:
            patience: Seconds to wait.

        Raises:
            ClusterError: If it does not in time.
        """
        waits = [asyncio.ensure_future(r.is_serving.wait()) for r in self.rings]
        first = asyncio.FIRST_COMPLETED
        try:
            done, _ = await asyncio.wait(waits, timeout=patience, return_when=first)
        finally:
            for wait in waits:
                wait.cancel()
        if not done:
            raise ClusterError(
                f"after {patience:g} s {self.lacks}: start more with "
                "`butterfly node --join`."
            )

    async def close(self) -> None:
        """Send all nodes home, and end."""
        for ring in self.rings:
            ring.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._all.membership.close()
        for ring in self.rings:
            await asyncio.to_thread(ring.pump.join, _PARTING)

    # -- what it is like --------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that nodes connect to."""
        return self._all.membership.port

    @property
    def members(self) -> list[Member]:
        """The nodes that are here."""
        return self._all.membership.members

    @property
    def stages(self) -> list[Member]:
        """The nodes of the rings that are whole, ring by ring."""
        return [m for ring in self._whole for m in ring.stages]

    @property
    def lacks(self) -> str:
        """Which nodes the first ring waits for, empty if none."""
        return self.rings[0].planning.lacks(self.rings[0].members)

    @property
    def epoch(self) -> int:
        """The number of the newest epoch."""
        return max(ring.epoch for ring in self.rings)

    @property
    def scheduler(self) -> Scheduler:
        """What says what travels in the next frame of the first ring."""
        return self.rings[0].pump.scheduler

    @property
    def is_serving(self) -> bool:
        """Whether a ring is whole."""
        return bool(self._whole)

    @property
    def failure(self) -> str:
        """Why a node could not load its layers, empty if all could."""
        return next((ring.failure for ring in self.rings if ring.failure), "")

    @property
    def trouble(self) -> str:
        """Why nothing can be served, and will not be soon; empty if it can."""
        said = [ring.trouble for ring in self.rings if ring.epoch]
        return said[0] if said and all(said) else ""

    @property
    def is_asleep(self) -> bool:
        """Whether the nodes are to be without layers."""
        return self.rings[0].pump.is_asleep

    # -- what it does -----------------------------------------------------------

    def check(self, *sequences: Sequence) -> None:
        """Say whether sequences could be served.

        Args:
            sequences: The sequences.

        Raises:
            RequestError: If one does not fit.
            CapacityError: If too many wait already.
        """
        self._all.best().pump.scheduler.check(*sequences)

    def generate(self, sequence: Sequence) -> AsyncGenerator[Token, None]:
        """Give the tokens of a sequence as they come, as `Pump.generate` does.

        When its ring has no nodes any more, another one goes on.

        Args:
            sequence: What to generate.

        Raises:
            RequestError: If it does not fit, or its adapter was unloaded.
            CapacityError: If too many wait already.
            ClusterError: If no nodes are left to serve it.
        """
        self._must_know(sequence.adapter)
        return self._served(sequence)

    async def _served(self, sequence: Sequence) -> AsyncGenerator[Token, None]:
        """Give the tokens of a sequence, of one ring after the other."""
        while True:
            self._must_know(sequence.adapter)
            ring = self._all.best(sequence)
            try:
                async with aclosing(ring.pump.generate(sequence)) as tokens:
                    async for token in tokens:
                        yield token
                return
            except Moved:
                continue

    def _must_know(self, adapter: int) -> None:
        """Refuse what was asked of an adapter that is gone."""
        known = [0, *[number for number, _ in self.adapters.folders]]
        if adapter not in known:
            raise RequestError("the adapter of this request was unloaded.")

    async def sleep(self) -> None:
        """Let the nodes give their layers and lanes away.

        Open sequences stay, and go on after `wake`.
        """
        await asyncio.gather(*[ring.sleep() for ring in self.rings])

    async def wake(self) -> None:
        """Let the nodes load their layers again, and go on."""
        await asyncio.gather(*[ring.wake() for ring in self.rings])

    async def load_adapter(self, name: str, folder: str) -> None:
        """Load an adapter on all stages; requests may name it then.

        Args:
            name: What requests will call it.
            folder: Where PEFT saved it; every node must find it there.

        Raises:
            ConfigurationError: If the name is taken, or a node cannot load it. Nothing
                is loaded then.
            ClusterError: If the epoch ended meanwhile. Nothing is loaded then, too.
        """
        async with AsyncExitStack() as stack:
            for ring in self.rings:
                await stack.enter_async_context(ring.turning)
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
        for ring in self.rings:
            ring.pump.fail(error, gone.number)
        while any(
            sequence.adapter == gone.number
            for ring in self._whole
            for sequence in ring.pump.scheduler.running.values()
        ):
            await self.changed()
        self.tell({"do": "adapt", "number": gone.number})

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to all stages.

        Args:
            message: JSON.
        """
        for ring in self.rings:
            ring.tell(message)

    async def changed(self) -> None:
        """Wait until a frame or a word came, or a ring broke."""
        waits = [asyncio.ensure_future(ring.changed()) for ring in self.rings]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    @property
    def _whole(self) -> list[Epochs]:
        """The rings that are whole."""
        return [ring for ring in self.rings if ring.pump.ring is not None]


def _ended(task: asyncio.Task[None]) -> None:
    """Log why a task ended that never should."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        _log.error("the head failed, restart it", exc_info=exc)
