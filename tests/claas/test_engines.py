"""A worker in a process of its own, or on Modal."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.claas.worker_helpers import (
    LORA,
    FakeLedger,
    MakeWorker,
    make_adapter,
    make_worker,
)

from claas import storage
from claas.engines import LocalEngine, ModalEngine
from claas.errors import ClaasError, ConfigurationError, NotFoundError
from claas.updates import Update
from claas.volumes import LocalVolume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter with a feedback that waits."""
    make_adapter(tmp_path)
    FakeLedger(tmp_path / "ledger", print).add("f1", "be brief")
    return tmp_path


def pids(folder: Path) -> list[int]:
    """The processes that worked, each once, in order."""
    return [int(x) for x in dict.fromkeys((folder / "pids").read_text().split())]


def test_updates_are_made_in_one_other_process(folder: Path) -> None:
    """It stays between updates; errors come back; it ends with the engine."""
    engine = LocalEngine(MakeWorker(folder))
    try:
        assert engine.update(LORA, "u1").outcome == "promoted"
        FakeLedger(folder / "ledger", print).add("f2", "no emoji")
        assert engine.update(LORA).version == 2
        with pytest.raises(NotFoundError, match="there is no adapter ann/other"):
            engine.update("ann/other")
        assert engine.rebuild("ann/kuro@v2", "r1") == "ann/kuro@v3"
        assert engine.rebuild("ann/kuro@v2", "r1") == "ann/kuro@v3", "one rebuild"
        (row,) = engine.explain("ann/kuro@v0", "f2")
        assert (row.token, row.push) == ("brief", 1.5)
        with pytest.raises(NotFoundError, match="'f9' cannot be explained: the ledger"):
            engine.explain("ann/kuro@v0", "f9")
        told = engine.forget(LORA, ["f2"], [], "g1")
        assert (told["removed"], told["version"]) == ([2, 3], 4)
        (pid,) = pids(folder)
        assert pid != os.getpid()
    finally:
        engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    engine.close()
    with pytest.raises(ClaasError, match="the worker is closed"):
        engine.update(LORA)


def test_a_process_that_dies_is_replaced(folder: Path) -> None:
    """The next one goes on where it was: the training is not made again."""
    engine = LocalEngine(MakeWorker(folder, "before serving"))
    try:
        update = engine.update(LORA, "u1")
        assert (update.outcome, update.version) == ("promoted", 1)
        assert len(pids(folder)) == 2
        assert (folder / "teaching").read_text().count("train") == 1
        os.kill(pids(folder)[-1], signal.SIGKILL)
        assert engine.update(LORA).outcome == "empty"
    finally:
        engine.close()


def test_a_rebuild_that_kills_the_process_is_not_tried_again(folder: Path) -> None:
    """Whoever asked for it is told what is missing; the next call has a process."""
    engine = LocalEngine(MakeWorker(folder))
    try:
        engine.update(LORA)
    finally:
        engine.close()
    engine = LocalEngine(MakeWorker(folder, "before teaching"))
    try:
        with pytest.raises(ConfigurationError, match="died in the rebuild of ann/kuro"):
            engine.rebuild("ann/kuro@v1", "r1")
        assert engine.rebuild("ann/kuro@v1", "r1") == "ann/kuro@v2"
    finally:
        engine.close()


def test_what_is_to_be_forgotten_goes_though_the_process_dies(folder: Path) -> None:
    """What was said later is not learnt again now: what was before serves."""
    engine = LocalEngine(MakeWorker(folder))
    try:
        engine.update(LORA)
        FakeLedger(folder / "ledger", print).add("f2", "no emoji")
        engine.update(LORA)
    finally:
        engine.close()
    engine = LocalEngine(MakeWorker(folder, "always before teaching"))
    try:
        told = engine.forget(LORA, ["f2"], [], "g1")
    finally:
        engine.close()
    assert (told["version"], told["removed"]) == (1, [2])
    assert told["error"] == "the rest is learnt again with the next update"
    assert len(pids(folder)) == 3


def test_what_always_kills_the_process_fails(folder: Path) -> None:
    engine = LocalEngine(MakeWorker(folder, "always before teaching"))
    try:
        update = engine.update(LORA, "u1")
        assert update.outcome == "failed"
        assert update.error == "the worker died 3 times while teaching"
    finally:
        engine.close()
    volume = LocalVolume(folder / "loras")
    assert storage.alias(LORA, "live", volume) == "ann/kuro@v0"


def until(is_so: Callable[[], bool]) -> None:
    """Wait for something, a minute at most."""
    pause = threading.Event()
    for _ in range(1200):
        if is_so():
            return
        pause.wait(0.05)
    raise AssertionError("it did not come")


def is_running(pid: int) -> bool:
    """Whether a process works; a dead one that nobody has reaped does not."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except FileNotFoundError:
        return False


def test_closing_ends_a_training_and_loses_nothing(folder: Path) -> None:
    """Who waits for it is told; the update goes on with the next engine."""
    engine, errors = LocalEngine(MakeWorker(folder, "wait before teaching")), []

    def ask() -> None:
        try:
            engine.update(LORA, "u1")
        except ClaasError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    until((folder / "waits").exists)
    engine.close()
    thread.join(timeout=60)
    assert len(errors) == 1 and "goes on when it is started again" in errors[0]
    assert make_worker(folder).updates.get("u1").state == "teaching"
    engine = LocalEngine(MakeWorker(folder))
    try:
        assert engine.update(LORA, "u1").outcome == "promoted"
    finally:
        engine.close()


PARENT = """
import sys
from pathlib import Path
from claas.engines import LocalEngine
from tests.claas.worker_helpers import LORA, MakeWorker

if __name__ == "__main__":
    LocalEngine(MakeWorker(Path(sys.argv[1]), "wait before teaching")).update(LORA)
"""


def test_a_worker_ends_with_its_parent(folder: Path) -> None:
    """Even if that is killed: no process stays behind with a model in memory."""
    (folder / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(folder / "parent.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2],
    )
    try:
        until((folder / "waits").exists)
    finally:
        parent.kill()
        parent.wait()
    (pid,) = pids(folder)
    until(lambda: not is_running(pid))


def test_on_modal_the_worker_is_here(folder: Path) -> None:
    """It ends first what an earlier process left, once; then it makes updates."""
    FakeLedger(folder / "ledger", print).add("f2", "no emoji")
    left = MakeWorker(folder)()
    left.updates.add(Update("u0", LORA))
    left.updates.close()
    worker = MakeWorker(folder)()
    engine = ModalEngine(worker)
    assert engine.update(LORA, "u1").outcome == "empty"
    assert worker.updates.get("u0").outcome == "promoted"
    assert engine.update(LORA, "u1").outcome == "empty"
    engine.close()
    worker.updates.close()
