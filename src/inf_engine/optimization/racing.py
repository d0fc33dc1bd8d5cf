"""`Race`, `Scorebook`, `estimate`: who is ahead, from scores of different examples.

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
from inf_engine.optimization.pareto import Member, Pool
from inf_engine.optimization.relevance import Relevance
from inf_engine.optimization.search import Candidate, Rollout, Search

_NOISE = 0.35  # standard deviation of a score about strength and ease
_EASE = 0.4  # of the eases
_STRIDE = 0.15  # of the change from parent to child
_START = 1.0  # of the first candidate's strength about 0.5
_ROUNDS = 60
_STILL = 1e-4  # a change of strengths that ends the rounds

_PREFIX = 8  # held-out examples that are run at a time
_BONUS = 0.3  # how much a candidate may be better than thought, without scores


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
        before = list(strengths)
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
        moved = [abs(a - b) for a, b in zip(strengths, before, strict=True)]
        if max(moved, default=0.0) < _STILL:
            break
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


class Scorebook:
    """The scores of the candidates of a search, and the rollouts they cost.

    Held-out examples are run in one order for all candidates, a few at a time, and as
    many as their share of the rollouts allows.

    Args:
        search: Runs them.
        pool: The candidates that compete.
        val_share: The part of the rollouts that may be held-out ones.

    Attributes:
        train: The scores of each candidate that was run on training examples.
        spent: How many rollouts were asked for, of training and of held-out examples;
            held-out ones of the first candidate are left out.
        relevance: What the training examples that were run say.
    """

    def __init__(self, search: Search, pool: Pool, val_share: float) -> None:
        self.train: dict[Candidate, dict[int, float]] = {}
        self.spent = {"train": 0, "val": 0}
        self.relevance = Relevance()
        self._search = search
        self._pool = pool
        self._share = val_share
        self._asked: dict[Member, int] = {}
        self._order = list(range(search.val_size))
        search.rng.shuffle(self._order)

    async def run(
        self, candidate: Candidate, places: Sequence[int]
    ) -> dict[int, float]:
        """Return the scores of a candidate on training examples, each run once.

        Args:
            candidate: The values.
            places: The examples; those for which the loss fails are left out.

        Raises:
            BudgetExceededError: If the budget does not allow it.
        """
        known = self.train.setdefault(candidate, {})
        new = [place for place in places if place not in known]
        if new:
            found = await self._search.rollouts(candidate, new, record=True)
            self.spent["train"] += len(new)
            known.update((r.place, r.score) for r in found if r.score is not None)
            self._read(found)
        return {place: known[place] for place in places if place in known}

    def _read(self, rollouts: Sequence[Rollout]) -> None:
        """Take note of what examples are about."""
        for rollout in rollouts:
            record, told = rollout.record, rollout.feedback
            given = () if record is None else (*record.args, *record.kwargs.values())
            texts = [*given, told.content]
            texts += [] if told.target is None else [told.target]
            self.relevance.add(rollout.place, texts)

    def may_validate(self) -> bool:
        """Say whether a few more held-out rollouts keep to their share."""
        val = self.spent["val"] + _PREFIX
        total = val + self.spent["train"]
        return self._search.val_size > 0 and val <= self._share * total

    async def validate(self, member: Member) -> None:
        """Run a candidate on a few more held-out examples, if there are any.

        Raises:
            BudgetExceededError: If the budget does not allow it.
        """
        asked = self._asked.get(member, 0)
        new = self._order[asked : asked + _PREFIX]
        if not new:
            return
        found = await self._search.rollouts(member.candidate, new, split="val")
        self._asked[member] = asked + len(new)
        if member.candidate != self._search.start:
            self.spent["val"] += len(new)
        member.scores |= {r.place: r.score for r in found if r.score is not None}

    async def compare(self) -> None:
        """Run those that may be the best on more held-out examples.

        Raises:
            BudgetExceededError: If the budget does not allow it.
        """
        while self.may_validate() and not self._search.is_over():
            open_ = [
                (strength + _BONUS / (len(member.scores) + 1) ** 0.5, member)
                for member, strength in self.ranked()
                if self._asked.get(member, 0) < self._search.val_size
            ]
            if not open_:
                return
            await self.validate(max(open_, key=lambda item: item[0])[1])

    def ranked(self) -> list[tuple[Member, float]]:
        """Return the candidates with their estimated strengths, the best first."""
        members = self._pool.members
        entries = []
        for member in members:
            scores: dict[Hashable, float] = {
                ("val", place): score for place, score in member.scores.items()
            }
            train = self.train.get(member.candidate, {})
            scores |= {("train", place): score for place, score in train.items()}
            parents = [members.index(p) for p in member.parents if p in members]
            entries.append(Entry(scores, parents))
        pairs = list(zip(members, estimate(entries), strict=True))[::-1]
        return sorted(pairs, key=lambda pair: pair[1], reverse=True)


def _children(entries: Sequence[Entry]) -> list[list[int]]:
    """Return the places of each candidate's children."""
    found: list[list[int]] = [[] for _ in entries]
    for place, entry in enumerate(entries):
        for parent in entry.parents:
            found[parent].append(place)
    return found
