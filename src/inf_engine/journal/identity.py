"""`identity_of`: which input it is, by its content.

Every value becomes ``tag:length:bytes``, so that nothing runs together; that of a
container is a digest of what is in it. Dicts and sets are sorted by these bytes, so
neither the order of a dict nor the hash seed shows. A list is not a tuple, and 1, 1.0
and True are three; but an `OrderedDict` is a dict and a named tuple a tuple, as for
``==``. Of a dataclass, a pydantic model or an enum member, the name of the class counts
and its module does not: it may move to another file, or be run again in a notebook.

What has no content that is known here is refused. A wrong guess (``repr``, ``id``,
pickle) would either repeat paid calls or give one input the answers of another.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, TypeAlias
from uuid import UUID

from inf_engine.errors import JournalError

DEPTH = 100
"""How deep an input may be nested."""

_FIX = (
    "Give the Engine, or its map or stream, an identity= function, which returns a "
    "text that tells this input from the others."
)


def identity_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return the identity of an input: 32 hex digits, the same in every process.

    Args:
        args: The positional arguments: JSON values, and nested in any way tuples,
            bytes, sets, dataclasses, pydantic models, enum members, paths, dates,
            times, decimals and UUIDs.
        kwargs: The keyword arguments; their order does not matter.

    Raises:
        JournalError: If an argument holds anything else, or itself, or is nested
            more than 100 deep.
    """
    walk = _Walk()
    pieces = [walk.encode(f"args[{i}]", value) for i, value in enumerate(args)]
    named = [_pack("str", k) + walk.encode(k, v) for k, v in kwargs.items()]
    whole = [str(len(pieces)).encode(), *pieces, *sorted(named)]
    return hashlib.blake2b(b"".join(whole), digest_size=16).hexdigest()


class _Walk:
    """One walk over an input.

    A container that stands at several places is walked once; it is held with its
    bytes, so that no id is used again meanwhile.
    """

    def __init__(self) -> None:
        self._place: list[str] = []
        self._open: set[int] = set()
        self._done: dict[int, tuple[bytes, Any]] = {}

    def encode(self, step: str, value: Any) -> bytes:
        """Return the bytes of a value that stands at `step` of the one around it."""
        kind = type(value)
        leaf = _LEAVES.get(kind) or _leaf_of(kind)
        if leaf is not None:
            return leaf(value)
        known = self._done.get(id(value))
        if known is not None:
            return known[0]
        self._place.append(step)
        result = self._enter(kind, value)
        self._place.pop()
        self._done[id(value)] = result, value
        return result

    def _enter(self, kind: type, value: Any) -> bytes:
        nest = _nest_of(kind)
        if nest is None:
            raise self.refused(f"is a {kind.__name__}, whose content is not known")
        if id(value) in self._open:
            raise self.refused("contains itself")
        if len(self._open) == DEPTH:
            raise self.refused(f"is nested more than {DEPTH} deep")
        self._open.add(id(value))
        result = nest(self, value)
        self._open.discard(id(value))
        return result

    def refused(self, problem: str) -> JournalError:
        """Return the error for the value at the place where the walk is."""
        steps = self._place
        shown = steps if len(steps) <= 12 else [*steps[:10], "...", steps[-1]]
        place = "".join(shown)
        return JournalError(
            f"the journal cannot tell this input from others: {place} {problem}. {_FIX}"
        )


Leaf: TypeAlias = Callable[[Any], bytes]
Nest: TypeAlias = Callable[[_Walk, Any], bytes]


