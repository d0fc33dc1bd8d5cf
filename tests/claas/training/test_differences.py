"""How two adapters differ: by low-rank algebra as by the whole matrices."""

import json
import math
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.claas.service_helpers import service_in
from tests.claas.test_worker import Bench
from tests.claas.training.tiny import tiny_model

from claas.cli import main
from claas.differences import compare
from claas.errors import ConfigurationError
from claas.library import CONFIG, WEIGHTS, read_tensors, write_tensors

Q = "base_model.model.model.layers.0.self_attn.q_proj."
Deltas = dict[str, torch.Tensor]


def made(folder: Path, seed: int, **options: Any) -> tuple[Path, Deltas]:
    """Write an adapter with PEFT; return what it adds to each layer, as PEFT says."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    torch.manual_seed(seed)
    config = LoraConfig(init_lora_weights=False, **options)
    with warnings.catch_warnings():  # PEFT 0.21 calls what transformers 5.23 renamed
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(tiny_model(), config)
    model.save_pretrained(str(folder))
    found = {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default")
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    return folder, {name: delta.detach().double() for name, delta in found.items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Deltas]]:
    """Two adapters that have neither rank, scale nor layers in common."""
    root = tmp_path_factory.mktemp("pair")
    one = made(
        *(root / "one", 1),
        **{"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]},
    )
    other = made(
        *(root / "other", 2),
        **{"r": 5, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
        **{"use_rslora": True, "alpha_pattern": {"layers.1.self_attn.q_proj": 9}},
        rank_pattern={"v_proj": 2},
    )
    return [one, other]


def test_it_is_what_the_whole_matrices_say(pair: list[tuple[Path, Deltas]]) -> None:
    """Norms, cosine, rank, shares, of each layer and of all."""
    (one, old), (other, new) = pair
    found = compare(one, other)
    assert {layer.name for layer in found.layers} == {*old, *new}
    changes: Deltas = {}
    for layer in found.layers:
        nothing = torch.zeros_like({**old, **new}[layer.name])
        a, b = (some.get(layer.name, nothing) for some in (old, new))
        changes[layer.name] = b - a
        close: Any = {"rel": 1e-5, "abs": 1e-9}
        assert layer.first == pytest.approx(float(a.norm()), **close)
        assert layer.second == pytest.approx(float(b.norm()), **close)
        assert layer.change == pytest.approx(float((b - a).norm()), **close)
        cosine = torch.nn.functional.cosine_similarity(a.ravel(), b.ravel(), 0)
        assert layer.cosine == pytest.approx(float(cosine), **close)
        squares = torch.linalg.svdvals(b - a) ** 2
        held = (squares.cumsum(0) / squares.sum()).tolist()
        assert layer.top == pytest.approx(held[0], rel=1e-5)
        assert (
            held[layer.rank - 1]
            >= 0.9
            > (held[layer.rank - 2] if layer.rank > 1 else 0)
        )
    whole = math.sqrt(sum(float(change.norm() ** 2) for change in changes.values()))
    assert found.total.change == pytest.approx(whole, rel=1e-5)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    together = [torch.cat([d.ravel() for d in some.values()]) for some in (old, new)]
    assert found.total.first == pytest.approx(float(together[0].norm()), rel=1e-5)
    order = [layer.change for layer in found.layers]
    assert order == sorted(order, reverse=True)
    json.dumps(asdict(found), allow_nan=False)


def test_an_adapter_does_not_differ_from_itself(
    pair: list[tuple[Path, Deltas]], fresh: Path
) -> None:
    """However it is written; and one that adds nothing has no direction."""
    (one, _), _ = pair
    found = compare(one, one)
    assert (found.total.change, found.total.rank, found.total.share) == (0, 0, 0)
    assert found.total.cosine == pytest.approx(1)
    none = compare(fresh, fresh).total
    assert (none.change, none.cosine, none.rank, none.share) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({"use_dora": True}, {}, "is no plain LoRA"),
        ({"peft_type": "IA3"}, {}, "is no plain LoRA"),
        ({"lora_alpha": None}, {}, "adapter_config.json cannot be read"),
        ({}, {Q + "lora_A.weight": torch.ones(4, 48)}, "does not fit the other"),
        ({}, {Q + "lora_A.weight": torch.full((3, 48), torch.nan)}, "a number that is"),
        ({}, {"model.embed.lora_embedding_A": torch.ones(2, 2)}, "is no half of a"),
        ({}, {"model.x.lora_A.weight": torch.ones(2, 2)}, "half of a layer is missing"),
        (
            {},
            {Q + "lora_B.weight": torch.ones(9, 3)},
            "they are of different models",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    pair: list[tuple[Path, Deltas]],
    tmp_path: Path,
    config: dict,
    tensors: dict,
    said: str,
) -> None:
    """Another kind of adapter, one that is damaged, one of another model."""
    (one, _), _ = pair
    odd = shutil.copytree(one, tmp_path / "odd")
    known = json.loads((odd / CONFIG).read_text())
    (odd / CONFIG).write_text(json.dumps({**known, **config}))
    write_tensors(odd / WEIGHTS, {**read_tensors(odd / WEIGHTS), **tensors})
    with pytest.raises(ConfigurationError, match=said):
        compare(one, odd)
    with pytest.raises(ConfigurationError, match="adapter_config.json cannot be read"):
        compare(tmp_path, one)
    (odd / CONFIG).write_text("[]")
    with pytest.raises(ConfigurationError, match="adapter_config.json cannot be read"):
        compare(odd, one)


def test_two_versions_are_told_apart(tmp_path: Path) -> None:
    """With the feedback between them, and what the gate measured of each."""
    bench = Bench(tmp_path)
    bench.update("be brief")
    bench.update("no emoji", "be kind")
    told = bench.worker.diff("ann/kuro@v1", "ann/kuro@v2")
    assert (told["first"], told["second"]) == ("ann/kuro@v1", "ann/kuro@v2")
    assert told["total"]["change"] == 0 and len(told["layers"]) == 7
    assert [(f["id"], f["only_in"]) for f in told["feedback"]] == [
        *(("f2", "ann/kuro@v2"), ("f3", "ann/kuro@v2")),
    ]
    assert told["gate"] == {"gain": [0.5, 0.5]}
    back = bench.worker.diff("ann/kuro@v2", "ann/kuro@v0")
    assert {f["only_in"] for f in back["feedback"]} == {"ann/kuro@v2"}
    assert len(back["feedback"]) == 3 and back["gate"] == {"gain": [0.5, None]}


def test_two_folders_are_compared_without_a_server(
    pair: list[tuple[Path, Deltas]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a table, or as JSON."""
    (one, _), (other, _) = pair
    assert main(["diff", str(one), str(other), "--top", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5 and said[1].endswith("\tall")
    assert main(["diff", str(one), str(other), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    moved = shutil.copytree(one, tmp_path / "moved")
    config = json.loads((moved / CONFIG).read_text())
    (moved / CONFIG).write_text(
        json.dumps({**config, "base_model_name_or_path": "elsewhere"})
    )
    assert main(["diff", str(one), str(moved)]) == 0
    assert "of different base models: " in capsys.readouterr().out
    assert told["total"]["change"] == compare(one, other).total.change


def test_a_user_asks_how_versions_of_hers_differ(
    tmp_path: Path, upstream_url: str
) -> None:
    """Over HTTP, by the worker: what explains and compares is no job that is listed."""
    with service_in(tmp_path, upstream_url) as service:
        service.say("shorter", "1", wait=True)
        given = {"other": "ann/bot@v1", "wait": True}
        told = service.ann.post("/v1/lora/ann/bot@v0/diff", json=given).json()
        assert (told["state"], told["result"]["outcome"]) == ("done", "compared")
        (said,) = told["result"]["feedback"]
        assert said == {"id": "ann/1", "kind": "critique", "only_in": "ann/bot@v1"}
        assert told["result"]["gate"] == {"drift": [None, 0.1]}
        assert [job["kind"] for job in service.one()["updates"]] == ["update"]
