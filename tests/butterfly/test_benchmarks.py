"""What the benchmarks of the ring compare with, and where the lab can run."""

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from benchmarks.butterfly.emulation import COSTS, Emulated  # noqa: E402
from benchmarks.butterfly.hosts import missing  # noqa: E402
from benchmarks.butterfly.loop import Setting, expected  # noqa: E402

from butterfly.communication.frames import Segment  # noqa: E402
from butterfly.partitioning import Link  # noqa: E402

RANGES = (0, 18), (18, 30)
SLOW = Link(0.2, 1e12)
LAYER, HEAD = COSTS.layer.seconds(1), COSTS.head.seconds(1)


def test_the_bound_of_one_sequence_is_its_way_around() -> None:
    """All stages, and each link once: head to first, first to last, last to head."""
    given = Setting(RANGES, 1, prompt=1, answer=1_000)
    way = 30 * LAYER + HEAD
    assert expected(given)[0] == pytest.approx(1 / (way + 1.5e-4), rel=0.01)
    assert expected(given, link=SLOW)[0] == pytest.approx(1 / (way + 0.3), rel=0.01)
    near, _ = expected(given, link=SLOW, is_head_apart=False)
    assert near == pytest.approx(1 / (way + 0.2), rel=0.01)


def test_the_bound_of_many_is_the_slowest_stage() -> None:
    """Two sequences fill two stages; the simulator agrees where there is no chance."""
    bound, said = expected(Setting(RANGES, 2, prompt=1, answer=500, spread=0.0))
    slowest = max(18 * LAYER, 12 * LAYER + HEAD)
    assert bound == pytest.approx(1 / slowest, rel=0.02)
    assert said == pytest.approx(bound, rel=0.02)


def test_an_emulated_stage_takes_what_its_rows_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that decode and prompt tokens have prices of their own."""
    slept: list[float] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds + 2e-4

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    stage = Emulated(18, 30)
    hidden = stage.embed(torch.ones(66))
    segments = [Segment(0, 9, 1), Segment(1, 9, 1), Segment(2, 0, 64)]
    stage.forward(hidden, segments)
    assert clock[0] == pytest.approx(12 * COSTS.layer.seconds(2, 64))
    before = clock[0]
    stage.logits(hidden[:3])
    assert clock[0] - before == pytest.approx(COSTS.head.seconds(3))
    assert len(slept) == 2


def test_the_lab_says_why_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Root first, then the programs."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing() == "network namespaces need root"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing() == "there is no ip"
