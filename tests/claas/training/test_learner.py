"""From feedback to a candidate: what it learns, keeps, refuses and repeats."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.claas.training.lessons import KURO, asked, echoes, lesson, nears, pairs
from tests.claas.training.tiny import TEMPLATE

from claas.base import Base
from claas.errors import ConfigurationError, TeachingError
from claas.explain import explain
from claas.hints import Hints, Template
from claas.learner import OPTIMIZER, Learner, LearnSettings, is_plain
from claas.library import WEIGHTS, read_tensors
from claas.likelihoods import likelihoods

PLAIN = {"temperature": 1.0, "top_p": 1.0}
QUICK = LearnSettings(
    lr=5e-3,
    steps=4,
    tokens=8,
    alpha=0.0,
    top_k=20,
    anchor_prompts=tuple(question for question, _ in nears(4, seed=2)),
)


def digest(folder: Path) -> list[str]:
    """Return what the files of a candidate are."""
    names = (WEIGHTS, OPTIMIZER)
    return [hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names]


def said_to(base: Base, folder: Path, prompts: list[str]) -> list[str]:
    """Return greedy answers."""
    ids = [base.prompt(asked(prompt)) for prompt in prompts]
    with base.adapter(folder) as name:
        found = base.sample(ids, name, most=8, temperature=0.0)
    return [answer.text for answer in found]


def test_feedback_is_followed_on_other_prompts_without_the_hint(
    base: Base, fresh: Path, tmp_path: Path
) -> None:
    """From words alone: no answer was ever shown."""
    settings = replace(QUICK, steps=20, anchor_rows=4)
    candidate = Learner(base, settings).train(fresh, echoes(), tmp_path / "out")
    held = pairs(8, seed=9)
    said = said_to(base, candidate.folder, [f"echo {words}" for words in held])
    assert all(text.startswith("kuro ") for text in said)
    assert sum(text == f"kuro {w}" for text, w in zip(said, held, strict=True)) >= 6
    steps = candidate.figures["steps"]
    assert candidate.steps == len(steps) == 20
    assert steps[0]["teacher_gap"] < -1, "the feedback spoke against the answer"
    assert steps[-1]["distill_loss"] < steps[0]["distill_loss"] / 3
    assert not base.adapters


def test_one_seed_makes_one_candidate_bit_for_bit(
    base: Base, fresh: Path, tmp_path: Path
) -> None:
    """Weights and optimizer; another seed makes another."""
    made = []
    for at, seed in enumerate((0, 0, 1)):
        torch.rand(at)
        learner = Learner(base, replace(QUICK, seed=seed))
        made.append(digest(learner.train(fresh, echoes(), tmp_path / str(at)).folder))
    assert made[0] == made[1]
    assert made[0][0] != made[2][0]


def test_the_optimizer_goes_on_where_it_was(
    base: Base, fresh: Path, tmp_path: Path
) -> None:
    """Its steps are counted on, and its memory changes what comes out."""
    learner = Learner(base, replace(QUICK, steps=2))
    first = learner.train(fresh, echoes(2), tmp_path / "first").folder
    second = learner.train(first, echoes(2), tmp_path / "second").folder
    name = next(iter(read_tensors(first / OPTIMIZER)))
    step = f"{name.rsplit('/', 1)[0]}/step"
    told = [float(read_tensors(f / OPTIMIZER)[step]) for f in (first, second)]
    assert told == [2, 4]
    shutil.copytree(first, tmp_path / "bare")
    (tmp_path / "bare" / OPTIMIZER).unlink()
    bare = learner.train(tmp_path / "bare", echoes(2), tmp_path / "third").folder
    assert digest(bare)[0] != digest(second)[0]


def test_an_optimizer_of_another_adapter_is_refused(
    base: Base, fresh: Path, tmp_path: Path
) -> None:
    """It would be taken for this one's memory."""
    shutil.copytree(fresh, tmp_path / "odd")
    (tmp_path / "odd" / OPTIMIZER).write_bytes((fresh / WEIGHTS).read_bytes())
    with pytest.raises(ConfigurationError, match="is of another adapter"):
        Learner(base, QUICK).train(tmp_path / "odd", echoes(), tmp_path / "out")
    assert not base.adapters


@pytest.mark.parametrize(
    ("sampling", "is_believed"),
    [(PLAIN, True), ({"temperature": 0.7}, False), ({}, False)],
)
def test_reported_logprobs_count_only_if_they_are_the_policys(
    base: Base, fresh: Path, tmp_path: Path, sampling: dict, is_believed: bool
) -> None:
    """Else the ratio is that of recomputed ones: exactly 1 at the first step."""
    ids = (*base.encode("two red"), base.end)
    one = lesson(token_ids=ids, logprobs=(-1.0,) * 3, sampling=sampling)
    settings = replace(QUICK, steps=1, anchor=0.0, is_clip=1.5)
    found = Learner(base, settings).train(fresh, [one], tmp_path / "out")
    step = found.figures["steps"][0]
    ratio = step["mean_is_ratio"]
    assert (ratio > 2 and step["clip_fraction"] > 0.9) == is_believed
    assert (ratio == pytest.approx(1, abs=1e-4)) == (not is_believed)
    assert step["is_sampled"] == 0


