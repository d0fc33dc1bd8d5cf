"""`Routes`: where each alias leads, and where a request goes from there.

An alias names deployments; aliases that describe the same one share it, with its limits
and its line. When an alias has failed a request for good, its fallbacks are tried in
order, then theirs, each alias once. One whose deployments are all down is passed over
as long as another is up; that does not count as a failure.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inf_engine.resources.config import EndpointConfig
from inf_engine.resources.deployment import Deployment, merged
from inf_engine.resources.job import Job

_RETRIES = 2

Make = Callable[[str, EndpointConfig | None, Any], Deployment]


@dataclass(frozen=True, slots=True)
class Route:
    """Where an alias leads.

    Args:
        alias: The alias.
        deployments: What answers it.
        configs: Each of these as the alias describes it, None for a client.
        retries: Tries after the first.
        fallbacks: The aliases to try when it has failed.
        hedge: The share of requests that may be sent twice.
    """

    alias: str
    deployments: tuple[Deployment, ...]
    configs: tuple[EndpointConfig | None, ...] = (None,)
    retries: int = _RETRIES
    fallbacks: tuple[str, ...] = ()
    hedge: float = 0.0

    def config_of(self, deployment: Deployment) -> EndpointConfig | None:
        """Return a deployment of it as the alias describes it."""
        return self.configs[self.deployments.index(deployment)]

    def is_down(self, now: float) -> bool:
        """Say whether none of its deployments is up."""
        return all(deployment.is_down(now) for deployment in self.deployments)


class Routes:
    """The routes of all aliases.

    Args:
        bindings: The config or the client of each alias.
        make: Makes a deployment.

    Attributes:
        deployments: All of them, in order.
    """

    def __init__(self, bindings: Mapping[str, Any], make: Make) -> None:
        self._routes: dict[str, Route] = {}
        known = _shared(bindings, make)
        self.deployments = list(known.values())
        for alias, (config, client) in bindings.items():
            if config is None:
                made = make(alias, None, client)
                self.deployments.append(made)
                self._routes[alias] = Route(alias, (made,))
            else:
                self._routes[alias] = Route(
                    alias,
                    tuple(known[each.deployment] for each in config.each),
                    config.each,
                    config.retries,
                    config.fallbacks,
                    config.hedge,
                )

    def __iter__(self) -> Iterator[str]:
        return iter(self._routes)

    def __getitem__(self, alias: str) -> Route:
        return self._routes[alias]

    def __contains__(self, alias: str) -> bool:
        return alias in self._routes

    def reached(self, alias: str) -> list[Route]:
        """Return all that a request to an alias may come to, its own route first."""
        found: dict[str, Route] = {}
        left = [alias]
        while left:
            here = left.pop(0)
            if here not in found:
                found[here] = self._routes[here]
                left += found[here].fallbacks
        return list(found.values())

    def next_of(self, job: Job, now: float) -> Route:
        """Return where a job goes now: its alias, or if that is down one that is up."""
        route = self._routes[job.alias]
        if not (route.fallbacks or job.ahead) or not route.is_down(now):
            return route
        left = self._left(job)
        for alias in left:
            if not self._routes[alias].is_down(now):
                others = [job.alias, *left]
                others.remove(alias)
                job.alias, job.ahead, job.failed_at = alias, tuple(others), ()
                return self._routes[alias]
        return route

    def fall_back(self, job: Job) -> bool:
        """Send a job on to an alias that has not failed it, if there is one."""
        left = self._left(job)
        job.passed = (*job.passed, job.alias)
        if not left:
            return False
        job.alias, *ahead = left
        job.ahead = tuple(ahead)
        job.failures, job.first_sent, job.failed_at = 0, None, ()
        return True

    def may_leave(self, job: Job, now: float) -> bool:
        """Say whether a job that waits for what is down may go somewhere else."""
        route = self._routes[job.alias]
        return bool(route.fallbacks or job.ahead) and route.is_down(now)

    def _left(self, job: Job) -> list[str]:
        """Return the aliases that a job may still be sent to, in order."""
        fallbacks = self._routes[job.alias].fallbacks
        found = dict.fromkeys([*job.ahead, *fallbacks])
        return [a for a in found if a not in job.passed and a != job.alias]


def lines_of(route: Route, job: Job) -> tuple[Deployment, ...]:
    """Return the deployments to wait for: those that have not failed a job, if any."""
    if not job.failed_at:
        return route.deployments
    others = tuple(d for d in route.deployments if d not in job.failed_at)
    if not others:
        job.failed_at = ()
    return others or route.deployments


def _shared(bindings: Mapping[str, Any], make: Make) -> dict[Any, Deployment]:
    """Make the deployments that configs describe, each once."""
    named: dict[Any, tuple[str, list[EndpointConfig]]] = {}
    for alias, (config, _) in bindings.items():
        for each in () if config is None else config.each:
            named.setdefault(each.deployment, (alias, []))[1].append(each)
    return {
        key: make(alias, merged(configs), None)
        for key, (alias, configs) in named.items()
    }
