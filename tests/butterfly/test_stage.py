"""Stages: their tokens are those of the whole model, however it is split."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.butterfly.models import FAMILIES, greedy, tiny  # noqa: E402

from butterfly.communication.frames import Segment  # noqa: E402
from butterfly.engine.stage import Shape, Stage  # noqa: E402
from butterfly.engine.weights import Checkpoint  # noqa: E402
from butterfly.errors import ConfigurationError  # noqa: E402

PROMPTS = [[1, 17, 90, 4, 55], [1, 8], [1, 99, 98, 97, 96, 95, 94, 93, 92]]
COUNT = 12


@pytest.fixture(scope="module", params=list(FAMILIES))
def whole(request: Any, tmp_path_factory: Any) -> tuple[Any, Checkpoint, Any]:
    """A tiny model, its checkpoint, and what it generates."""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny(folder, request.param)
    expected = [greedy(model, prompt, COUNT) for prompt in PROMPTS]
    return model, Checkpoint(folder), expected


def split(checkpoint: Checkpoint, cuts: Sequence[int], **room: int) -> list[Stage]:
    """Return the stages of a model that is cut before some layers."""
    ends = [0, *cuts, checkpoint.config().num_hidden_layers]
    room = {"lanes": 8, "positions": 64, **room}
    return [
        Stage(checkpoint, Shape(*pair, **room)) for pair in itertools.pairwise(ends)
    ]


def through(stages: Sequence[Stage], tokens: Sequence[int], segments: Any) -> Any:
    """Return the logits of all rows."""
    hidden = stages[0].embed(torch.tensor(tokens))
    for stage in stages:
        hidden = stage.forward(hidden, segments)
    return stages[-1].logits(hidden)


def generated(stages: Sequence[Stage], lanes: Sequence[int], chunk: int) -> Any:
    """Generate after all prompts: in parts of prompts, then all together."""
    outputs: list[list[int]] = []
    for lane, prompt in zip(lanes, PROMPTS, strict=True):
        for start in range(0, len(prompt), chunk):
            part = prompt[start : start + chunk]
            logits = through(stages, part, [Segment(lane, start, len(part))])
        outputs.append([int(logits[-1].argmax())])
    order = sorted(range(len(lanes)), key=lambda k: lanes[k])
    for step in range(COUNT - 1):
        segments = [Segment(lanes[k], len(PROMPTS[k]) + step, 1) for k in order]
        logits = through(stages, [outputs[k][-1] for k in order], segments)
        for k, token in zip(order, logits.argmax(-1).tolist(), strict=True):
            outputs[k].append(token)
    return outputs


@pytest.mark.parametrize("cuts", [[], [2], [1, 3], [1, 2, 3]])
def test_a_split_model_gives_the_same_tokens(
    whole: tuple[Any, Checkpoint, Any], cuts: list[int]
) -> None:
    """In 1 to 4 stages, with prompts in parts, in every family."""
    _, checkpoint, expected = whole
    stages = split(checkpoint, cuts)
    assert generated(stages, [0, 1, 2], chunk=3) == expected


def test_lanes_need_not_be_neighbours(whole: tuple[Any, Checkpoint, Any]) -> None:
    """Nor in the order of the prompts."""
    _, checkpoint, expected = whole
    assert generated(split(checkpoint, [2]), [6, 0, 1], chunk=64) == expected


def test_logits_of_a_prompt_are_those_of_the_whole_model(
    whole: tuple[Any, Checkpoint, Any],
) -> None:
    """Of every row, and of two prompts in one frame."""
    model, checkpoint, _ = whole
    stages = split(checkpoint, [1])
    one, other = PROMPTS[0], PROMPTS[2]
    segments = [Segment(3, 0, len(one)), Segment(4, 0, len(other))]
    found = through(stages, one + other, segments)
    with torch.no_grad():
        parts = [
            model(torch.tensor([p]), use_cache=False).logits[0] for p in (one, other)
        ]
    assert torch.allclose(found, torch.cat(parts), atol=1e-4)


def test_a_copied_lane_goes_on_like_the_first(tmp_path: Path) -> None:
    """Its keys and values are those that were computed once."""
    model = tiny(tmp_path)
    stages = split(Checkpoint(tmp_path), [2])
    prompt = PROMPTS[2]
    through(stages, prompt, [Segment(0, 0, len(prompt))])
    segment = Segment(5, len(prompt) - 1, 1, source=0, shared=len(prompt) - 1)
    logits = through(stages, prompt[-1:], [segment])
    assert int(logits.argmax()) == greedy(model, prompt, 1)[0]


def test_all_of_a_stage_is_on_its_device(tmp_path: Path) -> None:
    """Also masks; the device without memory refuses what is elsewhere, as CUDA does."""
    tiny(tmp_path, "gemma2")
    segments = [Segment(0, 9, 1), Segment(1, 7, 1), Segment(2, 0, 5)]
    segments += [Segment(4, 3, 2, source=0, shared=3)]
    stage = Stage(Checkpoint(tmp_path), Shape(0, 4, 8, 64), device="meta")
    hidden = stage.forward(stage.embed(torch.ones(9, dtype=torch.long)), segments)
    assert stage.logits(hidden).shape == (9, 128)


def test_a_stage_reads_its_own_tensors_only(tmp_path: Path) -> None:
    """So a node needs no more memory than its layers take."""
    tiny(tmp_path, tie_word_embeddings=False)
    checkpoint = Checkpoint(tmp_path)
    middle = split(checkpoint, [1, 3])[1]
    counts = [sum(p.numel() for p in s._inner.parameters()) for s in [middle]]
    names = [n for n in checkpoint.names if ".layers.1." in n or ".layers.2." in n]
    assert counts == [sum(t.numel() for t in checkpoint.tensors(names).values())]
    assert middle._inner.embed_tokens is None


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    """A range that is none of the model's, a family that is not known, no model."""
    tiny(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(ConfigurationError, match="no layers 3 to 5: the model has 4"):
        Stage(checkpoint, Shape(3, 5))
    config = (tmp_path / "config.json").read_text("utf-8")
    (tmp_path / "config.json").write_text(
        config.replace('"model_type": "llama"', '"model_type": "gpt2"'), "utf-8"
    )
    with pytest.raises(ConfigurationError, match="family 'gpt2' cannot be split"):
        Stage(Checkpoint(tmp_path), Shape(0, 1))
    with pytest.raises(ConfigurationError, match="there is no model 'nowhere'"):
        Checkpoint.of("nowhere")
    with pytest.raises(ConfigurationError, match="has no config.json"):
        Checkpoint(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="has no tensor 'x'"):
        checkpoint.tensors(["x"])
