"""`waits_for`: what the requests to an alias wait for: ``requests/min, 12 s``.

The first in line is asked, because nobody passes it: what holds it holds all. Nothing
is decided here and nothing is kept; it reads what the gates decide by.
"""

import math
from collections.abc import Sequence
from typing import Any

from inf_engine.resources.deployment import Deployment
from inf_engine.resources.job import Job, JobState

_AMOUNTS = ("requests", "tokens", "input tokens", "output tokens")
_PACED = 1.0  # seconds; who waits for less is not held up, only kept at a pace


def waits_for(jobs: Sequence[Any], now: float) -> str:
    """Return what the requests to one alias wait for, and how long; '' for nothing.

    Args:
        jobs: Requests to it, wherever they are.
        now: Seconds on the loop's clock.
    """
    waiting = [job for job in jobs if job.state is JobState.WAITING and job.lines]
    if waiting:
        first = min(waiting, key=lambda job: job.order)
        return min(_held_by(line, first, now) for line in first.lines)[1]
    timers = [job.timer for job in jobs if job.state is JobState.PAUSED]
    times = [timer.when() for timer in timers if timer is not None]
    return f"a retry, {_time(min(times) - now)}" if times else ""


def _held_by(deployment: Deployment, job: Job, now: float) -> tuple[float, str]:
    """Return when a deployment takes a job, inf if only an answer tells, and why."""
    slots = deployment.slots()
    if slots is not None and deployment.in_use >= slots:
        return math.inf, "a free slot"
    probe_at = deployment.breaker.ready_at(now)
    if probe_at > now:
        then = _time(probe_at - now) if probe_at < math.inf else "trying it"
        return probe_at, f"a dead endpoint, {then}"
    limit = _limited_by(deployment, job, now)
    if limit is None and deployment.ready_at(job, now) == math.inf:
        return math.inf, "the budget"
    return limit or (now, "")


def _limited_by(
    deployment: Deployment, job: Job, now: float
) -> tuple[float, str] | None:
    """Return until when a rate limit holds a job, and which; None if none does."""
    limits = deployment.limits
    paused_until = limits.paused_until
    if paused_until is not None:
        if paused_until <= now:
            return math.inf, "the end of a 429, trying one"
        return paused_until, f"the end of a 429, {_time(paused_until - now)}"
    read, written = deployment.estimate(job)
    amounts = (1, read + written, read, written)
    times = [(b.ready_at(amounts[which], now), which) for b, which in limits.buckets]
    at, which = max(times, default=(now, 0))
    if at <= now:
        return None
    if which == 0 and limits.requests_per_minute is None:
        return at, "the first answer"
    name = f"{_AMOUNTS[which]}/min"
    return at, name if at - now < _PACED else f"{name}, {_time(at - now)}"


def _time(seconds: float) -> str:
    """Return a time to wait, in whole seconds, rounded up: it is counted down."""
    whole = max(1, math.ceil(seconds))
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02} s"
