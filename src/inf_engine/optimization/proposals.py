"""`Proposal` and `Step`: what an optimizer would change, and what it did change."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inf_engine.optimization.search import Change


@dataclass(frozen=True, slots=True)
class Refusal:
    """A proposal that cannot be used.

    Args:
        parameter: The dotted name.
        reason: Why, in words.
        before: The value as it was and stays.
        value: What was proposed, None if nothing usable came.
    """

    parameter: str
    reason: str
    before: Any = None
    value: Any = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a step would do; nothing is written yet.

    Args:
        changes: The new values, in the order of the parameters.
        unchanged: The parameters that nothing is to be done for, by dotted name.
        refused: The proposals that cannot be used, and why.
        seen: What the notes of each parameter said, in short.
    """

    changes: tuple[Change, ...] = ()
    unchanged: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    seen: Mapping[str, str] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """The new values by dotted name."""
        return {change.parameter: change.after for change in self.changes}


@dataclass(frozen=True, slots=True)
class Step:
    """What a step did.

    Args:
        number: Its number, from 0.
        updates: The values that were written.
        unchanged: The parameters that nothing was to be done for, by dotted name.
        refused: The proposals that were not used, and why.
    """

    number: int
    updates: tuple[Change, ...] = ()
    unchanged: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Step":
        """Return the step that `dataclasses.asdict` made JSON of.

        Args:
            state: The JSON.

        Raises:
            KeyError: If something is missing.
            TypeError: If something is of a wrong type.
        """
        return cls(
            int(state["number"]),
            tuple([Change(**change) for change in state["updates"]]),
            tuple([str(name) for name in state["unchanged"]]),
            tuple([Refusal(**refusal) for refusal in state["refused"]]),
        )
