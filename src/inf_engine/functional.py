"""Functions for a forward: plain Python outside of one, nodes inside.

`op` makes a node of a function; `render` fills a text; `gather` and `map` work over a
list or over a proxy whose length is not known yet; `vote`, `first` and `cond` choose.
"""

import builtins
import functools
import inspect
import re
import string
from collections.abc import Callable, Coroutine, Hashable, Iterable
from types import GeneratorType
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from inf_engine.dispatch import dispatcher
from inf_engine.errors import ModuleError, known_names
from inf_engine.parameter import Parameter

P = ParamSpec("P")
R = TypeVar("R")
OpMode = Literal["inline", "thread", "async"]


class Op(Generic[P, R]):
    """A function whose calls in a forward are recorded; see `op`.

    To a type checker the call of an async function gives what it returns, as the
    value that a forward sees; in an ``async def`` use `acall`.
    """

    def __init__(
        self, fn: Callable[P, Any], mode: OpMode, journal: bool = False
    ) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.mode = mode
        self.journal = journal
        self.name = getattr(fn, "__name__", type(fn).__name__).lstrip("_")

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function; inside a forward this records the call."""
        answer = dispatcher.get()
        if answer is None:
            return self.fn(*args, **kwargs)
        return answer.call_op(self, args, kwargs)

    async def acall(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
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
def op(
    *, thread: bool = ..., journal: bool = ...
) -> Callable[[Callable[P, R]], Op[P, R]]: ...
def op(fn: Any = None, /, *, thread: bool = False, journal: bool = False) -> Any:
    """Make a function a node: it runs once its arguments are known.

    Args:
        fn: The function, sync or async. A sync one runs on the loop, so keep it short.
        thread: Run a slow sync function in a thread instead.
        journal: Keep what it returns, a JSON value, in the engine's journal, if there
            is one: a resumed run takes it from there and does not call the function.
            For what is slow, or must not happen twice. The arguments have to be what
            an input of a run may be. As a tool of a model it is kept, too.

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
        return functools.partial(_op, thread=thread, journal=journal)
    return _op(fn, thread=thread, journal=journal)


def _op(fn: Any, thread: bool, journal: bool) -> Op[Any, Any]:
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
    mode: OpMode = "async" if is_async else "thread" if thread else "inline"
    return Op(fn, mode, journal)


def render(template: Any, /, **values: Any) -> str:
    """Fill the ``{fields}`` of a text; in a forward the values may come later.

    Unlike an f-string the result is a value of its own, which can be measured, cut and
    searched (each waits for it).

    Args:
        template: The text, as for `str.format`, or a `Parameter` that holds it.
        **values: The fields.

    Raises:
        ModuleError: If the template is no text, or has a field without a value.
    """
    return _render(template, **values)


@op
def _render(template: Any, /, **values: Any) -> str:
    text = template.value if isinstance(template, Parameter) else template
    if not isinstance(text, str):
        raise ModuleError(
            f"render() fills a text or a Parameter, not {type(text).__name__}."
        )
    try:
        missing = [name for name in _fields_of(text) if name not in values]
    except ValueError as exc:
        raise ModuleError(
            f"render(): {exc} in {text!r:.60}. Write {{{{ and }}}} for braces that "
            "are no field."
        ) from exc
    if missing:
        names = known_names(missing[0], values)
        raise ModuleError(
            f"render(): no value for {', '.join(f'{{{n}}}' for n in missing)} of the "
            f"template; {names}. Pass a value by name for each field."
        )
    return text.format(**values)


def _fields_of(text: str) -> list[str]:
    """Return the names that a format text needs, also those in format specs."""
    names: list[str] = []
    for _, field, spec, _ in string.Formatter().parse(text):
        if field is not None:
            names.append(re.split(r"[.\[]", field, maxsplit=1)[0])
            names += _fields_of(spec or "")
    return names


