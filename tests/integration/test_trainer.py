"""The trainer: budget, held-out check, failures, resuming. All against small fakes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.trainer_helpers import (
    START,
    Ladder,
    Plain,
    Worker,
    World,
    examples,
    ladder,
    work,
)

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.errors import (
    BudgetExceededError,
    CriticError,
    EndpointConnectionError,
    LossError,
    ProposalError,
    TrainingError,
    UsageError,
)
from inf_engine.optimization.acceptance import accept
from inf_engine.optimization.composite import CompositeLoss
from inf_engine.optimization.descent import TextGradientDescent
from inf_engine.optimization.evolution import ReflectiveEvolution
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.human import HumanLoss
from inf_engine.optimization.loss import VerifierLoss
from inf_engine.optimization.search import Candidate, Scores
from inf_engine.optimization.trainer import Trainer
from inf_engine.optimization.training_result import TrainingResult
from inf_engine.optimization.trajectory import (
    CandidateAccepted,
    CandidateRejected,
    Evaluated,
    StepStarted,
    TrainingFinished,
    TrainingStarted,
)
from inf_engine.resources.budget import Budget
from inf_engine.types import LLMRequest

ROOT = Path(__file__).parents[2]
TRAIN, VAL = examples(16), examples(12, first=100)


def trained(world: World, val: Any = VAL, train: Any = TRAIN, **options: Any) -> Any:
    """Train with the ladder; return the result."""
    engine_options = options.pop("engine_options", {})
    loss = options.pop("loss", None) or Plain()
    optimizer = options.pop("optimizer", None) or ladder(world.module)

    async def body(engine: Engine) -> TrainingResult:
        trainer = Trainer(
            engine,
            world.module,
            loss,
            optimizer,
            callbacks=[world.events.append],
            **options,
        )
        return await trainer.fit(train, val)

    return world.run(body, **engine_options)


def fingerprint(result: TrainingResult) -> Any:
    """All of a trajectory that must be the same each time."""
    history = result.history
    return (
        result.best.values,
        result.rollouts,
        result.stopped,
        result.score,
        [
            (e.number, e.candidate.digest, e.split, dict(e.scores), e.rollouts, e.mean)
            for e in history.evaluations
        ],
        [(e.number, e.candidate.digest, e.rollouts) for e in history.decisions],
        result.lineage,
        result.spent.requests,
    )


# -- what it gives ------------------------------------------------------------------


def test_training_improves_the_module() -> None:
    """The module gets the best values in the end, and the result says how good."""
    world = World()
    result = trained(world, rollouts=120)
    assert result.improved
    assert result.baseline.mean == 0.0
    assert result.score.mean == 1.0
    assert result.score.n == 12
    assert result.gain.gain.mean == 1.0
    assert world.module.state_dict() == dict(result.best.values)
    assert f"stopped: {result.stopped}" in str(result)


def test_the_module_is_untouched_while_it_is_trained() -> None:
    """No event ever sees the module with other values, nor with feedback."""
    world = World()
    seen = []

    def look(event: Any) -> None:
        seen.append((world.module.rules.value, world.module.rules.feedback))

    async def body(engine: Engine) -> Any:
        options: Any = {"callbacks": [look], "rollouts": 60}
        optimizer = ladder(world.module)
        trainer = Trainer(world.module, Plain(), optimizer, engine=engine, **options)
        return await trainer.fit(TRAIN, VAL)

    result = world.run(body)
    assert len(seen) > 5
    assert seen[:-1] == [(START, [])] * (len(seen) - 1)
    assert seen[-1] == (result.best.values["rules"], [])


def test_events() -> None:
    """Each thing that happens is one frozen event, in order."""
    world = World()
    trained(world, rollouts=80)
    kinds = [type(event) for event in world.events]
    assert kinds[:3] == [TrainingStarted, StepStarted, Evaluated]
    assert kinds[-1] is TrainingFinished
    assert {CandidateAccepted, CandidateRejected} <= set(kinds)
    first = world.events[2]
    assert (first.split, first.mean, first.covered) == ("train", 0.0, 8)
    assert first.scores == dict.fromkeys(world.events[1].places, 0.0)
    decisions = [e for e in world.events if hasattr(e, "parents")]
    assert [e.number for e in decisions] == list(range(1, len(decisions) + 1))
    assert all(e.rollouts <= 80 for e in decisions)
    finished = world.events[-1]
    assert finished.reason == "the budget is spent"
    assert finished.best.values == world.module.state_dict()


def test_a_callback_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It does not hurt the training."""
    world = World()

    async def body(engine: Engine) -> Any:
        options: Any = {"callbacks": [lambda event: 1 / 0], "rollouts": 40}
        trainer = Trainer(
            engine, world.module, Plain(), ladder(world.module), **options
        )
        return await trainer.fit(TRAIN, VAL)

    assert world.run(body).rollouts == 40
    assert "a callback failed on StepStarted with ZeroDivisionError" in caplog.text


