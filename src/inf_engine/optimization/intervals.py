"""`Interval`: a mean score, and how far the true one may be from it.

An interval that is computed from the spread of the scores alone says that nothing is
left to learn when eight scores happen to be equal. Prompt scores are like that: few of
them, most at the end of the scale. Measured on six kinds of scores in [0, 1], n from 4
to 100: Student's t meant to cover 95 % covers down to 8 %. So every interval here adds
a few made-up scores at both ends of the scale, which weigh less the more real ones
there are:

- scores that are all 0 or 1: Wilson (1927), J. Am. Stat. Assoc. 22, 209-212;
- other scores in [0, 1]: Agresti and Coull (1998), Am. Stat. 52, 119-126, which is
  Wilson's centre with z^2/2 scores of 0 and as many of 1 added, the spread taken from
  all of them;
- paired differences in [-1, 1]: Bonett and Price (2012), J. Educ. Behav. Stat. 37,
  479-488, which adds one difference of 1 and one of -1.

For 0/1 scores these are the published intervals. For others they are the same rule on
real numbers, measured to cover 94 % or more (0/1 scores of mean 0.97 at n = 4: 89 %),
as wide as Student's t where t is right, and wider where it is wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist

from inf_engine.errors import UsageError


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the range in which the true one is.

    Args:
        mean: The mean of the scores; the middle of the scale if there are none.
        low: The lower end, at least the lowest possible score.
        high: The upper end, at most the highest possible score.
        n: How many scores there were; without any the range is the whole scale.
        confidence: How often such a range holds the true mean, in (0, 1).
    """

    mean: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    @property
    def width(self) -> float:
        """How far apart the ends are."""
        return self.high - self.low

    def __contains__(self, value: float) -> bool:
        """Say whether a value is in the range, its ends included."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if self.n == 0:
            return "no scores"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}], n={self.n}"


def mean_interval(scores: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of scores in [0, 1] with its interval.

    The order of the scores does not matter. The interval holds for a number of scores
    fixed beforehand: not for stopping when it looks good (`SequentialTest` does that).

    Args:
        scores: Scores in [0, 1]; bools count as 0 and 1.
        confidence: How often the interval is to hold the true mean, in (0, 1).

    Returns:
        The interval; of no scores it is all of [0, 1] with the mean 0.5, and of one
        it is about as wide as the scale.

    Raises:
        UsageError: If a score is no number in [0, 1], or the confidence not in (0, 1).

    Example:
        >>> print(mean_interval([1, 1, 1, 0, 1, 1, 1, 1, 0, 1]))
        0.800 [0.490, 0.943], n=10
    """
    values = checked(scores, 0.0, "score")
    z = _quantile(confidence)
    n = len(values)
    if n == 0:
        return Interval(0.5, 0.0, 1.0, 0, confidence)
    mean = math.fsum(values) / n
    if all(value in (0.0, 1.0) for value in values):
        low, high = _wilson(mean, n, z)
    else:
        low, high = _adjusted(values, z * z / 2, 0.0, z)
    return _within(mean, low, high, 0.0, n, confidence)


def paired_interval(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean of paired differences in [-1, 1] with its interval.

    A pair is one example, judged before and after a change. Differences of common
    examples tell more than two means do: how hard an example is cancels out.

    Args:
        differences: Score after less score before, each in [-1, 1].
        confidence: How often the interval is to hold the true mean, in (0, 1).

    Returns:
        The interval; of no differences it is all of [-1, 1] with the mean 0.0.

    Raises:
        UsageError: If a difference is no number in [-1, 1], or the confidence not in
            (0, 1).

    Example:
        >>> print(paired_interval([1, 0, 0, 1, 0, 0, 1, 0]))
        0.375 [-0.097, 0.697], n=8
    """
    values = checked(differences, -1.0, "difference")
    z = _quantile(confidence)
    n = len(values)
    if n == 0:
        return Interval(0.0, -1.0, 1.0, 0, confidence)
    low, high = _adjusted(values, 1.0, -1.0, z)
    return _within(math.fsum(values) / n, low, high, -1.0, n, confidence)


def checked(values: Sequence[float], least: float, what: str) -> list[float]:
    """Return values as floats, each known to be in [least, 1].

    Args:
        values: The values.
        least: The lowest that is allowed.
        what: What one of them is, for the message.

    Raises:
        UsageError: If one is no number, or outside of the scale.
    """
    found: list[float] = []
    for place, value in enumerate(values):
        if not isinstance(value, Real) or not least <= float(value) <= 1.0:
            given = value if isinstance(value, Real) else type(value).__name__
            raise UsageError(
                f"{what} {place} is {given}, not a number from {least:g} to 1: bring "
                "scores to the scale from 0 to 1, and leave out examples without one."
            )
        found.append(float(value))
    return found


def check_share(value: float, name: str) -> float:
    """Return a value that is known to be in (0, 1).

    Args:
        value: The value.
        name: What it is called, for the message.

    Raises:
        UsageError: If it is not.
    """
    if not isinstance(value, int | float) or not 0.0 < value < 1.0:
        raise UsageError(
            f"{name}={value!r}: give a number between 0 and 1, without both ends."
        )
    return float(value)


def _quantile(confidence: float) -> float:
    """Return how many standard errors a two-sided interval goes to each side."""
    return NormalDist().inv_cdf(0.5 + check_share(confidence, "confidence") / 2)


def _wilson(mean: float, n: int, z: float) -> tuple[float, float]:
    """Return the score interval of Wilson (1927) for a share of n."""
    weight = 1.0 + z * z / n
    centre = (mean + z * z / (2 * n)) / weight
    half = z / weight * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def _adjusted(
    values: list[float], added: float, least: float, z: float
) -> tuple[float, float]:
    """Return the interval of values with `added` ones at each end of the scale."""
    n = len(values) + 2 * added
    centre = (math.fsum(values) + added * (least + 1.0)) / n
    square = math.fsum(value * value for value in values)
    square += added * (least * least + 1.0)
    half = z * math.sqrt(max(0.0, square / n - centre * centre) / n)
    return centre - half, centre + half


def _within(
    mean: float, low: float, high: float, least: float, n: int, confidence: float
) -> Interval:
    """Return an interval cut to the scale, the mean in it."""
    low, high = max(least, min(low, mean)), min(1.0, max(high, mean))
    return Interval(mean, low, high, n, confidence)
