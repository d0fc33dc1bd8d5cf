"""`ResourceManager`: the only road from an alias to a client.

A request is a `Job`. It waits in the line of each deployment of its alias and leaves on
the first that takes it, the least loaded, then the fastest. A slot is held only while a
request is on the wire. What becomes of it afterwards:

=========================  =======================================================
an answer                  the job has ended
429                        in front of the line again; the deployment pauses, and
                           it does not count as a try
another failure that may   in front of the line again after a pause (exponential,
pass, tries are left       full jitter, never before ``Retry-After``)
any other failure of the   the next of the alias's `fallbacks` that has not failed
endpoint                   it yet; without one the job has ended
any other exception        the job has ended
=========================  =======================================================

A request that takes too long may be sent a second time (`hedging.py`).

Deciding is plain synchronous code; a task exists only while a request is on the wire.
"""

import asyncio
import inspect
import os
import random
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any

from inf_engine.errors import (
    BudgetExceededError,
    ConfigurationError,
    EndpointError,
    RateLimitError,
    UnknownAliasError,
)
from inf_engine.resources.binding import bound
from inf_engine.resources.budget import Budget
from inf_engine.resources.config import EndpointConfig
from inf_engine.resources.deployment import Deployment
from inf_engine.resources.hedging import Hedging
from inf_engine.resources.job import Job, JobState, Order
from inf_engine.resources.retry import (
    Failure,
    RetryPolicy,
    may_retry,
    wait_seconds,
)
from inf_engine.resources.routing import Route, Routes, lines_of
from inf_engine.resources.sending import checked, sending
from inf_engine.resources.spending import Spending
from inf_engine.tasks import start_task
from inf_engine.types import LLMRequest, LLMResponse

_UNLIMITED_SLOTS = 64


