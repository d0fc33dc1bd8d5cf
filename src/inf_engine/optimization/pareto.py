"""`Pool`: the candidates of an evolution, and which of them are best on what.

Candidates are compared example by example, not by their means alone: one that is the
only one to be right on some example has learned something that the others have not, and
is kept as a parent (Agrawal et al. 2025, "GEPA", arXiv:2507.19457). Scores may be of
different examples for each candidate, since a race ends where it is decided.

`merge` crosses two candidates. For each parameter it takes the value from the one that
changed it since their common ancestor. What both changed is put together as version
control puts files together: the sentences that either of them changed, on the text that
both started from. That needs no model and no guess: where both changed the same words,
the first one's are taken.
"""

import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inf_engine.optimization.edits import Edit, apply_edits, diff_edits
from inf_engine.optimization.search import Candidate

_CLOSE = 1e-9
_SENTENCE = re.compile(r"\s*\S.*?(?:[.!?]+(?=\s)|(?=\n)|\Z)")


@dataclass(slots=True, eq=False)
class Member:
    """A candidate in a pool.

    Args:
        candidate: The values.
        parents: What it was made from, none for the first.
        scores: Its score for each held-out example that it was run on.
    """

    candidate: Candidate
    parents: tuple["Member", ...] = ()
    scores: dict[int, float] = field(default_factory=dict)

    def shrunk(self, prior: float, weight: float) -> float:
        """Return the mean score, drawn towards another one the more, the fewer it has.

        Args:
            prior: The score that is expected without any.
            weight: How many scores that expectation is worth, above 0.
        """
        total = math.fsum(self.scores.values()) + prior * weight
        return total / (len(self.scores) + weight)


class Pool:
    """The candidates that may become parents, in the order in which they came."""

    def __init__(self) -> None:
        self._members: list[Member] = []

    @property
    def members(self) -> tuple[Member, ...]:
        """The candidates, oldest first."""
        return tuple(self._members)

    def add(self, member: Member) -> None:
        """Take in a candidate."""
        self._members.append(member)

    def find(self, candidate: Candidate) -> Member | None:
        """Return the member with these values, None if there is none."""
        return next((m for m in self._members if m.candidate == candidate), None)

    def front(
        self, strengths: Mapping[Member, float] | None = None
    ) -> dict[int, list[Member]]:
        """Return who is best on each example, candidates that add nothing left out.

        A candidate adds nothing if, wherever it is best, another one is best too that
        is best on more examples (or came later, if on as many). Later ones win ties:
        they were made from the earlier ones to be better.

        Args:
            strengths: How good each is thought to be. One that was not run on an
                example is taken to be best there, too, if it is thought to be at least
                as good as those that are; without strengths it is not.
        """
        best = _best(self._members)
        for place, holders in best.items():
            if not strengths:
                break
            top = max(strengths[member] for member in holders)
            unrun = [m for m in self._members if place not in m.scores]
            holders += [member for member in unrun if strengths[member] >= top]
        shares: dict[int, set[int]] = {id(m): set() for m in self._members}
        for place, members in best.items():
            for member in members:
                shares[id(member)].add(place)
        kept = [
            member
            for number, member in enumerate(self._members)
            if shares[id(member)] and not self._is_covered(number, shares)
        ]
        alive = {id(member) for member in kept}
        return {
            place: [member for member in members if id(member) in alive]
            for place, members in best.items()
        }

    def weights(
        self, strengths: Mapping[Member, float] | None = None
    ) -> dict[Member, float]:
        """Return the members of the front, each with its part of the examples.

        An example on which several are best counts in parts.

        Args:
            strengths: As for `front`.
        """
        parts: dict[Member, float] = {}
        for members in self.front(strengths).values():
            for member in members:
                parts[member] = parts.get(member, 0.0) + 1.0 / len(members)
        return {m: parts[m] for m in self._members if m in parts}

    def draw(
        self,
        rng: random.Random,
        sharpness: float = 1.0,
        strengths: Mapping[Member, float] | None = None,
    ) -> Member:
        """Return a parent from the front, drawn by how many examples it is best on.

        Args:
            rng: The source of chance; asked once.
            sharpness: To which power the weights are taken: the higher, the more
                often the one is drawn that is best on most examples.
            strengths: As for `front`.

        Raises:
            IndexError: If the pool is empty.
        """
        weights = self.weights(strengths) or dict.fromkeys(self._members[-1:], 1.0)
        shares = [weight**sharpness for weight in weights.values()]
        return rng.choices(list(weights), shares)[0]

    def __len__(self) -> int:
        return len(self._members)

    def _is_covered(self, number: int, shares: Mapping[int, set[int]]) -> bool:
        """Say whether another one is best wherever this one is, and on more."""
        own = shares[id(self._members[number])]
        for other, member in enumerate(self._members):
            theirs = shares[id(member)]
            if own <= theirs and (len(theirs), other) > (len(own), number):
                return True
        return False


