"""`Engine`: what a user runs modules with."""

import asyncio
import contextlib
import copy
import inspect
from collections.abc import AsyncGenerator, Iterable
from functools import partial
from typing import Any, ParamSpec, Protocol, Self, TypeVar, overload

from inf_engine.errors import ConfigurationError, UnknownAliasError
from inf_engine.execution.backend import Backend
from inf_engine.execution.batch import Result
from inf_engine.execution.books import record_of
from inf_engine.execution.events import Observer
from inf_engine.execution.home import Home
from inf_engine.execution.live import LiveRun
from inf_engine.execution.memory import Memory
from inf_engine.execution.progress import ProgressDisplay
from inf_engine.execution.recall import Identity
from inf_engine.execution.run import Run
from inf_engine.execution.scheduler import Scheduler
from inf_engine.execution.settings import ErrorPolicy, ExecutionSettings
from inf_engine.execution.telemetry import wanted
from inf_engine.execution.tokens import TokenStream
from inf_engine.record import RunRecord
from inf_engine.resources.budget import Budget
from inf_engine.resources.manager import ResourceManager
from inf_engine.resources.retry import RetryPolicy
from inf_engine.resources.statistics import EngineStatistics

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)


class Runnable(Protocol[P, T_co]):
    """A module as the type checker sees it: what its ``forward`` takes and gives."""

    def forward(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Compute the output."""
        ...


class AsyncRunnable(Protocol[P, T_co]):
    """A module with an ``async def forward``."""

    async def forward(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Compute the output."""
        ...


class Engine:
    """Runs modules against resources, as fast as the endpoints allow.

    Use it as ``async with Engine(...) as engine``, or with `run_sync` and `close` from
    scripts and notebooks. It is at home on the loop it is first used on.

    Args:
        resources: A path to a TOML or YAML file, a dict, a `ResourceConfig`, a
            `ResourceManager`, or a dict of alias → client.
        journal: A path: every answer is kept there before it is used, and a run over
            the same input takes it from there instead of asking again. A `JournalStore`
            will do, too.
        cache: A path: answers are used again for equal requests, whatever the input.
        budget: What may be spent; a request that does not fit is not sent.
        max_inflight: The most inputs of a `map` or `stream` alive at once; None for
            enough to keep every slot busy.
        timeout: Seconds that one run may take, None for no limit.
        retries: Tries after the first, or a `RetryPolicy`; None for what each endpoint
            says. It wins over the endpoint's.
        hedge: The share of requests that may be sent a second time because they take
            longer than 95 in 100 did: 0.05 for one in twenty. The first answer wins,
            and both are paid for. None for what each endpoint says, which is 0.
        observers: Callables that take one frozen event each (see
            `inf_engine.execution.events`).
        progress: True for a progress bar, False for none, None for one where stderr
            is a terminal and there is more than one input.
        identity: Gives what stands for an input in the journal, called with the
            inputs; for inputs that are not plain values.
        telemetry: True for spans and metrics of OpenTelemetry, False for none, None
            for them where the process has set a tracer or meter provider before (see
            `inf_engine.execution.telemetry`).

    Raises:
        ConfigurationError: If the resources or a setting are wrong.
        JournalError: If a file cannot be used, or not trusted.

    Example:
        >>> import asyncio
        >>> from inf_engine import LLMInference
        >>> from inf_engine.testing import FunctionClient
        >>> shout = FunctionClient(lambda request: request.prompt.upper())
        >>> async def main():
        ...     async with Engine({"fast": shout}) as engine:
        ...         return await engine.run(LLMInference(alias="fast"), "hello")
        >>> asyncio.run(main())
        'HELLO'
    """

    def __init__(
        self,
        resources: Any,
        *,
        journal: Any = None,
        cache: Any = None,
        budget: Budget | None = None,
        max_inflight: int | None = None,
        timeout: float | None = None,
        retries: int | RetryPolicy | None = None,
        hedge: float | None = None,
        observers: Iterable[Observer] = (),
        progress: bool | None = None,
        identity: Identity | None = None,
        telemetry: bool | None = None,
    ) -> None:
        self.settings = ExecutionSettings(timeout=timeout, retries=retries, hedge=hedge)
        listeners = _checked(max_inflight, observers, progress)
        listeners += wanted(telemetry)
        manager = (
            resources
            if isinstance(resources, ResourceManager)
            else ResourceManager(resources)
        )
        if identity is not None and not callable(identity):
            raise ConfigurationError(
                "identity must be a function of the inputs that gives what stands for "
                f"them, not {identity!r}."
            )
        manager.limit(budget)
        memory = Memory.opened(journal, cache, manager)
        self._scheduler = Scheduler(manager, listeners, max_inflight, memory, identity)
        books, jobs = manager.spending.ledger.snapshot, self._scheduler.jobs
        self._progress = ProgressDisplay(progress, books, jobs)
        self._home = Home(self._scheduler.check_usable)

    def statistics(self) -> EngineStatistics:
        """Return what was asked, answered, lost, spent and waited for until now.

        It counts all that went over this engine's resources, by alias and by the path
        of the module that asked; `print` shows a table.
        """
        return self.resources.spending.ledger.snapshot()

    @property
    def resources(self) -> ResourceManager:
        """The manager that binds the aliases."""
        return self._scheduler.manager

    @property
    def closed(self) -> bool:
        """Whether it was closed, and runs nothing any more."""
        return self._scheduler.closed

    def check(self, module: Any) -> None:
        """Make sure that a module can be run here; nothing is sent.

        Args:
            module: The module.

        Raises:
            ModuleError: If it is not a module.
            ConfigurationError: If an alias is bound to nothing, or a key is not set.
            EngineStateError: If the engine is closed, or not here at home.
        """
        self._scheduler.program(module)

    def reads_images(self, alias: str) -> bool:
        """Say whether the models behind an alias read images, as far as is known.

        Args:
            alias: The alias.

        Raises:
            UnknownAliasError: If it is not bound.
        """
        manager = self._scheduler.manager
        if alias not in manager.aliases:
            raise UnknownAliasError(alias, manager.aliases, "")
        return manager.reads_images(alias)

    def using(self, **settings: Any) -> Self:
        """Return a view of this engine with other `ExecutionSettings`.

        Args:
            **settings: ``priority``, ``timeout``, ``node_timeout``, ``errors``,
                ``retries``, ``hedge``.

        Raises:
            ConfigurationError: If a name or a value is wrong.
        """
        view = copy.copy(self)
        view.settings = self.settings.replace(**settings)
        return view

    # -- running ----------------------------------------------------------------------

    @overload
    async def run(
        self, module: AsyncRunnable[P, T_co], /, *args: P.args, **kwargs: P.kwargs
    ) -> T_co: ...
    @overload
    async def run(
        self, module: Runnable[P, T_co], /, *args: P.args, **kwargs: P.kwargs
    ) -> T_co: ...
    async def run(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run a module on one input and return what its ``forward`` returned.

        Args:
            module: The module; it need not be bound.
            *args: Positional inputs.
            **kwargs: Keyword inputs; all of them are the module's.

        Raises:
            ExecutionError: If a node failed and no forward caught it.
            DeadlineError: If it took longer than the timeout.
            UsageError: If the module cannot be traced.
            Exception: What ``forward`` itself raised.
        """
        run = await self._outcome(module, args, kwargs)
        return _unwrapped(run)

    async def record(self, module: Any, /, *args: Any, **kwargs: Any) -> RunRecord:
        """Run a module like `run`, and return what happened in it.

        Raises:
            ExecutionError: Like `run`; the error carries the partial record.
        """
        run = await self._outcome(module, args, kwargs, keep=True)
        _unwrapped(run)
        return record_of(run)

    async def map(
        self,
        module: Any,
        /,
        *iterables: Any,
        errors: ErrorPolicy | None = None,
        record: bool = False,
        identity: Identity | None = None,
        backend: Backend | None = None,
    ) -> list[Any]:
        """Run a module on many inputs at once; results come in input order.

        Args:
            module: The module.
            *iterables: Inputs, zipped as the builtin `map` does; async ones too.
            errors: ``"raise"`` cancels the rest at the first failure, ``"collect"``
                gives `Result` objects; None for the engine's setting.
            record: Whether to give `Result` objects with records.
            identity: As for the engine, for these inputs.
            backend: Where the inputs run, e.g. `inf_engine.scale.RayBackend()`; None
                for this process.

        Returns:
            Outputs, or `Result` objects with ``errors="collect"`` or ``record=True``.

        Raises:
            ExecutionError: With ``errors="raise"``, the failure that came first.
        """
        view = self if errors is None else self.using(errors=errors)
        policy = view.settings.errors
        found: list[Result] = []
        how: dict[str, Any] = {"identity": identity, "backend": backend}
        stream = view.stream(module, *iterables, record=record, **how)
        async with contextlib.aclosing(stream) as results:
            async for result in results:
                if policy == "raise" and result.error is not None:
                    result.error.add_note(f"It was input {result.index} of the map.")
                    raise result.error
                found.append(result)
        found.sort(key=lambda result: result.index)
        if policy == "collect" or record:
            return found
        return [result.output for result in found]

    async def stream(
        self,
        module: Any,
        /,
        *iterables: Any,
        ordered: bool = False,
        record: bool = False,
        identity: Identity | None = None,
        backend: Backend | None = None,
    ) -> AsyncGenerator[Result, None]:
        """Run a module on any number of inputs; yield a `Result` for each.

        Inputs are pulled lazily. A failed input is a result with an `error` and costs
        only itself. Leaving the loop stops pulling and cancels what is in flight;
        generators among the inputs are closed in the end.

        Args:
            module: The module.
            *iterables: Inputs, zipped; endless and async ones too.
            ordered: Whether to yield in input order instead of as they finish.
            record: Whether results carry records.
            identity: As for the engine, for these inputs.
            backend: As for `map`.

        Yields:
            One result for each input.
        """
        scheduler = self._scheduler
        make = scheduler.batch
        if backend is not None:
            make = partial(_checked_backend(backend).batch, scheduler)
        if scheduler.is_lent:
            await scheduler.whole()
        how: dict[str, Any] = {"ordered": ordered, "record": record}
        batch = make(module, iterables, self.settings, identity=identity, **how)
        with self._progress.showing(batch, iterables):
            async with contextlib.aclosing(batch.results()) as results:
                async for result in results:
                    yield result

    async def stream_tokens(
        self, module: Any, /, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[str, None]:
        """Run a module and yield its output as it is written.

        Args:
            module: The module; its output must be the text of one model call.
            *args: Positional inputs.
            **kwargs: Keyword inputs.

        Yields:
            Pieces whose concatenation is the output.

        Raises:
            TypeError: If the output is not the text of one node. Nothing is paid,
                unless a graph break had to wait for an answer.
        """
        stream = TokenStream()
        task = asyncio.ensure_future(
            self._outcome(module, args, kwargs, **stream.options)
        )
        task.add_done_callback(stream.end)
        try:
            async for piece in stream:
                yield piece
            if rest := stream.rest(_unwrapped(await task)):
                yield rest
        finally:
            task.cancel()
            await asyncio.wait([task])

    def start(
        self,
        module: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        tokens: bool = False,
    ) -> LiveRun:
        """Start a run on the running loop, to look at while it goes on.

        Args:
            module: The module.
            args: Its positional inputs.
            kwargs: Its keyword inputs.
            tokens: Whether endpoints are asked to stream, for `LiveRun.pieces`.

        Raises:
            ConfigurationError: If an alias cannot be called.
            EngineStateError: If the engine is closed, or not here at home.
        """
        program = self._scheduler.program(module)
        begin = partial(
            self._scheduler.start, program, args, kwargs or {}, self.settings
        )
        return LiveRun(begin, tokens=tokens)

    @overload
    def run_sync(
        self, module: AsyncRunnable[P, T_co], /, *args: P.args, **kwargs: P.kwargs
    ) -> T_co: ...
    @overload
    def run_sync(
        self, module: Runnable[P, T_co], /, *args: P.args, **kwargs: P.kwargs
    ) -> T_co: ...
    def run_sync(self, module: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run a module from synchronous code and wait for the output.

        It runs on a private loop in a thread of the engine's own, so it also works
        inside a notebook's running loop.

        Raises:
            EngineStateError: If the engine is at home on another loop.
            Exception: Like `run`.
        """
        return self._home.call(lambda: self.run(module, *args, **kwargs))

    # -- life -------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Cancel what runs, and close all connections. The engine is done for.

        Raises:
            EngineStateError: If the engine is at home on another loop.
        """
        if self._home.is_elsewhere:
            await asyncio.to_thread(self.close)
        else:
            await self._scheduler.aclose()

    def close(self) -> None:
        """Close an engine from synchronous code; `run_sync` is its counterpart.

        Raises:
            EngineStateError: If the engine is at home on another loop: await `aclose`
                there.
        """
        if not self._scheduler.closed:
            self._home.call(self.aclose, self._scheduler.check_closable)
        self._home.stop()

    async def __aenter__(self) -> Self:
        self._scheduler.check_open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        self._scheduler.check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Engine({', '.join(self.resources.aliases)})"

    async def _outcome(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any
    ) -> Run:
        if self._scheduler.is_lent:
            await self._scheduler.whole()
        program = self._scheduler.program(module)
        return await self._scheduler.outcome(
            lambda done: self._scheduler.start(
                program, args, kwargs, self.settings, done, **options
            )
        )


def _checked_backend(backend: Any) -> Backend:
    """Return a backend, once it is found to be one."""
    if isinstance(backend, type) or not callable(getattr(backend, "batch", None)):
        raise ConfigurationError(
            "backend must be None for this process, or a backend such as "
            f"inf_engine.scale.RayBackend(), not {backend!r}."
        )
    return backend


def _unwrapped(run: Run) -> Any:
    if run.error is not None:
        raise run.error
    return run.output


def _checked(max_inflight: Any, observers: Any, progress: Any) -> list[Observer]:
    """Return the observers, once the arguments of an engine are found to be right."""
    whole = isinstance(max_inflight, int) and not isinstance(max_inflight, bool)
    if max_inflight is not None and not (whole and max_inflight >= 1):
        raise ConfigurationError(
            f"max_inflight must be an int ≥ 1, or None, not {max_inflight!r}."
        )
    if progress not in (True, False, None):
        raise ConfigurationError(
            f"progress must be True, False or None, not {progress!r}."
        )
    listed = list(observers) if isinstance(observers, Iterable) else [None]
    if not all(map(callable, listed)):
        raise ConfigurationError(
            "observers must be a list of callables that take one event each, not "
            f"{observers!r}."
        )
    for observer in listed:
        call = getattr(observer, "__call__", None)  # noqa: B004 - to look at it
        if any(map(inspect.iscoroutinefunction, (observer, call))):
            raise ConfigurationError(
                f"the observer {observer!r} is async, and nobody would await it. Give "
                "a plain function; it may put events into an asyncio.Queue."
            )
    return listed
