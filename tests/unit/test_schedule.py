"""How many edits a step may make, and the JSON that tells of it."""

import json
from typing import Any

import pytest

from inf_engine.errors import StateDictError, UsageError
from inf_engine.optimization.schedule import (
    ConstantEdits,
    CosineEdits,
    LinearEdits,
    edits_at,
    schedule_from,
    schedule_state,
)


def test_constant_edits_never_change() -> None:
    """Every step may make the same number of edits."""
    assert [ConstantEdits(2).at(step) for step in (0, 1, 1000)] == [2, 2, 2]


@pytest.mark.parametrize("kind", [LinearEdits, CosineEdits])
def test_a_schedule_goes_from_first_to_last_and_stays(kind: Any) -> None:
    """The ends are exact, the way is monotone, and nothing comes after the end."""
    down = [kind(7, 2, 13).at(step) for step in range(20)]
    up = [kind(2, 7, 13).at(step) for step in range(20)]
    assert down[0] == 7 and set(down[13:]) == {2}
    assert down == sorted(down, reverse=True)
    assert up[0] == 2 and set(up[13:]) == {7}
    assert up == sorted(up)


def test_a_cosine_stays_near_its_ends_for_longer() -> None:
    """Early it allows more than the straight line, late it allows less."""
    line = [LinearEdits(9, 1, 8).at(step) for step in range(9)]
    wave = [CosineEdits(9, 1, 8).at(step) for step in range(9)]
    assert line == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert wave == [9, 9, 8, 7, 5, 3, 2, 1, 1]


@pytest.mark.parametrize("step", [-1, -100])
def test_steps_before_the_first_count_as_the_first(step: int) -> None:
    """A schedule gives its first number there."""
    assert LinearEdits(4, 1, 5).at(step) == CosineEdits(4, 1, 5).at(step) == 4


@pytest.mark.parametrize(
    "edits", [3, ConstantEdits(2), LinearEdits(5, 1, 9), CosineEdits(1, 4, 2)]
)
def test_the_state_of_a_schedule_is_json_and_comes_back(edits: Any) -> None:
    """What is read back is equal."""
    assert schedule_from(json.loads(json.dumps(schedule_state(edits)))) == edits


def test_a_schedule_of_ones_own_is_used_and_has_no_state() -> None:
    """Any object with `at` will do; whoever wrote it keeps it."""

    class Odd:
        def at(self, step: int) -> int:
            return 1 + step % 2

    assert [edits_at(Odd(), step) for step in range(3)] == [1, 2, 1]
    assert schedule_state(Odd()) is None


def test_a_number_of_edits_is_at_least_one() -> None:
    """Less would be a step that may do nothing."""

    class Broken:
        def at(self, step: int) -> int:
            return 0

    wrong: Any = "3"
    with pytest.raises(UsageError, match=r"edits=0: give a whole number, 1 or more"):
        ConstantEdits(0)
    with pytest.raises(UsageError, match=r"steps=0: give a whole number"):
        LinearEdits(3, 1, 0)
    with pytest.raises(UsageError, match=r"last=True: give a whole number"):
        CosineEdits(3, True, 4)
    with pytest.raises(UsageError, match=r"Broken.at\(2\)=0: give a whole number"):
        edits_at(Broken(), 2)
    with pytest.raises(UsageError, match="edits must be an int or a schedule"):
        edits_at(wrong, 0)


def test_a_damaged_state_is_refused() -> None:
    """What is no schedule is not guessed at."""
    with pytest.raises(StateDictError, match="unknown kind 'square' of schedule"):
        schedule_from({"kind": "square"})
    with pytest.raises(StateDictError, match="linear schedule cannot be used"):
        schedule_from({"kind": "linear", "first": 2})
    with pytest.raises(StateDictError, match="a number or a schedule by its kind"):
        schedule_from("linear")
