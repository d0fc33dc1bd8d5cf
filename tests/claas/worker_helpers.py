"""Small fakes of what the worker needs, on files: they outlive a killed process."""

import json
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claas import storage
from claas.errors import NotFoundError, ServingError, TeachingError
from claas.parts import Teaching
from claas.types import Candidate, Feedback, Lesson, Receipt, TokenRow, Verdict
from claas.updates import Updates
from claas.volumes import LocalVolume
from claas.worker import Worker

LORA = "ann/kuro"
BASE = {
    **{"model_type": "llama", "hidden_size": 4, "num_attention_heads": 1},
    **{"num_key_value_heads": 1, "intermediate_size": 4, "num_hidden_layers": 1},
}
Hook = Callable[[str], None]


def nothing(_: str) -> None:
    """A hook that does nothing."""


@dataclass(frozen=True)
class Mark:
    """What became of a feedback."""

    state: str
    version: int | None
    why: str


@dataclass(frozen=True)
class Entry:
    """A feedback with what became of it."""

    feedback: Feedback
    marks: tuple[Mark, ...]


class Lines:
    """A file of JSON lines."""

    def __init__(self, path: Path, hook: Hook) -> None:
        self.path, self.hook = path, hook

    def append(self, *lines: Any) -> None:
        self.hook("before " + self.path.name)
        with open(self.path, "a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        self.hook("after " + self.path.name)

    def read(self) -> list[Any]:
        text = self.path.read_text() if self.path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


class FakeLedger(Lines):
    """Feedback whose id is its receipt's, too."""

    def add(self, feedback_id: str, content: str) -> None:
        self.append(["feedback", feedback_id, content])

    def history(self, lora: str) -> list[Entry]:
        marks: dict[str, list[Mark]] = {}
        contents = {}
        for kind, name, *rest in self.read():
            if kind == "feedback":
                contents[name] = rest[0]
            else:
                marks.setdefault(name, []).append(Mark(*rest))
        return [
            Entry(Feedback(name, name, "critique", text), tuple(marks.get(name, ())))
            for name, text in contents.items()
        ]

    def open(self, lora: str) -> list[Feedback]:
        states = ("open", "rejected")
        return [e.feedback for e in self.history(lora) if self.state_of(e) in states]

    def mark(
        self, ids: Iterable[str], state: Any, version: int | None, why: str
    ) -> None:
        self.append(*(["mark", name, state, version, why] for name in ids))

    def erase(
        self, lora: str, ids: Iterable[str], receipts: Iterable[str]
    ) -> list[str]:
        rows = [row for row in self.read() if row[0] == "mark" or row[1] not in ids]
        rows += [["feedback", name, ""] for name in ids]
        rows += [["mark", name, "forgotten", None, "asked for"] for name in ids]
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [*ids]

    def state_of(self, entry: Entry) -> str:
        return entry.marks[-1].state if entry.marks else "open"

    def states(self) -> dict[str, tuple[str, int | None]]:
        """State and version of each feedback."""
        return {
            e.feedback.id: (e.marks[-1].state, e.marks[-1].version)
            if e.marks
            else ("open", None)
            for e in self.history(LORA)
        }


class FakeReceipts:
    """A receipt of every name that does not begin with "lost"."""

    def get(self, receipt_id: str, /) -> Receipt:
        if receipt_id.startswith("lost"):
            raise NotFoundError("there is no such receipt")
        return Receipt(receipt_id, "ann", LORA, 0, (), (1,), (2,), (-0.1,), "answer")


class FakeServing(Lines):
    """An inference server: the calls that it got, in order."""

    is_down = False

    def load(self, name: str, path: str) -> None:
        assert (Path(path) / "adapter_config.json").exists()
        self.ask("load", name)

    def unload(self, name: str) -> None:
        self.ask("unload", name)

    def names(self) -> Sequence[str]:
        loaded: dict[str, None] = {}
        for what, name in self.read():
            if what == "load":
                loaded[name] = None
            else:
                loaded.pop(name, None)
        return list(loaded)

    def ask(self, what: str, name: str) -> None:
        if self.is_down:
            raise ServingError("the server does not answer")
        self.append([what, name])


class FakeTeaching(Lines):
    """Learner and gate; what they do stands in the words of the feedback."""

    def __call__(self) -> Teaching:
        return Teaching(self, self, self.explain)

    def untaught(self, adapter: Path, lessons: Sequence[Lesson]) -> Mapping[str, str]:
        self.append(["untaught", adapter.name, self.ids(lessons)])
        hard = [x for x in lessons if "hard" in x.feedback.content]
        return {x.feedback.id: "cannot follow it" for x in hard}

    def train(self, adapter: Path, lessons: Sequence[Lesson], out: Path) -> Candidate:
        words = " ".join(x.feedback.content for x in lessons)
        if "defect" in words:
            raise RuntimeError("a prompt is in here")
        if "stuck" in words:
            raise TeachingError("it cannot follow this in context")
        for path in adapter.glob("adapter_*"):
            (out / path.name).write_bytes(path.read_bytes())
        (out / "optimizer.safetensors").write_text(words)
        self.append(["train", adapter.name, self.ids(lessons)])
        return Candidate(out, {"loss": 0.5}, steps=3)

    def explain(self, adapter: Path, lesson: Lesson) -> list[TokenRow]:
        self.append(["explain", adapter.name, lesson.feedback.id])
        return [TokenRow("brief", -2.0, -0.5, 1.5, "long", "brief")]

    def judge(
        self,
        before: Path,
        after: Path,
        lessons: Sequence[Lesson],
        probes: Sequence[Lesson],
    ) -> Verdict:
        ids = [self.ids(some) for some in (lessons, probes)]
        self.append(["judge", before.name, after.name, *ids])
        is_bad = any("bad" in x.feedback.content for x in lessons)
        reasons = ("drifts from the base.",) if is_bad else ("obeys more.",)
        return Verdict(not is_bad, reasons, {"gain": {"after": 0.5}})

    def ids(self, lessons: Sequence[Lesson]) -> list[str]:
        assert all(x.receipt.id == x.feedback.receipt for x in lessons)
        return [x.feedback.id for x in lessons]


def make_worker(folder: Path, hook: Hook = nothing, **options: Any) -> Worker:
    """A worker on the files in a folder."""
    return Worker(
        updates=Updates(folder / "claas.sqlite3"),
        ledger=FakeLedger(folder / "ledger", hook),
        receipts=FakeReceipts(),
        serving=FakeServing(folder / "serving", hook),
        teaching=FakeTeaching(folder / "teaching", hook),
        volume=LocalVolume(folder / "loras"),
        scratch=folder / "scratch",
        **options,
    )


def make_adapter(folder: Path) -> None:
    """Make ann/kuro and load its v0."""
    volume = LocalVolume(folder / "loras")
    storage.create_initial_lora(LORA, "tiny", rank=1, base=BASE, storage=volume)
    FakeServing(folder / "serving", nothing).append(["load", "ann-kuro@v0"])


@dataclass(frozen=True)
class MakeWorker:
    """Makes a worker in another process; it kills that process at a word."""

    folder: Path
    fatal: str = ""

    def __call__(self) -> Worker:
        return make_worker(self.folder, self.hook)

    def hook(self, what: str) -> None:
        with open(self.folder / "pids", "a") as file:
            file.write(f"{os.getpid()}\n")
        if self.fatal == f"wait {what}":
            (self.folder / "waits").touch()
            signal.pause()
        once = self.folder / "died"
        if what == self.fatal and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if f"always {what}" == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
