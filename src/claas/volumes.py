"""Volumes: folders whose writes are whole or not there, and locks between processes.

A file is written under another name, flushed to the disk (fsync), renamed into its
place, and the folder flushed. A folder is published the same way: everything in it is
flushed before the one rename that makes it visible. So whoever is killed leaves the
old state or the new one, and perhaps a folder ``.new-…`` that nobody reads and that the
next writer removes.

A lock is ``flock`` on a file that stays: the kernel releases it when its holder dies,
however that happens.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from claas.errors import ConfigurationError, StorageError

NEW, GONE = ".new-", ".gone-"
"""How the names of unfinished and of removed folders begin; no name of a user, a model
or a version begins with a dot."""

_PAUSE_S = 0.05


def default_root(shared: Path = Path("/loras")) -> Path:
    """Return where adapters are if nobody says.

    Args:
        shared: Where they are if this folder can be written to.

    Returns:
        `shared`, else ``~/.local/share/claas/loras``.
    """
    if shared.is_dir() and os.access(shared, os.W_OK):
        return shared
    return Path("~/.local/share/claas/loras").expanduser()


class Volume(Protocol):
    """Where adapters are kept."""

    @property
    def root(self) -> Path:
        """The folder that it is here."""
        ...

    @property
    def locks(self) -> Path:
        """The folder of its locks."""
        ...

    def refresh(self) -> None:
        """See what other machines have written."""
        ...

    def commit(self) -> None:
        """Let other machines see what was written here."""
        ...


@dataclass(frozen=True, slots=True)
class LocalVolume:
    """A folder of this machine.

    Args:
        root: The folder; it is made when something is written.
    """

    root: Path

    @property
    def locks(self) -> Path:
        """The folder of its locks."""
        return self.root / ".locks"

    def refresh(self) -> None:
        """Do nothing: there is one truth."""

    def commit(self) -> None:
        """Do nothing: what is written is there."""


@dataclass(frozen=True, slots=True)
class ModalVolume:
    """A Modal Volume, in a container where it is mounted.

    Modal does not lock between containers, and its last writer wins: whoever writes
    must run in one container (``max_containers=1``, see `claas.web.deployment`). Locks
    lie outside, because a volume with open files cannot be refreshed.

    Args:
        name: The name of the volume; made if there is none.
        root: Where it is mounted.
        alone: Whether no other container writes: then there is nothing to refresh,
            which would fail while a file is being read.
    """

    name: str
    root: Path = Path("/loras")
    alone: bool = False
    _volume: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        modal = modal_library()
        volume = modal.Volume.from_name(self.name, create_if_missing=True)
        object.__setattr__(self, "_volume", volume)

    @property
    def volume(self) -> Any:
        """The ``modal.Volume``, to be mounted by a function."""
        return self._volume

    @property
    def locks(self) -> Path:
        """The folder of its locks, outside of it."""
        return Path(tempfile.gettempdir(), f"claas-locks-{self.name}")

    def refresh(self) -> None:
        """See what other containers have committed."""
        if not self.alone:
            self._ask("reload")

    def commit(self) -> None:
        """Let other containers see what was written here."""
        self._ask("commit")

    def _ask(self, what: str) -> None:
        """Call a method of the volume."""
        try:
            getattr(self._volume, what)()
        except Exception as error:  # noqa: BLE001 - converted at its boundary
            raise StorageError(
                f"cannot {what} the Modal Volume {self.name!r}: {error}. Nothing was "
                "changed; try again."
            ) from error


def modal_library() -> Any:
    """Return the package ``modal``.

    Raises:
        ConfigurationError: If it is not installed.
    """
    try:
        import modal  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "the package 'modal' is not installed: pip install 'inf-engine[modal]', or "
            "use the engine 'local' and a local folder."
        ) from error
    except Exception as error:  # noqa: BLE001 - it reads its own file of settings
        raise ConfigurationError(
            f"the package 'modal' does not start ({type(error).__name__}): mend "
            "~/.modal.toml, or make it anew with `modal setup`."
        ) from error
    return modal


@contextlib.contextmanager
def told(what: str) -> Generator[None]:
    """Turn what the disk says into a `StorageError`.

    Args:
        what: What is tried, a verb first.

    Raises:
        StorageError: For each OSError.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise StorageError(
            f"cannot {what}: {why}. Nothing was changed; see to the disk (space, "
            "rights) and try again."
        ) from error


@contextlib.contextmanager
def hold(volume: Volume, name: str, timeout: float, why: str) -> Generator[None]:
    """Hold a lock of a volume against other threads and processes of this machine.

    Args:
        volume: Whose lock.
        name: Its name, a file name.
        timeout: Seconds to wait for it.
        why: What it is held for; shown to those who wait in vain.

    Raises:
        StorageError: If it is not free in time; says who holds it.
    """
    path = volume.locks / f"{name}.lock"
    with told(f"open the lock {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait(number, path, timeout)
        holder = f"{why}, process {os.getpid()} on {socket.gethostname()}"
        with told(f"write the lock {path}"):
            os.ftruncate(number, 0)
            os.pwrite(number, holder.encode(), 0)
        yield
    finally:
        os.close(number)


def _wait(number: int, path: Path, timeout: float) -> None:
    """Lock an open file, or say who holds it."""
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                holder = os.pread(number, 200, 0).decode("utf-8", "replace")
                raise StorageError(
                    f"the lock {path.stem!r} was not free in {timeout:g} s: held by "
                    f"{holder or 'somebody'}. Wait for it, or end that process."
                ) from None
            time.sleep(_PAUSE_S)
        else:
            return


def flush(path: Path) -> None:
    """Wait until a file or a folder is on the disk.

    Args:
        path: What was written.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_file(path: Path, data: bytes) -> None:
    """Put a file in its place, in one step.

    Args:
        path: Its place.
        data: What it shall hold.
    """
    new = path.with_name(f"{NEW}{secrets.token_hex(8)}")
    try:
        with open(new, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    flush(path.parent)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, None if there is no such file.

    Args:
        path: The file.

    Raises:
        StorageError: If it holds anything else.
    """
    try:
        with told(f"read {path}"):
            found = json.loads(path.read_bytes())
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StorageError(
            f"{path} is damaged: it is no JSON object. Restore it from a backup."
        )
    return found


@contextlib.contextmanager
def publishing(parent: Path) -> Generator[Path]:
    """Give a new folder beside the published ones; it is removed after an error.

    Args:
        parent: Where it will be published.
    """
    parent.mkdir(parents=True, exist_ok=True)
    new = parent / f"{NEW}{secrets.token_hex(8)}"
    new.mkdir()
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def publish(new: Path, place: Path) -> None:
    """Make a folder visible, whole, in one step.

    Args:
        new: The folder, of `publishing`.
        place: Its place; nothing may be there.
    """
    for path in new.iterdir():
        flush(path)
    flush(new)
    os.rename(new, place)
    flush(place.parent)


def remove(folder: Path) -> None:
    """Remove a folder: invisible in one step, then its files.

    Args:
        folder: The folder; it may be missing.
    """
    gone = folder.with_name(f"{GONE}{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, gone)
        flush(gone.parent)
        shutil.rmtree(gone, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what killed writers left; only the holder of the lock may do so.

    Args:
        parent: The folder of an adapter.
    """
    for path in parent.iterdir():
        if path.name.startswith((NEW, GONE)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
