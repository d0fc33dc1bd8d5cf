"""`TensorBoard`: the scalars of a training, as its reader finds them in the folder."""

import json
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.integration.scalar_helpers import Curve, check, fitted

from inf_engine import UsageError
from inf_engine.optimization import TensorBoard


class FileWriter:
    """Stands in for TensorBoard's writer: a line of JSON for each scalar."""

    def __init__(self, folder: str) -> None:
        taken = len(list(Path(folder).iterdir()))
        self._file = (Path(folder) / f"{taken}.jsonl").open("x")
        self._waiting: list[str] = []

    def add_scalar(self, tag: str, data: float, *, step: int) -> None:
        """Take a number."""
        self._waiting.append(json.dumps([tag, step, data]) + "\n")

    def flush(self) -> None:
        """Write what waits."""
        self._file.writelines(self._waiting)
        self._file.flush()
        self._waiting.clear()

    def close(self) -> None:
        """Write, and end the file."""
        self.flush()
        self._file.close()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the stand-in for the package."""
    package, summary = ModuleType("tensorboard"), ModuleType("tensorboard.summary")
    setattr(summary, "Writer", FileWriter)  # noqa: B010
    monkeypatch.setitem(sys.modules, "tensorboard", package)
    monkeypatch.setitem(sys.modules, "tensorboard.summary", summary)


def curves(path: Path) -> dict[str, Curve]:
    """Return what the stand-in wrote to a file, by tag."""
    found: dict[str, Curve] = {}
    for line in path.read_text().splitlines():
        tag, step, value = json.loads(line)
        found.setdefault(tag, []).append((step, value))
    return found


@pytest.mark.usefixtures("fake")
def test_the_curves_of_a_training(tmp_path: Path) -> None:
    """Numbers by rollouts; the last one of the best is what the result says."""
    result, seen = fitted(TensorBoard(tmp_path / "runs" / "a"))
    (path,) = (tmp_path / "runs" / "a").iterdir()
    check(curves(path), result, seen)
    assert "kind" not in path.read_text(), "no prompt, no answer"


@pytest.mark.usefixtures("fake")
def test_without_held_out_examples_the_best_is_of_training_examples(
    tmp_path: Path,
) -> None:
    """What decides is what is drawn."""
    result, _ = fitted(TensorBoard(tmp_path), val=None)
    found = curves(tmp_path / "0.jsonl")
    assert "score/val" not in found
    assert found["score/best"][-1] == (
        result.rollouts,
        pytest.approx(result.score.mean),
    )


@pytest.mark.usefixtures("fake")
def test_one_observer_of_two_trainings(tmp_path: Path) -> None:
    """Each has a file of its own, and counts from the beginning."""
    board = TensorBoard(tmp_path)
    for _ in range(2):
        fitted(board)
    assert curves(tmp_path / "0.jsonl") == curves(tmp_path / "1.jsonl")


@pytest.mark.usefixtures("fake")
def test_what_was_told_before_a_death_is_in_the_file(tmp_path: Path) -> None:
    """It is written event by event."""
    board = TensorBoard(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fitted(board, die_at=12)
    some = curves(tmp_path / "0.jsonl")
    board.close()
    fitted(TensorBoard(tmp_path))
    whole = curves(tmp_path / "1.jsonl")
    assert sum(map(len, some.values())) >= 11
    assert all(whole[tag][: len(curve)] == curve for tag, curve in some.items())


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, not in the middle of a training."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(UsageError, match=r"pip install 'inf-engine\[tensorboard\]'"):
        TensorBoard(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("fake")
def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """With the folder's name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write for TensorBoard to .*file"):
        TensorBoard(tmp_path / "file")


def test_the_package_itself_reads_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it is installed: its own reader finds the same curves."""
    reader: Any = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    caplog.set_level(logging.ERROR, "inf_engine")
    result, seen = fitted(TensorBoard(tmp_path))
    read = reader.EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    read.Reload()
    found = {
        tag: [(e.step, e.tensor_proto.float_val[0]) for e in read.Tensors(tag)]
        for tag in read.Tags()["tensors"]
    }
    check(found, result, seen)
    assert caplog.records == []
