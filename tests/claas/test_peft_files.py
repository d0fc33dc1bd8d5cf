"""A fresh adapter is one for PEFT, fits the base, and changes nothing."""

import sys
import types
from pathlib import Path

import pytest

from claas.errors import ConfigurationError
from claas.hub import FILES, hub_folder
from claas.peft_files import TARGETS, base_config
from claas.storage import create_initial_lora, load_lora
from claas.volumes import LocalVolume

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"),
    *("smollm3", "olmo2", "granite"),
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_loads_a_fresh_adapter_and_nothing_changes(
    family: str, tmp_path: Path
) -> None:
    """Its outputs are the base's, exactly; and a trained B would change them. The
    shapes fit though heads are wider than hidden/heads."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from tests.butterfly import models  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    sizes = {"num_hidden_layers": 2, "hidden_size": 24}
    known = {**models.COMMON, **models.FAMILIES.get(family, {}), **sizes}
    if family in ("olmo2", "granite"):  # their heads are hidden/heads
        known = {**known, "head_dim": 6}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **known))
    base.eval().config.save_pretrained(tmp_path / "base")
    volume, ids = LocalVolume(tmp_path / "loras"), torch.arange(12)[None]
    create_initial_lora("a/b", str(tmp_path / "base"), rank=4, storage=volume)
    with torch.no_grad():
        wanted = base(ids).logits
        model = peft.PeftModel.from_pretrained(base, str(load_lora("a/b", volume)))
        assert torch.equal(model(ids).logits, wanted)
        found = [n for n, _ in model.named_parameters() if "lora_B" in n]
        assert len(found) == 2 * len(TARGETS)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
        assert not torch.allclose(model(ids).logits, wanted)


def test_a_config_comes_from_the_hub_where_there_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a config nothing else is fetched; what the hub has not is named."""

    def download(name: str, allow_patterns: list[str], **_: object) -> str:
        if name != "org/model":
            raise FileNotFoundError(name)
        asked.append(allow_patterns)
        return str(tmp_path)

    asked: list[list[str]] = []

    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    hub = types.SimpleNamespace(snapshot_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert base_config("org/model") == {"model_type": "llama"}
    assert hub_folder("org/model") == tmp_path
    assert asked == [["config.json"], list(FILES)]
    for ask in (base_config, hub_folder):
        with pytest.raises(ConfigurationError, match="'org/other' is neither a folder"):
            ask("org/other")
