"""`Rollouts`: each run once, on a copy; what a failure of a run or a loss means."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.integration.trainer_helpers import START, Plain, World, examples, work

from inf_engine import Engine
from inf_engine.errors import (
    BudgetExceededError,
    ConfigurationError,
    LossError,
    UsageError,
)
from inf_engine.optimization.feedback import Feedback, FeedbackBatch
from inf_engine.optimization.rollouts import Rollouts
from inf_engine.optimization.runner import Runner, scale_of
from inf_engine.optimization.search import Candidate
from inf_engine.resources.budget import Budget

START_AT = Candidate({"rules": START})
ONE = Candidate({"rules": "Use rule 1."})


def with_rollouts(
    world: World, body: Callable[[Rollouts], Coroutine[Any, Any, Any]], **options: Any
) -> Any:
    """Run `body(rollouts)` on a virtual clock."""
    loss = options.pop("loss", None) or Plain()
    allow = options.pop("allow", lambda wanted, split: None)
    data = options.pop("data", None) or examples(8)

    async def main(engine: Engine) -> Any:
        runner = Runner(world.module, loss, engine)
        calls = runner.read(data)
        splits: Any = {"train": calls, "val": calls[:2]}
        rollouts = Rollouts(
            runner,
            START_AT,
            splits,
            allow,
            lambda *told: world.events.append(told),
        )
        return await body(rollouts)

    return world.run(main, **options)


def test_nothing_is_run_twice() -> None:
    """Also if two ask for the same at once; results come in the order of places."""
    world = World()

    async def body(rollouts: Rollouts) -> Any:
        first, second = await asyncio.gather(
            rollouts.get(ONE, [3, 1]), rollouts.get(ONE, [1, 5, 5])
        )
        again = await rollouts.get(ONE, [5, 3])
        await rollouts.get(ONE, [1], split="val")
        return first, second, again, rollouts.count, rollouts.scores(ONE, "train")

    first, second, again, count, scores = with_rollouts(world, body)
    assert [(r.place, r.score) for r in first] == [(3, 0.0), (1, 1.0)]
    assert [r.place for r in second] == [1, 5, 5]
    assert [r.place for r in again] == [5, 3]
    assert count == len(world.task.requests) == 4
    assert scores == {1: 1.0, 3: 0.0, 5: 1.0}


def test_records_only_where_asked() -> None:
    """A rollout without record keeps none alive, one with it costs nothing more."""
    world = World()

    async def body(rollouts: Rollouts) -> Any:
        plain = await rollouts.get(ONE, [1])
        full = await rollouts.get(ONE, [1], record=True)
        return plain[0], full[0], rollouts.count

    plain, full, count = with_rollouts(world, body)
    assert plain.record is None
    assert plain.feedback.record is None
    assert full.record.output == "kind 1"
    assert full.feedback.record is full.record
    assert count == 1


def test_the_module_is_not_touched() -> None:
    """Runs go to a copy, which is bound to nothing and dropped in the end."""
    world = World()
    seen: list[Any] = []

    async def body(rollouts: Rollouts) -> None:
        full = await rollouts.get(ONE, [2], record=True)
        notes = await rollouts.notes(full, None)
        assert [note.content for note in notes["rules"]] == [
            "wrong, this is about kind 2"
        ]
        assert notes["rules"][0].evidence[0].asked == "kind 2 item 2"
        again = await rollouts.notes(full, None)
        assert len(again["rules"]) == 1
        seen.append(weakref.ref(rollouts._copies[ONE.digest].module))

    with_rollouts(world, body)
    assert world.module.rules.value == START
    assert world.module.rules.feedback == []
    gc.collect()
    assert seen[0]() is None


def test_notes_need_records() -> None:
    """A rollout without one is refused, with the fix."""

    async def body(rollouts: Rollouts) -> None:
        await rollouts.notes(await rollouts.get(ONE, [2]), None)

    with pytest.raises(UsageError, match="ask for it with record=True"):
        with_rollouts(World(), body)


def test_places_that_are_not_there() -> None:
    """Nothing is run then."""

    async def body(rollouts: Rollouts) -> None:
        await rollouts.get(ONE, [0, 2], split="val")

    world = World()
    with pytest.raises(UsageError, match="there is no example 2 in val, which has 2"):
        with_rollouts(world, body)
    assert world.asked == 0


def test_what_is_not_allowed_is_not_run() -> None:
    """All or none; what is known is free."""
    left = [3]

    def allow(wanted: int, split: str) -> None:
        if wanted > left[0]:
            raise BudgetExceededError("no")
        left[0] -= wanted

    async def body(rollouts: Rollouts) -> None:
        await rollouts.get(ONE, [0, 1])
        with pytest.raises(BudgetExceededError):
            await rollouts.get(ONE, [1, 2, 3])
        await rollouts.get(ONE, [0, 1, 2])

    world = World()
    with_rollouts(world, body, allow=allow)
    assert world.asked == 3


def test_a_budget_that_goes_in_the_middle_leaves_no_score() -> None:
    """Whoever came first must not decide what is known."""

    async def body(rollouts: Rollouts) -> Any:
        with pytest.raises(BudgetExceededError):
            await rollouts.get(ONE, range(8))
        return rollouts.scores(ONE, "train")

    world = World()
    assert with_rollouts(world, body, budget=Budget(requests=5)) == {}
    assert world.asked == 5


class Scaled(Plain):
    """A loss from 1 to 5."""

    low, high = 1.0, 5.0


def test_scores_are_from_0_to_1() -> None:
    """The feedback keeps the loss's own scale."""

    async def body(rollouts: Rollouts) -> Any:
        return await rollouts.get(ONE, [0, 1])

    low, high = with_rollouts(World(), body, loss=Scaled())
    assert (low.score, low.feedback.score) == (0.0, 1.0)
    assert (high.score, high.feedback.score) == (1.0, 5.0)