def ancestors(member: Member) -> list[Member]:
    """Return a member and all it comes from, each once, the nearest first."""
    found, todo = [member], [member]
    while todo:
        for parent in todo.pop(0).parents:
            if parent not in found:
                found.append(parent)
                todo.append(parent)
    return found


def common_ancestor(one: Member, two: Member) -> Member | None:
    """Return the nearest candidate that both come from, None if there is none.

    A member counts among its own ancestors.
    """
    theirs = ancestors(two)
    return next((member for member in ancestors(one) if member in theirs), None)


def merge(
    base: Mapping[str, Any], sides: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the values that have what each side changed since `base`.

    Args:
        base: The values that all started from, by name.
        sides: The values of each, by the same names; where two changed the same words,
            the first one's are taken.
    """
    changed = [
        {name: side[name] for name in base if side[name] != base[name]}
        for side in sides
    ]
    return {
        name: _merged(before, [own[name] for own in changed if name in own])
        for name, before in base.items()
    }


def merge_texts(base: str, texts: Sequence[str]) -> str:
    """Return a text with the sentences that each of several texts changed.

    Args:
        base: The text that all started from.
        texts: What became of it. Where two changed the same words, the first one's
            are taken; what two of them add in the same words is added once.

    Example:
        >>> merge_texts("Be brief.", ["Be brief. Be kind.", "Be brief. Use lists."])
        'Be brief. Be kind. Use lists.'
    """
    edits: list[Edit] = []
    added: set[str] = set()
    for text in texts:
        for edit in diff_edits(base, text):
            new = _without(edit, added)
            if new is not None:
                edits.append(new)
        added.update(_words(piece) for piece in _SENTENCE.findall(text))
    merged = apply_edits(base, edits, len(edits)).text
    return merged if merged.strip() else texts[0]


def _best(members: Iterable[Member]) -> dict[int, list[Member]]:
    """Return who has the highest score on each example, by the example's place."""
    best: dict[int, tuple[float, list[Member]]] = {}
    for member in members:
        for place, score in member.scores.items():
            top, holders = best.get(place, (-math.inf, []))
            if score > top + _CLOSE:
                best[place] = score, [member]
            elif score >= top - _CLOSE:
                holders.append(member)
    return {place: best[place][1] for place in sorted(best)}


def _merged(base: Any, values: Sequence[Any]) -> Any:
    """Return one value of what several made of one; of what is no text, the first."""
    if not values:
        return base
    if len(values) == 1 or not all(isinstance(v, str) for v in [base, *values]):
        return values[0]
    return merge_texts(base, values)


def _without(edit: Edit, added: set[str]) -> Edit | None:
    """Return an addition without the sentences that others add too, None if it is
    nothing then. An edit that replaces something is left as it is.
    """
    if edit.find:
        return edit
    pieces = _SENTENCE.findall(edit.replace)
    new = [piece for piece in pieces if _words(piece) not in added]
    if not any(piece.strip() for piece in new):
        return None
    return edit if len(new) == len(pieces) else Edit("", "".join(new))


def _words(piece: str) -> str:
    """Return a sentence as it is compared: its words."""
    return " ".join(piece.split())
