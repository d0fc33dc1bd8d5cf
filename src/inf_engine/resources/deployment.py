"""`Deployment`: one endpoint with its client, the line before it, and its limits.

Limits and the line belong to a deployment (provider, base_url, key, model); an alias
names a list of them. A request may leave when all of these let it:

* the window of requests in flight, which adapts to what the endpoint takes,
* the rate limits of requests and tokens, given or learnt from the answers' headers,
* the circuit breaker, which keeps requests from an endpoint that is down.

Without a `max_concurrent` the window begins small and doubles each round trip: the
first answers tell the limits before many requests find them out the hard way.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from inf_engine.errors import (
    AnswerError,
    EndpointConnectionError,
    EndpointError,
    EndpointServerError,
    EndpointTimeoutError,
    RateLimitError,
)
from inf_engine.resources.binding import make_client, slots_of
from inf_engine.resources.breaker import CircuitBreaker
from inf_engine.resources.config import EndpointConfig
from inf_engine.resources.estimate import TokenEstimator
from inf_engine.resources.gate import Gate
from inf_engine.resources.job import Job
from inf_engine.resources.latency import Latencies
from inf_engine.resources.lease import Lease, limits_under
from inf_engine.resources.limits import FIRST_FLIGHT, RateLimits
from inf_engine.resources.window import ConcurrencyWindow
from inf_engine.types import LLMResponse

_OVERLOADS = (503, 529)
_SMOOTHING = 0.1
_PROBE_SECONDS = 5.0  # a probe that was not refused by then was let in


class Deployment:
    """One endpoint (see the top of this file).

    Args:
        name: The first alias that names it, for messages.
        config: The endpoint; None for a client that was handed in. Where several
            aliases describe it, the smallest of each limit counts.
        client: That client.
        start: Starts a job on a deployment, given the time now.
        pump: Hands out slots.
        must_wait: Says whether a job has to wait for the end of another, for reasons
            that are no matter of the endpoint.

    Attributes:
        in_use: How many requests are in flight.
        seconds: How long an answer takes, smoothed; 0.0 before the first.
        latencies: How long the last answers took; None until somebody hedges.
        lease: What this process may use of the limits that were set, None for all.
    """

    def __init__(
        self,
        name: str,
        config: EndpointConfig | None,
        client: Any,
        start: Callable[["Deployment", Job, float], None],
        pump: Callable[[], None],
        must_wait: Callable[["Deployment", Job, float], bool],
    ) -> None:
        self._must_wait = must_wait
        self.name = name
        self.config = config
        self.client = client
        self._clients: dict[Any, Any] = {}
        self.window = None if config is None else ConcurrencyWindow(slots_of(config))
        self.limits = _limits(config)
        self.breaker = CircuitBreaker()
        self.estimator = TokenEstimator()
        self.in_use = 0
        self.seconds = 0.0
        self.latencies: Latencies | None = None
        self.lease: Lease | None = None
        self.gate = Gate(self.ready_at, partial(start, self), self.slots, pump)

    def __repr__(self) -> str:
        return f"Deployment({self.name}, in_use={self.in_use})"

    @property
    def load(self) -> tuple[float, float]:
        """How full it is, and how slow: less is better."""
        slots = self.slots()
        return (self.in_use / slots if slots else 0.0), self.seconds

    def slots(self) -> int | None:
        """Return how many requests may be in flight, None for any number."""
        return None if self.window is None else self.window.size

    def hold(self, lease: Lease) -> None:
        """Use only what a lease allows of the limits that were set."""
        self.lease = lease
        self.window = lease.window or self.window
        self.limits = _limits(self.config, lease)

    @property
    def clients(self) -> list[Any]:
        """Every client that was handed in or made."""
        return [self.client, *self._clients.values()]

    def open(
        self, alias: str, config: EndpointConfig | None, environ: Mapping[str, str]
    ) -> None:
        """Make the client of an alias, on first use.

        Args:
            alias: The alias, for messages.
            config: The endpoint as the alias describes it.
            environ: Where its API key is looked up.

        Raises:
            ConfigurationError: If it cannot be made.
        """
        if self.client is None and config is not None:
            key = _client_key(config)
            if key not in self._clients:
                self._clients[key] = make_client(alias, config, environ)

    def client_of(self, config: EndpointConfig | None) -> Any:
        """Return the client for the endpoint as an alias describes it."""
        if self.client is not None or config is None:
            return self.client
        return self._clients[_client_key(config)]

    def estimate(self, job: Job) -> tuple[int, int]:
        """Return the tokens that a job may read and write."""
        if job.estimate is None:
            read = self.estimator.input_tokens(job.request)
            job.estimate = read, self.estimator.output_tokens(job.request)
        return job.estimate

    # -- when ---------------------------------------------------------------------

    def ready_at(self, job: Job, now: float) -> float:
        """Return when a job may leave; infinity if only the end of another tells."""
        window, lease = self.window, self.lease
        if lease is not None and lease.is_over(now):
            return math.inf
        if window is not None and self.in_use >= window.size:
            if lease is not None:
                lease.need()
            return math.inf
        if self._must_wait(self, job, now):
            return math.inf
        read, written = self.estimate(job)
        at = self.limits.ready_at(read, written, now)
        return max(at, self.breaker.ready_at(now))

    def is_down(self, now: float) -> bool:
        """Say whether the circuit breaker is open."""
        return self.breaker.ready_at(now) > now

    # -- what happened ------------------------------------------------------------

    def sent(self, job: Job, now: float) -> None:
        """Take note that a job leaves."""
        self.in_use += 1
        if self.lease is not None:
            self.lease.sent()
        job.booked = self.limits.sent(*self.estimate(job), now)
        self.breaker.sent(now)

    def answered(self, job: Job, response: LLMResponse, now: float) -> None:
        """Take note of an answer."""
        usage = response.usage
        known = usage.total_tokens > 0
        used = (usage.input_tokens, usage.output_tokens) if known else None
        self.limits.answered(job.booked, used, response.limits, now)
        self.estimator.learn(job.request, usage)
        self.breaker.succeeded(now)
        if self.window is not None:
            self.window.answered(self.in_use, job.since, now)
        took = now - job.since
        if self.latencies is not None:
            self.latencies.add(took)
        self.seconds += (took - self.seconds) * (_SMOOTHING if self.seconds else 1.0)
        self._freed()

    def failed(self, job: Job, error: BaseException, now: float) -> None:
        """Take note of a try that gave no answer, or one of no use."""
        if isinstance(error, AnswerError) and error.response is not None:
            self.answered(job, error.response, now)
            return
        self._freed()
        if isinstance(error, RateLimitError):
            self.limits.refused(job.booked, error.retry_after, error.limits, now)
        elif isinstance(error, EndpointError) and error.status is not None:
            self.limits.answered(job.booked, None, error.limits, now)
        else:
            self.limits.lost(job.booked)
        self._judge(job, error, now)
        if self.window is not None and _is_overload(error):
            self.window.overloaded(self.in_use, job.since, now)

    def _freed(self) -> None:
        self.in_use -= 1
        if self.lease is not None:
            self.lease.freed(len(self.gate))

    def _judge(self, job: Job, error: BaseException, now: float) -> None:
        """Tell the circuit breaker whether the endpoint is to blame."""
        kinds = (EndpointConnectionError, EndpointTimeoutError, EndpointServerError)
        if isinstance(error, kinds):
            self.breaker.failed(now, job.since)
        elif isinstance(error, EndpointError):
            self.breaker.succeeded(now)
        else:
            self.breaker.lost(now, job.since)


def merged(configs: list[EndpointConfig]) -> EndpointConfig:
    """Return the one description of a deployment: the smallest of each limit."""
    if len(configs) == 1:
        return configs[0]
    least: dict[str, Any] = {}
    for name in ("max_concurrent", "requests_per_minute", "tokens_per_minute"):
        given = [getattr(config, name) for config in configs]
        least[name] = min((n for n in given if n is not None), default=None)
    return replace(configs[0], **least)


def _client_key(config: EndpointConfig) -> tuple[Any, ...]:
    """Return what makes a client another one, at the same deployment."""
    return config.timeout, config.context, config.threads


def _limits(config: EndpointConfig | None, lease: Lease | None = None) -> RateLimits:
    """Return the rate limits of an endpoint; without a window it feels its way."""
    first = None if config is None or slots_of(config) else FIRST_FLIGHT
    rpm, tpm = limits_under(lease, config)
    return RateLimits(rpm, tpm, first, _PROBE_SECONDS)


def _is_overload(error: BaseException) -> bool:
    """Say whether an endpoint failed because it had too much to do."""
    if isinstance(error, (RateLimitError, EndpointConnectionError)):
        return True
    return isinstance(error, EndpointServerError) and error.status in _OVERLOADS
