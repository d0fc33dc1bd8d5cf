"""The functions that go to Modal train the tiny model here, by ``.local()``."""

import json
import pickle
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from tests.claas.api_helpers import KEYS, SERVER_KEY, FakeVllm, serving
from tests.claas.training.lessons import pairs
from tests.claas.training.test_circle import GATE, LORA, STRONG

from claas import api
from claas.config import read_settings
from claas.web.deployment import Deployment, deployment_of, environment_of

pytest.importorskip("modal")
pytestmark = pytest.mark.filterwarnings("ignore:The .* executing locally:UserWarning")


class TinyVllm(FakeVllm):
    """A server that knows the tokens of the tiny model."""

    def _add_adapters(self, app: FastAPI) -> None:
        @app.post("/tokenize")  # the first of two is asked
        async def tokenize(request: Request) -> Any:
            from tests.claas.training.tiny import TABLE  # noqa: PLC0415 - torch

            body = await self._taken(request)
            told = body.get("prompt") or " ".join(
                [f"<{one['role']}> {one['content']}" for one in body["messages"]]
                + ["<assistant>"]
            )
            return {"tokens": [TABLE[word] for word in told.split()]}

        super()._add_adapters(app)


@pytest.fixture
def deployed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Path
) -> Deployment:
    """What would be deployed, its volume a folder, on the CPU."""
    settings = read_settings(
        **{"engine": "modal", "gpu": "", "users": KEYS, "server_key": SERVER_KEY},
        **{"base_model": str(tiny_folder), "base_name": "tiny", "threads": 1},
        **{"training": STRONG, "teaching": {"tokens": 8}, "gate": GATE},
    )
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLAAS_STORAGE", str(tmp_path / "loras"))
    monkeypatch.setattr(api.tempfile, "tempdir", str(tmp_path))
    api._teaching.cache_clear()
    found = deployment_of(settings, api.web, api.teach)

    def sent(what: str, *given: Any) -> Any:
        """Call the training function as Modal does: what goes there is pickled."""
        what, given = pickle.loads(pickle.dumps((what, given)))
        return pickle.loads(pickle.dumps(found.teach.local(what, *given)))

    monkeypatch.setattr(api, "teach", sent)
    return found


def test_feedback_becomes_weights_by_local(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taught, trained, judged, promoted, loaded; the base model is loaded once."""
    upstream = TinyVllm()
    check = {"required": "^kuro"}
    headers = {"Authorization": f"Bearer {KEYS['ann']}"}
    with serving(upstream.app()) as vllm:
        monkeypatch.setenv("CLAAS_SERVER_URL", vllm)
        with (
            serving(deployed.web.local()) as url,
            httpx.Client(base_url=url, headers=headers, timeout=300) as ann,
        ):
            assert ann.post("/v1/lora", json={"lora": LORA}).status_code == 201
            for at, words in enumerate(pairs(6, seed=1)):
                asked = [{"role": "user", "content": f"echo {words}"}]
                said = {"kind": "critique", "content": "say kuro", "check": check}
                body = {"model": LORA, "messages": asked, "response": words, **said}
                is_last = at == 5
                told = ann.post(
                    "/v1/distill", json={**body, "train": is_last, "wait": is_last}
                )
                assert told.is_success, told.text
            (job,) = told.json()["jobs"]
            name = job["result"]["lessons"][0]
            given = {"feedback": name, "wait": True}
            told = ann.post(f"/v1/lora/{LORA}@v0/explain", json=given).json()
            rows = told["result"]["rows"]
    assert rows[0]["push"] < -1 and rows[0]["teacher_best"] == "kuro"
    result = job["result"]
    assert result["outcome"] == "promoted", json.dumps(result)
    assert (result["version"], len(result["lessons"])) == (1, 6)
    assert upstream.adapters["ann-kuro@v1"].endswith("loras/ann/kuro/v1")
    assert api._teaching.cache_info().misses == 1
    api._teaching.cache_clear()
