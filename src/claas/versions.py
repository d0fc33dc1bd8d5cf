"""Versions of an adapter, and what its folder says of them.

    root/
    ├── .locks/ann+kuro.lock
    └── ann/kuro/                  the adapter ann/kuro
        ├── state.json             aliases, and from where versions count
        ├── past.json              parent and lessons of versions that are deleted
        ├── v0/                    PEFT's files, optimizer.safetensors, meta.json
        └── v1/

A version appears by one rename; ``meta.json`` has the length and SHA-256 of each of its
files. `latest` is the highest version, so saving is one step. `live` and `candidate`
stand in ``state.json``, which is replaced as a whole; an alias of a version that is not
there counts as none.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claas.errors import NotFoundError, StorageError
from claas.names import ALIASES, LoraName
from claas.peft_files import check_adapter
from claas.volumes import (
    publish,
    publishing,
    read_json,
    remove,
    sweep,
    told,
    write_file,
)

META, STATE, PAST = "meta.json", "state.json", "past.json"
"""The files that claas adds: to a version, and to an adapter."""

_REMEMBERED = ("parent", "lessons", "batches", "created")


@dataclass(frozen=True, slots=True)
class Version:
    """A version of an adapter.

    Args:
        id: ``user/model@v3``.
        number: Its number.
        path: The folder of its files.
        aliases: Which aliases point to it.
        meta: What `save_lora` was told, with ``created`` (seconds since 1970),
            ``files`` and ``bytes``.
    """

    id: str
    number: int
    path: Path
    aliases: tuple[str, ...]
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class State:
    """What ``state.json`` says.

    Args:
        aliases: The number that each alias points to.
        first: Versions before it are deleted.
        next: The least number of the next version.
    """

    aliases: Mapping[str, int] = field(default_factory=dict)
    first: int = 0
    next: int = 0


def add_version(
    name: LoraName,
    folder: Path,
    fill: Callable[[Path], None],
    meta: Mapping[str, Any],
    *,
    live: bool = False,
) -> LoraName:
    """Publish a version.

    Args:
        name: The name of its adapter.
        folder: The adapter's folder; its lock is held.
        fill: Writes the files into a new folder.
        meta: What to remember of it, plain data.
        live: Whether it is live at once.

    Returns:
        Its name.

    Raises:
        StorageError: If what was written is no whole adapter.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tidy(folder)
    state = read_state(folder)
    number = max([state.next, *(n + 1 for n in numbers_in(folder))])
    with publishing(folder) as new:
        fill(new)
        check_adapter(new)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(new.iterdir())
        }
        told_of = {"created": time.time(), **meta, "files": files}
        written = json.dumps(told_of, indent=2, sort_keys=True, default=str)
        (new / META).write_text(written + "\n", "utf-8")
        if live:  # of a version that is not there yet, so it counts as none
            aliases = {**state.aliases, "live": number}
            write_state(folder, State(aliases, state.first, state.next))
        publish(new, folder / f"v{number}")
    return name.versioned(number)


def numbers_in(folder: Path) -> list[int]:
    """Return the numbers of the versions of an adapter, in order.

    Args:
        folder: The adapter's folder; it may be missing.

    Raises:
        StorageError: If its state is damaged.
    """
    if not folder.is_dir():
        return []
    first = read_state(folder).first
    found = []
    for path in folder.iterdir():
        digits = path.name[1:]
        if digits.isdecimal() and path.name == f"v{int(digits)}" and path.is_dir():
            found.append(int(digits))
    return sorted(number for number in found if number >= first)


def tidy(folder: Path) -> None:
    """Remove what killed writers left, and versions that are deleted.

    Args:
        folder: The adapter's folder; its lock is held.
    """
    sweep(folder)
    first = read_state(folder).first
    for path in folder.glob("v*"):
        digits = path.name[1:]
        if digits.isdecimal() and int(digits) < first:
            remove(path)


def known_numbers(name: LoraName, folder: Path) -> list[int]:
    """Return the numbers of the versions of an adapter that is there, in order.

    Args:
        name: Its name.
        folder: Its folder.

    Raises:
        NotFoundError: If it is not there.
        StorageError: If its state is damaged.
    """
    with told(f"read {folder}"):
        numbers = numbers_in(folder)
    if not numbers:
        raise NotFoundError(
            f"there is no adapter {name.lora}: make it with create_initial_lora "
            "('claas init-lora')."
        )
    return numbers


