"""`eager` runs a module as plain Python; `assert_runs_alike` compares that to a run.

The rule that tests all of tracing: eager equals traced.
"""

import asyncio
import copy
import inspect
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from types import CoroutineType
from typing import Any

from inf_engine.dispatch import dispatcher
from inf_engine.errors import ExecutionError
from inf_engine.execution.conversation import converse
from inf_engine.execution.engine import Engine
from inf_engine.functional import Op, first
from inf_engine.llm import LLMInference
from inf_engine.module import InferenceModule
from inf_engine.parameter import Parameter
from inf_engine.template import HoleTable, Template
from inf_engine.testing.answered import Answered, given, given_call
from inf_engine.testing.answers import plausible
from inf_engine.testing.clients import FunctionClient
from inf_engine.tree import map_leaves
from inf_engine.types import Client, LLMRequest, LLMResponse


def eager(
    module: InferenceModule, clients: Mapping[str, Client], /, *args: Any, **kwargs: Any
) -> Any:
    """Run a module as plain Python: every call waits for its answer.

    Args:
        module: The module.
        clients: A client for each alias.
        *args: Positional inputs.
        **kwargs: Keyword inputs.

    Returns:
        What ``forward`` returned; a function that takes the inputs if there are none
        here and ``forward`` takes required ones, or any number of them.
    """
    if args or kwargs or not _needs_inputs(module):
        return _called(module, clients, args, kwargs)
    return lambda *args, **kwargs: _called(module, clients, args, kwargs)


