"""Adapters over HTTP, as vLLM has them: loaded, named as a model, unloaded."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.butterfly.server_helpers import Server, until

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_check:FutureWarning")


@pytest.fixture(scope="module")
def folders(server: Server, tmp_path_factory: Any) -> list[Path]:
    """Two random adapters of the server's model."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    found = []
    for seed in (1, 2):
        base = AutoModelForCausalLM.from_pretrained(server.model)
        config = peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"]
        )
        model = peft.get_peft_model(base, config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, 0.5)
        found.append(tmp_path_factory.mktemp("lora") / str(seed))
        model.save_pretrained(found[-1])
    return found


def said(client: openai.OpenAI, model: str) -> str:
    """Return what a model says, greedily."""
    text: str = (
        client.completions.create(
            model=model, prompt="Once upon a time", max_tokens=12, temperature=0
        )
        .choices[0]
        .text
    )
    return text


def change(http: httpx.Client, what: str, name: str, folder: Any = None) -> Any:
    """Load or unload an adapter."""
    body = {"lora_name": name} | ({} if folder is None else {"lora_path": str(folder)})
    return http.post(f"/v1/{what}_lora_adapter", json=body)


def test_adapters_are_models(
    http: httpx.Client, client: openai.OpenAI, folders: list[Path]
) -> None:
    """Two and none at the same time; a name that is used again is another adapter."""
    plain = said(client, "tiny")
    for name, folder in zip(("one", "two"), folders, strict=True):
        found = change(http, "load", name, folder)
        assert (found.status_code, "added successfully" in found.text) == (200, True)
    models = {model.id: model for model in client.models.list()}
    assert list(models) == ["tiny", "one", "two"]
    texts: dict[str, str] = {}

    def ask(name: str) -> None:
        texts[name] = said(client, name)

    threads = [threading.Thread(target=ask, args=(n,)) for n in ("one", "two", "tiny")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts["tiny"] == plain
    assert len(set(texts.values())) == 3
    assert change(http, "unload", "one").status_code == 200
    with pytest.raises(openai.NotFoundError, match="no model 'one' here"):
        said(client, "one")
    assert change(http, "load", "one", folders[1]).status_code == 200
    assert said(client, "one") == texts["two"]
    for name in ("one", "two"):
        change(http, "unload", name)


def test_what_cannot_be_loaded_is_refused(
    http: httpx.Client, folders: list[Path], tmp_path: Path
) -> None:
    """Nothing there, a name that is taken, a name that is not."""
    found = change(http, "load", "none", tmp_path)
    assert found.status_code == 400 and "there is no adapter in" in found.text
    assert change(http, "load", "tiny", folders[0]).status_code == 400
    assert change(http, "load", "one", folders[0]).status_code == 200
    again = change(http, "load", "one", folders[1])
    assert again.status_code == 400 and "is loaded already" in again.text
    assert change(http, "unload", "one").status_code == 200
    assert change(http, "unload", "one").status_code == 404


@pytest.mark.slow
def test_an_adapter_outlives_a_stage(
    http: httpx.Client, client: openai.OpenAI, server: Server, folders: list[Path]
) -> None:
    """A stage that is replaced has it again."""
    change(http, "load", "one", folders[0])
    before = said(client, "one")
    nodes = http.get("/state").json()["stages"]
    os.kill(nodes[-1]["pid"], signal.SIGKILL)
    assert said(client, "one") == before
    server.join()
    until(lambda: len(http.get("/state").json()["stages"]) == 2)
    assert said(client, "one") == before
    change(http, "unload", "one")
