"""An update ends in a version that serves or in none, wherever it is interrupted."""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.claas.worker_helpers import (
    LORA,
    FakeLedger,
    FakeServing,
    FakeTeaching,
    make_adapter,
    make_worker,
)

from claas import storage
from claas.errors import (
    ConflictError,
    IdentifierError,
    NotFoundError,
    ServingError,
    StorageError,
)
from claas.loaded import check_base
from claas.updates import ATTEMPTS, NEXT, Update, Updates
from claas.worker import Worker


class Time:
    """A clock that stands."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A worker with its fakes by their own types."""

    def __init__(self, folder: Path, **options: Any) -> None:
        make_adapter(folder)
        self.clock = Time()
        self.worker: Worker = make_worker(
            folder, clock=self.clock, grace=60.0, **options
        )
        self.volume: Any = self.worker.volume
        self.updates = self.worker.updates
        ledger, serving = self.worker.ledger, self.worker.serving
        teaching = self.worker.teaching
        assert isinstance(ledger, FakeLedger) and isinstance(serving, FakeServing)
        assert isinstance(teaching, FakeTeaching)
        self.ledger, self.serving, self.teaching = ledger, serving, teaching

    def alias(self, name: str) -> str | None:
        return storage.alias(LORA, name, self.volume)

    def update(self, *contents: str) -> Update:
        """Give feedback f1, f2, … and update."""
        count = len(self.ledger.history(LORA))
        for number, content in enumerate(contents, count + 1):
            self.ledger.add(f"f{number}", content)
        return self.worker.update(LORA)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A worker and an adapter without feedback."""
    return Bench(tmp_path)


def test_feedback_becomes_a_version_that_serves(bench: Bench) -> None:
    """Loaded before `live` moves; the ledger, the table and the version know."""
    update = bench.update("be brief", "no emoji")
    assert (update.outcome, update.parent, update.version) == ("promoted", 0, 1)
    assert update.lessons == ("f1", "f2") and update.error == ""
    assert update.figures == {"loss": 0.5, "steps": 3}
    assert update.verdict is not None and update.verdict.reasons == ("obeys more.",)
    assert (bench.alias("live"), bench.alias("candidate")) == ("ann/kuro@v1", None)
    assert bench.serving.read()[1:] == [["load", "ann-kuro@v1"]]
    assert bench.ledger.states() == {"f1": ("promoted", 1), "f2": ("promoted", 1)}
    version = storage.version("ann/kuro@live", bench.volume)
    assert (version.meta["parent"], version.meta["update"]) == (
        "ann/kuro@v0",
        update.id,
    )
    assert (version.path / "optimizer.safetensors").read_text() == "be brief no emoji"
    assert bench.updates.get(update.id) == update
    assert not list(bench.worker.scratch.iterdir())


def test_the_version_before_is_unloaded_after_the_grace(bench: Bench) -> None:
    bench.update("be brief")
    bench.clock.now += 59
    assert bench.worker.retire() == []
    bench.clock.now += 1
    bench.serving.is_down = True
    assert bench.worker.retire() == []
    bench.serving.is_down = False
    assert bench.worker.retire() == ["ann-kuro@v0"]
    assert bench.serving.names() == ["ann-kuro@v1"]
    assert bench.worker.retire() == []


def test_the_next_update_begins_where_the_last_one_ended(bench: Bench) -> None:
    """Its parent is the live version, and what was learnt before is a probe."""
    bench.update("be brief")
    update = bench.update("no emoji")
    assert (update.parent, update.version, update.lessons) == (1, 2, ("f2",))
    assert bench.teaching.read()[-2:] == [
        ["train", "v1", ["f2"]],
        ["judge", "v1", "v2", ["f2"], ["f1"]],
    ]


def test_what_the_gate_rejects_does_not_serve_and_waits(bench: Bench) -> None:
    update = bench.update("bad advice")
    assert (update.outcome, update.version) == ("rejected", 1)
    assert (bench.alias("live"), bench.alias("candidate")) == ("ann/kuro@v0", None)
    assert bench.serving.names() == ["ann-kuro@v0"]
    assert bench.ledger.states() == {"f1": ("rejected", 1)}
    mark = bench.ledger.history(LORA)[0].marks[-1]
    assert mark.why == "drifts from the base."
    again = bench.update()
    assert (again.lessons, again.parent, again.version) == (("f1",), 0, 2)


def test_what_cannot_be_taught_is_left_out(bench: Bench) -> None:
    """One of several is; if all are, nothing is trained."""
    update = bench.update("hard", "be brief", "hard, too")
    assert (update.outcome, update.lessons) == ("promoted", ("f2",))
    states = bench.ledger.states()
    assert states["f1"] == states["f3"] == ("unteachable", None)
    assert update.untaught == {"f1": "cannot follow it", "f3": "cannot follow it"}
    alone = bench.update("hard again")
    assert (alone.outcome, alone.version) == ("unteachable", None)
    assert bench.alias("latest") == "ann/kuro@v1"
    stuck = bench.update("stuck")
    assert (stuck.outcome, stuck.version) == ("unteachable", None)
    assert bench.ledger.states()["f5"] == ("unteachable", None)


def test_feedback_without_its_receipt_cannot_be_taught(bench: Bench) -> None:
    bench.ledger.add("lost", "be brief")
    update = bench.worker.update(LORA)
    assert update.outcome == "unteachable"
    assert update.untaught == {"lost": "its receipt is gone"}


def test_lessons_that_the_ledger_does_not_know_stop_nothing(bench: Bench) -> None:
    """A database may be restored from an older copy than the adapters."""
    source = storage.load_lora(LORA, bench.volume)
    meta = {"parent": "ann/kuro@v0", "lessons": ["ghost"]}
    made = storage.save_lora(source, LORA, meta, bench.volume)
    bench.worker.switch(LORA, made)
    assert bench.update("be brief").outcome == "promoted"
    with pytest.raises(NotFoundError, match="v1 cannot be made again"):
        bench.worker.rebuild("ann/kuro@v2")


def test_nothing_waits_nothing_happens(bench: Bench) -> None:
    update = bench.update()
    assert (update.state, update.outcome, update.parent) == ("done", "empty", 0)
    assert bench.teaching.read() == []


def test_an_update_takes_the_oldest_lessons(tmp_path: Path) -> None:
    make_adapter(tmp_path)
    worker = make_worker(tmp_path, most_lessons=2, most_probes=1)
    for number in range(1, 6):
        FakeLedger(tmp_path / "ledger", print).add(f"f{number}", "be brief")
    lessons = [worker.update(LORA).lessons for _ in range(3)]
    assert lessons == [("f1", "f2"), ("f3", "f4"), ("f5",)]
    last = FakeTeaching(tmp_path / "teaching", print).read()[-1]
    assert last == ["judge", "v2", "v3", ["f5"], ["f4"]]


def test_rejected_feedback_does_not_keep_new_feedback_out(tmp_path: Path) -> None:
    """What was rejected less often comes first, then the oldest."""
    make_adapter(tmp_path)
    worker = make_worker(tmp_path, most_lessons=2)
    ledger = FakeLedger(tmp_path / "ledger", print)
    for name, content in (("f1", "bad"), ("f2", "bad"), ("f3", "bad")):
        ledger.add(name, content)
    assert worker.update(LORA).lessons == ("f1", "f2")
    assert worker.update(LORA).lessons == ("f3", "f1")
    ledger.add("f4", "be brief")
    assert worker.update(LORA).lessons == ("f4", "f2")


def numbers(bench: Bench) -> list[int]:
    """Return the numbers of the versions that are there."""
    return [version.number for version in storage.versions(LORA, bench.volume)]


def test_old_versions_are_deleted_and_stay_known(tmp_path: Path) -> None:
    """Kept are the first, what an alias names, two to roll back to, two others; what
    is deleted is unloaded; its lessons are still probes, and it can be made again."""
    bench = Bench(tmp_path, most_versions=2)
    for _ in range(3):
        bench.update("bad")
        bench.ledger.mark([f"f{len(bench.ledger.states())}"], "dropped", None, "x")
    assert numbers(bench) == [0, 1, 2, 3]  # 3 is the latest
    for _ in range(4):
        bench.update("be brief")
    assert numbers(bench) == [0, 2, 3, 5, 6, 7]
    known = bench.teaching.read()[-1][-1]
    assert known == ["f4", "f5", "f6"]
    assert "ann-kuro@v4" not in bench.serving.names()
    assert bench.worker.rebuild("ann/kuro@v4") == "ann/kuro@v8"
    assert storage.version("ann/kuro@v8", bench.volume).meta["lessons"] == ["f4"]
    back = [bench.worker.switch(LORA).version for _ in range(2)]
    assert back == [6, 5]
    assert bench.ledger.states()["f4"] == ("promoted", 4)
    assert bench.ledger.states()["f7"] == ("dropped", 6)
    with pytest.raises(NotFoundError, match="no ann/kuro@v4.*rebuild. makes it again"):
        bench.worker.switch(LORA)
    assert bench.alias("live") == "ann/kuro@v5"


def test_a_worker_that_dies_while_it_deletes_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever that is, the next update deletes what is left."""
    for call in ("delete_lora", "remember", "remove"):
        bench = Bench(tmp_path / call, most_versions=1)
        for _ in range(3):
            bench.update("be brief")
        assert numbers(bench) == [0, 2, 3]

        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(storage, call, die)
            bench.update("be brief")
        assert bench.alias("live") == "ann/kuro@v4"
        assert numbers(bench) == [0, 2, 3, 4] and not bench.updates.unfinished()
        bench.update("be brief")
        assert numbers(bench) == [0, 4, 5]
        assert len(bench.teaching.read()[-1][-1]) == 4
        names = bench.serving.names()
        assert "ann-kuro@v2" not in names and "ann-kuro@v3" not in names


