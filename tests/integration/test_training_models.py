"""Critics and judges inside a training: what they are asked, and what it costs."""

import re
from pathlib import Path
from typing import Any

import pytest
from tests.integration.office_helpers import (
    OPTIMIZERS,
    TRAIN,
    VAL,
    Chain,
    Office,
    criticise,
    judge,
    shown,
)
from tests.integration.trainer_helpers import examples

from inf_engine import Budget
from inf_engine.errors import (
    CriticError,
    EndpointConnectionError,
    LossError,
    UsageError,
)
from inf_engine.optimization import (
    ComparisonLoss,
    CompositeLoss,
    LLMJudge,
    RankingLoss,
    RubricLoss,
    TextGradientDescent,
    VerifierLoss,
)
from inf_engine.types import LLMRequest

JUDGES: dict[str, Any] = {
    "judge": lambda: LLMJudge("judge", "Is it right?"),
    "rubric": lambda: RubricLoss("judge", {1: "wrong", 2: "right"}),
    "comparison": lambda: ComparisonLoss("judge"),
    "both ways": lambda: ComparisonLoss("judge", order="both"),
    "composite": lambda: CompositeLoss(
        {
            "right": (LLMJudge("judge", "Is it right?"), 0.5),
            "known": (VerifierLoss(lambda output, _: output != "no idea"), 0.5),
        }
    ),
}

each_optimizer = pytest.mark.parametrize("of", OPTIMIZERS, ids=lambda o: o.__name__)
each_judge = pytest.mark.parametrize("loss", JUDGES.values(), ids=JUDGES)


def numbers(prompt: str) -> list[int]:
    """The numbers of the examples that a critic is shown."""
    return [int(n) for n in re.findall(r"^# Example (\d+)", prompt, re.MULTILINE)]


def steps(office: Office) -> list[str]:
    """The steps that the critic was asked about."""
    return [p.splitlines()[0].split()[-1] for p in office.prompts("critic")]


# -- a critic -----------------------------------------------------------------------


@each_optimizer
def test_what_a_critic_says_reaches_the_rewriter(of: Any) -> None:
    """One call for each batch with mistakes; its words are in the rewriter's page."""
    office = Office()
    result = office.train(of, critic="critic", rollouts=150)
    assert result.improved
    assert office.count("critic") == office.count("r") > 2
    pairs = zip(office.prompts("critic"), office.prompts("r"), strict=True)
    for asked, page in pairs:
        said = re.findall(r"about kind \d", asked)
        assert said
        assert f"CRITIC: state rules {', '.join(dict.fromkeys(said))}" in page
    assert result.spent.requests == office.count()
    assert result.rollouts == office.count("m") + result.spent.reused


@each_optimizer
def test_a_critic_is_shown_the_whole_batch(of: Any) -> None:
    """All examples of a batch are in the one call, with what was said of each."""
    office = Office()
    office.train(of, critic="critic", rollouts=60)
    first = office.prompts("critic")[0]
    assert numbers(first) == list(range(8))
    asked = re.findall(r"## Its prompt\n\n```\n(.*)\n```", first)
    assert len(set(asked)) == 8
    said = re.findall(r"## What was said of it\n\n```\n(.*)\n```", first)
    assert said == [f"this is about {text[:6]}" for text in asked]


def blaming(request: LLMRequest) -> Any:
    """A critic that blames `left` in two examples of the join, `right` in one."""
    inputs = []
    if request.prompt.startswith("# The step: join"):
        blame = [("left", 1), ("left", 4), ("right", 4)]
        inputs = [
            {"example": k, "input": f"{name}#1", "note": f"about kind {k}"}
            for name, k in blame
        ]
    return {**criticise(request), "inputs": inputs}


def test_one_call_for_each_node_and_batch() -> None:
    """Depth by depth; those of one depth at once, each with the examples it gets."""
    office = Office(Chain(), critic=blaming)
    office.train(critic="critic", max_steps=1)
    assert steps(office) == ["join#1", "left#1", "right#1"]
    arrivals = office.clients["critic"].arrivals
    assert arrivals[1] == arrivals[2] > arrivals[0]
    join, left, right = office.prompts("critic")
    assert [len(numbers(p)) for p in (join, left, right)] == [8, 2, 1]
    shown_to_join = re.findall(r"## Its prompt\n\n```\n(.*)\n", join)
    shown_to_left = re.findall(r"## Its prompt\n\n```\n(.*)\n", left)
    assert shown_to_left == [shown_to_join[1], shown_to_join[4]]
    assert left.count("about kind") >= 2


