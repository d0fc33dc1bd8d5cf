"""A copy of the database, where its own disk goes with the container."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.claas.api_helpers import until

from claas.database import Database
from claas.errors import StorageError
from claas.ledger import Ledger
from claas.types import Feedback
from claas.web.snapshots import Snapshots

Opened = Callable[[Path], Database]
LORA = "ann/kuro"


@dataclass
class FakeVolume:
    """Notes what it is asked."""

    root: Path
    asked: list[str] = field(default_factory=list)
    fails: bool = False

    @property
    def locks(self) -> Path:
        """The folder of its locks."""
        return self.root / ".locks"

    def refresh(self) -> None:
        """Note it."""
        self.asked.append("refresh")

    def commit(self) -> None:
        """Note it, or fail."""
        if self.fails:
            raise StorageError("the volume is away.")
        self.asked.append("commit")


def say(database: Database, name: str) -> None:
    """Write a feedback."""
    Ledger(database).add("ann", LORA, Feedback(name, "r1", "critique", "shorter"))


def said(database: Database) -> list[str]:
    """Return the feedback that is there."""
    return [entry.feedback.id for entry in Ledger(database).history(LORA)]


def said_in(kept: Path) -> int:
    """Return how much feedback is in a copy."""
    if not kept.exists():
        return 0
    with contextlib.closing(sqlite3.connect(kept)) as found:
        return found.execute("SELECT count(*) FROM feedback").fetchone()[0]


@pytest.fixture
def volume(tmp_path: Path) -> FakeVolume:
    """The volume of the copy."""
    return FakeVolume(tmp_path / "loras")


def snapshots_on(volume: FakeVolume, work: Path, pause: float = 5.0) -> Snapshots:
    """Return snapshots of a file of work."""
    return Snapshots(work, volume.root / "claas.sqlite3", volume, pause)


def test_what_was_kept_is_there_in_the_next_container(
    tmp_path: Path, volume: FakeVolume, opened: Opened
) -> None:
    """A copy is whole while others write, private, and made only after a change."""
    first = snapshots_on(volume, tmp_path / "one" / "db")
    first.fetch()
    database = opened(first.work)
    say(database, "f1")
    assert first.keep() and not first.keep()
    say(database, "f2")
    assert first.keep() and not first.keep()
    say(database, "f3")  # is not kept
    assert volume.asked == ["refresh", "commit", "commit"]
    first.close()
    assert [path.name for path in volume.root.iterdir()] == ["claas.sqlite3"]
    assert first.kept.stat().st_mode & 0o777 == 0o600
    second = snapshots_on(volume, tmp_path / "two" / "db")
    second.fetch()
    assert said(opened(second.work)) == ["f1", "f2"]


async def test_copies_are_kept_meanwhile_and_at_the_end(
    tmp_path: Path, volume: FakeVolume, opened: Opened
) -> None:
    """One at each look that finds a change; the last has what came after the looks."""
    snapshots = snapshots_on(volume, tmp_path / "db", pause=0.001)
    snapshots.fetch()
    database = opened(snapshots.work)
    async with snapshots.running():
        say(database, "f1")
        await asyncio.to_thread(until, lambda: said_in(snapshots.kept) == 1)
        say(database, "f2")
        await asyncio.to_thread(until, lambda: said_in(snapshots.kept) == 2)
    snapshots = snapshots_on(volume, snapshots.work, pause=3600.0)
    async with snapshots.running():
        await asyncio.to_thread(until, lambda: not snapshots.keep())
        say(database, "f3")
    again = snapshots_on(volume, tmp_path / "again")
    again.fetch()
    assert said(opened(again.work)) == ["f1", "f2", "f3"]


def test_a_volume_that_is_away_is_asked_again(
    tmp_path: Path,
    volume: FakeVolume,
    opened: Opened,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What failed is logged, and tried again though nothing has changed since."""
    snapshots = snapshots_on(volume, tmp_path / "db")
    snapshots.fetch()
    say(opened(snapshots.work), "f1")
    volume.fails = True
    with caplog.at_level(logging.ERROR, "claas.snapshots"):
        snapshots._try()
    assert "no copy of the database is kept: the volume is away" in caplog.text
    volume.fails = False
    assert snapshots.keep()
    snapshots.close()


def test_what_is_no_database_is_told(tmp_path: Path, volume: FakeVolume) -> None:
    """The copy before stays."""
    snapshots = snapshots_on(volume, tmp_path / "db")
    snapshots.fetch()
    snapshots.work.write_bytes(b"x" * 5000)
    with pytest.raises(StorageError, match="cannot be copied: file is not a database"):
        snapshots.keep()
    snapshots.close()
    assert not snapshots.kept.exists()