def test_the_same_id_is_one_update(bench: Bench) -> None:
    bench.ledger.add("f1", "be brief")
    one = bench.worker.update(LORA, "u1")
    assert bench.worker.update(LORA, "u1") == one
    assert len(bench.updates.history(LORA)) == 1
    storage.create_initial_lora("ann/b", "t", base={**BASE}, storage=bench.volume)
    with pytest.raises(ConflictError, match="update 'u1' is one of another adapter"):
        bench.worker.update("ann/b", "u1")


BASE = {
    **{"model_type": "llama", "hidden_size": 4, "num_attention_heads": 1},
    **{"intermediate_size": 4, "num_hidden_layers": 1},
}


def test_who_is_no_adapter_is_refused(bench: Bench) -> None:
    with pytest.raises(NotFoundError, match="there is no adapter ann/other"):
        bench.worker.update("ann/other")
    with pytest.raises(IdentifierError, match="no name"):
        bench.worker.update("ann/kuro@v0")
    assert bench.updates.unfinished() == []


def test_two_updates_of_one_adapter_do_not_run_at_once(bench: Bench) -> None:
    """The second is not lost: who holds the adapter, or the next, ends it."""
    bench.ledger.add("f1", "be brief")
    with storage.updating(LORA, "another worker", storage=bench.volume):
        with pytest.raises(StorageError, match="held by another worker"):
            bench.worker.update(LORA, "u1")
        assert [u.state for u in bench.worker.resume()] == ["queued"]
    assert [u.outcome for u in bench.worker.resume()] == ["promoted"]
    assert bench.updates.get("u1").version == 1


