"""Texts, demonstrations and choices in every optimizer.

An example has a kind, and the model is right about it if the prompt has the rule
(``text``), if it is shown how others were answered (``demos``), or if it is asked
warmly (``choice``). About ``easy`` ones it is always right: they make demonstrations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.claas_helpers import URL, Server
from tests.integration.engine_helpers import virtually

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.errors import UsageError
from inf_engine.optimization import (
    AdapterOptimizer,
    AdapterParameter,
    BootstrapDemos,
    ChoiceParameter,
    ChoiceSearch,
    DemoParameter,
    FeedbackBatch,
    JointOptimizer,
    Optimizer,
    ReflectiveEvolution,
    TextGradientDescent,
    Trainer,
    VerifierLoss,
)
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.rewriter import Job, Rewrite
from inf_engine.optimization.shown import source_of
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest

START, RULE = "Answer.", "Follow the rule."
KINDS = ("text", "demos", "choice")


class Desk(InferenceModule):
    """One call with a parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = Parameter(START, "how to answer")
        self.demos = DemoParameter()
        self.warmth = ChoiceParameter(0.0, [0.0, 1.0])
        self.llm = LLMInference(
            AdapterParameter("m"),
            self.rules,
            demos=self.demos,
            temperature=self.warmth,
        )

    def forward(self, text: str) -> str:
        return self.llm(text)


def answer(request: LLMRequest) -> str:
    """The model."""
    has = {
        "easy": True,
        "text": RULE in request.system,
        "demos": any(m.role == "assistant" for m in request.messages),
        "choice": request.temperature == 1.0,
    }
    return "right" if has[request.prompt.split()[0]] else "wrong"


@dataclass
class Adds:
    """A rewriter that adds the rule; it is asked about texts only."""

    async def rewrite(self, engine: Any, jobs: Sequence[Job]) -> list[Rewrite]:
        targets = [target for job in jobs for target in job.targets]
        assert all(target.text.startswith(START) for target in targets)
        return [
            Rewrite() if RULE in one.text else Rewrite(f"{one.text} {RULE}", "so")
            for one in targets
        ]


def examples(first: int, *kinds: str) -> list[tuple[str, str]]:
    """Examples with their targets, two of each kind and four easy ones."""
    names = ["easy", "easy", *kinds] * 2
    return [(f"{name} {first + k}", "right") for k, name in enumerate(names)]


async def by_training(make: Any, engine: Any, desk: Desk, kinds: Sequence[str]) -> None:
    """Train with a search."""
    params = [p for p in desk.parameters() if not p.is_weights]
    loss = VerifierLoss(lambda output, target: output == target)
    trainer = Trainer(engine, desk, loss, make(params), rollouts=400, max_steps=40)
    await trainer.fit(examples(0, *kinds), examples(100, *kinds))


async def by_steps(make: Any, engine: Any, desk: Desk, kinds: Sequence[str]) -> None:
    """Make steps of a `JointOptimizer`."""
    params = list(desk.parameters())
    prompts = Optimizer(params, engine=engine, rewriter=Adds(), alias="r")
    weights = AdapterOptimizer(params, url=URL, transport=Server())
    loss = VerifierLoss(lambda output, target: output == target)
    told = examples(0, *kinds)
    both = JointOptimizer(prompts, weights, desk, told, loss, engine=engine)
    for _ in range(4):
        results = await engine.map(desk, [text for text, _ in told], record=True)
        said = [
            Feedback("Mind it.", float(r.output == "right"), record=r.record)
            for r in results
        ]
        await FeedbackBatch(said).backward()
        await both.step()


def texts_by(kind: type[Optimizer], **more: Any) -> Callable[[Any], Optimizer]:
    """An optimizer with a rewriter."""
    return lambda params: kind(params, rewriter=Adds(), alias="r", **more)


OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "Optimizer": (by_training, texts_by(Optimizer)),
    "TextGradientDescent": (by_training, texts_by(TextGradientDescent)),
    "ReflectiveEvolution": (by_training, texts_by(ReflectiveEvolution)),
    "BootstrapDemos": (by_training, BootstrapDemos),
    "ChoiceSearch": (by_training, ChoiceSearch),
    "JointOptimizer": (by_steps, None),
}
SCORES_ONLY = ("BootstrapDemos", "ChoiceSearch")


