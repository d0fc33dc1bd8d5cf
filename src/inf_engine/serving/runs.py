"""`RunBook`: the runs under way, and the last that ended."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inf_engine.errors import EngineStateError
from inf_engine.execution.live import LiveRun
from inf_engine.record import RunRecord
from inf_engine.types import Usage

Outcome = str


@dataclass(slots=True)
class ServedRun:
    """One run of the service.

    Args:
        name: Its name: ``1``, ``2`` and so on.
        args: Its inputs.
        live: The run while it goes on.
        began: When it began, seconds since 1970.
        outcome: ``running``, ``done``, ``failed`` or ``cancelled``.
        seconds: How long it took.
        usage: What its answers took.
        cost: What they cost in USD, None if a price is not known.
        counts: How many of its nodes have ended, of how many.
    """

    name: str
    args: tuple[Any, ...]
    live: LiveRun | None
    began: float = field(default_factory=time.time)
    outcome: Outcome = "running"
    seconds: float = 0.0
    usage: Usage = Usage()
    cost: float | None = 0.0
    counts: tuple[int, int] = (0, 0)
    _record: RunRecord | None = None
    _clock: float = field(default_factory=time.monotonic)

    @property
    def record(self) -> RunRecord:
        """What has happened in it until now."""
        found = self.live.record if self.live is not None else self._record
        assert found is not None
        return found

    def look(self) -> None:
        """Bring its figures up to now."""
        if self.live is not None:
            self.seconds = time.monotonic() - self._clock
            self.usage, self.cost = self.live.usage, self.live.cost
            self.counts = self.live.counts

    def end(self) -> None:
        """Keep what it was, and let go of what ran it."""
        if self.live is None:
            return
        self.look()
        error = self.live.error
        is_cancelled = isinstance(error, (asyncio.CancelledError, EngineStateError))
        ended = "cancelled" if is_cancelled else "failed"
        self.outcome = "done" if error is None else ended
        self._record, self.live = self.live.record, None


class RunBook:
    """The runs of a service.

    Args:
        most: The most that go on at once.
        kept: How many that have ended are kept to look at.

    Attributes:
        alive: Those that go on, by name.
        ended: The last that ended, the newest last.
        outcomes: How many ended how.
        seconds: What they took, in sum.
    """

    def __init__(self, most: int, kept: int) -> None:
        self.most = most
        self.alive: dict[str, ServedRun] = {}
        self.ended: deque[ServedRun] = deque(maxlen=kept)
        self.outcomes = {"done": 0, "failed": 0, "cancelled": 0}
        self.seconds = 0.0
        self._begun = 0
        self._free = asyncio.Event()
        self._free.set()

    @property
    def is_full(self) -> bool:
        """Whether as many runs go on as may."""
        return len(self.alive) >= self.most

    async def room(self) -> None:
        """Wait until a run of a batch may begin; a quarter is left to single runs."""
        while len(self.alive) >= max(1, self.most - self.most // 4):
            self._free.clear()
            await self._free.wait()

    def begin(self, args: tuple[Any, ...], start: Callable[[], LiveRun]) -> ServedRun:
        """Start a run.

        Args:
            args: Its inputs.
            start: Starts it.
        """
        live = start()
        self._begun += 1
        run = ServedRun(str(self._begun), args, live)
        self.alive[run.name] = run
        return run

    def end(self, run: ServedRun) -> None:
        """Note that a run has ended.

        Args:
            run: The run.
        """
        if self.alive.pop(run.name, None) is None:
            return
        run.end()
        self.outcomes[run.outcome] += 1
        self.seconds += run.seconds
        self.ended.append(run)
        self._free.set()

    def find(self, name: str) -> ServedRun | None:
        """Return a run that goes on or is kept, None if there is none.

        Args:
            name: Its name.
        """
        kept = {run.name: run for run in self.ended}
        return self.alive.get(name) or kept.get(name)
