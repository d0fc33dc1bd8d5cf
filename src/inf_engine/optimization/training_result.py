"""`TrainingResult`: what a training gave; `Projection`: what it may take."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from inf_engine.errors import UsageError
from inf_engine.optimization.acceptance import Verdict
from inf_engine.optimization.intervals import Interval
from inf_engine.optimization.lineage import Lineage
from inf_engine.optimization.purse import Spent
from inf_engine.optimization.search import Candidate
from inf_engine.optimization.training_report import training_report_html
from inf_engine.optimization.trajectory import History
from inf_engine.pages.private import write_private


@dataclass(frozen=True, slots=True)
class Projection:
    """What a training may take, as far as can be told before it starts.

    Args:
        per_rollout: Model calls that one run makes at least, from the graph; None if
            forward cannot be traced without running.
        check: Rollouts that it takes to compare start and best in the end, at most;
            those that the optimizer made itself are not made again.
        rollouts: The most rollouts that the budget allows, None for any number.
        requests: The most requests, likewise; those of critic, rewriter and judge are
            in it only where the budget limits them.
    """

    per_rollout: int | None
    check: int
    rollouts: int | None
    requests: int | None

    def __str__(self) -> str:
        each = "an unknown number of" if self.per_rollout is None else self.per_rollout
        most = "any number of" if self.rollouts is None else f"up to {self.rollouts:,}"
        asked = "" if self.requests is None else f", up to {self.requests:,} requests"
        return (
            f"{most} rollouts of {each} model calls or more each{asked}; "
            f"{self.check:,} of the rollouts may be for the final check"
        )


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training gave.

    Args:
        best: The values that the module has now.
        start: Those that it had.
        score: The best one's mean score with its interval, on the loss's scale; from
            the held-out data, or from the training data without any.
        baseline: The start's.
        gain: How the two compare on common examples, scores from 0 to 1.
        stopped: Why it ended.
        rollouts: How many were made.
        spent: What all model calls took, those of critic, rewriter and judge too.
        history: What happened.
        lineage: Where each sentence of the best values came from.
    """

    best: Candidate
    start: Candidate
    score: Interval
    baseline: Interval
    gain: Verdict
    stopped: str
    rollouts: int
    spent: Spent
    history: History = field(repr=False)
    lineage: Lineage = field(repr=False)

    @property
    def improved(self) -> bool:
        """Whether the best is not the start."""
        return self.best != self.start

    def __str__(self) -> str:
        spent = self.spent
        made = len(self.history.decisions)
        return (
            f"score {self.score} (before: {self.baseline})\n"
            f"{self.rollouts:,} rollouts, {spent.requests:,} requests, "
            f"{spent.tokens:,} tokens; {made} candidates; stopped: {self.stopped}"
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``best.json``, ``lineage.json`` and ``report.html`` into a folder.

        Args:
            folder: The folder; it is made if it is not there. The files are readable
                by their owner only, because prompts are in them.

        Raises:
            UsageError: If they cannot be written.
        """
        target = Path(folder)
        values = json.dumps(dict(self.best.values), indent=1, ensure_ascii=False)
        files = {
            "best.json": values + "\n",
            "lineage.json": self.lineage.to_json(),
            "report.html": training_report_html(self),
        }
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                write_private(target / name, text.encode(errors="replace"))
        except OSError as exc:
            raise UsageError(
                f"cannot write the training's files to {target}: {exc.strerror}. Give "
                "a folder that can be written to."
            ) from exc
        return target