def trained(optimizer: str, *kinds: str, frozen: Sequence[str] = ()) -> Desk:
    """Return a desk that was trained where some kinds matter."""
    desk = Desk()
    for name in frozen:
        getattr(desk, name).requires_grad_(False)
    train, make = OPTIMIZERS[optimizer]
    client = FunctionClient(answer)

    async def main() -> None:
        async with Engine({"m": client, "r": client}, progress=False) as engine:
            await train(make, engine, desk, kinds)

    virtually(main)
    return desk


def found(desk: Desk) -> dict[str, bool]:
    """What a desk has learned."""
    return {
        "text": RULE in desk.rules.value,
        "demos": bool(desk.demos.demos),
        "choice": desk.warmth.value == 1.0,
    }


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the server of the weights."""
    monkeypatch.setenv("CLAAS_API_KEY", "secret")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_the_world_rewards_is_found(optimizer: str, kind: str) -> None:
    """By each optimizer, for each kind; those that only compare leave texts alone."""
    is_found = found(trained(optimizer, kind))
    wanted = not (kind == "text" and optimizer in SCORES_ONLY)
    assert is_found[kind] is wanted
    others = [other for other in KINDS[1:] if other != kind]  # a text may be a tie
    assert not any(is_found[other] for other in others)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_all_kinds_in_one_training(optimizer: str) -> None:
    """Each gets the value that its examples ask for."""
    learned = found(trained(optimizer, *KINDS))
    assert learned == {k: k != "text" or optimizer not in SCORES_ONLY for k in KINDS}


@pytest.mark.parametrize("optimizer", ["Optimizer", "ReflectiveEvolution"])
def test_a_training_that_runs_again(optimizer: str, tmp_path: Path) -> None:
    """It decides the same, and asks nothing that it has asked."""
    client = FunctionClient(answer)

    async def once() -> Any:
        desk = Desk()
        path = tmp_path / "answers.db"
        async with Engine({"m": client}, progress=False, journal=path) as engine:
            params = [desk.rules, desk.demos, desk.warmth]
            loss = VerifierLoss(lambda output, target: output == target)
            trainer = Trainer(
                *(engine, desk, loss, OPTIMIZERS[optimizer][1](params)),
                max_steps=20,
                journal=tmp_path / "training.jsonl",
            )
            data = examples(0, *KINDS), examples(100, *KINDS)
            result = await trainer.fit(*data)
        return [step.candidate for step in result.lineage.steps], desk.state_dict()

    first = virtually(once)
    count = len(client.requests)
    assert virtually(once) == first
    assert len(client.requests) == count
    assert len(first[0]) > 2


@pytest.mark.parametrize("optimizer", ["Optimizer", "ReflectiveEvolution"])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_without_texts(optimizer: str, kind: str) -> None:
    """Nothing is asked of a rewriter where there is no text to change."""
    assert found(trained(optimizer, kind, frozen=["rules"]))[kind]


def test_demonstrations_are_of_training_examples() -> None:
    """No held-out example is shown, nor one that is in both sets."""
    desk = Desk()
    held_out = examples(100, "demos")

    async def main() -> None:
        client = FunctionClient(answer)
        async with Engine({"m": client}, progress=False) as engine:
            params = [desk.demos, desk.warmth]
            loss = VerifierLoss(lambda output, target: output == target)
            optimizer = Optimizer(params, rewriter=Adds(), alias="r")
            trainer = Trainer(engine, desk, loss, optimizer, max_steps=40)
            await trainer.fit([*held_out[:2], *examples(0, "demos")], held_out)
            tests = [await engine.record(desk, text) for text, _ in held_out]
        sources = [source_of(record) for record in tests]
        shown = [demo.source for demo in desk.demos.demos]
        assert shown
        assert not set(shown) & set(sources)

    virtually(main)


@pytest.mark.parametrize("optimizer", ["TextGradientDescent", "ReflectiveEvolution"])
def test_demonstrations_need_held_out_examples(optimizer: str) -> None:
    """What to do instead is said, before anything is asked."""
    client = FunctionClient(answer)
    desk = Desk()
    make = OPTIMIZERS[optimizer][1]

    async def main() -> None:
        async with Engine({"m": client}, progress=False) as engine:
            params = [desk.rules, desk.demos]
            loss = VerifierLoss(lambda output, target: output == target)
            trainer = Trainer(engine, desk, loss, make(params), max_steps=4)
            with pytest.raises(
                UsageError, match="'demos' is a DemoParameter, and look"
            ):
                await trainer.fit(examples(0, "text"))
        assert client.requests == []

    virtually(main)
