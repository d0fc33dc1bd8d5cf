"""One walk over nested values, used by everything that looks inside an argument.

Containers are list, tuple, dict (keys and values), their subclasses, set, frozenset and
dataclass instances; pydantic models are walked where they already carry something that
is not theirs (``model_construct``). Everything else is a leaf, and so is every class
with ``_tree_leaf = True``.

What stands at several places, or in itself, is walked once: each walk gets a memo of
the results by id, together with the values, so that no id is used again meanwhile.
"""

import copy
import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

Leaf: TypeAlias = Callable[[Any], Any]
Memo: TypeAlias = dict[int, tuple[Any, Any]]
Walk: TypeAlias = Callable[[Leaf, Any, Memo], Any]


def map_leaves(fn: Leaf, value: Any) -> Any:
    """Return `value` with `fn` applied to every leaf, the structure kept exactly.

    Lists, dicts and sets are always new, so the result is also a snapshot; objects
    (dataclasses, pydantic models) are copied only if something in them changed. One
    list at two places is one new list at both.

    Args:
        fn: Called with each leaf, in order.
        value: Any nested value.

    Returns:
        The mapped value.
    """
    return _map(fn, value, {})


def map_call(
    fn: Leaf, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with `fn` applied to every leaf.

    Args:
        fn: Called with each leaf, in order.
        args: The positional arguments.
        kwargs: The keyword arguments.

    Returns:
        Both, mapped in one walk.
    """
    memo: Memo = {}
    mapped = tuple(_items(fn, args, memo))
    return mapped, {key: _map(fn, value, memo) for key, value in kwargs.items()}


def _map(fn: Leaf, value: Any, memo: Memo) -> Any:
    kind = type(value)
    walk = _WALKS[kind] if kind in _WALKS else _walk_of(kind)
    if walk is None:
        return fn(value)
    if id(value) in memo:
        return memo[id(value)][0]
    return walk(fn, value, memo)


def _list(fn: Leaf, value: list[Any], memo: Memo) -> list[Any]:
    result: list[Any] = []
    memo[id(value)] = result, value
    result += _items(fn, value, memo)
    return result


def _tuple(fn: Leaf, value: tuple[Any, ...], memo: Memo) -> tuple[Any, ...]:
    return tuple(_items(fn, value, memo))


def _items(fn: Leaf, value: Any, memo: Memo) -> list[Any]:
    """Return the mapped items, with a short way for the plainest leaves."""
    return [fn(item) if type(item) in PLAIN else _map(fn, item, memo) for item in value]


def _dict(fn: Leaf, value: dict[Any, Any], memo: Memo) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    if not value:
        return result
    memo[id(value)] = result, value
    result.update({_map(fn, k, memo): _map(fn, v, memo) for k, v in value.items()})
    return result


def _set(fn: Leaf, value: Any, memo: Memo) -> Any:
    result = type(value)(_items(fn, value, memo))
    memo[id(value)] = result, value
    return result


def _slice(fn: Leaf, value: slice, memo: Memo) -> slice:
    return slice(*_items(fn, (value.start, value.stop, value.step), memo))


def _tuple_subclass(fn: Leaf, value: Any, memo: Memo) -> Any:
    items = _items(fn, value, memo)
    if all(new is old for new, old in zip(items, value, strict=True)):
        return value
    result = tuple.__new__(type(value), items)
    if getattr(value, "__dict__", None):
        result.__dict__.update(value.__dict__)
    return result


def _list_subclass(fn: Leaf, value: Any, memo: Memo) -> Any:
    result = copy.copy(value)
    memo[id(value)] = result, value
    result[:] = _items(fn, value, memo)
    return result


def _dict_subclass(fn: Leaf, value: Any, memo: Memo) -> Any:
    result = copy.copy(value)
    memo[id(value)] = result, value
    items = {_map(fn, k, memo): _map(fn, v, memo) for k, v in value.items()}
    result.clear()
    result.update(items)
    return result


def _dataclass(fn: Leaf, value: Any, memo: Memo) -> Any:
    names = [f.name for f in dataclasses.fields(value) if hasattr(value, f.name)]
    return _object(fn, value, {name: getattr(value, name) for name in names}, memo)


def _pydantic(fn: Leaf, value: Any, memo: Memo) -> Any:
    return _object(fn, value, dict(value.__dict__), memo)


def _object(fn: Leaf, value: Any, fields: dict[str, Any], memo: Memo) -> Any:
    """Return a copy of the object with its changed fields, or the object itself."""
    memo[id(value)] = value, value
    changes = {}
    for name, old in fields.items():
        new = _map(fn, old, memo)
        if new is not old and not _same(old, new):
            changes[name] = new
    if not changes:
        return value
    result = copy.copy(value)
    memo[id(value)] = result, value
    for name, new in changes.items():
        object.__setattr__(result, name, new)
    return result


def _same(old: Any, new: Any) -> bool:
    """Say whether two walked values hold the very same leaves."""
    kind = type(old)
    if kind is not type(new):
        return False
    if issubclass(kind, dict):
        old, new = [*old, *old.values()], [*new, *new.values()]
    elif not issubclass(kind, (list, tuple, set, frozenset)):
        return old is new
    if len(old) != len(new):
        return False
    return all(a is b or _same(a, b) for a, b in zip(old, new, strict=True))


@lru_cache(maxsize=512)
def _walk_of(kind: type) -> Walk | None:
    """Return the walk for a type that is not one of the plain containers."""
    if getattr(kind, "_tree_leaf", False):
        return None
    if issubclass(kind, tuple):
        return _tuple_subclass
    if issubclass(kind, list):
        return _list_subclass
    if issubclass(kind, dict):
        return _dict_subclass
    if dataclasses.is_dataclass(kind):
        return _dataclass
    if hasattr(kind, "__pydantic_fields__"):
        return _pydantic
    return None


PLAIN: frozenset[type] = frozenset((str, int, float, bool, bytes, type(None)))
"""The types whose values are leaves that nothing can change or stand in."""

_WALKS: dict[type, Walk | None] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _set,
    slice: _slice,
    **dict.fromkeys(PLAIN),
}
