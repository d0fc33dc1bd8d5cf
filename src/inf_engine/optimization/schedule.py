"""How many edits a step may make: the learning rate of a text.

A schedule is a function of the number of the step and nothing else, so there is no
state to keep beside the step count of the optimizer.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

from inf_engine.errors import StateDictError, UsageError, known_names


class EditSchedule(Protocol):
    """How many edits each step may make; any object with this method will do."""

    def at(self, step: int) -> int:
        """Return how many edits a step may make to one text, 1 or more.

        Args:
            step: The number of the step, from 0.
        """
        ...


Edits: TypeAlias = int | EditSchedule


@dataclass(frozen=True, slots=True)
class ConstantEdits:
    """The same number of edits in every step.

    Args:
        edits: How many, 1 or more.

    Raises:
        UsageError: If it is below 1.

    Example:
        >>> ConstantEdits(3).at(100)
        3
    """

    kind: ClassVar[str] = "constant"

    edits: int

    def __post_init__(self) -> None:
        _check_counts(edits=self.edits)

    def at(self, step: int) -> int:
        """Return the number of edits.

        Args:
            step: The number of the step; it does not matter.
        """
        return self.edits


@dataclass(frozen=True, slots=True)
class LinearEdits:
    """From one number of edits to another in equal parts, and then that.

    Args:
        first: How many in step 0, 1 or more.
        last: How many from step `steps` on, 1 or more.
        steps: How many steps it takes, 1 or more.

    Raises:
        UsageError: If one of them is below 1.

    Example:
        >>> [LinearEdits(5, 1, 4).at(step) for step in range(6)]
        [5, 4, 3, 2, 1, 1]
    """

    kind: ClassVar[str] = "linear"

    first: int
    last: int
    steps: int

    def __post_init__(self) -> None:
        _check_counts(first=self.first, last=self.last, steps=self.steps)

    def at(self, step: int) -> int:
        """Return how many edits a step may make.

        Args:
            step: The number of the step, from 0.
        """
        share = min(max(step, 0), self.steps) / self.steps
        return _between(self.first, self.last, share)


@dataclass(frozen=True, slots=True)
class CosineEdits:
    """From one number of edits to another along half a cosine, and then that.

    It stays near both numbers for longer than `LinearEdits` does.

    Args:
        first: How many in step 0, 1 or more.
        last: How many from step `steps` on, 1 or more.
        steps: How many steps it takes, 1 or more.

    Raises:
        UsageError: If one of them is below 1.

    Example:
        >>> [CosineEdits(5, 1, 4).at(step) for step in range(6)]
        [5, 4, 3, 2, 1, 1]
        >>> [CosineEdits(9, 1, 6).at(step) for step in range(7)]
        [9, 8, 7, 5, 3, 2, 1]
    """

    kind: ClassVar[str] = "cosine"

    first: int
    last: int
    steps: int

    def __post_init__(self) -> None:
        _check_counts(first=self.first, last=self.last, steps=self.steps)

    def at(self, step: int) -> int:
        """Return how many edits a step may make.

        Args:
            step: The number of the step, from 0.
        """
        share = min(max(step, 0), self.steps) / self.steps
        return _between(self.first, self.last, (1 - math.cos(math.pi * share)) / 2)


def edits_at(edits: Edits, step: int) -> int:
    """Return how many edits a step may make.

    Args:
        edits: A number or a schedule.
        step: The number of the step, from 0.

    Raises:
        UsageError: If it is neither, or the schedule gives no int of 1 or more.
    """
    if isinstance(edits, int):
        _check_counts(edits=edits)
        return edits
    if not callable(getattr(edits, "at", None)):
        raise UsageError(
            f"edits must be an int or a schedule such as LinearEdits, not "
            f"{type(edits).__name__}."
        )
    found = edits.at(step)
    _check_counts(**{f"{type(edits).__name__}.at({step})": found})
    return found


def schedule_state(edits: Edits) -> Any:
    """Return the JSON of a number of edits or a schedule; None of one not our own.

    Args:
        edits: A number or a schedule.
    """
    if isinstance(edits, int):
        return edits
    if isinstance(edits, ConstantEdits | LinearEdits | CosineEdits):
        return {"kind": edits.kind, **asdict(edits)}
    return None


def schedule_from(state: Any) -> Edits:
    """Return what `schedule_state` told of.

    Args:
        state: Its JSON, not None.

    Raises:
        StateDictError: If it is no such JSON.
    """
    if isinstance(state, int) and not isinstance(state, bool) and state >= 1:
        return state
    if not isinstance(state, Mapping):
        raise StateDictError(
            "the edits of a state are a number or a schedule by its kind, not "
            f"{type(state).__name__}: give what state_dict() gave."
        )
    numbers = dict(state)
    kind = str(numbers.pop("kind", ""))
    if kind not in _KINDS:
        raise StateDictError(
            f"unknown kind {kind!r} of schedule; {known_names(kind, _KINDS)}."
        )
    try:
        return _KINDS[kind](**numbers)
    except (TypeError, UsageError) as exc:
        raise StateDictError(
            f"the state of the {kind} schedule cannot be used: {exc}"
        ) from exc


def _between(first: int, last: int, share: float) -> int:
    """Return the whole number at a share of the way, halves towards `first`."""
    way = (last - first) * share
    return first + int(math.copysign(math.ceil(abs(way) - 0.5 - 1e-9), way))


def _check_counts(**counts: Any) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UsageError(f"{name}={count!r}: give a whole number, 1 or more.")


_KINDS: Mapping[str, Any] = {
    kind.kind: kind for kind in (ConstantEdits, LinearEdits, CosineEdits)
}