def test_a_score_off_the_scale_is_an_error_of_the_example() -> None:
    """It is no number that anything is decided by."""

    class Off:
        async def __call__(self, records: Any, targets: Any) -> Any:
            scores = [0.5, 7.0, float("nan"), 0.5]
            return FeedbackBatch([Feedback("x", score) for score in scores])

    async def body(rollouts: Rollouts) -> Any:
        return await rollouts.get(ONE, range(4))

    found = with_rollouts(World(), body, loss=Off())
    assert [r.score for r in found] == [0.5, None, None, 0.5]
    assert "which is not from 0 to 1" in str(found[1].feedback.error)


def test_a_loss_that_gives_too_few() -> None:
    """It is refused: whose feedback is it?"""

    class Short:
        async def __call__(self, records: Any, targets: Any) -> Any:
            return FeedbackBatch([Feedback("x", 1.0)])

    async def body(rollouts: Rollouts) -> Any:
        return await rollouts.get(ONE, range(4))

    with pytest.raises(LossError, match="Short gave 1 feedbacks for 4 records"):
        with_rollouts(World(), body, loss=Short())


def test_a_failed_run() -> None:
    """It scores low, and the feedback says where it failed."""

    def task(request: Any) -> Any:
        return ValueError("boom") if "item 1" in request.prompt else work(request)

    async def body(rollouts: Rollouts) -> Any:
        return await rollouts.get(ONE, [0, 1], record=True)

    found = with_rollouts(World(task=task), body)
    assert found[1].score == 0.0
    assert found[1].feedback.content == "The run failed in llm#1: ExecutionError."
    assert found[1].feedback.score == 0.0


def test_an_alias_that_is_not_bound() -> None:
    """That is no fault of a candidate."""
    world = World()
    world.module.llm.alias = "nobody"

    async def body(rollouts: Rollouts) -> Any:
        return await rollouts.get(ONE, [0, 1])

    with pytest.raises(ConfigurationError, match="unknown alias 'nobody'"):
        with_rollouts(world, body)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("no loss", "the loss is a str: give a loss"),
        (type("L", (Plain,), {"low": 2.0, "high": 1.0})(), "low must be below high"),
    ],
)
def test_what_is_no_loss(loss: Any, message: str) -> None:
    """A loss is callable and has a scale."""
    with pytest.raises(UsageError, match=message):
        scale_of(loss)