class ResourceManager:
    """Binds aliases to clients and sends every request through their limits.

    Args:
        resources: A path, a dict or a `ResourceConfig` that describes endpoints, or a
            dict of alias → client (or `EndpointConfig`).
        environ: Where API keys are looked up; ``os.environ`` if None.

    Raises:
        ConfigurationError: If the description is wrong.
    """

    def __init__(
        self, resources: Any, *, environ: Mapping[str, str] | None = None
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._random = random.Random()
        self._is_pumping = False
        self._checked: set[str] = set()
        self.spending = Spending()
        self.bindings = bound(resources)  # of each alias: a config, or a client
        self._routes = Routes(self.bindings, self._deployment)
        self._deployments = self._routes.deployments
        self._hedging = Hedging(self)

    @property
    def aliases(self) -> tuple[str, ...]:
        """The aliases that are bound, in order."""
        return tuple(self._routes)

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """What answers the aliases, each once, in an order that resources decide."""
        return tuple(self._deployments)

    @property
    def environ(self) -> Mapping[str, str]:
        """Where API keys are looked up."""
        return self._environ

    def _deployment(
        self, alias: str, config: EndpointConfig | None, client: Any
    ) -> Deployment:
        return Deployment(
            alias, config, client, self._start, self.pump, self._must_wait
        )

    def check(self, alias: str, where: str = "") -> None:
        """Make sure that requests to an alias can leave; sends nothing.

        Args:
            alias: The alias; its fallbacks are checked too.
            where: The module that uses it, for the message.

        Raises:
            UnknownAliasError: If it is not bound.
            MissingKeyError: If its API key is not set.
            ConfigurationError: If its client cannot be made (no such model file, an
                extra that is not installed).
        """
        if alias in self._checked:
            return
        if alias not in self._routes:
            raise UnknownAliasError(alias, self._routes, where)
        for route in self._routes.reached(alias):
            self._open(route)
        self._checked.add(alias)

    def _open(self, route: Route) -> None:
        """Make the clients of a route, on first use."""
        pairs = zip(route.deployments, route.configs, strict=True)
        for deployment, config in pairs:
            self.spending.check(route.alias, config)
            deployment.open(route.alias, config, self._environ)

    def limit(self, budget: Any) -> None:
        """Spend no more than a `Budget` allows; None changes nothing.

        Raises:
            ConfigurationError: If it is no budget.
        """
        if budget is not None and not isinstance(budget, Budget):
            raise ConfigurationError(
                f"budget must be a Budget, not {type(budget).__name__}: write "
                "Budget(requests=..., tokens=..., usd=..., seconds=...)."
            )
        if budget is not None:
            self.spending.budget = budget
            self._checked.clear()

    def model_of(self, alias: str) -> str:
        """Return the first model of an alias, empty if its client was handed in."""
        config = self._routes[alias].deployments[0].config
        return "" if config is None else config.model

    def reads_images(self, alias: str) -> bool:
        """Say whether all that answer for an alias read images, as far as is known.

        Args:
            alias: One that is bound.
        """
        configs = [route.config for route in self._routes[alias].deployments]
        return all(config is None or config.reads_images for config in configs)

    def slots(self, *aliases: str) -> int:
        """Return how many requests to aliases are worth keeping in flight now.

        Deployments that aliases share count once.
        """
        each = {id(d): d for a in aliases for d in self._routes[a].deployments}
        slots = [deployment.slots() for deployment in each.values()]
        return sum(_UNLIMITED_SLOTS if n is None else n for n in slots)

    # -- the road -----------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Put a job in line; it is told when it has ended, never from in here.

        Args:
            job: The job, to an alias that was checked.
        """
        job.loop = asyncio.get_running_loop()
        job.since = now = job.loop.time()
        job.lines = lines_of(self._routes.next_of(job, now), job)
        job.state = JobState.WAITING
        job.turn += 1
        self.spending.begin(now)
        for deployment in job.lines:
            deployment.gate.join(job)

    def cancel(self, job: Job) -> None:
        """Take a job off the road; it is not told. Its task may still be ending."""
        if job.partner is not None:
            self._hedging.forget(job)
        state, job.state = job.state, JobState.CANCELLED
        if state is JobState.WAITING:
            for deployment in job.lines:
                deployment.gate.leave()
        elif state is JobState.PAUSED and job.timer is not None:
            job.timer.cancel()
        elif state is JobState.GRANTED:
            _cancel_task(job)
            self.spending.give_back(job)
            job.deployment.failed(job, asyncio.CancelledError(), _now())
            self.pump()
        elif state is JobState.ON_WIRE:
            _cancel_task(job)
        else:
            job.state = state

    def pump(self) -> None:
        """Hand out free slots now: all who are ready have asked."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            if len(self._deployments) == 1:
                self._deployments[0].gate.grant()
            else:
                while self._grant_one():
                    pass
        finally:
            self._is_pumping = False

    def _grant_one(self) -> bool:
        """Start one job on the least loaded deployment that takes one."""
        busy = [deployment for deployment in self._deployments if len(deployment.gate)]
        if len(busy) > 1:
            busy.sort(key=lambda deployment: deployment.load)
        now = _now()
        return any(deployment.gate.grant_one(now) for deployment in busy)

    def end(self, ending: bool) -> None:
        """Take note that no more inputs come, or that they do (see `Gate`)."""
        for deployment in self._deployments:
            deployment.gate.end(ending)

    async def complete(
        self,
        alias: str,
        request: LLMRequest,
        *,
        order: Order = Order(),  # noqa: B008 - immutable
        retries: int | RetryPolicy | None = None,
        delta: Callable[[str], None] | None = None,
        hedge: float | None = None,
    ) -> LLMResponse:
        """Send a request and return its answer.

        Args:
            alias: What to send it to.
            request: The request; a model in it goes before the endpoint's own.
            order: Who goes first when slots are short: the lowest.
            retries: Tries after the first, or a policy; None for what the endpoint
                says.
            delta: Called with each piece of text; None not to stream.
            hedge: The share of requests that may be sent twice; None for what the
                endpoint says.

        Raises:
            UnknownAliasError: If the alias is not bound.
            EndpointError: If the last try failed.
        """
        self.check(alias)
        given = alias, request, order, retries, delta, copy_context(), "", hedge
        job = _Awaited(*given)
        self.submit(job)
        try:
            return await job.outcome
        except asyncio.CancelledError:
            self.cancel(job)
            if job.task is not None:
                await asyncio.wait([job.task])
            raise

    async def aclose(self) -> None:
        """Close every client that was opened and can be closed, each once.

        Raises:
            Exception: The first failure, once all others are closed.
        """
        await self._hedging.aclose()
        each = [client for d in self._deployments for client in d.clients]
        clients = {id(client): client for client in each}
        failures = []
        for client in clients.values():
            close = getattr(client, "aclose", None)
            try:
                if close is not None:
                    await close()
            except Exception as exc:  # noqa: BLE001 - raised below
                failures.append(exc)
        for deployment in self._deployments:
            deployment.gate.close()
        if failures:
            raise failures[0]

    # -- one try --------------------------------------------------------------------

    def _start(self, deployment: Deployment, job: Job, now: float) -> None:
        """Send a job whose turn has come."""
        for other in job.lines:
            if other is not deployment:
                other.gate.leave()
        loop = job.loop
        self._assign(deployment, job)
        try:
            self.spending.grant(job, now)
        except BudgetExceededError as exc:
            job.state = JobState.ENDED
            loop.call_soon(job.ended, exc)
            return
        job.state = JobState.GRANTED
        job.waited = now - job.since
        job.since = now
        deployment.sent(job, now)
        context = job.context
        if context is not None and job.tries:  # the last try may be ending in it
            context = context.copy()
        task = start_task(loop, self._attempt(deployment, job), context)
        if not task.done():
            job.task = task

    def _assign(self, deployment: Deployment, job: Job) -> None:
        """Note where a job may go."""
        job.deployment = deployment
        job.config = self._routes[job.alias].config_of(deployment)

    def _must_wait(self, deployment: Deployment, job: Job, now: float) -> bool:
        """Say whether a job has to wait until others have given back of the budget."""
        if self.spending.account is None:
            return False
        self._assign(deployment, job)
        return self.spending.must_wait(job, now)

    async def _attempt(self, deployment: Deployment, job: Job) -> None:
        """Send a job once, and see to what becomes of it."""
        job.state = JobState.ON_WIRE
        job.since = job.loop.time()
        job.tries += 1
        if job.first_sent is None:
            job.first_sent = job.since
        self.spending.sent(job)
        job.sent(job)
        share = self._routes[job.alias].hedge if job.hedge is None else job.hedge
        if share:
            self._hedging.watch(job, share)
        outcome: LLMResponse | BaseException
        try:
            client = deployment.client_of(job.config)
            answer = sending(client, job.request, job.delta)
            if inspect.isawaitable(answer):
                answer = await answer
            outcome = checked(deployment.name, answer)
        except BaseException as exc:  # noqa: BLE001 - handed on
            outcome = exc
        job.task = None
        self._settle(deployment, job, outcome)
        if isinstance(outcome, asyncio.CancelledError):
            raise outcome

    def _settle(
        self, deployment: Deployment, job: Job, outcome: LLMResponse | BaseException
    ) -> None:
        """Book a try, see to what comes next, and let others go."""
        now = job.loop.time()
        if isinstance(outcome, LLMResponse):
            outcome = self.spending.answered(job, outcome, now)
            deployment.answered(job, outcome, now)
        else:
            self.spending.failed(job, outcome, now)
            was_down = deployment.is_down(now)
            deployment.failed(job, outcome, now)
            if deployment.is_down(now) and not was_down:
                self._evacuate(deployment, now)
        if job.state is not JobState.ENDED:  # or its hedge was faster
            job.received(job, outcome)
        if job.state is JobState.ON_WIRE:
            if job.partner is None or not self._hedging.settled(job, outcome, now):
                self.go_on(job, outcome, now)
        if isinstance(outcome, LLMResponse):
            self.pump()
        else:  # in a turn: a failure may make others unwanted
            deployment.gate.wake()

    def go_on(self, job: Job, outcome: LLMResponse | BaseException, now: float) -> None:
        """Try again, try another alias, or end; for those that have ended a try.

        Args:
            job: The job.
            outcome: How its try ended.
            now: Seconds on the loop's clock.
        """
        try:
            if isinstance(outcome, EndpointError):
                if self._try_again(job, outcome, now):
                    return
        except ConfigurationError as exc:  # of a retry policy
            exc.__context__ = outcome if isinstance(outcome, Exception) else None
            outcome = exc
        job.state = JobState.ENDED
        job.ended(outcome)

    def _try_again(self, job: Job, error: EndpointError, now: float) -> bool:
        """Put a job in line again, if that may help; say whether it does."""
        route = self._routes[job.alias]
        given, rng = job.retries, self._random
        policy = given if isinstance(given, RetryPolicy) else None
        allowed = given if isinstance(given, int) else route.retries
        job.failures += not isinstance(error, RateLimitError)
        failure = Failure(
            error,
            job.failures,
            now - (now if job.first_sent is None else job.first_sent),
        )
        if may_retry(failure, allowed, policy, rng):
            job.order = job.order.in_front()
            job.failed_at = (*job.failed_at, job.deployment)
            self._pause(job, now, wait_seconds(failure, policy, rng))
            return True
        if self._routes.fall_back(job):
            self.submit(job)
            return True
        return False

    def _pause(self, job: Job, now: float, wait: float) -> None:
        """Submit a job again after a wait, in seconds."""
        if wait <= 0:
            self.submit(job)
            return
        job.state = JobState.PAUSED
        job.timer = job.loop.call_at(now + wait, self.submit, job)

    def _evacuate(self, deployment: Deployment, now: float) -> None:
        """Let those who wait for an endpoint that went down go to their fallbacks."""
        for job in deployment.gate.waiting():
            if self._routes.may_leave(job, now):
                job.state = JobState.PAUSED
                for line in job.lines:
                    line.gate.leave()
                self.submit(job)


class _Awaited(Job):
    """A job that somebody awaits."""

    __slots__ = ("outcome",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.outcome: asyncio.Future[LLMResponse] = (
            asyncio.get_running_loop().create_future()
        )

    def ended(self, outcome: LLMResponse | BaseException) -> None:
        if self.outcome.done():
            return
        if isinstance(outcome, LLMResponse):
            self.outcome.set_result(outcome)
        elif isinstance(outcome, asyncio.CancelledError):
            self.outcome.cancel()
        else:
            self.outcome.set_exception(outcome)


def _cancel_task(job: Job) -> None:
    if job.task is not None:
        job.task.cancel()


def _now() -> float:
    return asyncio.get_running_loop().time()
