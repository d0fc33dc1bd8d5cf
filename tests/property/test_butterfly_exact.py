"""The exact programs find what trying everything finds."""

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.butterfly_problems import clusters, every_chain, least, problems

from butterfly.errors import InfeasibleError
from butterfly.partitioning import (
    Cluster,
    Node,
    Problem,
    busiest_chain,
    fastest_chain,
    simulate,
    throughput_bound,
)
from butterfly.partitioning.exact import (
    FixedRoute,
    Found,
    FreeRoute,
    Rests,
    Rings,
    least_beat,
    least_cycle,
    least_latency,
)
from butterfly.partitioning.table import Table, kinds_of

SOME = settings(max_examples=150)
FEW = settings(max_examples=40)
USES = st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)])


def check(table: Table, found: Found | None, value: float, got: str) -> None:
    """The placement has the value that trying everything found, and fits."""
    if found is None:
        assert value == math.inf
        return
    problem, chain = table.problem, table.chain(found.parts)
    problem.verify(chain.stages, table.lanes)
    assert found.ring_s == pytest.approx(problem.ring_s(chain))
    assert found.beat_s == pytest.approx(problem.beat_s(chain))
    measured = {
        "ring": found.ring_s,
        "beat": found.beat_s,
        "cycle": found.cycle_s(table.beats),
    }
    assert measured[got] == pytest.approx(value)


@SOME
@given(problems(), USES, st.booleans(), st.sampled_from([1, 1, 2]))
def test_ring_beat_and_cycle_are_the_least(
    problem: Problem, use: tuple[int, int], ordered: bool, few: int
) -> None:
    """For any order and for a given one, any links, layers, kinds, least sizes."""
    nodes = problem.cluster.nodes
    kinds = [[node] for node in nodes] if ordered else kinds_of(problem.cluster)
    sizes = [len(kind) for kind in kinds]
    route = FixedRoute(len(kinds)) if ordered else FreeRoute(sizes)
    table = Table(problem, *use, kinds)
    rings = Rings(table, route, few)
    chains = list(every_chain(problem, *use, ordered=ordered, least=few))
    times = [(problem.ring_s(c), problem.beat_s(c)) for c in chains]
    check(table, least_latency(rings), least(r for r, _ in times), "ring")
    check(table, least_beat(rings), least(b for _, b in times), "beat")
    cycles = (max(ring, table.beats * beat) for ring, beat in times)
    check(table, least_cycle(rings), least(cycles), "cycle")


@FEW
@given(problems())
def test_the_fastest_chain_is_that_of_all(problem: Problem) -> None:
    """One sequence alone: no chain has a shorter ring."""
    best = least(problem.ring_s(c) for c in every_chain(problem, 1, 1))
    if best == math.inf:
        with pytest.raises(InfeasibleError):
            fastest_chain(problem)
    else:
        chain = replace(fastest_chain(problem), lanes=1, micro_batch=1)
        assert problem.ring_s(chain) == pytest.approx(best)


@FEW
@given(problems(3))
def test_the_busiest_chain_is_that_of_all(problem: Problem) -> None:
    """No chain, lanes and rows (powers of two) give more tokens by Little's law."""
    pairs = [(n, m) for n in (1, 2, 4, 8) for m in (1, 2, 4, 8) if m <= n]
    rates = [
        problem.tokens_per_s(c) for n, m in pairs for c in every_chain(problem, n, m)
    ]
    if rates:
        found = problem.tokens_per_s(busiest_chain(problem))
        assert found >= max(rates) * (1 - 1e-9)


@FEW
@given(problems(), st.data())
def test_more_memory_never_hurts(problem: Problem, data: st.DataObject) -> None:
    """Neither one sequence nor many."""
    nodes = problem.cluster.nodes
    chosen = data.draw(st.integers(0, len(nodes) - 1))
    grown = [
        replace(node, memory_bytes=node.memory_bytes * (1 + 2 * (i == chosen)))
        for i, node in enumerate(nodes)
    ]
    larger = replace(problem, cluster=replace(problem.cluster, nodes=tuple(grown)))
    try:
        few, many = fastest_chain(problem), busiest_chain(problem)
    except InfeasibleError:
        return
    alone = replace(few, lanes=1, micro_batch=1)
    after = replace(fastest_chain(larger), lanes=1, micro_batch=1)
    assert larger.ring_s(after) <= problem.ring_s(alone) * (1 + 1e-9)
    rate = larger.tokens_per_s(busiest_chain(larger))
    assert rate >= problem.tokens_per_s(many) * (1 - 1e-9)


@FEW
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_nodes_says_nothing(problem: Problem, random: Random) -> None:
    """A cluster that lists its nodes in another order is the same cluster."""
    nodes = list(problem.cluster.nodes)
    random.shuffle(nodes)
    other = replace(problem, cluster=replace(problem.cluster, nodes=tuple(nodes)))
    try:
        rate = problem.tokens_per_s(busiest_chain(problem))
    except InfeasibleError:
        with pytest.raises(InfeasibleError):
            busiest_chain(other)
        return
    assert other.tokens_per_s(busiest_chain(other)) == pytest.approx(rate)


@FEW
@given(clusters(5))
def test_nodes_of_a_kind_may_change_places(cluster: Cluster) -> None:
    """Two of a kind are alike in memory, times and all links."""
    hosts = [node.name for node in cluster.nodes]

    def seen(node: Node, other: str) -> tuple[object, ...]:
        return cluster.link(node.name, other), cluster.link(other, node.name)

    for kind in kinds_of(cluster):
        for node in kind:
            assert replace(node, name="") == replace(kind[0], name="")
            others = [h for h in hosts if h not in (node.name, kind[0].name)]
            assert [seen(node, h) for h in others] == [seen(kind[0], h) for h in others]


@FEW
@given(problems())
def test_nothing_passes_the_bound(problem: Problem) -> None:
    """Neither a formula nor a simulation gives more tokens than the bound."""
    try:
        chain = busiest_chain(problem)
    except InfeasibleError:
        return
    bound = throughput_bound(problem)
    assert problem.tokens_per_s(chain) <= bound * (1 + 1e-6)
    assert simulate(problem, [chain]).tokens_per_s <= bound * 1.1


@SOME
@given(problems(), USES)
def test_what_is_left_takes_no_less_than_its_bound(
    problem: Problem, use: tuple[int, int]
) -> None:
    """At every cut of every chain: the later stages, links left out."""
    nodes = problem.cluster.nodes
    table = Table(problem, *use, [[node] for node in nodes])
    windows = [table.windows(kind, math.inf) for kind in range(len(nodes))]
    rests = Rests(table, windows)
    for chain in every_chain(problem, *use):
        times = problem.stage_times(chain)
        for cut in range(1, len(times)):
            used = chain.nodes[:cut]
            left = tuple(int(node.name not in used) for node in nodes)
            bound = rests.of(left)[chain.stages[cut].first]
            assert bound <= sum(times[cut:]) * (1 + 1e-9)