def test_the_same_seed_gives_the_same_trajectory() -> None:
    """Whatever the order in which answers arrive; another seed gives another one."""
    runs = []
    for latency in (0.0, lambda request: len(request.prompt) % 7 + 0.1):
        world = World()
        world.task._latency = latency
        runs.append(fingerprint(trained(world, rollouts=100, seed=3)))
    assert runs[0] == runs[1]
    assert fingerprint(trained(World(), rollouts=100, seed=4)) != runs[0]


def test_without_held_out_data_train_scores_decide() -> None:
    """The best is run on all training examples before it is trusted."""
    world = World()
    result = trained(world, val=None, rollouts=150)
    assert result.improved
    assert result.score.n == result.baseline.n == 16
    assert result.score.mean > result.baseline.mean


class Liar(Ladder):
    """An optimizer that accepts whatever it thinks of."""

    text = "Ruined."

    async def search(self, search: Any) -> None:
        places = search.batch()
        await search.rollouts(search.start, places)
        there = search.start.with_values({"rules": self.text})
        search.accepted(there, [search.start], [], accept([0.0], [1.0]))


def test_the_held_out_gate_keeps_the_start() -> None:
    """What was accepted and is worse on held-out data is not the best."""
    world = World()
    world.module.rules.value = "Use rule 0."
    result = trained(world, rollouts=100, optimizer=Liar(world.module.parameters()))
    assert not result.improved
    assert world.module.rules.value == "Use rule 0."
    assert result.gain.gain.mean == 0.0
    assert result.stopped == "the optimizer was done"
    assert len(result.history.decisions) == 1


def test_what_cannot_be_checked_is_not_the_best() -> None:
    """Without budget to run a candidate on held-out data, it does not win."""

    class Spender(Liar):
        text = "Use rule 0."

        async def search(self, search: Any) -> None:
            await search.rollouts(search.start, range(12), split="val")
            await super().search(search)

    world = World()
    spender = Spender(world.module.parameters())
    result = trained(world, rollouts=20, optimizer=spender)
    assert not result.improved
    assert result.rollouts == 20
    assert result.score.n == 12


class Lucky(Liar):
    """An optimizer: one candidate is good on all held-out examples, one on one."""

    async def search(self, search: Any) -> None:
        start = await search.rollouts(search.start, range(12), split="val")
        before = Scores.of(search.start, start).by_place
        for text, count in (("rule 0. rule 1. rule 2.", 12), ("rule 0.", 1)):
            candidate = search.start.with_values({"rules": text})
            made = await search.rollouts(candidate, range(count), split="val")
            verdict = accept(before, Scores.of(candidate, made).by_place)
            search.accepted(candidate, [search.start], [], verdict)


def test_luck_on_a_few_examples_is_not_strength() -> None:
    """A candidate that was right on one example does not beat 9 of 12."""
    world = World()
    lucky = Lucky(world.module.parameters())
    result = trained(world, rollouts=25, optimizer=lucky)
    assert result.rollouts == 25
    assert result.score.mean == 0.75


def test_a_check_is_kept_back() -> None:
    """The search cannot spend what the check takes, up to an eighth of all."""
    world = World()
    refused = []

    class Greedy(Liar):
        text = "Use rule 0."

        async def search(self, search: Any) -> None:
            await super().search(search)
            try:
                await search.rollouts(search.start, range(16))
            except BudgetExceededError as exc:
                refused.append(str(exc))

    greedy = Greedy(world.module.parameters())
    result = trained(world, rollouts=17, optimizer=greedy, batch_size=8)
    assert "9 left, 2 of them to check the best candidate" in refused[0]
    assert result.improved
    assert result.score.n == result.baseline.n == 4


