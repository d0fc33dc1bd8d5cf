"""`Worker`: what an actor does: it runs inputs, under limits and a journal not its own.

It is an engine's scheduler and resource manager, put together with leases in place of
the limits and with a store that asks the coordinator in place of the journal.
"""

import asyncio
from functools import partial
from typing import Any, Protocol

from inf_engine.errors import InfEngineError, JournalError, ModuleError
from inf_engine.execution.batch import Result, result_of
from inf_engine.execution.memory import Memory
from inf_engine.execution.run import Run
from inf_engine.execution.scheduler import Scheduler
from inf_engine.journal import Row
from inf_engine.resources.funds import Funds, FundsAsk
from inf_engine.resources.lease import Ask
from inf_engine.resources.manager import ResourceManager
from inf_engine.scale.coordinator import Which
from inf_engine.scale.keeper import Grants, Keeper
from inf_engine.scale.parcel import (
    Dump,
    Errand,
    Item,
    Kept,
    Load,
    Report,
    packed_result,
)
from inf_engine.scale.remote_store import RemoteStore
from inf_engine.types import Usage

_BREATHE_EVERY = 16
_LINGER = 0.005  # seconds


class CoordinatorLink(Protocol):
    """The coordinator, as an actor reaches it; errors as `Coordinator` gives them."""

    async def sync(
        self, holder: str, asks: dict[int, Ask], funds: FundsAsk | None
    ) -> Grants:
        """Ask for leases."""
        ...

    async def recall(self, identities: list[str]) -> dict[str, list[Kept]] | Any:
        """Ask for what the journal has for some inputs."""
        ...

    def append(self, which: Which, rows: list[Row]) -> InfEngineError | None:
        """Have rows kept, and wait until they are; from any thread."""
        ...

    def fetch(self, key: bytes) -> str | InfEngineError | None:
        """Get an answer of the cache, and wait for it."""
        ...