def test_a_server_that_is_down_does_not_lose_the_training(bench: Bench) -> None:
    """`live` stays; the update waits at its last step, however often it is tried."""
    bench.serving.is_down = True
    with pytest.raises(ServingError, match="does not answer"):
        bench.update("be brief")
    assert bench.alias("live") == "ann/kuro@v0"
    for _ in range(ATTEMPTS + 1):
        (left,) = bench.worker.resume()
        assert (left.state, left.error) == ("promoted", "the server does not answer")
    bench.serving.is_down = False
    (done,) = bench.worker.resume()
    assert (done.outcome, bench.alias("live")) == ("promoted", "ann/kuro@v1")
    assert [line[0] for line in bench.teaching.read()].count("train") == 1


def test_what_nobody_expected_is_raised_and_its_words_stay_out(bench: Bench) -> None:
    with pytest.raises(RuntimeError, match="a prompt"):
        bench.update("defect")
    (update,) = bench.worker.resume()
    assert (update.state, update.outcome) == ("done", "failed")
    assert update.error == "it was ended by RuntimeError"
    assert bench.ledger.states() == {"f1": ("open", None)}
    assert b"a prompt" not in bench.updates.path.read_bytes()


def test_a_rollback_is_one_call(bench: Bench) -> None:
    """To the parent, or to any version; the ledger knows what serves; and back."""
    bench.update("be brief")
    bench.update("no emoji")
    bench.clock.now += 100
    bench.worker.retire()
    back = bench.worker.switch(LORA)
    assert (back.kind, back.version, back.outcome) == ("switch", 1, "promoted")
    assert bench.alias("live") == "ann/kuro@v1"
    assert bench.ledger.states() == {"f1": ("promoted", 1), "f2": ("dropped", 1)}
    assert bench.serving.names() == ["ann-kuro@v2", "ann-kuro@v1"]
    bench.worker.switch(LORA)
    assert bench.alias("live") == "ann/kuro@v0"
    assert [s for s, _ in bench.ledger.states().values()] == ["dropped", "dropped"]
    with pytest.raises(NotFoundError, match="ann/kuro@v0 has no parent: name a ver"):
        bench.worker.switch(LORA)
    bench.worker.switch(LORA, "ann/kuro@v2")
    assert bench.ledger.states() == {"f1": ("promoted", 2), "f2": ("promoted", 2)}
    assert bench.update().outcome == "empty"
    bench.clock.now += 100
    bench.worker.retire()
    assert bench.serving.names() == ["ann-kuro@v2"]
    with pytest.raises(NotFoundError, match="no ann/kuro@v9"):
        bench.worker.switch(LORA, "ann/kuro@v9")


