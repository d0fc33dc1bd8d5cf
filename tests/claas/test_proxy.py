"""Completions through claas: what passes, what is taken out, what is kept."""

import asyncio
import itertools
import json
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.claas.api_helpers import (
    BASE,
    Claas,
    FakeVllm,
    claas_at,
    make_base,
    tokens_of,
    until,
)

from claas.receipts import Receipts
from claas.serving import Serving
from claas.storage import create_initial_lora
from claas.web.desk import Desk

ASK = {"model": "ann/bot", "messages": [{"role": "user", "content": "hello you"}]}


def kept(claas: Claas, name: str) -> Any:
    """Return a receipt from the disk."""
    return Receipts(claas.database).get(name)


def events(response: httpx.Response) -> Iterator[Any]:
    """Give the events of a stream, each read as soon as it is there."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield "end" if line[6:] == "[DONE]" else json.loads(line[6:])


def test_an_answer_has_a_receipt(claas: Claas, ann: httpx.Client) -> None:
    """Tokens and log probabilities are kept, and not shown to who did not ask."""
    more = {"temperature": 0.5, "tools": [{"type": "function"}], "odd": {"x": 1}}
    found = ann.post("/v1/chat/completions", json={**ASK, **more})
    body = found.json()
    assert (found.status_code, body["model"]) == (200, "ann/bot")
    assert found.headers["x-claas-receipt"] == body["id"] != "chatcmpl-theirs"
    assert body["system"] == "kept" and "prompt_token_ids" not in body
    choice = body["choices"][0]
    assert "token_ids" not in choice and choice["logprobs"] is None
    sent = claas.upstream.bodies("/v1/chat/completions")[-1]
    assert sent["model"] == "ann-bot@v0" and sent["odd"] == {"x": 1}
    assert sent["tools"] == more["tools"]
    receipt = kept(claas, body["id"])
    assert (receipt.user, receipt.lora, receipt.version) == ("ann", "ann/bot", 0)
    assert receipt.messages == tuple(ASK["messages"])
    assert receipt.prompt_ids == tuple(tokens_of("hello you"))
    assert receipt.token_ids == tuple(tokens_of("well  met !"))
    assert receipt.logprobs == (-0.5, -1.0, -1.5)
    assert receipt.text == "well met!" == choice["message"]["content"]
    assert receipt.sampling == {"temperature": 0.5, "odd": {"x": 1}}
    assert receipt.tools == ({"type": "function"},)


def test_what_was_asked_for_is_shown(ann: httpx.Client) -> None:
    """A client that asks for tokens and log probabilities gets them."""
    more = {"logprobs": True, "return_token_ids": True}
    body = ann.post("/v1/chat/completions", json={**ASK, **more}).json()
    assert body["prompt_token_ids"] == tokens_of("hello you")
    choice = body["choices"][0]
    assert len(choice["token_ids"]) == len(choice["logprobs"]["content"]) == 3


def test_completions_have_receipts_too(claas: Claas, ann: httpx.Client) -> None:
    """A plain prompt; two answers of one request have a receipt each."""
    given = {"model": "ann/bot", "prompt": "hello you", "n": 2}
    found = ann.post("/v1/completions", json=given)
    name = found.headers["x-claas-receipt"]
    assert name.startswith("cmpl-") and found.json()["choices"][0]["logprobs"] is None
    assert claas.upstream.bodies("/v1/completions")[-1]["logprobs"] == 0
    for receipt in (kept(claas, name), kept(claas, f"{name}:1")):
        assert receipt.messages == ({"role": "prompt", "content": "hello you"},)
        assert receipt.prompt_ids == tuple(tokens_of("hello you"))
        assert receipt.logprobs == (-0.5, -1.0, -1.5)
    asked = ann.post("/v1/completions", json={**given, "logprobs": 0}).json()
    assert asked["choices"][0]["logprobs"]["token_logprobs"] == [-0.5, -1.0, -1.5]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_passes_as_it_comes(
    claas: Claas, ann: httpx.Client, path: str
) -> None:
    """The first words are here while the server still writes; then the receipt."""
    claas.upstream.gate.clear()
    given = {**ASK, "stream": True} | {"prompt": "hello you"}
    with ann.stream("POST", path, json=given) as response:
        name = response.headers["x-claas-receipt"]
        coming = events(response)
        first = next(coming)
        assert first["id"] == name and first["model"] == "ann/bot"
        assert not claas.upstream.left.is_set()
        claas.upstream.gate.set()
        chunks = [first]
        for chunk in coming:
            if chunk == "end":
                assert kept(claas, name).text == "well met!"  # before the end is told
                break
            chunks.append(chunk)
    choices = [chunk["choices"][0] for chunk in chunks]
    said = [c.get("text", c.get("delta", {}).get("content")) or "" for c in choices]
    assert "".join(said) == "well met!"
    assert len(chunks) == len(claas.upstream.words) + 1 + path.count("chat")
    assert not any({"token_ids", "prompt_token_ids"} & set(c) for c in choices)
    assert not any("prompt_token_ids" in chunk for chunk in chunks)
    assert all(c.get("logprobs") is None for c in choices)
    receipt = kept(claas, name)
    assert receipt.token_ids == tuple(tokens_of("well  met !"))
    assert receipt.prompt_ids == tuple(tokens_of("hello you"))
    assert receipt.logprobs == (-0.5, -1.0, -1.5)


def test_a_client_that_leaves_ends_its_answer(
    claas: Claas, ann: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is let go, and what the client saw has a receipt, which is written
    while others are answered."""
    claas.upstream.gate.clear()
    add, loops = Receipts.add, []

    def seen(self: Receipts, *receipts: Any) -> None:
        loops.append(asyncio._get_running_loop())
        add(self, *receipts)

    monkeypatch.setattr(Receipts, "add", seen)
    with ann.stream(
        "POST", "/v1/chat/completions", json={**ASK, "stream": True}
    ) as response:
        name = response.headers["x-claas-receipt"]
        coming = events(response)
        assert [next(coming), next(coming)]
    receipts = Receipts(claas.database)
    until(lambda: receipts.count("ann") == 1)
    assert receipts.get(name).text == "well" and loops == [None]
    claas.upstream.gate.set()
    until(claas.upstream.left.is_set)


