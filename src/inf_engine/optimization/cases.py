"""`Case`: a parent, and the examples that its next proposals learn from.

Evidence is paid for in rollouts, so none is paid for twice: a candidate's own minibatch
is evidence for its children, and a new minibatch is added to the old mistakes instead
of replacing them. Minibatches grow while nothing goes wrong in them.

An example that was shown several times and is still wrong is shown no more: what can be
learned from it was learned, or its label is wrong. Near the end many of those that are
left are of that kind, and would teach nothing but their own mistakes. What they teach
before that is tested on the examples that it is about, where others speak against it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inf_engine.optimization.edits import changed
from inf_engine.optimization.notes import Note
from inf_engine.optimization.pareto import Member
from inf_engine.optimization.racing import Scorebook
from inf_engine.optimization.search import Change, Search

_TOP = 1.0 - 1e-9  # the scores of a search are in [0, 1]
_LEAST = 2  # failing examples that a child is tested on
_ENOUGH = 3  # failing examples that are worth a proposal
_MOST_BATCHES = 3  # minibatches in a round while fewer went wrong
_MOST_SHOWN = 2  # proposals that an example is evidence for

PASSING = 4
"""How many examples that went right are shown."""


@dataclass(frozen=True, slots=True)
class Case:
    """A parent, and the examples that a round looks at.

    Args:
        parent: The parent.
        wrong: The places of training examples that it fails on, to be shown.
        right: Those it does not, the last ones first; the first few are shown.
        usual: How many of a minibatch it usually fails on.
        turn: How often the parent had its turn before.
    """

    parent: Member
    wrong: Sequence[int]
    right: Sequence[int]
    usual: int
    turn: int = 0


class Cases:
    """Finds the cases of an evolution.

    Args:
        search: Gives the minibatches.
        book: Runs them, and knows the scores.
        minibatch: How many examples are run at a time.
    """

    def __init__(self, search: Search, book: Scorebook, minibatch: int) -> None:
        self._search = search
        self._book = book
        self._size = minibatch
        self._shown: dict[int, int] = {}
        self._turns: dict[Member, int] = {}
        self._queue: list[int] = []

    async def of(self, parent: Member) -> Case | None:
        """Run a parent on new examples until some are wrong that can be shown.

        Args:
            parent: The parent; it has had a turn then.

        Returns:
            Its case, None if there is nothing to learn from.

        Raises:
            BudgetExceededError: If the budget does not allow it.
        """
        for _ in range(_MOST_BATCHES):
            if len(self._wrong(parent)) >= _ENOUGH:
                break
            new = self._next(parent)
            if not new:
                break
            await self._book.run(parent.candidate, new)
        wrong = sorted(self._wrong(parent), key=lambda p: self._shown.get(p, 0))
        wrong = wrong[: self._size]
        if not wrong:
            return None
        for place in wrong:
            self._shown[place] = self._shown.get(place, 0) + 1
        known = self._known(parent)
        right = [place for place in reversed(known) if known[place] >= _TOP]
        usual = round(self._size * (1.0 - sum(known.values()) / len(known)))
        turn = self._turns.get(parent, 0)
        self._turns[parent] = turn + 1
        return Case(parent, wrong, right, usual, turn)

    async def mixed(
        self, member: Member, *, fresh: bool
    ) -> tuple[list[int], list[int], list[int]]:
        """Return a minibatch for what is about no example in particular.

        Args:
            member: The candidate.
            fresh: Whether to run it on new examples first; one that was never run is.

        Returns:
            Examples that it fails on, as many at most that it does not, the last ones
            of each, and others that it does not.

        Raises:
            BudgetExceededError: If the budget does not allow it.
        """
        if fresh or not self._known(member):
            await self._book.run(member.candidate, self._next(member))
        known = self._known(member)
        wrong = [place for place, score in known.items() if score < _TOP]
        right = [place for place, score in known.items() if score >= _TOP]
        half = max(1, self._size // 2)
        return wrong[-half:], right[-half:], right[:-half]

    def places(self, case: Case, changes: Sequence[Change]) -> list[int]:
        """Return the examples to test changes on: those that they may be about.

        As many of them as is usual for the parent are ones that it fails on.

        Args:
            case: The case.
            changes: What a child changes.
        """
        told = [s for change in changes for s in changed(change.before, change.after)]
        told = list(dict.fromkeys(told))
        chosen = self._book.relevance.chosen
        failing = chosen(told, case.wrong, max(_LEAST, case.usual))
        most = max(0, self._size - len(failing))
        return [*failing, *chosen(told, case.right, most)]

    async def notes(self, case: Case, names: Sequence[str]) -> dict[str, list[Note]]:
        """Return the notes that a case leaves on each parameter.

        Args:
            case: The case.
            names: The parameters.

        Raises:
            CriticError: If the critic failed.
        """
        places, candidate = [*case.wrong, *case.right[:PASSING]], case.parent.candidate
        rollouts = await self._search.rollouts(candidate, places, record=True)
        notes = await self._search.notes(candidate, rollouts)
        return {name: list(notes.get(name, ())) for name in names}

    def _known(self, parent: Member) -> dict[int, float]:
        """Return the scores of a parent on training examples."""
        return self._book.train.get(parent.candidate, {})

    def _wrong(self, parent: Member) -> list[int]:
        """Return the examples that a parent fails on and that were not shown often."""
        return [
            place
            for place, score in self._known(parent).items()
            if score < _TOP and self._shown.get(place, 0) < _MOST_SHOWN
        ]

    def _next(self, parent: Member) -> list[int]:
        """Return a minibatch of examples that a parent was not run on."""
        known = self._known(parent)
        if len(known) >= self._search.train_size:
            return []  # a batch that brings nothing new counts against the search
        found: list[int] = []
        looked = 0
        while len(found) < self._size and looked < self._search.train_size:
            self._queue = self._queue or list(self._search.batch())
            place = self._queue.pop(0)
            looked += 1
            if place not in known and place not in found:
                found.append(place)
        return found


def is_shared(notes: Mapping[str, Sequence[Note]]) -> bool:
    """Say whether one example has left notes on several parameters.

    Args:
        notes: The notes by the parameter's dotted name.
    """
    seen: dict[int, str] = {}
    for name, about in notes.items():
        for note in about:
            for call in note.evidence:
                if seen.setdefault(call.example, name) != name:
                    return True
    return False
