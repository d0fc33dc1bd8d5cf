"""`Lineage`: where each sentence of a trained text came from, and what it was worth.

Every accepted candidate is a step. Its sentences are matched with those of its parents:
what is there already keeps its origin, what is new came with the step. The evidence is
what was said of the parents' outputs, the gain is what the step's verdict measured.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.optimization.edits import diff_edits
from inf_engine.optimization.search import Candidate
from inf_engine.optimization.trajectory import CandidateAccepted, History

_SENTENCE = re.compile(r"\s*\S.*?(?:[.!?]+(?=\s)|(?=\n)|\Z)")
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Gain:
    """How much better than what it came from: a mean difference of scores.

    Args:
        mean: The mean difference, scores from 0 to 1.
        low: The lower end of its interval.
        high: The upper end.
        n: On how many examples.
    """

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class TextChange:
    """What a step did to one parameter.

    Args:
        parameter: Its dotted name.
        removed: The sentences that went, with neighbours where they were needed to
            find the place.
        added: What came instead of each; as many as `removed`.
        reason: Why, in the words of whoever proposed it.
        evidence: What was said of the outputs before, a few of them.
    """

    parameter: str
    removed: tuple[str, ...]
    added: tuple[str, ...]
    reason: str = ""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LineageStep:
    """An accepted candidate.

    Args:
        number: The number of the decision; 0 is the start.
        candidate: Its digest.
        parents: The digests of what it was made from.
        verdict: Why it was accepted.
        gain: How much better it was; None for the start.
        rollouts: After how many rollouts it was accepted.
        changes: What it changed.
    """

    number: int
    candidate: str
    parents: tuple[str, ...] = ()
    verdict: str = ""
    gain: Gain | None = None
    rollouts: int = 0
    changes: tuple[TextChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """A sentence of the final text, and the number of the step that brought it."""

    sentence: str
    step: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where each sentence came from.

    Args:
        best: The digest of the candidate that it is about.
        steps: The start and all accepted candidates, in order.
        origins: By parameter, each sentence of its final text in order.
    """

    best: str
    steps: tuple[LineageStep, ...] = ()
    origins: Mapping[str, tuple[Origin, ...]] = field(default_factory=dict)

    def step(self, number: int) -> LineageStep:
        """Return the step of a number.

        Raises:
            UsageError: If there is none.
        """
        for step in self.steps:
            if step.number == number:
                return step
        known = ", ".join(str(step.number) for step in self.steps)
        raise UsageError(f"no step {number} in the lineage; known: {known}.")

    @classmethod
    def of(cls, start: Candidate, best: Candidate, history: History) -> "Lineage":
        """Return the lineage of a candidate.

        Args:
            start: What the training began with.
            best: The candidate.
            history: What happened in between.
        """
        steps = [LineageStep(0, start.digest)]
        origins = {start.digest: {n: _all(v, 0) for n, v in start.values.items()}}
        for event in history.decisions:
            if isinstance(event, CandidateAccepted):
                steps.append(_step(event, history))
                own = _origins(event, start, origins)
                origins.setdefault(event.candidate.digest, own)
        return cls(best.digest, tuple(steps), origins.get(best.digest, {}))

    def to_json(self) -> str:
        """Return it as JSON text, for `from_json` and for people."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Lineage":
        """Return the lineage that `to_json` wrote.

        Raises:
            UsageError: If the text is none.
        """
        try:
            data = json.loads(text)
            if data["version"] != _VERSION:
                raise ValueError("of another version")
            steps = tuple([_read_step(step) for step in data["steps"]])
            origins = {
                name: tuple([Origin(**origin) for origin in found])
                for name, found in data["origins"].items()
            }
            return cls(data["best"], steps, origins)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise UsageError(
                "this is no lineage that to_json() wrote, or one of another version: "
                "give the text of lineage.json as it is."
            ) from exc


def sentences(value: Any) -> list[str]:
    """Return the sentences of a text; a value that is no text is one of its own.

    Args:
        value: A value of a parameter.

    Example:
        >>> sentences("Be brief. Be kind.")
        ['Be brief.', 'Be kind.']
    """
    if not isinstance(value, str):
        return [json.dumps(value, ensure_ascii=False, sort_keys=True)]
    return [found.strip() for found in _SENTENCE.findall(value)]


def _all(value: Any, step: int) -> tuple[Origin, ...]:
    return tuple([Origin(sentence, step) for sentence in sentences(value)])


def _step(event: CandidateAccepted, history: History) -> LineageStep:
    gain = event.verdict.gain
    evidence: dict[str, list[str]] = {}
    for parent in event.parents:
        for name, said in history.notes.get(parent.digest, {}).items():
            evidence.setdefault(name, []).extend(said)
    changes = []
    for change in event.changes:
        old, new = _text(change.before), _text(change.after)
        edits = diff_edits(old, new)
        changes.append(
            TextChange(
                change.parameter,
                tuple([edit.find.strip() for edit in edits]),
                tuple([edit.replace.strip() for edit in edits]),
                change.reason,
                tuple(evidence.get(change.parameter, ())),
            )
        )
    return LineageStep(
        event.number,
        event.candidate.digest,
        tuple([parent.digest for parent in event.parents]),
        event.verdict.reason,
        Gain(gain.mean, gain.low, gain.high, gain.n),
        event.rollouts,
        tuple(changes),
    )


def _origins(
    event: CandidateAccepted,
    start: Candidate,
    known: Mapping[str, Mapping[str, tuple[Origin, ...]]],
) -> dict[str, tuple[Origin, ...]]:
    """Return the origin of each sentence of an accepted candidate."""
    parents = [known[p.digest] for p in event.parents if p.digest in known]
    parents = parents or [known[start.digest]]
    found = {}
    for name, value in event.candidate.values.items():
        own = sentences(value)
        steps = [event.number] * len(own)
        for parent in reversed(parents):  # the first parent has the last word
            for place, origin in _matches(own, parent.get(name, ())):
                steps[place] = origin
        pairs = zip(own, steps, strict=True)
        found[name] = tuple([Origin(text, step) for text, step in pairs])
    return found


def _matches(own: Sequence[str], before: Sequence[Origin]) -> list[tuple[int, int]]:
    """Return which sentences were there before, and the steps they came from."""
    texts = [origin.sentence for origin in before]
    matcher = difflib.SequenceMatcher(None, texts, list(own), autojunk=False)
    found = [
        (block.b + k, before[block.a + k].step)
        for block in matcher.get_matching_blocks()
        for k in range(block.size)
    ]
    placed = {place for place, _ in found}
    for place, sentence in enumerate(own):  # what was only moved
        if place not in placed and sentence in texts:
            found.append((place, before[texts.index(sentence)].step))
    return found


def _text(value: Any) -> str:
    """Return a value as text."""
    return value if isinstance(value, str) else sentences(value)[0]


def _read_step(data: Mapping[str, Any]) -> LineageStep:
    gain = data["gain"]
    return LineageStep(
        number=data["number"],
        candidate=data["candidate"],
        parents=tuple(data["parents"]),
        verdict=data["verdict"],
        gain=None if gain is None else Gain(**gain),
        rollouts=data["rollouts"],
        changes=tuple([_read_change(change) for change in data["changes"]]),
    )


def _read_change(data: Mapping[str, Any]) -> TextChange:
    return TextChange(
        data["parameter"],
        tuple(data["removed"]),
        tuple(data["added"]),
        data["reason"],
        tuple(data["evidence"]),
    )
