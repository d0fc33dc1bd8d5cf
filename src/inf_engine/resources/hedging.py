"""`Hedging`: a request that takes too long is sent a second time.

A `Hedge` is a job like any other: PAUSED until the request has been on the wire for
longer than 95 in 100 answers of its deployment took lately, then in line for another
deployment of the alias if there is one. It waits for a slot and for rates, keeps to the
budget and is booked like every try. The first answer wins; the other request is
cancelled, and booked as unknown: whoever cancels does not learn what it cost.

* At most the share that was asked for is hedged: each request adds so much to a credit,
  and a hedge takes 1. The credit is capped, so that an endpoint which gets slow as a
  whole is not sent twice as much.
* There is no hedge before there are 20 answers to compare with, none of a streamed
  request, none that does not fit into the budget beside all that is in flight.
* If the first request fails while its hedge is on the wire, the job waits for that; if
  the hedge fails, too, the job goes on as if there had been none. A hedge is never
  tried again.
* What was given up counts among the latencies as long as it took until then: if only
  winners counted, the 95th percentile would fall and fall.
"""

import asyncio
from typing import Any

from inf_engine.errors import EndpointError
from inf_engine.resources.job import Job, JobState
from inf_engine.resources.latency import Latencies
from inf_engine.types import LLMResponse

MOST_CREDIT = 10.0
_OUT = JobState.GRANTED, JobState.ON_WIRE
_LATE = 1e-3  # seconds after the p95: what takes just as long is no straggler
_WHOLE = 1.0 - 1e-9


class Hedge(Job):
    """The second request for the answer of another.

    Args:
        first: The job whose answer it asks for.
        road: What it goes through.

    Attributes:
        error: How the first ended, if it failed and waits for this one.
        has_paid: Whether it has taken credit.
    """

    __slots__ = ("error", "first", "has_paid", "road")

    def __init__(self, first: Job, road: "Hedging") -> None:
        context = None if first.context is None else first.context.copy()
        super().__init__(
            *(first.alias, first.request, first.order, 0, None, context, first.origin)
        )
        self.first = self.partner = first
        self.road = road
        self.loop = first.loop
        self.state = JobState.PAUSED
        self.failed_at = (*first.failed_at, first.deployment)
        self.error: EndpointError | None = None
        self.has_paid = False

    def sent(self, attempt: Job) -> None:
        """Tell the first that its request leaves again."""
        self.road.left(self)
        self.first.sent(self)

    def received(self, attempt: Job, outcome: LLMResponse | BaseException) -> None:
        """Tell the first how this one ended, if that matters still."""
        if self.first.partner is self:
            self.first.received(self, outcome)

    def ended(self, outcome: LLMResponse | BaseException) -> None:
        """Be forgotten: the budget did not allow it."""
        if self.first.partner is self:
            self.road.forget(self.first)


class Hedging:
    """Sends second requests, and sees which of two answers counts.

    Args:
        manager: The `ResourceManager`, the road that hedges go, too.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._credit: dict[str, float] = {}
        self._ending: dict[asyncio.Task[None], None] = {}

    def watch(self, job: Job, share: float) -> None:
        """Send a job that leaves now a second time later, if that takes too long.

        Args:
            job: The job.
            share: How many hedges there may be for each request.
        """
        if job.delta is not None or isinstance(job, Hedge):
            return
        credit = self._credit.get(job.alias, 0.0) + share
        self._credit[job.alias] = min(credit, MOST_CREDIT)
        deployment = job.deployment
        if deployment.latencies is None:
            deployment.latencies = Latencies()
        after = deployment.latencies.p95
        if after is not None:
            hedge = job.partner = Hedge(job, self)
            hedge.timer = job.loop.call_at(job.since + after + _LATE, self._send, hedge)

    def left(self, hedge: Hedge) -> None:
        """Book that a hedge leaves."""
        self._manager.spending.ledger.hedged(hedge.alias, hedge.origin)

    def settled(
        self, job: Job, outcome: LLMResponse | BaseException, now: float
    ) -> bool:
        """Decide between two requests for one answer, when one of them has ended.

        Args:
            job: The one that has ended.
            outcome: How.
            now: Seconds on the loop's clock.

        Returns:
            Whether nothing else is to be done for the job.
        """
        if isinstance(job, Hedge):
            self._hedge_settled(job, outcome, now)
            return True
        hedge = job.partner
        may_pass = isinstance(outcome, EndpointError) and outcome.retryable
        if isinstance(hedge, Hedge) and may_pass and hedge.state in _OUT:
            job.state, job.timer, hedge.error = JobState.PAUSED, None, outcome
            return True
        self.forget(job)
        return False

    def forget(self, job: Job) -> None:
        """Take the hedge of a job off the road; the job goes on without."""
        hedge, job.partner = job.partner, None
        if not isinstance(hedge, Hedge):
            return
        if hedge.has_paid and hedge.tries == 0:
            self._credit[job.alias] += 1.0
        self._give_up(job, hedge)

    async def aclose(self) -> None:
        """Wait until every request that was given up has ended."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._ending if task.get_loop() is loop]
        if tasks:
            await asyncio.wait(tasks)

    def _send(self, hedge: Hedge) -> None:
        """Put a hedge in line, unless there is a reason against it."""
        job, spending = hedge.first, self._manager.spending
        hedge.deployment, hedge.config = job.deployment, job.config
        has_credit = self._credit[job.alias] >= _WHOLE
        if not has_credit or not spending.allows(hedge, job.loop.time()):
            job.partner = None
            return
        self._credit[job.alias] -= 1.0
        hedge.has_paid = True
        self._manager.submit(hedge)

    def _hedge_settled(
        self, hedge: Hedge, outcome: LLMResponse | BaseException, now: float
    ) -> None:
        """Hand the answer of a hedge to its job, or let that go on alone."""
        hedge.state = JobState.ENDED
        job, job.partner = hedge.first, None
        if isinstance(outcome, LLMResponse):
            if job.state is JobState.ON_WIRE:
                job.deployment.latencies.add(now - job.since)
                self._give_up(job, job)
            job.state = JobState.ENDED
            job.ended(outcome)
        elif hedge.error is not None:
            self._manager.go_on(job, hedge.error, now)

    def _give_up(self, job: Job, attempt: Job) -> None:
        """Cancel one of two requests for an answer; its try is booked when it ends."""
        task, was = attempt.task, attempt.state
        self._manager.cancel(attempt)
        if was is JobState.ON_WIRE:
            job.received(attempt, asyncio.CancelledError())
        if task is not None and not task.done():
            self._ending[task] = None
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.pop(task, None)
