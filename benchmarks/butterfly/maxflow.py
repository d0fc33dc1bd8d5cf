"""Placement by maximum flow, as published for datacentres (arXiv 2406.01566).

Every node holds a range of layers, a request may take any way on which the ranges
follow each other, and the placement is judged by the maximum flow of tokens from
source to sink: each node lets through what it does of them a second with frames of
some rows, each link what its bandwidth carries. The published planner proves the
optimum with a solver; here a hill climb over ranges stands in for it. The ways of the
flow are then chains that share nodes, which the simulator serves.
"""

import random
from collections import deque
from dataclasses import dataclass, field, replace

from butterfly.errors import InfeasibleError
from butterfly.partitioning import Chain, Problem, Stage

SOURCE, SINK = "source", "sink"
Range = tuple[int, int]
Place = dict[str, Range]


@dataclass
class Flow:
    """A network with capacities, and the maximum flow through it (Dinic).

    Args:
        room: What each edge can still take.
    """

    room: dict[str, dict[str, float]] = field(default_factory=dict)
    given: dict[tuple[str, str], float] = field(default_factory=dict)

    def add(self, one: str, other: str, capacity: float) -> None:
        """Add an edge."""
        self.room.setdefault(one, {})[other] = capacity
        self.room.setdefault(other, {}).setdefault(one, 0.0)
        self.given[one, other] = capacity

    def most(self) -> float:
        """Return the maximum flow."""
        total = 0.0
        while levels := self._levels():
            ways = {name: list(edges) for name, edges in self.room.items()}
            while pushed := self._push(SOURCE, float("inf"), levels, ways):
                total += pushed
        return total

    def _levels(self) -> dict[str, int]:
        """Return the distances from the source, nothing if the sink is cut off."""
        levels, queue = {SOURCE: 0}, deque([SOURCE])
        while queue:
            name = queue.popleft()
            for other, room in self.room.get(name, {}).items():
                if room > 1e-9 and other not in levels:
                    levels[other] = levels[name] + 1
                    queue.append(other)
        return levels if SINK in levels else {}

    def _push(
        self,
        name: str,
        most: float,
        levels: dict[str, int],
        ways: dict[str, list[str]],
    ) -> float:
        """Push flow on along the levels."""
        if name == SINK:
            return most
        while ways[name]:
            other = ways[name][-1]
            room = self.room[name][other]
            if room > 1e-9 and levels.get(other) == levels[name] + 1:
                pushed = self._push(other, min(most, room), levels, ways)
                if pushed:
                    self.room[name][other] -= pushed
                    self.room[other][name] += pushed
                    return pushed
            ways[name].pop()
        return 0.0

    def ways(self) -> list[tuple[float, list[str]]]:
        """Return the flow as ways from source to sink, the largest first."""
        flows = {e: c - self.room[e[0]][e[1]] for e, c in self.given.items()}
        found = []
        while True:
            name, way, least = SOURCE, [SOURCE], float("inf")
            while name != SINK:
                out = [(f, b) for (a, b), f in flows.items() if a == name and f > 1e-6]
                if not out:
                    return sorted(found, reverse=True)
                least, name = min(least, max(out)[0]), max(out)[1]
                way.append(name)
            for edge in zip(way, way[1:], strict=False):
                flows[edge] -= least
            found.append((least, way))


def network(problem: Problem, place: Place, rows: int) -> Flow:
    """Return the network of a placement."""
    flow, size = Flow(), problem.model.size
    for name, (first, end) in place.items():
        node = problem.cluster.node(name)
        seconds = (end - first) * problem.layer_seconds(node, rows)
        if end == size:
            seconds += problem.head_seconds(node, rows)
            flow.add(f"{name} out", SINK, 1e12)
        if first == 0:
            flow.add(SOURCE, f"{name} in", 1e12)
        flow.add(f"{name} in", f"{name} out", rows / seconds)
        for other, (begin, until) in place.items():
            if begin <= end < until and other != name:
                hop = problem.best_hop(name, other, rows)
                flow.add(f"{name} out", f"{other} in", rows / hop.busy_s)
    return flow


def max_layers(problem: Problem, share: float = 0.6) -> dict[str, int]:
    """Return how many layers each node takes if weights may have a share of memory."""
    each = problem.model.prefix_bytes(0.0)[-1] / problem.model.size
    ends = problem.model.embedding_bytes + problem.model.head_bytes
    return {
        node.name: max(1, int((node.memory_bytes * share - ends / 2) / each))
        for node in problem.cluster.nodes
    }


def climbed(
    problem: Problem, start: Place, rows: int, steps: int, seed: int = 0
) -> tuple[Place, float]:
    """Return the placement with the most flow that a hill climb finds.

    Args:
        problem: The machines and the model.
        start: Where it begins.
        rows: Rows of a frame.
        steps: Changes to try.
        seed: Of the changes.
    """
    dice, size, caps = random.Random(seed), problem.model.size, max_layers(problem)
    place, best = start, network(problem, start, rows).most()
    for _ in range(steps):
        changed = dict(place)
        for name in dice.sample(list(caps), dice.choice((1, 1, 2))):
            count = dice.randint(1, caps[name])
            edges = [e for r in place.values() for e in (r[0] - count, r[0], r[1])]
            begin = dice.choice([0, size - count, dice.choice(edges)])
            begin = min(max(begin, 0), size - count)
            changed[name] = (begin, begin + count)
        value = network(problem, changed, rows).most()
        if value >= best:
            place, best = changed, value
    return place, best


def place_of(chains: list[Chain]) -> Place:
    """Return the ranges of chains that share no node."""
    return {s.node: (s.first, s.last + 1) for chain in chains for s in chain.stages}


def chains_of(problem: Problem, place: Place, rows: int, least: float) -> list[Chain]:
    """Return the ways of the maximum flow as chains, lanes shared out by flow.

    Raises:
        InfeasibleError: Not even a lane each fits.
    """
    flow = network(problem, place, rows)
    total = flow.most()
    ways = [(part, way) for part, way in flow.ways() if part > least * total]
    kept = sum(part for part, _ in ways)
    stages = [_stages(place, way) for _, way in ways]
    lanes = float(problem.workload.requests)
    while True:
        shares = [max(1, round(lanes * part / kept)) for part, _ in ways]
        try:
            problem.verify_all(list(zip(stages, shares, strict=True)))
            break
        except InfeasibleError:
            if lanes < 1:
                raise
            lanes *= 0.9
    return [
        Chain(s, (problem.codecs[0].name,) * (len(s) - 1), n, min(n, rows))
        for s, n in zip(stages, shares, strict=True)
    ]


def _stages(place: Place, way: list[str]) -> tuple[Stage, ...]:
    """Return the stages of a way; a node begins where the one before has ended."""
    names = [name.removesuffix(" in") for name in way if name.endswith(" in")]
    stages, first = [], 0
    for name in names:
        end = place[name][1]
        stages.append(Stage(name, first, end - 1))
        first = end
    return tuple(stages)


def with_frames(problem: Problem, chains: list[Chain], rows: int) -> list[Chain]:
    """Return chains with another frame size, prompts in proportion."""
    piece = max(8, int(1.25 * rows * problem.workload.prompt_share))
    return [
        replace(chain, micro_batch=min(chain.lanes, rows), chunk=piece)
        for chain in chains
    ]
