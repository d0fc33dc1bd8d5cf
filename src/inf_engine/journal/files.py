"""What a journal is as a file: is it there, may it be made, who may read it."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from inf_engine.errors import JournalError

PERMISSIONS = "Check the permissions of the file and of its folder."


def journal_error(path: str, problem: str, fix: str) -> JournalError:
    """Return the error of a journal.

    Args:
        path: The file.
        problem: What is wrong with it.
        fix: What to do; a sentence.
    """
    return JournalError(f"the journal '{path}' {problem}. {fix}")


def look(path: str, must_exist: bool) -> bool:
    """Say whether a journal is there, or refuse what cannot be one.

    Args:
        path: The file.
        must_exist: Refuse a file that is not there.

    Raises:
        JournalError: If it is no plain file, is empty, or has left its log behind.
    """
    file = Path(path)
    if not os.path.isdir(file.parent):
        raise journal_error(path, "has no folder", f"Make the folder '{file.parent}'.")
    if os.path.exists(file):
        _look_at(file)
        return True
    if _size(f"{path}-wal"):
        raise journal_error(
            path,
            f"is gone, but '{file.name}-wal' with its newest answers is there",
            "Bring the journal back, or delete that file too.",
        )
    if must_exist:
        raise journal_error(path, "does not exist", "Check the name.")
    return False


def _look_at(file: Path) -> None:
    """Refuse what is there and is not a journal."""
    if file.is_dir():
        raise journal_error(str(file), "is a folder", "Name a file in it.")
    if not file.is_file():
        raise journal_error(str(file), "is not a plain file", "Name another file.")
    if not file.stat().st_size:
        raise journal_error(
            str(file),
            "is empty: it was cut off, or it is not a journal",
            "Restore it from a copy, or delete it to begin a new one.",
        )


def make_private(name: str, path: str) -> None:
    """Make an empty file of mode 0600, whatever the umask, if it is missing.

    Args:
        name: The file.
        path: The journal that it belongs to, for the message.

    Raises:
        JournalError: If it cannot be made.
    """
    try:
        number = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.close(number)
        os.chmod(name, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        problem = f"cannot be written: {error.strerror} ('{name}')"
        raise journal_error(path, problem, PERMISSIONS) from error


def remove(name: str) -> None:
    """Delete a file, if it is there."""
    with suppress(FileNotFoundError):
        os.remove(name)


def remove_database(name: str) -> None:
    """Delete a database of SQLite, if it is there, and what belongs to it."""
    for ending in ("", "-journal", "-wal", "-shm"):
        remove(f"{name}{ending}")


def place_of(path: str) -> tuple[int, ...]:
    """Return which files the names of a journal and of its log stand for.

    Args:
        path: The journal.

    Raises:
        OSError: If one is not there.
    """
    file, log = os.stat(path), os.stat(f"{path}-wal")
    return file.st_dev, file.st_ino, log.st_dev, log.st_ino


def state_of(path: str) -> tuple[int, ...]:
    """Return what changes when somebody opens a journal to write, or writes into it.

    Args:
        path: The journal.

    Raises:
        OSError: If it is not there.
    """
    file = os.stat(path)
    has_log = os.path.exists(f"{path}-wal")
    return file.st_ino, file.st_size, file.st_mtime_ns, has_log


def may_write(path: str) -> bool:
    """Say whether this process may write a file, and make others beside it."""
    return os.access(path, os.W_OK) and os.access(os.path.dirname(path), os.W_OK)


def has_no_log(path: str) -> bool:
    """Say whether nobody has a journal open to write, nor died with it open."""
    return not _size(f"{path}-wal") and not os.path.exists(f"{path}-shm")


def sync_file(name: str, number: int) -> None:
    """Make what is written into a file survive a loss of power.

    Args:
        name: The file.
        number: Its inode.

    Raises:
        OSError: If it cannot be synced, or the name stands for another file.
    """
    handle = os.open(name, os.O_RDWR)
    try:
        if os.fstat(handle).st_ino != number:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: str) -> None:
    """Make a new name in a folder last, where the system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _size(name: str) -> int:
    """Return the bytes of a file, 0 if there is none."""
    try:
        return os.stat(name).st_size
    except OSError:
        return 0
