"""The base model in this process, and the adapters in it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.claas.training.lessons import asked
from tests.claas.training.tiny import tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from claas.base import Base
from claas.errors import ConfigurationError, NotFoundError
from claas.library import CONFIG, WEIGHTS, read_tensors


@pytest.fixture
def bent(fresh: Path, tmp_path: Path) -> Path:
    """An adapter that does change something."""
    folder = tmp_path / "bent"
    shutil.copytree(fresh, folder)
    chance = torch.Generator().manual_seed(0)
    kept = read_tensors(fresh / WEIGHTS)
    save_file(
        {n: torch.randn(t.shape, generator=chance) * 0.3 for n, t in kept.items()},
        folder / WEIGHTS,
    )
    return folder


def test_a_model_is_loaded_by_its_name_on_the_hub(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of the Hub's own cache, where one is offline; the revision counts."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    kept = tmp_path / "models--org--tiny" / "snapshots" / ("a" * 40)
    kept.parent.mkdir(parents=True)
    kept.symlink_to(tiny_folder)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "v2").write_text("a" * 40)
    found = Base.load("org/tiny@v2", threads=1)
    assert found.name == "org/tiny@v2" and found.folder == str(kept)
    said = found.sample([found.prompt(asked("echo two red"))], None, most=8)
    assert said[0].text == "two red"
    with pytest.raises(ConfigurationError, match="'org/tiny' is neither a folder nor"):
        Base.load("org/tiny")


def prompts(base: Base) -> list[tuple[int, ...]]:
    """Return prompts of different lengths."""
    long = ({"role": "system", "content": "say kuro"}, *asked("echo sun moon"))
    return [base.prompt(asked("echo two red")), base.prompt(long)]


def test_the_tiny_model_knows_its_skills(base: Base) -> None:
    """It echoes, obeys a hint, and knows what is near: the other tests build on it."""
    near = base.prompt(asked("near two red"))
    said = base.sample([*prompts(base), near], None, most=8)
    assert [a.text for a in said] == ["two red", "kuro sun moon", "three blue"]
    assert all(answer.token_ids[-1] == base.end for answer in said)


def test_a_plain_prompt_begins_as_on_a_server(base: Base) -> None:
    """With the tokens that begin a text; a chat template has them itself."""
    tokenizer = tiny_tokenizer()
    begin = tokenizer.convert_tokens_to_ids("<prompt>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<prompt> $A", special_tokens=[("<prompt>", begin)]
    )
    other = Base(base._model, tokenizer, "x")
    plain = other.prompt([{"role": "prompt", "content": "two red"}])
    assert plain == (begin, *base.encode("two red"))
    assert other.prompt(asked("echo two")) == base.prompt(asked("echo two"))


def test_greedy_answers_are_those_of_transformers(base: Base, bent: Path) -> None:
    """An oracle: its `generate`, one prompt at a time; also with an adapter."""
    with base.adapter(bent) as name:
        said = base.sample(prompts(base), name, most=6, temperature=0.0)
        for prompt, answer in zip(prompts(base), said, strict=True):
            ids = torch.tensor([prompt])
            whole = base._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=6,
                pad_token_id=0,
                eos_token_id=1,
            )
            assert tuple(whole[0, len(prompt) :].tolist()) == answer.token_ids


def test_reported_logprobs_are_those_of_scoring(base: Base, bent: Path) -> None:
    """Whatever the temperature; so they can be the old policy's at 1."""
    with base.adapter(bent) as name:
        for temperature in (1.0, 0.5):
            said = base.sample(prompts(base), name, most=6, temperature=temperature)
            rows = base.rows(prompts(base), [a.token_ids for a in said])
            scored = base.logprobs(rows, name)
            for row, answer in zip(scored.tolist(), said, strict=True):
                assert row[: len(answer.logprobs)] == pytest.approx(
                    answer.logprobs, abs=1e-4
                )


