"""`Job`: one request on its way through the resource manager.

::

    WAITING ──► GRANTED ──► ON_WIRE ──► ENDED
       ▲                       │
       └──────── PAUSED ◄──────┘          and CANCELLED from everywhere

A job that failed in a way that may pass is PAUSED until a moment, without a slot, and
then WAITING again, in front of all others of its priority. Nothing sleeps meanwhile:
a pause is one timer. One whose try failed while its hedge (`hedging.py`) is on the
wire is PAUSED, too, until that has ended. One that waits for the answer of an equal
job is FOLLOWING, and not on the road.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from enum import IntEnum
from typing import Any, NamedTuple

from inf_engine.resources.retry import RetryPolicy
from inf_engine.types import LLMRequest, LLMResponse


class JobState(IntEnum):
    """Where a job is."""

    WAITING = 0
    PAUSED = 1
    GRANTED = 2
    ON_WIRE = 3
    ENDED = 4
    CANCELLED = 5
    FOLLOWING = 6


class Order(NamedTuple):
    """Who goes first: the lowest.

    Args:
        priority: The priority of the run, negated.
        age: The number of the input; older ones have lower numbers.
        path: The length of the longest recorded path below the node, negated.
        place: The place of the node in its run.
    """

    priority: int = 0
    age: int = 0
    path: int = 0
    place: int = 0

    def at_the_end(self) -> tuple[int, ...]:
        """Return what decides at the end of a batch: the path before the age."""
        return self.priority, self.path, self.age, self.place

    def in_front(self) -> "Order":
        """Return the order of one that goes before all others of its priority."""
        return self._replace(age=-1, path=-(2**31))


class Job:
    """One request, and how far it got; subclass it to be told.

    Args:
        alias: What it is sent to.
        request: The request.
        order: Who goes first when slots are short.
        retries: Tries after the first, or a policy; None for what the endpoint says.
        delta: Called with each piece of text; None not to stream.
        context: What the client runs in, None for the context of the submitter.
        origin: The module that asks, for the books.
        hedge: The share of requests that may be sent twice, None for what the endpoint
            says.

    Attributes:
        state: Where it is.
        tries: How many times it has left.
        failures: How many of these count against `retries`: all but refusals by a
            rate limit.
        first_sent: When it left for the first time, None if it has not.
        since: When it began to wait, or when it left, whichever was last.
        waited: Seconds that it was in line before it left, pauses not counted.
        ahead: The aliases to try after this one.
        passed: The aliases that have failed it.
        loop: Where it runs, None before it was submitted.
        lines: The deployments in whose lines it stands.
        failed_at: The deployments that have failed it, since all of them had.
        estimate: Tokens that it may read and write, once somebody asked.
        booked: What the rate limits keep for it while it is on its way.
        reservation: What a budget keeps for it.
        deployment: What it was granted to, None before that.
        config: That deployment as the alias describes it, None for a client.
        partner: The other request for the same answer: its hedge, or what it is the
            hedge of; None if there is none.
        turn: How many times it was put in line; an older place in line is void.
        task: What is on the wire, None if nothing is.
        timer: What ends its pause.
    """

    __slots__ = (
        *("ahead", "alias", "booked", "config", "context", "delta", "deployment"),
        *("estimate", "failed_at", "failures", "first_sent", "hedge", "lines", "loop"),
        *("order", "origin", "partner", "passed", "request", "reservation"),
        *("retries", "since"),
        *("state", "task", "timer", "tries", "turn", "waited"),
    )

    def __init__(
        self,
        alias: str,
        request: LLMRequest,
        order: Order = Order(),  # noqa: B008 - immutable
        retries: int | RetryPolicy | None = None,
        delta: Callable[[str], None] | None = None,
        context: Context | None = None,
        origin: str = "",
        hedge: float | None = None,
    ) -> None:
        self.alias = alias
        self.request = request
        self.order = order
        self.retries = retries
        self.delta = delta
        self.context = context
        self.origin = origin
        self.hedge = hedge
        self.partner: Job | None = None
        self.state = JobState.WAITING
        self.tries = 0
        self.turn = 0
        self.failures = 0
        self.deployment: Any = None
        self.booked: Any = None
        self.config: Any = None
        self.since = self.waited = 0.0
        self.first_sent: float | None = None
        self.ahead: tuple[str, ...] = ()
        self.passed: tuple[str, ...] = ()
        self.loop: Any = None
        self.lines: tuple[Any, ...] = ()
        self.failed_at: tuple[Any, ...] = ()
        self.estimate: tuple[int, int] | None = None
        self.reservation: Any = None
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def sent(self, attempt: "Job") -> None:
        """Take note: the request leaves. Called for each try.

        Args:
            attempt: What leaves: the job itself, or its hedge.
        """

    def received(self, attempt: "Job", outcome: LLMResponse | BaseException) -> None:
        """Take note of how a try ended.

        Args:
            attempt: What had left: the job itself, or its hedge.
            outcome: How it ended.
        """

    def ended(self, outcome: LLMResponse | BaseException) -> None:
        """Take over the answer, or why there is none; called once."""
