"""`Trajectory`: the events of a training, and the file that they are checked against.

A training is replayed, not restored: the same seed gives the same questions, and the
engine's journal has the answers. What the file adds is the proof. Every score and every
decision is a line in it, on the disk before the next one is made; a training that runs
again must say the same line by line, and is stopped where it does not. Lines of one
decision come in the order in which answers arrived, so scores are checked by what they
are about, and decisions by their order.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from inf_engine.errors import TrainingError
from inf_engine.optimization.acceptance import Verdict
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.search import Candidate, Change, Rollout, Split


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    """A training began; `start` is what the module came with."""

    start: Candidate
    train_size: int
    val_size: int


@dataclass(frozen=True, slots=True)
class StepStarted:
    """The optimizer took its next minibatch: the places of these examples."""

    step: int
    epoch: int
    places: tuple[int, ...]
    rollouts: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Rollouts of a candidate are done.

    Args:
        number: The number of the evaluation, in the order in which they were asked for.
        candidate: What was run.
        split: Where the examples are from.
        scores: The new scores by place, from 0 to 1; None where the loss failed.
        rollouts: How many rollouts there had been, these included.
        mean: The mean of all scores that the candidate has on the split by now.
        covered: How many those are.
    """

    number: int
    candidate: Candidate
    split: Split
    scores: Mapping[int, float | None]
    rollouts: int
    mean: float | None
    covered: int


@dataclass(frozen=True, slots=True)
class CandidateAccepted:
    """The optimizer accepted a candidate.

    Args:
        number: The number of the decision, from 1.
        candidate: What was accepted.
        parents: What it was made from.
        changes: What was changed.
        verdict: Why.
        rollouts: How many there had been.
        is_best: Whether it is the best one so far.
    """

    number: int
    candidate: Candidate
    parents: tuple[Candidate, ...]
    changes: tuple[Change, ...]
    verdict: Verdict
    rollouts: int
    is_best: bool


@dataclass(frozen=True, slots=True)
class CandidateRejected:
    """The optimizer rejected a candidate; as `CandidateAccepted`, with the reason."""

    number: int
    candidate: Candidate
    parents: tuple[Candidate, ...]
    changes: tuple[Change, ...]
    reason: str
    rollouts: int


@dataclass(frozen=True, slots=True)
class TrainingFinished:
    """A training ended: why, after how many rollouts, and with what."""

    reason: str
    rollouts: int
    best: Candidate


Decision: TypeAlias = CandidateAccepted | CandidateRejected
TrainingEvent: TypeAlias = (
    TrainingStarted | StepStarted | Evaluated | Decision | TrainingFinished
)
TrainingObserver: TypeAlias = Callable[[TrainingEvent], object]


@dataclass(frozen=True, slots=True)
class History:
    """What happened in a training, the same whoever answered first.

    Args:
        evaluations: In the order in which they were asked for.
        decisions: In the order in which they were made.
        notes: What was said of a candidate's outputs, by its digest and the name of
            the parameter; a few of them each.
    """

    evaluations: tuple[Evaluated, ...] = ()
    decisions: tuple[Decision, ...] = ()
    notes: Mapping[str, Mapping[str, tuple[str, ...]]] = field(
        default_factory=lambda: MappingProxyType({})
    )


