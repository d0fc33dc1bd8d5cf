"""`trace`: the graph of a module, nothing run.

The inputs are proxies too. What needs a value at once is an error here, with the fix;
``await`` gives a proxy, so an ``async def forward`` traces as well. Forwards that start
at once (children of the other kind, items of a list) are traced through; those that
wait for a value (`cond`, `map` over a proxy) stay one node.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from inf_engine.containers import Sequential
from inf_engine.dispatch import dispatcher
from inf_engine.errors import ModuleError, TracingError
from inf_engine.graph import GraphNode, InferenceGraph
from inf_engine.module import InferenceModule
from inf_engine.tracing.explain import explained
from inf_engine.tracing.fill import filled, reopened
from inf_engine.tracing.proxy import Proxy
from inf_engine.tracing.tracer import Frame, Program, Tracer


def trace(module: InferenceModule, /, *args: Any, **kwargs: Any) -> InferenceGraph:
    """Return the graph of a module without running it.

    Args:
        module: The module.
        *args: One for each positional input; only how many matters. With no inputs at
            all, the required arguments of ``forward`` are taken, and one for ``*args``.
        **kwargs: Keyword inputs, likewise.

    Raises:
        ModuleError: If it is not a module.
        TracingError: If ``forward`` needs a value that only a run can give.
        TypeError: If the inputs do not fit the signature of ``forward``.

    Example:
        >>> from inf_engine import LLMInference
        >>> print(trace(LLMInference(alias="fast"), "any text"))
        InferenceGraph of 2 nodes
          prompt#1                 input
          llm#1                    llm alias=fast <- prompt#1
          output <- llm#1
    """
    if not isinstance(module, InferenceModule):
        kind = f"the class {module.__name__}" if isinstance(module, type) else ""
        raise ModuleError(
            "trace takes InferenceModule objects, not "
            f"{kind or type(module).__name__}: subclass InferenceModule, and pass an "
            "instance of it."
        )
    return _SymbolicHost(Program(module)).run(args, kwargs)


class _SymbolicHost:
    """A host that runs nothing."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.tracer = Tracer(program, self)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> InferenceGraph:
        module = self.program.module
        if self.tracer.is_leaf(module):
            fn: Callable[..., Any] = module.__call__
            is_async = False
        else:
            fn, is_async = module.forward, self.program.is_async(module)
        frame = Frame(self.tracer, None, is_async)
        args, kwargs = self._inputs(module, frame, args, kwargs)
        context = copy_context()
        context.run(dispatcher.set, frame)
        output = self._call(frame, fn, args, kwargs, context)
        captured, _ = self.tracer.capture(output, "the output")
        if not self._is_opaque():
            self.tracer.holes.check_all_read()
        self.tracer.graph.output = captured
        return self.tracer.graph

    def _inputs(
        self,
        module: InferenceModule,
        frame: Frame,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return a proxy for each input."""

        def stand_in(name: str) -> Any:
            node = self.tracer.add("input", name, name, (), {}, (), None)
            return Proxy(frame, node)

        inputs = _inputs_of(module)
        if not args and not kwargs:
            args, kwargs = inputs.required, dict.fromkeys(inputs.by_keyword)
        names = [*inputs.places, *[inputs.more] * len(args)]
        proxies = tuple([stand_in(name) for name in names[: len(args)]])
        return proxies, {name: stand_in(name) for name in kwargs}

    def _call(
        self,
        frame: Frame,
        fn: Callable[..., Any],
        args: Any,
        kwargs: Any,
        context: Context,
    ) -> Any:
        try:
            if not frame.is_async:
                return context.run(fn, *args, **kwargs)
            return _run_apart(frame, partial(fn, *args, **kwargs), context)
        except Exception as exc:
            self._named(exc)
            told = explained(exc)
            if told is exc:
                raise
            raise told from exc
        finally:
            frame.open = False

    def _is_opaque(self) -> bool:
        """Say whether a branch stayed one node, and may use texts nobody sees."""
        return any(n.kind == "branch" and n.deps for n in self.tracer.graph)

    def _named(self, error: BaseException) -> None:
        """Write the names of nodes into an exception in the place of their values."""
        waiting, _ = self.tracer.capture_error(error)
        for told, args in waiting:
            told.args = filled(args, _Unknown)

    # -- the tracer's host ------------------------------------------------------------

    def added(self, node: GraphNode, context: Context | None) -> None:
        """Trace through a branch that starts at once."""
        if node.kind != "branch" or node.deps or context is None:
            return
        fn = node.target
        frame = Frame(self.tracer, node, inspect.iscoroutinefunction(fn))
        args, kwargs = reopened((node.args, node.kwargs), frame)
        context.run(dispatcher.set, frame)
        output = self._call(frame, fn, args, kwargs, context)
        _, node.inner = self.tracer.capture(output, "the output of a branch")

    def wait(self, frame: Frame, node: GraphNode, why: str) -> Any:
        """Refuse: nothing is known."""
        raise TracingError(
            f"cannot {why} the output of {node} while tracing without running: its "
            "value is not known yet. Run the module with an Engine, or move this code "
            "into an @op function."
        )

    def wait_async(self, frame: Frame, node: GraphNode) -> Generator[Any, Any, Any]:
        """Give a proxy for what an ``await`` would give."""
        return Proxy(Frame(self.tracer, frame.branch), node)
        yield

    def settle(self, frame: Frame, node: GraphNode) -> None:
        """Do nothing: what changes a value will be refused anyway."""


class _Unknown:
    """Stands in a message for the value of a node, whatever the format spec."""

    def __init__(self, node: GraphNode) -> None:
        self._name = node.name

    def __repr__(self) -> str:
        return f"<{self._name}>"

    def __format__(self, spec: str) -> str:
        return repr(self)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The names of positional inputs, of further ones, and of what has to be given."""

    places: tuple[str, ...]
    more: str
    required: tuple[str, ...]
    by_keyword: tuple[str, ...]


def _inputs_of(module: InferenceModule) -> _Inputs:
    """Return the inputs of a module; a Sequential has those of its first step."""
    for _ in module.modules():  # no more often, should a Sequential be its own step
        if type(module).forward is not Sequential.forward or not module._modules:
            break
        module = next(iter(module._modules.values()))
    if module.leaf:
        return _Inputs(("prompt",), "prompt", ("prompt",), ())
    kind = inspect.Parameter
    parameters = inspect.signature(module.forward).parameters.values()
    places = [
        p.name
        for p in parameters
        if p.kind in (kind.POSITIONAL_ONLY, kind.POSITIONAL_OR_KEYWORD)
    ]
    free = [p.name for p in parameters if p.kind is kind.VAR_POSITIONAL]
    needed = {p.name: p.kind for p in parameters if p.default is kind.empty}
    required = [name for name in needed if name in places]
    return _Inputs(
        tuple(places),
        free[0] if free else "input",
        (*required, *(free if len(required) == len(places) else ())),
        tuple([n for n in needed if needed[n] is kind.KEYWORD_ONLY]),
    )


def _run_apart(frame: Frame, fn: Callable[[], Any], context: Context) -> Any:
    """Run a coroutine function to its end, in a thread with a loop of its own."""
    outcome: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        frame.thread = threading.get_ident()
        try:
            context.run(asyncio.run, _awaited(fn, outcome))
        except BaseException as exc:  # noqa: BLE001 - raised again by the caller
            errors.append(exc)

    thread = threading.Thread(target=work, name="inf-engine-trace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


async def _awaited(fn: Callable[[], Any], outcome: list[Any]) -> None:
    """Await into a list: a returned proxy would be asked for its class."""
    outcome.append(await fn())
