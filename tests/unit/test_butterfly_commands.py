"""``butterfly plan`` and ``simulate``: what they print, write and refuse; no torch."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from butterfly.cli import _head_options, main, parser_of
from butterfly.cluster.options import HeadOptions
from butterfly.partitioning import Cluster, LayerTime, Link, ModelShape, Node, Plan
from butterfly.partitioning.loss import Budget, Loss

MODEL = ModelShape.uniform(
    "12-layers",
    hidden=512,
    layers=12,
    weight_bytes=1e7,
    kv_token_bytes=1024,
    embedding_bytes=2e7,
    head_bytes=2e7,
    head_cost=4.0,
)
FAST, SLOW = LayerTime(1e-3, 1e-5, 1e-5), LayerTime(3e-3, 5e-5, 3e-5)
LOSSES = Loss("f16", 3, 1e-7, 1.0), Loss("int8", 3, 2e-4, 0.98)
NODES = (
    Node("node-1", 1.3e8, FAST, losses=LOSSES),
    Node("node-2", 1.3e8, SLOW, losses=(Loss("int8", 1, 0.02, 0.975),)),
)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shape, a cluster for each node as `probe` writes it, and the folder."""
    MODEL.write(tmp_path / "shape.json")
    for node in NODES:
        Cluster((node,)).write(tmp_path / f"{node.name}.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


PROBLEM = "--model shape.json --cluster node-1.json node-2.json --link 1:1000".split()


def test_a_plan_is_printed_beside_the_rules_of_others(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stages, what binds, figures, the gap, why; a file for `serve`."""
    given = [*PROBLEM, "--requests", "8", "--codecs", "f32, f16", "--out", "plan.json"]
    assert main(["plan", *given]) == 0
    text = capsys.readouterr().out
    plan = Plan.read(files / "plan.json")
    assert str(plan) in text and "binds: " in text and "gap " in text
    table = text[text.index("placement ") :].splitlines()
    names = "placement even memory-proportional capacity-first plan"
    assert [line.split()[0] for line in table] == names.split()
    assert table[-1].split()[-1] == "1.00"
    even = table[1].split()
    assert float(even[-1]) > 1.0, "the plan serves more than an even split"
    assert plan.lane_tokens == 384 and len(plan.chains) == 1


def test_the_wishes_reach_the_planner(files: Path) -> None:
    """Requests, lengths, positions, objective and chains."""
    wishes = "--requests 3 --prompt 50 --answer 10 --positions 99 --objective latency"
    assert main(["plan", *PROBLEM, *wishes.split(), "--out", "plan.json"]) == 0
    plan = Plan.read(files / "plan.json")
    assert plan.lane_tokens == 99 and "for one sequence alone" in plan.why[0]
    assert max(chain.lanes for chain in plan.chains) <= 3
    big = [replace(node, memory_bytes=1e9, layer=FAST) for node in NODES]
    for node in big:
        Cluster((node,)).write(files / f"{node.name}.json")
    assert main(["plan", *PROBLEM, "--chains", "2", "--out", "plan.json"]) == 0
    assert len(Plan.read(files / "plan.json").chains) == 2


def test_codecs_that_change_too_much_are_left_out(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the worst figures that say something of so many links; the plan says so."""
    wishes = "--codecs f32,int8 --objective latency --link 5:8 --out plan.json"
    given = ["plan", *PROBLEM[:-2], *wishes.split()]
    assert main(given) == 0
    said = (
        "why: int8 is left out: int8 on 3 links changes 0.02 nats a token, and keeps "
        "97.5% of the likeliest tokens: the budget is 0.01 nats and 97.0%"
    )
    assert said in capsys.readouterr().out
    assert Plan.read(files / "plan.json").chains[0].codecs == ("f32",)
    for budget in ("0.02:0.97", "inf:0"):
        assert main([*given, "--codec-budget", budget]) == 0
        plan = Plan.read(files / "plan.json")
        assert plan.chains[0].codecs == ("int8",) and "left out" not in str(plan)
        assert plan.losses == (Loss("int8", 3, 0.02, 0.975),)
    assert main([*given, "--codec-budget", "0.02:0.98"]) == 0
    assert Plan.read(files / "plan.json").chains[0].codecs == ("f32",)
    for node in NODES:
        Cluster((replace(node, losses=()),)).write(files / f"{node.name}.json")
    assert main([*given, "--codecs", "int8"]) == 0
    assert "int8 is left out: nobody measured what" in capsys.readouterr().out
    assert Plan.read(files / "plan.json").chains[0].codecs == ("f32",)


@pytest.mark.parametrize(
    "command", ["serve", "node", "bench", "probe", "plan", "simulate"]
)
def test_help_tells_each_default_once(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A default that is none, or that the words tell, is not repeated."""
    assert main([command, "--help"]) == 0
    for option in capsys.readouterr().out.split("\n  -"):
        told = re.findall(r"\(default: ([^)]*)\)|\((0): ", " ".join(option.split()))
        assert len(told) <= 1, option
        assert ("None", "") not in told and ("", "") not in told, option


def test_a_bench_listens_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    """So it has nothing to allow."""
    assert main(["bench", "--url", "http://127.0.0.1:1", "--allow-public"]) == 2
    assert "unrecognized arguments: --allow-public" in capsys.readouterr().err


def test_a_plan_and_a_rule_are_simulated(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same machines, the same judge."""
    main(["plan", *PROBLEM, "--out", "plan.json", "--codecs", "f16"])
    planned = capsys.readouterr().out
    assert main(["simulate", *PROBLEM, "--plan", "plan.json"]) == 0
    again = capsys.readouterr().out
    figures = [line for line in again.splitlines() if "simulated, " in line]
    assert figures and figures[0] in planned and "> f16" in again
    assert main(["simulate", *PROBLEM, "--rule", "even"]) == 0
    assert "why: the rule 'even'" in capsys.readouterr().out


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that is refused; return what it says."""
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plan --model shape.json --cluster node-1.json", "0.0347 GB too little"),
        ("plan --model shape.json --cluster node-1.json node-2.json", "plan --link"),
        ("plan --model shape.json --cluster nowhere.json", "cannot read nowhere.json"),
        ("plan --model nowhere.json --cluster node-1.json", "cannot read nowhere.json"),
        ("plan --model m --cluster node-1.json --link 1:0", "invalid MS:MBIT value"),
        ("plan --model m --cluster node-1.json --link 1", "invalid MS:MBIT value"),
        ("serve --model m --codec-budget 1:2", "invalid KL:TOP1 value"),
        (
            "plan --model shape.json --cluster node-1.json node-1.json --link 1:1",
            "two nodes are called 'node-1'",
        ),
        ("plan --model shape.json --cluster shape.json", "shape.json has no 'nodes'"),
        ("simulate --model shape.json --cluster node-1.json", "--plan --rule is requ"),
        (
            "simulate --model shape.json --cluster node-1.json --rule even",
            "node 'node-1' has 0.13 GB for layers 0 to 11",
        ),
        (
            "plan --model shape.json --cluster node-1.json --codecs zip",
            "no codec 'zip'",
        ),
    ],
)
def test_what_cannot_be_planned_is_told(
    files: Path, line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2; what does not fit, by how much."""
    assert said in refused(line, capsys)


def test_files_that_contradict_each_other(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two default links are one too many."""
    for node, trip in zip(NODES, (0.001, 0.002), strict=True):
        Cluster((node,), {}, Link(trip, 1e8)).write(files / f"{node.name}.json")
    line = "plan --model shape.json --cluster node-1.json node-2.json"
    assert "node-2.json has another 'default_link'" in refused(line, capsys)


def test_a_plan_for_another_model_is_refused(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the number of layers."""
    main(["plan", *PROBLEM, "--out", "plan.json"])
    capsys.readouterr()
    replace(MODEL, layers=MODEL.layers[:5]).write(files / "shape.json")
    said = refused(" ".join(["simulate", *PROBLEM, "--plan", "plan.json"]), capsys)
    assert "for the 12 layers of '12-layers', and the model has 5" in said


def test_planning_needs_no_torch(files: Path) -> None:
    """A shape is enough."""
    code = (
        "import sys; from butterfly.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 9 * ('torch' in sys.modules or 'numpy' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code, "plan", *PROBLEM], check=True)


def told(line: str, plan: Plan | None = None) -> HeadOptions:
    """Return what `serve` with some arguments tells the head."""
    args = parser_of().parse_args(["serve", "--model", "m", *line.split()])
    return _head_options(args, plan, 2, "s", "127.0.0.1")


def test_serve_takes_from_the_plan_what_is_not_said(files: Path) -> None:
    """Lanes and positions; what is said goes first."""
    main(["plan", *PROBLEM, "--out", "plan.json"])
    plan = Plan.read(files / "plan.json")
    head = told("--plan plan.json", plan)
    assert (head.plan, head.split, head.positions) == (plan, "balanced", 384)
    assert head.lanes == plan.chains[0].lanes
    assert (head.rows, head.chunk, head.frames) == (0, 0, 0)
    said = "--lanes 2 --positions 50 --rows 3 --chunk 4 --frames 5 --codec f16"
    head = told(said, plan)
    limits = head.lanes, head.positions, head.rows, head.chunk, head.frames, head.codec
    assert limits == (2, 50, 3, 4, 5, "f16")
    bare = told("--plan measured")
    assert (bare.split, bare.plan, bare.lanes, bare.positions) == (
        *("measured", None),
        *(16, 1024),
    )
    assert told("").split == "balanced"
    assert told("--codec-budget 0.5:0.25").budget == Budget(0.5, 0.25)


def test_serve_refuses_a_plan_for_other_nodes(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that it starts itself have names of its own."""
    Cluster((replace(NODES[0], name="desk"),)).write(files / "node-1.json")
    main(["plan", *PROBLEM, "--out", "plan.json"])
    capsys.readouterr()
    said = refused("serve --model m --plan plan.json", capsys)
    assert "the plan names desk, and the nodes that are started here are node-1" in said
    assert "cannot read odd" in refused("serve --model m --plan odd", capsys)
