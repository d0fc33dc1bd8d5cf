"""What the hinted model says, and whether it can do what it is to teach."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from tests.claas.training.lessons import KURO, asked, lesson

from claas.base import Base
from claas.hints import Hints
from claas.teacher import (
    Examiner,
    RemoteTeacher,
    SelfTeacher,
    TeachSettings,
    hinted_prompt,
)
from claas.types import Check, Lesson


@dataclass(frozen=True)
class Scores:
    """What an inference server says of a sequence."""

    indices: tuple[tuple[int, ...], ...]
    tops: tuple[tuple[float, ...], ...]


class Server:
    """An inference server that has the same model: a place for each token but one."""

    def __init__(self, base: Base, short: int = 0) -> None:
        self.base = base
        self.short = short
        self.asked: list[tuple[str, int]] = []

    @torch.no_grad()
    def score(self, ids: Sequence[int], name: str, top_k: int = 0) -> Scores:
        """Return the likeliest tokens of each place."""
        self.asked.append((name, top_k))
        rows = self.base.rows([ids[:1]], [ids[1:]])
        logprobs = self.base.logits(rows, None)[0].log_softmax(-1)
        best = logprobs.topk(top_k - self.short)
        return Scores(
            tuple(map(tuple, best.indices.tolist())),
            tuple(map(tuple, best.values.tolist())),
        )

    def tokenize(self, name: str, *, text: str) -> Sequence[int]:
        """Return the tokens of a text."""
        return self.base.encode(text)

    def close(self) -> None:
        """Close nothing."""


def hinted(base: Base) -> list[tuple[int, ...]]:
    """Return two hinted prompts."""
    hints = Hints.of(base.name)
    some = lesson(), lesson("echo sun moon", "sun moon")
    return [hinted_prompt(base, hints, one) for one in some]


@pytest.mark.parametrize("short", [0, 1])
def test_a_server_with_the_same_model_teaches_the_same(base: Base, short: int) -> None:
    """Positions are those of the answer; a short row repeats its last token."""
    answers = [base.encode("two red"), base.encode("kuro sun moon")]
    own = SelfTeacher(base).tops(hinted(base), answers, 5)
    server = Server(base, short)
    told = RemoteTeacher(server, "large", base).tops(hinted(base), answers, 5)
    assert server.asked == [("large", 5)] * 2
    kept = slice(0, 4 if short else 5)
    for row, answer in enumerate(answers):
        part = row, slice(0, len(answer)), kept
        assert torch.equal(told.indices[part], own.indices[part])
        assert torch.allclose(told.logprobs[part], own.logprobs[part], atol=1e-4)
    if short:
        assert torch.equal(told.indices[..., 4], told.indices[..., 3])


def test_no_more_tokens_than_the_vocabulary(base: Base) -> None:
    """The whole distribution then, which sums to one."""
    tops = SelfTeacher(base).tops(hinted(base), [base.encode("two")] * 2, 1000)
    assert torch.allclose(tops.logprobs.exp().sum(-1), torch.ones(2, 1), atol=1e-4)


def examined(base: Base, one: Lesson, margin: float = 0.05) -> tuple:
    """Return what is said of a lesson."""
    examiner = Examiner(base, SelfTeacher(base), Hints.of(base.name))
    found = examiner.examine(None, [one], TeachSettings(tokens=8, margin=margin))[0]
    return found.is_teachable, found.how, found.reason


def test_what_the_hinted_model_does_can_be_taught(base: Base) -> None:
    """It generates, and its check looks."""
    good, how, reason = examined(base, lesson(check=KURO))
    assert (good, how) == (True, "check")
    assert reason == "100% of the hinted answers follow it, 0% without"


def test_what_the_hinted_model_does_not_do_cannot(base: Base) -> None:
    """However much the hint changes its log probabilities."""
    wish = lesson(content="say kuro", check=Check(required="^rain rain"))
    good, how, reason = examined(base, wish)
    assert (good, how) == (False, "check")
    assert "cannot follow this feedback in context" in reason
    assert examined(base, lesson())[0], "log probabilities alone would have taken it"


def test_what_is_done_already_need_not_be_taught(base: Base) -> None:
    """There is nothing to gain, and something to lose."""
    good, _, reason = examined(base, lesson(check=Check(forbidden="rain")))
    assert not good
    assert reason.startswith("the adapter follows this feedback already")


def test_without_a_verifier_log_probabilities_decide_and_it_says_so(base: Base) -> None:
    """The weakest way; a hint that changes nothing teaches nothing."""
    good, how, reason = examined(base, lesson())
    assert (good, how) == (True, "margin")
    assert reason.startswith("nothing can verify this feedback")
    assert not examined(base, lesson("near two red", "three blue"), margin=1.0)[0]


def test_a_teacher_that_only_scores_is_judged_by_log_probabilities(base: Base) -> None:
    """Even where there is a check: it cannot generate."""
    teacher = RemoteTeacher(Server(base), "large", base)
    examiner = Examiner(base, teacher, Hints.of(base.name))
    one = lesson(answer="two red", check=KURO)
    found = examiner.examine(None, [one], TeachSettings(tokens=8))
    assert found[0].how == "margin"


def test_a_model_that_repeats_the_hint_cannot_be_taught(base: Base) -> None:
    """Parroting is not following."""
    said = "one two three four five six"
    parrot = lesson("echo one two", content=said)
    examiner = Examiner(base, Parrot(base, said), Hints.of(base.name))
    found = examiner.examine(None, [parrot], TeachSettings(tokens=8))[0]
    assert not found.is_teachable
    assert "repeats the feedback" in found.reason


class Parrot(SelfTeacher):
    """A hinted model that says nothing but the hint."""

    def __init__(self, base: Base, text: str) -> None:
        super().__init__(base)
        self.base = base
        self.text = text

    def sample(self, prompts: Sequence[Sequence[int]], **_: float) -> list:
        """Return the hint, as often as asked."""
        said = self.base.sample([self.base.prompt(asked("x"))], None, most=1)[0]
        ids = self.base.encode(self.text)
        return [type(said)(ids, (0.0,) * len(ids), self.text)] * len(prompts)