def test_a_rollback_that_was_refused_does_not_happen_later(bench: Bench) -> None:
    """Who was told that it failed does not expect it with the next update."""
    bench.update("be brief")
    bench.clock.now += 100
    bench.worker.retire()
    bench.serving.is_down = True
    with pytest.raises(ServingError, match="does not answer"):
        bench.worker.switch(LORA, update_id="back")
    bench.serving.is_down = False
    assert bench.updates.get("back").outcome == "failed"
    assert bench.updates.unfinished() == bench.worker.resume() == []
    assert bench.alias("live") == "ann/kuro@v1"
    assert bench.ledger.states() == {"f1": ("promoted", 1)}


def test_a_rollback_does_not_wait_for_a_training(bench: Bench) -> None:
    """The update that was judged against another version then fails, and its feedback
    waits for the next one."""
    bench.update("be brief")
    bench.serving.is_down = True
    with pytest.raises(ServingError):
        bench.update("no emoji")
    bench.serving.is_down = False
    with storage.updating(LORA, "a training", storage=bench.volume):
        bench.worker.switch(LORA, "ann/kuro@v0")
    (failed,) = bench.worker.resume()
    assert failed.outcome == "failed"
    assert "version 0 of ann/kuro went live meanwhile" in failed.error
    assert bench.alias("live") == "ann/kuro@v0"
    assert bench.ledger.states()["f2"] == ("rejected", 2)
    again = bench.update()
    assert (again.lessons, again.parent, again.version) == (("f2",), 0, 3)


class Killed(BaseException):
    """What ends a worker in a test."""


def test_what_serves_is_told_as_it_is(bench: Bench) -> None:
    """A worker that died before it told the ledger does not undo a rollback there."""

    def die(what: str) -> None:
        if bench.alias("live") == "ann/kuro@v1":
            raise Killed

    bench.ledger.add("f1", "be brief")
    bench.ledger.hook = die
    with pytest.raises(Killed):
        bench.worker.update(LORA, "u1")
    bench.ledger.hook = print
    assert bench.updates.get("u1").state == "serving"
    bench.worker.switch(LORA)
    (late,) = bench.worker.resume()
    assert (late.state, bench.alias("live")) == ("done", "ann/kuro@v0")
    assert bench.ledger.states() == {"f1": ("dropped", 0)}


