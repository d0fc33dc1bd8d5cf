"""What is forgotten leaves no trace in the weights."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.claas.training.lessons import lesson, pairs
from tests.claas.training.test_learner import QUICK
from tests.claas.worker_helpers import FakeServing, FakeTeaching, nothing

from claas import storage
from claas.base import Base
from claas.database import Database
from claas.explain import explain
from claas.learner import Learner
from claas.ledger import Ledger
from claas.parts import Teaching
from claas.receipts import Receipts
from claas.tuning import SelfTeaching
from claas.types import Lesson
from claas.updates import Updates
from claas.volumes import LocalVolume
from claas.worker import Worker

LORA, PARTS = "ann/kuro", ("adapter_model", "optimizer", "teacher")


class Sure(Learner):
    """A learner that finds everything teachable."""

    def untaught(
        self, adapter: Path | None, lessons: Sequence[Lesson]
    ) -> dict[str, str]:
        return {}


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """What is closed at the end."""
    with contextlib.ExitStack() as found:
        yield found


def worker_in(
    folder: Path, base: Base, tiny_folder: Path, stack: contextlib.ExitStack
) -> Worker:
    """Return a worker that trains the tiny model; its gate promotes all."""
    volume, path = LocalVolume(folder / "loras"), folder / "claas.sqlite3"
    storage.create_initial_lora(LORA, str(tiny_folder), 4, 8.0, storage=volume)
    database = stack.enter_context(contextlib.closing(Database(path)))
    learner = Sure(
        base,
        replace(QUICK, steps=1, anchor=0.0),
        self_teaching=SelfTeaching(kind="ema", ema_decay=0.5),
    )
    gate = FakeTeaching(folder / "gate", nothing)
    return Worker(
        updates=stack.enter_context(contextlib.closing(Updates(path))),
        ledger=Ledger(database),
        receipts=Receipts(database),
        serving=FakeServing(folder / "serving", nothing),
        teaching=lambda: Teaching(learner, gate, partial(explain, learner)),
        scratch=folder / "scratch",
        volume=volume,
    )


def teach(worker: Worker, *batches: Sequence[Lesson]) -> None:
    """Make an update of each batch."""
    for batch in batches:
        for one in batch:
            assert isinstance(worker.receipts, Receipts)
            assert isinstance(worker.ledger, Ledger)
            worker.receipts.add(one.receipt)
            worker.ledger.add("ann", LORA, one.feedback)
        assert worker.update(LORA).outcome == "promoted"


def live(worker: Worker) -> dict[str, str]:
    """Return the checksums of what serves, by what it is."""
    path = storage.load_lora(f"{LORA}@live", worker.volume)
    files = {name: path / f"{name}.safetensors" for name in PARTS}
    return {k: hashlib.sha256(f.read_bytes()).hexdigest() for k, f in files.items()}


def test_the_weights_are_those_of_one_that_never_heard_it(
    base: Base, tiny_folder: Path, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """Bit for bit, the optimizer and the moving teacher, too; also the second time."""
    a, b, c, d, e = (
        lesson(f"echo {words}", words, number=at)
        for at, words in enumerate(pairs(5, seed=1))
    )
    folders = [tmp_path / name for name in ("heard", "never")]
    heard, never = (worker_in(f, base, tiny_folder, stack) for f in folders)
    teach(heard, [a, b], [c], [d])
    before = live(heard)
    told = heard.forget(LORA, ["f1"])
    assert told["removed"] == [1, 2, 3] and told["version"] == 4
    teach(never, [a], [c], [d])
    assert live(heard) == live(never) != before
    teach(heard, [e])
    heard.forget(LORA, ["f2"])
    last = worker_in(tmp_path / "last", base, tiny_folder, stack)
    teach(last, [a], [d], [e])
    assert live(heard) == live(last)
    kept = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "heard").rglob("*.safetensors")
    }
    assert kept.isdisjoint(before.values())