@each_optimizer
def test_a_critic_that_dies_in_the_middle(of: Any) -> None:
    """That ends it: nothing more is asked, what there was is kept."""
    asked = []

    def mortal(request: LLMRequest) -> Any:
        asked.append(request)
        dead = len(asked) > 2
        return EndpointConnectionError("it is gone") if dead else criticise(request)

    office = Office(critic=mortal)
    with pytest.raises(CriticError, match="could not review 'llm#1'") as caught:
        office.train(of, critic="critic", rollouts=150)
    assert len(asked) == 3
    assert office.count("r") == 2
    result = getattr(caught.value, "result")  # noqa: B009
    assert result.stopped.startswith("CriticError")
    assert result.rollouts < 100
    assert result.spent.requests == office.count()
    assert office.module.rules.value == result.start.values["rules"]
    assert office.module.rules.feedback == []


@each_optimizer
def test_a_budget_that_ends_at_the_critic(of: Any) -> None:
    """It is the end of the search, not a dead critic."""
    for most, asked in ((8, {"m": 8}), (9, {"m": 8, "critic": 1})):
        office = Office()
        budget = Budget(requests=most)
        result = office.train(of, critic="critic", budget=budget, val=None)
        assert result.stopped == "the budget is spent"
        assert {n: office.count(n) for n in asked} == asked
        assert office.count() == most
        assert not result.improved
        assert office.module.rules.value == "Answer the question."


# -- judges -------------------------------------------------------------------------


@each_judge
@each_optimizer
def test_a_judge_as_the_loss(of: Any, loss: Any) -> None:
    """Training by what a model says works; its requests are in the books."""
    office = Office()
    result = office.train(of, loss(), rollouts=150)
    assert result.improved
    assert result.score.mean > result.baseline.mean + 0.2
    assert 20 < office.count("judge")
    assert result.spent.requests == office.count()
    assert office.module.state_dict() == dict(result.best.values)


def test_tokens_of_a_judge_are_in_the_books() -> None:
    """All traffic counts, the judge's too."""
    office = Office()
    result = office.train(loss=JUDGES["judge"](), rollouts=60)
    answered = [
        sum(len(str(message.content)) for message in request.messages)
        for client in office.clients.values()
        for request in client.requests
    ]
    assert result.spent.tokens > sum(answered) / 10
    small = Office()
    result = small.train(loss=JUDGES["judge"](), budget=Budget(tokens=9000))
    assert result.stopped == "the budget is spent"
    assert 6000 < result.spent.tokens < 9500


@each_judge
@each_optimizer
def test_a_budget_of_requests_with_a_judge(of: Any, loss: Any) -> None:
    """It is kept exactly, and no rollout is made that cannot be judged."""
    for most in (60, 81, 140):
        office = Office()
        result = office.train(of, loss(), budget=Budget(requests=most))
        assert office.count() <= most
        assert result.spent.requests == office.count()
        assert result.stopped == "the budget is spent"
        scored = sum(len(e.scores) for e in result.history.evaluations)
        assert scored == result.rollouts


def test_a_judge_is_planned_for() -> None:
    """The projection counts its requests, two where it is asked both ways."""
    office = Office()
    with pytest.raises(UsageError, match="nothing says when the training ends"):
        office.train(loss=JUDGES["both ways"]())
    losses = [JUDGES[name]() for name in ("judge", "both ways", "composite")]
    assert [loss.questions for loss in losses] == [1, 2, 1]
    small = Office()
    with pytest.raises(Exception, match="the budget allows 6 rollouts, and a miniba"):
        small.train(loss=losses[1], budget=Budget(requests=20))
    assert small.count() == 0


def test_a_judge_off_its_scale() -> None:
    """It is asked again once; then the example is left out, and the rest is trained."""

    def off(request: LLMRequest) -> Any:
        texts = "".join([str(message.content) for message in request.messages])
        if "item 3\n" in texts:
            return {"reason": "", "score": 7.0}
        return judge(request)

    office = Office(judge=off)
    result = office.train(loss=JUDGES["judge"](), rollouts=150)
    assert result.improved
    missing = {
        (e.split, place)
        for e in result.history.evaluations
        for place, score in e.scores.items()
        if score is None
    }
    assert missing == {("train", 3)}
    judged = [len(request.messages) for request in office.clients["judge"].requests]
    assert judged.count(4) == 1 + result.improved
    assert all("item 3\n" not in page for page in office.prompts("r"))


