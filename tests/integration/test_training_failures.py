"""What can go wrong in a training, for each optimizer: a defined end, nothing written.

`Office.train` itself checks that no parameter is written to before the end. The budget
of these trainings is 2,000 requests: an end after a few dozen says that the rest was
not burnt.
"""

import json
from typing import Any

import pytest
from tests.integration.office_helpers import (
    TEXTS,
    TRAIN,
    Office,
    criticise,
    rewrite,
    right,
)
from tests.integration.trainer_helpers import START

from inf_engine import Budget
from inf_engine.errors import (
    BudgetExceededError,
    CriticError,
    EndpointConnectionError,
    LossError,
    ProposalError,
)
from inf_engine.optimization import (
    ReflectiveEvolution,
    TextGradientDescent,
    TrainingResult,
    VerifierLoss,
)
from inf_engine.types import LLMRequest

PLENTY = Budget(requests=2000)
KINDS: dict[str, Any] = {
    "descent": (TextGradientDescent, {}),
    "descent-rewrite": (TextGradientDescent, {"mode": "rewrite"}),
    "evolution": (ReflectiveEvolution, {}),
    "evolution-edits": (ReflectiveEvolution, {"mode": "edits"}),
}

each_kind = pytest.mark.parametrize("kind", KINDS)


def trained(office: Office, kind: str, **options: Any) -> TrainingResult:
    """Train with a kind of optimizer; there is plenty of budget."""
    of, params = KINDS[kind]
    return office.train(of, params=params, **{"budget": PLENTY, **options})


def is_gone(request: LLMRequest) -> Any:
    """A dead endpoint."""
    return EndpointConnectionError("it is gone")


def present(request: LLMRequest) -> str:
    """The text that a rewriter is to improve."""
    return next(iter(dict(TEXTS.findall(request.prompt)).values()))


def unchanged(request: LLMRequest) -> Any:
    """A rewriter that gives the text back."""
    text = present(request)
    if request.response_schema is None:
        return f"```\n{text}\n```"
    return {"edits": [{"find": text, "replace": text, "reason": "it is good"}]}


USELESS: dict[str, Any] = {
    "empty": lambda request: "",
    "blank": lambda request: " \n ",
    "an empty fence": lambda request: "```\n\n```",
    "half-JSON": lambda request: '{"edits": [{"find": "", "repl',
    "half-JSON of a text": lambda request: '{"prompt": "Answer the qu',
    "other JSON": lambda request: [{"rule": 1}],
    "no edit": lambda request: {"edits": []},
    "unchanged": unchanged,
}


# -- the rewriter -------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("useless", USELESS)
def test_a_rewriter_of_no_use(kind: str, useless: str, caplog: Any) -> None:
    """It is asked a few times; the log says why, the module stays as it was."""
    office = Office(r=USELESS[useless])
    result = trained(office, kind)
    assert not result.improved
    assert office.module.rules.value == START
    assert result.stopped != "the budget is spent"
    assert office.count("r") <= 16
    assert office.count("m") == 16 + 12
    if useless != "unchanged":
        assert "a proposal for rules was refused: " in caplog.text
    assert not [e for e in result.history.decisions if hasattr(e, "verdict")]


def repeating(request: LLMRequest) -> Any:
    """A rewriter that has one idea."""
    if request.response_schema is None:
        return f"```\n{START} Use rule 1.\n```"
    return {"edits": [{"find": "", "replace": "Use rule 1.", "reason": "why not"}]}


@each_kind
def test_a_rewriter_with_one_idea(kind: str) -> None:
    """What was tried is not tried again, nor put into the text twice."""
    office = Office(r=repeating)
    result = trained(office, kind)
    assert office.module.rules.value == f"{START} Use rule 1."
    assert result.score.mean == 0.25
    assert office.count() < 150
    assert result.stopped != "the budget is spent"


def fenced(request: LLMRequest) -> Any:
    """A rewriter that wraps what it says."""
    answer = rewrite(request)
    text = answer.strip("`\n") if isinstance(answer, str) else json.dumps(answer)
    return f"Here is the improved prompt:\n```\n{text}\n```"


@each_kind
def test_a_rewriter_that_wraps_its_answers(kind: str) -> None:
    """What is around a proposal goes, and is in no text."""
    office = Office(r=fenced)
    result = trained(office, kind)
    assert result.improved
    assert office.module.rules.value.startswith(START)
    assert "`" not in office.module.rules.value
    assert "improved prompt" not in office.module.rules.value


