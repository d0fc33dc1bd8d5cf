"""`Objective`: what is better, when runs have a cost as well as a score."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from inf_engine.optimization.acceptance import Gate, Verdict
from inf_engine.record import RunRecord


@dataclass(frozen=True, slots=True)
class Objective:
    """What one run is worth: its score, less what its cost takes off.

    Args:
        score: The score, in [0, 1].
        cost: The cost, 0 or more, in any unit.
        weight: How much score a unit of cost is worth, 0 or more.
    """

    score: float
    cost: float = 0.0
    weight: float = 0.0

    @property
    def penalty(self) -> float:
        """How much score the cost takes off."""
        return self.weight * self.cost

    @property
    def value(self) -> float:
        """The score less the penalty."""
        return self.score - self.penalty


def score_alone(score: float, record: RunRecord) -> Objective:
    """Return what a run is worth where its cost does not count.

    Args:
        score: Its score.
        record: What happened; not looked at.
    """
    return Objective(score)


def means(objectives: Iterable[Objective]) -> tuple[float, float]:
    """Return the mean score and the mean cost; 0 of none.

    Args:
        objectives: Those of some runs.
    """
    each = list(objectives)
    score, cost = math.fsum(o.score for o in each), math.fsum(o.cost for o in each)
    return score / max(1, len(each)), cost / max(1, len(each))


def judge(
    gate: Gate, before: Mapping[int, Objective], after: Mapping[int, Objective]
) -> Verdict:
    """Judge by objectives; without any penalty as the gate judges scores.

    Gates take numbers in [0, 1], so both sides are moved and shrunk alike; the gain is
    told in units of the objective.

    Args:
        gate: The gate.
        before: The objectives without the change, by example.
        after: Those with it. The examples that both have count.

    Example:
        >>> dear, cheap = Objective(1.0, 30.0, 0.01), Objective(1.0, 10.0, 0.01)
        >>> judge(Gate("improves"), {0: dear}, {0: cheap}).accepted
        True
    """
    common = [place for place in before if place in after]
    sides = [[side[place] for place in common] for side in (before, after)]
    worst = max([o.penalty for side in sides for o in side], default=0.0)
    shrunk = [
        {k: (o.value + worst) / (1 + worst) for k, o in zip(common, side, strict=True)}
        for side in sides
    ]
    verdict = gate.judge(*shrunk)
    return verdict if not worst else _in_objective(verdict, *sides, 1 + worst)


def _in_objective(
    verdict: Verdict, before: list[Objective], after: list[Objective], scale: float
) -> Verdict:
    """Return a verdict on shrunk objectives in units of the objective."""
    old, new, gain = means(before), means(after), verdict.gain
    gain = replace(
        gain, mean=gain.mean * scale, low=gain.low * scale, high=gain.high * scale
    )
    word = "accepted" if verdict.accepted else "refused"
    reason = (
        f"{word}: the objective changed by {gain.mean:+.2g}; the score from "
        f"{old[0]:.3g} to {new[0]:.3g}, the cost from {old[1]:.3g} to {new[1]:.3g} per "
        f"example, on {verdict.n} examples"
    )
    return replace(verdict, gain=gain, reason=reason)
