"""Plans: what is decided, what is printed, what is refused."""

import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from butterfly import errors
from butterfly.errors import ConfigurationError, InfeasibleError, PlanError
from butterfly.partitioning import (
    CODECS,
    RULES,
    Chain,
    Cluster,
    LayerTime,
    Link,
    ModelShape,
    Node,
    Plan,
    Problem,
    Stage,
    Workload,
    busiest_chain,
    chain_of,
    described,
    fastest_chain,
    partition,
    simulate,
)
from butterfly.partitioning.search import Judge, best_use, exact_where_free, improved

MODEL = ModelShape.uniform(
    "8b",
    hidden=4096,
    layers=32,
    weight_bytes=4.36e8,
    kv_token_bytes=4096,
    embedding_bytes=1.05e9,
    head_bytes=1.05e9,
    head_cost=2.4,
)
LAN = Link(0.0005, 1.2e8)
WIFI = Link(0.006, 2e7)
WORK = Workload(16, 200, 100)


def node(name: str, gigabytes: float, milliseconds: float) -> Node:
    """Return a node by memory and the time of a layer."""
    fixed = milliseconds / 1e3
    return Node(name, gigabytes * 1e9, LayerTime(fixed, fixed / 50, fixed / 40))


def home(link: Link = WIFI, scale: float = 1.0) -> Cluster:
    """Return four machines, none of which holds the model."""
    sizes = [
        ("desk", 9.0, 0.5),
        ("mac", 8.0, 1.5),
        ("old", 6.0, 4.0),
        ("box", 5.0, 3.0),
    ]
    nodes = tuple(node(name, size * scale, time) for name, size, time in sizes)
    return Cluster(nodes, default_link=link)


PLAN = partition(home(), MODEL, WORK, codecs=("f32", "f16"), tries=30)


def test_a_plan_says_what_why_and_how_far() -> None:
    """The stages, the frames, what binds, the figures, the bound, how it was found."""
    text = str(PLAN)
    for part in (
        *("8b in 1 chain", "desk", "layers 0-", "head", "rows and", "prompt tokens"),
        *("binds: ", "one sequence alone", "tokens/s simulated", "by Little's law"),
        *("bound ", "gap ", "busy ", "why: ", "local search: "),
    ):
        assert part in text
    assert max(map(len, text.splitlines())) < 200


def test_a_plan_is_the_same_after_a_file(tmp_path: Path) -> None:
    """What `plan` writes, `serve` reads."""
    PLAN.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == PLAN
    with pytest.raises(ConfigurationError, match="the plan has no 'model'"):
        Plan.from_json({})
    with pytest.raises(ConfigurationError, match=r"chains\[0\] has no 'stages'"):
        Plan.from_json({**PLAN.to_json(), "chains": [{}]})


def test_a_plan_serves_no_less_than_any_rule() -> None:
    """The simulator is asked about both."""
    problem = Problem(home(), MODEL, WORK)
    for rule in RULES.values():
        placed = rule(problem)
        try:
            chains = [chain_of(problem, stages) for stages in placed]
        except InfeasibleError:
            continue
        rate = simulate(problem, chains).tokens_per_s
        assert PLAN.tokens_per_s >= rate * 0.98
    assert 0 <= PLAN.gap < 1


def test_the_head_takes_layers_from_the_last_stage() -> None:
    """Two equal nodes, a head that costs six layers: 19 and 13, not 16 and 16."""
    cluster = Cluster(
        (node("a", 20, 1), node("b", 20, 1)), default_link=Link(1e-4, 1e9)
    )
    model = replace(MODEL, head_cost=6.0)
    problem = Problem(cluster, model, Workload(64, 1, 100, 0.0))
    chain = busiest_chain(problem)
    assert [stage.size for stage in chain.stages] == [19, 13]


def test_latency_uses_few_nodes_and_throughput_more() -> None:
    """One sequence is fastest on the fastest node; many want the second one too."""
    cluster = Cluster((node("a", 30, 1), node("b", 30, 1.2)), default_link=LAN)
    alone = partition(cluster, MODEL, WORK, objective="latency")
    assert alone.chains[0].nodes == ("a",)
    many = partition(cluster, MODEL, WORK, tries=0)
    assert sorted(n for chain in many.chains for n in chain.nodes) == ["a", "b"]
    assert many.tokens_per_s > 1.1 * alone.tokens_per_s