def test_what_was_promoted_by_hand_is_not_rejected(bench: Bench) -> None:
    """Its feedback is in the weights that serve, and must not be trained on again."""
    other = make_worker(bench.updates.path.parent)

    def promote(what: str) -> None:
        if what == "before teaching" and bench.alias("candidate") is not None:
            bench.teaching.hook = print
            other.switch(LORA, "ann/kuro@v1")

    bench.teaching.hook = promote
    update = bench.update("bad advice")
    assert (update.outcome, bench.alias("live")) == ("rejected", "ann/kuro@v1")
    assert bench.ledger.states() == {"f1": ("promoted", 1)}


def test_a_version_can_be_made_again_from_the_ledger(bench: Bench) -> None:
    """Its lessons in the order of its versions, rejected ones left out; it does not
    serve."""
    bench.update("be brief")
    bench.update("bad advice")
    bench.ledger.mark(["f2"], "dropped", None, "taken back")
    bench.update("no emoji")
    before = len(bench.teaching.read())
    assert bench.worker.rebuild("ann/kuro@v3") == "ann/kuro@v4"
    trained = bench.teaching.read()[before:]
    assert trained == [["train", "v0", ["f1"]], ["train", "v1", ["f3"]]]
    meta = storage.version("ann/kuro@v4", bench.volume).meta
    assert meta["lessons"] == ["f1", "f3"] and meta["rebuilt"] == "ann/kuro@v3"
    assert bench.alias("live") == "ann/kuro@v3"
    bench.worker.switch(LORA, "ann/kuro@v4")
    assert bench.ledger.states()["f1"] == ("promoted", 1)
    assert not list(bench.worker.scratch.iterdir())


def test_two_switches_take_turns(bench: Bench) -> None:
    """Whoever resumes a rollback that somebody is making waits, and finds it done."""
    bench.update("be brief")
    found = []

    def resume(what: str) -> None:
        if what == "before serving" and not found:
            found.append(bench.updates.unfinished()[0].state)
            thread = threading.Thread(target=lambda: found.extend(other.resume()))
            thread.start()
            threads.append(thread)

    threads: list[threading.Thread] = []
    other = make_worker(bench.updates.path.parent)
    bench.serving.hook = resume
    done = bench.worker.switch(LORA)
    threads[0].join(timeout=60)
    assert (done.outcome, done.state) == ("promoted", "done")
    assert [getattr(x, "state", x) for x in found] == ["promoted", "done"]


def test_an_adapter_that_was_deleted_ends_its_update(bench: Bench) -> None:
    bench.serving.is_down = True
    with pytest.raises(ServingError):
        bench.update("be brief")
    storage.delete_lora(LORA, bench.volume)
    (update,) = bench.worker.resume()
    assert (update.state, update.outcome) == ("done", "failed")


@pytest.mark.parametrize("state", list(NEXT))
def test_only_what_follows_may_follow(state: Any, tmp_path: Path) -> None:
    """Each state, each pair; and a mover that is late is told so."""
    updates = Updates(tmp_path / "u.sqlite3")
    for number, other in enumerate(NEXT):
        update = updates.add(Update(f"u{number}", LORA, state))
        if other in NEXT[state]:
            moved = updates.move(update, other, error="x")
            assert updates.get(update.id) == moved
            with pytest.raises(ConflictError, match="another worker has it"):
                updates.move(update, other)
        else:
            with pytest.raises(ConflictError, match=f"'{other}' does not follow"):
                updates.move(update, other)
    assert len(updates.history(LORA)) == len(NEXT)
    updates.close()