@each_kind
@pytest.mark.parametrize("after", [0, 2])
def test_a_dead_rewriter(kind: str, after: int) -> None:
    """A `ProposalError` at once, with the training so far; nothing more is asked."""
    asked: list[Any] = []

    def mortal(request: LLMRequest) -> Any:
        asked.append(request)
        return is_gone(request) if len(asked) > after else rewrite(request)

    office = Office(r=mortal)
    with pytest.raises(ProposalError, match="'r' could not be asked for") as caught:
        trained(office, kind)
    assert office.count("r") == after + 1
    assert office.count() < 120
    result = getattr(caught.value, "result")  # noqa: B009
    assert result.stopped.startswith("ProposalError: ")
    assert result.spent.requests == office.count()
    assert office.module.rules.value == START


# -- the critic ---------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("after", [0, 2])
def test_a_dead_critic(kind: str, after: int) -> None:
    """A `CriticError` at once; the rewriter is not asked without its notes."""
    asked: list[Any] = []

    def mortal(request: LLMRequest) -> Any:
        asked.append(request)
        return is_gone(request) if len(asked) > after else criticise(request)

    office = Office(critic=mortal)
    with pytest.raises(CriticError, match="could not review 'llm#1'") as caught:
        trained(office, kind, critic="critic")
    assert (office.count("critic"), office.count("r")) == (after + 1, after)
    assert office.count() < 120
    assert getattr(caught.value, "result").stopped.startswith("CriticError: ")  # noqa: B009
    assert office.module.rules.value == START


@each_kind
@pytest.mark.parametrize(
    "answer",
    ["", "no notes", {"parameters": [{"parameter": "x", "note": "n"}], "inputs": []}],
)
def test_a_critic_of_no_use(kind: str, answer: Any) -> None:
    """It is asked again twice, then it is as good as dead."""
    office = Office(critic=lambda request: answer)
    with pytest.raises(CriticError):
        trained(office, kind, critic="critic")
    assert (office.count("critic"), office.count("r")) == (3, 0)
    assert office.module.rules.value == START


# -- the loss -----------------------------------------------------------------------


@each_kind
def test_a_loss_that_raises_for_one_example(kind: str) -> None:
    """It is left out of notes and scores; the rest is trained."""
    train = [(text, None if place == 5 else t) for place, (text, t) in enumerate(TRAIN)]

    @VerifierLoss
    def fussy(output: str, target: Any) -> Any:
        return output == target, f"this is about {target[:6]}"

    office = Office()
    result = trained(office, kind, loss=fussy, train=train)
    assert result.improved
    scores = [(e.split, e.scores) for e in result.history.evaluations]
    lost = {(s, p) for s, each in scores for p, score in each.items() if score is None}
    assert lost == {("train", 5)}
    assert not [page for page in office.prompts("r") if "item 5\n" in page]
    assert office.count() < 300


@each_kind
def test_a_loss_that_raises_for_all(kind: str) -> None:
    """A `LossError` after the first minibatch."""

    @VerifierLoss
    def broken(output: str, target: str) -> Any:
        raise KeyError(target)

    office = Office()
    with pytest.raises(LossError, match="the loss failed for all of the first"):
        trained(office, kind, loss=broken)
    assert office.count() <= 12
    assert office.module.rules.value == START


# -- the budget ---------------------------------------------------------------------


@each_kind
def test_a_budget_that_is_gone_in_mid_step(kind: str) -> None:
    """Wherever it ends: it is kept, it is said, and what was accepted counts."""
    for most in range(8, 92, 7):
        office = Office()
        result = trained(office, kind, budget=Budget(requests=most), critic="critic")
        assert office.count() <= most
        assert result.stopped == "the budget is spent"
        assert result.score.mean >= result.baseline.mean
        assert office.module.state_dict() == dict(result.best.values)
    office = Office()
    with pytest.raises(BudgetExceededError, match="and a minibatch takes 8"):
        trained(office, kind, budget=Budget(requests=7))
    assert office.count() == 0


# -- nothing to do ------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("critic", [None, "critic"])
def test_all_examples_already_right(kind: str, critic: Any) -> None:
    """Nobody is asked for anything better; each example is run once."""
    office = Office()
    told = "rule 0. rule 1. rule 2. rule 3."
    office.module.rules.value = told
    result = trained(office, kind, critic=critic)
    assert (office.count("r"), office.count("critic")) == (0, 0)
    assert office.count("m") <= 16 + 12
    assert (result.improved, result.score.mean) == (False, 1.0)
    assert result.stopped != "the budget is spent"
    assert office.module.rules.value == told
    assert right.low == 0.0