def test_a_stream_that_breaks_says_so(claas: Claas, ann: httpx.Client) -> None:
    """An error in OpenAI's form, an end, and no receipt of half an answer."""
    claas.upstream.breaks = True
    given = {**ASK, "stream": True}
    with ann.stream("POST", "/v1/chat/completions", json=given) as response:
        told = list(events(response))
        name = response.headers["x-claas-receipt"]
    assert "does not answer" in told[-2]["error"]["message"] and told[-1] == "end"
    said = ann.post("/v1/feedback", json={"receipt": name, "kind": "praise"})
    assert said.status_code == 404


def test_half_a_character_passes(claas: Claas, ann: httpx.Client) -> None:
    """Half of a surrogate pair is no UTF-8, but JSON has it."""
    claas.upstream.words = ["\ud83d", "!"]
    content = json.dumps({**ASK, "n": "1", "tools": 5}).replace("hello", "\\ud83d")
    body = ann.post("/v1/chat/completions", content=content)
    assert json.loads(body.text)["choices"][0]["message"]["content"] == "\ud83d!"
    assert kept(claas, body.json()["id"]).text == "\ud83d!"
    given = {**ASK, "stream": True}
    with ann.stream("POST", "/v1/chat/completions", json=given) as response:
        told = [e["choices"][0]["delta"] for e in events(response) if e != "end"]
    assert [d["content"] for d in told if d.get("content")] == ["\ud83d", "!"]


def test_versions_and_the_base(claas: Claas, ann: httpx.Client) -> None:
    """The live version, a fixed one, and the base, whose receipt names no version."""
    said = {"model": "ann/bot@v0"}
    assert ann.post("/v1/chat/completions", json={**ASK, **said}).status_code == 200
    found = ann.post("/v1/chat/completions", json={**ASK, "model": BASE})
    assert found.status_code == 200
    receipt = kept(claas, found.headers["x-claas-receipt"])
    assert (receipt.user, receipt.lora, receipt.version) == ("ann", "", None)
    assert receipt.token_ids == tuple(tokens_of("well  met !"))
    names = [b["model"] for b in claas.upstream.bodies("/v1/chat/completions")]
    assert names == ["ann-bot@v0", "ann-bot@v0", BASE]
    missing = ann.post("/v1/chat/completions", json={**ASK, "model": "ann/bot@v9"})
    assert missing.status_code == 404
    assert "there is no ann/bot@v9" in missing.json()["error"]["message"]


def test_an_adapter_of_another_base_is_not_loaded(
    claas: Claas, ann: httpx.Client
) -> None:
    """It would answer nonsense, or the server would say something of shapes."""
    other = str(make_base(claas.settings.storage / "elsewhere"))
    create_initial_lora("ann/old", other, 2, storage=claas.trainer.volume)
    found = ann.post("/v1/chat/completions", json={**ASK, "model": "ann/old"})
    assert found.status_code == 500
    assert "was made for the base model" in found.json()["error"]["message"]
    assert claas.upstream.adapters == {}
    assert ann.post("/v1/chat/completions", json=ASK).status_code == 200
    assert "ann/bot@v0" in claas.trainer.lent


def test_a_server_that_was_started_anew_is_given_its_adapters(
    claas: Claas, ann: httpx.Client
) -> None:
    """A version that it does not know is loaded once, and asked again."""
    for _ in range(2):
        assert ann.post("/v1/chat/completions", json=ASK).status_code == 200
    assert len(claas.upstream.bodies("/v1/load_lora_adapter")) == 1
    claas.upstream.adapters.clear()
    assert ann.post("/v1/chat/completions", json=ASK).status_code == 200
    assert len(claas.upstream.bodies("/v1/load_lora_adapter")) == 2


