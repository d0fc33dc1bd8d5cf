"""Intervals: how far a measured change may be from the true one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev


@dataclass(frozen=True, slots=True)
class Change:
    """A figure before and after, and between what its change lies.

    Args:
        before: The figure of the version before.
        after: The figure of the candidate.
        low: The lower end of the interval of after - before.
        high: Its upper end.
        count: How many measurements each side has.
    """

    before: float
    after: float
    low: float
    high: float
    count: int

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before


def share_change(before: int, after: int, count: int, confidence: float) -> Change:
    """Return the change of a share, with Newcombe's interval (1998, method 10).

    Args:
        before: How many of them before.
        after: How many after.
        count: Of how many, both times.
        confidence: Of the interval, 0 to 1.
    """
    if not count:
        return Change(0.0, 0.0, 0.0, 0.0, 0)
    p, q = before / count, after / count
    p_low, p_high = wilson(before, count, confidence)
    q_low, q_high = wilson(after, count, confidence)
    low = q - p - math.hypot(q - q_low, p_high - p)
    high = q - p + math.hypot(q_high - q, p - p_low)
    return Change(p, q, low, high, count)


def mean_change(
    before: Sequence[float], after: Sequence[float], confidence: float
) -> Change:
    """Return the change of a mean over the same things, with Student's interval.

    Args:
        before: A figure of each thing.
        after: The same, in the same order.
        confidence: Of the interval, 0 to 1.
    """
    gains = [b - a for a, b in zip(before, after, strict=True)]
    if not gains:
        return Change(0.0, 0.0, 0.0, 0.0, 0)
    middle, half = fmean(gains), math.inf
    if len(gains) > 1:
        spread = stdev(gains) / math.sqrt(len(gains))
        half = student(len(gains) - 1, confidence) * spread
    return Change(fmean(before), fmean(after), middle - half, middle + half, len(gains))


def evidence(before: Sequence[float], after: Sequence[float], least: int) -> float:
    """Return how strongly figures speak for it that their mean fell.

    Whoever bets, at each pair of figures, a share of what he has on the one before
    being larger, gains nothing on average unless the mean fell: so that he ever has c
    times what he began with has a chance of 1/c at most (Ville's inequality). It may be
    looked at after every pair, and nothing is assumed of the figures, neither their
    variances nor their kind, but their range, and that a pair cannot be guessed from
    those before it: figures that come in runs of three alike find a fall where there is
    none in 17 of 100 cases, not in 1. Nine shares are bet side by side. Testing by
    betting on bounded means: Waudby-Smith and Ramdas, arXiv:2010.09686.

    Args:
        before: Figures of the version before, 0 to 1, each with a place of its own.
        after: Those of the version after; only as many pairs as both have count.
        least: From how many pairs on it counts.

    Returns:
        The most that the bettor ever had, of 1.
    """
    found, wealth = 0.0, [0.0] * 9  # logarithms
    for number, (old, new) in enumerate(zip(before, after, strict=False), 1):
        for at in range(9):
            wealth[at] += math.log1p((at + 1) / 10 * (old - new))
        if number >= least:
            most = max(wealth)
            mean = fmean(math.exp(some - most) for some in wealth)
            found = max(found, math.exp(min(most, 700.0)) * mean)
    return found


def wilson(hits: int, count: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval of a share.

    Args:
        hits: How many.
        count: Of how many, at least 1.
        confidence: Of the interval, 0 to 1.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = hits / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    half /= 1 + weight
    return max(middle - half, 0.0), min(middle + half, 1.0)


def student(freedom: int, confidence: float) -> float:
    """Return how many standard errors an interval of a mean is wide, to each side.

    By Cornish and Fisher's series: off by 15 % at one degree of freedom, by under 1 %
    from four on.

    Args:
        freedom: One less than the measurements.
        confidence: Of the interval, 0 to 1.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
