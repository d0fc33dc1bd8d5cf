"""What a journal is as a file: is it there, may it be made, who may read it."""

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
