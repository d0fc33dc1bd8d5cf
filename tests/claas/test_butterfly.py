"""The same over HTTP with a real inference server, butterfly's, as a process.

The test starts it; claas never does.
"""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.butterfly.nursery import Nursery
from tests.butterfly.server_helpers import Server, make_model
from tests.claas.api_helpers import KEYS, FakeTrainer, serving

from claas.api import create_app
from claas.config import read_settings
from claas.database import Database
from claas.receipts import Receipts
from claas.serving import Serving
from claas.volumes import LocalVolume

NEEDS = ("torch", "transformers", "llguidance", "prometheus_client")
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDS), reason="needs the extra butterfly"
)
KEY = "a-key-for-butterfly"
ASK = {
    "model": "ann/bot",
    "messages": [{"role": "user", "content": "The quick brown fox"}],
    "max_tokens": 6,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model."""
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def url(base: Path, nursery: Nursery) -> Iterator[str]:
    """Where butterfly serves it."""
    given = "--name", "tiny", "--lanes", "2", "--positions", "256"
    found = Server.begun(nursery, str(base), *given, stages=1, BUTTERFLY_API_KEY=KEY)
    yield f"{found.url}/v1"
    found.end()


def test_the_circle_up_to_the_worker(url: str, base: Path, tmp_path: Path) -> None:
    """Answers have receipts with the sampled tokens; scores agree with them."""
    settings = read_settings(
        server_url=url,
        server_key=KEY,
        users=KEYS,
        base_model=str(base),
        base_name="tiny",
        storage=tmp_path / "loras",
    )
    trainer = FakeTrainer(LocalVolume(settings.storage))
    headers = {"Authorization": f"Bearer {KEYS['ann']}"}
    with (
        serving(create_app(settings, trainer)) as here,
        httpx.Client(base_url=here, headers=headers, timeout=120) as ann,
    ):
        assert ann.get("/v1/health").json() == {"status": "ok"}
        assert ann.post("/v1/lora", json={"lora": "ann/bot"}).status_code == 201
        whole = ann.post("/v1/chat/completions", json={**ASK, "seed": 1})
        assert whole.status_code == 200, whole.text
        streamed, text = stream(ann, {**ASK, "seed": 1})
        assert text == whole.json()["choices"][0]["message"]["content"]
        plain = ann.post(
            "/v1/completions",
            json={"model": "ann/bot", "prompt": "The quick", "max_tokens": 6},
        )
        names = [whole.json()["id"], streamed, plain.json()["id"]]
        database = Database(settings.database_path)
        receipts = [Receipts(database).get(name) for name in names]
        database.close()
        assert receipts[0].token_ids == receipts[1].token_ids
        assert receipts[0].prompt_ids == receipts[1].prompt_ids
        for receipt in receipts:
            assert 0 < len(receipt.token_ids) == len(receipt.logprobs) <= 6
            given = {"model": "ann/bot@v0", "receipt": receipt.id, "top_logprobs": 3}
            told = ann.post("/v1/score", json=given).json()
            assert told["token_ids"] == list(receipt.token_ids)
            assert told["logprobs"] == pytest.approx(receipt.logprobs, abs=1e-4)
            assert [len(top) for top in told["top_logprobs"]] == [3] * len(
                receipt.token_ids
            )
        assert distilled(ann) == 200
        said = {"receipt": names[1], "kind": "critique", "content": "no", "wait": True}
        assert ann.post("/v1/feedback", json=said).json()["jobs"][0]["state"] == "done"
        ann.post("/v1/chat/completions", json=ASK)
        server = Serving(url, KEY)
        assert server.names() == ["tiny", "ann-bot@v0", "ann-bot@v1"]
        assert ann.delete("/v1/lora/ann/bot").status_code == 200
        assert server.names() == ["tiny"]
        server.close()


def stream(client: httpx.Client, given: dict[str, Any]) -> tuple[str, str]:
    """Return the receipt and the text of a streamed answer."""
    text = ""
    with client.stream(
        "POST", "/v1/chat/completions", json={**given, "stream": True}
    ) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                choice = json.loads(line[6:])["choices"][0]
                assert "token_ids" not in choice and choice["logprobs"] is None
                text += choice["delta"].get("content") or ""
        return response.headers["x-claas-receipt"], text


def distilled(client: httpx.Client) -> int:
    """Return the status of feedback on an answer from elsewhere."""
    given = {
        **{"model": "ann/bot", "messages": ASK["messages"], "response": "jumps"},
        **{"kind": "correction", "content": "runs", "train": False},
    }
    return client.post("/v1/distill", json=given).status_code
