"""Frozen dataclasses as JSON objects, and back with errors that name the place."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from butterfly.errors import ConfigurationError

T = TypeVar("T")


def check(data: Any, where: str, needed: Iterable[str], known: Iterable[str]) -> None:
    """Refuse what is no object, lacks a needed key or has one that nobody knows.

    Args:
        data: What the JSON held.
        where: Its place, for the message.
        needed: Keys that must be there.
        known: Keys that may be there.

    Raises:
        ConfigurationError: It names the place, the key and the known keys.
    """
    if not isinstance(data, Mapping):
        raise ConfigurationError(f"{where} is {data!r}: write an object")
    lacking = [key for key in needed if key not in data]
    if lacking:
        raise ConfigurationError(f"{where} has no {lacking[0]!r}: add it")
    names = list(known)
    unknown = [key for key in data if key not in names]
    if unknown:
        raise ConfigurationError(
            f"{where} has {unknown[0]!r}, which is not one of {', '.join(names)}"
        )


def build(kind: type[T], data: Any, where: str) -> T:
    """Make a flat dataclass of a JSON object.

    Args:
        kind: The dataclass.
        data: The object, its keys the names of the fields.
        where: Its place, for the message.

    Raises:
        ConfigurationError: A key is missing or unknown, or a value is refused.
    """
    made: Any = kind
    parts = fields(made)
    needed = [
        f.name for f in parts if f.default is MISSING and f.default_factory is MISSING
    ]
    check(data, where, needed, [f.name for f in parts])
    try:
        return kind(**data)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{where} cannot be used: {error}") from error


def read_json(path: str | Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        ConfigurationError: It cannot be read, or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def write_json(path: str | Path, data: Any) -> None:
    """Write a JSON file, indented.

    Raises:
        ConfigurationError: It cannot be written.
    """
    try:
        Path(path).write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error}") from error


def positive(where: str, **values: float) -> None:
    """Refuse values that are not above zero.

    Raises:
        ConfigurationError: It names the value.
    """
    for name, value in values.items():
        if not value > 0:
            raise ConfigurationError(f"{where}: {name} is {value}, it must be above 0")


def not_negative(where: str, **values: float) -> None:
    """Refuse values below zero.

    Raises:
        ConfigurationError: It names the value.
    """
    for name, value in values.items():
        if not value >= 0:
            raise ConfigurationError(
                f"{where}: {name} is {value}, it must be 0 or more"
            )
