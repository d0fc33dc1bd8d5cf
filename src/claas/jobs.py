"""`Jobs`: updates that were asked for, one after the other, and what came of them.

A job is a row in the database before anybody is told its id. One that was waiting or
running when the process ended is run again at the next start: the worker's transaction
knows how far it was. An adapter has one waiting job at most, since an update takes all
feedback there is; after a start there may be the one before it, too.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any, Literal, Protocol

from claas.database import Database
from claas.errors import ClaasError, LimitError, NotFoundError

_log = logging.getLogger("claas.jobs")
_SHOWN = 50  # jobs of an adapter

JobState = Literal["waiting", "running", "done", "failed"]


class Trainer(Protocol):
    """What trains: the worker, in a process of its own. It is called from threads."""

    def update(self, lora: str, update_id: str) -> Any:
        """Make one update of an adapter from its open feedback, and wait for it.

        Args:
            lora: The adapter.
            update_id: Its id; the same id twice is one update.

        Returns:
            What came of it, a `claas.updates.Update`: its ``outcome``, ``version``,
            ``verdict``, ``figures``.
        """
        ...

    def switch(self, lora: str, to: str | None) -> Any:
        """Let a version serve; return what came of it.

        Args:
            lora: The adapter.
            to: The version, ``user/model@v2``; None for the parent of the live one.
        """
        ...

    def retire(self) -> Any:
        """Let the inference server unload what was replaced a while ago."""
        ...

    def close(self) -> None:
        """End; an update that runs is taken up again later."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """An update that was asked for.

    Args:
        id: Its id.
        user: Whose it is.
        lora: The adapter, ``user/model``.
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        why: What failed.
        result: What came of it, as the worker says.
        created: When it was asked for, seconds since 1970.
        started: When it began, 0 before.
        ended: When it ended, 0 before.
    """

    id: str
    user: str
    lora: str
    state: JobState = "waiting"
    why: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in ("done", "failed")


class Jobs:
    """The updates that were asked for.

    Args:
        database: Where they are kept.
        trainer: What trains.
        most: How many may wait.
        ended: Is told how each one ended, in a word.
    """

    def __init__(
        self,
        database: Database,
        trainer: Trainer,
        most: int = 64,
        ended: Callable[[str], None] = lambda how: None,
    ) -> None:
        self.trainer = trainer
        self._ended = ended
        self._database, self._most = database, most
        self._waiting: dict[str, Job] = {}  # the oldest first
        self._ends: dict[str, asyncio.Event] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def start(self) -> None:
        """Begin, with what an earlier process left."""
        asked = "state IN (?, ?) ORDER BY number"
        for job in await asyncio.to_thread(self._select, asked, _LEFT):
            self._queue(replace(job, state="waiting", started=0.0))
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End; what waits or runs is taken up at the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.to_thread(self.trainer.close)

    def check(self, *loras: str) -> None:
        """Refuse updates that the queue has no room for.

        Args:
            loras: Their adapters.

        Raises:
            LimitError: If there is no room for all of them.
        """
        new = len(set(loras) - {job.lora for job in self._waiting.values()})
        if new and len(self._waiting) + new > self._most:
            raise LimitError(
                f"{len(self._waiting)} updates wait already, {self._most} may: try "
                "again later."
            )

    async def submit(self, user: str, lora: str) -> Job:
        """Ask for an update; one that waits already is the same one.

        Args:
            user: Whose it is.
            lora: The adapter.

        Raises:
            LimitError: If too many wait.
            StorageError: If it cannot be written down.
        """
        for waiting in self._waiting.values():
            if waiting.lora == lora:
                return waiting
        self.check(lora)
        job = Job("job-" + secrets.token_hex(12), user, lora, created=time.time())
        self._queue(job)
        try:
            await asyncio.to_thread(self._insert, job)
        except BaseException:
            self._waiting.pop(job.id, None)
            raise
        self._news.set()
        return job

    async def wait(self, job_id: str, seconds: float) -> Job:
        """Return a job when it has ended, or as it is after some time.

        Args:
            job_id: Its id.
            seconds: The longest to wait.

        Raises:
            NotFoundError: If there is no such job.
        """
        if (event := self._ends.get(job_id)) is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), seconds)
        return await asyncio.to_thread(self.get, job_id)

    def get(self, job_id: str) -> Job:
        """Return a job.

        Args:
            job_id: Its id.

        Raises:
            NotFoundError: If there is no such job.
        """
        found = self._select("id = ?", (job_id,))
        if not found:
            raise NotFoundError(f"there is no job {job_id[:80]!r}.")
        return found[0]

    def history(self, lora: str) -> list[Job]:
        """Return the last jobs of an adapter, the oldest first.

        Args:
            lora: The adapter.
        """
        asked = "lora = ? ORDER BY number DESC LIMIT ?"
        return self._select(asked, (lora, _SHOWN))[::-1]

    # -- inside -----------------------------------------------------------------

    def _queue(self, job: Job) -> None:
        self._waiting[job.id] = job
        self._ends[job.id] = asyncio.Event()

    async def _run(self) -> None:
        """Run one job after the other."""
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            job = self._waiting.pop(next(iter(self._waiting)))
            try:
                await self._run_one(job)
            except ClaasError as exc:  # the database: the job stays as it was there
                _log.error("job %s: %s", job.id, exc)
            self._ends.pop(job.id).set()

    async def _run_one(self, job: Job) -> None:
        """Run a job, and write down what came of it."""
        job = replace(job, state="running", started=time.time())
        await asyncio.to_thread(self._write, job)
        try:
            told = await asyncio.to_thread(self.trainer.update, job.lora, job.id)
            job = replace(job, state="done", result=_plain(told))
        except ClaasError as exc:
            job = replace(job, state="failed", why=str(exc))
        except Exception as exc:  # noqa: BLE001 - the next job is to run, whatever
            place = "".join(traceback.format_tb(exc.__traceback__))  # not its words
            _log.error("job %s: %s\n%s", job.id, type(exc).__name__, place)
            job = replace(job, state="failed", why="the worker failed: see the log.")
        self._ended(str(job.result.get("outcome") or job.state))
        await asyncio.to_thread(self._write, replace(job, ended=time.time()))

    def _select(self, where: str, values: tuple[object, ...]) -> list[Job]:
        asked = f"SELECT body FROM jobs WHERE {where}"
        with self._database.read() as db:
            return [Job(**json.loads(row[0])) for row in db.execute(asked, values)]

    def _insert(self, job: Job) -> None:
        with self._database.change() as db:
            db.execute(
                "INSERT INTO jobs (id, user, lora, state, body) VALUES (?, ?, ?, ?, ?)",
                (job.id, job.user, job.lora, job.state, json.dumps(asdict(job))),
            )

    def _write(self, job: Job) -> None:
        with self._database.change() as db:
            db.execute(
                "UPDATE jobs SET state = ?, body = ? WHERE id = ?",
                (job.state, json.dumps(asdict(job)), job.id),
            )


_LEFT = ("waiting", "running")


def _plain(told: Any) -> dict[str, Any]:
    """Return what the worker says, as JSON has it."""
    if is_dataclass(told) and not isinstance(told, type):
        told = asdict(told)
    written = json.dumps(dict(told), default=str)
    # an interval of one measurement is infinite, which JSON has no word for
    found: dict[str, Any] = json.loads(written, parse_constant=lambda _: None)
    return found
