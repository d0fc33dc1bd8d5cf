"""Adapters on a volume: make, load, save, list, alias, export, delete.

A version is whole or not there, and never changes (see `claas.versions` for what lies
where). ``user/model`` without more is its latest version. A number is never used twice,
not even after `delete_lora`: an inference server may still know the old one by name.
"""

import os
import shutil
import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from claas.errors import (
    ConfigurationError,
    ConflictError,
    IdentifierError,
    NotFoundError,
    StorageError,
)
from claas.names import ALIASES, LoraName
from claas.peft_files import (
    OPTIMIZER,
    TARGETS,
    TEACHER,
    base_config,
    check_adapter,
    layer_shapes,
    write_fresh,
)
from claas.versions import (
    META,
    PAST,
    State,
    Version,
    add_version,
    aliases_in,
    known_numbers,
    numbers_in,
    past_version,
    read_state,
    read_version,
    remember,
    sha256,
    tidy,
    write_state,
)
from claas.volumes import (
    LocalVolume,
    Volume,
    default_root,
    flush,
    hold,
    publishing,
    remove,
    told,
)

PATIENCE_S = 30.0
"""Seconds that a change waits for another one of the same adapter."""

_MOVED = ("live", "candidate")
_DELETED = (
    " It was deleted; `claas rebuild` makes it again if no feedback is forgotten."
)


def default_storage() -> Volume:
    """Return the volume that is meant by ``storage=None``.

    It is the folder in ``CLAAS_STORAGE``, as for the server, else `default_root`.
    """
    told_root = os.environ.get("CLAAS_STORAGE")
    return LocalVolume(Path(told_root).expanduser() if told_root else default_root())


def create_initial_lora(
    lora_id: str,
    base_model_name: str,
    rank: int = 16,
    alpha: float = 32.0,
    target_modules: Sequence[str] = TARGETS,
    seed: int = 0,
    base: Mapping[str, Any] | None = None,
    storage: Volume | None = None,
) -> str:
    """Make an adapter that changes nothing yet, and let it be live.

    Args:
        lora_id: ``user/model``.
        base_model_name: The base's folder, or its name on the Hugging Face Hub.
        rank: The inner size of the adapter.
        alpha: Its scale is alpha / rank.
        target_modules: Which linear layers it adapts.
        seed: Of its random half.
        base: The base's config, where it cannot be read from `base_model_name`.
        storage: The volume; None for `default_storage`.

    Returns:
        ``user/model@v0``; a later number if there was such an adapter before.

    Raises:
        IdentifierError: If the name is none.
        ConflictError: If there is such an adapter.
        ConfigurationError: If rank or alpha is not above 0, or the base has no
            readable config of a known family.
        StorageError: If the disk refuses.
    """
    if rank < 1 or not alpha > 0:
        raise ConfigurationError(
            f"rank is {rank} and alpha {alpha}: both must be above 0."
        )
    config = base_config(base_model_name) if base is None else base
    shapes = layer_shapes(config, target_modules)

    def fill(new: Path) -> None:
        write_fresh(new, base_model_name, shapes, rank, alpha, seed)

    meta = {"parent": None, "base": base_model_name, "rank": rank, "seed": seed}
    with _changing(lora_id, storage) as (name, folder, volume):
        if numbers_in(folder):
            raise ConflictError(
                f"there is an adapter {name} already: train that one, delete it "
                "first, or take another name."
            )
        return str(add_version(name, folder, fill, meta, live=True))


def load_lora(lora_id: str, storage: Volume | None = None) -> Path:
    """Return the folder of a version, all of its files checked. Do not write into it.

    Args:
        lora_id: ``user/model`` (its latest version), ``…@v3`` or ``…@live``.
        storage: The volume; None for `default_storage`.

    Raises:
        IdentifierError: If the name is none.
        NotFoundError: If there is no such adapter, version or alias.
        StorageError: If a file is damaged.
    """
    found = version(lora_id, storage)
    for name, known in found.meta["files"].items():
        path = found.path / name
        with told(f"read {path}"):
            is_same = path.stat().st_size == known["bytes"]
            is_same = is_same and sha256(path) == known["sha256"]
        if not is_same:
            raise StorageError(
                f"{name} of {found.id} is damaged: it is not the file that was "
                "saved. Roll back to another version, and rebuild this one."
            )
    return found.path


def save_lora(
    path: str | Path,
    lora_id: str,
    meta: Mapping[str, Any] | None = None,
    storage: Volume | None = None,
) -> str:
    """Keep a copy of an adapter as the next version. No alias but `latest` moves.

    The first version of an adapter is live at once.

    Args:
        path: A folder with PEFT's two files; other plain files in it (the optimizer's
            state) are kept as well.
        lora_id: ``user/model``.
        meta: What to remember of it, plain data.
        storage: The volume; None for `default_storage`.

    Returns:
        The new version, ``user/model@v1``.

    Raises:
        IdentifierError: If the name is none, or names a version.
        StorageError: If the folder is no whole adapter, or the disk refuses; then
            there is no new version.
    """
    source = Path(path)
    check_adapter(source)

    def fill(new: Path) -> None:
        for file in sorted(source.iterdir()):
            if file.is_file() and not file.is_symlink() and file.name != META:
                shutil.copyfile(file, new / file.name)

    with _changing(lora_id, storage) as (name, folder, volume):
        is_first = not numbers_in(folder)
        return str(add_version(name, folder, fill, meta or {}, live=is_first))


