"""A small training, and what its curves must be: for TensorBoard and MLflow."""

from typing import Any

import pytest
from tests.integration.trainer_helpers import Plain, World, examples, ladder

from inf_engine import Engine
from inf_engine.optimization import Trainer

Curve = list[tuple[int, float]]
TRAIN, VAL = examples(16), examples(8, first=100)


def fitted(callback: Any, val: Any = VAL, die_at: int = 0, **options: Any) -> Any:
    """Train; with `die_at` the observer after this one ends it at that event."""
    world = World()
    seen: list[Any] = []

    def dies(event: Any) -> None:
        seen.append(event)
        if len(seen) == die_at:
            raise KeyboardInterrupt

    async def body(engine: Engine) -> Any:
        parts = (world.module, Plain(), ladder(world.module, engine))
        options.setdefault("rollouts", 80)
        trainer = Trainer(*parts, engine=engine, callbacks=[callback, dies], **options)
        return await trainer.fit(TRAIN, val)

    return world.run(body), seen


def check(found: dict[str, Curve], result: Any, seen: list[Any]) -> None:
    """Check the curves of a training against what its observers saw."""
    assert set(found) == {
        *("score/train", "score/val", "score/best", "epoch"),
        *("decision/accepted", "decision/rejected", "decision/gain"),
    }
    ours = [e for e in seen if type(e).__name__ == "Evaluated"]
    mine = [(e.rollouts, e.mean) for e in ours if e.split == "val"]
    assert found["score/val"] == [(step, pytest.approx(mean)) for step, mean in mine]
    assert len(found["score/train"]) == len(ours) - len(mine)
    assert found["score/best"][-1] == (
        result.rollouts,
        pytest.approx(result.score.mean),
    )
    decisions = result.history.decisions
    last = [found[f"decision/{name}"][-1][1] for name in ("accepted", "rejected")]
    assert sum(last) == len(decisions)
    assert len(found["decision/gain"]) == last[0]
    assert found["epoch"][0][0] == 0
    assert result.score.mean > result.baseline.mean
