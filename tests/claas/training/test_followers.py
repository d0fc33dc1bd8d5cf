"""Teachers that follow the student: what they say, and what is kept of them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.claas.training.lessons import asked, echoes, lesson
from tests.claas.training.test_learner import QUICK

from claas.base import Base
from claas.errors import ConfigurationError
from claas.explain import explain
from claas.followers import RegionTeacher
from claas.learner import Learner
from claas.library import WEIGHTS, read_tensors
from claas.peft_files import TEACHER
from claas.teacher import Examiner, SelfTeacher
from claas.tuning import SelfTeaching

BARE = replace(QUICK, anchor=0.0, lr=1e-2)


def trained(
    base: Base, start: Path, out: Path, steps: int, teaching: SelfTeaching
) -> Path:
    """Train some steps; return the candidate."""
    learner = Learner(base, replace(BARE, steps=steps), self_teaching=teaching)
    return learner.train(start, echoes(2), out).folder


def test_the_average_is_that_of_all_steps_over_all_versions(
    base: Base, fresh: Path, tmp_path: Path
) -> None:
    """What is kept with a version is the average of the weights after each step."""
    how = SelfTeaching(kind="ema", ema_decay=0.8)
    one = trained(base, fresh, tmp_path / "one", 1, how)
    two = trained(base, fresh, tmp_path / "two", 2, how)
    then = trained(base, two, tmp_path / "then", 1, how)
    start, *after = (read_tensors(f / WEIGHTS) for f in (fresh, one, two, then))
    kept = read_tensors(then / TEACHER)
    for name, mean in start.items():
        for weights in after:
            mean = 0.8 * mean + 0.2 * weights[name]  # noqa: PLW2901
        assert torch.allclose(kept[name], mean, atol=1e-7), name
    assert not base.adapters


def test_the_average_is_made_again_bit_for_bit(
    base: Base, fresh: Path, tmp_path: Path
) -> None:
    """And it teaches: without what was kept, the next version is another one."""
    how = SelfTeaching(kind="ema", ema_decay=0.5)
    made = [trained(base, fresh, tmp_path / name, 2, how) for name in ("a", "b")]
    then = [trained(base, f, tmp_path / f"{f.name}2", 2, how) for f in made]
    for name in (WEIGHTS, TEACHER):
        assert (then[0] / name).read_bytes() == (then[1] / name).read_bytes()
    bare = shutil.copytree(made[0], tmp_path / "bare")
    (bare / TEACHER).unlink()
    other = trained(base, bare, tmp_path / "other", 2, how)
    assert (other / WEIGHTS).read_bytes() != (then[0] / WEIGHTS).read_bytes()
    (bare / TEACHER).write_bytes((bare / "optimizer.safetensors").read_bytes())
    with pytest.raises(ConfigurationError, match=r"teacher.* is of another adapter"):
        trained(base, bare, tmp_path / "odd", 1, how)


def test_the_region_is_the_mixture_in_log_space(base: Base, two_steps: Path) -> None:
    """q ∝ base^(1 - trust) · student^trust, over all tokens."""
    prompts, answers = [base.prompt(asked("echo two red"))], [base.encode("two red")]
    everything = len(base.tokenizer)
    with base.adapter(two_steps) as name:
        found = RegionTeacher(base, name, 0.3).tops(prompts, answers, everything)
        rows = base.rows(prompts, answers)
        held, own = (base.logits(rows, who).detach() for who in (None, name))
        ends = [
            RegionTeacher(base, name, at).tops(prompts, answers, 5) for at in (0, 1)
        ]
        pure = [
            SelfTeacher(base, who).tops(prompts, answers, 5) for who in (None, name)
        ]
    product = held.softmax(-1) ** 0.7 * own.softmax(-1) ** 0.3
    wanted = (product / product.sum(-1, keepdim=True)).gather(-1, found.indices)
    assert torch.allclose(found.logprobs.exp(), wanted, atol=1e-6)
    for end, alone in zip(ends, pure, strict=True):
        assert torch.equal(end.indices, alone.indices)
        assert torch.allclose(end.logprobs, alone.logprobs, atol=1e-5)
    assert not torch.allclose(pure[0].logprobs, pure[1].logprobs, atol=1e-2)


def test_who_teaches_decides_what_is_learnt(
    base: Base, two_steps: Path, tmp_path: Path
) -> None:
    """Each kind, and each number of it, makes another version of the same lessons."""
    kinds = (
        *(SelfTeaching(), SelfTeaching(kind="pinned")),
        *(SelfTeaching(kind="ema"), SelfTeaching(kind="ema", ema_decay=0.1)),
        *(SelfTeaching(kind="region"), SelfTeaching(kind="region", trust=0.5)),
    )
    made = [
        trained(base, two_steps, tmp_path / str(at), 2, how)
        for at, how in enumerate(kinds)
    ]
    assert len({(folder / WEIGHTS).read_bytes() for folder in made}) == len(kinds)
    kept = [(folder / TEACHER).is_file() for folder in made]
    assert kept == [False, False, True, True, False, False]


def test_followers_can_be_asked_without_a_training(base: Base, two_steps: Path) -> None:
    """Of the base without an adapter, too: whether a lesson can be taught, and why."""
    for kind in ("ema", "region"):
        learner = Learner(base, QUICK, self_teaching=SelfTeaching(kind=kind))
        for adapter in (None, two_steps):
            rows = explain(learner, adapter, lesson())
            assert rows[0].teacher_best == "kuro" and rows[0].push < 0
            with learner.teacher_for(adapter, None) as teacher:
                found = Examiner(base, teacher, learner.hints).examine(
                    None, [lesson()], learner.teaching
                )
            assert found[0].is_teachable
    assert not base.adapters


@pytest.fixture(scope="module")
def two_steps(
    base: Base, fresh: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An adapter after two steps."""
    out = tmp_path_factory.mktemp("started") / "two"
    return trained(base, fresh, out, 2, SelfTeaching())
