"""`OutputFile`: the JSONL file of what a batch gave.

Lines go to ``NAME.partial``, each flushed as it is written; when all inputs are through
it takes the name ``NAME``, in one step. So ``NAME`` is always whole, an interrupted run
leaves ``NAME.partial`` behind, and the next run writes it anew, whole. Files have mode
0600, for answers are in them.
"""

import contextlib
import os
from pathlib import Path

from inf_engine.errors import UsageError


class OutputFile:
    """Where the lines of a batch go (see the top of this file).

    Args:
        path: The file.
        keep_partial: Whether to refuse to write over what an earlier run has left,
            because nothing else holds its answers.

    Raises:
        UsageError: If it cannot be written, or is not to be written over.
    """

    def __init__(self, path: str | Path, *, keep_partial: bool) -> None:
        self.path = Path(path)
        self.partial = Path(f"{path}.partial")
        self.count = 0
        if self.path.exists() and not self.path.is_file():
            raise UsageError(f"{self.path} is not a plain file. Name another --out.")
        if keep_partial and self.partial.exists() and self.partial.stat().st_size:
            raise UsageError(
                f"{self.partial} holds the outputs of a run that was interrupted, and "
                "without --journal its answers are nowhere else. Move it away or "
                "delete it, then run again."
            )
        try:
            flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            handle = os.open(self.partial, flags, 0o600)
        except OSError as exc:
            raise self._refused(exc) from exc
        self._file = os.fdopen(handle, "wb")
        os.chmod(self.partial, 0o600)

    def write(self, line: str) -> None:
        """Write a line, and hand it to the operating system.

        Args:
            line: The line, without its end.

        Raises:
            UsageError: If the disk is full.
        """
        try:
            if not self.count:
                self._file.truncate(0)
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        except OSError as exc:
            raise self._refused(exc) from exc
        self.count += 1

    def finish(self) -> None:
        """Give the file its name: it is whole.

        Raises:
            UsageError: If that is not possible.
        """
        try:
            if not self.count:
                self._file.truncate(0)
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self.partial, self.path)
        except OSError as exc:
            raise self._refused(exc) from exc

    def close(self) -> None:
        """Leave the partial file where it is, unless there is nothing in it."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            if self.partial.exists() and not self.partial.stat().st_size:
                self.partial.unlink()

    def _refused(self, exc: OSError) -> UsageError:
        return UsageError(
            f"cannot write the outputs to {self.partial}: {exc.strerror}. Give --out a "
            "file in a folder that exists and has room."
        )


def same_file(one: str, other: str) -> bool:
    """Return whether two names are of one file, or would be.

    Args:
        one: A path.
        other: A path.
    """
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)
