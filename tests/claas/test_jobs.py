"""Jobs: what is held up is tried again, on a virtual clock."""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from claas.database import Database
from claas.errors import ClaasError, ServingError, StorageError
from claas.jobs import Job, Jobs
from inf_engine.testing import VirtualTimeLoop

Opened = Callable[[Path], Database]


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on a virtual clock."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        VirtualTimeLoop.run(test(**given))

    return run


class Trainer:
    """Does as it is told, and says when it was asked.

    Args:
        results: What the next updates say; done where there is none.
    """

    def __init__(self, *results: ClaasError) -> None:
        self.results, self.calls = list(results), list[tuple[float, str]]()

    def begin(self) -> None:
        """Take the loop whose clock is read."""
        self.loop = asyncio.get_running_loop()

    def update(self, lora: str, update_id: str) -> Any:
        """Make an update."""
        self.calls.append((self.loop.time(), update_id))
        if self.results:
            raise self.results.pop(0)
        return {"outcome": "promoted"}

    def rebuild(self, version: str, rebuild_id: str) -> str:
        """Fail."""
        raise ServingError("refuses")

    def close(self) -> None:
        """End."""


@pytest.fixture
def database(tmp_path: Path, opened: Opened) -> Database:
    """An empty database."""
    return opened(tmp_path / "claas.sqlite3")


@contextlib.asynccontextmanager
async def running(database: Database, trainer: Trainer) -> Any:
    """Run jobs."""
    trainer.begin()
    told: Any = trainer  # what is not here is not asked for
    jobs = Jobs(database, told)
    await jobs.start()
    try:
        yield jobs
    finally:
        await jobs.close()


async def ended(jobs: Jobs, job: Job) -> Job:
    """Return a job when it is over."""
    while not (job := await jobs.wait(job.id, 10_000)).is_over:
        pass
    return job


@virtual
async def test_an_update_that_is_held_up_is_tried_again(database: Database) -> None:
    """Later and later; meanwhile it waits, is not counted as over, and others run."""
    held = [ServingError("away"), StorageError("full")] * 4
    trainer = Trainer(*held[:7])
    async with running(database, trainer) as jobs:
        job = await jobs.submit("ann", "ann/bot")
        seen = await jobs.wait(job.id, 100)
        assert (seen.state, seen.why, seen.tries) == ("waiting", "away", 1)
        done = await ended(jobs, job)
        assert (done.state, done.why, done.tries) == ("done", "", 8)
        times = [time for time, _ in trainer.calls]
        pauses = [round(b - a) for a, b in zip(times, times[1:], strict=False)]
        assert pauses == [5, 10, 20, 40, 80, 160, 300]
        assert {name for _, name in trainer.calls} == {job.id}


@virtual
async def test_what_is_said_meanwhile_has_an_update_of_its_own(
    database: Database,
) -> None:
    """The one that waits has chosen its lessons; it would leave the new ones out."""
    trainer = Trainer(ServingError("away"))
    async with running(database, trainer) as jobs:
        first = await jobs.submit("ann", "ann/bot")
        await jobs.wait(first.id, 100)
        second = await jobs.submit("ann", "ann/bot")
        assert second.id != first.id
        assert (await ended(jobs, second)).state == "done"
        assert trainer.loop.time() < 5, "it does not wait for the first one"
        assert (await ended(jobs, first)).state == "done"


@virtual
async def test_an_update_that_was_held_up_outlives_the_process(
    database: Database,
) -> None:
    """It is tried at once at the next start, as what has begun."""
    trainer = Trainer(ServingError("away"))
    async with running(database, trainer) as jobs:
        first = await jobs.submit("ann", "ann/bot")
        await jobs.wait(first.id, 100)
    async with running(database, trainer) as jobs:
        assert (await jobs.submit("ann", "ann/bot")).id != first.id
        assert (await ended(jobs, first)).tries == 2


@virtual
async def test_it_ends_at_last(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that always refuses holds no place in the queue for ever."""
    monkeypatch.setattr("claas.jobs._TRIES", 3)
    trainer = Trainer(*[ServingError("refuses")] * 3)
    async with running(database, trainer) as jobs:
        done = await ended(jobs, await jobs.submit("ann", "ann/bot"))
    assert (done.state, done.why, len(trainer.calls)) == ("failed", "refuses", 3)


@virtual
async def test_a_rebuild_is_not_tried_again(database: Database) -> None:
    """Who asked for it asks again."""
    async with running(database, Trainer()) as jobs:
        asked = ("ann", "ann/bot", "rebuild")
        job = await jobs.submit(*asked, version="ann/bot@v1")
        assert (await ended(jobs, job)).state == "failed"


@virtual
async def test_a_full_disk_loses_no_job(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it runs cannot be written down: it is tried again."""
    written, full = Jobs._write, [StorageError("full")]

    def write(jobs: Jobs, job: Job) -> None:
        if full:
            raise full.pop()
        written(jobs, job)

    monkeypatch.setattr(Jobs, "_write", write)
    trainer = Trainer()
    async with running(database, trainer) as jobs:
        job = await jobs.submit("ann", "ann/bot")
        assert (await ended(jobs, job)).state == "done"
        assert [round(time) for time, _ in trainer.calls] == [5]
