"""`Scheduler`: starts runs, oldest input first, and keeps only so many of them alive.

A request waits for a slot in the order (priority, oldest input, longest recorded path
below its node, trace order).
"""

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from inf_engine.errors import EngineStateError, ModuleError
from inf_engine.execution.batch import Batch, Rows
from inf_engine.execution.events import Event, Observer, RunFinished, RunStarted
from inf_engine.execution.forwards import FiberPool
from inf_engine.execution.memory import Memory
from inf_engine.execution.recall import Identity, RunMemory
from inf_engine.execution.replay import Replay
from inf_engine.execution.run import Run
from inf_engine.execution.settings import ExecutionSettings
from inf_engine.execution.work import Tell, Work
from inf_engine.graph import GraphNode
from inf_engine.llm import LLMInference
from inf_engine.module import InferenceModule
from inf_engine.resources.manager import ResourceManager
from inf_engine.tracing.tracer import Program

logger = logging.getLogger("inf_engine")

_TURNS = 3  # of the loop, until asyncio closes a generator that nobody has


class Scheduler:
    """Runs programs on one event loop.

    Args:
        manager: The road to the clients.
        observers: Called with each event.
        max_inflight: The most inputs alive at once; None for enough to keep every
            slot busy.
        memory: Where answers are kept, None for nowhere.
        identity: Gives what stands for an input in the journal; None for the input.

    Attributes:
        is_lent: Whether actors have the limits and the journal; nothing runs here then.
    """

    def __init__(
        self,
        manager: ResourceManager,
        observers: Iterable[Observer] = (),
        max_inflight: int | None = None,
        memory: Memory | None = None,
        identity: Identity | None = None,
    ) -> None:
        self.manager = manager
        self.memory = memory
        self.identity = identity
        self.observers = list(observers)
        self.max_inflight = max_inflight
        self.closed = self.is_lent = False
        self._numbers = itertools.count()
        self._fibers = FiberPool()
        self._alive: dict[Run, None] = {}
        self._batches: dict[Batch, bool] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._back: asyncio.Event | None = None  # while what was lent comes back

    # -- single runs --------------------------------------------------------------

    def program(self, module: Any) -> Program:
        """Return a module ready to run, its aliases and keys checked.

        Raises:
            ModuleError: If it is not a module.
            ConfigurationError: If an alias cannot be called.
            EngineStateError: If the engine is closed, or not here at home.
        """
        for alias, path in self.aliases(module).items():
            self.manager.check(alias, path)
        return Program(module)

    def aliases(self, module: Any) -> dict[str, str]:
        """Return the aliases that a module calls, and the first path of each.

        Raises:
            ModuleError: If it is not a module.
            EngineStateError: If the engine is closed, or not here at home.
        """
        self._check_home()
        self._check_here()
        if not isinstance(module, InferenceModule):
            raise ModuleError(
                f"an engine runs InferenceModule objects, not {type(module).__name__}: "
                "subclass InferenceModule, and pass an instance of it."
            )
        found: dict[str, str] = {}
        for path, below in module.named_modules():
            if isinstance(below, LLMInference):
                found.setdefault(below.alias, path)
        return found

    def start(
        self,
        program: Program,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        settings: ExecutionSettings,
        done: Callable[[Run], None],
        *,
        keep: bool = False,
        wants_tokens: Callable[[GraphNode], bool] | None = None,
        check_output: Callable[[Any, Run], None] | None = None,
        observers: Iterable[Observer] = (),
        identity: Identity | None = None,
        replay: Replay | None = None,
    ) -> Run:
        """Start one run; `done` is called when everything in it has ended.

        Raises:
            EngineStateError: If the engine was closed in the meantime.
        """
        self.check_open()
        self._check_here()
        tell = self._teller([*self.observers, *observers])
        if wants_tokens is None and any(map(_wants_tokens, self.observers)):
            wants_tokens = _every_node
        number = next(self._numbers)
        work = Work(
            number,
            self.manager,
            settings,
            tell,
            wants_tokens,
            keep,
            fibers=self._fibers,
            memory=self._memory_of(args, kwargs, identity),
            replay=replay,
        )
        ended = partial(self._ended, tell, done)
        run = Run(program, args, kwargs, work, ended, check_output)
        self._alive[run] = None
        if tell is not None:
            tell(RunStarted(number, work.began, type(program.module).__name__))
        run.start()
        return run

    def _memory_of(
        self, args: Any, kwargs: Any, identity: Identity | None
    ) -> RunMemory | None:
        if self.memory is None:
            return None
        return RunMemory(self.memory, args, kwargs, identity or self.identity)

    def _ended(self, tell: Tell | None, done: Callable[[Run], None], run: Run) -> None:
        """Forget a run that has ended, and say so."""
        self._alive.pop(run, None)
        if tell is not None:
            work, at = run.work, run.work.now()
            spent = at - work.began
            tell(RunFinished(work.number, at, spent, work.usage, run.error))
        done(run)

    async def outcome(self, begin: Callable[[Callable[[Run], None]], Run]) -> Run:
        """Start a run and wait until it has ended; cancelling this cancels it.

        Args:
            begin: Starts the run, given what to call when it has ended.
        """
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run = begin(lambda run: None if finished.done() else finished.set_result(None))
        try:
            if not run.finished:
                await finished
        except asyncio.CancelledError as exc:
            run.cancel(exc)
            raise
        finally:
            await run.wait_closed()
        return run

    def lend(self) -> None:
        """Run nothing until `is_lent` is False again.

        Raises:
            EngineStateError: If something runs, or it is lent already.
        """
        self._check_here()
        if self._alive:
            raise EngineStateError(
                "this engine runs something else, and a map with a backend= needs all "
                "of its limits and its journal. Wait for that, or make another Engine."
            )
        self.is_lent = True

    def returning(self) -> None:
        """Take note that the actors are being ended: `returned` is awaited."""
        self._back = asyncio.Event()

    def returned(self) -> None:
        """Run again what is asked for."""
        self.is_lent = False
        if self._back is not None:
            self._back.set()
            self._back = None

    async def whole(self) -> None:
        """Wait for what is on its way back; a loop that was left is closed soon."""
        for _ in range(_TURNS):
            if self.is_lent and self._back is None:
                await asyncio.sleep(0)
        while self.is_lent and self._back is not None:
            await self._back.wait()

    def jobs(self) -> list[Any]:
        """Return the requests that runs wait for, wherever they are."""
        return [job for run in self._alive for job in run.jobs.values()]

    # -- many runs ----------------------------------------------------------------

    def batch(
        self,
        module: Any,
        iterables: tuple[Any, ...],
        settings: ExecutionSettings,
        *,
        ordered: bool,
        record: bool,
        identity: Identity | None = None,
    ) -> Batch:
        """Return the runs of a module on many inputs; see `Engine.stream`."""
        program = self.program(module)

        def start(inputs: tuple[Any, ...], done: Callable[[Run], None]) -> Run:
            return self.start(
                program,
                inputs,
                {},
                settings,
                done,
                keep=record,
                identity=identity,
            )

        limit = self.enough(program)
        rows = Rows(iterables)
        return Batch(
            rows, start, limit, ordered=ordered, record=record, told=self._pulled
        )

    def _pulled(self, batch: Batch, all_of_it: bool | None) -> None:
        """Take note of whether a batch has pulled all inputs; None when it is done."""
        if all_of_it is None:
            del self._batches[batch]
        else:
            self._batches[batch] = all_of_it
        self.manager.end(bool(self._batches) and all(self._batches.values()))

    async def aclose(self) -> None:
        """Cancel every run, wait for its tasks, and close the clients.

        Raises:
            EngineStateError: If the engine is not here at home, unless its loop is
                closed and nothing can be at home there any more.
        """
        if self.closed:
            return
        if self._is_orphaned:
            await self._abandon()
            return
        self._check_home()
        await self.whole()
        self.closed = True
        alive = list(self._alive)
        for run in alive:
            run.cancel(EngineStateError("the engine was closed while the run went on."))
        for run in alive:
            await run.wait_closed()
        await self._close_all()

    async def _abandon(self) -> None:
        """Close what a closed loop has left; no run of it is alive."""
        self.closed = True
        try:
            await self._close_all()
        except RuntimeError as exc:  # of a foreign client that needs its loop
            logger.debug("a client did not close: %s", type(exc).__name__)

    async def _close_all(self) -> None:
        """Close files and clients."""
        try:
            if self.memory is not None:
                self.memory.close()
        finally:
            await self.manager.aclose()

    def enough(self, program: Program) -> Callable[[], int]:
        """Return what says how many inputs keep every slot of the aliases busy."""
        given, slots = self.max_inflight, self.manager.slots
        aliases = self.aliases(program.module)
        return lambda: given or max(16, 2 * slots(*aliases))

    def check_open(self) -> None:
        """Make sure that the engine is not closed.

        Raises:
            EngineStateError: If it is.
        """
        if self.closed:
            raise _closed()

    def check_closable(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Make sure that the engine can be closed on this loop.

        Args:
            loop: The loop it is to be closed on; None for one that is not there yet.

        Raises:
            EngineStateError: If it is closed, forked, or at home on another loop.
        """
        if self._is_orphaned:
            return
        at_home = self._loop is None or loop is self._loop
        if os.getpid() == self._process and not at_home:
            raise EngineStateError(
                "this engine is at home on an event loop that close() cannot wait "
                "for: await engine.aclose() on that loop."
            )
        self.check_usable(loop)

    @property
    def _is_orphaned(self) -> bool:
        """Whether the loop that was the engine's home is closed."""
        loop = self._loop
        return loop is not None and loop.is_closed() and os.getpid() == self._process

    def check_usable(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Make sure that the engine can be used, and on this loop.

        Args:
            loop: The loop it is to run on; None for one that is not there yet.

        Raises:
            EngineStateError: If it is closed, forked, or at home on another loop.
        """
        self.check_open()
        if os.getpid() != self._process:
            raise EngineStateError(
                "this engine was made before a fork, and its connections belong to the "
                "parent process. Make a new Engine in the child."
            )
        if self._loop is not None and loop is not self._loop:
            raise EngineStateError(
                "this engine is at home on another event loop, and its connections "
                "cannot leave it. Make one Engine per loop, or use engine.run_sync "
                "everywhere."
            )

    def _check_here(self) -> None:
        """Make sure that the limits and the journal are here."""
        if self.is_lent:
            raise EngineStateError(
                "a map with a backend= is under way, and has the limits and the "
                "journal of this engine. Wait until it is done, close the stream if "
                "you left it (await stream.aclose()), or make another Engine."
            )

    def _check_home(self) -> None:
        """Make the running loop the engine's home, if it has none yet."""
        if os.getpid() == self._process:
            loop = asyncio.get_running_loop()
            self.check_usable(loop)
            self._loop = loop
        else:  # asyncio itself no longer knows its loop
            self.check_usable(None)

    def _teller(self, listeners: list[Observer]) -> Tell | None:
        if not listeners:
            return None

        def tell(event: Event) -> None:
            for observer in listeners:
                try:
                    observer(event)
                except Exception as exc:  # noqa: BLE001 - it must not hurt a run
                    # no text and no traceback: they may hold what a model answered
                    names = (type(event).__name__, type(exc).__name__)
                    logger.error("an observer failed on %s with %s", *names)

        return tell


def _closed() -> EngineStateError:
    return EngineStateError(
        "this engine is closed. Make a new one, or do the work inside its 'async with' "
        "block."
    )


def _wants_tokens(observer: Observer) -> bool:
    return getattr(observer, "wants_tokens", True)


def _every_node(node: GraphNode) -> bool:
    return True
