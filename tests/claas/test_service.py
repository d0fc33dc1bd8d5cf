"""The API over the real worker: only what needs a base model is a fake."""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.claas.api_helpers import KEYS, FakeVllm, serving, settings_for, until

from claas.api import create_app
from claas.errors import ConflictError
from claas.types import Candidate, Lesson, Verdict
from claas.updates import Update
from claas.web.workshop import Workshop, worker_of
from claas.worker import Teaching, Worker

MESSAGES = [{"role": "user", "content": "hello you"}]


class FakeTeaching:
    """A learner and a gate that do as told; each feedback's content says what."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def untaught(self, adapter: Path, lessons: Sequence[Lesson]) -> dict[str, str]:
        """Say which lessons cannot be taught."""
        given = [one.feedback for one in lessons if one.feedback.content == "fly"]
        return {one.id: "this model cannot follow this feedback" for one in given}

    def train(self, adapter: Path, lessons: Sequence[Lesson], out: Path) -> Candidate:
        """Copy the adapter."""
        assert self.gate.wait(30)
        for file in adapter.iterdir():
            if file.name != "meta.json":
                shutil.copy(file, out / file.name)
        return Candidate(out, {"loss": 0.5}, steps=1)

    def judge(
        self, before: Path, after: Path, lessons: Sequence[Lesson], probes: Any
    ) -> Verdict:
        """Reject what is about drift."""
        is_good = all(one.feedback.content != "drift" for one in lessons)
        return Verdict(is_good, ("as told",), {"drift": {"after": 0.1}})


class InThread:
    """An engine that works in this process."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def update(self, lora: str, update_id: str | None = None) -> Update:
        """Make an update."""
        return self.worker.update(lora, update_id)

    def close(self) -> None:
        """Do nothing."""


class Refusing:
    """A worker whose switches fail."""

    def switch(self, lora: str, to: str | None) -> Update:
        """Fail."""
        return Update("u", lora, "done", "switch", "failed", error="v2 is live now")

    def retire(self) -> list[str]:
        """Unload one."""
        return ["ann-bot@v0"]


def test_a_switch_that_failed_is_no_success() -> None:
    """The client would take the old version for the one that he asked for."""
    worker: Any = Refusing()
    workshop = Workshop(worker, InThread(worker))
    with pytest.raises(ConflictError, match="ann/bot is as it was: v2 is live now"):
        workshop.switch("ann/bot", "ann/bot@v1")
    assert workshop.retire() == ["ann-bot@v0"]


def test_feedback_to_version_and_back(
    tmp_path: Path, upstream: FakeVllm, upstream_url: str
) -> None:
    """Unteachable, rejected, promoted, served, rolled back; answers go on meanwhile."""
    settings = settings_for(tmp_path, upstream_url, limits={"versions": 5})
    teaching = FakeTeaching()
    worker = worker_of(settings, lambda: Teaching(teaching, teaching))
    assert worker.most_versions == 5
    app = create_app(settings, Workshop(worker, InThread(worker)))
    headers = {"Authorization": f"Bearer {KEYS['ann']}"}
    with (
        serving(app) as url,
        httpx.Client(base_url=url, headers=headers, timeout=60) as ann,
    ):
        assert ann.post("/v1/lora", json={"lora": "ann/bot"}).status_code == 201

        asked = {"model": "ann/bot", "messages": MESSAGES}

        def answer() -> str:
            found = ann.post("/v1/chat/completions", json=asked)
            return found.headers["x-claas-receipt"]

        def say(content: str, **more: Any) -> Any:
            given = {"receipt": answer(), "kind": "critique", "content": content}
            return ann.post("/v1/feedback", json={"wait": True, **given, **more}).json()

        for content, outcome in (
            ("fly", "unteachable"),
            ("drift", "rejected"),
            ("shorter", "rejected"),  # with the one that waits since then
        ):
            (job,) = say(content)["jobs"]
            assert (job["state"], job["result"]["outcome"]) == ("done", outcome)
        assert ann.get("/v1/lora/ann/bot").json()["aliases"]["live"] == 0
        assert ann.post("/v1/lora", json={"lora": "ann/cat"}).status_code == 201
        asked["model"] = "ann/cat"
        teaching.gate.clear()
        (job,) = say("shorter", wait=False)["jobs"]
        for _ in range(3):
            answer()  # an update runs, and answers go on
        teaching.gate.set()
        until(lambda: ann.get(f"/v1/jobs/{job['id']}").json()["state"] == "done")
        answer()
        models = [b["model"] for b in upstream.bodies("/v1/chat/completions")]
        assert models[-5:] == ["ann-cat@v0"] * 4 + ["ann-cat@v1"]
        one = ann.get("/v1/lora/ann/cat").json()
        assert one["aliases"]["live"] == 1 and one["versions"][1]["figures"]["loss"]
        assert one["feedback"][0]["state"] == "promoted"
        back = ann.post("/v1/lora/ann/cat/rollback", json={}).json()
        assert back["aliases"]["live"] == 0
        one = ann.get("/v1/lora/ann/cat").json()
        assert one["feedback"][0]["state"] == "dropped" and one["open"] == 0
        ahead = ann.post("/v1/lora/ann/cat/promote", json={"version": 1}).json()
        assert ahead["aliases"]["live"] == 1
        assert ann.post("/v1/lora/ann/cat/rollback", json={"version": 9}).is_error