def test_steps_epochs_and_patience_end_it() -> None:
    """Each of them is an end, and is named."""
    result = trained(World(), max_steps=3)
    assert result.stopped == "all steps were taken"
    assert result.history.decisions[-1].number <= 3
    world = World()
    trained(world, epochs=2, batch_size=8)
    assert sum(isinstance(e, StepStarted) for e in world.events) == 4
    world = World(rewriter=lambda r: r.prompt.split("\n")[1] + " Be nice.")
    result = trained(world, patience=2)
    assert result.stopped == "no better candidate in 2 decisions"
    assert len(result.history.decisions) == 2


@pytest.mark.parametrize("kind", [TextGradientDescent, ReflectiveEvolution])
def test_a_request_that_does_not_fit_is_told_as_a_spent_budget(kind: Any) -> None:
    """Something is left of it, and yet nothing more can be asked."""
    world = World(rewriter=lambda _: "never asked")
    optimizer = kind(world.module.parameters(), alias="r")
    result = trained(world, optimizer=optimizer, budget=Budget(tokens=900))
    assert result.stopped == "the budget is spent"
    assert world.rewriter.requests == [] and result.spent.tokens < 900


def test_files(tmp_path: Path) -> None:
    """The folder has the values, the lineage and the report, for the owner only."""
    world = World()
    result = trained(world, rollouts=100, out=tmp_path / "out")
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert sorted(files) == ["best.json", "lineage.json", "report.html"]
    best = json.loads(files["best.json"].read_text())
    Worker().load_state_dict(best)
    assert best == world.module.state_dict()
    lineage = json.loads(files["lineage.json"].read_text())
    assert lineage["best"] == result.best.digest
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    with pytest.raises(UsageError, match="cannot write the training's files to"):
        result.save(files["best.json"] / "no")


