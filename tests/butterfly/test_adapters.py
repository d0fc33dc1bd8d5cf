"""Adapters: what PEFT computes, also with several in one frame."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from tests.butterfly.models import tiny  # noqa: E402
from tests.butterfly.test_stage import split, through  # noqa: E402

from butterfly.communication.frames import Segment  # noqa: E402
from butterfly.engine.weights import Checkpoint  # noqa: E402
from butterfly.errors import ConfigurationError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_check:FutureWarning")
PROMPT = [1, 17, 90, 4, 55]


def adapter(folder: Path, seed: int, **options: Any) -> Any:
    """Save a random adapter; return the adapted model."""
    told = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        **options,
    }
    model = peft.get_peft_model(tiny(folder / f"base{seed}"), peft.LoraConfig(**told))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.5)
    model.save_pretrained(folder / f"adapter{seed}")
    return model.eval()


@pytest.fixture(scope="module")
def two(tmp_path_factory: Any) -> tuple[Path, list[Any]]:
    """A folder with two adapters, and the adapted models."""
    folder = tmp_path_factory.mktemp("adapters")
    return folder, [adapter(folder, 1), adapter(folder, 2, use_rslora=True)]


def test_each_row_has_its_own_adapter(two: tuple[Path, list[Any]]) -> None:
    """Two adapters and none in one frame, over two stages, as PEFT computes them."""
    folder, models = two
    stages = split(Checkpoint(folder / "base1"), [2])
    for stage in stages:
        for number in (1, 2):
            stage.adapters.load(number, folder / f"adapter{number}")
    segments = [Segment(k, 0, len(PROMPT), adapter=k) for k in (0, 1, 2)]
    found = through(stages, PROMPT * 3, segments).view(3, len(PROMPT), -1)
    ids = torch.tensor([PROMPT])
    with torch.no_grad(), models[0].disable_adapter():
        expected = [models[0](ids).logits]
    with torch.no_grad():
        expected += [model(ids).logits for model in models]
    assert torch.allclose(found, torch.cat(expected), atol=1e-3)
    assert not torch.allclose(found[1], found[2], atol=1.0)


def test_an_adapter_that_was_unloaded_is_refused(two: tuple[Path, list[Any]]) -> None:
    """Its number is never used again, so nobody gets another one by mistake."""
    folder, _ = two
    (stage,) = split(Checkpoint(folder / "base1"), [])
    stage.adapters.load(7, folder / "adapter1")
    stage.adapters.unload(7)
    with pytest.raises(ConfigurationError, match="adapter 7 is not loaded here"):
        through([stage], PROMPT, [Segment(0, 0, 5, adapter=7)])


def test_what_is_no_plain_adapter_is_refused(
    two: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    """No folder, another kind, other parts, another model's."""
    folder, _ = two
    (stage,) = split(Checkpoint(folder / "base1"), [])
    with pytest.raises(ConfigurationError, match="there is no adapter in"):
        stage.adapters.load(1, tmp_path)
    told = json.loads((folder / "adapter1" / "adapter_config.json").read_text("utf-8"))
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({**told, "use_dora": True})
    )
    with pytest.raises(
        ConfigurationError, match="plain LORA adapter, and has .*use_dora"
    ):
        stage.adapters.load(1, tmp_path)
    for odd, said in (
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"r": 0}, "no 'r' and 'lora_alpha' that can be used"),
        ({"lora_alpha": None}, "no 'r' and 'lora_alpha' that can be used"),
        ({}, "adapter_model.safetensors cannot be read"),
    ):
        text = json.dumps({**told, **odd})
        (tmp_path / "adapter_config.json").write_text(text, "utf-8")
        (tmp_path / "adapter_model.safetensors").write_bytes(b"half of it")
        with pytest.raises(ConfigurationError, match=said):
            stage.adapters.load(1, tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]", "utf-8")
    with pytest.raises(ConfigurationError, match="there is no adapter in"):
        stage.adapters.load(1, tmp_path)
    wide = tmp_path / "wide"
    tiny(wide, intermediate_size=96)
    (other,) = split(Checkpoint(wide), [])
    with pytest.raises(ConfigurationError, match="do not fit a layer of 32 x 96"):
        other.adapters.load(1, folder / "adapter1")