def test_what_asks_the_server_takes_no_shared_threads(
    claas: Claas, ann: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, switches and deletions: one that hangs stops nothing else."""
    names: list[str] = []

    def seen(kind: type, name: str) -> None:
        real = getattr(kind, name)

        def call(*given: Any, **more: Any) -> Any:
            names.append(threading.current_thread().name)
            return real(*given, **more)

        monkeypatch.setattr(kind, name, call)

    seen(Serving, "score")
    seen(type(claas.trainer), "switch")
    seen(Desk, "unload")
    asked = {"model": "tiny", "prompt": "a", "response": "b c"}
    assert ann.post("/v1/score", json=asked).status_code == 200
    for what in ("promote", "rollback"):
        path = f"/v1/lora/ann/bot/{what}"
        assert ann.post(path, json={"version": 0}).status_code == 200
    assert ann.delete("/v1/lora/ann/bot").status_code == 200
    assert [name.rpartition("_")[0] for name in names] == ["claas-server"] * 4


def test_a_server_that_hangs_holds_up_only_who_needs_it(
    claas: Claas, ann: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it has threads of its own: a few waiting loads once took all."""
    load, names = Desk.load, []

    def noted(self: Desk, name: Any) -> None:
        names.append(threading.current_thread().name)
        load(self, name)

    monkeypatch.setattr(Desk, "load", noted)
    assert ann.post("/v1/chat/completions", json=ASK).status_code == 200
    assert [name.rstrip("0123456789") for name in names] == ["claas-server_"]


FAILS: list[tuple[Any, int, str]] = [
    ((400, {"error": {"message": "too long"}}), 400, "too long"),
    ((422, {"object": "error", "message": "no"}), 422, "no"),
    ((401, {"error": "Unauthorized"}), 502, "Set 'server_key'"),
    ((429, {"error": {"message": "busy"}}), 429, "busy"),
    ((500, "oh"), 502, "refuses (500)"),
    ((503, {"error": {"message": "asleep"}}), 503, "asleep"),
]


def test_refusals_of_the_server_pass(claas: Claas, ann: httpx.Client) -> None:
    """The client's fault stays the client's, the server's is a bad gateway."""
    cases = itertools.product(FAILS, (False, True))
    for (claas.upstream.fails, status, said), streams in cases:
        given = {**ASK, "stream": streams}
        found = ann.post("/v1/chat/completions", json=given)
        assert found.status_code == status
        assert said in found.json()["error"]["message"]


NO_BODIES = [
    (b"{", "the body is no JSON"),
    (b"[]", "must be an object"),
    (b"{}", "'model' must name an adapter"),
    (b"[" * 100_000, "the body is no JSON"),
    (b'{"model": "gpt-9"}', "'gpt-9' is no name of an adapter"),
    (b'{"model": "ann/bot", "stream": "false"}', "'stream' must be true or false"),
    (b'{"model": "ann/bot", "seed": NaN}', "the body is no JSON"),
    (b'{"model": "ann/../bob/bot"}', "is no name of an adapter"),
]


def test_bodies_that_are_none(ann: httpx.Client) -> None:
    """Status 400, with what is wrong."""
    for content, said in NO_BODIES:
        found = ann.post("/v1/chat/completions", content=content)
        assert found.status_code == 400 and said in found.json()["error"]["message"]


def test_an_answer_is_not_withheld_for_its_receipt(
    claas: Claas, ann: httpx.Client
) -> None:
    """Neither a server without tokens nor a full disk keeps an answer back."""
    claas.upstream.tells_tokens = False
    found = ann.post("/v1/chat/completions", json=ASK)
    assert found.status_code == 200 and "x-claas-receipt" not in found.headers
    claas.upstream.tells_tokens = True
    with sqlite3.connect(claas.settings.database_path) as db:
        db.execute("DROP TABLE receipts")
    db.close()
    found = ann.post("/v1/chat/completions", json=ASK)
    assert found.status_code == 200 and "x-claas-receipt" not in found.headers
    text = ann.get("/metrics").text
    assert 'claas_receipts_lost_total{kind="no_tokens"} 1' in text
    assert 'claas_receipts_lost_total{kind="storage"} 1' in text


def test_equal_answers_do_not_collide_and_a_restart_loses_nothing(
    tmp_path: Any, upstream: FakeVllm, upstream_url: str
) -> None:
    """Two prompts, one answer, two receipts; both can be spoken of after a restart."""
    with claas_at(tmp_path, upstream, upstream_url) as one, one.client() as ann:
        ann.post("/v1/lora", json={"lora": "ann/bot"})
        asked = [[{"role": "user", "content": text}] for text in ("one", "two")]
        names = [
            ann.post("/v1/chat/completions", json={**ASK, "messages": m}).json()["id"]
            for m in asked
        ]
    assert len(set(names)) == 2
    with claas_at(tmp_path, upstream, upstream_url) as two, two.client() as ann:
        for name, messages in zip(names, asked, strict=True):
            assert list(kept(two, name).messages) == messages
            given = {"receipt": name, "kind": "praise", "wait": True}
            assert ann.post("/v1/feedback", json=given).status_code == 200