def test_the_report_holds_no_markup_of_others(tmp_path: Path) -> None:
    """What models, users and losses wrote is escaped, wherever it stands."""
    evil = "<script>alert(1)</script>"
    world = World(rewriter=lambda r: f"rule 0. rule 1. {evil}")
    world.module.rules.value = f"Start. {evil}"

    class Evil(Plain):
        def _one(self, record: Any, target: Any) -> Any:
            return replace(super()._one(record, target), content=f"{evil} said")

    trained(world, loss=Evil(), rollouts=60, out=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    assert "&lt;/script&gt; said" in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_report_of_nothing(tmp_path: Path) -> None:
    """A training in which nothing was done has a report, too."""

    class Lazy(Ladder):
        async def search(self, search: Any) -> None:
            return None

    world = World()
    lazy = Lazy(world.module.parameters())
    result = trained(world, val=None, rollouts=8, optimizer=lazy, out=tmp_path)
    assert result.score.n == result.rollouts == 8
    page = (tmp_path / "report.html").read_text()
    assert "no candidate was made" in page


def test_several_parameters_and_keyword_inputs() -> None:
    """Examples with keyword-only inputs run too, notes keep the parameter's name."""

    class Two(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.worker = Worker()
            self.other = Parameter("x", requires_grad=False)

        def forward(self, *, question: str) -> Any:
            return self.worker(question)

    module: Any = Two()
    world = World()
    world.module = module
    data = [({"question": text}, target) for text, target in TRAIN]
    parameters = [module.worker.rules]
    result = trained(
        world, val=None, train=data, rollouts=100, optimizer=Ladder(parameters)
    )
    assert result.improved
    assert module.other.value == "x"
    assert "Use rule" in module.worker.rules.value


# -- budgets ------------------------------------------------------------------------


@pytest.mark.parametrize("most", [13, 30, 57])
def test_a_budget_of_requests_is_kept_exactly(most: int) -> None:
    """Counted at the clients, the rewriter's too; the module is not hurt."""
    world = World()
    result = trained(world, budget=Budget(requests=most))
    assert world.asked <= most
    assert result.spent.requests == world.asked
    assert result.stopped == "the budget is spent"
    assert world.module.state_dict() == dict(result.best.values)


@pytest.mark.parametrize("most", [8, 13, 40, 77])
def test_a_budget_of_rollouts_is_kept_exactly(most: int) -> None:
    """The critic and the rewriter do not count, runs do."""
    world = World()
    result = trained(world, rollouts=most)
    assert result.rollouts <= most
    assert len(world.task.requests) <= result.rollouts


def test_a_budget_of_tokens() -> None:
    """It is not overrun by more than what is in flight is misjudged."""
    world = World()
    result = trained(world, budget=Budget(tokens=1200))
    assert 600 < result.spent.tokens < 1400
    assert result.stopped == "the budget is spent"


def test_a_budget_that_is_gone_in_mid_step() -> None:
    """The rewriter meets it: the search ends, what was accepted before counts."""
    full = World()
    trained(full, rollouts=100)
    order = [e for e in full.events if isinstance(e, CandidateAccepted)]
    assert order
    calls: list[int] = []
    for most in range(36, 46):
        world = World()
        result = trained(world, budget=Budget(requests=most), seed=0)
        calls.append(world.asked)
        assert world.asked <= most
        assert result.score.mean >= result.baseline.mean
    assert calls == sorted(calls)


def test_the_engines_own_budget_counts_too() -> None:
    """The stricter one holds; afterwards the engine has its own again."""
    world = World()

    async def body(engine: Engine) -> Any:
        optimizer = ladder(world.module)
        trainer = Trainer(
            engine, world.module, Plain(), optimizer, budget=Budget(requests=500)
        )
        result = await trainer.fit(TRAIN, VAL)
        account = engine.resources.spending.account
        with pytest.raises(BudgetExceededError):
            for _ in range(9):
                await engine.run(world.module, "kind 1 item 1000")
        return result, account

    result, account = world.run(body, budget=Budget(requests=50))
    assert world.asked == 50
    assert result.spent.requests <= 50
    assert account is not None
    assert type(account).__name__ == "BudgetAccount"


def test_no_budget_is_left_behind() -> None:
    """After a training the engine spends freely, and keeps no cache."""
    world = World()

    async def body(engine: Engine) -> None:
        optimizer = ladder(world.module)
        trainer = Trainer(
            engine, world.module, Plain(), optimizer, budget=Budget(requests=30)
        )
        await trainer.fit(TRAIN, VAL)
        before = world.asked
        for _ in range(30):
            await engine.run(world.module, "kind 1 item 1")
        assert world.asked == before + 30
        assert engine._scheduler.memory is None

    world.run(body)


def test_a_budget_too_small_for_a_minibatch() -> None:
    """It is refused before anything is asked."""
    world = World()
    with pytest.raises(BudgetExceededError, match="and a minibatch takes 8: nothing"):
        trained(world, rollouts=7)
    assert world.asked == 0


def test_nothing_is_run_twice() -> None:
    """A stage whose request did not change is not asked again."""

    class Chain(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.first = LLMInference("m", system_prompt="rule 0. rule 1.")
            self.worker = Worker()

        def forward(self, question: str) -> Any:
            self.first(question)
            return self.worker(question)

    module: Any = Chain()
    world = World()
    world.module = module
    result = trained(world, rollouts=200, optimizer=Ladder([module.worker.rules]))
    systems = [str(r.messages[0].content) for r in world.task.requests]
    assert systems.count("rule 0. rule 1.") == 16 + 12
    assert result.spent.reused > 30


def test_project() -> None:
    """What a training may take is known before it starts."""
    world = World()

    async def body(engine: Engine) -> Any:
        parts = (engine, world.module, Plain(), ladder(world.module))
        by_rollouts = Trainer(*parts, rollouts=40).project(TRAIN, VAL)
        by_requests = Trainer(*parts, budget=Budget(requests=90)).project(TRAIN)
        return by_rollouts, by_requests

    first, second = world.run(body)
    assert (first.per_rollout, first.check, first.rollouts) == (1, 24, 40)
    assert first.requests == 40
    assert str(first).startswith("up to 40 rollouts of 1 model calls or more each, up")
    assert (second.rollouts, second.requests, second.check) == (90, 90, 32)
    assert world.asked == 0


# -- failures -----------------------------------------------------------------------


def test_a_dead_rewriter() -> None:
    """Its error is loud, the module is as it was, and what there was is kept."""
    world = World(rewriter=lambda r: EndpointConnectionError("it is gone"))

    class Careful(Ladder):
        async def search(self, search: Any) -> None:
            try:
                await super().search(search)
            except EndpointConnectionError as exc:
                raise ProposalError("the rewriter could not be asked") from exc

    optimizer = Careful(world.module.parameters())
    options: Any = {"engine_options": {"retries": 0}}
    with pytest.raises(ProposalError, match="could not be asked") as caught:
        trained(world, rollouts=100, optimizer=optimizer, **options)
    result = getattr(caught.value, "result")  # noqa: B009
    assert result.stopped.startswith("ProposalError")
    assert result.rollouts == 8
    assert world.asked == 8 + 1
    assert world.module.rules.value == START
    assert world.module.rules.feedback == []


def test_a_dead_critic() -> None:
    """A critic that fails ends the training; nothing is written."""
    world = World()

    class Dead:
        async def write(self, *args: Any, **kwargs: Any) -> Any:
            raise CriticError("the critic is dead")

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return self.write

    with pytest.raises(CriticError, match="the critic is dead"):
        trained(world, rollouts=100, critic=Dead())
    assert world.module.rules.value == START
    assert world.module.rules.feedback == []
    assert len(world.rewriter.requests) == 0


def test_a_critic_that_meets_the_budget() -> None:
    """That is no dead critic: the search ends as wherever the budget is gone."""

    class Spent(Liar):
        text = "rule 0. rule 1."

        async def search(self, search: Any) -> None:
            await super().search(search)
            try:
                raise BudgetExceededError("no more")
            except BudgetExceededError as exc:
                raise CriticError("the critic could not be asked") from exc

    world = World()
    spent = Spent(world.module.parameters())
    result = trained(world, rollouts=100, optimizer=spent)
    assert result.stopped == "the budget is spent"
    assert result.improved


def test_a_loss_that_fails_for_one_example() -> None:
    """It is left out wherever scores count; the rest is trained."""
    world = World()
    train = [*TRAIN[:-1], (TRAIN[-1][0], "broken")]
    val = [*VAL, ("kind 1 item 1", "broken")]
    result = trained(world, train=train, val=val, rollouts=140)
    assert result.improved
    assert result.score.n == 12
    lost = [
        s for e in result.history.evaluations for s in e.scores.values() if s is None
    ]
    assert lost


def test_a_loss_that_always_fails() -> None:
    """It is an error at once: the rest of the budget is not burned."""
    world = World()
    broken = [(text, "broken") for text, _ in TRAIN]
    with pytest.raises(LossError, match="the loss failed for all of the first 8"):
        trained(world, train=broken, val=broken, rollouts=100)
    assert world.asked == 8


def test_a_dead_endpoint() -> None:
    """If no run gets an answer, that is an error and no score."""
    world = World(task=lambda r: EndpointConnectionError("it is gone"))
    with pytest.raises(TrainingError, match="not one of 8 runs got an answer"):
        trained(world, rollouts=100, engine_options={"retries": 0})
    assert world.module.rules.value == START


def test_runs_that_fail_score_low() -> None:
    """A failed run of some examples is a score of 0, not an end."""

    def flaky(request: LLMRequest) -> Any:
        if request.prompt.endswith("5"):
            return EndpointConnectionError("not this one")
        return work(request)

    world = World(task=flaky)
    result = trained(world, rollouts=130, engine_options={"retries": 0})
    assert result.improved
    scores = [e.scores for e in result.history.evaluations if e.split == "val"]
    assert [s[5] for s in scores if 5 in s] == [0.0, 0.0]


def test_all_examples_already_right() -> None:
    """Nothing is proposed, no candidate is made, the start is the best."""
    world = World()
    world.module.rules.value = "rule 0. rule 1. rule 2. rule 3."
    result = trained(world, max_steps=5)
    assert not result.improved
    assert result.score.mean == 1.0
    assert result.history.decisions == ()
    assert len(world.rewriter.requests) == 0
    assert world.asked == 12 + 16


def test_a_rewriter_that_repeats_itself() -> None:
    """What was tried costs no rollout, but requests: it ends before they are many."""
    world = World(rewriter=lambda r: f"{START} Be nice.")
    result = trained(world, rollouts=100)
    assert result.stopped == "nothing new was tried in 9 minibatches"
    assert len(world.rewriter.requests) < 15


def test_an_error_of_the_program_is_raised_at_once() -> None:
    """What no prompt can mend does not burn the budget."""

    class Wrong(Worker):
        def forward(self, question: str) -> Any:
            return self.llm(question, "two prompts")

    world = World()
    world.module = Wrong()
    with pytest.raises(UsageError, match="takes one argument, its prompt"):
        trained(world, rollouts=100)
    assert world.asked == 0


class Odd:
    """Not an optimizer."""


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ((), {}, "a Trainer takes a module, a loss and an optimizer"),
        ((Worker(), Plain(), Odd()), {}, "the optimizer of a Trainer is a Odd"),
        ((Plain(), Worker(), Odd()), {}, "the module of a Trainer is a Plain"),
        ((Worker(), Plain(), "L"), {}, "a Trainer has no engine"),
        ((Worker(), Plain(), "L"), {"epochs": 0}, "epochs=0: give a whole number"),
        ((Worker(), Plain(), "L"), {"budget": 30}, "budget must be a Budget, not int"),
        ((Worker(), Plain(), "L"), {"end": False}, "nothing says when the training"),
    ],
)
def test_what_is_refused(parts: Any, options: dict[str, Any], message: str) -> None:
    """A Trainer says what is wrong with its arguments, and the fix."""
    options = {**options}
    if parts and parts[-1] == "L":
        parts = (*parts[:-1], ladder(parts[0]))
    if options.pop("end", True):
        options = {"rollouts": 10, **options}
    if "engine" not in message and "arguments" not in message:
        options["engine"] = Engine({"m": World().task}, progress=False)
    with pytest.raises(UsageError, match=message):
        Trainer(*parts, **options)


def test_two_engines_are_refused() -> None:
    """One by position and one by name may be the same only."""
    module = Worker()
    one, other = (Engine({"m": World().task}, progress=False) for _ in range(2))
    parts = (one, module, Plain(), ladder(module))
    assert Trainer(*parts, engine=one, rollouts=9).engine is one
    with pytest.raises(UsageError, match="two engines were given"):
        Trainer(*parts, engine=other, rollouts=9)
    bound = Worker().bind(other)
    assert Trainer(bound, Plain(), ladder(bound), rollouts=9).engine is other


def test_nothing_to_train() -> None:
    """An optimizer of another module's parameters, or frozen ones."""
    world = World()
    world.module.rules.requires_grad_(False)
    with pytest.raises(UsageError, match="nothing to train in Worker"):
        trained(world, rollouts=30)


# -- resuming -----------------------------------------------------------------------


def journaled(world: World, folder: Path, **options: Any) -> TrainingResult:
    """Train with both journals in a folder."""
    return trained(
        world,
        journal=folder / "training.jsonl",
        engine_options={"journal": folder / "answers.db"},
        **options,
    )


def test_a_journal_needs_that_of_the_engine(tmp_path: Path) -> None:
    """Without it nothing could be replayed."""
    with pytest.raises(UsageError, match="needs an engine with one"):
        trained(World(), rollouts=30, journal=tmp_path / "t.jsonl")


@pytest.mark.parametrize("budget", [{"rollouts": 90}, {"budget": Budget(requests=80)}])
def test_a_finished_training_is_replayed(tmp_path: Path, budget: Any) -> None:
    """Run again it asks nothing, and gives the same, its spending too."""
    world = World()
    first = journaled(world, tmp_path, **budget)
    again = World()
    second = journaled(again, tmp_path, **budget)
    assert again.asked == 0
    assert fingerprint(second) == fingerprint(first)
    assert second.spent.tokens == first.spent.tokens
    assert again.module.state_dict() == world.module.state_dict()
    assert fingerprint(trained(World(), **budget))[:5] == fingerprint(first)[:5]


class Killed(BaseException):
    """The process dies."""


@pytest.mark.parametrize("limit", [{"rollouts": 70}, {"budget": Budget(requests=61)}])
def test_resume_after_any_event(tmp_path: Path, limit: Any) -> None:
    """Whatever the last thing was that an aborted training did."""
    whole = World()
    wanted = journaled(whole, tmp_path, **limit)
    moments = len(whole.events) - 1
    assert moments > 10
    for moment in range(1, moments, 4):
        folder = tmp_path / str(moment)
        folder.mkdir()
        dying = World()

        class Death(list[Any]):
            limit = moment

            def append(self, event: Any) -> None:
                if len(self) == self.limit:
                    raise Killed
                super().append(event)

        dying.events = Death()
        with pytest.raises(Killed):
            journaled(dying, folder, **limit)
        assert dying.module.rules.value == START
        again = World()
        result = journaled(again, folder, **limit)
        assert fingerprint(result) == fingerprint(wanted)
        assert dying.asked + again.asked == whole.asked


def test_another_training_is_refused(tmp_path: Path) -> None:
    """A journal of another seed, and one that does not repeat itself."""
    journaled(World(), tmp_path, rollouts=60)
    with pytest.raises(TrainingError, match="of another training: it differs in seed"):
        journaled(World(), tmp_path, rollouts=60, seed=1)
    path = tmp_path / "training.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"score": 0.0', '"score": 0.5', 1))
    with pytest.raises(TrainingError, match="does not repeat what its journal"):
        journaled(World(), tmp_path, rollouts=60)
    path.write_text("nonsense\n")
    with pytest.raises(TrainingError, match="is no journal of a training"):
        journaled(World(), tmp_path, rollouts=60)
    with pytest.raises(TrainingError, match="cannot use"):
        trained(
            World(),
            rollouts=60,
            journal=tmp_path / "none" / "training.jsonl",
            engine_options={"journal": tmp_path / "answers.db"},
        )


CHILD = """
import asyncio, json, os, sys
from pathlib import Path
from tests.integration.trainer_helpers import World, Plain, examples, ladder
from inf_engine import Engine
from inf_engine.optimization.trainer import Trainer

folder = Path(sys.argv[1])

async def main():
    world = World()
    log = os.open(folder / "asked", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def logged(answer):
        async def asked(request):
            await asyncio.sleep(0.002)
            os.write(log, b"x")
            return answer(request)
        return asked

    world.task._answer = logged(world.task._answer)
    world.rewriter._answer = logged(world.rewriter._answer)
    clients = {"m": world.task, "r": world.rewriter}
    options = {"progress": False, "journal": folder / "answers.db", "max_inflight": 2}
    async with Engine(clients, **options) as engine:
        parts = engine, world.module, Plain(), ladder(world.module)
        trainer = Trainer(*parts, rollouts=80, journal=folder / "training.jsonl")
        print("on", flush=True)
        result = await trainer.fit(examples(16), examples(12, first=100))
    print(json.dumps([dict(result.best.values), result.rollouts, result.spent.requests,
        [[e.number, e.candidate.digest] for e in result.history.decisions]]))

asyncio.run(main())
"""


def child(folder: Path) -> "subprocess.Popen[str]":
    """Start a process that trains."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", CHILD, str(folder)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_resume_after_kill_9(tmp_path: Path) -> None:
    """Killed at several moments, it ends where it would have, and asks nothing twice.

    A call that was on its way when the process died was never answered to us: it is
    asked again, and nothing else is.
    """
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    with child(tmp_path / "whole") as process:
        wanted, _ = process.communicate(timeout=60)
    total = len((tmp_path / "whole" / "asked").read_bytes())
    asked = tmp_path / "killed" / "asked"
    deaths = 0
    for moment in (5, 25, 40, 60):
        with child(tmp_path / "killed") as process:
            while process.poll() is None:
                done = len(asked.read_bytes()) if asked.exists() else 0
                if done >= moment:
                    os.kill(process.pid, signal.SIGKILL)
                    deaths += 1
                    break
            process.wait(60)
    with child(tmp_path / "killed") as process:
        found, _ = process.communicate(timeout=60)
    assert deaths >= 3
    assert found == wanted
    assert total <= len(asked.read_bytes()) <= total + 2 * deaths


def test_a_person_is_not_asked_again(tmp_path: Path) -> None:
    """What a `HumanLoss` was told is in the journal, words and all."""
    asked: list[str] = []

    def person(record: Any, target: str) -> tuple[bool, str]:
        asked.append(target)
        return record.output == target, f"this is about {target}"

    first = journaled(World(), tmp_path, rollouts=60, loss=HumanLoss(person))
    count = len(asked)
    again = journaled(World(), tmp_path, rollouts=60, loss=HumanLoss(person))
    assert count == len(asked) == first.rollouts
    assert fingerprint(again) == fingerprint(first)


EXACT = VerifierLoss(lambda output, target: output == target)


class Panel:
    """People who die, or whose process does, when they are asked too often."""

    def __init__(self, lives: int = 10_000) -> None:
        self.asked: list[tuple[str, str]] = []
        self.lives = lives

    def person(self, name: str) -> Any:
        """Return the callback of one of them."""

        def says(record: Any, target: str) -> Any:
            if len(self.asked) == self.lives:
                raise Killed
            self.asked.append((name, f"{record.args[0]} {record.nodes[0].system}"))
            if name == "words":
                return f"this is about {target}"
            if name == "expert":
                return Feedback("so so", 0.5, "expert", {"by": "me"})
            return record.output == target, f"this is about {target}"

        return says

    @property
    def alone(self) -> Any:
        """One of them."""
        return HumanLoss(self.person("right"))

    @property
    def all(self) -> Any:
        """All of them, one in a composite of a composite."""
        names = ("right", "expert", "words")
        right, expert, words = [HumanLoss(self.person(name)) for name in names]
        inner = CompositeLoss({"right": right, "words": (words, 0)})
        parts = {"inner": inner, "expert": (expert, 0.1), "plain": EXACT}
        return CompositeLoss(parts)


@pytest.mark.parametrize("losses", ["alone", "all"])
def test_people_are_not_asked_again_after_a_death(tmp_path: Path, losses: str) -> None:
    """Whatever they had answered, in the middle of a batch, as parts of a composite."""

    def fitted(panel: Panel, folder: Path) -> TrainingResult:
        folder.mkdir(exist_ok=True)
        loss = getattr(panel, losses)
        return journaled(World(), folder, rollouts=40, loss=loss)

    whole = Panel()
    wanted = fitted(whole, tmp_path / "whole")
    assert len(whole.asked) == wanted.rollouts * (3 if losses == "all" else 1)
    assert len(set(whole.asked)) == len(whole.asked)
    for lives in (0, 3, 17, 31):
        folder = tmp_path / str(lives)
        dying, again = Panel(lives), Panel()
        with pytest.raises(Killed):
            fitted(dying, folder)
        result = fitted(again, folder)
        assert fingerprint(result) == fingerprint(wanted)
        assert sorted([*dying.asked, *again.asked]) == sorted(whole.asked)


def test_an_answer_that_is_none_is_not_kept(tmp_path: Path) -> None:
    """It can be put right when the training goes on."""
    with pytest.raises(LossError, match=r"gave the score 7\.0"):
        journaled(World(), tmp_path, rollouts=20, loss=HumanLoss(lambda *run: 7.0))
    result = journaled(World(), tmp_path, rollouts=20, loss=HumanLoss(lambda *run: 1.0))
    assert result.baseline.mean == 1.0


def test_two_trainings_of_one_engine() -> None:
    """At the same time they are refused."""
    world = World()

    async def body(engine: Engine) -> Any:
        trainers = [
            Trainer(engine, world.module, Plain(), ladder(world.module), max_steps=2)
            for _ in range(2)
        ]
        fits = [trainer.fit(TRAIN, VAL) for trainer in trainers]
        found = await asyncio.gather(*fits, return_exceptions=True)
        return [f for f in found if isinstance(f, BaseException)]

    (error,) = world.run(body)
    assert isinstance(error, UsageError)
    assert "this engine is in use by a training already" in str(error)


# -- with the library's own parts ---------------------------------------------------


def test_with_text_gradient_descent() -> None:
    """`VerifierLoss` and `TextGradientDescent` train through the same door."""

    def reflect(request: LLMRequest) -> Any:
        system = "".join(str(m.content) for m in request.messages)
        kinds = [str(k) for k in range(4) if f"about kind {k}" in system]
        rule = f"Use rule {kinds[0]}." if kinds else "Be kind."
        edit = {"find": "", "replace": rule, "reason": "a rule was missing"}
        return {"edits": [edit]}

    def verify(output: str, target: str) -> tuple[bool, str]:
        return output == target, f"this is about {target}"

    world = World(rewriter=reflect)
    optimizer: Any = TextGradientDescent(world.module.parameters(), alias="r")
    result = trained(
        world, rollouts=150, optimizer=optimizer, loss=VerifierLoss(verify)
    )
    assert result.rollouts <= 150
    assert result.score.mean >= result.baseline.mean
    assert world.module.state_dict() == dict(result.best.values)


def test_with_reflective_evolution() -> None:
    """`ReflectiveEvolution` trains through it, and keeps to its rollouts."""

    def reflect(request: LLMRequest) -> Any:
        text = "".join(str(m.content) for m in request.messages)
        kinds = [str(k) for k in range(4) if f"about kind {k}" in text]
        rule = f"Use rule {kinds[len(text) % len(kinds)]}." if kinds else "Be kind."
        return {"edits": [{"find": "", "replace": rule, "reason": "it was missing"}]}

    def verify(output: str, target: str) -> tuple[bool, str]:
        return output == target, f"this is about {target}"

    runs = []
    for _ in range(2):
        world = World(rewriter=reflect)
        optimizer: Any = ReflectiveEvolution(world.module.parameters(), alias="r")
        result = trained(
            world, rollouts=200, optimizer=optimizer, loss=VerifierLoss(verify)
        )
        assert result.rollouts <= 200
        assert len(world.task.requests) <= 200
        assert result.score.mean >= result.baseline.mean
        runs.append(fingerprint(result))
    assert runs[0] == runs[1]


def test_scores_of_a_candidate() -> None:
    """`Scores.of` leaves out what has no score."""
    assert Scores.of(Candidate({}), []).mean is None
