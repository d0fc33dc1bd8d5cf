"""`Rollouts`: facts about the notes of rollouts that the trainer hands out."""

from typing import Any

import pytest
from tests.integration.trainer_helpers import Plain, Worker, World

from inf_engine.optimization import rollouts as rollouts_module
from inf_engine.optimization.rollouts import Rollouts
from inf_engine.optimization.runner import Runner
from inf_engine.optimization.search import Candidate


class Scale(Plain):
    """Scores from 1 to 5."""

    low, high = 1.0, 5.0


def noted(engine: Any, critic: Any = None) -> tuple[Rollouts, Candidate]:
    """Rollouts of six examples, of a module that is right about kind 0."""
    runner = Runner(Worker(), Scale(), engine)
    start = Candidate({"rules": "Use rule 0."})
    data = runner.read([(f"kind {k % 3} item {k}", f"kind {k % 3}") for k in range(6)])
    return (
        Rollouts(runner, start, {"train": data}, lambda *_: None, lambda *_: None),
        start,
    )


def test_notes_tell_the_scores_and_places_of_the_rollouts() -> None:
    """Not those of the loss's scale and of a batch inside."""

    async def body(engine: Any) -> None:
        made, start = noted(engine)
        found = await made.get(start, [5, 3, 0], record=True)
        notes = (await made.notes(found, None))["rules"]
        calls = [call for note in notes for call in note.evidence]
        assert [(c.example, c.score) for c in calls] == [(0, 0.0), (1, 1.0), (2, 1.0)]
        assert [note.score for note in notes] == [0.0, 1.0, 1.0]

    World().run(body)


def test_rollouts_of_two_copies_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the records of a candidate had to go meanwhile, it has a new copy."""
    monkeypatch.setattr(rollouts_module, "_MOST_RECORDS", 2)

    async def body(engine: Any) -> None:
        made, start = noted(engine)
        first: list[Any] = await made.get(start, [0, 1], record=True)
        await made.get(start.with_values({"rules": "Be brief."}), [0, 1], record=True)
        second: list[Any] = await made.get(start, [2, 3], record=True)
        assert first[0].copy is not second[0].copy
        mixed = [first[0], second[0], first[1], second[1]]
        notes = (await made.notes(mixed, None))["rules"]
        calls = [call for note in notes for call in note.evidence]
        told = {c.example: (c.score, c.target) for c in calls}
        assert told == {
            number: (rollout.score, str(rollout.feedback.target))
            for number, rollout in enumerate(mixed)
        }

    World().run(body)
