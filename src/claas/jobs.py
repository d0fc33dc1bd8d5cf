"""`Jobs`: what the worker was asked for, one after the other, and what came of it.

A job is a row in the database before anybody is told its id. One that was waiting or
running when the process ended is run again at the next start: the worker's transaction
knows how far it was. An adapter has one waiting job at most, since an update takes all
feedback there is; one that has begun is no longer the one: its lessons are chosen.

An update that the inference server or the disk holds up waits and is tried again, after
5 s, 10 s, … 5 min, for about a day: what was trained is not to wait for somebody to say
something more; and so does what is to be forgotten. Meanwhile the others run. A rebuild
or an explanation just fails.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any, Literal, Protocol

from claas.database import Database
from claas.errors import (
    ClaasError,
    LimitError,
    NotFoundError,
    ServingError,
    StorageError,
)
from claas.names import LoraName
from claas.types import TokenRow

_log = logging.getLogger("claas.jobs")
_SHOWN = 50  # jobs of an adapter
_PAUSE, _LONGEST = 5.0, 300.0  # seconds until the next try
_TRIES = 300

JobKind = Literal["update", "rebuild", "explain", "diff", "forget", "rollback"]
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

    def rebuild(self, version: str, rebuild_id: str) -> str:
        """Make a version again from the ledger; return the new one.

        Args:
            version: ``user/model@v3``.
            rebuild_id: Its id; the same id twice is one rebuild.
        """
        ...

    def explain(self, version: str, feedback: str) -> Sequence[TokenRow]:
        """Return what a feedback pushes, token by token of its answer.

        Args:
            version: The student, ``user/model@v3``.
            feedback: The id of the feedback.
        """
        ...

    def diff(self, first: str, second: str) -> Mapping[str, Any]:
        """Return how two versions differ.

        Args:
            first: ``user/model@v1``.
            second: ``user/model@v3``.
        """
        ...

    def forget(
        self, lora: str, feedback: Sequence[str], receipts: Sequence[str], name: str
    ) -> Mapping[str, Any]:
        """Make an adapter as if something had never been said; return what came of it.

        Args:
            lora: The adapter.
            feedback: The ids of what was said.
            receipts: Further receipts to delete.
            name: What this is called; the same twice is one forgetting.
        """
        ...

    def switch(self, lora: str, to: str | None) -> Any:
        """Let a version serve; return what came of it.

        Args:
            lora: The adapter.
            to: The version, ``user/model@v2``; None for the parent of the live one.
        """
        ...

    def watch(self, lora: str) -> Any:
        """Take the live version back if it is surely rated worse than the one before.

        Args:
            lora: The adapter.

        Returns:
            The switch, a `claas.updates.Update`; None if nothing was done.
        """
        ...

    def lend(self, version: str) -> None:
        """Have a version that somebody asked for unloaded after a while.

        Args:
            version: ``user/model@v3``.
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
    """An update, or something else that was asked for.

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
        kind: ``update``, ``rebuild``, ``explain``, ``diff``, ``forget``, or
            ``rollback`` for one that nobody asked for.
        given: What else it was asked with: a version, a feedback.
        tries: How often it was begun.
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
    kind: JobKind = "update"
    given: Mapping[str, Any] = field(default_factory=dict)
    tries: int = 0

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
        self._due: dict[str, float] = {}  # of those that are tried again, loop's time
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
        jobs = self._waiting.values()
        known = {job.lora for job in jobs if job.kind == "update" and not job.tries}
        self._check(len(set(loras) - known))

    def _check(self, new: int) -> None:
        """Refuse so many more jobs if there is no room for them."""
        if new and len(self._waiting) + new > self._most:
            raise LimitError(
                f"{len(self._waiting)} jobs wait already, {self._most} may: try "
                "again later."
            )

    async def submit(
        self, user: str, lora: str, kind: JobKind = "update", **given: Any
    ) -> Job:
        """Ask for a job; one that waits already and has not begun is the same one.

        Args:
            user: Whose it is.
            lora: The adapter.
            kind: What is to be done.
            given: With what: ``version``, ``feedback``; plain data.

        Raises:
            LimitError: If too many wait.
            StorageError: If it cannot be written down.
        """
        asked = (lora, kind, given)
        for old in self._waiting.values():
            if not old.tries and (old.lora, old.kind, old.given) == asked:
                return old
        self._check(1)
        name, now = "job-" + secrets.token_hex(12), time.time()
        job = Job(name, user, lora, created=now, kind=kind, given=given)
        self._queue(job)
        try:
            await asyncio.to_thread(self._insert, job)
        except BaseException:
            self._waiting.pop(job.id, None)
            raise
        self._news.set()
        return job

    def note(
        self, user: str, lora: str, kind: JobKind, result: Mapping[str, Any]
    ) -> None:
        """Write down what was done without being asked for.

        Args:
            user: Whose adapter it is.
            lora: The adapter.
            kind: What was done.
            result: What came of it.

        Raises:
            StorageError: If it cannot be written down.
        """
        name, now = "job-" + secrets.token_hex(12), time.time()
        job = Job(name, user, lora, "done", result=result, kind=kind)
        self._insert(replace(job, created=now, started=now, ended=now))

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

        What only looked (an explanation, a comparison) is not among them.

        Args:
            lora: The adapter.
        """
        asked = (
            "lora = ? AND json_extract(body, '$.kind') NOT IN ('explain', 'diff') "
            "ORDER BY number DESC LIMIT ?"
        )
        return self._select(asked, (lora, _SHOWN))[::-1]

    def forget(self, lora: str) -> None:
        """Delete the jobs of an adapter that are over: they may repeat answers.

        Args:
            lora: The adapter.

        Raises:
            StorageError: If it cannot be written.
        """
        with self._database.change() as db:
            asked = "DELETE FROM jobs WHERE lora = ? AND state NOT IN (?, ?)"
            db.execute(asked, (lora, *_LEFT))

    # -- inside -----------------------------------------------------------------

    def _queue(self, job: Job) -> None:
        self._waiting[job.id] = job
        self._ends[job.id] = asyncio.Event()

    async def _run(self) -> None:
        """Run one job after the other."""
        while True:
            job = await self._next()
            try:
                await self._run_one(job)
            except ClaasError as exc:  # the database: the job stays as it was there
                _log.error("job %s: %s", job.id, exc)
                self._put_off(job)
            self._ends.pop(job.id).set()
            if job.id in self._due:
                self._ends[job.id] = asyncio.Event()

    async def _next(self) -> Job:
        """Wait for the next job whose time has come."""
        loop = asyncio.get_running_loop()
        while True:
            now, due = loop.time(), self._due
            for name in self._waiting:
                if due.get(name, now) <= now:
                    due.pop(name, None)
                    return self._waiting.pop(name)
            self._news.clear()
            pause = min(due.values()) - now if due else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause)

    async def _run_one(self, job: Job) -> None:
        """Run a job, and write down what came of it."""
        job = replace(job, state="running", started=time.time(), tries=job.tries + 1)
        await asyncio.to_thread(self._write, job)
        try:
            told = await asyncio.to_thread(self._asked, job)
            job = replace(job, state="done", why="", result=_plain(told))
        except (ServingError, StorageError) as exc:
            job = replace(job, state="failed", why=str(exc))
            if job.kind in _PATIENT and job.tries < _TRIES:
                self._put_off(job)
                self._ended("put_off")
                await asyncio.to_thread(self._write, self._waiting[job.id])
                return
        except ClaasError as exc:
            job = replace(job, state="failed", why=str(exc))
        except Exception as exc:  # noqa: BLE001 - the next job is to run, whatever
            place = "".join(traceback.format_tb(exc.__traceback__))  # not its words
            _log.error("job %s: %s\n%s", job.id, type(exc).__name__, place)
            job = replace(job, state="failed", why="the worker failed: see the log.")
        self._ended(str(job.result.get("outcome") or job.state))
        await asyncio.to_thread(self._write, replace(job, ended=time.time()))

    def _asked(self, job: Job) -> Any:
        """Ask the worker for what a job is; called in a thread."""
        if job.kind == "update":
            return self.trainer.update(job.lora, job.id)
        if job.kind == "forget":
            return self.trainer.forget(job.lora, **job.given, name=job.id)
        if job.kind == "diff":
            return {"outcome": "compared", **self.trainer.diff(**job.given)}
        version = job.given["version"]
        if job.kind == "rebuild":
            made = self.trainer.rebuild(version, job.id)
            return {"outcome": "rebuilt", "version": LoraName.of(made).version}
        rows = self.trainer.explain(version, job.given["feedback"])
        told = {"outcome": "explained", "version": LoraName.of(version).version}
        return {**told, "rows": [asdict(row) for row in rows]}

    def _put_off(self, job: Job) -> None:
        """Let a job wait, and be tried again later."""
        tries = max(job.tries, 1)  # what cannot be written down has begun
        pause = min(_PAUSE * 2 ** (tries - 1), _LONGEST)
        self._waiting[job.id] = replace(job, state="waiting", tries=tries)
        self._due[job.id] = asyncio.get_running_loop().time() + pause

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
_PATIENT = ("update", "forget")


def _plain(told: Any) -> dict[str, Any]:
    """Return what the worker says, as JSON has it."""
    if is_dataclass(told) and not isinstance(told, type):
        told = asdict(told)
    written = json.dumps(dict(told), default=str)
    # an interval of one measurement is infinite, which JSON has no word for
    found: dict[str, Any] = json.loads(written, parse_constant=lambda _: None)
    return found
