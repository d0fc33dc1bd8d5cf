"""All costs of a problem for one number of lanes and one frame size, by kind of node.

Nodes that could change places without anybody noticing (same memory, same times, same
links to everybody else) are one *kind*. The exact solvers count kinds, not nodes:
24 nodes of 3 kinds have 585 subsets to look at instead of 16 million.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field

from butterfly.partitioning.chain import Chain, Stage
from butterfly.partitioning.cluster import Cluster, Node
from butterfly.partitioning.problem import Hop, Problem

SLACK = 1 + 1e-12


def kinds_of(cluster: Cluster) -> list[list[Node]]:
    """Return the nodes by kind, in the order of the cluster."""
    kinds: list[list[Node]] = []
    for node in cluster.nodes:
        for kind in kinds:
            if _twins(cluster, node, kind[0]):
                kind.append(node)
                break
        else:
            kinds.append([node])
    return kinds


def _twins(cluster: Cluster, one: Node, other: Node) -> bool:
    """Say whether two nodes may change places."""
    if (one.memory_bytes, one.layer, one.head) != (
        other.memory_bytes,
        other.layer,
        other.head,
    ) or cluster.head in (one.name, other.name):
        return False
    a, b, link = one.name, other.name, cluster.link
    hosts = [node.name for node in cluster.nodes] + [cluster.head or a]
    return link(a, b) == link(b, a) and all(
        link(a, host) == link(b, host) and link(host, a) == link(host, b)
        for host in hosts
        if host not in (a, b)
    )


@dataclass
class Table:
    """Costs of a problem, by kind of node.

    Args:
        problem: The problem.
        lanes: Sequences at once.
        rows: Rows of a frame.
        kinds: Nodes by kind.
    """

    problem: Problem
    lanes: int
    rows: int
    kinds: list[list[Node]]
    layer_s: list[float] = field(init=False)
    head_s: list[float] = field(init=False)
    costs: list[float] = field(init=False)
    sizes: list[float] = field(init=False)
    hops: list[list[Hop | None]] = field(init=False)
    closing: list[list[tuple[Hop, ...]]] = field(init=False)
    single: list[tuple[Hop, ...]] = field(init=False)

    def __post_init__(self) -> None:
        """Work out what does not depend on the search."""
        problem, rows = self.problem, self.rows
        firsts = [kind[0] for kind in self.kinds]
        self.layer_s = [problem.layer_seconds(node, rows) for node in firsts]
        self.head_s = [problem.head_seconds(node, rows) for node in firsts]
        self.costs = problem.model.prefix_costs()
        self.sizes = problem.model.prefix_bytes(self.lanes * problem.workload.lane)
        indices = range(len(firsts))
        pairs = [[self._pair(i, j) for j in indices] for i in indices]
        self.hops = [
            [pair and problem.best_hop(*pair, rows) for pair in line] for line in pairs
        ]
        self.closing = [
            [problem.closing(*pair, rows) if pair else () for pair in line]
            for line in pairs
        ]
        names = [node.name for node in firsts]
        self.single = [problem.closing(name, name, rows) for name in names]

    def _pair(self, i: int, j: int) -> tuple[str, str] | None:
        """Return two different nodes of two kinds."""
        if i != j:
            return self.kinds[i][0].name, self.kinds[j][0].name
        same = self.kinds[i]
        return (same[0].name, same[1].name) if len(same) > 1 else None

    @property
    def size(self) -> int:
        """The number of layers."""
        return len(self.costs) - 1

    @property
    def beats(self) -> float:
        """How many beats of its bottleneck a cycle has: lanes over rows."""
        return self.lanes / self.rows

    def back(self, last: int, first: int, alone: bool) -> tuple[Hop, ...]:
        """Return the way back; `alone`: from the only stage to itself."""
        return self.single[last] if alone else self.closing[last][first]

    def fits(self, kind: int, first: int, end: int, beat: float) -> bool:
        """Say whether a node may hold layers first to end - 1."""
        size = self.sizes[end] - self.sizes[first]
        size += self.problem.model.ends_bytes(first, end - 1)
        time = self.layer_s[kind] * (self.costs[end] - self.costs[first])
        if end == self.size:
            time += self.head_s[kind]
        room = self.kinds[kind][0].memory_bytes
        return size <= room * SLACK and time <= beat * SLACK

    def windows(self, kind: int, beat: float) -> list[int]:
        """Return for each end the least first layer that a node can hold, from 1 on."""
        model, least = self.problem.model, [0]
        room = self.kinds[kind][0].memory_bytes * SLACK
        for end in range(1, self.size + 1):
            last = end == self.size
            space = room - (model.head_bytes if last else 0.0)
            time = beat * SLACK - (self.head_s[kind] if last else 0.0)
            cost = self.costs[end] - time / self.layer_s[kind]
            by_size = bisect_left(self.sizes, self.sizes[end] - space)
            least.append(max(1, by_size, bisect_left(self.costs, cost - 1e-9)))
        return least

    def beat_values(self, least: float, most: float) -> list[float]:
        """Return every time that a slowest stage or link can have, within bounds."""
        total, values = self.size, set()
        for layer_s, head_s in zip(self.layer_s, self.head_s, strict=True):
            for end in range(1, total + 1):
                extra = head_s if end == total else 0.0
                for cost in self.costs[:end]:
                    values.add(layer_s * (self.costs[end] - cost) + extra)
        values |= {hop.busy_s for line in self.hops for hop in line if hop}
        ways = [*self.single, *(hops for line in self.closing for hops in line)]
        values |= {hop.busy_s for hops in ways for hop in hops}
        kept = sorted(v for v in values if least / SLACK <= v <= most)
        pairs = zip(kept, [*kept[1:], math.inf], strict=False)
        return [value for value, after in pairs if after > value * SLACK]

    def least_beat(self) -> float:
        """Return what no split can go below: all nodes equally busy."""
        work = self.costs[-1] + min(
            h / s for h, s in zip(self.head_s, self.layer_s, strict=True)
        )
        pairs = zip(self.kinds, self.layer_s, strict=True)
        return work / sum(len(kind) / layer_s for kind, layer_s in pairs)

    def chain(self, parts: list[tuple[int, int, int]]) -> Chain:
        """Return a chain of (kind, first, end) parts, with names and codecs."""
        left = [list(kind) for kind in self.kinds]
        stages = [
            Stage(left[kind].pop(0).name, first, end - 1) for kind, first, end in parts
        ]
        hops = [self.hops[a[0]][b[0]] for a, b in zip(parts, parts[1:], strict=False)]
        codecs = tuple(hop.codec for hop in hops if hop)
        return Chain(tuple(stages), codecs, self.lanes, self.rows)
