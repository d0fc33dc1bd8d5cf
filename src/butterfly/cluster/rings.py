"""`Rings`: several rings over the nodes, each of which holds the whole model.

Each ring has epochs, a pump, a scheduler and nodes of its own, so one that loses a node
recovers while the others serve. Nodes fill one ring after the other: the first one
serves early. A standby goes where a stage is missing. What a ring without nodes has
open runs again on another one from its tokens, as after any epoch.
"""

import itertools
from dataclasses import replace
from typing import Any

from butterfly.cluster.adapters import AdapterTable
from butterfly.cluster.epochs import Epochs
from butterfly.cluster.members import Member
from butterfly.cluster.membership import Membership
from butterfly.cluster.options import HeadOptions
from butterfly.cluster.planning import Planning
from butterfly.cluster.share import Share
from butterfly.engine.weights import Checkpoint
from butterfly.errors import ConfigurationError
from butterfly.scheduling import Sequence


class Rings:
    """The rings of a head.

    Args:
        options: What the head was told.
        checkpoint: The model.
        config: Its transformers configuration.
        adapters: The adapters that are loaded.

    Raises:
        ConfigurationError: If they cannot be served.

    Attributes:
        each: The rings.
        membership: The nodes of all.
    """

    def __init__(
        self,
        options: HeadOptions,
        checkpoint: Checkpoint,
        config: Any,
        adapters: AdapterTable,
    ) -> None:
        self.membership = Membership(options, self)
        numbers = itertools.count(1)
        self.each = [
            Epochs(
                *(own, config, adapters, Planning(own, checkpoint, config)),
                share=Share(own.stages, self.membership.dismiss),
                numbers=numbers,
                stranded=self._stranded,
            )
            for own in _options(options)
        ]

    def best(self, sequence: Sequence | None = None) -> Epochs:
        """Return the ring that is to serve a sequence.

        One that serves before one that does not, then that with the most free lanes or
        the shortest line, then that which holds more of the prompt.

        Args:
            sequence: What is to be served, None for any.
        """
        if len(self.each) == 1:
            return self.each[0]

        def worth(ring: Epochs) -> tuple[bool, bool, int, int]:
            line = ring.pump.scheduler
            free = line.lanes - len(line.running) - len(line.waiting)
            held = line.held(sequence) if sequence else 0
            return ring.is_serving.is_set(), bool(ring.members), free, held

        return max(self.each, key=worth)

    # -- what nodes do ----------------------------------------------------------

    def came(self, member: Member) -> None:
        """Give a node to a ring: to that whose plan names it, else where one lacks."""
        named = [ring for ring in self.each if member.name in ring.planning.names]
        short = [ring for ring in self.each if ring.share.is_short]
        least = min(self.each, key=lambda ring: len(ring.members) - ring.share.stages)
        self._give(member, [*named, *short, least][0])

    def heard(self, member: Member, message: dict[str, Any]) -> None:
        """Tell a node's ring what it said."""
        if (ring := self._of(member)) is not None:
            ring.heard(member, message)

    def left(self, member: Member, why: str) -> None:
        """A node is gone: a standby of another ring may take its place."""
        ring = self._of(member)
        assert ring is not None
        ring.share.remove(member)
        ring.left(member, why)
        if ring.share.is_short:
            spare = [one for r in self.each if r is not ring for one in _spare(r)]
            for standby in spare[:1]:
                other = self._of(standby)
                assert other is not None
                other.share.remove(standby)
                other.pump.stir()
                self._give(standby, ring)
        if not ring.members:
            self._stranded(ring)

    def _give(self, member: Member, ring: Epochs) -> None:
        ring.share.add(member)
        ring.came(member)

    def _of(self, member: Member) -> Epochs | None:
        """Return the ring that a node belongs to."""
        return next((ring for ring in self.each if member in ring.members), None)

    def _stranded(self, ring: Epochs) -> None:
        """Let other rings serve what a ring has open, if one can."""
        others = [other for other in self.each if other is not ring]
        if any(
            other.is_serving.is_set() or (other.members and not ring.members)
            for other in others
        ):
            ring.pump.pass_on()


def _options(options: HeadOptions) -> list[HeadOptions]:
    """Return what each ring is told.

    Raises:
        ConfigurationError: If a plan has another number of chains.
    """
    plan, count = options.plan, options.replicas
    if count < 1:
        raise ConfigurationError(f"{count} rings: there must be one at least.")
    if plan is None:
        return [options] * count
    if len(plan.chains) != count:
        raise ConfigurationError(
            f"the plan has {len(plan.chains)} chains, and {count} rings were asked "
            f"for: leave --replicas out, or plan again with --chains {count}."
        )
    sizes = sorted({len(chain.stages) for chain in plan.chains})
    if count > 1 and options.stages not in sizes:
        raise ConfigurationError(
            f"the chains of the plan have {sizes} stages, and {options.stages} were "
            "asked for: leave --stages out."
        )
    if count == 1:
        return [options]
    return [
        replace(
            options,
            plan=replace(plan, chains=(chain,)),
            stages=len(chain.stages),
            lanes=min(options.lanes, chain.lanes),
        )
        for chain in plan.chains
    ]


def _spare(ring: Epochs) -> list[Member]:
    """Return the standbys that a ring can do without, the last one first."""
    count = len(ring.members) - ring.share.stages
    return ring.standbys[::-1][: max(0, count)]
