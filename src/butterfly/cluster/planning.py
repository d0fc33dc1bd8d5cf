"""`Planning`: who is which stage in the next epoch.

A plan of the user's holds as long as all of its nodes are here. Otherwise the first
nodes are taken, as many as there are to be stages, and a rule splits the layers:

- ``balanced``: by cost, the head priced in layers by what it multiplies. The default:
  it needs no measuring, and is right where nodes and links are alike.
- ``even``: by number.
- ``measured``: nodes and links are measured, and the planner decides on order, ranges
  and frames; some may stay idle. What requests are like is not known there, so prompts
  travel in parts of the usual size.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from butterfly.cluster.gauge import Gauge, Head
from butterfly.cluster.losses import must_keep
from butterfly.cluster.members import Member
from butterfly.cluster.options import SPLITS, HeadOptions
from butterfly.cluster.profile import shape_of
from butterfly.cluster.roles import chain_of, head_layers, part
from butterfly.communication.codecs import codec_number
from butterfly.engine.weights import Checkpoint
from butterfly.errors import ClusterError, ConfigurationError, PlanError
from butterfly.partitioning import Chain, Cluster, Workload, partition

_log = logging.getLogger("butterfly.planning")
_TRIES = 30  # simulations: a second for a handful of nodes


@dataclass(frozen=True, slots=True)
class Split:
    """Who is which stage.

    Args:
        members: The nodes, in the order of the ring.
        chain: Their layers, and how they are used.
        rule: What decided: ``plan``, or one of `SPLITS`.
        considered: The nodes that were looked at; some may stay idle.
    """

    members: tuple[Member, ...]
    chain: Chain
    rule: str
    considered: tuple[Member, ...]


class Planning:
    """Decides who is which stage.

    Args:
        options: What the head was told.
        checkpoint: The model.
        config: Its transformers configuration.

    Attributes:
        current: What was decided for the present epoch, None before the first.

    Raises:
        ConfigurationError: If the plan cannot be served, is for another model, or a
            codec changes too much.
    """

    def __init__(
        self, options: HeadOptions, checkpoint: Checkpoint, config: Any
    ) -> None:
        self.current: Split | None = None
        self._options, self._checkpoint, self._config = options, checkpoint, config
        self._depth = int(config.num_hidden_layers)
        self._gauge = Gauge(options)
        self._measured: tuple[Cluster, Chain] | None = None
        self._chain = _planned(options, self._depth)
        must_keep(options, checkpoint, self._chain)

    def lacks(self, members: Sequence[Member]) -> str:
        """Say which nodes the first epoch waits for; empty if none.

        Args:
            members: The nodes that are here.
        """
        here = [member.name for member in members]
        if self._chain is not None:
            names = [name for name in self._chain.nodes if name not in here]
            known = ", ".join(here) or "none"
            said = f"the plan names {', '.join(names)}, and there is {known}"
            return said if names else ""
        count = self._options.stages
        return "" if len(here) >= count else f"{len(here)} of {count} nodes are here"

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes that a plan names; none without one."""
        return () if self._chain is None else self._chain.nodes

    def can_begin(self, head: Head) -> bool:
        """Say whether there are nodes for an epoch: all at first, later any.

        Args:
            head: Who knows the nodes, and how many epochs there were.
        """
        if head.epoch:
            return bool(head.members)
        if lacks := self.lacks(head.members):
            is_full = len(head.members) >= self._options.stages
            _log.log(logging.WARNING if is_full else logging.INFO, "%s", lacks)
        return not lacks

    def is_outdated(self, members: Sequence[Member]) -> bool:
        """Say whether an epoch with the nodes that are here would have more of them.

        Args:
            members: The nodes.
        """
        now = self.current
        if now is None:
            return True
        if self._chain is not None and not self.lacks(members):
            return now.rule != "plan"
        known = [member for member in now.considered if member in members]
        return len(known) < min(self._options.stages, len(members))

    async def split(self, head: Head) -> Split:
        """Return who is which stage with the nodes that are here.

        Args:
            head: Who knows them.

        Raises:
            ClusterError: If one left while it was measured.
        """
        members = tuple(head.members)
        if self._chain is not None and not self.lacks(members):
            by_name = {member.name: member for member in reversed(members)}
            found = self._split(by_name, self._chain, "plan")
        else:
            found = await self._by_rule(_named(members[: self._options.stages]), head)
        gone = [member.name for member in found.members if member not in head.members]
        if gone:
            raise ClusterError(f"{', '.join(gone)} left while layers were shared out.")
        return found

    async def _by_rule(self, named: dict[str, Member], head: Head) -> Split:
        """Split by a rule; where the planner finds nothing, by cost."""
        o, rule = self._options, self._options.split
        if rule == "measured":
            try:
                chain = await self._busiest(await self._gauge.cluster(named, head))
                return self._split(named, chain, rule)
            except PlanError as exc:
                _log.warning("layers are split by cost, since %s", exc)
                rule = "balanced"
        price = head_layers(self._config) if rule == "balanced" else 0.0
        return self._split(named, chain_of(o, list(named), self._depth, price), rule)

    def _split(self, named: dict[str, Member], chain: Chain, rule: str) -> Split:
        members = tuple([named[name] for name in chain.nodes])
        return Split(members, chain, rule, tuple(named.values()))

    async def _busiest(self, cluster: Cluster) -> Chain:
        """Return the chain that serves most; the last one, if nothing changed."""
        if self._measured is None or self._measured[0] != cluster:
            chain = await asyncio.to_thread(self._solved, cluster)
            self._measured = cluster, chain
        return self._measured[1]

    def _solved(self, cluster: Cluster) -> Chain:
        o = self._options
        plan = partition(
            cluster,
            shape_of(self._checkpoint, dtype=getattr(torch, o.dtype)),
            Workload(o.lanes, lane_tokens=o.positions),
            codecs=(o.codec,),
            tries=_TRIES,
            most_chains=1,
        )
        _log.info("measured: %s", plan)
        chain = plan.chains[0]
        return replace(chain, chunk=part(chain.frames))


def _planned(options: HeadOptions, depth: int) -> Chain | None:
    """Return the chain of a plan, after a look at what was given.

    Raises:
        ConfigurationError: If it cannot be served.
    """
    o, plan = options, options.plan
    if o.split not in SPLITS:
        raise ConfigurationError(
            f"no split {o.split!r}: there are {', '.join(SPLITS)}."
        )
    if o.stages > depth:
        raise ConfigurationError(
            f"the model has {depth} layers: {o.stages} --stages are too many."
        )
    codec_number(o.codec)
    if plan is None:
        return None
    plan.must_fit(depth)
    if len(plan.chains) != 1:
        raise ConfigurationError(
            f"the plan has {len(plan.chains)} chains and a head serves one: plan again "
            "with --chains 1."
        )
    chain = plan.chains[0]
    for codec in chain.codecs:
        codec_number(codec)
    if o.stages != len(chain.stages):
        raise ConfigurationError(
            f"the plan has {len(chain.stages)} stages, and {o.stages} were asked for: "
            "leave --stages out."
        )
    lanes = min(o.lanes, chain.lanes)
    return replace(chain, lanes=lanes, in_flight=chain.frames)


def _named(members: Sequence[Member]) -> dict[str, Member]:
    """Return nodes by name; one whose name is taken gets a number."""
    found: dict[str, Member] = {}
    for member in members:
        name, number = member.name, 2
        while name in found:
            name, number = f"{member.name}-{number}", number + 1
        found[name] = member
    return found
