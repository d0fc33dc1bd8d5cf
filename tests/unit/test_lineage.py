"""`Lineage`: which step brought each sentence, in and out of JSON."""

from typing import Any

import pytest

from inf_engine.errors import UsageError
from inf_engine.optimization.acceptance import accept
from inf_engine.optimization.lineage import Lineage, Origin, sentences
from inf_engine.optimization.search import Candidate, Change
from inf_engine.optimization.trajectory import (
    CandidateAccepted,
    CandidateRejected,
    History,
)

VERDICT = accept([0, 0, 1], [1, 0, 1])


def candidate(text: Any) -> Candidate:
    """Return a candidate of one parameter."""
    return Candidate({"rules": text})


def accepted(number: int, new: Candidate, *parents: Candidate) -> CandidateAccepted:
    """Return the event of a candidate that was accepted."""
    old = parents[0].values["rules"]
    change = Change("rules", old, new.values["rules"], f"reason {number}")
    return CandidateAccepted(
        number, new, parents, (change,), VERDICT, 10 * number, True
    )


def origins(lineage: Lineage) -> list[tuple[str, int]]:
    """Return the sentences of the text with their steps."""
    return [(o.sentence, o.step) for o in lineage.origins["rules"]]


def test_sentences_keep_the_step_that_brought_them() -> None:
    """Through a chain of steps, with a replacement and a deletion."""
    a = candidate("Be brief. Be kind.")
    b = candidate("Be brief. Be kind. Say why.")
    c = candidate("Be brief. Give the source. Say why.")
    history = History((), (accepted(1, b, a), accepted(3, c, b)))
    lineage = Lineage.of(a, c, history)
    assert origins(lineage) == [
        ("Be brief.", 0),
        ("Give the source.", 3),
        ("Say why.", 1),
    ]
    step = lineage.step(3)
    assert step.changes[0].added == ("Give the source.",)
    assert step.changes[0].removed == ("Be kind.",)
    assert step.changes[0].reason == "reason 3"
    assert step.gain is not None
    assert step.gain.n == 3
    assert step.gain.mean == pytest.approx(1 / 3)
    assert (step.parents, step.rollouts) == ((b.digest,), 30)


def test_a_merge_of_two_parents() -> None:
    """Each sentence keeps the step of the parent that it came from."""
    a = candidate("One.")
    b, c = candidate("One. Two."), candidate("One. Three.")
    d = candidate("One. Two. Three. Four.")
    decisions = (accepted(1, b, a), accepted(2, c, a), accepted(3, d, b, c))
    found = origins(Lineage.of(a, d, History((), decisions)))
    assert found == [("One.", 0), ("Two.", 1), ("Three.", 2), ("Four.", 3)]


def test_moved_sentences_are_not_new() -> None:
    """Another order brings nothing."""
    a, b = candidate("One. Two. Three."), candidate("Three. One. Two.")
    found = origins(Lineage.of(a, b, History((), (accepted(1, b, a),))))
    assert found == [("Three.", 0), ("One.", 0), ("Two.", 0)]


def test_rejected_candidates_are_no_steps() -> None:
    """And the start is the best if nothing was accepted."""
    a, b = candidate("One."), candidate("Two.")
    event = CandidateRejected(1, b, (a,), (), "worse", 10)
    lineage = Lineage.of(a, a, History((), (event,)))
    assert [step.number for step in lineage.steps] == [0]
    assert lineage.origins["rules"] == (Origin("One.", 0),)


def test_evidence_is_what_was_said_of_the_parents() -> None:
    """It stands at the change of its parameter."""
    a, b = candidate("One."), candidate("One. Two.")
    notes = {a.digest: {"rules": ("it forgot two",)}, b.digest: {"rules": ("no",)}}
    lineage = Lineage.of(a, b, History((), (accepted(1, b, a),), notes))
    assert lineage.step(1).changes[0].evidence == ("it forgot two",)


def test_values_that_are_no_text() -> None:
    """Such a value is one sentence of its own."""
    a, b = candidate(["x"]), candidate(["x", "y"])
    lineage = Lineage.of(a, b, History((), (accepted(1, b, a),)))
    assert origins(lineage) == [('["x", "y"]', 1)]
    assert sentences({"b": 1, "a": 2}) == ['{"a": 2, "b": 1}']


def test_json() -> None:
    """It comes back as it was."""
    a, b = candidate("One."), candidate("One. Two <b>ü</b>.")
    notes = {a.digest: {"rules": ("it forgot two",)}}
    lineage = Lineage.of(a, b, History((), (accepted(1, b, a),), notes))
    assert Lineage.from_json(lineage.to_json()) == lineage


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"version": 1}'])
def test_what_is_no_lineage(text: str) -> None:
    """It is refused, whatever it is."""
    with pytest.raises(UsageError, match="this is no lineage that to_json"):
        Lineage.from_json(text)


def test_an_unknown_step() -> None:
    """The message lists the known ones."""
    a = candidate("One.")
    with pytest.raises(UsageError, match="no step 7 in the lineage; known: 0"):
        Lineage.of(a, a, History()).step(7)
