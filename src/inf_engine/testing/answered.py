"""`Answered`: what an eager ``async def forward`` gets in the place of an `AsyncProxy`.

It has the value already and does with it what an `AsyncProxy` does: what can wait
gives another `Answered`, what Python needs at once is refused until it is awaited.
"""

import operator
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from inf_engine.errors import TracingError
from inf_engine.tree import map_call, map_leaves

_REFLECTED = (
    "add sub mul matmul truediv floordiv mod pow lshift rshift and_ or_ xor".split()
)
_WAITING = "neg pos invert abs eq ne round divmod".split()
_REFUSED = {
    "branch on": ("bool",),
    "make text of": ("str",),
    "make bytes of": ("bytes",),
    "iterate over": ("iter", "reversed"),
    "measure": ("len",),
    "search in": ("contains",),
    "make a number of": ("int", "float", "complex", "index", "trunc", "floor", "ceil"),
    "order": ("lt", "le", "gt", "ge"),
    "change": ("setitem", "delitem", "setattr", "delattr"),
}
_BUILTINS: dict[str, Callable[..., Any]] = {
    "round": round,
    "divmod": divmod,
    "pow": pow,
}


class Answered(Coroutine[Any, Any, Any]):
    """A value in the place of a coroutine: gives it when awaited, and formats as it."""

    __slots__ = ("_value",)

    _value: Any

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "_value", value)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._value
        yield

    def send(self, value: Any) -> Any:
        """Give the value, as asyncio expects of a coroutine."""
        raise StopIteration(self._value)

    def __next__(self) -> Any:
        return self.send(None)

    def throw(self, *error: Any) -> Any:
        """Raise, as asyncio expects of a coroutine."""
        raise error[0]

    def close(self) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "cr_", "gi_", "ag_")):
            raise AttributeError(name)
        return Answered(getattr(self._value, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = given_call(args, kwargs)
        return Answered(self._value(*args, **kwargs))

    def __getitem__(self, key: Any) -> Any:
        return Answered(self._value[given(key)])

    def __format__(self, spec: str) -> str:
        return format(self._value, spec)

    def __repr__(self) -> str:
        return repr(self._value)

    def __hash__(self) -> int:
        return id(self)


def given(value: Any) -> Any:
    """Return a value with everything known in it; itself if all of it was known.

    Args:
        value: Any value; what is in lists, tuples, dicts, sets, dataclasses and
            pydantic objects is looked at.
    """
    found: list[Any] = []

    def look(leaf: Any) -> Any:
        if type(leaf) is Answered:
            found.append(leaf)
        return _known(leaf)

    known = map_leaves(look, value)
    return known if found else value


def given_call(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call as `given` does, each that was known as it was.

    Args:
        args: The positional arguments.
        kwargs: The keyword arguments.
    """
    known, named = map_call(_known, args, kwargs)
    pairs = zip(args, known, strict=True)
    return (
        tuple(old if given(old) is old else new for old, new in pairs),
        {k: v if given(v) is v else named[k] for k, v in kwargs.items()},
    )


def _known(leaf: Any) -> Any:
    return leaf._value if type(leaf) is Answered else leaf


def _operator(name: str, reflected: bool = False) -> Callable[..., Any]:
    compute = _BUILTINS.get(name) or getattr(operator, name)

    def forwards(self: Answered, *other: Any) -> Any:
        return Answered(compute(self._value, *given(other)))

    def backwards(self: Answered, other: Any) -> Any:
        return Answered(compute(other, self._value))

    return backwards if reflected else forwards


def _refusal(why: str) -> Callable[..., Any]:
    def refuse(self: Answered, *_: Any) -> Any:
        raise TracingError(
            f"cannot {why} the output of a call before it is awaited. Write "
            "'value = await ...' first."
        )

    return refuse


for _name in _REFLECTED:
    _plain = _name.rstrip("_")
    setattr(Answered, f"__{_plain}__", _operator(_name))
    setattr(Answered, f"__r{_plain}__", _operator(_name, reflected=True))
for _name in _WAITING:
    setattr(Answered, f"__{_name}__", _operator(_name))
setattr(Answered, "__rdivmod__", _operator("divmod", reflected=True))  # noqa: B010
for _why, _names in _REFUSED.items():
    for _name in _names:
        setattr(Answered, f"__{_name}__", _refusal(_why))
