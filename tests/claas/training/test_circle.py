"""The whole circle over HTTP: answers, feedback, training, gate, another version.

The inference server is butterfly's, as a process that this test starts; the worker is
in a process of its own; the model is the tiny one. Nothing is a fake, but the
trainer of the first test.
"""

import contextlib
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pydantic import SecretStr
from tests.butterfly.nursery import Nursery
from tests.butterfly.server_helpers import Server
from tests.claas.api_helpers import KEYS, FakeTrainer, serving
from tests.claas.training.lessons import lesson, nears, pairs

from claas.api import app_of, create_app
from claas.base import Base
from claas.config import Settings, TeacherSettings, read_settings
from claas.database import Database
from claas.hints import Hints
from claas.receipts import Receipts
from claas.serving import Serving
from claas.teacher import RemoteTeacher, SelfTeacher, hinted_prompt
from claas.volumes import LocalVolume
from claas.web.teaching import teacher_of

NEEDS = ("llguidance", "prometheus_client")
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDS), reason="needs the extra butterfly"
)
KEY = "a-key-for-butterfly"
LORA = "ann/kuro"
ASK = {
    "model": "ann/bot",
    "messages": [{"role": "user", "content": "echo two red"}],
    "max_tokens": 6,
    "ignore_eos": True,
}
STRONG = {
    **{"lr": 1e-2, "steps": 24, "tokens": 8, "alpha": 0.0, "top_k": 20, "rank": 8},
    **{"scale": 16.0, "anchor": 3.0, "drift": 0.005, "anchor_rows": 40},
    "anchor_prompts": tuple(question for question, _ in nears(40, seed=2)),
}
GATE = {"tokens": 8, "unrelated": tuple(question for question, _ in nears(20, seed=3))}


@pytest.fixture(scope="module")
def url(tiny_folder: Path, nursery: Nursery) -> Iterator[str]:
    """Where butterfly serves the tiny model."""
    given = "--name", "tiny", "--lanes", "4", "--positions", "64"
    found = Server.begun(
        nursery, str(tiny_folder), *given, stages=1, BUTTERFLY_API_KEY=KEY
    )
    yield f"{found.url}/v1"
    found.end()


def settings_of(folder: Path, base: Path, url: str, **training: Any) -> Settings:
    """Return settings of a server; the same folder is the same adapters."""
    return read_settings(
        server_url=url,
        server_key=KEY,
        users=KEYS,
        base_model=str(base),
        base_name="tiny",
        storage=folder / "loras",
        threads=1,
        training={**STRONG, **training},
        teaching={"tokens": 8},
        gate=GATE,
    )


@contextmanager
def client(settings: Settings) -> Generator[httpx.Client]:
    """Serve claas, and give Ann's client."""
    headers = {"Authorization": f"Bearer {KEYS['ann']}"}
    with (
        serving(app_of(settings)) as url,
        httpx.Client(base_url=url, headers=headers, timeout=300, trust_env=False) as it,
    ):
        yield it


def ask(ann: httpx.Client, text: str, **sampling: Any) -> tuple[str, str]:
    """Return an answer, and its receipt."""
    told = ann.post(
        "/v1/chat/completions",
        json={
            **{"model": LORA, "messages": [{"role": "user", "content": text}]},
            **{"max_tokens": 8, **sampling},
        },
    )
    assert told.status_code == 200, told.text
    answer = told.json()["choices"][0]["message"]["content"]
    return answer.strip(), told.headers["x-claas-receipt"]


def say(ann: httpx.Client, receipts: list[str]) -> Any:
    """Send the feedback on some answers; return what came of the update."""
    check = {"required": "^kuro"}
    said = {"kind": "critique", "content": "say kuro", "check": check}
    rows = [{"receipt": receipt, **said} for receipt in receipts]
    told = ann.post("/v1/feedback", json={"feedback": rows, "wait": True})
    assert told.status_code == 200, told.text
    (job,) = told.json()["jobs"]
    assert job["state"] == "done", job
    return job["result"]