class Trajectory:
    """A file of JSON lines; `tell` compares with what is there, or appends.

    Args:
        path: The file; created readable by its owner only.
        head: What the training is: the same for each process that works on it.

    Raises:
        TrainingError: If the file is of another training, or cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], head: Mapping[str, Any]) -> None:
        self._path = Path(path)
        self._scores: dict[str, Any] = {}
        self._said: dict[tuple[str, str], list[Any]] = {}
        self._decisions: list[str] = []
        self._count = 0
        try:
            lines = self._read()
            self._handle = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
            )
        except OSError as exc:
            raise TrainingError(
                f"cannot use {self._path.name!r} as the journal of a training: "
                f"{exc.strerror}. Give a file in a folder that can be written to."
            ) from exc
        try:
            self._load(lines, _plain(head))
        except BaseException:
            self.close()
            raise

    @property
    def replayed(self) -> int:
        """How many lines an earlier process left."""
        return len(self._scores) + len(self._decisions)

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def score(self, candidate: Candidate, split: Split, rollout: Rollout) -> None:
        """Take note of a score.

        Raises:
            TrainingError: If the file has another one.
        """
        key = _key(candidate, split, rollout.place)
        place, score = rollout.place, rollout.score
        if key not in self._scores:
            self._append({"rollout": key, "score": score})
            self._scores[key] = score
        elif self._scores[key] != score:
            raise self._differs(
                f"example {place} of {split} scored {score}, and {self._scores[key]} "
                "the first time"
            )

    def recall(
        self, candidate: Candidate, split: Split, place: int, loss: str
    ) -> Feedback | None:
        """Return what a person said of an output, None if nobody was asked.

        Args:
            candidate: What was run.
            split: Where the example is from.
            place: Its place.
            loss: The name of the loss that asks.
        """
        said = self._said.get((_key(candidate, split, place), loss))
        return None if said is None else Feedback(*said)

    def answer(
        self, candidate: Candidate, split: Split, place: int, loss: str, said: Feedback
    ) -> None:
        """Take down what a person said of an output, at once.

        Args:
            candidate: What was run.
            split: Where the example is from.
            place: Its place.
            loss: The name of the loss that asked.
            said: The answer: words, score and kind are kept.
        """
        key, words = (
            _key(candidate, split, place),
            [said.content, said.score, said.kind],
        )
        self._append({"answer": key, "loss": loss, "said": words})
        self._said[key, loss] = words

    def decide(self, event: Decision) -> None:
        """Take note of a decision.

        Raises:
            TrainingError: If the file has another one in its place.
        """
        accepted = isinstance(event, CandidateAccepted)
        line = {
            "decision": event.number,
            "accepted": accepted,
            "candidate": event.candidate.digest,
            "parents": [parent.digest for parent in event.parents],
            "rollouts": event.rollouts,
        }
        text = _text(line)
        if self._count == len(self._decisions):
            values = dict(event.candidate.values) if accepted else {}
            self._append({**line, "values": values})
            self._decisions.append(text)
        elif self._decisions[self._count] != text:
            raise self._differs(f"decision {event.number} is another one")
        self._count += 1

    def _read(self) -> list[dict[str, Any]]:
        """Return what is in the file; cut off a line that a death left half."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._path, len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError as exc:
            raise TrainingError(
                f"{self._path.name!r} is no journal of a training, or is damaged. Give "
                "another path, or delete it to begin anew."
            ) from exc
        return lines

    def _load(self, lines: list[dict[str, Any]], head: dict[str, Any]) -> None:
        if not lines:
            self._append({"training": head})
            return
        theirs = lines[0].get("training") if isinstance(lines[0], dict) else None
        if theirs != head:
            theirs = theirs if isinstance(theirs, dict) else {}
            odd = [name for name in head if theirs.get(name) != head[name]]
            raise TrainingError(
                f"{self._path.name!r} is the journal of another training: it differs "
                f"in {', '.join(odd) or 'its format'}. Give another path, or train as "
                "before."
            )
        for line in lines[1:]:
            if "rollout" in line:
                self._scores[line["rollout"]] = line["score"]
            elif "answer" in line:
                self._said[line["answer"], line["loss"]] = line["said"]
            else:
                line.pop("values", None)
                self._decisions.append(_text(line))

    def _append(self, line: Mapping[str, Any]) -> None:
        os.write(self._handle, (_text(line) + "\n").encode())

    def _differs(self, what: str) -> TrainingError:
        return TrainingError(
            f"this training does not repeat what its journal {self._path.name!r} has: "
            f"{what}. Endpoints, losses and data must be those of the first time; the "
            "engine needs the same journal. Or begin anew with another path."
        )


def _key(candidate: Candidate, split: Split, place: int) -> str:
    return f"{candidate.digest}:{split}:{place}"


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, sort_keys=True)


def _plain(head: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_text(head))
    return found
