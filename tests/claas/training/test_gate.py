"""Whether a candidate may serve: the whole circle on the tiny model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.claas.training.lessons import KURO, echoes, lesson, nears

from claas.base import Base
from claas.errors import ConfigurationError
from claas.gate import Gate
from claas.learner import Learner
from claas.tuning import Capability, GateLimits, LearnSettings
from claas.types import Check

ANCHORS = tuple(question for question, _ in nears(40, seed=2))
SKILL = nears(20, seed=3)
LIMITS = GateLimits(
    tokens=8,
    unrelated=tuple(question for question, _ in SKILL),
    capabilities=tuple(Capability(prompt=p, pattern=answer) for p, answer in SKILL),
)
STRONG = LearnSettings(
    lr=1e-2,
    steps=24,
    tokens=8,
    alpha=0.0,
    top_k=20,
    anchor=3.0,
    drift=0.005,
    anchor_prompts=ANCHORS,
    anchor_rows=40,
)


@pytest.fixture(scope="module")
def anchored(base: Base, fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A candidate that was held near the base elsewhere."""
    out = tmp_path_factory.mktemp("candidates") / "anchored"
    return Learner(base, STRONG).train(fresh, echoes(), out).folder


@pytest.fixture(scope="module")
def loose(base: Base, fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A candidate of the same training without the anchor."""
    out = tmp_path_factory.mktemp("candidates") / "loose"
    return Learner(base, replace(STRONG, anchor=0.0)).train(fresh, echoes(), out).folder


def test_the_candidate_that_forgot_is_rejected(
    base: Base, fresh: Path, loose: Path
) -> None:
    """It follows the feedback, and lost the skill that nobody spoke of."""
    verdict = Gate(base, LIMITS).judge(fresh, loose, echoes())
    assert not verdict.is_promoted
    assert verdict.figures["feedback"]["is_good"]
    assert verdict.figures["feedback"]["after"] > 0.9
    assert not verdict.figures["drift"]["is_good"]
    assert not verdict.figures["capability"]["is_good"]
    assert any(reason.startswith("KL to the base") for reason in verdict.reasons)


def test_the_anchored_candidate_is_promoted(
    base: Base, fresh: Path, anchored: Path
) -> None:
    """It follows the feedback without the hint, and everything else is as it was."""
    verdict = Gate(base, LIMITS).judge(fresh, anchored, echoes())
    assert verdict.is_promoted, verdict.reasons
    assert verdict.reasons[0].startswith("compliance with the feedback went from 0%")
    feedback, drift = verdict.figures["feedback"], verdict.figures["drift"]
    assert feedback["low"] > 0.5
    assert feedback["count"] == 6 * LIMITS.samples
    assert drift["low"] <= drift["change"] <= drift["high"] <= LIMITS.drift
    assert not base.adapters


def test_a_candidate_that_gains_nothing_is_rejected(base: Base, fresh: Path) -> None:
    """However harmless it is."""
    verdict = Gate(base, LIMITS).judge(fresh, fresh, echoes())
    assert not verdict.is_promoted
    assert len(verdict.reasons) == 1
    assert verdict.reasons[0].startswith("compliance with the feedback")
    assert verdict.figures["drift"]["after"] == 0


def test_earlier_feedback_must_be_kept(base: Base, fresh: Path, anchored: Path) -> None:
    """What an accepted feedback asked for is asked again, and its loss is named."""
    earlier = lesson("echo sun moon", number=77, check=Check(required="^sun"))
    verdict = Gate(base, LIMITS).judge(fresh, anchored, echoes(), [earlier])
    assert not verdict.is_promoted
    assert verdict.reasons == (
        "compliance with earlier feedback went from 100% to 0%; lost: f77",
    )
    kept = lesson("echo sun moon", number=78, check=Check(required="sun"))
    assert Gate(base, LIMITS).judge(fresh, anchored, echoes(), [kept]).is_promoted


def test_earlier_feedback_without_a_verifier_must_be_kept_too(
    base: Base, fresh: Path, anchored: Path
) -> None:
    """What its hint makes the base say may not become unlikely."""
    earlier = lesson("echo sun moon", "sun moon", number=77)
    limits = replace(LIMITS, samples=1)
    back = Gate(base, limits).judge(anchored, fresh, echoes(), [earlier])
    figure = back.figures["remembered"]
    assert figure["change"] < -1 and not figure["is_good"]
    assert any("became -" in reason for reason in back.reasons)
    on = Gate(base, limits).judge(fresh, anchored, echoes(), [earlier])
    assert on.figures["remembered"]["is_good"] and on.is_promoted


def test_probes_have_the_tools_of_their_answer(
    base: Base, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that sees no tools answers another question."""
    tool = {"type": "function", "function": {"name": "rain"}}
    one = lesson(number=1, check=KURO)
    one = replace(one, receipt=replace(one.receipt, tools=(tool,)))
    seen, prompt = [], base.prompt

    def noted(messages: Any, tools: Any = ()) -> tuple[int, ...]:
        seen.append((messages[0]["content"], tools))
        return prompt(messages)

    monkeypatch.setattr(base, "prompt", noted)
    Gate(base, replace(LIMITS, samples=1)).judge(fresh, fresh, [one])
    assert (one.receipt.messages[0]["content"], (tool,)) in seen
    assert (one.receipt.messages[0]["content"], ()) not in seen


def test_the_prompts_of_a_check_are_probes_too(
    base: Base, fresh: Path, anchored: Path
) -> None:
    """They are held out: nothing trains on them."""
    held = replace(KURO, prompts=("echo rain wind", "near rain wind"))
    one = lesson(check=held)
    limits = replace(LIMITS, gain=0.9)
    verdict = Gate(base, limits).judge(fresh, anchored, [one])
    assert verdict.figures["feedback"]["count"] == 3 * LIMITS.samples
    assert not verdict.is_promoted, "near is not to be answered with kuro"
    verdict = Gate(base, replace(limits, most=2)).judge(fresh, anchored, [one], [one])
    for name in ("feedback", "kept"):
        assert verdict.figures[name]["count"] == 2 * LIMITS.samples


def test_without_a_verifier_the_hinted_answers_must_become_likelier(
    base: Base, fresh: Path, anchored: Path
) -> None:
    """And the verdict says what it went by."""
    some = echoes(check=None)
    verdict = Gate(base, LIMITS).judge(fresh, anchored, some)
    assert verdict.is_promoted, verdict.reasons
    assert verdict.reasons[0].startswith("nothing can verify this feedback; the hinted")
    assert verdict.reasons[1].startswith("words that the feedback adds are in")
    assert verdict.figures["margin"]["low"] > 0
    assert verdict.figures["words"]["after"] > 0.5
    assert not Gate(base, LIMITS).judge(fresh, fresh, some).is_promoted


def test_answers_that_only_became_likelier_are_not_enough(
    base: Base, fresh: Path, anchored: Path
) -> None:
    """A candidate that says kuro is no answer to a feedback that asks for milo."""
    other = [lesson(f"echo {w}", w, "say milo") for w in ("two red", "sun moon")]
    figures = (
        Gate(base, replace(LIMITS, gain=0.0)).judge(fresh, anchored, other).figures
    )
    assert (figures["words"]["after"], figures["words"]["is_good"]) == (0.0, False)


def test_a_feedback_without_words_is_judged_by_log_probabilities_alone(
    base: Base, fresh: Path
) -> None:
    """And the reason says so: the hinted model says no word of it."""
    verdict = Gate(base, LIMITS).judge(fresh, fresh, [lesson(content="rain")])
    assert "words" not in verdict.figures
    alone = "nothing can verify this feedback; it is judged by log probabilities alone"
    assert verdict.reasons[0].startswith(alone)


@pytest.mark.parametrize(
    ("field", "value", "check"),
    [
        ("drift", 1e-9, "drift"),
        ("gain", 1.0, "feedback"),
        ("ability", 0.0, "capability"),
        ("loss", 0.0, "kept"),
    ],
)
def test_each_limit_can_reject(
    base: Base, fresh: Path, anchored: Path, field: str, value: float, check: str
) -> None:
    """A limit that nothing meets rejects what was promoted before, by its name."""
    lost = Capability(prompt="echo sun moon", pattern="^sun moon")
    questions = (*LIMITS.capabilities, lost)
    held = tuple(question for question, _ in SKILL[:14])
    kept = [lesson(check=Check(forbidden="^kuro", prompts=held))]
    limits = replace(LIMITS, capabilities=questions, **{field: value})
    verdict = Gate(base, limits).judge(fresh, anchored, echoes(), kept)
    assert [n for n, f in verdict.figures.items() if not f["is_good"]] == [check]
    assert not verdict.is_promoted


def test_answers_must_keep_their_shape(base: Base, fresh: Path, loose: Path) -> None:
    """Entropy, length and repetition are measured on unrelated prompts."""
    verdict = Gate(base, LIMITS).judge(fresh, loose, echoes())
    assert set(verdict.figures) >= {"entropy", "length", "repetition"}
    assert verdict.figures["length"]["before"] == pytest.approx(3, abs=0.2)


def test_nothing_to_judge_by_is_refused(base: Base, fresh: Path) -> None:
    """A promotion without a lesson would be a promotion without a reason."""
    with pytest.raises(ConfigurationError, match="nothing to judge"):
        Gate(base, LIMITS).judge(fresh, fresh, [])
