"""What codecs change: measured on the whole model, without holding it."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.butterfly.models import tiny  # noqa: E402

from butterfly.cluster import losses  # noqa: E402
from butterfly.cluster.losses import losses_of, must_keep  # noqa: E402
from butterfly.cluster.options import HeadOptions  # noqa: E402
from butterfly.communication.codecs import CODECS, Int8  # noqa: E402
from butterfly.engine.weights import Checkpoint  # noqa: E402
from butterfly.errors import ConfigurationError  # noqa: E402
from butterfly.partitioning.loss import Budget, Loss, worst  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four layers, without a tokenizer."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("lossy")
    tiny(folder, "qwen2")
    return folder


def test_what_is_measured_is_what_the_whole_model_says(
    model: Path, tmp_path: Path
) -> None:
    """The exact lane against transformers; a codec by its change at two links."""
    whole = tiny(tmp_path, "qwen2")
    checkpoint = Checkpoint(model)
    tokens = torch.tensor([losses._sample(checkpoint)])
    flow, sent = [], list[int]()

    def rounded(
        module: object, given: tuple[torch.Tensor], out: torch.Tensor
    ) -> object:
        sent.append(len(out))
        return out.half().float()

    with torch.no_grad():
        exact = whole(tokens).logits[0].log_softmax(-1)
        hooks = [whole.model.layers[k].register_forward_hook(rounded) for k in (0, 2)]
        flow.append(whole(tokens).logits[0].log_softmax(-1))
    assert len(hooks) == len(sent) == 2
    parts = losses._logprobs(
        checkpoint, CODECS[:2], 2, torch.float32, "cpu"
    )  # cuts after layers 1 and 3
    torch.testing.assert_close(parts[0], exact, atol=2e-4, rtol=0)
    torch.testing.assert_close(parts[1], flow[0], atol=2e-4, rtol=0)
    assert not torch.equal(parts[0], parts[1])


def test_the_exact_one_changes_nothing(model: Path) -> None:
    """The others do, more on more links."""
    checkpoint = Checkpoint(model)
    same, one = losses_of(checkpoint, ["f32", "int8"], 1)
    assert (same.kl, same.top1) == (0.0, 1.0)
    (three,) = losses_of(checkpoint, ["int8"], 3)
    assert 0 < one.kl < three.kl < 0.1 and 0.9 < three.top1 <= 1


def told(model: Path, **more: object) -> HeadOptions:
    """Return what a head is told."""
    return HeadOptions(str(model), 3, "s", codec="int8", **more)  # ty: ignore[invalid-argument-type]


def test_the_head_measures_and_refuses(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figure and budget are named; one stage has no links; an open budget is free."""
    checkpoint = Checkpoint(model)
    must_keep(told(model), checkpoint, None)
    monkeypatch.setattr(Int8, "decode", lambda *given: torch.full((given[2], 32), 9.0))
    with pytest.raises(
        ConfigurationError, match=r"^int8 on 2 links changes .* nats a token, and keeps"
    ) as caught:
        must_keep(told(model), checkpoint, None)
    assert "the budget is 0.01 nats and 97.0%. Use f32, or" in str(caught.value)
    monkeypatch.setattr(Int8, "decode", lambda *given: torch.full((given[2], 32), 0.0))
    monkeypatch.setattr(losses, "losses_of", None)
    must_keep(told(model, budget=Budget(float("inf"), 0)), checkpoint, None)
    must_keep(HeadOptions(str(model), 1, "s", codec="int8"), checkpoint, None)


def test_what_is_no_number_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as far off as can be."""
    nothing = float("nan")
    monkeypatch.setattr(
        Int8, "decode", lambda *given: torch.full((given[2], 32), nothing)
    )
    (loss,) = losses_of(Checkpoint(model), ["int8"], 1)
    assert loss.kl == float("inf")


def test_weights_that_are_elsewhere_are_asked_for(model: Path, tmp_path: Path) -> None:
    """A head needs only what says which file has which tensor, but for this."""
    text = (model / "config.json").read_text("utf-8")
    (tmp_path / "config.json").write_text(text, "utf-8")
    names = ", ".join(
        [f'"{name}": "far.safetensors"' for name in Checkpoint(model).names]
    )
    index = f'{{"weight_map": {{{names}}}}}'
    (tmp_path / "model.safetensors.index.json").write_text(index, "utf-8")
    with pytest.raises(ConfigurationError, match="probe` where the weights are"):
        losses_of(Checkpoint(tmp_path), ["int8"], 1)


def test_the_worst_figures_count() -> None:
    """Those for fewer links say nothing."""
    known = [Loss("a", 2, 0.1, 1.0), Loss("a", 3, 0.0, 0.9), Loss("a", 1, 9.0, 0.0)]
    assert worst("a", 2, known) == Loss("a", 3, 0.1, 0.9)
    assert worst("a", 4, known) is worst("b", 1, known) is None