def test_equal_machines_hold_the_model_several_times() -> None:
    """Four nodes that hold it each are four chains, not one of four stages."""
    nodes = tuple(node(f"n{i}", 30, 1) for i in range(4))
    plan = partition(Cluster(nodes, default_link=WIFI), MODEL, WORK, tries=0)
    assert [len(chain.stages) for chain in plan.chains] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("cluster", "model", "constraint", "match"),
    [
        (
            home(scale=0.3),
            MODEL,
            "memory",
            "the nodes have 8.4 GB together, .* too lit",
        ),
        (
            Cluster(tuple(node(f"n{i}", 0.4, 1) for i in range(60)), default_link=LAN),
            MODEL,
            "layer",
            "layer 0 of model '8b' takes 1.49 GB .* the largest node has 0.4 GB",
        ),
        (
            Cluster(tuple(node(f"n{i}", 0.85, 1) for i in range(30)), default_link=LAN),
            replace(MODEL, embedding_bytes=0.0, head_bytes=0.0),
            "packing",
            "with whole layers and 1 at least in a stage the nodes hold the first 30",
        ),
    ],
)
def test_what_does_not_fit_is_told_by_how_much(
    cluster: Cluster, model: ModelShape, constraint: str, match: str
) -> None:
    """Which constraint, and how many bytes are missing."""
    with pytest.raises(InfeasibleError, match=match) as caught:
        partition(cluster, model, WORK)
    assert caught.value.constraint == constraint
    assert caught.value.missing > 0
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.missing) == (str(caught.value), caught.value.missing)


def test_unknown_wishes_are_refused() -> None:
    """An objective and a codec that there are not."""
    with pytest.raises(
        ConfigurationError, match="no objective 'fun': there are through"
    ):
        partition(home(), MODEL, WORK, objective="fun")
    with pytest.raises(ConfigurationError, match="no codec 'zip'"):
        partition(home(), MODEL, WORK, codecs=("zip",))


def test_too_many_kinds_of_nodes_have_no_exact_order() -> None:
    """The message says what can be done instead; the planner does it."""
    nodes = tuple(node(f"n{i}", 2, 1 + i / 10) for i in range(14))
    problem = Problem(Cluster(nodes, default_link=LAN), MODEL, Workload(4, 20, 20))
    with pytest.raises(PlanError, match="16384 subsets.* give the order"):
        fastest_chain(problem)
    assert len(fastest_chain(problem, given_order=True).stages) > 6
    assert partition(problem.cluster, MODEL, problem.workload, tries=2).tokens_per_s > 0


@pytest.mark.parametrize(
    ("stages", "codecs", "match"),
    [
        (
            (Stage("a", 0, 1), Stage("b", 3, 4)),
            ("f32",),
            "begins with layer 3: it must",
        ),
        ((Stage("a", 0, 1), Stage("a", 2, 4)), ("f32",), "a node occurs twice in a, a"),
        (
            (Stage("a", 0, 1), Stage("b", 2, 4)),
            (),
            "2 stages have 1 hops, but 0 codecs",
        ),
    ],
)
def test_a_chain_has_no_gaps(
    stages: tuple[Stage, ...], codecs: tuple[str, ...], match: str
) -> None:
    """What cannot be served is no chain."""
    with pytest.raises(ConfigurationError, match=match):
        Chain(stages, codecs)
    with pytest.raises(ConfigurationError, match="layers 3 to 2: the first must not"):
        Stage("a", 3, 2)


