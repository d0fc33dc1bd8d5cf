"""`Scheduler`: starts runs, oldest input first, and keeps only so many of them alive.

A request waits for a slot in the order (priority, oldest input, longest recorded path
below its node, trace order). Inputs are pulled lazily: never more than `max_inflight`
of them are alive, counting results that nobody has taken yet, so a million inputs take
the memory of a few.
"""

import asyncio
import itertools
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from inf_engine.errors import EngineStateError, ModuleError
from inf_engine.execution.books import record_of
from inf_engine.execution.events import Event, Observer, RunFinished, RunStarted
from inf_engine.execution.run import Run
from inf_engine.execution.settings import ExecutionSettings
from inf_engine.execution.work import Work
from inf_engine.graph import GraphNode
from inf_engine.llm import LLMInference
from inf_engine.module import InferenceModule
from inf_engine.record import RunRecord
from inf_engine.resources.manager import ResourceManager
from inf_engine.tracing.tracer import Program
from inf_engine.types import Usage

logger = logging.getLogger("inf_engine")
_BREATHE_EVERY = 64


@dataclass(frozen=True, slots=True)
class Result:
    """What one input of a `map` or a `stream` gave.

    Args:
        index: The place of the input, from 0.
        inputs: The input, one element for each iterable.
        output: What the run gave, None if it failed.
        error: Why it failed, None if it did not.
        usage: Tokens and requests it took.
        seconds: How long it took.
        record: What happened in it, if records were asked for.
    """

    index: int
    inputs: tuple[Any, ...]
    output: Any
    error: BaseException | None
    usage: Usage
    seconds: float
    record: RunRecord | None = None

    @property
    def ok(self) -> bool:
        """Whether it went well."""
        return self.error is None

    def unwrap(self) -> Any:
        """Return the output.

        Raises:
            BaseException: What made the run fail.
        """
        if self.error is not None:
            raise self.error
        return self.output


