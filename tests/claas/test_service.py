"""The API over the real worker: only what needs a base model is a fake."""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.claas.api_helpers import (
    KEYS,
    Claas,
    FakeVllm,
    serving,
    settings_for,
    until,
)

from claas.api import create_app
from claas.engines import ModalEngine
from claas.errors import ConflictError
from claas.types import Candidate, Lesson, TokenRow, Verdict
from claas.updates import Update
from claas.web.workshop import Workshop, worker_of
from claas.worker import Teaching

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

    def explain(self, adapter: Path, lesson: Lesson) -> list[TokenRow]:
        """Return one row, with what was asked."""
        said = f"{adapter.name} {lesson.feedback.content}"
        return [TokenRow("well", -2.0, -0.5, 1.5, said, "hm")]

    def judge(
        self, before: Path, after: Path, lessons: Sequence[Lesson], probes: Any
    ) -> Verdict:
        """Reject what is about drift."""
        is_good = all(one.feedback.content != "drift" for one in lessons)
        return Verdict(is_good, ("as told",), {"drift": {"after": 0.1}})


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
    workshop = Workshop(worker, ModalEngine(worker))
    with pytest.raises(ConflictError, match="ann/bot is as it was: v2 is live now"):
        workshop.switch("ann/bot", "ann/bot@v1")
    assert workshop.retire() == ["ann-bot@v0"]


def inquire(ann: httpx.Client, path: str, **given: Any) -> Any:
    """Ask for a rebuild or an explanation, and wait for it."""
    found = ann.post(f"/v1/lora/{path}", json={**given, "wait": True})
    assert found.status_code == 200, found.text
    return found.json()


def look_into(ann: httpx.Client, feedback: str, receipt: str) -> None:
    """Make ann/cat@v1 again, which does not serve, and explain what was said to it."""
    told = inquire(ann, "ann/cat@v1/rebuild")
    assert told["result"] == {"outcome": "rebuilt", "version": 2}
    again = ann.get("/v1/lora/ann/cat").json()
    assert again["versions"][2]["rebuilt"] == "ann/cat@v1"
    assert again["aliases"]["live"] == 1
    asked = ({"feedback": feedback}, "shorter"), ({"receipt": receipt}, "louder")
    for given, words in asked:
        (row,) = inquire(ann, "ann/cat@v0/explain", **given)["result"]["rows"]
        assert (row["push"], row["student_best"]) == (1.5, f"v0 {words}")
    jobs = ann.get("/v1/lora/ann/cat").json()["updates"]
    assert [job["kind"] for job in jobs] == ["update", "rebuild"]


def test_what_cannot_be_looked_into_is_said_at_once(
    claas: Claas, ann: httpx.Client
) -> None:
    """No version to make again, none of that number, no such feedback; no job."""
    for path, given, status in (
        ("ann/bot/rebuild", {}, 400),
        ("ann/bot@v7/rebuild", {}, 404),
        ("ann/bot/explain", {}, 400),
        ("ann/bot/explain", {"feedback": "7"}, 404),
        ("ann/bot/explain", {"receipt": "none"}, 404),
        ("ann/bot@v7/explain", {"feedback": "7"}, 404),
    ):
        assert ann.post(f"/v1/lora/{path}", json=given).status_code == status
    assert claas.trainer.calls == []
    claas.trainer.gate.clear()
    found = ann.post("/v1/lora/ann/bot@v0/rebuild", json={})
    assert found.status_code in (200, 202) and found.json()["kind"] == "rebuild"


def test_feedback_to_version_and_back(
    tmp_path: Path, upstream: FakeVllm, upstream_url: str
) -> None:
    """Unteachable, rejected, promoted, served, rolled back; answers go on meanwhile."""
    limits = {"versions": 5, "grace": 0, "patience": 2}
    settings = settings_for(tmp_path, upstream_url, limits=limits)
    teaching = FakeTeaching()
    worker = worker_of(settings, lambda: Teaching(teaching, teaching, teaching.explain))
    assert (worker.most_versions, worker.patience) == (5, 2)
    assert worker.scratch.parent == settings.storage
    app = create_app(settings, Workshop(worker, ModalEngine(worker)))
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
        assert set(upstream.adapters) == {"ann-cat@v1", "ann-bot@v0"}  # no grace
        said = say("louder", train=False)["feedback"][0]
        look_into(ann, one["feedback"][0]["id"], said["receipt"])
        back = ann.post("/v1/lora/ann/cat/rollback", json={}).json()
        assert back["aliases"]["live"] == 0
        one = ann.get("/v1/lora/ann/cat").json()
        assert one["feedback"][0]["state"] == "dropped" and one["open"] == 1
        ahead = ann.post("/v1/lora/ann/cat/promote", json={"version": 1}).json()
        assert ahead["aliases"]["live"] == 1
        assert ann.post("/v1/lora/ann/cat/rollback", json={"version": 9}).is_error