def read_version(
    name: LoraName, folder: Path, number: int, aliases: Mapping[str, int]
) -> Version:
    """Return a version that is there.

    Args:
        name: The name of its adapter.
        folder: The adapter's folder.
        number: Its number.
        aliases: The number that each alias points to.

    Raises:
        StorageError: If what is known of it is damaged.
    """
    path = folder / f"v{number}"
    meta = read_json(path / META) or {}
    try:
        total = sum(int(known["bytes"]) for known in meta["files"].values())
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{path / META} is missing or damaged: restore it from a backup, or roll "
            "back to another version."
        ) from error
    names = tuple(key for key in ALIASES if aliases.get(key) == number)
    meta = {**meta, "bytes": total}
    return Version(str(name.versioned(number)), number, path, names, meta)


def remember(folder: Path, version: Version) -> None:
    """Write down what is to be known of a version when it is deleted.

    Args:
        folder: The adapter's folder; its lock is held.
        version: The version.
    """
    kept = {key: version.meta[key] for key in _REMEMBERED if key in version.meta}
    past = {**(read_json(folder / PAST) or {}), str(version.number): kept}
    write_file(folder / PAST, json.dumps(past).encode())


def past_version(name: LoraName, folder: Path) -> Version | None:
    """Return what is known of a version that was deleted, None if nothing is.

    Args:
        name: Its name.
        folder: The adapter's folder.

    Raises:
        StorageError: If that is damaged.
    """
    meta = (read_json(folder / PAST) or {}).get(str(name.version))
    if meta is None or name.version is None:
        return None
    path = folder / f"v{name.version}"
    return Version(str(name), name.version, path, (), meta)


def surplus(found: Sequence[Version], most: int) -> list[Version]:
    """Return the versions of an adapter that need not be kept, the oldest first.

    Kept are those that an alias names; those without a parent, where `rebuild` begins;
    of those that `live` was trained from the newest, to roll back to; and of the others
    (rejected, or rolled back) the newest.

    Args:
        found: All versions, in order.
        most: How many of the last two kinds, each.
    """
    by_id = {version.id: version for version in found}
    at = next((version for version in found if "live" in version.aliases), None)
    line = []
    while at is not None and (at := by_id.get(at.meta.get("parent", ""))):
        line.append(at.id)
    free = [v for v in found if not v.aliases and v.meta.get("parent")]
    kinds = [
        [v for v in free if (v.id in line) is is_line] for is_line in (True, False)
    ]
    old = [v for kind in kinds for v in kind[: max(len(kind) - most, 0)]]
    return sorted(old, key=lambda v: v.number)


def aliases_in(folder: Path, numbers: Sequence[int]) -> dict[str, int]:
    """Return the number that each alias points to, if that version is there.

    Args:
        folder: The adapter's folder.
        numbers: Its versions, in order; at least one.

    Raises:
        StorageError: If its state is damaged.
    """
    state = read_state(folder)
    found = {key: at for key, at in state.aliases.items() if at in numbers}
    return {**found, "latest": numbers[-1]}


def read_state(folder: Path) -> State:
    """Return what is known of an adapter beside its versions.

    Args:
        folder: The adapter's folder.

    Raises:
        StorageError: If that is damaged.
    """
    found = read_json(folder / STATE)
    if found is None:
        return State()
    try:
        aliases = {str(key): int(at) for key, at in found["aliases"].items()}
        return State(aliases, int(found["first"]), int(found["next"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{folder / STATE} is damaged: restore it from a backup, or remove it and "
            "promote a version again."
        ) from error


def write_state(folder: Path, state: State) -> None:
    """Replace what is known of an adapter, in one step.

    Args:
        folder: The adapter's folder; its lock is held.
        state: What is known now.
    """
    told_of = {"aliases": state.aliases, "first": state.first, "next": state.next}
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / STATE, (json.dumps(told_of) + "\n").encode())


def sha256(path: Path) -> str:
    """Return the checksum of a file, 64 hexadecimal digits.

    Args:
        path: The file.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
