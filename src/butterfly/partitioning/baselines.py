"""The rules that others place layers by, to be compared with.

They price neither the head nor the links, and know the nodes' memory at most. Each
returns stages; whether these fit is for `Problem.verify` to say.
"""

from collections.abc import Callable, Sequence

from butterfly.partitioning.chain import Stage
from butterfly.partitioning.cluster import Node
from butterfly.partitioning.problem import Problem

Rule = Callable[[Problem], list[tuple[Stage, ...]]]


def even(problem: Problem) -> list[tuple[Stage, ...]]:
    """Split by layer count, as transformers' pipeline parallelism does."""
    nodes = problem.cluster.nodes[: problem.model.size]
    return [staged(nodes, shares([1.0] * len(nodes), problem.model.size))]


def proportional(problem: Problem) -> list[tuple[Stage, ...]]:
    """Split by memory, the largest node first, as exo does."""
    nodes = sorted(problem.cluster.nodes, key=lambda node: -node.memory_bytes)
    nodes = nodes[: problem.model.size]
    sizes = [node.memory_bytes for node in nodes]
    return [staged(nodes, shares(sizes, problem.model.size))]


def capacity_first(problem: Problem) -> list[tuple[Stage, ...]]:
    """Fill chains with the largest nodes, then level by speed, as Parallax does.

    Nodes are taken by capacity until they can hold the model with embedding and head,
    and the layers are poured over them in proportion to their speed, none above its
    capacity. What is left over begins the next chain; nodes that cannot make up a
    chain stay idle. Weights may take 65 % of the memory, as there; only if that is too
    little for a single chain, all but one lane.
    """
    lane = problem.model.prefix_bytes(float(problem.workload.lane))[-1]
    weights = problem.model.prefix_bytes(0.0)[-1]
    for layers, share in ((weights, 0.65), (lane, 1.0)):
        size = layers / problem.model.size
        rooms = {n.name: share * n.memory_bytes for n in problem.cluster.nodes}
        if chains := _filled(problem, rooms, size):
            return chains
    return even(problem)


def _filled(
    problem: Problem, rooms: dict[str, float], size: float
) -> list[tuple[Stage, ...]]:
    """Return chains of nodes with some room for layers of some size."""
    nodes = sorted(problem.cluster.nodes, key=lambda node: -rooms[node.name])
    chains, taken = [], list[Node]()
    for node in nodes:
        taken.append(node)
        caps = _capacities(problem, [rooms[n.name] for n in taken], size)
        if sum(caps) >= problem.model.size:
            chains.append(_poured(problem, taken, caps))
            taken = []
    return chains


RULES: dict[str, Rule] = {
    "even": even,
    "memory-proportional": proportional,
    "capacity-first": capacity_first,
}


def _capacities(problem: Problem, rooms: list[float], size: float) -> list[int]:
    """Return the layers that a chain's nodes hold: its ends have embedding and head."""
    final, ends = problem.model.size - 1, problem.model.ends_bytes
    extra = [0.0] * len(rooms)
    if len(rooms) == 1:
        extra = [ends(0, final)]
    else:
        extra[0], extra[-1] = ends(0, 0), ends(final, final)
    pairs = zip(rooms, extra, strict=True)
    return [max(0, int((room - taken) / size)) for room, taken in pairs]


def _poured(problem: Problem, nodes: list[Node], caps: list[int]) -> tuple[Stage, ...]:
    """Return the layers poured over nodes up to one level of time."""
    speeds = [1 / problem.layer_seconds(node, 1) for node in nodes]
    low, high = 0.0, float(problem.model.size) / min(speeds)
    for _ in range(60):
        level = (low + high) / 2
        pairs = zip(speeds, caps, strict=True)
        enough = sum(min(v * level, c) for v, c in pairs) >= problem.model.size
        low, high = (low, level) if enough else (level, high)
    parts = [min(v * high, c) for v, c in zip(speeds, caps, strict=True)]
    return staged(nodes, shares(parts, problem.model.size, caps))


def shares(
    weights: Sequence[float], total: int, caps: Sequence[int] | None = None
) -> list[int]:
    """Return whole shares of a total by weight: the largest remainders are rounded up.

    Args:
        weights: What the shares are proportional to.
        total: What they add up to.
        caps: What each may not exceed.
    """
    whole = sum(weights)
    exact = [weight / whole * total for weight in weights]
    limits = caps or [total] * len(weights)
    parts = [min(int(p + 1e-9), cap) for p, cap in zip(exact, limits, strict=True)]
    order = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    while sum(parts) < total:
        before = sum(parts)
        for i in order:
            if sum(parts) < total and parts[i] < limits[i]:
                parts[i] += 1
        if sum(parts) == before:
            parts[order[0]] += total - before
    return parts


def staged(nodes: Sequence[Node], sizes: Sequence[int]) -> tuple[Stage, ...]:
    """Return stages of given sizes; nodes without layers are left out."""
    stages, first = [], 0
    for node, size in zip(nodes, sizes, strict=True):
        if size:
            stages.append(Stage(node.name, first, first + size - 1))
            first += size
    return tuple(stages)
