"""`RubricLoss`: a model says which level of a rubric an output reaches."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypedDict

from inf_engine.errors import UsageError
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.judging import (
    REASON,
    Inquiry,
    JudgingLoss,
    answer_type,
    told,
)
from inf_engine.record import RunRecord

Level = str | int | float
Levels = Mapping[Any, str]


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that outputs are judged by.

    Args:
        name: What it is called.
        levels: What each level means. Levels are numbers, which are their values, or
            names, the worst first, at equal distances.
        description: What it is about.
        weight: How much it counts among the others.

    Raises:
        UsageError: If there are not two levels, or they are mixed; or the weight is no
            positive number.
    """

    name: str
    levels: Levels
    description: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise UsageError("a Criterion needs a name.")
        if not isinstance(self.levels, Mapping) or len(self.levels) < 2:
            raise self._refusal("it needs at least two levels, each with its meaning")
        texts = [*self.levels.values(), self.description]
        if not all(isinstance(text, str) for text in texts):
            raise self._refusal("the meaning of each level has to be a text")
        named = [isinstance(level, str) and bool(level) for level in self.levels]
        if not all(named) and (any(named) or not all(map(_is_number, self.levels))):
            raise self._refusal("levels are either all names or all finite numbers")
        if not _is_number(self.weight) or self.weight <= 0:
            raise self._refusal(f"its weight must be above 0, not {self.weight!r}")

    @property
    def choices(self) -> dict[str | int, float]:
        """What may be answered, each with its value from 0 (worst) to 1 (best)."""
        levels = list(self.levels)
        if isinstance(levels[0], str):
            return {level: at / (len(levels) - 1) for at, level in enumerate(levels)}
        least, most = min(levels), max(levels)
        whole = all(isinstance(level, int) for level in levels)
        return {
            level if whole else str(level): (level - least) / (most - least)
            for level in levels
        }

    def text(self) -> str:
        """Return the criterion as a judge is told it."""
        meanings = zip(self.choices, self.levels.values(), strict=True)
        listed = "\n".join(f"- {level}: {meaning}" for level, meaning in meanings)
        return f"{self.description}\n\n{listed}" if self.description else listed

    def meaning(self, choice: str | int) -> str:
        """Return what a level that was answered means."""
        return dict(zip(self.choices, self.levels.values(), strict=True))[choice]

    def _refusal(self, what: str) -> UsageError:
        example = "{1: 'wrong', 2: 'partly right', 3: 'right'}"
        return UsageError(f"the criterion {self.name!r}: {what}, as in {example}.")


class RubricLoss(JudgingLoss):
    """Asks a model which level of a rubric an output reaches, and why.

    The score is the value of the level on the scale of the loss: the lowest level is
    `low`, the highest `high`. With several criteria it is their weighted mean, and the
    feedback of each is among the ``parts``.

    Args:
        alias: The model that is asked.
        levels: What each level means, or several `Criterion`.
        instructions: What else it should know.
        **options: ``engine``, ``low``, ``high``, ``temperature``, ``max_reasks`` and
            ``characters``, as for `JudgingLoss`.

    Raises:
        UsageError: If levels or criteria are unusable.

    Example:
        >>> RubricLoss("smart", {1: "wrong", 2: "partly right", 3: "right"})
        RubricLoss(alias='smart')
        >>> tone = Criterion("tone", {"rude": "It insults.", "polite": "It is kind."})
        >>> facts = Criterion("facts", {0: "invented", 1: "true"}, weight=3.0)
        >>> RubricLoss("smart", [tone, facts])
        RubricLoss(alias='smart')
    """

    kind: ClassVar[str] = "rubric"

    def __init__(
        self,
        alias: str,
        levels: Levels | Sequence[Criterion],
        instructions: str = "",
        **options: Any,
    ) -> None:
        self.criteria = _criteria(levels)
        self._alone = isinstance(levels, Mapping)
        also = (
            [("Also know this", instructions.strip())] if instructions.strip() else []
        )
        super().__init__(
            alias,
            told(
                "You judge the output of a program by a rubric. You are shown what it "
                "was given, its output and, where that is known, what the output "
                "should be. Choose the level that fits best.",
                [(_heading(c, self._alone), c.text()) for c in self.criteria] + also,
                _fields(self.criteria, self._alone),
            ),
            _answer(self.criteria, self._alone),
            **options,
        )

    def inquiry(self, record: RunRecord, target: Any) -> Inquiry:
        """Return the one question about an output."""
        return Inquiry((self.question(self.shown(record, target)),), self._read_levels)

    def _read_levels(self, answers: Sequence[Any]) -> Feedback:
        """Return the value of the level, or of those of all criteria."""
        (said,) = answers
        if self._alone:
            return self._part(self.criteria[0], said)
        parts = tuple([self._part(c, said[c.name]) for c in self.criteria])
        pairs = list(zip(self.criteria, parts, strict=True))
        total = math.fsum(c.weight for c in self.criteria)
        mean = math.fsum(c.weight * p.metadata["value"] for c, p in pairs) / total
        words = "\n".join(f"{c.name}: {p.content}" for c, p in pairs)
        known = {"levels": {c.name: p.metadata["level"] for c, p in pairs}}
        return Feedback(words, self.scaled(mean), self.kind, known, parts=parts)

    def _part(self, criterion: Criterion, said: Any) -> Feedback:
        """Return the feedback by one criterion."""
        value = criterion.choices[said.level]
        known = {"name": criterion.name, "level": said.level, "value": value}
        words = f"{said.level} ({criterion.meaning(said.level)}): {said.reason.strip()}"
        return Feedback(words, self.scaled(value), self.kind, known)


def _criteria(levels: Any) -> list[Criterion]:
    """Return the criteria that a rubric stands for."""
    if isinstance(levels, Mapping):
        return [Criterion("level", levels)]
    found = list(levels) if isinstance(levels, Sequence) else []
    if not found or not all(isinstance(item, Criterion) for item in found):
        raise UsageError(
            "RubricLoss takes the levels, as in {1: 'wrong', 2: 'right'}, or a list of "
            f"Criterion, not {type(levels).__name__}."
        )
    names = [item.name for item in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"RubricLoss has two criteria with the name {name!r}.")
    return found


def _heading(criterion: Criterion, alone: bool) -> str:
    return "The levels" if alone else f"Criterion {criterion.name!r}: the levels"


def _answer(criteria: Sequence[Criterion], alone: bool) -> Any:
    """Return the type of an answer: a level, or one for each criterion by name."""
    each = [_level(criterion, at) for at, criterion in enumerate(criteria, 1)]
    if alone:
        return each[0]
    names = [criterion.name for criterion in criteria]
    make: Any = TypedDict
    return make("Levels", dict(zip(names, each, strict=True)))


def _level(criterion: Criterion, at: int) -> Any:
    """Return the type of a level of one criterion, with a name of its own."""
    choice: Any = Literal
    kind = choice[tuple(criterion.choices)]
    fields = [("reason", str, REASON), ("level", kind, "The level that fits best")]
    return answer_type(f"Level{at}", fields)


def _fields(criteria: Sequence[Criterion], alone: bool) -> list[tuple[str, Any, str]]:
    """Return the fields of an answer, as the judge is told them."""
    if alone:
        known = ", ".join(map(str, criteria[0].choices))
        return [("reason", str, REASON), ("level", str, f"One of: {known}")]
    what = 'an object with "reason" and "level" for this criterion, in this order'
    return [(criterion.name, object, what) for criterion in criteria]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)
