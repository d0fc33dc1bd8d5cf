"""What the worker needs of the other parts: a few methods each.

`claas.learner`, `claas.gate`, `claas.serving`, `claas.ledger` and `claas.receipts` fit;
tests have small fakes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from claas.types import Candidate, Feedback, Lesson, Receipt, TokenRow, Verdict


class Learner(Protocol):
    """What trains."""

    def untaught(self, adapter: Path, lessons: Sequence[Lesson]) -> Mapping[str, str]:
        """Return why which lessons cannot be taught, by the feedback's id."""
        ...

    def train(self, adapter: Path, lessons: Sequence[Lesson], out: Path) -> Candidate:
        """Train an adapter on lessons; write what comes of it into a folder."""
        ...


class Gate(Protocol):
    """What judges."""

    def judge(
        self,
        before: Path,
        after: Path,
        lessons: Sequence[Lesson],
        probes: Sequence[Lesson],
    ) -> Verdict:
        """Judge a candidate; `probes` are the lessons of earlier updates."""
        ...


class Serving(Protocol):
    """The inference server."""

    def load(self, name: str, path: str) -> None:
        """Load an adapter; one that is loaded already stays."""
        ...

    def unload(self, name: str) -> None:
        """Unload an adapter; one that is not loaded stays so."""
        ...

    def names(self) -> Sequence[str]:
        """Return what is loaded."""
        ...


class Mark(Protocol):
    """What became of a feedback."""

    @property
    def state(self) -> str:
        """What it is since then."""
        ...

    @property
    def version(self) -> int | None:
        """The version that it is about."""
        ...


class Entry(Protocol):
    """A feedback with what became of it."""

    @property
    def feedback(self) -> Feedback:
        """The feedback."""
        ...

    @property
    def marks(self) -> Sequence[Mark]:
        """What became of it, the oldest first."""
        ...


class Ledger(Protocol):
    """All feedback."""

    def open(self, lora: str) -> Sequence[Feedback]:
        """Return what waits for an update, the oldest first."""
        ...

    def history(self, lora: str) -> Sequence[Entry]:
        """Return all feedback of an adapter, the oldest first."""
        ...

    def mark(
        self, ids: Iterable[str], state: Any, version: int | None, why: str
    ) -> None:
        """Write down what became of feedback."""
        ...

    def erase(
        self, lora: str, ids: Iterable[str], receipts: Iterable[str]
    ) -> Sequence[str]:
        """Delete what was said, also of some answers; return the feedback's ids."""
        ...


class Receipts(Protocol):
    """All receipts."""

    def get(self, receipt_id: str, /) -> Receipt:
        """Return a receipt."""
        ...


@dataclass(frozen=True, slots=True)
class Teaching:
    """What needs the base model in memory."""

    learner: Learner
    gate: Gate
    explain: Callable[[Path, Lesson], Sequence[TokenRow]]
