"""Claas over the real worker, as one user sees it; what needs a base is a fake."""

import contextlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import httpx
from tests.claas.api_helpers import KEYS, serving, settings_for
from tests.claas.test_service import FakeTeaching

from claas.api import create_app
from claas.engines import ModalEngine
from claas.types import Candidate, Lesson, Verdict
from claas.web.workshop import Workshop, guard_of, worker_of
from claas.worker import Teaching, Worker


class Writing(FakeTeaching):
    """A learner whose versions hold what they were taught; a gate that may refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.judged: list[list[str]] = []
        self.is_strict = False

    def train(self, adapter: Path, lessons: Sequence[Lesson], out: Path) -> Candidate:
        """Write the words into the optimizer's state."""
        made = super().train(adapter, lessons, out)
        with (out / "optimizer.safetensors").open("a") as file:
            file.writelines(one.feedback.content + one.receipt.text for one in lessons)
        return made

    def judge(
        self, before: Path, after: Path, lessons: Sequence[Lesson], probes: Any
    ) -> Verdict:
        """Take note of what is asked."""
        asked = sorted(one.feedback.content for one in lessons)
        self.judged.append([before.name, after.name, *asked])
        found = super().judge(before, after, lessons, probes)
        return Verdict(False, ("too strict",), {}) if self.is_strict else found


class Service:
    """Claas over the real worker, as one user sees it.

    Args:
        ann: Her client.
        teaching: What trains and judges.
        worker: The worker.
        folder: Where all files of claas are.
    """

    def __init__(
        self, ann: httpx.Client, teaching: Writing, worker: Worker, folder: Path
    ) -> None:
        self.ann, self.teaching = ann, teaching
        self.worker, self.folder = worker, folder

    def answer(self, model: str = "ann/bot") -> str:
        """Get an answer; return its receipt."""
        asked = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        told = self.ann.post("/v1/chat/completions", json=asked)
        return told.headers["x-claas-receipt"]

    def say(self, content: str, name: str, **more: Any) -> str:
        """Get an answer and say something about it; return the receipt."""
        receipt = self.answer()
        given = {"receipt": receipt, "kind": "critique", "content": content}
        told = self.ann.post("/v1/feedback", json={**given, "id": name, **more})
        assert told.status_code in (200, 202), told.text
        return receipt

    def forget(self, **given: Any) -> Any:
        """Forget, and return what came of it."""
        told = self.ann.post("/v1/lora/ann/bot/forget", json={**given, "wait": True})
        assert told.status_code == 200, told.text
        assert told.json()["state"] == "done", told.json()["why"]
        return told.json()["result"]

    def one(self) -> Any:
        """Return what the adapter is like."""
        return self.ann.get("/v1/lora/ann/bot").json()

    def holds(self, words: str) -> list[str]:
        """Return the files that hold some words."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return [path.name for path in files if words.encode() in path.read_bytes()]


@contextlib.contextmanager
def service_in(folder: Path, upstream: str, **more: Any) -> Generator[Service]:
    """Give claas with the adapter ``ann/bot``."""
    settings, teaching = settings_for(folder, upstream, **more), Writing()
    worker = worker_of(settings, lambda: Teaching(teaching, teaching, teaching.explain))
    guard = guard_of(settings, worker)
    app = create_app(settings, Workshop(worker, ModalEngine(worker), guard))
    headers = {"Authorization": f"Bearer {KEYS['ann']}"}
    with (
        serving(app) as url,
        httpx.Client(base_url=url, headers=headers, timeout=60) as ann,
    ):
        assert ann.post("/v1/lora", json={"lora": "ann/bot"}).status_code == 201
        yield Service(ann, teaching, worker, settings.storage)
