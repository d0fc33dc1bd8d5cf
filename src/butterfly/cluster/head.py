"""`Head`: the process that clients and nodes connect to.

It holds no weights. Three parts do its work: `Membership` knows the nodes, `Epochs`
gives them layers, `Pump` sends frames around and tells clients of their tokens.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

from butterfly.cluster.adapters import AdapterTable
from butterfly.cluster.epochs import READY, Epochs
from butterfly.cluster.members import Member
from butterfly.cluster.options import HeadOptions
from butterfly.cluster.planning import Planning
from butterfly.cluster.token import Token
from butterfly.engine.weights import Checkpoint
from butterfly.errors import ClusterError, RequestError
from butterfly.scheduling import Scheduler, Sequence

_log = logging.getLogger("butterfly.head")
_PARTING = 2.0  # seconds for a thread to end


class Head:
    """Serves sequences over a ring of nodes.

    Args:
        options: What it was told.
    """

    def __init__(self, options: HeadOptions) -> None:
        self.options = options
        self.checkpoint = Checkpoint.of(options.model)
        self.config = self.checkpoint.config()
        self.adapters = AdapterTable()
        self.planning = Planning(options, self.checkpoint, self.config)
        self._epochs = Epochs(options, self.config, self.adapters, self.planning)
        self._pump = self._epochs.pump
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listen for nodes.

        Raises:
            ClusterError: If the port is taken.
        """
        self._epochs.start()
        membership = self._epochs.membership
        await membership.start()
        works = membership.watch(), self._epochs.reign(), self._epochs.guard()
        self._tasks = [asyncio.ensure_future(work) for work in works]
        for task in self._tasks:
            task.add_done_callback(_ended)

    async def ready(self, patience: float = READY) -> None:
        """Wait until the ring serves.

        Args:
            patience: Seconds to wait.

        Raises:
            ClusterError: If it does not in time.
        """
        try:
            await asyncio.wait_for(self._epochs.is_serving.wait(), patience)
        except TimeoutError as exc:
            raise ClusterError(
                f"after {patience:g} s {self.planning.lacks(self.members)}: start "
                "more with `butterfly node --join`."
            ) from exc

    async def close(self) -> None:
        """Send all nodes home, and end."""
        self._epochs.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._epochs.membership.close()
        await asyncio.to_thread(self._pump.join, _PARTING)

    # -- what it is like --------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that nodes connect to."""
        return self._epochs.membership.port

    @property
    def members(self) -> list[Member]:
        """The nodes that are here."""
        return self._epochs.membership.members

    @property
    def stages(self) -> list[Member]:
        """The nodes of the present epoch."""
        return self._epochs.stages

    @property
    def epoch(self) -> int:
        """The number of the present epoch."""
        return self._epochs.epoch

    @property
    def scheduler(self) -> Scheduler:
        """What says what travels in the next frame."""
        return self._pump.scheduler

    @property
    def is_serving(self) -> bool:
        """Whether the ring is whole."""
        return self._pump.ring is not None

    @property
    def failure(self) -> str:
        """Why a node could not load its layers, empty if all could."""
        return self._epochs.failure

    @property
    def trouble(self) -> str:
        """Why nothing can be served, and will not be soon; empty if it can."""
        return self._epochs.trouble

    @property
    def is_asleep(self) -> bool:
        """Whether the nodes are to be without layers."""
        return self._pump.is_asleep

    # -- what it does -----------------------------------------------------------

    def generate(self, sequence: Sequence) -> AsyncGenerator[Token, None]:
        """Give the tokens of a sequence as they come, as `Pump.generate` does.

        Args:
            sequence: What to generate.

        Raises:
            RequestError: If it does not fit, or its adapter was unloaded.
            CapacityError: If too many wait already.
            ClusterError: If no nodes are left to serve it.
        """
        known = [0, *[number for number, _ in self.adapters.folders]]
        if sequence.adapter not in known:
            raise RequestError("the adapter of this request was unloaded.")
        return self._pump.generate(sequence)

    async def sleep(self) -> None:
        """Let the nodes give their layers and lanes away.

        Open sequences stay, and go on after `wake`.
        """
        async with self._epochs.turning:
            self._pump.is_asleep = True
            await self._pump.drained()
            await self._turn("sleep", True)

    async def wake(self) -> None:
        """Let the nodes load their layers again, and go on."""
        async with self._epochs.turning:
            if not self.is_asleep:
                return
            await self._turn("wake", False)
            self._pump.is_asleep = False
            self.scheduler.reset()
            self._epochs.stir()
            self._pump.push()

    async def _turn(self, do: str, is_asleep: bool) -> None:
        """Tell the stages to sleep or to wake, until they have or the ring broke."""
        stages = self.stages
        if self.is_serving:
            self.tell({"do": do})
            self._epochs.rest()
        while self.is_serving and any(m.is_asleep != is_asleep for m in stages):
            await self.changed()

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
        async with self._epochs.turning:
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
        self._pump.fail(error, gone.number)
        while self.is_serving and any(
            s.adapter == gone.number for s in self.scheduler.running.values()
        ):
            await self.changed()
        self.tell({"do": "adapt", "number": gone.number})

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to all stages.

        Args:
            message: JSON.
        """
        for member in self.stages:
            member.connection.send(message)

    async def changed(self) -> None:
        """Wait until a frame or a word came, or the ring broke."""
        await self._pump.changed()


def _ended(task: asyncio.Task[None]) -> None:
    """Log why a task ended that never should."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        _log.error("the head failed, restart it", exc_info=exc)