def test_a_damaged_table_is_said(tmp_path: Path) -> None:
    (tmp_path / "u.sqlite3").write_bytes(b"no database, " * 100)
    with pytest.raises(StorageError, match="cannot be read or written: file is not"):
        Updates(tmp_path / "u.sqlite3")
    with pytest.raises(NotFoundError, match="there is no update 'u1'"):
        Updates(tmp_path / "v.sqlite3").get("u1")
    assert (tmp_path / "v.sqlite3").stat().st_mode & 0o77 == 0


NURSERY = """
import os, shutil, signal, sys, types
from collections.abc import Iterator
from pathlib import Path
from claas import storage
from claas.updates import Updates
from tests.claas.worker_helpers import FakeLedger, FakeServing, LORA
from tests.claas.worker_helpers import make_adapter, make_worker

os.fsync = lambda number: None  # a killed process needs none
root, words, outcome = Path(sys.argv[1]), sys.argv[2].split("+"), sys.argv[3]
live = {"promoted": "ann/kuro@v1"}.get(outcome, "ann/kuro@v0")

def work(folder, fatal):
    count = 0
    def hook(what):
        nonlocal count
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    def around(function):
        def called(*args, **options):
            hook("before")
            found = function(*args, **options)
            hook("after")
            return found
        return called
    for name in ("save_lora", "move_alias"):
        setattr(storage, name, around(getattr(storage, name)))
    for name in ("add", "begin", "move"):
        setattr(Updates, name, around(getattr(Updates, name)))
    make_worker(folder, hook).update(LORA, "u1")
    os._exit(7)

fatal = 0
while True:
    fatal += int(sys.argv[4])
    folder = root / str(fatal)
    folder.mkdir()
    make_adapter(folder)
    for number, content in enumerate(words, 1):
        FakeLedger(folder / "ledger", id).add(f"f{number}", content)
    child = os.fork()
    if not child:
        work(folder, fatal)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (-9, 7), ended
    worker = make_worker(folder)
    worker.resume()
    worker.update(LORA, "u1")
    volume = worker.volume
    done = worker.updates.get("u1")
    assert (done.state, done.outcome) == ("done", outcome), (fatal, done)
    assert worker.updates.unfinished() == []
    assert storage.alias(LORA, "live", volume) == live, fatal
    assert storage.alias(LORA, "candidate", volume) is None, fatal
    there = [v.id for v in storage.versions(LORA, volume)]
    made = outcome in ("promoted", "rejected")
    assert there == ["ann/kuro@v0", "ann/kuro@v1"][: 1 + made], (fatal, there)
    assert all(storage.load_lora(name, volume) for name in there)
    serves = live.replace("/", "-")
    assert serves in worker.serving.names(), fatal
    states = [state for state, _ in worker.ledger.states().values()]
    assert states == [outcome] * len(words), (fatal, states)
    marks = [m.state for m in worker.ledger.history(LORA)[0].marks]
    assert len(marks) == len(set(marks)), (fatal, marks)
    assert not list(worker.scratch.glob("*")), fatal
    worker.updates.close()
    shutil.rmtree(folder)
    if ended == 7:
        break
print(fatal)
"""


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder that no disk is waited for, where there is such a thing."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("words", "outcome", "every"),
    [
        ("brief+friendly", "promoted", 1),
        ("bad", "rejected", 4),
        ("hard", "unteachable", 2),
    ],
)
def test_a_worker_that_is_killed_anywhere_is_resumed(
    words: str, outcome: str, every: int, in_memory: Path
) -> None:
    """A process is killed before and after each thing that it does to the table, the
    ledger, the server or the storage; each time another one ends the update as if
    nothing had been: one version, one alias, each mark once."""
    done = subprocess.run(
        [sys.executable, "-c", NURSERY, str(in_memory), words, outcome, str(every)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) > 12


def test_a_lesson_that_always_kills_is_found(tmp_path: Path) -> None:
    """Lessons are halved until it is alone; it is marked, and the others are learnt."""
    bench = Bench(tmp_path)
    for number in range(1, 9):
        bench.ledger.add(f"f{number}", "be brief")

    def die(what: str) -> None:
        if what == "before teaching" and "f6" in trained():
            raise Killed

    def trained() -> tuple[str, ...]:
        return bench.updates.unfinished()[0].lessons

    bench.teaching.hook = die
    deaths = 0
    while bench.ledger.open(LORA) or bench.updates.unfinished():
        try:
            bench.worker.update(LORA)
        except Killed:
            deaths += 1
            assert deaths < 30, "it does not converge"
    assert bench.ledger.states().pop("f6") == ("unteachable", None)
    states = [state for state, _ in bench.ledger.states().values()]
    assert states.count("promoted") == 7
    assert "failed" in [update.outcome for update in bench.updates.history(LORA)]
    mark = bench.ledger.history(LORA)[5].marks[-1]
    assert mark.why == "the worker died 3 times while teaching"


def test_after_a_death_in_the_gate_the_next_update_is_half(bench: Bench) -> None:
    """Its lessons are in the candidate: they cannot be fewer."""
    for number in range(1, 5):
        bench.ledger.add(f"f{number}", "be brief")

    def die(what: str) -> None:
        update = bench.updates.unfinished()[0]
        if update.state == "candidate" and "f1" in update.lessons:
            raise Killed

    bench.teaching.hook = die
    for _ in range(20):
        with contextlib.suppress(Killed):
            bench.worker.update(LORA)
    sizes = [len(one.lessons) for one in bench.updates.history(LORA) if one.is_fatal]
    assert sizes == [4, 2, 3, 2, 1]  # f3 was learnt, rejected ones come last
    assert bench.ledger.states()["f1"] == ("unteachable", None)
    assert bench.ledger.open(LORA) == []


def test_what_workers_left_behind_is_swept(bench: Bench) -> None:
    """At the start; what belongs to an update that goes on stays."""
    bench.updates.add(Update("u1", LORA, "training", parent=0))
    for name in ("u1", "u0", "rebuild-x"):
        (bench.worker.scratch / name).mkdir(parents=True)
    with storage.updating(LORA, "another worker", storage=bench.volume):
        bench.worker.resume()
    assert [path.name for path in bench.worker.scratch.iterdir()] == ["u1"]


def test_an_adapter_of_another_base_is_not_trained(tmp_path: Path) -> None:
    """The update says so, the feedback waits; a base that was moved is linked."""
    bench = Bench(tmp_path, base="large")
    update = bench.update("be brief")
    assert update.outcome == "failed" and bench.ledger.states() == {
        "f1": ("open", None)
    }
    assert "was made for the base model 'tiny', and 'base_model' is 'large'" in (
        update.error
    )
    (tmp_path / "large").mkdir()
    (tmp_path / "tiny").symlink_to(tmp_path / "large")
    lora, old, new = "ann/b", str(tmp_path / "tiny"), str(tmp_path / "large")
    storage.create_initial_lora(lora, old, base={**BASE}, storage=bench.volume)
    check_base(lora, new, bench.volume)


def test_what_was_asked_for_by_its_number_is_unloaded(bench: Bench) -> None:
    """After the grace, unless it serves by then."""
    bench.update("be brief")
    bench.clock.now += 100
    bench.worker.retire()
    path = storage.load_lora(f"{LORA}@v0", bench.volume)
    bench.serving.load("ann-kuro@v0", str(path))
    bench.worker.lend(f"{LORA}@v0")
    bench.worker.lend(f"{LORA}@v1")
    assert bench.worker.retire() == []
    bench.clock.now += 60
    assert bench.worker.retire() == ["ann-kuro@v0"]
    assert bench.serving.names() == ["ann-kuro@v1"]


def test_a_step_that_always_kills_fails_its_update(bench: Bench) -> None:
    """After `ATTEMPTS` deaths the feedback waits, and the worker lives."""
    bench.ledger.add("f1", "be brief")
    update = bench.updates.add(Update("u1", LORA, "training", parent=0))
    for _ in range(ATTEMPTS):
        update = bench.updates.begin(update)
    (done,) = bench.worker.resume()
    assert done.outcome == "failed"
    assert done.error == f"the worker died {ATTEMPTS} times while training"
    assert bench.ledger.states() == {"f1": ("open", None)}
