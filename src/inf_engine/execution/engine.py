"""`Engine`: what a user runs modules with."""

import asyncio
import contextlib
import copy
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, ParamSpec, Protocol, Self, TypeVar, overload

from inf_engine.errors import ConfigurationError, EngineStateError
from inf_engine.execution.batch import Result
from inf_engine.execution.books import record_of
from inf_engine.execution.events import Event, Observer, TokenDelta
from inf_engine.execution.progress import ProgressBar
from inf_engine.execution.run import Run
from inf_engine.execution.scheduler import Scheduler
from inf_engine.execution.settings import ErrorPolicy, ExecutionSettings
from inf_engine.graph import GraphNode
from inf_engine.record import RunRecord
from inf_engine.resources.manager import ResourceManager

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
        max_inflight: The most inputs of a `map` or `stream` alive at once; None for
            enough to keep every slot busy.
        timeout: Seconds that one run may take, None for no limit.
        retries: Tries after the first, None for what each endpoint says.
        observers: Callables that take one frozen event each (see
            `inf_engine.execution.events`).
        progress: True for a progress bar, False for none, None for one where stderr
            is a terminal and there is more than one input.

    Raises:
        ConfigurationError: If the resources or a setting are wrong.

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
        max_inflight: int | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        observers: Iterable[Observer] = (),
        progress: bool | None = None,
    ) -> None:
        if max_inflight is not None and (
            not isinstance(max_inflight, int) or max_inflight < 1
        ):
            raise ConfigurationError(
                f"max_inflight must be an int ≥ 1, or None, not {max_inflight!r}."
            )
        manager = (
            resources
            if isinstance(resources, ResourceManager)
            else ResourceManager(resources)
        )
        self.settings = ExecutionSettings(timeout=timeout, retries=retries)
        self._scheduler = Scheduler(manager, observers, max_inflight)
        self._progress = progress
        self._home = _Home()

    @property
    def resources(self) -> ResourceManager:
        """The manager that binds the aliases."""
        return self._scheduler.manager

    def using(self, **settings: Any) -> Self:
        """Return a view of this engine with other `ExecutionSettings`.

        Args:
            **settings: ``priority``, ``timeout``, ``node_timeout``, ``errors``,
                ``retries``.

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
    ) -> list[Any]:
        """Run a module on many inputs at once; results come in input order.

        Args:
            module: The module.
            *iterables: Inputs, zipped as the builtin `map` does; async ones too.
            errors: ``"raise"`` cancels the rest at the first failure, ``"collect"``
                gives `Result` objects; None for the engine's setting.
            record: Whether to give `Result` objects with records.

        Returns:
            Outputs, or `Result` objects with ``errors="collect"`` or ``record=True``.

        Raises:
            ExecutionError: With ``errors="raise"``, the failure that came first.
        """
        policy = self.settings.replace(errors=errors or self.settings.errors).errors
        found: list[Result] = []
        stream = self.stream(module, *iterables, record=record)
        async with contextlib.aclosing(stream) as results:
            async for result in results:
                if policy == "raise":
                    result.unwrap()
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
    ) -> AsyncGenerator[Result, None]:
        """Run a module on any number of inputs; yield a `Result` for each.

        Inputs are pulled lazily. A failed input is a result with an `error` and costs
        only itself. Leaving the loop stops pulling and cancels what is in flight.

        Args:
            module: The module.
            *iterables: Inputs, zipped; endless and async ones too.
            ordered: Whether to yield in input order instead of as they finish.
            record: Whether results carry records.

        Yields:
            One result for each input.
        """
        program = self._scheduler.program(module)
        with ProgressBar.shown(self._progress, iterables) as observers:
            batch = self._scheduler.batch(
                program,
                iterables,
                self.settings,
                ordered=ordered,
                record=record,
                observers=observers,
            )
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
        stream = _TokenStream()
        task = asyncio.ensure_future(
            self._outcome(
                module,
                args,
                kwargs,
                wants_tokens=stream.wants,
                check_output=stream.check,
                observers=[stream],
            )
        )
        task.add_done_callback(lambda _: stream.end())
        try:
            async for piece in stream:
                yield piece
            _unwrapped(await task)
        finally:
            task.cancel()
            await asyncio.wait([task])

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
        return self._home.call(self.run(module, *args, **kwargs))

    # -- life -------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Cancel what runs, and close all connections. The engine is done for."""
        await self._scheduler.aclose()

    def close(self) -> None:
        """Close an engine that was used with `run_sync`; nothing if it never was."""
        self._home.close(self.aclose)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Engine({', '.join(self.resources.aliases)})"

    async def _outcome(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any
    ) -> Run:
        program = self._scheduler.program(module)
        return await self._scheduler.outcome(
            lambda done: self._scheduler.start(
                program, args, kwargs, self.settings, done, **options
            )
        )


class _Home:
    """The private loop of an engine, in a thread of its own, made on first use."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the private loop and wait for it."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="inf-engine", daemon=True
            )
            self._thread.start()
        if self._thread is threading.current_thread():
            coroutine.close()
            raise EngineStateError(
                "run_sync was called on the engine's own loop, where it would wait for "
                "itself. Call the module in forward, or await engine.run."
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Close on the private loop, then end it."""
        if self._loop is None or self._thread is None:
            return
        self.call(aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None


class _TokenStream:
    """The pieces of the one node that is the output, as an observer and an iterator."""

    wants_tokens = True

    def __init__(self) -> None:
        self._node: GraphNode | None = None
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._held: dict[str, list[str]] = {}

    def check(self, output: Any) -> None:
        """Refuse an output that is not the text of one model call."""
        is_text = isinstance(output, GraphNode) and output.kind == "llm"
        if not is_text or output.target.response_format is not None:
            raise TypeError(
                "stream_tokens needs a module whose output is the text of one model "
                f"call, not {_described(output)}. Return that call's output itself, or "
                "use engine.run."
            )
        self._node = output
        for piece in self._held.pop(output.name, ()):
            self._pieces.put_nowait(piece)

    def wants(self, node: GraphNode) -> bool:
        """Say whether the text of a node may be the output."""
        plain = node.target.response_format is None and not node.target.tools
        return plain and (self._node is None or node is self._node)

    def __call__(self, event: Event) -> None:
        if isinstance(event, TokenDelta):
            if self._node is not None and event.node == self._node.name:
                self._pieces.put_nowait(event.text)
            else:
                self._held.setdefault(event.node, []).append(event.text)

    def end(self) -> None:
        self._pieces.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[str]:
        while (piece := await self._pieces.get()) is not None:
            yield piece


def _described(output: Any) -> str:
    if isinstance(output, GraphNode):
        return f"the {output.kind} node {output}"
    return f"a {type(output).__name__}"


def _unwrapped(run: Run) -> Any:
    if run.error is not None:
        raise run.error
    return run.output
