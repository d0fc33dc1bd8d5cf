"""The simulator agrees with closed forms where there are any."""

from dataclasses import replace
from typing import Any

import pytest

from butterfly.errors import InfeasibleError, PlanError
from butterfly.partitioning import (
    CODECS,
    Chain,
    Cluster,
    LayerTime,
    Link,
    ModelShape,
    Node,
    Outcome,
    Problem,
    Stage,
    Workload,
    simulate,
)

NEAR = Link(0.0, 1e15)


def ring(
    stages: int,
    requests: int,
    *,
    rows: int | None = None,
    time: LayerTime | None = None,
    link: Link = NEAR,
    head: str | None = None,
    **work: Any,
) -> tuple[Problem, Chain]:
    """Return equal stages of one layer each, a head that costs nothing."""
    time = time or LayerTime(1.0, 0.0, 0.0)
    nodes = tuple(Node(f"n{i}", 1e9, time) for i in range(stages))
    model = ModelShape.uniform(
        "m", hidden=8, layers=stages, weight_bytes=1, kv_token_bytes=1, head_cost=0.0
    )
    kept: dict[str, Any] = {"prompt_tokens": 1, "output_tokens": 50, "spread": 0.0}
    workload = Workload(requests, **{**kept, **work})
    problem = Problem(
        Cluster(nodes, default_link=link, head=head), model, workload, (CODECS["f32"],)
    )
    parts = tuple(Stage(f"n{i}", i, i) for i in range(stages))
    rows = rows or -(-requests // stages)
    return problem, Chain(parts, ("f32",) * (stages - 1), requests, rows)


def served(*args: int, **kwargs: Any) -> Outcome:
    """Return what such a ring does."""
    problem, chain = ring(*args, **kwargs)
    return simulate(problem, [chain])


@pytest.mark.parametrize("requests", [1, 4, 16])
def test_one_stage_gives_all_its_rows_each_beat(requests: int) -> None:
    """N sequences on one stage that takes a second: N tokens a second."""
    outcome = served(1, requests)
    assert outcome.tokens_per_s == pytest.approx(requests, rel=0.02)
    assert outcome.token_s == pytest.approx(1.0)
    assert outcome.busy == {"n0": pytest.approx(1.0)}


@pytest.mark.parametrize(("stages", "rows"), [(2, 1), (3, 2), (5, 3)])
def test_a_balanced_ring_is_full_with_a_frame_for_each_stage(
    stages: int, rows: int
) -> None:
    """n frames of m rows, a cycle of n beats: m tokens each beat, all busy."""
    outcome = served(stages, stages * rows)
    assert outcome.tokens_per_s == pytest.approx(rows, rel=0.03)
    assert outcome.token_s == pytest.approx(stages, rel=0.03)
    assert min(outcome.busy[f"n{i}"] for i in range(stages)) > 0.97


def test_delay_is_part_of_the_cycle() -> None:
    """Two stages, half a second each way: two sequences give 2 tokens in 3 s."""
    outcome = served(2, 2, link=Link(1.0, 1e15))
    assert outcome.tokens_per_s == pytest.approx(2 / 3, rel=0.02)
    assert served(2, 3, rows=1, link=Link(1.0, 1e15)).tokens_per_s == pytest.approx(
        1.0, rel=0.02
    )


def test_a_narrow_link_sets_the_beat() -> None:
    """A row of 8 values in f32 and its header over 156 bytes a second: one second."""
    outcome = served(2, 4, rows=1, time=LayerTime(0.1, 0, 0), link=Link(0.0, 156.0))
    assert outcome.tokens_per_s == pytest.approx(1.0, rel=0.05)
    assert outcome.busy["n0>n1"] > 0.95


def test_the_way_over_a_head_elsewhere_counts_twice() -> None:
    """From the last stage to the head and from there to the first."""
    link = Link(1.0, 1e15)
    outcome = served(2, 1, link=link, head="elsewhere")
    assert outcome.token_s == pytest.approx(2 + 3 * 0.5, rel=0.02)
    assert {"elsewhere>n0", "n1>elsewhere"} <= set(outcome.busy)
    full = served(2, 4, rows=1, link=link, head="elsewhere")
    assert full.tokens_per_s == pytest.approx(1.0, rel=0.05)


def test_littles_law_holds() -> None:
    """Sequences that decode are tokens a second times seconds a token."""
    problem, chain = ring(3, 12, rows=3, time=LayerTime(1.0, 0.2, 0.01), spread=0.5)
    outcome = simulate(problem, [chain], rounds=6)
    decoding = outcome.tokens_per_s * outcome.token_s
    assert decoding == pytest.approx(12, rel=0.05)
    assert outcome.running == pytest.approx(12, rel=0.02)


def test_who_has_no_lane_waits() -> None:
    """Eight requests, four lanes: four run and four wait; none is counted twice."""
    problem, chain = ring(2, 8)
    outcome = simulate(problem, [replace(chain, lanes=4, micro_batch=2)])
    assert outcome.running == pytest.approx(4, rel=0.05)
    assert outcome.waiting == pytest.approx(4, rel=0.05)
    assert outcome.ttft_s > 50


@pytest.mark.parametrize(("stages", "gain"), [(24, 3.0), (2, 0.9)])
def test_a_decode_cap_breaks_convoys(stages: int, gain: float) -> None:
    """N / stages rows a frame: 3 times on a long ring, little on a short one."""
    time = LayerTime(1.0, 0.05, 0.0)
    capped = served(stages, 96, time=time, output_tokens=20)
    convoy = served(stages, 96, rows=96, time=time, output_tokens=20)
    assert capped.tokens_per_s > gain * convoy.tokens_per_s


def test_small_pieces_of_prompts_keep_the_stages_even() -> None:
    """A prompt in one frame makes all others wait at each stage in turn."""
    time = LayerTime(1.0, 0.0, 0.05)
    problem, chain = ring(4, 16, time=time, prompt_tokens=64, output_tokens=16)
    small, large = replace(chain, chunk=20), replace(chain, chunk=256)
    rate = simulate(problem, [small]).tokens_per_s
    assert rate > 1.3 * simulate(problem, [large]).tokens_per_s


def test_two_chains_serve_side_by_side() -> None:
    """Requests go to the chain that is less loaded for what it can do."""
    problem, _ = ring(2, 9)
    nodes = (
        Node("slow", 1e9, LayerTime(2.0, 0, 0)),
        Node("fast", 1e9, LayerTime(1.0, 0, 0)),
    )
    problem = replace(problem, cluster=Cluster(nodes, default_link=NEAR))
    chains = [
        Chain((Stage(n.name, 0, 1),), (), 3 * i, 3 * i) for i, n in enumerate(nodes, 1)
    ]
    outcome = simulate(problem, chains)
    assert outcome.tokens_per_s == pytest.approx(3 / 4 + 6 / 2, rel=0.05)
    assert outcome.running == pytest.approx(9, rel=0.02)


def test_the_same_seed_gives_the_same_outcome() -> None:
    """And another seed another one: lengths differ."""
    problem, chain = ring(2, 6, spread=0.5)
    assert simulate(problem, [chain]) == simulate(problem, [chain])
    assert simulate(problem, [chain]) != simulate(problem, [chain], seed=1)


def test_a_placement_that_does_not_fit_is_refused() -> None:
    """The message names the node and what is too much."""
    problem, chain = ring(2, 4)
    small = tuple(replace(n, memory_bytes=100.0) for n in problem.cluster.nodes)
    tight = replace(problem, cluster=replace(problem.cluster, nodes=small))
    with pytest.raises(InfeasibleError, match="node 'n0' has .* with 4 lanes take"):
        simulate(tight, [chain])


def test_chains_that_share_their_nodes_share_their_time() -> None:
    """Two chains of two lanes each on the same nodes are one chain of four."""
    problem, chain = ring(2, 4, rows=1)
    half = replace(chain, lanes=2)
    alone = simulate(problem, [chain])
    shared = simulate(problem, [half, half])
    assert shared.tokens_per_s == pytest.approx(alone.tokens_per_s, rel=0.03)
    assert shared.busy["n0"] == pytest.approx(1.0, rel=0.02)


def test_lanes_of_shared_nodes_add_up() -> None:
    """Three lanes fit on a node, two chains of two do not."""
    problem, chain = ring(2, 4)
    tight = tuple(replace(n, memory_bytes=160.0) for n in problem.cluster.nodes)
    problem = replace(problem, cluster=replace(problem.cluster, nodes=tight))
    simulate(problem, [replace(chain, lanes=3)])
    half = replace(chain, lanes=2)
    with pytest.raises(InfeasibleError, match="with 4 lanes take"):
        simulate(problem, [half, half])


def test_no_chain_is_refused() -> None:
    """There is nothing to simulate."""
    problem, _ = ring(2, 4)
    with pytest.raises(PlanError, match="there is no chain to simulate"):
        simulate(problem, [])


def test_frames_under_way_have_a_limit() -> None:
    """Without one, rows go out in crumbs and queue before the slowest stage."""
    time = LayerTime(1.0, 0.05, 0.0)
    problem, chain = ring(8, 32, time=time, prompt_tokens=40, spread=0.5)
    chain = replace(chain, chunk=8)
    *fast, last = problem.cluster.nodes
    slow = replace(last, layer=LayerTime(2.0, 0.1, 0.0))
    problem = replace(problem, cluster=Cluster((*fast, slow), default_link=NEAR))
    crumbs = replace(chain, in_flight=32)
    assert (chain.frames, crumbs.frames) == (8, 32)
    rate = simulate(problem, [chain]).tokens_per_s
    assert rate > 1.5 * simulate(problem, [crumbs]).tokens_per_s