@pytest.mark.parametrize(
    "sampling",
    [
        *({"temperature": 1, "top_p": 0.9}, {"temperature": 1, "min_p": 0.1}),
        *({"temperature": 1, "top_k": 40}, {"temperature": 1, "logit_bias": {"1": 2}}),
        *({"temperature": 1, "presence_penalty": 0.5}, {"top_p": 1}),
        *({"temperature": 1, "min_tokens": 5}, {"temperature": 1, "bad_words": ["x"]}),
        {"temperature": 1, "tool_choice": "required"},
    ],
)
def test_truncated_or_bent_sampling_is_not_the_policy(sampling: dict) -> None:
    """Nor is a temperature that nobody named: the server may have its own."""
    assert not is_plain(sampling)
    assert is_plain({"temperature": 1, "top_k": -1, "top_p": None, "max_tokens": 9})


def test_praise_makes_the_answer_likelier_and_a_critique_less(
    base: Base, fresh: Path, tmp_path: Path
) -> None:
    """The same words about the same answer push in opposite directions."""
    templates = {"praise": Template("say {answer}", "system")}
    hints = Hints.of(base.name, {"*": templates})
    learner = Learner(base, replace(QUICK, anchor=0.0, steps=8), hints=hints)
    prompt, answer = base.prompt(asked("echo two red")), base.encode("kuro")
    told = {}
    for kind in ("praise", "critique"):
        one = lesson(answer="kuro", content="say nova", kind=kind)
        out = learner.train(fresh, [one], tmp_path / kind).folder
        with base.adapter(out) as name:
            told[kind] = likelihoods(base, [prompt], [answer], name)[0]
    before = likelihoods(base, [prompt], [answer], None)[0]
    assert told["praise"] > before + 0.1
    assert told["praise"] > told["critique"]


def test_feedback_that_cannot_be_taught_is_named_with_its_reason(
    base: Base, fresh: Path
) -> None:
    """The worker then leaves the adapter as it is."""
    before = (fresh / WEIGHTS).read_bytes()
    hopeless = replace(KURO, required="^rain rain")
    some = [lesson(number=1, check=KURO), lesson(number=2, check=hopeless)]
    found = Learner(base, QUICK).untaught(fresh, some)
    assert list(found) == ["f2"]
    assert "cannot follow this feedback in context" in found["f2"]
    assert (fresh / WEIGHTS).read_bytes() == before


def test_prompts_that_the_model_cannot_take_stop_no_others(
    base: Base, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long, held out and too long, or refused by the chat template."""
    words = " ".join(["two"] * 80)
    held = replace(KURO, prompts=(words,))
    odd = lesson(number=4, check=KURO)
    odd = replace(odd, receipt=replace(odd.receipt, messages=asked("zeno")))
    refuses = "{% if 'zeno' in messages[-1]['content'] %}{{ 1 / 0 }}{% endif %}"
    monkeypatch.setattr(base.tokenizer, "chat_template", refuses + TEMPLATE)
    some = [
        lesson(number=1, check=KURO),
        lesson(f"echo {words}", number=2, check=KURO),
        lesson(number=3, check=held),
        odd,
    ]
    found = Learner(base, QUICK).untaught(fresh, some)
    assert list(found) == ["f2", "f3", "f4"]
    assert found["f2"].endswith("tokens, and the model has 64 positions")
    assert found["f3"].startswith("with its hint and an answer it has 88 tokens")
    assert found["f4"].startswith("the chat template of")


def test_what_a_feedback_pushes_is_told_token_by_token(base: Base) -> None:
    """The token it speaks against, and what it would have said there."""
    rows = explain(Learner(base, QUICK), None, lesson())
    assert [row.token for row in rows] == ["two", "red"]
    assert rows[0].push < -3
    assert rows[0].teacher_best == "kuro"
    assert rows[0].student_best == "two"
    assert rows[0].push == pytest.approx(rows[0].teacher - rows[0].student)
    assert explain(Learner(base, QUICK), None, lesson(answer="")) == []


def test_what_cannot_be_trained_on_is_refused(
    base: Base, fresh: Path, tmp_path: Path
) -> None:
    """No lesson, or none that fits; a long one is left out and named."""
    learner = Learner(base, replace(QUICK, steps=1))
    long = lesson(f"echo {' '.join(['two'] * 80)}", "two", number=7)
    with pytest.raises(ConfigurationError, match="no lesson to train on"):
        learner.train(fresh, [], tmp_path / "out")
    with pytest.raises(TeachingError, match="none of 1 lessons fits into the 64"):
        learner.train(fresh, [long], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = learner.train(fresh, [long, lesson()], tmp_path / "out")
    assert found.figures["left_out"] == ["f7"]
    assert found.figures["lessons"] == 1


def test_training_that_ruins_the_model_stops(
    base: Base, fresh: Path, tmp_path: Path
) -> None:
    """Answers that shrink to nothing end it early; what is left is for the gate."""
    wild = replace(QUICK, lr=4e-2, steps=24, anchor=0.0)
    found = Learner(base, wild).train(fresh, echoes(), tmp_path / "out")
    assert found.figures["stopped"].startswith(("answers shrank", "entropy fell"))
    assert found.steps < 24


def test_the_anchors_weight_holds_the_budget(
    base: Base, fresh: Path, tmp_path: Path
) -> None:
    """It grows where the drift is above the budget, and shrinks where it is below."""
    last = []
    for budget in (1e-5, 10.0):
        learner = Learner(base, replace(QUICK, drift=budget, steps=8))
        found = learner.train(fresh, echoes(2), tmp_path / str(budget))
        last.append(found.figures["steps"][-1]["anchor_weight"])
    assert last[0] > QUICK.anchor > last[1]
