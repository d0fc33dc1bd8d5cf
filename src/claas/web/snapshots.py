"""`Snapshots`: a database on a disk that goes with its container; a copy that stays.

A Modal Volume is no place for a database in use: what is committed there while SQLite
writes may be half of a change, and a volume with open files cannot be refreshed. So the
database lies on the container's own disk, and whenever it has changed, SQLite's own
backup of it, which is whole, takes the copy's place by one rename and is committed.

A container that is told to end keeps all. One that dies untold loses what came after
the last copy: at most `PAUSE` seconds, more only where a copy takes long.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

from claas.errors import StorageError
from claas.volumes import NEW, Volume, flush, told

PAUSE = 5.0
"""Seconds between two looks at whether it has changed."""

_SHARE = 20  # a copy is made in one of so many seconds at most
_log = logging.getLogger("claas.snapshots")


class Snapshots:
    """Keeps a copy of a database.

    Args:
        work: The file that is in use.
        kept: Its copy.
        volume: Where the copy lies.
        pause: Seconds between two looks.
    """

    def __init__(
        self, work: Path, kept: Path, volume: Volume, pause: float = PAUSE
    ) -> None:
        self.work, self.kept = work, kept
        self._volume, self._pause = volume, pause
        self._lock = threading.Lock()
        self._seen: int | None = None
        self._inner: sqlite3.Connection | None = None

    def fetch(self) -> None:
        """Begin with the copy, if there is one; before the database is opened.

        Raises:
            StorageError: If it cannot be read.
        """
        self._volume.refresh()
        with told(f"read {self.kept}"):
            self.work.parent.mkdir(parents=True, exist_ok=True)
            self.work.touch(mode=0o600)
            if self.kept.exists():
                shutil.copyfile(self.kept, self.work)

    def keep(self) -> bool:
        """Make a copy, unless nothing has changed since the last one.

        Returns:
            Whether a copy was made.

        Raises:
            StorageError: If it cannot be made; the last one is as it was.
        """
        with self._lock, self._converted():
            if self._inner is None:
                self._inner = sqlite3.connect(self.work, check_same_thread=False)
            found = self._inner.execute("PRAGMA data_version").fetchone()[0]
            if found == self._seen:
                return False
            self._copy(self._inner)
            self._volume.commit()
            self._seen = found
            return True

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Keep copies meanwhile, and one of what there is at the end."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await asyncio.to_thread(self._try)
            self.close()

    def close(self) -> None:
        """Let the database go."""
        with self._lock:
            if self._inner is not None:
                self._inner.close()
            self._inner = None

    async def _run(self) -> None:
        """Keep copies until it is cancelled."""
        while True:
            started = time.monotonic()
            await asyncio.to_thread(self._try)
            took = time.monotonic() - started
            await asyncio.sleep(max(self._pause, _SHARE * took))

    def _try(self) -> None:
        """Make a copy; that it cannot be made is logged, the next one may be."""
        try:
            self.keep()
        except StorageError as exc:
            _log.error("no copy of the database is kept: %s", exc)

    def _copy(self, source: sqlite3.Connection) -> None:
        """Put a whole copy in the place of the last one."""
        new = self.kept.with_name(NEW + self.kept.name)
        with tempfile.TemporaryDirectory(prefix="claas-") as folder:
            near = Path(folder, "copy")
            with contextlib.closing(sqlite3.connect(near)) as target:
                source.backup(target)
            new.parent.mkdir(parents=True, exist_ok=True)
            new.touch(mode=0o600)
            shutil.copyfile(near, new)
        flush(new)
        os.replace(new, self.kept)
        flush(self.kept.parent)

    @contextlib.contextmanager
    def _converted(self) -> Generator[None, None, None]:
        """Turn what SQLite and the disk say into claas's errors."""
        try:
            with told(f"keep a copy of the database at {self.kept}"):
                yield
        except sqlite3.Error as exc:
            raise StorageError(
                f"{self.work} cannot be copied: {exc}. Look whether the disk is full."
            ) from exc
