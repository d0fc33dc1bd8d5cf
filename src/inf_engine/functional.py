"""Functions for a forward: plain Python outside of one, nodes inside.

`op` makes a node of a function; `render` fills a text; `gather` and `map` work over a
list or over a proxy whose length is not known yet; `vote`, `first` and `cond` choose.
"""

import builtins
import functools
import inspect
from collections.abc import Callable, Coroutine, Hashable, Iterable
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from inf_engine.dispatch import dispatcher
from inf_engine.errors import ModuleError

P = ParamSpec("P")
R = TypeVar("R")
OpMode = Literal["inline", "thread", "async"]


class Op(Generic[P, R]):
    """A function whose calls in a forward are recorded; see `op`.

    To a type checker the call of an async function gives what it returns, as the
    value that a forward sees; in an ``async def`` use `acall`.
    """

    def __init__(self, fn: Callable[P, Any], mode: OpMode) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.mode = mode
        self.name = getattr(fn, "__name__", type(fn).__name__).lstrip("_")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function; inside a forward this records the call."""
        answer = dispatcher.get()
        if answer is None:
            return self.fn(*args, **kwargs)
        return answer.call_op(self, args, kwargs)

    async def acall(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function from async code; ``await`` of this type-checks."""
        given: Any = self(*args, **kwargs)
        return await given if inspect.isawaitable(given) else given

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return functools.partial(self, instance)

    def __reduce__(self) -> str:
        return str(getattr(self, "__qualname__", self.name))

    def __repr__(self) -> str:
        return f"<op {self.name}>"


@overload
def op(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Op[P, R]: ...
@overload
def op(fn: Callable[P, R], /) -> Op[P, R]: ...
@overload
def op(*, thread: bool = ...) -> Callable[[Callable[P, R]], Op[P, R]]: ...
def op(fn: Any = None, /, *, thread: bool = False) -> Any:
    """Make a function a node: it runs once its arguments are known.

    Args:
        fn: The function, sync or async. A sync one runs on the loop, so keep it short.
        thread: Run a slow sync function in a thread instead.

    Raises:
        ModuleError: If it is not a function, or `thread` is given for an async one.

    Example:
        >>> @op
        ... def shout(text: str) -> str:
        ...     return text.upper()
        >>> shout("hi")
        'HI'
    """
    if fn is None:
        return functools.partial(_op, thread=thread)
    return _op(fn, thread=thread)


def _op(fn: Any, thread: bool) -> Op[Any, Any]:
    if not callable(fn):
        raise ModuleError(f"@op needs a function, not {type(fn).__name__}.")
    is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
        getattr(fn, "__call__", None)  # noqa: B004 - an object with an async __call__
    )
    if is_async and thread:
        name = getattr(fn, "__name__", type(fn).__name__)
        raise ModuleError(
            f"@op(thread=True) is for sync functions, and {name} is async: write @op."
        )
    return Op(fn, "async" if is_async else "thread" if thread else "inline")


def render(template: str, /, **values: Any) -> str:
    """Fill the ``{fields}`` of a text; in a forward the values may come later.

    Unlike an f-string the result is a value of its own, which can be measured, cut and
    searched (each waits for it).

    Args:
        template: The text, as for `str.format`.
        **values: The fields.
    """
    return _render(template, **values)


@op
def _render(template: str, **values: Any) -> str:
    return template.format(**values)


def gather(*values: Any) -> list[Any]:
    """Return the values as one list that is known when all of them are.

    Args:
        *values: The values, or one list (or proxy of a list) of them.
    """
    return _gather(*values)


@op
def _gather(*values: Any) -> list[Any]:
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        return list(values[0])
    return list(values)


def map(fn: Callable[..., Any], /, *iterables: Any) -> Any:
    """Call `fn` on every item, each as a forward of its own, all at the same time.

    Args:
        fn: A module, an op, or a function that calls some.
        *iterables: Lists, or proxies of lists of a length not known yet; zipped.

    Returns:
        A list of the results; one proxy of that list if its length is not known yet.
    """
    answer = dispatcher.get()
    if answer is None:
        return list(builtins.map(fn, *iterables))
    if all(builtins.map(answer.is_known, iterables)):
        return _map_items(fn, *iterables)
    items = functools.partial(_map_items, fn)
    return answer.call_branch("map", items, iterables, wait=True)


def _map_items(fn: Callable[..., Any], *iterables: Iterable[Any]) -> list[Any]:
    """Start a forward of its own for each row."""
    answer = dispatcher.get()
    if answer is None:
        return list(builtins.map(fn, *iterables))
    rows = zip(*iterables, strict=False)
    return [answer.call_branch("item", fn, row, wait=False) for row in rows]


def cond(
    predicate: Any,
    then: Callable[..., Any],
    otherwise: Callable[..., Any],
    /,
    *args: Any,
) -> Any:
    """Call one of two functions, without stopping the forward.

    Args:
        predicate: What decides; may be a proxy.
        then: Called with `args` if it is true.
        otherwise: Called with `args` if it is not.
        *args: Arguments for either; may be proxies.

    Returns:
        What was called gave; the other one is never called.
    """
    choose = functools.partial(_choose, then, otherwise)
    answer = dispatcher.get()
    if answer is None:
        return choose(predicate, *args)
    return answer.call_branch("cond", choose, (predicate, *args), wait=True)


def _choose(
    then: Callable[..., Any],
    otherwise: Callable[..., Any],
    predicate: Any,
    *args: Any,
) -> Any:
    return then(*args) if predicate else otherwise(*args)


def first(*candidates: Any, good: Callable[[Any], bool] | None = None) -> Any:
    """Return the first candidate that succeeds and is good; cancel the others.

    Args:
        *candidates: Outputs of calls that are under way.
        good: Says whether a value will do; any value does if None. One that raises
            says no.

    Returns:
        The value. Outside of a forward the candidates are values already, and the
        first good one in order is returned.

    Raises:
        ModuleError: If there is no candidate, or none of the values is good.
    """
    if not candidates:
        raise ModuleError("first() needs at least one candidate.")
    check = good or _any_value
    answer = dispatcher.get()
    if answer is not None:
        return answer.call_first(list(candidates), check)
    last: Exception | None = None
    for candidate in candidates:
        try:
            if check(candidate):
                return candidate
        except Exception as exc:  # noqa: BLE001 - a check that fails says no
            last = exc
    raise last or ModuleError("first(): none of the candidates is good.")


def _any_value(value: Any) -> bool:
    return True


def vote(answers: Any, /, *, key: Callable[[Any], Hashable] | None = None) -> Any:
    """Return the most frequent answer, the earliest one of equally frequent ones.

    Args:
        answers: A list of answers, or a proxy of one; not empty.
        key: What makes two answers equal; their text or value if None.

    Raises:
        ModuleError: If there are no answers.
    """
    return _vote(answers, key)


@op
def _vote(answers: list[Any], key: Callable[[Any], Hashable] | None) -> Any:
    if not answers:
        raise ModuleError("vote() needs at least one answer.")
    same = key or _hashable
    counts: dict[Hashable, int] = {}
    for answer in answers:
        counts[same(answer)] = counts.get(same(answer), 0) + 1
    best = max(counts.values())
    return next(answer for answer in answers if counts[same(answer)] == best)


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return cast(Hashable, value)
