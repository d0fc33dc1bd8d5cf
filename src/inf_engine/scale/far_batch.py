"""`FarBatch`: many inputs through one module in actors, pulled as a `Batch` pulls.

The journal belongs to one process at a time. So while the actors work the engine lends
its files to the coordinator, and has them back at the end, with what was added.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Protocol

from inf_engine.errors import InfEngineError, JournalError
from inf_engine.execution.batch import Batch, Result, Rows
from inf_engine.execution.recall import input_id
from inf_engine.execution.scheduler import Scheduler
from inf_engine.journal import JournalStore
from inf_engine.resources.funds import Amounts
from inf_engine.scale.coordinator import Charge, Place, Which
from inf_engine.scale.fleet import FarRun, Fleet, Hand
from inf_engine.scale.keeper import terms_of
from inf_engine.scale.parcel import (
    Dump,
    Errand,
    Item,
    Load,
    Report,
    packed_errand,
    packed_inputs,
)
from inf_engine.types import Usage

_TRIES, _PAUSE = 30, 0.1


class Crew(Protocol):
    """What makes the coordinator and the actors."""

    @property
    def dump(self) -> Dump:
        """What pickles."""
        ...

    @property
    def load(self) -> Load:
        """What unpickles."""
        ...

    @property
    def size(self) -> int:
        """How many actors there are to be, once it has started."""
        ...

    async def start(self, charge: Charge) -> frozenset[bytes] | None:
        """Start the coordinator; return the keys in the cache, None without one.

        Raises:
            InfEngineError: If it cannot be, or cannot have the files.
        """
        ...

    def hire(self) -> Hand:
        """Start an actor."""
        ...

    async def forget(self, name: str) -> None:
        """Tell the coordinator that an actor is dead."""
        ...

    async def stop(self) -> Amounts:
        """Have the coordinator close its files, and end it; return what was spent."""
        ...


class FarBatch:
    """The runs of one `map` or `stream` in actors; iterate over `results`.

    Args:
        crew: Makes the actors.
        scheduler: That of the engine.
        errand: What to do with each input; what the coordinator has is added.
        iterables: The inputs.
        ordered: Whether results come in input order.
    """

    def __init__(
        self,
        crew: Crew,
        scheduler: Scheduler,
        errand: Errand,
        iterables: tuple[Any, ...],
        *,
        ordered: bool,
    ) -> None:
        self._crew = crew
        self._scheduler = scheduler
        self._errand = errand
        self._aliases = scheduler.aliases(errand.module)
        self._numbers = itertools.count()
        self._fleet: Fleet | None = None
        self._batch = Batch(
            Rows(iterables),
            self._begin,
            self._limit,
            ordered=ordered,
            record=errand.record,
            told=lambda batch, all_of_it: None,
            result=_result,
        )

    @property
    def alive(self) -> int:
        """How many inputs have begun and not ended."""
        return self._batch.alive

    @property
    def done(self) -> int:
        """How many inputs have ended."""
        return self._batch.done

    @property
    def failed(self) -> int:
        """How many of these failed."""
        return self._batch.failed

    async def results(self) -> AsyncGenerator[Result, None]:
        """Yield a result for each input; leaving the loop ends the actors.

        Raises:
            ActorLostError: If actors die and cannot be replaced.
            InfEngineError: If they cannot do what they are for.
            Exception: What the iterables raised.
        """
        packed_errand(self._errand, self._crew.dump)  # before anything is started
        async with AsyncExitStack() as stack:
            files = await self._lend(stack)
            stack.push_async_callback(self._stop)
            charge = self._charge(files)
            cached = await self._crew.start(charge)
            errand = self._ready(charge, cached)
            fleet = self._fleet = self._fleet_for(errand)
            stack.push_async_callback(fleet.close)
            await fleet.start()
            stream = self._batch.results()
            stack.push_async_callback(stream.aclose)
            stack.callback(self._scheduler.returning)
            async for result in stream:
                if fleet.broken is not None:
                    raise fleet.broken
                yield result

    def _charge(self, files: dict[Which, Place]) -> Charge:
        """Return what the coordinator is to keep."""
        manager = self._scheduler.manager
        manager.spending.begin(asyncio.get_running_loop().time())
        account, terms = manager.spending.account, terms_of(manager.deployments)
        if account is None:
            return Charge(files, terms)
        return Charge(files, terms, account.left, account.used)

    def _ready(self, charge: Charge, cached: frozenset[bytes] | None) -> Errand:
        """Return the errand with what the coordinator keeps."""
        errand = replace(
            self._errand, has_journal="journal" in charge.files, cached=cached
        )
        account = self._scheduler.manager.spending.account
        if account is None:
            return errand
        seconds = asyncio.get_running_loop().time() - account.began
        return replace(errand, budget=account.budget, seconds=seconds)

    async def _stop(self) -> None:
        """End the coordinator, and book what was spent."""
        spent = await self._crew.stop()
        account = self._scheduler.manager.spending.account
        if account is not None:
            account.book(*spent)

    def _fleet_for(self, errand: Errand) -> Fleet:
        crew = self._crew
        data = packed_errand(errand, crew.dump)
        road = crew.hire, data, crew.size, crew.load, self._told, crew.forget
        slots = self._scheduler.manager.slots(*self._aliases)
        return Fleet(*road, 2 * slots // crew.size)

    async def _lend(self, stack: AsyncExitStack) -> dict[Which, Place]:
        """Close the files of the engine until the end; return where they are."""
        self._scheduler.lend()
        stack.callback(self._scheduler.returned)
        memory = self._scheduler.memory
        if memory is None:
            return {}
        memory.check()
        files: dict[Which, Place] = {}
        pairs: tuple[tuple[Which, Any], ...]
        pairs = ("journal", memory.journal), ("cache", memory.cache)
        for which, store in pairs:
            if isinstance(store, JournalStore):
                files[which] = Place(store.path, store.durability)
                store.close()
                stack.push_async_callback(self._take_back, store)
        return files

    async def _take_back(self, store: JournalStore) -> None:
        """Open a file again that was lent, as soon as the coordinator is gone."""
        for left in reversed(range(_TRIES)):
            if self._scheduler.closed:
                return
            try:
                store.open()
            except JournalError:
                store.close()
                if not left:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                return

    def _limit(self) -> int:
        assert self._fleet is not None
        return self._scheduler.max_inflight or self._fleet.room

    def _begin(self, inputs: tuple[Any, ...], done: Callable[[Any], None]) -> FarRun:
        """Have an input run in an actor."""
        assert self._fleet is not None
        index = next(self._numbers)
        try:
            data = packed_inputs(inputs, index, self._crew.dump)
        except InfEngineError as exc:
            run = FarRun(done)
            run.end(None, exc)
            return run
        return self._fleet.submit(Item(index, self._identity(inputs), data), done)

    def _identity(self, inputs: tuple[Any, ...]) -> str | None:
        """Return what an input is called; the run tells what is wrong with it."""
        if self._scheduler.memory is None:
            return None
        try:
            return input_id(inputs, {}, self._errand.identity)
        except JournalError:
            return None

    def _told(self, report: Report) -> None:
        self._scheduler.manager.spending.ledger.add(report.entries)


def _result(run: FarRun, index: int, inputs: tuple[Any, ...], record: bool) -> Result:
    """Return what a run gave, with the inputs, which did not travel back."""
    if run.result is not None:
        return replace(run.result, inputs=inputs)
    return Result(index, inputs, None, run.error, Usage(), 0.0)
