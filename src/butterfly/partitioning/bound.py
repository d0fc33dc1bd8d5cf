"""What no placement on these machines can pass."""

import math

from butterfly.partitioning.problem import Problem


def throughput_bound(problem: Problem) -> float:
    """Return an upper bound on the output tokens a second of any placement.

    Rows in service on all nodes add up to the requests at most (Little's law), and a
    node with `m` rows in service on average finishes at most `m / (a + b m)` rows a
    second and layer, which is concave; so the most is reached where all marginal
    rates are equal, found by bisection. The model's memory, whole layers, links and
    the order are left out: all of them only take away.
    """
    work, times = _costs(problem)
    requests = float(problem.workload.requests)
    low, high = 0.0, max(1 / a for a, _ in times)
    for _ in range(200):
        price = (low + high) / 2
        asked = sum(_rows(a, b, price) for a, b in times)
        low, high = (price, high) if asked > requests else (low, price)
    rows = [min(_rows(a, b, high), requests) for a, b in times]
    left = requests - sum(rows)
    if left > 0:  # a time without a fixed or a per-row part has a kink there
        rows = [row + left for row in rows]
    pairs = zip(rows, times, strict=True)
    return sum(m / (a + b * m) for m, (a, b) in pairs if m) / work


def _costs(problem: Problem) -> tuple[float, list[tuple[float, float]]]:
    """Return the least work of a token in layers, and (fixed, per row) of each node."""
    nodes, times = problem.cluster.nodes, []
    for node in nodes:
        fixed = problem.layer_seconds(node, 0)
        times.append((max(fixed, 1e-15), problem.layer_seconds(node, 1) - fixed))
    layers = sum(layer.cost for layer in problem.model.layers)
    heads = []
    for node in nodes:
        head, layer = problem.head_time(node), node.layer
        ratios = [(head.fixed_s, layer.fixed_s)]
        ratios.append((head.row_s, problem.layer_seconds(node, 1) - layer.fixed_s))
        heads.append(min(h / t for h, t in ratios if t > 0))
    return layers + min(heads), times


def _rows(fixed: float, row: float, price: float) -> float:
    """Return the rows at which one row more is worth a price."""
    if price <= 0:
        return math.inf
    if row <= 0:
        return math.inf if 1 / fixed > price else 0.0
    return max(0.0, (math.sqrt(fixed / price) - fixed) / row)
