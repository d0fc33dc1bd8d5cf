"""Adapters over HTTP, scores, and what there is to look at."""

import asyncio
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.claas.api_helpers import (
    KEYS,
    Claas,
    FakeVllm,
    claas_at,
    make_base,
    serving,
    settings_for,
    tokens_of,
)

from claas import api
from claas.api import create_app
from claas.errors import ConfigurationError
from claas.ledger import Ledger
from claas.storage import updating

ASK = {"model": "ann/bot", "messages": [{"role": "user", "content": "hello you"}]}
HOSTILE = '</script><img src=x onerror="document.title=1">'


def improved(ann: httpx.Client, times: int = 1) -> str:
    """Let an adapter have new versions; return the last receipt."""
    for _ in range(times):
        name = ann.post("/v1/chat/completions", json=ASK).headers["x-claas-receipt"]
        given = {"receipt": name, "kind": "critique", "content": HOSTILE, "wait": True}
        assert ann.post("/v1/feedback", json=given).status_code == 200
    return name


def test_the_life_of_an_adapter(claas: Claas, ann: httpx.Client) -> None:
    """Made, trained, promoted, rolled back, exported, deleted."""
    assert ann.post("/v1/lora", json={"lora": "ann/bot"}).status_code == 409
    improved(ann, 2)
    one = ann.get("/v1/lora/ann/bot").json()
    assert one["aliases"] == {"live": 2, "latest": 2} and one["base"] == "tiny"
    assert [v["version"] for v in one["versions"]] == [0, 1, 2]
    assert "files" not in one["versions"][0] and "path" not in one["versions"][0]
    assert [job["result"]["outcome"] for job in one["updates"]] == ["promoted"] * 2
    assert [f["content"] for f in one["feedback"]] == [HOSTILE] * 2
    found = ann.post("/v1/lora/ann/bot/rollback", json={"version": 1}).json()
    assert found["aliases"]["live"] == 1
    found = ann.post("/v1/lora/ann/bot/promote", json={"version": 2}).json()
    assert found["aliases"]["live"] == 2
    assert ("switch", "ann/bot", "ann/bot@v1") in claas.trainer.calls
    for path in ("promote", "rollback"):
        missing = ann.post(f"/v1/lora/ann/bot/{path}", json={"version": 9})
        assert missing.status_code == 404
    assert ann.post("/v1/lora/ann/bot/promote", json={}).status_code == 400
    file = ann.get("/v1/lora/ann/bot@v1/export")
    assert "ann-bot%40v1.zip" in file.headers["content-disposition"]
    names = zipfile.ZipFile(io.BytesIO(file.content)).namelist()
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(names)
    listed = ann.get("/v1/lora/ann/bot/versions").json()["data"]
    assert listed == one["versions"]


