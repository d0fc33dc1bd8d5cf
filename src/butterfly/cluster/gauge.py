"""`Gauge`: what the nodes that are here can do, measured once each.

Nodes measure their layers at the same time, as they will compute; links are measured
one after the other, since two at once would share a wire. What is known of a node stays
known while it is here, so that the survivors of a death are planned for at once.
"""

import asyncio
import secrets
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Protocol

from butterfly.cluster.joining import joined, store_of
from butterfly.cluster.measuring import linked
from butterfly.cluster.members import Member
from butterfly.cluster.options import HeadOptions
from butterfly.errors import ClusterError, LinkError, PlanError
from butterfly.partitioning import Cluster, Link, Node

_PATIENCE = 120.0  # seconds for a measurement
HEAD = "head"


class Head(Protocol):
    """What is needed of a head."""

    store: Any

    @property
    def epoch(self) -> int:
        """The number of the present epoch."""
        ...

    @property
    def members(self) -> list[Member]:
        """The nodes that are here."""
        ...

    async def changed(self) -> None:
        """Wait until something happened."""
        ...


class Gauge:
    """Measures nodes and links.

    Args:
        options: What the head was told.
    """

    def __init__(self, options: HeadOptions) -> None:
        self._options = options
        self._nodes: dict[Member, Node] = {}
        self._links: dict[tuple[Member | None, Member], Link] = {}

    async def cluster(self, named: Mapping[str, Member], head: Head) -> Cluster:
        """Return the cluster of some nodes; what is not known yet is measured.

        Args:
            named: The nodes, by names that differ.
            head: Who knows whether they are still here.

        Raises:
            ClusterError: If one left meanwhile.
            PlanError: If one could not measure.
        """
        here = set(head.members)
        self._nodes = {m: node for m, node in self._nodes.items() if m in here}
        pairs = self._links.items()
        self._links = {p: link for p, link in pairs if here.issuperset({*p} - {None})}
        members = list(named.values())
        await self._measure_nodes(members, head)
        await self._measure_links(members, head)
        names = {member: name for name, member in named.items()} | {None: HEAD}
        links = {(names[a], names[b]): self._links[a, b] for a, b in _pairs(members)}
        return Cluster(self._shared(named), links, None, HEAD)

    def _shared(self, named: Mapping[str, Member]) -> tuple[Node, ...]:
        """Return the nodes; those on one machine have a part of its memory each."""
        hosts = Counter(str(member.about.get("host")) for member in named.values())
        found = []
        for name, member in named.items():
            node = self._nodes[member]
            part = node.memory_bytes / hosts[str(member.about.get("host"))]
            found.append(replace(node, name=name, memory_bytes=part))
        return tuple(found)

    async def _measure_nodes(self, members: Sequence[Member], head: Head) -> None:
        """Let nodes measure themselves, all at once."""
        o = self._options
        new = [member for member in members if member not in self._nodes]
        asked = {"do": "measure", "key": "node", "model": o.model, "dtype": o.dtype}
        for member in new:
            member.answers.pop("node", None)
            member.connection.send(asked)
        for member in new:
            told = await _answer(member, "node", head)
            found = Cluster.from_json({"nodes": [told["node"]]})
            self._nodes[member] = found.nodes[0]

    async def _measure_links(self, members: Sequence[Member], head: Head) -> None:
        """Measure the links that are not known, one after the other."""
        for one, other in _pairs(members):
            if (one, other) in self._links:
                continue
            ring = secrets.token_hex(8)
            ask = {"do": "measure", "key": ring, "ring": ring}
            ask["store_port"] = head.store.port
            other.connection.send({**ask, "rank": 1})
            if one is None:
                link = await self._own(ring, head)
            else:
                one.connection.send({**ask, "rank": 0})
                told = await _answer(one, ring, head)
                link = Link(**told["link"])
            await _answer(other, ring, head)
            self._links[one, other] = link

    async def _own(self, ring: str, head: Head) -> Link:
        """Measure a link of the head itself."""
        address, port = self._options.address, head.store.port

        def join(over: threading.Event) -> Link:
            return linked(store_of(address, port), ring, 0, address, over)

        work = joined(join, asyncio.Event())
        try:
            return await asyncio.wait_for(work, _PATIENCE)
        except (LinkError, TimeoutError) as exc:
            raise PlanError(f"the head could not measure a link: {exc}") from exc


def _pairs(members: Sequence[Member]) -> list[tuple[Member | None, Member]]:
    """Return the pairs of nodes, in the order they came, and of the head with each."""
    return [*combinations(members, 2), *[(None, member) for member in members]]


async def _answer(member: Member, key: str, head: Head) -> dict[str, Any]:
    """Wait for what a node measured."""
    try:
        async with asyncio.timeout(_PATIENCE):
            while key not in member.answers:
                if member not in head.members:
                    raise ClusterError(f"{member.name} left while it was measured.")
                await head.changed()
    except TimeoutError as exc:
        raise PlanError(
            f"{member.name} measured nothing within {_PATIENCE:g} s."
        ) from exc
    told = member.answers.pop(key)
    if "error" in told:
        raise PlanError(f"{member.name} could not measure: {told['error']}")
    return told
