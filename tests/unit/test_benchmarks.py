"""The benchmarks measure what they say, on small sizes."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import bench_training, run
from benchmarks.bench_million import streamed
from benchmarks.bench_noop import Case, Chain, Diamond, FanOut, Replay
from benchmarks.measure import Figure, reached
from benchmarks.peers.run import PEERS, main
from benchmarks.trained import Cell, Trained

from inf_engine import Engine
from inf_engine.testing import FunctionClient

FOLDER = Path(run.__file__).parent
CELL = Cell.of([Trained(0.5, 40, 1000, 50)] * 2)
CLIENT = {"unused": FunctionClient(lambda _: "")}


def test_every_benchmark_has_a_name() -> None:
    """`make bench` runs every file, and the README tells of it."""
    files = {path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py")}
    assert set(run.BENCHES) == files
    readme = (FOLDER / "README.md").read_text("utf-8")
    assert [name for name in files if f"\n| {name} |" not in readme] == []


def test_an_unknown_name_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    """A word that names no benchmark, or no peer, is told, and runs nothing."""
    assert run.main(["nope"]) == 2
    assert "no benchmark 'nope'; there are noop, nodes" in capsys.readouterr().out
    assert main(["nope"]) == 2
    assert "no peer 'nope'; there are aiohttp, openai" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "verdict"), [(1.0, "ok"), (1.1, "OVER")])
def test_a_figure_says_if_it_is_over(value: float, verdict: str) -> None:
    """The line of a figure has its limit and whether it holds."""
    assert f"{verdict:<5}<= 1" in Figure("name", value, "x", 1.0).line()


@pytest.mark.parametrize("module", [Chain(7), FanOut(7), Diamond()])
async def test_replay_gives_what_a_run_gives(
    module: Chain | FanOut | Diamond,
) -> None:
    """A recorded graph without its forward has the output of the whole."""
    async with Engine(CLIENT, progress=False) as engine:
        assert Replay(module).run(0).output == await engine.run(module)


async def test_a_case_leaves_out_its_first_round() -> None:
    """The median is of the rounds after the warm-up, in µs a node."""

    async def nothing() -> None:
        pass

    case = Case("name", 10, nothing)
    await case.measure()
    assert len(case.spent) == 1
    case.spent = [99.0, 1.0, 3.0, 2.0]
    assert case.median == 2.0


async def test_the_long_stream_counts_its_inputs() -> None:
    """The million is one number, and a short stream is measured the same way."""
    told = await streamed(50)
    assert (told.inputs, told.warm) == (50, 0.0)
    assert told.most > 0
    assert told.cpu >= 0


def test_every_peer_has_its_script() -> None:
    """A peer has a script, and what it needs where it has its own environment."""
    for peer in PEERS:
        name = peer.name.replace("-", "_")
        assert (FOLDER / "peers" / f"with_{name}.py").is_file()
        needs = FOLDER / "peers" / "needs" / f"{peer.name}.txt"
        assert needs.is_file() == (peer.environment is not None)


def test_a_script_is_silent_about_what_it_cannot() -> None:
    """A peer's script prints null for a measure that it does not have."""
    command = [sys.executable, str(FOLDER / "peers" / "with_asyncio.py"), "calls", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is None


def test_reached_takes_limits() -> None:
    """What a server is reached by has the limits of the endpoint."""
    endpoint = reached("http://127.0.0.1:1/v1", max_concurrent=3)["endpoints"]["m"]
    assert (endpoint["base_url"][-3:], endpoint["max_concurrent"]) == ("/v1", 3)


def test_training_is_measured_end_to_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One family, two seeds, few rollouts: a score, and how it compares."""
    monkeypatch.setenv("BENCH_SEEDS", "2")
    monkeypatch.setenv("BENCH_FAMILIES", "one")
    monkeypatch.setenv("BENCH_ROLLOUTS", "40")
    monkeypatch.setattr(bench_training, "best", lambda *_: ("peer", [CELL]))
    ours, *gaps = asyncio.run(bench_training.measure())
    assert (ours.name, ours.unit) == ("one, 40 rollouts", "true score")
    assert 0.3 < ours.value < 1.0
    assert [gap.value for gap in gaps] == [
        pytest.approx(ours.value - 0.5, abs=1e-3)
    ] * 2
    assert "peer: 0.500 +-0.000" in gaps[0].note
    assert capsys.readouterr().err.count("rollouts=40") == 2