def test_a_judge_that_is_always_off_its_scale() -> None:
    """It is no loss: the training ends after one minibatch."""
    office = Office(judge=lambda request: {"reason": "", "score": 7.0})
    with pytest.raises(Exception, match="the loss failed for all of the first 8"):
        office.train(loss=JUDGES["judge"](), rollouts=150)
    assert office.count() == 8 + 16


@each_optimizer
def test_a_dead_judge(of: Any) -> None:
    """As a loss that always fails: an error at once, and the module is as it was."""
    office = Office(judge=lambda request: EndpointConnectionError("it is gone"))
    with pytest.raises(Exception, match="the loss failed for all of the first"):
        office.train(of, JUDGES["judge"](), rollouts=150)
    assert office.count() <= 2 * 12
    assert office.module.rules.value == "Answer the question."


@each_optimizer
def test_a_judge_that_dies_in_the_middle(of: Any) -> None:
    """After two minibatches without a score it is an error; what there was is kept."""
    asked = []

    def mortal(request: LLMRequest) -> Any:
        asked.append(request)
        dead = len(asked) > 40
        return EndpointConnectionError("it is gone") if dead else judge(request)

    office = Office(judge=mortal)
    with pytest.raises(LossError, match="the loss failed for all of the last") as end:
        office.train(of, JUDGES["judge"](), train=examples(64), rollouts=2000)
    result = getattr(end.value, "result")  # noqa: B009
    assert result.stopped.startswith("LossError")
    assert len(asked) < 40 + 40
    assert office.module.rules.value == "Answer the question."


def test_a_ranking_is_refused() -> None:
    """The mean rank of a candidate's outputs among themselves says nothing."""
    office = Office()
    mixed = CompositeLoss({"rank": RankingLoss("judge"), "judge": JUDGES["judge"]()})
    for loss in (RankingLoss("judge"), mixed):
        with pytest.raises(UsageError, match="Use ComparisonLoss, which compares with"):
            office.train(loss=loss, rollouts=150)
    words = {"rank": (RankingLoss("judge"), 0.0), "judge": JUDGES["judge"]()}
    assert not CompositeLoss(words).is_relative
    assert office.count() == 0


# -- again --------------------------------------------------------------------------


class Killed(BaseException):
    """The process dies."""


def journaled(office: Office, folder: Path, of: Any) -> Any:
    """Train with a judge and a critic, both journals in a folder."""
    return office.train(
        of,
        JUDGES["judge"](),
        critic="critic",
        budget=Budget(requests=110),
        journal=folder / "training.jsonl",
        engine={"journal": folder / "answers.db"},
    )


@each_optimizer
def test_no_journaled_call_is_repeated(tmp_path: Path, of: Any) -> None:
    """Killed at any moment: judge and critic are not asked the same twice."""
    whole = Office()
    wanted = journaled(whole, tmp_path, of)
    assert min(whole.count("judge"), whole.count("critic")) > 1
    for moment in range(1, len(whole.events) - 1, 3):
        folder = tmp_path / str(moment)
        folder.mkdir()
        dying, again = Office(), Office()

        class Death(list[Any]):
            limit = moment

            def append(self, event: Any) -> None:
                if len(self) == self.limit:
                    raise Killed
                super().append(event)

        dying.events = Death()
        with pytest.raises(Killed):
            journaled(dying, folder, of)
        result = journaled(again, folder, of)
        assert (result.best.values, result.score, result.rollouts) == (
            wanted.best.values,
            wanted.score,
            wanted.rollouts,
        )
        assert result.spent.requests == wanted.spent.requests
        for name in whole.clients:
            both = dying.count(name) + again.count(name)
            assert both == whole.count(name), name


def test_the_helpers_say_what_they_mean() -> None:
    """The judge of these tests sees output and target."""
    office = Office()
    office.train(TextGradientDescent, JUDGES["judge"](), max_steps=1)
    (request, *_) = office.clients["judge"].requests
    assert shown(request, "Output") == "no idea"
    assert shown(request, "What the output .*?").startswith("kind ")
    assert len(TRAIN) + len(VAL) == 28