def _needs_inputs(module: InferenceModule) -> bool:
    """Say whether a call without inputs stands for a call with inputs to come."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return any(p.kind in several or p.default is p.empty for p in parameters)


def _called(
    module: InferenceModule, clients: Mapping[str, Client], args: Any, kwargs: Any
) -> Any:
    with _OtherLoop() as other:
        holes = HoleTable()
        value = _Eager(clients, other, holes).call(module, args, kwargs)
        return _with_images(holes, given(value))


def assert_runs_alike(
    module: InferenceModule,
    /,
    *args: Any,
    clients: Mapping[str, Client] | Callable[[], Mapping[str, Client]] | None = None,
    **kwargs: Any,
) -> Any:
    """Assert that a traced run of a module does what plain Python does.

    Outputs are compared with ``==`` and by type; a failure must be of the same type.

    Args:
        module: The module.
        *args: Positional inputs; each run gets a copy.
        clients: A client for each alias, of which the plain run gets a copy; or a
            function that makes fresh ones for each of the two runs; None for clients
            that answer as `plausible` does.
        **kwargs: Keyword inputs.

    Returns:
        The output, or the exception that both raised.

    Raises:
        AssertionError: If the two differ.
    """
    make = _maker(module, clients)
    for_eager: Any = make if callable(clients) else lambda: copy.deepcopy(make())
    expected = _outcome(
        lambda: _called(module, for_eager(), copy.deepcopy(args), copy.deepcopy(kwargs))
    )
    got = _outcome(
        lambda: _traced(module, make(), copy.deepcopy(args), copy.deepcopy(kwargs))
    )
    if isinstance(expected, BaseException) or isinstance(got, BaseException):
        if type(expected) is not type(got):
            raise AssertionError(f"eager gave {expected!r}, traced gave {got!r}") from (
                got if isinstance(got, BaseException) else None
            )
        return got
    if type(expected) is not type(got) or expected != got:
        raise AssertionError(f"eager gave {expected!r}, traced gave {got!r}")
    return got


def _maker(module: InferenceModule, clients: Any) -> Callable[[], Mapping[str, Client]]:
    """Return what gives the clients of one run."""
    if callable(clients):
        return clients
    aliases = [m.alias for m in module.modules() if isinstance(m, LLMInference)]
    given: Any = clients
    if given is None:
        given = {alias: FunctionClient(plausible) for alias in aliases}
    return lambda: given


class _Eager:
    """A dispatcher that answers every call before it returns.

    In an ``async def forward`` answers are `Answered`, in the place of coroutines.
    """

    def __init__(
        self,
        clients: Mapping[str, Client],
        other: "_OtherLoop",
        holes: HoleTable,
        is_async: bool | None = None,
    ) -> None:
        self._clients = clients
        self._other = other
        self._holes = holes
        self._is_async = is_async

    def call(self, module: Any, args: Any, kwargs: Any) -> Any:
        """Return the value of a call of a module."""
        args, kwargs = self._given_call(args, kwargs)
        if isinstance(module, LLMInference):
            complete = _completer(self._clients[module.alias])
            return self._other.run(converse(module, args, kwargs, complete))
        if module.leaf:
            return copy_context().run(self._undisturbed, module.forward, args, kwargs)
        is_async = module.is_async()
        if is_async is self._is_async is False:
            return module.forward(*args, **kwargs)
        inner = _Eager(self._clients, self._other, self._holes, is_async)
        context = copy_context()
        context.run(dispatcher.set, inner)
        return context.run(lambda: inner._finished(module.forward(*args, **kwargs)))

    def call_module(self, module: Any, args: Any, kwargs: Any) -> Any:
        return self._answer(self.call(module, args, kwargs))

    def call_op(self, op: Op[Any, Any], args: Any, kwargs: Any) -> Any:
        args, kwargs = self._given_call(args, kwargs)
        return self._answer(copy_context().run(self._undisturbed, op.fn, args, kwargs))

    def call_branch(self, name: str, fn: Any, args: Any, wait: bool) -> Any:
        """Call `fn` as a forward of its own, which is async if it gives a coroutine."""
        context = copy_context()
        parts = self._clients, self._other, self._holes
        context.run(dispatcher.set, _Eager(*parts, False))
        value = context.run(fn, *self._given_call(args, {})[0])
        if type(value) is CoroutineType:
            context.run(dispatcher.set, _Eager(*parts, True))
            value = context.run(self._finished, value)
        return self._answer(given(value))

    @property
    def is_async(self) -> bool:
        """Whether the forward is a coroutine."""
        return bool(self._is_async)

    def is_known(self, value: Any) -> bool:
        return type(value) is not Answered

    def call_first(self, candidates: list[Any], good: Callable[[Any], bool]) -> Any:
        values = list(map(given, candidates))
        run = copy_context().run
        return self._answer(run(self._undisturbed, first, (values,), {"good": good}))

    def format_parameter(self, parameter: Any, spec: str) -> str:
        if isinstance(parameter, Parameter):
            return format(parameter.value, spec)
        return self._holes.issue(parameter, spec, known=parameter.value)

    def _given_call(self, args: Any, kwargs: Any) -> Any:
        """Return the arguments of a call with all that they stand for."""
        args, kwargs = given_call(args, kwargs)
        return _with_images(self._holes, args), _with_images(self._holes, kwargs)

    def _answer(self, value: Any) -> Any:
        return Answered(value) if self._is_async else value

    def _undisturbed(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        dispatcher.set(None)
        return self._finished(fn(*args, **kwargs))

    def _finished(self, value: Any) -> Any:
        """Return what a coroutine gives, run to its end on a loop of its own."""
        if type(value) is not CoroutineType:
            return value
        with _OtherLoop() as inner:
            return inner.run(value, copy_context())


def _with_images(holes: HoleTable, value: Any) -> Any:
    """Return a value whose texts hold the images that tokens in them stand for."""

    def look(leaf: Any) -> Any:
        found = holes.scan(leaf, "a call") if isinstance(leaf, str) else leaf
        return found.fill(str) if isinstance(found, Template) else found

    return map_leaves(look, value) if holes else value


class _OtherLoop:
    """An event loop in another thread."""

    def __enter__(self) -> "_OtherLoop":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def run(self, coroutine: Coroutine[Any, Any, Any], context: Any = None) -> Any:
        """Run a coroutine there and wait for it."""
        outcome: list[Any] = []
        done = threading.Event()

        def begin() -> None:
            task = self._loop.create_task(coroutine, context=context)
            task.add_done_callback(lambda task: (outcome.append(task), done.set()))

        self._loop.call_soon_threadsafe(begin)
        done.wait()
        return outcome[0].result()

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _completer(client: Client) -> Callable[[LLMRequest], Any]:
    async def complete(request: LLMRequest) -> LLMResponse:
        return await client.complete(request)

    return complete


def _traced(
    module: InferenceModule, clients: Mapping[str, Client], args: Any, kwargs: Any
) -> Any:
    with Engine(dict(clients), progress=False) as engine:
        try:
            return engine.run_sync(module, *args, **kwargs)
        except ExecutionError as exc:
            raise exc.cause or exc from None


def _outcome(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as exc:  # noqa: BLE001 - compared by the caller
        return exc