@pytest.mark.parametrize(
    ("link", "requests", "match"),
    [
        (LAN, 256, "the stage on "),
        (Link(0.2, 1e8), 2, "the ring time .*: more requests would fill it"),
        (Link(0.0001, 2e5), 64, "the link (desk|mac) to (desk|mac)"),
    ],
)
def test_what_binds_is_named(link: Link, requests: int, match: str) -> None:
    """A stage, a link, or too few requests."""
    cluster = Cluster((node("desk", 60, 1), node("mac", 60, 1)), default_link=link)
    problem = Problem(cluster, MODEL, Workload(requests, 10, 100))
    stages = (Stage("desk", 0, 16), Stage("mac", 17, 31))
    plan = described(problem, [chain_of(problem, stages)], [])
    assert re.search(match, plan.binds[0]), plan.binds[0]


def test_too_little_cache_is_named() -> None:
    """Lanes that do not fit are what binds when frames do not fill the ring."""
    cluster = Cluster((node("desk", 8.8, 1), node("mac", 9, 1)), default_link=WIFI)
    problem = Problem(cluster, MODEL, Workload(64, 500, 500))
    stages = (Stage("desk", 0, 16), Stage("mac", 17, 31))
    plan = described(problem, [chain_of(problem, stages)], [])
    assert "KV memory on" in plan.binds[0]
    assert "lanes for 64 requests" in plan.binds[0]


def test_the_search_keeps_only_what_the_simulator_confirms() -> None:
    """From an uneven split it comes near the exact one; the rate never falls."""
    problem = Problem(home(LAN, 2.0), MODEL, WORK)
    sizes = [("desk", 0, 7), ("mac", 8, 15), ("old", 16, 23), ("box", 24, 31)]
    start = (chain_of(problem, [Stage(*entry) for entry in sizes]),)
    judge = Judge(problem, 120)
    before = judge.rate(start)
    tuned, rate = best_use(judge, start)
    assert rate >= before
    better, after, steps = improved(judge, tuned, rate)
    assert steps > 0
    assert after > 1.3 * before
    assert simulate(problem, better).tokens_per_s > 1.25 * before


class Unmoved(Judge):
    """A judge who finds everything equally good."""

    def rate(self, chains: Sequence[Chain]) -> float:
        """Say one."""
        self.tries -= 1
        return 1.0


def test_a_step_that_the_simulator_does_not_confirm_is_not_made() -> None:
    """Whatever the formulas promise."""
    problem = Problem(home(LAN, 2.0), MODEL, WORK)
    sizes = [("desk", 0, 7), ("mac", 8, 15), ("old", 16, 23), ("box", 24, 31)]
    start = (chain_of(problem, [Stage(*entry) for entry in sizes]),)
    judge = Unmoved(problem, 40)
    assert best_use(judge, start) == (start, 1.0)
    assert improved(judge, start, 1.0) == (start, 1.0, 0)


def test_a_search_stops_when_its_tries_are_used_up() -> None:
    """A limit on simulations, not on time, so plans are the same everywhere."""
    problem = Problem(home(LAN, 2.0), MODEL, WORK)
    judge = Judge(problem, 5)
    start = (chain_of(problem, [Stage("desk", 0, 15), Stage("mac", 16, 31)]),)
    tuned, rate = best_use(judge, start)
    improved(judge, tuned, rate)
    assert judge.tries <= 0


def test_a_lossy_codec_stays_only_where_it_gains() -> None:
    """On a fast link f32 comes back, on a narrow one f16 stays."""
    formats = (CODECS["f32"], CODECS["f16"])
    stages = [Stage("desk", 0, 15), Stage("mac", 16, 31)]
    for link, kept in ((Link(0.0005, 1e10), "f32"), (Link(0.001, 1e6), "f16")):
        problem = Problem(home(link, 2.0), MODEL, WORK, formats)
        chain = chain_of(problem, stages)
        assert chain.codecs == ("f16",)
        judge = Judge(problem, 10)
        rate = judge.rate([chain])
        chains, _ = exact_where_free(judge, (chain,), rate)
        assert chains[0].codecs == (kept,)


def test_the_tree_of_errors_is_drawn() -> None:
    """Every error stands in the docstring of its module, below its parent."""
    drawn = [
        line.split("─ ")[-1].split()[0]
        for line in (errors.__doc__ or "").splitlines()
        if line.strip(" │").startswith(("├", "└", "ButterflyError"))
    ]
    defined = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ButterflyError)
    ]
    assert drawn == defined
