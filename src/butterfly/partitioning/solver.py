"""The best single chain: the exact program over all lanes and frame sizes.

Lanes and rows are powers of two (and the number of requests); for each pair the
placement is exact. A pair whose bound does not beat the best so far is not looked at,
so the pairs with the best bounds come first. Rows between two powers (16 lanes on three
equal nodes want 6) are left to `row_options` and the local search.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from butterfly.errors import InfeasibleError, PlanError
from butterfly.partitioning.chain import Chain, Stage
from butterfly.partitioning.cluster import Node
from butterfly.partitioning.exact import (
    FixedRoute,
    FreeRoute,
    Rings,
    Route,
    least_cycle,
    least_latency,
)
from butterfly.partitioning.problem import Problem, gigabytes
from butterfly.partitioning.table import Table, kinds_of

MOST_STATES = 5000


def halves(most: int) -> list[int]:
    """Return a number, the powers of two below it, largest first."""
    return [most, *(2**i for i in reversed(range((most - 1).bit_length())))]


def route_of(problem: Problem, given_order: bool) -> tuple[list[list[Node]], Route]:
    """Return the kinds of nodes and the route over them.

    Raises:
        PlanError: There are too many kinds of nodes for an exact order.
    """
    if given_order:
        kinds = [[node] for node in problem.cluster.nodes]
        return kinds, FixedRoute(len(kinds))
    kinds = kinds_of(problem.cluster)
    route = FreeRoute([len(kind) for kind in kinds])
    if route.states > MOST_STATES:
        raise PlanError(
            f"{len(problem.cluster.nodes)} nodes of {len(kinds)} kinds have "
            f"{route.states} subsets, the exact order is found up to {MOST_STATES}: "
            "give the order, or plan several chains"
        )
    return kinds, route


def fastest_chain(problem: Problem, *, given_order: bool = False) -> Chain:
    """Return the chain on which one sequence alone is fastest.

    Args:
        problem: The problem.
        given_order: Keep the order of the nodes; some may be left out.

    Raises:
        InfeasibleError: The model does not fit.
        PlanError: There are too many kinds of nodes.
    """
    kinds, route = route_of(problem, given_order)
    table = Table(problem, 1, 1, kinds)
    found = least_latency(Rings(table, route))
    if found is None:
        raise why_infeasible(problem, Rings(table, route))
    return retuned(problem, table.chain(found.parts))


def busiest_chain(
    problem: Problem, *, given_order: bool = False, least: int = 1
) -> Chain:
    """Return the chain that gives the most tokens a second, by Little's law.

    Args:
        problem: The problem.
        given_order: Keep the order of the nodes; some may be left out.
        least: The least number of layers of a stage.

    Raises:
        InfeasibleError: The model does not fit.
        PlanError: There are too many kinds of nodes.
    """
    kinds, route = route_of(problem, given_order)
    best, rate = None, 0.0
    if not given_order:
        best = _in_order_of_speed(problem, least)
        rate = problem.tokens_per_s(best) if best else 0.0
    for bound, table in _tables(problem, kinds):
        if bound <= rate * (1 + 1e-9):
            break
        below = table.lanes / rate if rate else math.inf
        found = least_cycle(Rings(table, route, least), below)
        if found:
            best = retuned(problem, table.chain(found.parts))
            rate = problem.tokens_per_s(best)
    if best is None:
        table = Table(problem, 1, 1, kinds)
        raise why_infeasible(problem, Rings(table, route, least))
    return best


def _in_order_of_speed(problem: Problem, least: int) -> Chain | None:
    """Return the best chain with the slow nodes first: quick, and something to beat."""

    def key(node: Node) -> tuple[float, float, str]:
        return -problem.layer_seconds(node, 8), -node.memory_bytes, node.name

    nodes = sorted(problem.cluster.nodes, key=key)
    sorted_nodes = replace(problem.cluster, nodes=tuple(nodes))
    try:
        ordered = replace(problem, cluster=sorted_nodes)
        return busiest_chain(ordered, given_order=True, least=least)
    except InfeasibleError:
        return None


def _tables(problem: Problem, kinds: list[list[Node]]) -> list[tuple[float, Table]]:
    """Return bound and table of each pair of lanes and rows, the best bound first."""
    tables = []
    for lanes in halves(problem.workload.requests):
        for rows in halves(lanes):
            table = Table(problem, lanes, rows, kinds)
            alone = min(
                layer * table.costs[-1] + head
                for layer, head in zip(table.layer_s, table.head_s, strict=True)
            )
            bound = min(lanes / alone, rows / table.least_beat())
            tables.append((bound, table))
    return sorted(tables, key=lambda pair: (-pair[0], -pair[1].lanes))


def chain_of(
    problem: Problem, stages: Sequence[Stage], *, requests: int | None = None
) -> Chain:
    """Return the best use of some stages: codecs, lanes, rows of a frame.

    Args:
        problem: The problem.
        stages: The stages, in order.
        requests: The part of the requests that is served here; None: all.

    Raises:
        InfeasibleError: A node has not the memory.
    """
    problem.verify(stages)
    most = min(problem.max_lanes(stages), requests or problem.workload.requests)
    chains = (used(problem, stages, most, rows) for rows in row_options(stages, most))
    return max(chains, key=problem.tokens_per_s)


def prompt_piece(problem: Problem, rows: int) -> int:
    """Return the prompt tokens that keep pace with some decoding rows, and a few."""
    return max(8, math.ceil(1.25 * rows * problem.workload.prompt_share))


def row_options(stages: Sequence[Stage], lanes: int) -> list[int]:
    """Return frame sizes worth a look: powers of two, and lanes over stages."""
    shares = {
        -(-lanes // (len(stages) + extra))
        for extra in (-1, 0, 1, 2)
        if len(stages) + extra > 0
    }
    return sorted({*halves(lanes), *shares})


def used(problem: Problem, stages: Iterable[Stage], lanes: int, rows: int) -> Chain:
    """Return a chain with the fastest codec on each hop."""
    stages = tuple(stages)
    names = [stage.node for stage in stages]
    pairs = zip(names, names[1:], strict=False)
    codecs = tuple(problem.best_hop(a, b, rows).codec for a, b in pairs)
    return Chain(stages, codecs, lanes, rows, prompt_piece(problem, rows))


def retuned(problem: Problem, chain: Chain) -> Chain:
    """Return a chain with the best lanes, rows and codecs for its stages."""
    return chain_of(problem, chain.stages)


def why_infeasible(problem: Problem, rings: Rings) -> InfeasibleError:
    """Return the error that says which constraint cannot be met with one lane."""
    cluster, model = problem.cluster, problem.model
    lane = problem.workload.lane
    offered = sum(node.memory_bytes for node in cluster.nodes)
    cached = sum(layer.kv_token_bytes for layer in model.layers) * lane
    needed = model.weight_bytes + cached
    if needed > offered:
        return InfeasibleError(
            f"model {model.name!r} does not fit: its weights take "
            f"{gigabytes(model.weight_bytes)} and one sequence of {lane} tokens "
            f"{gigabytes(cached)}, the nodes have {gigabytes(offered)} together, "
            f"{gigabytes(needed - offered)} too little: add a node, quantise the "
            "model or shorten the sequences",
            "memory",
            needed,
            offered,
        )
    sizes = [problem.stage_bytes(Stage("", i, i), 1) for i in range(model.size)]
    largest = max(node.memory_bytes for node in cluster.nodes)
    if max(sizes) > largest:
        index = sizes.index(max(sizes))
        return InfeasibleError(
            f"layer {index} of model {model.name!r} takes {gigabytes(max(sizes))} "
            "with one sequence and what stands beside it (embedding, head), the "
            f"largest node has {gigabytes(largest)}: quantise the model or add a "
            "larger node",
            "layer",
            max(sizes),
            largest,
        )
    return _packing(problem, rings, offered)


def _packing(problem: Problem, rings: Rings, offered: float) -> InfeasibleError:
    """Return the error for layers that fit together, but not as whole ones."""
    end, size = rings.reach(), problem.model.size
    rest = problem.stage_bytes(Stage("", end, size - 1), 1) if end < size else 0.0
    return InfeasibleError(
        f"model {problem.model.name!r} does not fit: memory would do, but with whole "
        f"layers and {rings.least} at least in a stage the nodes hold the first {end} "
        f"of {size}; the rest takes {gigabytes(rest)} more: free memory on some node, "
        "or add one",
        "packing",
        offered + rest,
        offered,
    )