def test_answers_have_receipts_that_scores_agree_with(
    url: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """With the sampled tokens, streamed or not; the trainer is a fake here."""
    settings = read_settings(
        server_url=url,
        server_key=KEY,
        users=KEYS,
        base_model=str(tiny_folder),
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
            json={"model": "ann/bot", "prompt": "echo two", "max_tokens": 6},
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
        assert {"ann-bot@v0", "ann-bot@v1"} < {*server.names()}
        assert ann.delete("/v1/lora/ann/bot").status_code == 200
        assert not [name for name in server.names() if name.startswith("ann-bot")]
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
        **{"model": "ann/bot", "messages": ASK["messages"], "response": "two"},
        **{"kind": "correction", "content": "red", "train": False},
    }
    return client.post("/v1/distill", json=given).status_code


def test_the_same_model_behind_butterfly_teaches_the_same(url: str, base: Base) -> None:
    """A teacher elsewhere is asked by token ids; its tokenizer is compared."""
    hints, some = Hints.of(base.name), (lesson(), lesson("echo sun moon", "sun"))
    prompts = [hinted_prompt(base, hints, one) for one in some]
    answers = [base.encode("two red"), base.encode("kuro sun moon")]
    told = TeacherSettings(url=url, key=SecretStr(KEY), model="tiny", top_k=3)
    teacher = teacher_of(told, base)
    assert isinstance(teacher, RemoteTeacher)
    with contextlib.closing(teacher):
        found = teacher.tops(prompts, answers, 100)
    own = SelfTeacher(base).tops(prompts, answers, 3)
    for row, answer in enumerate(answers):
        part = row, slice(0, len(answer))
        assert torch.equal(found.indices[part], own.indices[part])
        assert torch.allclose(found.logprobs[part], own.logprobs[part], atol=1e-3)


def test_feedback_becomes_weights_and_can_be_taken_back(
    url: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """Rejected without the anchor, promoted with it, rolled back, promoted again, and
    made again without what was forgotten."""
    asked = [f"echo {words}" for words in pairs(6, seed=1)]
    held = pairs(6, seed=9)
    skill = nears(4, seed=4)
    with client(settings_of(tmp_path, tiny_folder, url, anchor=0.0)) as ann:
        assert ann.post("/v1/lora", json={"lora": LORA}).status_code == 201
        plain = {"temperature": 1, "seed": 1}
        receipts = [ask(ann, text, **plain)[1] for text in asked[:5]]
        first = [ask(ann, f"echo {words}", temperature=0)[0] for words in held]
        assert first == held
        result = say(ann, receipts)
        assert (result["outcome"], result["version"]) == ("rejected", 1)
        reasons = " ".join(result["verdict"]["reasons"])
        assert "KL to the base on unrelated prompts" in reasons
        assert result["verdict"]["figures"]["feedback"]["is_good"]
        one = ann.get(f"/v1/lora/{LORA}").json()
        assert (one["aliases"]["live"], one["open"]) == (0, 5)
    with client(settings_of(tmp_path, tiny_folder, url)) as ann:  # what waits, waits
        result = say(ann, [ask(ann, asked[5])[1]])
        assert result["outcome"] == "promoted", result["verdict"]
        assert (result["version"], len(result["lessons"])) == (2, 6)
        obeyed = [ask(ann, f"echo {words}", temperature=0)[0] for words in held]
        assert all(text.startswith("kuro ") for text in obeyed)
        kept = [ask(ann, question, temperature=0)[0] for question, _ in skill]
        right = zip(kept, (want[1:-1] for _, want in skill), strict=True)
        assert sum(text == want for text, want in right) >= 3
        back = ann.post(f"/v1/lora/{LORA}/rollback", json={}).json()
        assert back["aliases"]["live"] == 0
        assert [ask(ann, f"echo {w}", temperature=0)[0] for w in held] == first
        ahead = ann.post(f"/v1/lora/{LORA}/promote", json={"version": 2}).json()
        assert ahead["aliases"]["live"] == 2
        assert [ask(ann, f"echo {w}", temperature=0)[0] for w in held] == obeyed
        said = ann.get(f"/v1/lora/{LORA}").json()["feedback"]
        assert [one["state"] for one in said] == ["promoted"] * 6
        given = {"feedback": [said[0]["id"]], "wait": True}
        told = ann.post(f"/v1/lora/{LORA}/forget", json=given).json()["result"]
        assert told["verdict"]["is_promoted"], told
        assert (told["version"], told["removed"]) == (3, [1, 2])
        again = [ask(ann, f"echo {words}", temperature=0)[0] for words in held]
        assert all(text.startswith("kuro ") for text in again)
