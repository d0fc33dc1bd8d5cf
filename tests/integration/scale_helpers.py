"""Actors without processes: all that a map over actors does, on one virtual clock.

The coordinator and the workers are the real ones, and so are fleet and batch; what is
missing is Ray. Messages take `way` seconds. The endpoints are `Wireless` servers.
"""

import asyncio
import itertools
import pickle
import threading
from typing import Any

from tests.integration.limit_helpers import Wireless

from inf_engine import InferenceModule, LLMInference
from inf_engine.clients.openai import OpenAIClient
from inf_engine.errors import ActorLostError
from inf_engine.execution.scheduler import Scheduler
from inf_engine.scale.coordinator import Coordinator
from inf_engine.scale.far_batch import FarBatch
from inf_engine.scale.parcel import Errand, Item, Report
from inf_engine.scale.worker import Worker
from inf_engine.testing import LoopbackServer


class Twice(InferenceModule):
    """Two calls, the second with the answer of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LLMInference(alias="fast", system_prompt="first")
        self.second = LLMInference(alias="fast", system_prompt="second")

    def forward(self, text: str) -> str:
        return self.second(f"<{self.first(text)}>")


class Link:
    """The coordinator as a worker reaches it; `lost` once that is dead."""

    def __init__(self, crew: "LocalCrew") -> None:
        self.coordinator = crew.coordinator
        self.way = crew.way
        self.lost = False
        self._one_at_a_time = crew.one_at_a_time

    async def sync(self, holder: str, asks: Any, funds: Any) -> Any:
        return await self._asked("sync", holder, asks, funds)

    async def recall(self, identities: Any) -> Any:
        return await self._asked("recall", identities)

    def append(self, which: Any, rows: Any) -> Any:
        return self._now("append", which, rows)

    def fetch(self, key: bytes) -> Any:
        return self._now("fetch", key)

    async def _asked(self, method: str, *args: Any) -> Any:
        await asyncio.sleep(self.way)
        answer = self._now(method, *args)
        await asyncio.sleep(self.way)
        return answer

    def _now(self, method: str, *args: Any) -> Any:
        if self.lost:
            raise ActorLostError("the coordinator is gone")
        with self._one_at_a_time:
            return getattr(self.coordinator, method)(*args)


class LocalHand:
    """A worker as the fleet sees it; it can die."""

    def __init__(self, name: str, crew: "LocalCrew") -> None:
        self.name = name
        self.crew = crew
        self.link = Link(crew)
        self.worker = Worker(name, self.link, pickle.dumps, pickle.loads)
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.taken: list[int] = []
        self.reports = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def open(self, errand: bytes) -> BaseException | None:
        error = await self.worker.open(errand)
        if error is None:
            self.crew.wire(self.worker)
        return error

    def put(self, items: list[Item]) -> None:
        self.taken += [item.index for item in items]
        task = asyncio.ensure_future(self.worker.put(items))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def take(self) -> Report:
        task = asyncio.ensure_future(self.worker.take())
        try:
            await asyncio.wait([task, self.dead], return_when="FIRST_COMPLETED")
        finally:
            if self.dead.done() or not task.done():
                task.cancel()
        if self.dead.done():
            raise ActorLostError(f"{self.name} is gone")
        self.reports += 1
        return task.result()

    async def close(self) -> Report:
        return await self.worker.close()

    def kill(self) -> None:
        """Cut all that it does; what it did not tell is lost."""
        if not self.dead.done():
            self.dead.set_result(None)
            self.link.lost = True
            self.crew.last_words.append(asyncio.ensure_future(self._buried()))

    async def _buried(self) -> None:
        for task in self.tasks:
            task.cancel()
        keeping = self.worker._keeping
        if keeping is not None and not self.worker._scheduler.closed:
            keeping.cancel()
            alive = list(self.worker._scheduler._alive)
            for run in alive:
                run.cancel(asyncio.CancelledError())
            for run in alive:
                await run.wait_closed()


class LocalCrew:
    """Makes workers in this process.

    Args:
        size: How many.
        server: What their clients reach, None for the clients that travelled.
        way: Seconds that a message to the coordinator takes, and an answer.
    """

    def __init__(
        self, size: int = 2, server: LoopbackServer | None = None, way: float = 0.001
    ) -> None:
        self.dump, self.load = pickle.dumps, pickle.loads
        self.size = size
        self.server = server
        self.way = way
        self.hands: list[LocalHand] = []
        self.last_words: list[asyncio.Task[None]] = []
        self.forgotten: list[str] = []
        self.one_at_a_time = threading.Lock()  # the coordinator has one thread
        self._numbers = itertools.count()

    async def start(self, charge: Any) -> Any:
        clock = asyncio.get_running_loop().time
        self.coordinator = Coordinator(charge, clock)
        error = self.coordinator.open()
        if error is not None:
            raise error
        return self.coordinator.cached()

    def hire(self) -> LocalHand:
        name = f"actor-{next(self._numbers)}"
        self.coordinator.join(name)
        self.hands.append(LocalHand(name, self))
        return self.hands[-1]

    async def forget(self, name: str) -> None:
        self.forgotten.append(name)
        with self.one_at_a_time:
            self.coordinator.forget(name)

    async def stop(self) -> Any:
        await asyncio.gather(*self.last_words)
        return self.coordinator.close()

    def wire(self, worker: Worker) -> None:
        """Have the clients of a worker reach the server without sockets."""
        for deployment in worker._manager.deployments:
            config = deployment.config
            if self.server is not None and config is not None:
                wireless: Any = Wireless(self.server)
                deployment.client = OpenAIClient(
                    config.model,
                    base_url=config.base_url,
                    api_key=None,
                    compatible=True,
                    transport=wireless,
                )


class LocalBackend:
    """Runs a map in workers of this process.

    Args:
        crew: Makes them.
    """

    def __init__(self, crew: LocalCrew) -> None:
        self.crew = crew

    def batch(
        self,
        scheduler: Scheduler,
        module: Any,
        iterables: tuple[Any, ...],
        settings: Any,
        *,
        ordered: bool,
        record: bool,
        identity: Any,
    ) -> FarBatch:
        bindings = scheduler.manager.bindings
        named = identity or scheduler.identity
        errand = Errand(module, bindings, settings, named, record)
        return FarBatch(self.crew, scheduler, errand, iterables, ordered=ordered)