class Scheduler:
    """Runs programs on one event loop.

    Args:
        manager: The road to the clients.
        observers: Called with each event.
        max_inflight: The most inputs alive at once; None for enough to keep every
            slot busy.
    """

    def __init__(
        self,
        manager: ResourceManager,
        observers: Iterable[Observer] = (),
        max_inflight: int | None = None,
    ) -> None:
        self.manager = manager
        self.observers = list(observers)
        self.max_inflight = max_inflight
        self.closed = False
        self._numbers = itertools.count()
        self._alive: dict[Run, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()

    # -- single runs --------------------------------------------------------------

    def program(self, module: Any) -> Program:
        """Return a module ready to run, its aliases and keys checked.

        Raises:
            ModuleError: If it is not a module.
            ConfigurationError: If an alias cannot be called.
            EngineStateError: If the engine is closed, or not here at home.
        """
        self._check_home()
        if not isinstance(module, InferenceModule):
            raise ModuleError(
                f"an engine runs InferenceModule objects, not {type(module).__name__}: "
                "subclass InferenceModule, and pass an instance of it."
            )
        program = Program(module)
        for path, below in module.named_modules():
            if isinstance(below, LLMInference):
                self.manager.check(below.alias, path)
        return program

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
        check_output: Callable[[Any], None] | None = None,
        observers: Iterable[Observer] = (),
    ) -> Run:
        """Start one run; `done` is called when everything in it has ended."""
        listeners = [*self.observers, *observers]
        tell = self._teller(listeners) if listeners else None
        if wants_tokens is None and any(map(_wants_tokens, self.observers)):
            wants_tokens = _every_node
        number = next(self._numbers)
        work = Work(number, self.manager, settings, tell, wants_tokens, keep)

        def ended(run: Run) -> None:
            self._alive.pop(run, None)
            if tell is not None:
                at = work.now()
                spent = at - work.began
                tell(RunFinished(number, at, spent, work.usage, run.error))
            done(run)

        run = Run(program, args, kwargs, work, ended, check_output)
        self._alive[run] = None
        if tell is not None:
            tell(RunStarted(number, work.began))
        run.start()
        return run

    async def outcome(self, begin: Callable[[Callable[[Run], None]], Run]) -> Run:
        """Start a run and wait until it has ended; cancelling this cancels it.

        Args:
            begin: Starts the run, given what to call when it has ended.
        """
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run = begin(lambda run: finished.done() or finished.set_result(None))
        try:
            if not run.finished:
                await finished
        except asyncio.CancelledError as exc:
            run.cancel(exc)
            raise
        finally:
            await run.wait_closed()
        return run

    # -- many runs ----------------------------------------------------------------

    async def results(
        self,
        program: Program,
        iterables: tuple[Any, ...],
        settings: ExecutionSettings,
        *,
        ordered: bool,
        record: bool,
        observers: Iterable[Observer] = (),
    ) -> AsyncIterator[Result]:
        """Yield a result for each input; see `Engine.stream`."""
        rows = Rows(iterables)
        limit = self.max_inflight or self._enough(program)
        alive: dict[Run, None] = {}
        ready: dict[int, Result] = {}
        order: deque[int] = deque()
        changed = asyncio.Event()
        index = 0

        def begin(inputs: tuple[Any, ...], place: int) -> None:
            def done(run: Run) -> None:
                alive.pop(run, None)
                ready[place] = _result(run, place, inputs, record)
                if not ordered:
                    order.append(place)
                changed.set()

            run = self.start(
                program, inputs, {}, settings, done, keep=record, observers=observers
            )
            if not run.finished:
                alive[run] = None

        try:
            while True:
                while not rows.ended and len(alive) + len(ready) < limit:
                    inputs = rows.take(changed)
                    if inputs is None:
                        break
                    if ordered:
                        order.append(index)
                    begin(inputs, index)
                    index += 1
                    if index % _BREATHE_EVERY == 0:
                        await asyncio.sleep(0)
                while order and order[0] in ready:
                    yield ready.pop(order.popleft())
                    if not rows.ended:
                        break
                else:
                    if rows.ended and not alive and not ready:
                        return
                    if rows.ended or rows.waiting or len(alive) + len(ready) >= limit:
                        await changed.wait()
                        changed.clear()
        finally:
            await rows.aclose()
            for run in list(alive):
                run.cancel(
                    asyncio.CancelledError("the results are not wanted any more")
                )
                await run.wait_closed()

    async def aclose(self) -> None:
        """Cancel every run, wait for its tasks, and close the clients."""
        if self.closed:
            return
        self.closed = True
        for run in list(self._alive):
            run.cancel(EngineStateError("the engine was closed while the run went on."))
            await run.wait_closed()
        await self.manager.aclose()

    def _enough(self, program: Program) -> int:
        """Return how many inputs keep every slot of the module's aliases busy."""
        modules = program.module.modules()
        aliases = {m.alias: None for m in modules if isinstance(m, LLMInference)}
        return max(16, 2 * sum(map(self.manager.slots, aliases)))

    def _check_home(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self.closed:
            raise EngineStateError(
                "this engine is closed. Make a new one, or do the work inside its "
                "'async with' block."
            )
        if os.getpid() != self._process:
            raise EngineStateError(
                "this engine was made before a fork, and its connections belong to the "
                "parent process. Make a new Engine in the child."
            )
        if loop is not self._loop:
            raise EngineStateError(
                "this engine is at home on another event loop, and its connections "
                "cannot leave it. Make one Engine per loop, or use engine.run_sync "
                "everywhere."
            )

    def _teller(self, listeners: list[Observer]) -> Callable[[Event], None]:
        def tell(event: Event) -> None:
            for observer in listeners:
                try:
                    observer(event)
                except Exception:  # an observer must not hurt a run
                    logger.exception("an observer failed on %s", type(event).__name__)

        return tell


class Rows:
    """The inputs, pulled one at a time and zipped as `zip` does.

    Args:
        iterables: Iterables or async iterables; the shortest one ends it.
    """

    def __init__(self, iterables: tuple[Any, ...]) -> None:
        self.ended = False
        self._pull: asyncio.Future[tuple[Any, ...]] | None = None
        self._sync: Iterator[tuple[Any, ...]] | None = None
        if not iterables:
            raise ModuleError(
                "map and stream need at least one iterable of inputs; for a module "
                "without inputs call engine.run."
            )
        for place, iterable in enumerate(iterables):
            if not hasattr(iterable, "__iter__") and not hasattr(iterable, "__aiter__"):
                raise ModuleError(
                    f"argument {place + 1} of map or stream must be an iterable of "
                    f"inputs, not {type(iterable).__name__}; for one input call "
                    "engine.run."
                )
        if not any(hasattr(iterable, "__aiter__") for iterable in iterables):
            self._sync = zip(*iterables, strict=False)
        else:
            self._each = [
                aiter(i) if hasattr(i, "__aiter__") else iter(i) for i in iterables
            ]

    @property
    def waiting(self) -> bool:
        """Whether the next input is awaited."""
        return self._pull is not None and not self._pull.done()

    def take(self, changed: asyncio.Event) -> tuple[Any, ...] | None:
        """Return the next input, or None if there is none now.

        Args:
            changed: Is set when one arrives later.

        Raises:
            Exception: What the iterables raise.
        """
        if self._sync is not None:
            row = next(self._sync, None)
            self.ended = row is None
            return row
        if self._pull is None:
            self._pull = asyncio.ensure_future(self._next())
            self._pull.add_done_callback(lambda _: changed.set())
        if not self._pull.done():
            return None
        pulled, self._pull = self._pull, None
        try:
            return pulled.result()
        except StopAsyncIteration:
            self.ended = True
            return None

    async def aclose(self) -> None:
        """Stop pulling."""
        if self._pull is not None:
            self._pull.cancel()
            await asyncio.wait([self._pull])
            self._pull = None

    async def _next(self) -> tuple[Any, ...]:
        row = []
        for each in self._each:
            if hasattr(each, "__anext__"):
                row.append(await anext(each))
            else:
                try:
                    row.append(next(each))
                except StopIteration:
                    raise StopAsyncIteration from None
        return tuple(row)


def _result(run: Run, index: int, inputs: tuple[Any, ...], record: bool) -> Result:
    work = run.work
    return Result(
        index=index,
        inputs=inputs,
        output=run.output,
        error=run.error,
        usage=work.usage,
        seconds=work.now() - work.began,
        record=record_of(run) if record else None,
    )


def _wants_tokens(observer: Observer) -> bool:
    return getattr(observer, "wants_tokens", True)


def _every_node(node: GraphNode) -> bool:
    return True
