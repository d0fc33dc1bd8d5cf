"""`Scalars`: the numbers of a training, for what draws them (TensorBoard, MLflow).

An observer of a `Trainer` as any other. The steps are rollouts, the scores from 0 to 1:

================  ===================================================================
score/train       of each evaluation on training examples
score/val         of each candidate on the held-out examples that it has seen
score/best        of the best candidate, where it is decided (held-out, if there are)
decision/gain     of each accepted candidate over its parents
decision/accepted how many there were until then; decision/rejected likewise
epoch             how many times the training examples were gone through
================  ===================================================================

Only numbers are written: no prompt, no answer. A training that is resumed says the
same again.
"""

import math
from typing import Any

from inf_engine.optimization.search import Candidate
from inf_engine.optimization.trajectory import (
    CandidateAccepted,
    CandidateRejected,
    Evaluated,
    StepStarted,
    TrainingEvent,
    TrainingFinished,
    TrainingStarted,
)


class Scalars:
    """Finds the numbers in the events of a training; a subclass writes them."""

    def __init__(self) -> None:
        self._is_open = False
        self._begin("train")

    def open(self) -> None:
        """Get ready for the numbers of a training."""

    def write(self, tag: str, value: float, step: int) -> None:
        """Take a number.

        Args:
            tag: The curve that it belongs to.
            value: The number.
            step: How many rollouts there have been.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Make sure that what was taken is not lost; called after each event."""

    def close(self) -> None:
        """Finish; a training that has ended did so already."""
        self._is_open = False

    def __call__(self, event: TrainingEvent) -> None:
        """Write what an event tells.

        Args:
            event: What happened.
        """
        if isinstance(event, TrainingStarted):
            self.close()
            self.open()
            self._is_open = True
            self._begin("val" if event.val_size else "train")
            self._best = event.start
        if not self._is_open:
            return
        if isinstance(event, StepStarted):
            self._write(event, "epoch", event.epoch)
        elif isinstance(event, Evaluated):
            self._evaluated(event)
        elif isinstance(event, CandidateAccepted | CandidateRejected):
            self._decided(event)
        elif isinstance(event, TrainingFinished):
            self._best = event.best
            self._write_best(event)
        self.flush()
        if isinstance(event, TrainingFinished):
            self.close()

    def _begin(self, gate: str) -> None:
        """Forget the training before."""
        self._gate = gate
        self._best: Candidate | None = None
        self._means: dict[str, float] = {}
        self._counts = {"accepted": 0, "rejected": 0}

    def _evaluated(self, event: Evaluated) -> None:
        scores = [score for score in event.scores.values() if score is not None]
        if event.mean is not None and event.split == self._gate:
            self._means[event.candidate.digest] = event.mean
        if event.split == "train" and scores:
            self._write(event, "score/train", math.fsum(scores) / len(scores))
        elif event.split == "val" and event.mean is not None:
            self._write(event, "score/val", event.mean)
        if event.candidate == self._best:
            self._write_best(event)

    def _decided(self, event: CandidateAccepted | CandidateRejected) -> None:
        name = "accepted" if isinstance(event, CandidateAccepted) else "rejected"
        self._counts[name] += 1
        self._write(event, f"decision/{name}", self._counts[name])
        if isinstance(event, CandidateAccepted):
            self._write(event, "decision/gain", event.verdict.gain.mean)
            if event.is_best:
                self._best = event.candidate
                self._write_best(event)

    def _write_best(self, event: Any) -> None:
        mean = None if self._best is None else self._means.get(self._best.digest)
        if mean is not None:
            self._write(event, "score/best", mean)

    def _write(self, event: Any, tag: str, value: float) -> None:
        """Write a number at the count of rollouts that an event has."""
        self.write(tag, float(value), event.rollouts)
