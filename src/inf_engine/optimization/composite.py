"""`CompositeLoss`: several objectives, weighed into one score and still kept apart."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from inf_engine.errors import LossError, UsageError
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.human import part_of
from inf_engine.optimization.loss import Loss, lend_engine
from inf_engine.record import RunRecord
from inf_engine.tasks import together


class CompositeLoss(Loss):
    """The weighted mean of several losses, each on its own scale.

    Each part's score counts by its place between the part's `low` and `high`. The
    feedback of each is among the ``parts``, with its name in its metadata, so that the
    objectives stay apart. All parts are asked at the same time. Where a part with a
    weight fails for an example, so does the whole: a mean of the rest would be another
    measure.

    Args:
        parts: Losses by name, each alone or in a pair ``(loss, weight)``; or a list of
            these, named by their kinds. A weight of 0 makes a part that is reported
            and does not count, such as one that only has words.
        low: The worst score.
        high: The best score.
        engine: Runs the models of the parts that have no engine of their own.

    Raises:
        UsageError: If a part is no loss, or the weights are not numbers from 0 with
            one above.

    Example:
        >>> from inf_engine.optimization.loss import VerifierLoss
        >>> right = VerifierLoss(lambda output, target: output == target)
        >>> brief = VerifierLoss(lambda output, target: len(output) < 80)
        >>> CompositeLoss({"right": (right, 0.8), "brief": (brief, 0.2)})
        CompositeLoss(right=0.8, brief=0.2)
    """

    kind: ClassVar[str] = "composite"

    def __init__(
        self,
        parts: Mapping[str, Any] | Iterable[Any],
        *,
        low: float = 0.0,
        high: float = 1.0,
        engine: Any = None,
    ) -> None:
        super().__init__(low=low, high=high, engine=engine)
        pairs = _pairs(parts)
        self.parts: dict[str, Loss] = {name: loss for name, (loss, _) in pairs.items()}
        self.weights: dict[str, float] = {n: float(w) for n, (_, w) in pairs.items()}
        self.engine = engine

    @property
    def engine(self) -> Any:
        """What runs the models that the parts ask, None if that is not known yet."""
        return self._engine

    @engine.setter
    def engine(self, engine: Any) -> None:
        self._engine = engine
        for part in self.parts.values():
            lend_engine(part, engine)

    @property
    def questions(self) -> int:
        """How many requests its parts make for an example."""
        return sum(part.questions for part in self.parts.values())

    @property
    def is_relative(self) -> bool:
        """Whether a part that counts compares outputs of a batch with each other."""
        return any(self.weights[n] and p.is_relative for n, p in self.parts.items())

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={w:g}" for name, w in self.weights.items())
        return f"CompositeLoss({listed})"

    async def judge(self, record: RunRecord, target: Any) -> Feedback:
        """Ask every part about one output."""
        return (await self.judge_all([record], [target], [0]))[0]

    async def judge_all(
        self, records: Sequence[RunRecord], targets: Sequence[Any], places: list[int]
    ) -> list[Feedback]:
        """Ask every part about all outputs, at the same time.

        Raises:
            LossError: If a part itself is wrong; the message names it.
        """
        tries = (
            self._asked(name, part, records, targets)
            for name, part in self.parts.items()
        )
        columns = await together(tries)
        rows = zip(*columns, strict=True)
        return [self._joined(dict(zip(self.parts, row, strict=True))) for row in rows]

    def failed(self, record: RunRecord, target: Any) -> Feedback:
        """Return the feedback on a run that failed: the worst for every part."""
        said = {n: part.failed(record, target) for n, part in self.parts.items()}
        parts = tuple(_named(name, part) for name, part in said.items())
        known = self._known(said)
        return replace(super().failed(record, target), parts=parts, metadata=known)

    async def _asked(
        self,
        name: str,
        part: Loss,
        records: Sequence[RunRecord],
        targets: Sequence[Any],
    ) -> list[Feedback]:
        part_of.set(f"{part_of.get()}/{name}")  # for this task only
        try:
            return await part.feedback(records, targets)
        except LossError as exc:
            raise LossError(f"part {name!r} of a CompositeLoss: {exc}") from exc

    def _joined(self, said: dict[str, Feedback]) -> Feedback:
        """Return the feedback on one example, given that of each part."""
        parts = tuple(_named(name, part) for name, part in said.items())
        error = next(filter(None, map(self._error, said, said.values())), None)
        if error is not None:
            lost = self.lost(error)
            return replace(lost, parts=parts, metadata=self._known(said))
        total = math.fsum(self.weights.values())
        value = math.fsum(
            self.weights[name] * self._place(name, part.score)
            for name, part in said.items()
            if part.score is not None
        )
        words = "\n".join(
            f"{name}{'' if p.score is None else f' (score {p.score:g})'}: {p.content}"
            for name, p in said.items()
            if p.content and p.error is None
        )
        score = self.scaled(value / total)
        return Feedback(words, score, self.kind, self._known(said), parts=parts)

    def _place(self, name: str, score: float) -> float:
        """Return how far a part's score is from its worst to its best, 0 to 1."""
        part = self.parts[name]
        return (score - part.low) / (part.high - part.low)

    def _error(self, name: str, said: Feedback) -> Exception | None:
        """Return why there is no score of a part that counts."""
        if not self.weights[name]:
            return None
        if said.error is not None:
            error = LossError(f"part {name!r} failed: {said.content}")
            error.__cause__ = said.error
            return error
        if said.score is None:
            return LossError(
                f"part {name!r} gave no score, and counts {self.weights[name]:g}. Give "
                "it the weight 0 if it only has words."
            )
        return None

    def _known(self, said: Mapping[str, Feedback]) -> dict[str, Any]:
        scores = {name: part.score for name, part in said.items()}
        return {"scores": scores, "weights": dict(self.weights)}


def _named(name: str, part: Feedback) -> Feedback:
    return replace(part, metadata={**part.metadata, "name": name})


def _pairs(parts: Any) -> dict[str, tuple[Loss, float]]:
    """Return losses and weights by name."""
    if isinstance(parts, Mapping):
        named = {str(name): _pair(part) for name, part in parts.items()}
    else:
        named = {}
        for part in parts if isinstance(parts, Iterable) else ():
            loss, weight = _pair(part)
            name, number = loss.kind, 1
            while name in named:
                number += 1
                name = f"{loss.kind}_{number}"
            named[name] = loss, weight
    if not any(weight for _, weight in named.values()):
        raise UsageError(
            "a CompositeLoss needs at least one part with a weight above 0, as in "
            "CompositeLoss({'right': (VerifierLoss(exact), 1.0)})."
        )
    return named


def _pair(part: Any) -> tuple[Loss, float]:
    """Return a loss and its weight, which is 1 if none is given."""
    loss, weight = part if isinstance(part, tuple) and len(part) == 2 else (part, 1.0)
    if not isinstance(loss, Loss):
        raise UsageError(
            f"a part of a CompositeLoss is a loss or (loss, weight), not a "
            f"{type(loss).__name__}. Wrap a function: VerifierLoss(fn)."
        )
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise UsageError(f"a weight must be a number, not {weight!r}.")
    if not 0.0 <= weight < math.inf:
        raise UsageError(f"a weight must be 0 or more, and finite, not {weight!r}.")
    return loss, weight
