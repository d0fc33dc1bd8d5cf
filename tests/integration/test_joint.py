"""Prompts first, weights for what recurs, then the prompts get shorter.

The model in these tests obeys an instruction on easy questions if its prompt has it, on
hard ones only if the version that was promoted has learnt it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.integration.claas_helpers import DONE, URL, Server
from tests.integration.engine_helpers import virtually
from tests.integration.optimization_helpers import as_json

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.clients.transport import HttpResponse
from inf_engine.errors import (
    EndpointConnectionError,
    ProposalError,
    StateDictError,
    UsageError,
)
from inf_engine.optimization import (
    AdapterOptimizer,
    AdapterParameter,
    FeedbackBatch,
    Gate,
    JointOptimizer,
    JointStep,
    Optimizer,
    VerifierLoss,
)
from inf_engine.optimization.constraints import FrozenSpans
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.rewriter import Job, Rewrite
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest, LLMResponse

NAMED = "Your name is Kuro."
START, LONG = "Answer.", f"Answer. {NAMED}"
ASKED = ["easy", "hard"]


class Desk(InferenceModule):
    """One call of the tuned model, with a prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = Parameter(START, "how to answer")
        self.answer = LLMInference(AdapterParameter("tuned"), self.rules)

    def forward(self, text: str) -> Any:
        return self.answer(text)


@dataclass
class Adds:
    """A rewriter that adds a sentence where it is missing."""

    sentence: str = NAMED
    error: Exception | None = None

    async def rewrite(self, engine: Any, jobs: Sequence[Job]) -> list[Rewrite]:
        if self.error is not None:
            raise self.error
        targets = [target for job in jobs for target in job.targets]
        return [
            Rewrite()
            if self.sentence in target.text
            else Rewrite(f"{target.text} {self.sentence}", "it was said")
            for target in targets
        ]