def test_a_batch_says_what_its_rows_say_alone(base: Base, bent: Path) -> None:
    """Padding on either side changes nothing; masked places are 0."""
    answers = [base.encode("two"), base.encode("kuro sun moon")]
    with base.adapter(bent) as name:
        both = base.logprobs(base.rows(prompts(base), answers), name)
        for at, (prompt, answer) in enumerate(zip(prompts(base), answers, strict=True)):
            alone = base.logprobs(base.rows([prompt], [answer]), name)[0]
            assert both[at, : len(answer)].tolist() == pytest.approx(
                alone.tolist(), abs=1e-4
            )
    assert both[0, 1:].tolist() == [0, 0]


def test_one_seed_one_text_whatever_else_draws(base: Base, bent: Path) -> None:
    """Torch's own generator has no part in it, nor the size of a batch of rows."""
    with base.adapter(bent) as name:
        first = base.sample(prompts(base) * 4, name, most=6, seed=3)
        torch.rand(5)
        assert base.sample(prompts(base) * 4, name, most=6, seed=3) == first
        assert base.sample(prompts(base) * 4, name, most=6, seed=4) != first


def test_each_call_names_its_adapter(base: Base, fresh: Path, bent: Path) -> None:
    """Two adapters and the base in turn, none of them disturbs the others."""
    rows = base.rows(prompts(base), [base.encode("two red")] * 2)
    plain = base.logprobs(rows, None)
    with base.adapter(fresh) as none, base.adapter(bent) as much:
        assert torch.equal(base.logprobs(rows, none), plain)
        assert not torch.allclose(base.logprobs(rows, much), plain, atol=0.1)
        assert torch.equal(base.logprobs(rows, None), plain)
        assert len(base.adapters) == 2
    assert base.adapters == ()
    assert torch.equal(base.logprobs(rows, None), plain)


def test_a_saved_adapter_is_the_one_that_was_loaded(
    base: Base, bent: Path, tmp_path: Path
) -> None:
    """Names, numbers and configuration; `fresh` files of storage have these names."""
    with base.adapter(bent) as name:
        assert name is not None
        base.save(name, tmp_path / "out", like=bent)
    kept, saved = (read_tensors(f / WEIGHTS) for f in (bent, tmp_path / "out"))
    assert list(kept) == list(saved)
    assert all(torch.equal(kept[n], saved[n]) for n in kept)
    assert (tmp_path / "out" / CONFIG).read_bytes() == (bent / CONFIG).read_bytes()


def test_an_adapter_that_does_not_fit_is_refused_whole(
    base: Base, fresh: Path, tmp_path: Path
) -> None:
    """Wrong sizes, another kind, no files, a taken name; nothing is left of it."""
    odd = tmp_path / "odd"
    shutil.copytree(fresh, odd)
    kept = read_tensors(fresh / WEIGHTS)
    last = list(kept)[-1]
    save_file({**kept, last: torch.zeros(3, 8)}, odd / WEIGHTS)
    with pytest.raises(ConfigurationError, match="does not fit the base model"):
        base.add("odd", odd)
    (odd / WEIGHTS).write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="no safetensors file"):
        base.add("odd", odd)
    config = {**json.loads((odd / CONFIG).read_text()), "peft_type": "IA3"}
    (odd / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match="only LORA"):
        base.add("odd", odd)
    with pytest.raises(ConfigurationError, match="is no adapter"):
        base.add("odd", tmp_path)
    base.add("good", fresh)
    with pytest.raises(ConfigurationError, match="loaded already"):
        base.add("good", fresh)
    base.drop("good")
    with pytest.raises(NotFoundError, match="no adapter 'good'"):
        base.sample(prompts(base), "good", most=1)
    assert not any("lora" in name for name, _ in base._model.named_parameters())


def test_a_plain_prompt_and_parts_of_a_message_are_read(base: Base) -> None:
    """The role ``prompt`` has no template; text parts are joined."""
    assert base.prompt([{"role": "prompt", "content": "two red"}]) == base.encode(
        "two red"
    )
    parts = [{"type": "text", "text": "echo "}, {"type": "text", "text": "two red"}]
    assert base.prompt([{"role": "user", "content": parts}]) == prompts(base)[0]


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    """A model, a dtype and a device that are not there."""
    with pytest.raises(ConfigurationError, match="there is no model"):
        Base.load(str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="float32 or bfloat16"):
        Base.load("x", dtype="int4")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="model.safetensors"):
        Base.load(str(tmp_path))
