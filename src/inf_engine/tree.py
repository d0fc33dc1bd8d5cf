"""One walk over nested values, used by everything that looks inside an argument.

Containers are list, tuple (named tuples too), dict (keys and values), set, frozenset
and dataclass instances; pydantic models are walked where they already carry something
that is not theirs (``model_construct``). Everything else is a leaf, and so is every
class with ``_tree_leaf = True``.
"""

import copy
import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Leaf = Callable[[Any], Any]


def map_leaves(fn: Leaf, value: Any) -> Any:
    """Return `value` with `fn` applied to every leaf, the structure kept exactly.

    Lists, dicts and sets are always new, so the result is also a snapshot; objects
    (dataclasses, pydantic models) are copied only if something in them changed.

    Args:
        fn: Called with each leaf, in order.
        value: Any nested value.

    Returns:
        The mapped value.
    """
    kind = type(value)
    walk = _WALKS[kind] if kind in _WALKS else _walk_of(kind)
    return fn(value) if walk is None else walk(fn, value)


def _list(fn: Leaf, value: list[Any]) -> list[Any]:
    return [map_leaves(fn, item) for item in value]


def _tuple(fn: Leaf, value: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple([map_leaves(fn, item) for item in value])


def _dict(fn: Leaf, value: dict[Any, Any]) -> dict[Any, Any]:
    return {map_leaves(fn, k): map_leaves(fn, v) for k, v in value.items()}


def _set(fn: Leaf, value: Any) -> Any:
    return type(value)([map_leaves(fn, item) for item in value])


def _named_tuple(fn: Leaf, value: Any) -> Any:
    return type(value)._make([map_leaves(fn, item) for item in value])


def _list_subclass(fn: Leaf, value: Any) -> Any:
    result = copy.copy(value)
    result[:] = [map_leaves(fn, item) for item in value]
    return result


def _dict_subclass(fn: Leaf, value: Any) -> Any:
    items = _dict(fn, value)
    result = copy.copy(value)
    result.clear()
    result.update(items)
    return result


def _dataclass(fn: Leaf, value: Any) -> Any:
    names = [f.name for f in dataclasses.fields(value) if hasattr(value, f.name)]
    return _with_changes(fn, value, {name: getattr(value, name) for name in names})


def _pydantic(fn: Leaf, value: Any) -> Any:
    return _with_changes(fn, value, dict(value.__dict__))


def _with_changes(fn: Leaf, value: Any, fields: dict[str, Any]) -> Any:
    """Return a copy of the object with its changed fields, or the object itself."""
    changes = {}
    for name, old in fields.items():
        new = map_leaves(fn, old)
        if new is not old and not _same(old, new):
            changes[name] = new
    if not changes:
        return value
    result = copy.copy(value)
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
def _walk_of(kind: type) -> Callable[[Leaf, Any], Any] | None:
    """Return the walk for a type that is not one of the plain containers."""
    if getattr(kind, "_tree_leaf", False):
        return None
    if issubclass(kind, tuple):
        return _named_tuple if hasattr(kind, "_make") else None
    if issubclass(kind, list):
        return _list_subclass
    if issubclass(kind, dict):
        return _dict_subclass
    if dataclasses.is_dataclass(kind):
        return _dataclass
    if hasattr(kind, "__pydantic_fields__"):
        return _pydantic
    return None


_WALKS: dict[type, Callable[[Leaf, Any], Any] | None] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _set,
    str: None,
    int: None,
    float: None,
    bool: None,
    bytes: None,
    type(None): None,
}