def list_loras(user: str | None = None, storage: Volume | None = None) -> list[str]:
    """Return the adapters, sorted.

    Args:
        user: Only his.
        storage: The volume; None for `default_storage`.

    Raises:
        IdentifierError: If the user is none.
    """
    volume = storage or default_storage()
    volume.refresh()
    if user is not None:
        LoraName.of(f"{user}/x")
    found = []
    with told(f"read {volume.root}"):
        for path in sorted(volume.root.glob(f"{user or '*'}/*")):
            name = f"{path.parent.name}/{path.name}"
            if _is_name(name) and numbers_in(path):
                found.append(name)
    return found


def versions(lora_id: str, storage: Volume | None = None) -> list[Version]:
    """Return the versions of an adapter, the oldest first.

    Args:
        lora_id: ``user/model``.
        storage: The volume; None for `default_storage`.

    Raises:
        IdentifierError: If the name is none.
        NotFoundError: If there is no such adapter.
        StorageError: If a file is damaged.
    """
    name, folder, _ = _place(lora_id, storage)
    numbers = known_numbers(name, folder)
    aliases = aliases_in(folder, numbers)
    return [read_version(name, folder, number, aliases) for number in numbers]


def version(lora_id: str, storage: Volume | None = None) -> Version:
    """Return one version.

    Args:
        lora_id: ``user/model`` (its latest version), ``…@v3`` or ``…@live``.
        storage: The volume; None for `default_storage`.

    Raises:
        IdentifierError: If the name is none.
        NotFoundError: If there is no such adapter, version or alias.
        StorageError: If a file is damaged.
    """
    name, folder, _ = _place(lora_id, storage)
    numbers = known_numbers(name, folder)
    aliases = aliases_in(folder, numbers)
    number = aliases.get(name.at or "latest") if name.version is None else name.version
    if number not in numbers:
        there = ", ".join(f"v{n}" for n in numbers[-5:])
        was = past_version(name, folder) is not None
        raise NotFoundError(
            f"there is no {name}: the newest versions of {name.lora} are {there}."
            + was * _DELETED
        )
    return read_version(name, folder, number, aliases)


def lineage(lora_id: str, storage: Volume | None = None) -> list[Version]:
    """Return a version and those it was trained from, the oldest first.

    Args:
        lora_id: As in `version`.
        storage: The volume; None for `default_storage`.

    Returns:
        Up to the one that has no parent. Of a version that was deleted only ``parent``,
        ``lessons``, ``batches`` and ``created`` are known.

    Raises:
        IdentifierError: If the name is none.
        NotFoundError: If there is no such adapter, version or alias.
        StorageError: If a file is damaged.
    """
    chain = [_known(lora_id, storage)]
    with suppress(NotFoundError):
        while parent := chain[0].meta.get("parent"):
            chain.insert(0, _known(parent, storage))
    return chain


def alias(lora_id: str, name: str, storage: Volume | None = None) -> str | None:
    """Return the version that an alias points to, ``user/model@v3``, or None.

    Args:
        lora_id: ``user/model``.
        name: ``latest``, ``live`` or ``candidate``.
        storage: The volume; None for `default_storage`.

    Raises:
        IdentifierError: If a name is none.
        NotFoundError: If there is no such adapter.
    """
    lora, folder, _ = _place(lora_id, storage)
    if name not in ALIASES:
        raise IdentifierError(
            f"there is no alias {name[:80]!r}: there are {', '.join(ALIASES)}."
        )
    number = aliases_in(folder, known_numbers(lora, folder)).get(name)
    return None if number is None else str(lora.versioned(number))


def move_alias(
    lora_id: str, name: str, to: str | None, storage: Volume | None = None
) -> None:
    """Let an alias point to a version, in one step.

    Args:
        lora_id: ``user/model``.
        name: ``live`` or ``candidate``; `latest` moves by itself.
        to: The version, ``user/model@v3``; None for none.
        storage: The volume; None for `default_storage`.

    Raises:
        IdentifierError: If a name is none, or the version is of another adapter.
        NotFoundError: If there is no such version.
        StorageError: If the disk refuses; then it points where it did.
    """
    if name not in _MOVED:
        raise IdentifierError(
            f"{name[:80]!r} cannot be moved: {' and '.join(_MOVED)} can."
        )
    with _changing(lora_id, storage) as (lora, folder, volume):
        state = read_state(folder)
        aliases = {key: at for key, at in state.aliases.items() if key != name}
        if to is not None:
            if LoraName.of(to).lora != lora.lora:
                raise IdentifierError(f"{to} is no version of {lora}.")
            aliases[name] = version(to, volume).number
        write_state(folder, State(aliases, state.first, state.next))


