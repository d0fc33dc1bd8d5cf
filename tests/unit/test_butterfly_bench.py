"""The benchmark of the planner measures what it says, on small sizes."""

import random
from itertools import combinations

import pytest
from benchmarks.butterfly import bench_plan, maxflow
from benchmarks.butterfly.clusters import LLAMA_70B, datacentre, datacentres, home

from butterfly.partitioning import CODECS, Problem, Workload


def test_homes_are_the_same_every_time() -> None:
    """And the model never fits on one machine, if there is another for them."""
    for seed in range(20):
        cluster, model, net = home(seed)
        assert (cluster, model, net) == home(seed)
        assert 3 <= len(cluster.nodes) <= 7
        assert model.weight_bytes < sum(node.memory_bytes for node in cluster.nodes)
    assert [len(c.nodes) for c in datacentres().values()] == [24, 42]


def test_every_way_to_place_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Rules, exact chains and the plan; nothing beats the plan by much."""
    bench_plan.print_homes(1, 0)
    text = capsys.readouterr().out
    for name in (
        *bench_plan.RULES,
        "exact, one sequence",
        "exact, all requests",
        "plan",
    ):
        assert f"\n{name:<20} " in text


def test_the_maximum_flow_is_the_least_cut() -> None:
    """On small random networks, every cut tried."""
    dice = random.Random(1)
    for _ in range(20):
        names = [maxflow.SOURCE, *"abcd", maxflow.SINK]
        flow, edges = maxflow.Flow(), {}
        for one, other in combinations(names, 2):
            if dice.random() < 0.7:
                edges[one, other] = dice.randint(1, 9)
                flow.add(one, other, edges[one, other])
        cuts = []
        for size in range(5):
            for inner in combinations("abcd", size):
                side = {maxflow.SOURCE, *inner}
                over = (c for (a, b), c in edges.items() if a in side and b not in side)
                cuts.append(sum(over))
        assert flow.most() == pytest.approx(min(cuts))
        ways = flow.ways()
        assert sum(part for part, _ in ways) == pytest.approx(min(cuts))


def test_ways_of_the_flow_are_chains() -> None:
    """They hold all layers, share nodes and fit."""
    problem = Problem(
        datacentre(a100=4, l4=8, t4=12), LLAMA_70B, Workload(32), (CODECS["f16"],)
    )
    start = maxflow.place_of(bench_plan.exact_busiest(problem))
    before = maxflow.network(problem, start, 4).most()
    place, flow = maxflow.climbed(problem, start, 4, 300)
    assert flow >= before
    for chain in maxflow.chains_of(problem, place, 4, 0.01):
        assert chain.stages[-1].last == 79
