"""The inference server as the worker asks it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from tests.claas.api_helpers import SERVER_KEY, FakeVllm, serving, tokens_of

from claas.errors import ServingError
from claas.serving import Serving


@pytest.fixture
def server(upstream_url: str) -> Iterator[Serving]:
    """The inference server; its address may end with /v1."""
    found = Serving(f"{upstream_url}/v1/", SERVER_KEY)
    yield found
    found.close()


def test_adapters_come_and_go(
    server: Serving, upstream: FakeVllm, tmp_path: Path
) -> None:
    """Loading what is loaded and unloading what is not are no errors."""
    (tmp_path / "adapter_config.json").write_text("{}")
    for _ in range(2):
        server.load("ann-bot@v1", str(tmp_path))
    assert server.names() == ["tiny", "ann-bot@v1"]
    for _ in range(2):
        server.unload("ann-bot@v1")
    assert server.names() == ["tiny"]
    with pytest.raises(ServingError, match="No adapter found for /nowhere") as caught:
        server.load("ann-bot@v2", "/nowhere")
    assert caught.value.status == 404


def test_scores_are_by_token(server: Serving, upstream: FakeVllm) -> None:
    """Each token's own, and the most probable ones, the first token left out."""
    found = server.score([5, 6, 7], "tiny", 2)
    assert found.logprobs == (-0.06, -0.07)
    assert found.indices == ((6, 7000), (7, 7000))
    assert found.tops == ((-0.06, -0.1), (-0.07, -0.1))
    sent = upstream.bodies("/v1/completions")[-1]
    assert (sent["prompt"], sent["prompt_logprobs"]) == ([5, 6, 7], 2)
    assert server.score([5], "tiny").logprobs == ()
    assert server.tokenize("tiny", text="a b") == tokens_of("a b")


def test_a_server_that_refuses(upstream: FakeVllm, upstream_url: str) -> None:
    """A wrong key, a server that is not there, one that is something else."""
    with pytest.raises(ServingError, match=r"refuses \(401\).*Set 'server_key'") as one:
        with contextlib.closing(Serving(upstream_url, "wrong")) as server:
            server.names()
    assert one.value.status == 401 and "wrong" not in str(one.value)
    with serving(FastAPI()) as url, contextlib.closing(Serving(url)) as server:
        with pytest.raises(ServingError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            server.load("x", "/x")
    with contextlib.closing(Serving(url)) as server:
        with pytest.raises(ServingError, match="does not answer") as gone:
            server.names()
    assert gone.value.status == 0


def test_answers_that_are_nonsense(server: Serving, upstream: FakeVllm) -> None:
    """A server that is no vLLM is told from one that is."""
    answers = [
        {},
        {"choices": []},
        {"choices": [{"prompt_logprobs": None}]},
        {"choices": [{"prompt_logprobs": [None, {"5": {"logprob": 0}}]}]},
        {"choices": [{"prompt_logprobs": [None, {"6": {"logprob": "nan"}}]}]},
    ]
    for body in answers:
        upstream.fails = (200, body)
        with pytest.raises(ServingError, match="vLLM 0.30 or newer"):
            server.score([5, 6], "tiny")