class Worker:
    """Runs the inputs that it is given (see the top of this file).

    Args:
        name: What it is called in the book of the leases.
        link: The coordinator.
        dump: Pickles.
        load: Unpickles.
    """

    def __init__(
        self, name: str, link: CoordinatorLink, dump: Dump, load: Load
    ) -> None:
        self._name = name
        self._link = link
        self._dump = dump
        self._load = load
        self._journal: RemoteStore | None = None
        self._shared: dict[str, int] = {}  # inputs alive, by what they are called
        self._outcomes: list[tuple[int, bytes]] = []
        self._changed = asyncio.Event()
        self._recalling = asyncio.Lock()  # an equal input waits for the first's rows
        self._broken: BaseException | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._is_closed = False

    async def open(self, data: bytes) -> BaseException | None:
        """Get ready for an `Errand`; return why that cannot be done here."""
        try:
            errand = self._load(data)
        except Exception as exc:  # noqa: BLE001 - of modules that are not here
            return ModuleError(
                f"an actor cannot load the module: {type(exc).__name__}: {exc}. What "
                "it imports must be installed where the actors run, or be sent there: "
                "with runtime_env, or ray.cloudpickle.register_pickle_by_value(module)."
            )
        try:
            self._begin(errand)
        except InfEngineError as exc:
            exc.add_note("It was found by an actor, in its own environment.")
            return exc
        return None

    def _begin(self, errand: Errand) -> None:
        bindings = {a: config or c for a, (config, c) in errand.bindings.items()}
        self._manager = manager = ResourceManager(bindings)
        self._errand = errand
        manager.limit(errand.budget)
        memory = self._memory(errand)
        self._scheduler = Scheduler(manager, (), None, memory, errand.identity)
        self._program = self._scheduler.program(errand.module)
        self._enough = self._scheduler.enough(self._program)
        sync = partial(self._link.sync, self._name)
        keeper = self._keeper = Keeper(manager.deployments, sync, manager.pump)
        if errand.budget is not None:
            began = asyncio.get_running_loop().time() - errand.seconds
            keeper.funds = Funds(errand.budget, began, keeper.need)
            manager.spending.account = keeper.funds
        self._keeping = asyncio.ensure_future(keeper.run())
        self._keeping.add_done_callback(self._kept)

    def _memory(self, errand: Errand) -> Memory | None:
        link, manager = self._link, self._manager
        cache = None
        if errand.has_journal:
            self._journal = RemoteStore(partial(link.append, "journal"))
        if errand.cached is not None:
            send = partial(link.append, "cache")
            cache = RemoteStore(send, self._fetched, errand.cached)
        if self._journal is None and cache is None:
            return None
        road = manager.submit, manager.cancel, manager.model_of
        return Memory(self._journal, cache, manager.spending.ledger, *road)

    async def put(self, items: list[Item]) -> None:
        """Start to run some inputs."""
        try:
            if self._journal is not None:
                async with self._recalling:
                    await self._recall(self._journal, items)
            for place, item in enumerate(items):
                if place % _BREATHE_EVERY == 0:
                    await asyncio.sleep(0)
                self._start(item)
        except Exception as exc:  # noqa: BLE001 - told by the next report
            self._break(exc)

    async def take(self) -> Report:
        """Wait until an input has ended, and return all that is new.

        A message costs as much as a model call, so a few more are waited for, while
        there is enough to do.
        """
        await self._ended_or_over(1)
        try:
            async with asyncio.timeout(_LINGER):
                await self._ended_or_over(self._enough() // 4)
        except TimeoutError:
            pass
        return self._report()

    async def _ended_or_over(self, count: int) -> None:
        """Wait until so many inputs have ended, or nothing goes on."""
        while len(self._outcomes) < count and not (self._broken or self._is_closed):
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> Report:
        """Cancel what runs, and return what was booked since the last report."""
        if self._keeping is None:  # it could not begin
            return Report([], 0, [], self._broken)
        await self._scheduler.aclose()
        await self._keeper.stop()
        await asyncio.wait([self._keeping])
        self._is_closed = True
        self._changed.set()
        return self._report()

    def _report(self) -> Report:
        outcomes, self._outcomes = self._outcomes, []
        entries = self._manager.spending.ledger.drain()
        return Report(outcomes, self._enough(), entries, self._broken)

    async def _recall(self, journal: RemoteStore, items: list[Item]) -> None:
        """Have the rows of inputs here before they begin."""
        fresh = {i.identity: None for i in items if i.identity not in self._shared}
        asked = [identity for identity in fresh if identity is not None]
        for item in items:
            if item.identity is not None:
                alive = self._shared.get(item.identity, 0)
                self._shared[item.identity] = alive + 1
        found = await self._link.recall(asked) if asked else {}
        if isinstance(found, BaseException):
            raise found
        for identity, rows in found.items():
            journal.load(identity, rows)

    def _start(self, item: Item) -> None:
        errand = self._errand
        try:
            inputs = self._load(item.data)
        except Exception as exc:  # noqa: BLE001 - of modules that are not here
            error = ModuleError(
                f"an actor cannot load input {item.index}: {type(exc).__name__}: "
                f"{exc}. What it is made of must be installed there, too."
            )
            self._tell(item, Result(item.index, (), None, error, Usage(), 0.0))
            return
        ended = partial(self._ended, item)
        self._scheduler.start(
            self._program, inputs, {}, errand.settings, ended, keep=errand.record
        )

    def _ended(self, item: Item, run: Run) -> None:
        if not isinstance(run.error, asyncio.CancelledError):
            self._tell(item, result_of(run, item.index, (), self._errand.record))

    def _tell(self, item: Item, result: Result) -> None:
        data = packed_result(result, self._dump, self._load)
        self._outcomes.append((item.index, data))
        self._changed.set()
        if item.identity is not None and self._journal is not None:
            self._shared[item.identity] -= 1
            if not self._shared[item.identity]:
                del self._shared[item.identity]
                self._journal.drop(item.identity)

    def _fetched(self, key: bytes) -> str | None:
        found = self._link.fetch(key)
        if isinstance(found, InfEngineError):
            raise JournalError(str(found)) from found
        return found

    def _kept(self, task: asyncio.Task[None]) -> None:
        """Take note that the leases are not kept any more."""
        if not task.cancelled() and task.exception() is not None:
            self._break(task.exception())

    def _break(self, error: BaseException | None) -> None:
        self._broken = self._broken or error
        self._changed.set()
