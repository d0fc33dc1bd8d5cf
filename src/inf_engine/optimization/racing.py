"""`Race` and `estimate`: who is ahead, from scores of different examples.

A race runs a candidate against the best one on a growing number of held-out examples
and ends when it is lost (`SequentialTest`), so that bad candidates cost little. The
price is that candidates have scores of different examples, and of few, and a plain
mean then crowns the luckiest. `estimate` takes the scores for what they are:

    score of candidate c on example x = strength of c + ease of x + noise

with strengths that change little from parent to child, and eases around 0. The most
probable strengths under normal noise are a ridge regression; it is solved by setting
one unknown after the other to its best value (Gauss and Seidel), which converges, since
the problem is convex. So an example that is wrong for everybody (a bad label) weighs
nothing, a candidate with few scores stays close to its parent, and one that was lucky
on eight examples does not beat one that was good on sixty.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from inf_engine.optimization.acceptance import SequentialTest, Standing

_NOISE = 0.35  # standard deviation of a score about strength and ease
_EASE = 0.4  # of the eases
_STRIDE = 0.15  # of the change from parent to child
_START = 1.0  # of the first candidate's strength about 0.5
_ROUNDS = 60


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one candidate.

    Args:
        scores: Its scores in [0, 1] by example.
        parents: The places, in the same list, of what it was made from.
    """

    scores: Mapping[Hashable, float]
    parents: Sequence[int] = ()


def estimate(entries: Sequence[Entry]) -> list[float]:
    """Return how strong each candidate is, most probably: its mean score on average
    examples (see above).

    Args:
        entries: The candidates, parents before children.

    Example:
        >>> lucky, good = Entry({1: 1.0, 2: 1.0}), Entry({n: 0.9 for n in range(40)})
        >>> weak = Entry({n: 0.4 for n in range(40)})
        >>> weak, lucky, good = estimate([weak, Entry(lucky.scores, [0]), good])
        >>> weak < lucky < good
        True
    """
    strengths = [0.5] * len(entries)
    children = _children(entries)
    held: dict[Hashable, list[tuple[int, float]]] = {}
    for place, entry in enumerate(entries):
        for example, score in entry.scores.items():
            held.setdefault(example, []).append((place, score))
    eases = dict.fromkeys(held, 0.0)
    for _ in range(_ROUNDS):
        for example, scores in held.items():
            rest = sum(score - strengths[place] for place, score in scores)
            eases[example] = rest / (len(scores) + (_NOISE / _EASE) ** 2)
        for place, entry in enumerate(entries):
            near = [(strengths[k], _STRIDE) for k in children[place]]
            if entry.parents:
                mean = sum(strengths[k] for k in entry.parents) / len(entry.parents)
                near.append((mean, _STRIDE))
            else:
                near.append((0.5, _START))
            rest = sum(score - eases[x] for x, score in entry.scores.items())
            pull = sum(value / width**2 for value, width in near)
            weight = sum(1 / width**2 for _, width in near)
            noise = 1 / _NOISE**2
            total = rest * noise + pull
            strengths[place] = total / (len(entry.scores) * noise + weight)
    return strengths


class Race:
    """One candidate against the best one, example by example.

    Args:
        alpha: How often a candidate that is no worse may be sent away, at most.
    """

    def __init__(self, alpha: float = 0.25) -> None:
        self._test = SequentialTest(0.05, alpha_worse=alpha)
        self._seen: set[int] = set()

    @property
    def n(self) -> int:
        """How many examples both were run on."""
        return self._test.n

    def observe(
        self, best: Mapping[int, float], rival: Mapping[int, float]
    ) -> Standing:
        """Take note of the examples that both have now, and say how it stands.

        Args:
            best: The scores of the best one, by example.
            rival: Those of the candidate; new ones are taken in their order.
        """
        for place, score in rival.items():
            if place in best and place not in self._seen:
                self._seen.add(place)
                self._test.observe(score - best[place])
        return self._test.verdict


def _children(entries: Sequence[Entry]) -> list[list[int]]:
    """Return the places of each candidate's children."""
    found: list[list[int]] = [[] for _ in entries]
    for place, entry in enumerate(entries):
        for parent in entry.parents:
            found[parent].append(place)
    return found
