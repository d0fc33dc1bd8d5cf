"""Small planning problems, and a planner that tries everything."""

import math
from collections.abc import Iterator
from itertools import combinations, permutations

from hypothesis import strategies as st

from butterfly.partitioning import (
    CODECS,
    Chain,
    Cluster,
    Layer,
    LayerTime,
    Link,
    ModelShape,
    Node,
    Problem,
    Stage,
    Workload,
)

TIMES = st.builds(
    LayerTime,
    st.sampled_from([1.0, 2.0, 3.0]),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.sampled_from([0.0, 0.01]),
)
LINKS = st.builds(
    Link, st.sampled_from([0.1, 1.0, 4.0]), st.sampled_from([10.0, 100.0, 1000.0])
)
LAYERS = st.builds(
    Layer,
    st.sampled_from([1.0, 1.0, 2.0]),
    st.sampled_from([0.001, 0.01]),
    st.sampled_from([1.0, 1.0, 2.5]),
)
ROOMS = st.sampled_from([4.0, 6.0, 9.0, 12.0])


@st.composite
def clusters(draw: st.DrawFn, most: int = 4) -> Cluster:
    """Return a cluster of few nodes, all different or of two kinds, head anywhere."""
    size = draw(st.integers(1, most))
    names = [f"n{i}" for i in range(size)]
    head = draw(st.sampled_from([None, "n0", "elsewhere"]))
    if draw(st.booleans()):
        kinds = draw(st.lists(st.tuples(ROOMS, TIMES), min_size=2, max_size=2))
        picked = [kinds[draw(st.integers(0, 1))] for _ in names]
        links: dict[tuple[str, str], Link] = {}
    else:
        picked = [(draw(ROOMS), draw(TIMES)) for _ in names]
        links = {pair: draw(LINKS) for pair in permutations(names, 2)}
    nodes = [Node(n, room, time) for n, (room, time) in zip(names, picked, strict=True)]
    return Cluster(tuple(nodes), links, draw(LINKS), head)


@st.composite
def problems(draw: st.DrawFn, most: int = 4) -> Problem:
    """Return a problem that may or may not have a solution."""
    cluster = draw(clusters(most))
    layers = draw(st.lists(LAYERS, min_size=1, max_size=6))
    model = ModelShape(
        "small",
        8,
        tuple(layers),
        embedding_bytes=draw(st.sampled_from([0.0, 1.0, 2.0])),
        head_bytes=1.0,
        head_cost=draw(st.sampled_from([0.0, 1.5])),
        tied=draw(st.booleans()),
    )
    codecs = (CODECS["f32"], CODECS["f16"])
    return Problem(cluster, model, Workload(8, 4, 4, 0.0), codecs)


def every_chain(
    problem: Problem, lanes: int, rows: int, *, ordered: bool = False, least: int = 1
) -> Iterator[Chain]:
    """Yield every chain there is for some lanes and rows."""
    names = [node.name for node in problem.cluster.nodes]
    for count in range(1, len(names) + 1):
        orders = combinations(names, count) if ordered else permutations(names, count)
        for order in orders:
            for stages in every_split(order, problem.model.size):
                fits = problem.max_lanes(stages) >= lanes
                if fits and all(stage.size >= least for stage in stages):
                    hops = [
                        problem.best_hop(a, b, rows).codec
                        for a, b in zip(order, order[1:], strict=False)
                    ]
                    yield Chain(stages, tuple(hops), lanes, rows)


def every_split(order: tuple[str, ...], size: int) -> Iterator[tuple[Stage, ...]]:
    """Yield every way to cut the layers for nodes in an order."""
    for cut in combinations(range(1, size), len(order) - 1):
        cuts = zip((0, *cut), (*cut, size), strict=True)
        pairs = zip(order, cuts, strict=True)
        yield tuple(Stage(name, a, b - 1) for name, (a, b) in pairs)


def least(values: Iterator[float]) -> float:
    """Return the least value, infinity if there is none."""
    return min(values, default=math.inf)