def _pack(tag: str, data: str | bytes) -> bytes:
    """Return ``tag:length:bytes``; no tag has a colon in it."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    return b"%b:%d:%b" % (tag.encode(), len(data), data)


def _folded(tag: str, pieces: list[bytes]) -> bytes:
    """Return the bytes of a container."""
    return _pack(tag, hashlib.blake2b(b"".join(pieces), digest_size=32).digest())


def _whole(value: int) -> bytes:
    return _pack("int", value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _list(walk: _Walk, value: list[Any]) -> bytes:
    return _folded("list", [walk.encode(f"[{i}]", x) for i, x in enumerate(value)])


def _tuple(walk: _Walk, value: tuple[Any, ...]) -> bytes:
    return _folded("tuple", [walk.encode(f"[{i}]", x) for i, x in enumerate(value)])


def _set(walk: _Walk, value: Any) -> bytes:
    return _folded("set", sorted([walk.encode("{an item}", x) for x in value]))


def _dict(walk: _Walk, value: dict[Any, Any]) -> bytes:
    pairs = [
        walk.encode("{a key}", key) + walk.encode(_step(key), item)
        for key, item in value.items()
    ]
    return _folded("dict", sorted(pairs))


def _step(key: Any) -> str:
    """Return the place of an item; a key that may be somebody's text is not shown."""
    if isinstance(key, str) and not (key.isidentifier() and len(key) <= 40):
        return "[...]"
    return f"[{key!r}]" if isinstance(key, str | int) else "[...]"


def _dataclass(walk: _Walk, value: Any) -> bytes:
    pieces = [_pack("str", type(value).__qualname__)]
    for field in dataclasses.fields(value):
        if field.compare and hasattr(value, field.name):
            item = walk.encode(f".{field.name}", getattr(value, field.name))
            pieces += [_pack("str", field.name), item]
    return _folded("dataclass", pieces)


def _model(walk: _Walk, value: Any) -> bytes:
    name = _pack("str", type(value).__qualname__)
    try:
        dumped = value.model_dump(warnings=False)
    except (TypeError, ValueError) as error:
        raise walk.refused("has a model_dump(warnings=False) that fails") from error
    return _folded("model", [name, walk.encode(".model_dump()", dumped)])


def _enum(walk: _Walk, value: Enum) -> bytes:
    names = [_pack("str", f"{type(value).__qualname__}.{value.name}")]
    return _folded("enum", [*names, walk.encode(".value", value.value)])


def _moment(tag: str) -> Leaf:
    """Return how a date or time of this kind is written, with its offset and fold."""
    return lambda value: _pack(tag, f"{value.isoformat()} {getattr(value, 'fold', 0)}")


_LEAVES: dict[type, Leaf] = {
    type(None): lambda value: b"none:0:",
    bool: lambda value: b"bool:1:1" if value else b"bool:1:0",
    int: _whole,
    float: lambda value: _pack("float", float.__repr__(value)),
    str: lambda value: _pack("str", str.__str__(value)),
    bytes: lambda value: _pack("bytes", value),
    bytearray: lambda value: _pack("bytes", bytes(value)),
    PurePath: lambda value: _pack("path", str(value)),
    datetime: _moment("datetime"),
    date: _moment("date"),
    time: _moment("time"),
    timedelta: lambda value: _pack("timedelta", repr(value)),
    Decimal: lambda value: _pack("decimal", str(value)),
    UUID: lambda value: _pack("uuid", value.bytes),
}
_NESTS: dict[type, Nest] = {
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _set,
    dict: _dict,
}


@lru_cache(maxsize=512)
def _leaf_of(kind: type) -> Leaf | None:
    """Return how a type without parts is written, None if it has parts."""
    if _own_nest(kind) is not None:
        return None
    return next((_LEAVES[base] for base in kind.__mro__ if base in _LEAVES), None)


@lru_cache(maxsize=512)
def _nest_of(kind: type) -> Nest | None:
    """Return how a type with parts is written, None if it is not known."""
    found = (_NESTS[base] for base in kind.__mro__ if base in _NESTS)
    return _own_nest(kind) or next(found, None)


def _own_nest(kind: type) -> Nest | None:
    """Return how a type with parts of its own is written, whatever it derives from."""
    if issubclass(kind, Enum):
        return _enum
    if dataclasses.is_dataclass(kind):
        return _dataclass
    if callable(getattr(kind, "model_dump", None)):
        return _model
    return None
