"""`Feedback`: what a loss says of an output; `FeedbackBatch`: of each of a batch.

Feedback is in words, with a score where there is one: more is better, and the scale is
the loss's own. It knows the record of the run that it is about, so that it can flow
back through it. Nothing refers to feedback: drop it, and the record goes with it.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, overload

from inf_engine.optimization.backward import NodeNotes, backward
from inf_engine.record import RunRecord


@dataclass(frozen=True, slots=True, eq=False)
class Feedback:
    """What a loss says of the output of one run.

    Args:
        content: The words; empty if there is nothing to say.
        score: How good it is, more is better; None without a score.
        kind: What kind of loss said it: ``verifier``, ``judge``, ``rubric`` ...
        metadata: What else the loss knows, for people and reports.
        record: The run that it is about, None if it cannot flow back.
        target: What the output should have been, as the loss was given it.
        parts: The feedback of each objective, of a loss of several.
        error: Why the loss failed for this example, None if it did not.
    """

    content: str
    score: float | None = None
    kind: str = "feedback"
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    record: RunRecord | None = field(default=None, repr=False)
    target: Any = field(default=None, repr=False)
    parts: tuple["Feedback", ...] = ()
    error: Exception | None = None

    async def backward(self, *, engine: Any = None, critic: Any = None) -> NodeNotes:
        """Leave notes on every parameter that shaped the output.

        Args:
            engine: Runs the critic; not needed without one.
            critic: The alias of the model that writes the notes, or a `Critic`; None
                to pass the feedback through as it is.

        Returns:
            The notes that reached each node.

        Raises:
            FeedbackError: If there is no record, or the critic failed.
        """
        return (await backward([self], engine=engine, critic=critic))[0]


class FeedbackBatch(Sequence[Feedback]):
    """The feedback of a batch, in the order of its examples.

    Args:
        items: One feedback for each example.
    """

    def __init__(self, items: Sequence[Feedback]) -> None:
        self._items = tuple(items)

    @property
    def scores(self) -> tuple[float | None, ...]:
        """The score of each example."""
        return tuple([item.score for item in self._items])

    @property
    def score(self) -> float | None:
        """The mean of the scores there are, None without any."""
        scores = [score for score in self.scores if score is not None]
        return statistics.fmean(scores) if scores else None

    @property
    def errors(self) -> tuple[Exception, ...]:
        """Why the loss failed, where it did."""
        return tuple([item.error for item in self._items if item.error is not None])

    async def backward(
        self, *, engine: Any = None, critic: Any = None
    ) -> tuple[NodeNotes, ...]:
        """Leave notes on the parameters; a critic is asked once for each node.

        Examples for which the loss failed are left out.

        Args:
            engine: Runs the critic; not needed without one.
            critic: As for `Feedback.backward`.

        Returns:
            The notes that reached each node, for each example.

        Raises:
            FeedbackError: If a record is missing, or the critic failed.
        """
        return await backward(self._items, engine=engine, critic=critic)

    @overload
    def __getitem__(self, index: int) -> Feedback: ...
    @overload
    def __getitem__(self, index: slice) -> "FeedbackBatch": ...
    def __getitem__(self, index: int | slice) -> "Feedback | FeedbackBatch":
        found = self._items[index]
        return FeedbackBatch(found) if isinstance(found, tuple) else found

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Feedback]:
        return iter(self._items)

    def __repr__(self) -> str:
        score = "no score" if self.score is None else f"score={self.score:.3g}"
        return f"FeedbackBatch({len(self)} examples, {score})"