def export_lora(
    lora_id: str, target: str | Path, storage: Volume | None = None
) -> Path:
    """Write a version as one ZIP file, without what only the next training needs.

    Args:
        lora_id: ``user/model`` (its latest version), ``…@v3`` or ``…@live``.
        target: The file to write; nothing may be there.
        storage: The volume; None for `default_storage`.

    Returns:
        The file.

    Raises:
        ConflictError: If there is such a file.
        NotFoundError: If there is no such version.
        StorageError: If a file is damaged, or the disk refuses.
    """
    folder, target = load_lora(lora_id, storage), Path(target)
    if target.exists():
        raise ConflictError(f"{target} exists: name another file.")
    with told(f"write {target}"), publishing(target.parent) as new:
        with zipfile.ZipFile(new / "it", "x", zipfile.ZIP_STORED) as archive:
            for path in sorted(folder.iterdir()):
                if path.name not in (OPTIMIZER, TEACHER):
                    archive.write(path, path.name)
        flush(new / "it")
        os.rename(new / "it", target)
    return target


def delete_lora(lora_id: str, storage: Volume | None = None) -> None:
    """Delete an adapter with all versions, or one version that no alias points to.

    What one version was trained on stays known, see `lineage`.

    Args:
        lora_id: ``user/model`` or ``user/model@v3``.
        storage: The volume; None for `default_storage`.

    Raises:
        IdentifierError: If the name is none, or names an alias.
        NotFoundError: If there is no such adapter or version.
        ConflictError: If `live` or `candidate` points to the version.
        StorageError: If the disk refuses.
    """
    name = LoraName.of(lora_id)
    if name.at and name.version is None:
        raise IdentifierError(f"{name} is an alias: name the version to delete.")
    with _changing(name.lora, storage) as (lora, folder, volume):
        numbers, state = known_numbers(lora, folder), read_state(folder)
        following = max(numbers[-1] + 1, state.next)
        if name.version is None:
            write_state(folder, State({}, following, following))
            tidy(folder)
            (folder / PAST).unlink(missing_ok=True)
            return
        found = version(lora_id, volume)
        if set(found.aliases) & set(_MOVED):
            raise ConflictError(
                f"{found.id} is {' and '.join(found.aliases)}: move that alias first."
            )
        remember(folder, found)
        write_state(folder, State(state.aliases, state.first, following))
        remove(found.path)


def updating(
    lora_id: str, why: str, timeout: float = 0.0, storage: Volume | None = None
) -> AbstractContextManager[None]:
    """Hold an adapter for an update: nobody else trains it meanwhile.

    Saving, moving aliases and reading go on.

    Args:
        lora_id: ``user/model``.
        why: What for; shown to those who wait in vain.
        timeout: Seconds to wait for it.
        storage: The volume; None for `default_storage`.

    Raises:
        StorageError: If another update holds it for longer.
    """
    name, _, volume = _place(lora_id, storage)
    return hold(volume, f"{name.user}+{name.model}+update", timeout, why)


def switching(
    lora_id: str, why: str, timeout: float = PATIENCE_S, storage: Volume | None = None
) -> AbstractContextManager[None]:
    """Hold what serves of an adapter: nobody else moves `live` meanwhile.

    It is held for as long as an inference server loads a version, never for a training.

    Args:
        lora_id: ``user/model``.
        why: What for; shown to those who wait in vain.
        timeout: Seconds to wait for it.
        storage: The volume; None for `default_storage`.

    Raises:
        StorageError: If another switch holds it for longer.
    """
    name, _, volume = _place(lora_id, storage)
    return hold(volume, f"{name.user}+{name.model}+switch", timeout, why)


def _place(lora_id: str, storage: Volume | None) -> tuple[LoraName, Path, Volume]:
    """Return a name, the folder of its adapter, and the volume."""
    name, volume = LoraName.of(lora_id), storage or default_storage()
    volume.refresh()
    return name, _folder(name, volume), volume


def _known(lora_id: str, storage: Volume | None) -> Version:
    """Return a version, or what is left of one that was deleted."""
    try:
        return version(lora_id, storage)
    except NotFoundError:
        name, folder, _ = _place(lora_id, storage)
        if (found := past_version(name, folder)) is None:
            raise
        return found


def _folder(name: LoraName, volume: Volume) -> Path:
    """Return the folder of an adapter."""
    return volume.root / name.user / name.model


@contextmanager
def _changing(
    lora_id: str, storage: Volume | None
) -> Generator[tuple[LoraName, Path, Volume]]:
    """Hold the lock of an adapter's files; then commit."""
    if "@" in lora_id:
        raise IdentifierError(
            f"{lora_id[:80]!r} names a version: name the adapter, user/model."
        )
    name, volume = LoraName.of(lora_id), storage or default_storage()
    with hold(volume, f"{name.user}+{name.model}", PATIENCE_S, "a change of files"):
        volume.refresh()
        with told(f"change the adapter {name}"):
            yield name, _folder(name, volume), volume
        volume.commit()


def _is_name(text: str) -> bool:
    """Whether a folder can be an adapter."""
    try:
        LoraName.of(text)
    except IdentifierError:
        return False
    return True