def test_what_is_deleted_is_gone(claas: Claas, ann: httpx.Client) -> None:
    """From the disk, from the server, and from the lessons of one of the same name."""
    name = improved(ann)
    given = {"receipt": name, "kind": "praise", "train": False}
    assert ann.post("/v1/feedback", json=given).status_code == 200
    asked = ann.post("/v1/chat/completions", json={**ASK, "model": "tiny"})
    base = {**given, "receipt": asked.headers["x-claas-receipt"], "lora": "ann/bot"}
    assert ann.post("/v1/feedback", json=base).status_code == 200
    assert ann.post("/v1/chat/completions", json=ASK).status_code == 200
    assert set(claas.upstream.adapters) == {"ann-bot@v0", "ann-bot@v1"}
    with updating("ann/bot", "a test", storage=claas.trainer.volume):
        assert ann.delete("/v1/lora/ann/bot").status_code == 503
    assert ann.get("/v1/lora/ann/bot").json()["open"] == 3
    assert ann.delete("/v1/lora/ann/bot").json()["deleted"] is True
    assert claas.upstream.adapters == {}
    assert ann.delete("/v1/lora/ann/bot").status_code == 404
    assert ann.get("/v1/lora").json()["data"] == []
    assert ann.post("/v1/chat/completions", json=ASK).status_code == 404
    assert ann.post("/v1/feedback", json=given).status_code == 404
    assert Ledger(claas.database).history("ann/bot") == []
    with claas.database.read() as db:
        for table in ("receipts", "feedback", "marks", "jobs"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    assert ann.post("/v1/lora", json={"lora": "ann/bot"}).status_code == 201
    assert ann.get("/v1/lora/ann/bot").json()["versions"][0]["version"] == 2


def test_only_so_many_adapters(
    tmp_path: Any, upstream: FakeVllm, upstream_url: str
) -> None:
    """A user's adapters are limited; names are checked."""
    with (
        claas_at(tmp_path, upstream, upstream_url, limits={"loras": 1}) as claas,
        claas.client() as ann,
    ):
        for name in ("ann", "ann/Bot", "ann/a/b", "ann/..", "ann/bot@v1", "ann/b\0"):
            assert ann.post("/v1/lora", json={"lora": name}).status_code == 400
        assert ann.post("/v1/lora", json={"lora": "ann/one"}).status_code == 201
        assert ann.post("/v1/lora", json={"lora": "ann/two"}).status_code == 429


def test_scores(claas: Claas, ann: httpx.Client) -> None:
    """Of an answer by its receipt, by text, by tokens; by any version, or the base."""
    name = ann.post("/v1/chat/completions", json=ASK).headers["x-claas-receipt"]
    claas.upstream.adapters.clear()
    given = {"model": "ann/bot@v0", "receipt": name, "top_logprobs": 2}
    body = ann.post("/v1/score", json=given).json()
    ids = tokens_of("well met !")
    assert body["token_ids"] == ids and body["version"] == "ann/bot@v0"
    assert body["logprobs"] == [-i / 100 for i in ids]
    assert body["sum"] == pytest.approx(sum(body["logprobs"]))
    assert body["mean"] == pytest.approx(body["sum"] / 3)
    assert body["top_logprobs"] == [{"7000": -0.1, "7001": -0.2}] * 3
    for more in (
        {"prompt": "hello you", "response": "well met !"},
        {"prompt": tokens_of("hello you"), "response": ids},
        {"messages": ASK["messages"], "response": "well met !"},
    ):
        told = ann.post("/v1/score", json={"model": "tiny", **more}).json()
        assert told["logprobs"] == body["logprobs"] and told["version"] is None
    sent = claas.upstream.bodies("/v1/completions")[-1]
    assert sent["prompt"] == [*tokens_of("hello you"), *ids]
    claas.upstream.fails = (400, {"error": {"message": "at most 20 logprobs"}})
    found = ann.post("/v1/score", json=given)
    assert found.status_code == 400 and "at most 20" in found.text
    for wrong in ({}, {"receipt": name, "response": "x"}, {"response": "x"}):
        assert ann.post("/v1/score", json={"model": "tiny", **wrong}).status_code == 400


def test_what_there_is_to_look_at(claas: Claas, ann: httpx.Client) -> None:
    """Models, metrics, and a page that loads nothing from elsewhere."""
    improved(ann)
    assert ann.get("/v1/models/ann/bot@v0").json()["root"] == "ann/bot@v0"
    text = ann.get("/metrics").text
    for line in (
        'claas_answers_total{kind="whole"} 1',
        "claas_receipts_total 1",
        'claas_feedback_total{kind="critique"} 1',
        'claas_updates_total{kind="promoted"} 1',
        "claas_jobs_waiting 0",
    ):
        assert line in text
    page = ann.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page.text and "innerHTML" not in page.text


def test_old_versions_are_unloaded_without_another_update(claas: Claas) -> None:
    """Now and then; else the last one that was replaced would stay loaded."""
    assert claas.trainer.retired.wait(30)


def test_health_needs_no_thread(
    claas: Claas, ann: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may ask, so nobody can hold up answers by asking often."""

    async def to_thread(*_: Any) -> None:
        raise AssertionError("a thread")

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    assert ann.get("/v1/health").json() == {"status": "ok"}
    claas.upstream.is_well = False
    found = ann.get("/v1/health", headers={"Authorization": ""})
    assert (found.status_code, found.json()) == (503, {"status": "no inference server"})


def test_a_server_that_is_not_there(tmp_path: Any, upstream: FakeVllm) -> None:
    """Claas starts without it, says so, and answers 502."""
    with serving(upstream.app()) as url:
        pass
    with claas_at(tmp_path, upstream, url) as claas, claas.client() as ann:
        assert ann.get("/v1/health").status_code == 503
        assert ann.post("/v1/lora", json={"lora": "ann/bot"}).status_code == 201
        for streams in (False, True):
            given = {**ASK, "stream": streams}
            found = ann.post("/v1/chat/completions", json=given)
            assert found.status_code == 502
            assert f"at {url} does not answer" in found.json()["error"]["message"]


def test_a_server_for_nobody_is_refused(claas: Claas, tmp_path: Any) -> None:
    """Neither without users nor without a base."""
    settings = settings_for(tmp_path, "http://127.0.0.1:1")
    for name, said in (("users", "nobody may use"), ("base_model", "Set 'base_model'")):
        empty = settings.model_copy(update={name: type(getattr(settings, name))()})
        with pytest.raises(ConfigurationError, match=said):
            create_app(empty, claas.trainer)


def test_the_app_is_made_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`claas.api.app` is for uvicorn and modal: from the environment, no server."""
    monkeypatch.chdir(tmp_path)
    assert not hasattr(api, "application")
    monkeypatch.setenv("CLAAS_STORAGE", str(tmp_path / "loras"))
    with pytest.raises(ConfigurationError, match="nobody may use this server"):
        _ = api.app
    monkeypatch.setenv("CLAAS_USERS", json.dumps(KEYS))
    monkeypatch.setenv("CLAAS_BASE_MODEL", str(make_base(tmp_path / "base")))
    with serving(api.app) as url:
        headers = {"Authorization": f"Bearer {KEYS['ann']}"}
        found = httpx.get(f"{url}/v1/models", headers=headers)
        assert found.json()["data"][0]["id"] == str(tmp_path / "base")
