"""`evaluate`: a mean with its interval, a table, and what failed."""

from typing import Any

import pytest
from tests.integration.engine_helpers import virtually
from tests.integration.trainer_helpers import (
    START,
    Plain,
    World,
    examples,
    work,
)

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.errors import (
    AuthenticationError,
    LossError,
    TrainingError,
    UsageError,
)
from inf_engine.optimization import (
    CompositeLoss,
    LLMJudge,
    TextGradientDescent,
    Trainer,
)
from inf_engine.optimization.evaluate import Evaluation, evaluate
from inf_engine.optimization.intervals import mean_interval
from inf_engine.testing import FunctionClient, plausible
from inf_engine.types import LLMRequest


def evaluated(world: World, data: Any, loss: Any = None, **options: Any) -> Evaluation:
    """Evaluate the world's module."""

    async def body(engine: Engine) -> Evaluation:
        return await evaluate(
            world.module, data, loss or Plain(), engine=engine, **options
        )

    return world.run(body)


def test_a_mean_with_its_interval() -> None:
    """One request for each example; the module is as it was."""
    world = World()
    world.module.rules.value = "rule 1."
    found = evaluated(world, examples(8))
    assert found.score == mean_interval([0, 1, 0, 0, 0, 1, 0, 0])
    assert found.failures == ()
    assert [row.place for row in found.rows] == list(range(8))
    assert found.rows[1].output == "kind 1"
    assert found.usage.requests == world.asked == 8
    assert world.module.rules.feedback == []


def test_the_table() -> None:
    """It says the mean, each example in short, and how many were left out."""
    found = evaluated(World(), examples(22))
    lines = str(found).splitlines()
    assert lines[0] == f"score {found.score}"
    assert lines[1].split() == ["score", "output", "feedback"]
    assert lines[2].split(maxsplit=3) == [
        "0",
        "0",
        "no",
        "idea  wrong, this is about kind 0",
    ]
    assert lines[-1] == "... and 2 more"


def test_failures() -> None:
    """A run that failed counts as the lowest score, a loss that failed as none."""

    def task(request: LLMRequest) -> Any:
        return ValueError("boom") if "item 1" in request.prompt else work(request)

    data = [*examples(3), ("kind 0 item 9", "broken")]
    found = evaluated(World(task=task), data)
    assert found.score.n == 3
    assert [row.place for row in found.failures] == [1, 3]
    assert [row.score for row in found.rows] == [0.0, 0.0, 0.0, None]
    assert "; 2 of 4 failed" in str(found)


def test_the_scale_of_the_loss() -> None:
    """Mean and interval are on it."""

    class Scaled(Plain):
        low, high = 1.0, 5.0

    world = World()
    world.module.rules.value = "rule 0. rule 1."
    found = evaluated(world, examples(4), Scaled())
    assert found.score.mean == 3.0
    assert 1.0 < found.score.low < 3.0 < found.score.high < 5.0


def test_a_bound_module_needs_no_engine() -> None:
    """Its own is used; without one the message says what to do."""
    world = World()

    async def body(engine: Engine) -> Any:
        world.module.bind(engine)
        return await evaluate(world.module, examples(2), Plain())

    assert world.run(body).score.n == 2

    async def unbound(engine: Engine) -> Any:
        return await evaluate(world.module.bind(None), examples(2), Plain())

    with pytest.raises(UsageError, match="no engine to run Worker with"):
        world.run(unbound)


def test_a_loss_and_an_optimizer_go_with_the_next_engine() -> None:
    """One that was lent is let go of once it is closed: a cell may run again."""
    loss = CompositeLoss([LLMJudge("m", "Is it good?")])
    module = LLMInference("m", Parameter("x"))
    optimizer = TextGradientDescent(module.parameters(), alias="m")
    data = [("a", "b"), ("c", "d")]

    async def main() -> int:
        async with Engine({"m": FunctionClient(plausible)}, progress=False) as engine:
            found = await evaluate(module, data, loss, engine=engine)
            trainer = Trainer(engine, module, loss, optimizer, max_steps=1)
            await trainer.fit(data)
            assert optimizer.engine is loss.engine is engine
            return found.score.n

    assert [virtually(main) for _ in range(2)] == [2, 2]


def test_a_field_as_the_target() -> None:
    """Examples with fields; the model does not see the answer."""
    world = World()
    data = [{"question": text, "answer": target} for text, target in examples(3)]
    found = evaluated(world, data, target="answer")
    assert found.score.n == 3
    assert all("answer" not in prompt for prompt in world.task.prompts)


def test_examples_that_do_not_fit() -> None:
    """They are refused before anything is asked."""
    world = World()
    with pytest.raises(UsageError, match="example 1 is a tuple of 3"):
        evaluated(world, [("a", "b"), ("a", "b", "c")])
    assert world.asked == 0
    assert world.module.rules.value == START


def test_an_annotation_that_is_written_late_counts() -> None:
    """As ``from __future__ import annotations`` makes all of them."""
    world = World()

    class Late(InferenceModule):
        def forward(self, text: "str") -> str:
            raise AssertionError(text)

    world.module = Late()  # ty: ignore
    with pytest.raises(UsageError, match="example 0 has no field 'text'.*'question'"):
        evaluated(world, [{"question": "a", "answer": "b", "size": 3}], target="answer")
    with pytest.raises(UsageError, match="example 0 has no field 'text'.*known: a, b"):
        evaluated(world, [{"a": "a", "b": "b"}])
    assert world.asked == 0


def test_a_dead_loss_and_a_dead_endpoint() -> None:
    """Both are errors, no score."""
    broken = [(text, "broken") for text, _ in examples(3)]
    with pytest.raises(LossError, match="the loss failed for all of the first 3"):
        evaluated(World(), broken)

    world = World(task=lambda request: AuthenticationError("no key", status=401))
    with pytest.raises(TrainingError, match="not one of 3 runs got an answer"):
        evaluated(world, examples(3))