def gather(*values: Any) -> list[Any]:
    """Return the values as one list that is known when all of them are.

    Args:
        *values: The values, or one list (or generator, or proxy of a list) of them.
    """
    return _gather(_listed(values)) if _is_listed(values) else _gather(*values)


@op
def _gather(*values: Any) -> list[Any]:
    return _listed(values)


def _is_listed(values: tuple[Any, ...]) -> bool:
    """Say whether what was given is one list of values, looking at no proxy's value."""
    kinds = (list, tuple, GeneratorType)
    return len(values) == 1 and issubclass(type(values[0]), kinds)


def _listed(values: tuple[Any, ...]) -> list[Any]:
    """Return the values, or the items of the one list that was given."""
    return list(values[0]) if _is_listed(values) else list(values)


def map(fn: Callable[..., Any], /, *iterables: Any) -> Any:
    """Call `fn` on every item, each as a forward of its own, all at the same time.

    Args:
        fn: A module, an op, or a function that calls some.
        *iterables: Lists, or proxies of lists of a length not known yet; zipped.

    Returns:
        A list of the results; one proxy of that list if its length is not known yet,
        and in an ``async def forward``, to be awaited.

    Raises:
        ModuleError: If there is nothing to map over.
    """
    if not iterables:
        raise ModuleError("map() needs at least one list: write map(fn, items).")
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
    items = [answer.call_branch("item", fn, row, wait=False) for row in rows]
    return gather(items) if answer.is_async else items


def cond(
    predicate: Any,
    /,
    then: Callable[..., Any],
    otherwise: Callable[..., Any],
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

    Raises:
        ModuleError: If the predicate is a function.
    """
    if _is_function(predicate):
        raise ModuleError(
            "cond() decides by a value, and its predicate is a function, which is "
            "always true: call it, cond(check(x), ...)."
        )
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
        *candidates: Outputs of calls that are under way, or one list of them.
        good: Says whether a value will do; any value does if None. One that raises
            says no.

    Returns:
        The value. Outside of a forward the candidates are values already, and the
        first good one in order is returned.

    Raises:
        ModuleError: If there is no candidate, one is a function, or none of the values
            is good.
    """
    values = _listed(candidates)
    if not values:
        raise ModuleError("first() needs at least one candidate.")
    if any(builtins.map(_is_function, values)):
        raise ModuleError(
            "first() takes outputs, and a candidate is a function: call it, "
            "first(a(x), b(x))."
        )
    check = good or _any_value
    answer = dispatcher.get()
    if answer is not None:
        return answer.call_first(values, check)
    return _first_good(values, check)


def _first_good(values: list[Any], check: Callable[[Any], bool]) -> Any:
    last: Exception | None = None
    for candidate in values:
        try:
            if check(candidate):
                return candidate
        except Exception as exc:  # noqa: BLE001 - a check that fails says no
            last = exc
    raise last or ModuleError("first(): none of the candidates is good.")


def _is_function(value: Any) -> bool:
    """Say whether a value is callable, and there already: a proxy is callable too."""
    answer = dispatcher.get()
    return callable(value) and (answer is None or answer.is_known(value))


def _any_value(value: Any) -> bool:
    return True


def vote(*answers: Any, key: Callable[[Any], Hashable] | None = None) -> Any:
    """Return the most frequent answer, the earliest one of equally frequent ones.

    Args:
        *answers: The answers, or one list (or proxy of a list) of them; not empty.
        key: What makes two answers equal; their text or value if None.

    Raises:
        ModuleError: If there are no answers, or one that is no list.
    """
    one = len(answers) == 1 and not _is_listed(answers)
    return _vote(answers[0] if one else _listed(answers), key)


@op
def _vote(answers: Any, key: Callable[[Any], Hashable] | None) -> Any:
    if isinstance(answers, (str, bytes)) or not isinstance(answers, Iterable):
        raise ModuleError(
            f"vote() counts a list of answers, not one {type(answers).__name__}: write "
            "vote(a, b, c) or vote([a, b, c])."
        )
    answers = list(answers)
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