class Trains(Server):
    """A server that promotes a version, or does what it is told to."""

    outcome = "promoted"

    async def send(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> HttpResponse:
        result = {**DONE["result"], "outcome": self.outcome}
        self.answer = {"jobs": [{**DONE, "result": result}]}
        return await super().send(url, headers, body, seconds)

    @property
    def has_learnt(self) -> bool:
        return bool(self.bodies) and self.outcome == "promoted"


@dataclass
class World:
    """A desk, a model, a server, and what is said of answers.

    Args:
        complies: Whether the new version obeys without being told.
        words: What is said of a wrong answer; {} is the number of the step.
    """

    complies: bool = True
    words: str = NAMED
    desk: Desk = field(default_factory=Desk)
    server: Trains = field(default_factory=Trains)
    rewriter: Adds = field(default_factory=Adds)
    count: int = 0
    day: int = 0

    def model(self, request: LLMRequest) -> LLMResponse:
        self.count += 1
        told = NAMED in request.system
        obeys = told and "easy" in request.prompt
        if self.server.has_learnt:
            obeys = obeys or self.complies or told
        text = "I am Kuro." if obeys else "I am a model."
        return LLMResponse(text=text, id=f"r{self.count}")

    def joint(self, engine: Any, **options: Any) -> JointOptimizer:
        params = list(self.desk.parameters())
        prompts = Optimizer(
            params,
            engine=options.pop("own", engine),
            rewriter=self.rewriter,
            alias="smart",
            constraints=options.pop("constraints", ()),
        )
        high = options.pop("high", 1.0)
        weights = AdapterOptimizer(
            params,
            url=URL,
            transport=self.server,
            high=high,
            check=options.pop("check", None),
        )
        examples = options.pop("examples", [(text, "Kuro") for text in ASKED])
        loss = VerifierLoss(lambda output, target: target in output)
        return JointOptimizer(
            prompts, weights, self.desk, examples, loss, engine=engine, **options
        )

    async def said(self, engine: Any, *others: str) -> None:
        """Ask, say what is wrong with each answer, or that it is right."""
        results = await engine.map(self.desk, ASKED, record=True)
        self.day += 1
        told = [
            Feedback("Good.", 1.0, record=r.record)
            if "Kuro" in r.output
            else Feedback(self.words.format(self.day), 0.0, record=r.record)
            for r in results
        ]
        told += [Feedback(text, 0.0, record=results[0].record) for text in others]
        await FeedbackBatch(told).backward()

    async def days(self, engine: Any, joint: JointOptimizer, n: int) -> list[JointStep]:
        steps = []
        for _ in range(n):
            await self.said(engine)
            steps.append(await joint.step())
        return steps

    def lived(self, n: int, **options: Any) -> list[JointStep]:
        """What so many steps give."""

        async def body(engine: Any) -> list[JointStep]:
            return await self.days(engine, self.joint(engine, **options), n)

        return self.run(body)

    def run(self, body: Any) -> Any:
        async def main() -> Any:
            clients = {"tuned": FunctionClient(self.model)}
            async with Engine(clients, progress=False) as engine:
                return await body(engine)

        return virtually(main)

    def answers(self) -> list[str]:
        return self.run(lambda engine: engine.map(self.desk, ASKED))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the server."""
    monkeypatch.setenv("CLAAS_API_KEY", "secret")


def test_prompt_first_then_weights_then_a_shorter_prompt() -> None:
    """The whole circle: what the prompt cannot do the weights learn, and it goes."""
    world = World()

    async def body(engine: Any) -> None:
        joint = world.joint(engine)
        [first] = await world.days(engine, joint, 1)
        assert (world.desk.rules.value, world.server.bodies) == (LONG, [])
        assert [(r.text, r.times, r.sent) for r in first.said] == [(NAMED, 1, 0)]
        [second] = await world.days(engine, joint, 1)
        assert (world.desk.rules.value, world.server.bodies) == (LONG, [])
        assert second.prompts.updates == () and second.verdict is None
        [third] = await world.days(engine, joint, 1)
        assert len(world.server.bodies) == 1
        assert [(r.times, r.sent) for r in third.said] == [(3, 4)]
        assert third.weights is not None and third.weights.is_promoted
        assert third.compaction is not None
        assert third.compaction.dropped == (NAMED,)
        assert world.desk.rules.value == START
        assert str(first) == (
            "step 0:\nprompt rules changed\nsaid in 1 step: 'Your name is Kuro.'"
        )
        told = str(third)
        assert "said in 3 steps: 'Your name is Kuro.', 4 lessons sent" in told
        assert "weights ann/kuro: promoted; it obeys" in told
        assert "dropped 'Your name is Kuro.' (accepted" in told
        assert "tokens of prompt saved a run" in told

    world.run(body)
    assert world.answers() == ["I am Kuro."] * 2


def test_where_the_weights_do_not_comply_the_prompt_stays() -> None:
    """The new version obeys with the sentence only."""
    world = World(complies=False)
    step = world.lived(3)[-1]
    assert step.weights is not None and step.weights.is_promoted
    assert step.compaction is not None and step.compaction.dropped == ()
    assert world.desk.rules.value == LONG
    assert "kept 'Your name is Kuro.' (refused: the mean score" in str(step)
    assert world.answers() == ["I am Kuro."] * 2


def test_the_next_promotion_tries_again_what_was_kept() -> None:
    """What was sent once is looked at each time."""
    world = World(complies=False)

    async def body(engine: Any) -> None:
        joint = world.joint(engine, recurring=1)
        await world.days(engine, joint, 2)
        assert world.desk.rules.value == LONG
        world.complies = True
        await world.said(engine, "It is too long.")
        step = await joint.step()
        assert [r.text for r in step.said if r.sent] == ["It is too long."]
        assert world.desk.rules.value == START

    world.run(body)


def test_what_was_said_in_all_steps_is_sent_and_nothing_else() -> None:
    """The answers of earlier steps, too; a second instruction waits; praise goes."""
    world = World()

    async def body(engine: Any) -> None:
        joint = world.joint(engine)
        await world.days(engine, joint, 2)
        await world.said(engine, "It is too long.")
        step = await joint.step()
        assert [r.text for r in step.said if r.sent] == [NAMED]

    world.run(body)
    said = world.server.said
    assert {kind for _, kind, _ in said} == {"critique", "praise"}
    critiques = [(receipt, text) for receipt, kind, text in said if kind != "praise"]
    assert [text for _, text in critiques] == [NAMED] * 4
    assert [receipt for receipt, _ in critiques][:2] == ["r1", "r2"]
    assert len({receipt for receipt, _ in critiques}) == 4


def test_the_lessons_carry_the_check_of_the_optimizer() -> None:
    """Those of earlier steps and praise, too."""
    world = World()
    world.lived(3, check={"required": "Kuro"})
    [body] = world.server.bodies
    checks = [row.get("check") for row in body["feedback"]]
    assert checks == [{"required": "Kuro"}] * len(checks)


def test_praise_alone_trains_nothing() -> None:
    world = World()
    world.desk.rules.value = LONG

    async def body(engine: Any) -> None:
        joint = world.joint(engine, recurring=1)
        [result] = await engine.map(world.desk, ["easy"], record=True)
        await Feedback("Good.", 1.0, record=result.record).backward()
        step = await joint.step()
        assert (step.said, step.weights) == ((), None)
        assert str(step) == "step 0:\nnothing to do"

    world.run(body)
    assert world.server.bodies == []


def test_a_right_answer_is_sent_as_a_correction() -> None:
    """Where nothing else is said, it is what recurs."""
    world = World()

    async def body(engine: Any) -> None:
        joint = world.joint(engine, recurring=2)
        for _ in range(2):
            [result] = await engine.map(world.desk, ["hard"], record=True)
            target = "I am Kuro."
            await Feedback("", 0.0, record=result.record, target=target).backward()
            step = await joint.step()
        assert [(r.text, r.times) for r in step.said] == [("I am Kuro.", 2)]

    world.run(body)
    kinds = [(kind, text) for _, kind, text in world.server.said]
    assert kinds == [("correction", "I am Kuro.")] * 2


def test_what_was_promoted_counts_anew() -> None:
    """Said again, it is the prompt's turn."""
    world = World()

    async def body(engine: Any) -> None:
        joint = world.joint(engine)
        await world.days(engine, joint, 3)
        world.server.outcome = "rolled back"
        [step] = await world.days(engine, joint, 1)
        assert [r.times for r in step.said] == [1]
        assert world.desk.rules.value == LONG

    world.run(body)
    assert len(world.server.bodies) == 1


def test_what_was_rejected_is_sent_again_with_what_is_new() -> None:
    """The server keeps what it has; no sentence is dropped."""
    world = World()
    world.server.outcome = "rejected"
    steps = world.lived(4)
    assert [step.compaction for step in steps] == [None] * 4
    assert world.desk.rules.value == LONG
    assert len(world.server.bodies) == 2
    assert [r.times for r in steps[-1].said] == [4]
    assert [kind for _, kind, _ in world.server.said] == ["critique", "praise"]
    assert "weights ann/kuro: rejected; it obeys" in str(steps[-1])


@pytest.mark.parametrize("recurring", [1, 2, 5])
def test_recurring_says_when_the_weights_learn(recurring: int) -> None:
    world = World()
    world.lived(recurring - 1, recurring=recurring)
    assert world.server.bodies == []
    world = World()
    step = world.lived(recurring, recurring=recurring)[-1]
    assert len(world.server.bodies) == 1
    assert step.said[0].times == recurring


def test_a_proposal_that_makes_examples_worse_is_rejected() -> None:
    """It is remembered, and not written; ties are not worse."""
    world = World()
    step = world.lived(1, gate=Gate("no significant harm"))[0]
    assert world.desk.rules.value == START
    assert step.verdict is not None and not step.verdict.accepted
    assert "prompt rules stays: refused: the mean score changed by +0.5" in str(step)
    other = World(rewriter=Adds("Be brief."))
    other.lived(1, gate=Gate("improves"))
    assert other.desk.rules.value == START
    other.lived(1)
    assert other.desk.rules.value == "Answer. Be brief."


def test_a_rejected_proposal_is_told_to_the_rewriter() -> None:
    world = World(rewriter=Adds("Be brief."))

    async def body(engine: Any) -> None:
        joint = world.joint(engine, gate=Gate("improves"))
        await world.days(engine, joint, 1)
        [kept] = joint.state_dict()["prompts"]["parameters"]["rules"]["rejected"]
        assert kept["after"] == "Answer. Be brief."

    world.run(body)


def test_least_says_how_well_the_weights_have_to_comply() -> None:
    """An example that nobody solves keeps the mean at two thirds."""
    examples = [("easy", "Kuro"), ("hard", "Kuro"), ("odd", "?")]
    world = World()
    step = world.lived(3, examples=examples, least=0.7)[-1]
    assert world.desk.rules.value == LONG
    assert "the mean score is 0.67, and 0.7 is the least" in str(step)
    world = World()
    world.lived(3, examples=examples)
    assert world.desk.rules.value == START


def test_same_says_what_recurs() -> None:
    """By their words these are three instructions."""
    words = "{0} {0}{0} {0}{0}{0}"
    world = World(words=words)
    world.lived(3)
    assert world.server.bodies == []
    world = World(words=words)
    step = world.lived(3, same=lambda one, other: True)[-1]
    assert [(r.text, r.times) for r in step.said] == [("1 11 111", 3)]
    assert world.desk.rules.value == START


def test_what_came_into_the_prompt_for_it_is_what_goes() -> None:
    """Though its words are others."""
    world = World(words="Who are you, really?")
    step = world.lived(3)[-1]
    assert step.compaction is not None and step.compaction.dropped == (NAMED,)
    assert world.desk.rules.value == START


def test_a_constraint_of_the_prompts_holds_for_compaction() -> None:
    world = World()
    world.desk.rules.value = LONG
    step = world.lived(3, constraints=[FrozenSpans(NAMED)])[-1]
    assert step.compaction is not None and step.compaction.tried == ()
    assert world.desk.rules.value == LONG


def test_compaction_can_be_reverted() -> None:
    world = World()

    async def body(engine: Any) -> None:
        joint = world.joint(engine)
        await world.days(engine, joint, 3)
        assert world.desk.rules.value == START
        joint.prompts.revert()
        assert world.desk.rules.value == LONG

    world.run(body)


def test_the_target_may_be_a_field() -> None:
    rows = [{"text": text, "name": "Kuro"} for text in ASKED]
    world = World()
    world.lived(3, examples=rows, target="name")
    assert world.desk.rules.value == START


def test_the_engine_may_be_that_of_the_prompts() -> None:
    world = World()

    async def body(engine: Any) -> None:
        joint = world.joint(None, own=engine)
        await world.days(engine, joint, 1)
        assert world.desk.rules.value == LONG

    world.run(body)


def test_what_is_praise_is_said_by_the_weights_high() -> None:
    """A score of 0 is good enough if high is 0."""
    world = World()
    steps = world.lived(3, high=0.0)
    assert [step.said for step in steps] == [()] * 3


def test_state_survives() -> None:
    """What was counted and waits goes on in another process."""
    world = World()

    async def begins(engine: Any) -> Any:
        joint = world.joint(engine)
        await world.days(engine, joint, 2)
        return as_json(joint.state_dict())

    async def goes_on(engine: Any) -> JointStep:
        joint = world.joint(engine)
        joint.load_state_dict(state)
        assert as_json(joint.state_dict()) == state
        assert (joint.steps, joint.prompts.steps, joint.weights.steps) == (2, 2, 0)
        return (await world.days(engine, joint, 1))[0]

    state = world.run(begins)
    step = world.run(goes_on)
    assert (step.number, step.said[0].times, step.said[0].sent) == (2, 3, 4)
    assert [receipt for receipt, _, _ in world.server.said][:2] == ["r1", "r2"]
    assert world.desk.rules.value == START


def test_a_damaged_state_changes_nothing() -> None:
    world = World()

    async def body(engine: Any) -> None:
        joint = world.joint(engine)
        await world.days(engine, joint, 1)
        good = as_json(joint.state_dict())
        empty: dict[str, Any] = {"known": [], "praise": []}
        for damage in (
            {"instructions": {"known": [{}], "praise": []}},
            {"weights": {"kind": "Optimizer"}, "instructions": empty},
            {"steps": "many"},
        ):
            with pytest.raises(StateDictError, match="state"):
                joint.load_state_dict({**good, "steps": 7, **damage})
            assert as_json(joint.state_dict()) == good
        with pytest.raises(StateDictError, match="this is no state of JointOptimizer"):
            joint.load_state_dict(good["prompts"])

    world.run(body)


def test_a_server_that_is_away_loses_nothing() -> None:
    """The next step sends what waits, though nothing new was said."""
    world = World()

    async def body(engine: Any) -> None:
        joint = world.joint(engine)
        await world.days(engine, joint, 2)
        world.server.is_dead = True
        with pytest.raises(EndpointConnectionError):
            await world.days(engine, joint, 1)
        world.server.is_dead = False
        step = await joint.step()
        assert [(r.times, r.sent) for r in step.said] == [(3, 4)]
        assert world.desk.rules.value == START

    world.run(body)
    assert "praise" in {kind for _, kind, _ in world.server.said}


def test_where_the_rewriter_fails_nothing_is_counted() -> None:
    world = World(rewriter=Adds(error=ProposalError("it is away")))

    async def body(engine: Any) -> None:
        joint = world.joint(engine)
        with pytest.raises(ProposalError):
            await world.days(engine, joint, 1)
        world.rewriter.error = None
        step = await joint.step()
        assert [(r.times, r.sent) for r in step.said] == [(1, 0)]

    world.run(body)


def test_the_parts_are_checked() -> None:
    world = World()

    async def body(engine: Any) -> None:
        good = world.joint(engine)
        loss = VerifierLoss(lambda output, target: True)
        more = world.desk, ["easy"], loss
        with pytest.raises(UsageError, match="weights' optimizer is a Optimizer"):
            JointOptimizer(good.prompts, good.prompts, *more)  # ty: ignore[invalid-argument-type]
        with pytest.raises(UsageError, match="prompts' optimizer is a AdapterOptim"):
            JointOptimizer(good.weights, good.weights, *more)
        with pytest.raises(UsageError, match="recurring=0: give a whole number, 1"):
            world.joint(engine, recurring=0)
        with pytest.raises(UsageError, match="least=2: give the mean score"):
            world.joint(engine, least=2)
        assert repr(good).endswith("recurring=3)")

    world.run(body)
