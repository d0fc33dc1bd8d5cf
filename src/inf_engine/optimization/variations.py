"""`Variations`: other values for the parameters that words are not about.

Which demonstrations to show, and which of a few values to choose, no rewriter can read
off what was said of an output: it is found out by trying. So every optimizer tries such
values as it tries new texts, as changes of one candidate, which its gate judges by the
same examples. This file says what to try next, and nothing of how it is judged:

- of a `ChoiceParameter` each other value; one that failed twice is tried no more;
- of all `DemoParameter`s subsets of the good runs that were seen, the same runs for
  each, so that they fit together; after eight that failed in a row no more.

Ties are no reason for another value, so a variation has to gain. A run that is shown is
no evidence: it is drawn from other examples than those at hand where there are enough,
else its example is left out of the test. Held-out examples are never shown.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inf_engine.demos import Demo, DemoParameter
from inf_engine.errors import UsageError
from inf_engine.optimization.acceptance import Verdict
from inf_engine.optimization.search import Candidate, Change, Rollout, Search
from inf_engine.optimization.shown import Lesson, lesson_of, shown_by
from inf_engine.parameter import Parameter

MAX_DEMOS = 4
"""How many demonstrations a parameter may get."""

_TOP = 1.0 - 1e-9  # the scores of a search are in [0, 1]
_DRAWS = 16  # tries to draw a subset that was not tried yet
_MISSES = 2  # failures of a value, after which it is tried no more
_FAILURES = 8  # subsets in a row that failed
_POOL = 3 * MAX_DEMOS  # good runs that are enough to draw from


@dataclass(frozen=True, slots=True)
class Variation:
    """Another value of one choice, or of all demonstrations.

    Args:
        changes: What it changes.
        sources: The digests of the inputs of the runs that it shows.
    """

    changes: tuple[Change, ...]
    sources: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """The new values by dotted name."""
        return {change.parameter: change.after for change in self.changes}


class Variations:
    """Says which other values to try next.

    Args:
        parameters: The parameters that may be changed, by dotted name; texts and
            weights are passed over.
        rng: Seeded; asked only where there are demonstrations.
        sources: The digests of the inputs of the examples that variations are tested
            on, by place; none where there are no demonstrations.
        barred: Those of examples that must not be shown at all.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        rng: random.Random,
        sources: Sequence[str] = (),
        barred: Iterable[str] = (),
    ) -> None:
        each = parameters.items()
        self._choices = {n: p.choices for n, p in each if p.choices is not None}
        self._demos = [n for n, p in each if isinstance(p, DemoParameter)]
        self._rng = rng
        self._sources = sources
        self._barred = set(barred)  # only looked up in
        self._lessons: dict[str, Lesson] = {}
        self._tried: set[str] = set()
        self._misses: dict[tuple[str, int], int] = {}
        self._failures = self._turn = 0

    def __bool__(self) -> bool:
        """Whether there is anything that may be varied."""
        return bool(self._choices or self._demos)

    @property
    def is_learning(self) -> bool:
        """Whether more good runs are wanted, as demonstrations."""
        return bool(self._demos) and len(self._lessons) < _POOL

    def learn(self, candidate: Candidate, rollouts: Iterable[Rollout]) -> None:
        """Take good runs as demonstrations.

        Args:
            candidate: What was run; runs of what it shows are no evidence.
            rollouts: The runs; those without a record are passed over.
        """
        values = [candidate.values[name] for name in self._demos]
        shown = {Demo.of(demo).source for demos in values for demo in demos}
        for rollout in rollouts if self._demos else ():
            record = rollout.record
            is_good = rollout.score is not None and rollout.score >= _TOP
            if record is None or not is_good or len(self._lessons) >= _POOL:
                continue
            lesson = lesson_of(record, self._demos, candidate.values)
            if lesson is not None and lesson.source not in {*shown, *self._barred}:
                self._lessons.setdefault(lesson.source, lesson)

    def next(self, here: Candidate, places: Iterable[int] = ()) -> Variation | None:
        """Return what to try next from a candidate; choices and demonstrations in turn.

        Args:
            here: The candidate.
            places: The examples at hand; where there are enough others, it shows those.
        """
        tested = {self._sources[place] for place in places} if self._sources else set()
        ways = [lambda: self._choice(here), lambda: self._subset(here, tested)]
        for turn in (self._turn, self._turn + 1):
            found = ways[turn % 2]()
            if found is not None:
                self._turn = turn + 1
                self._tried.add(here.with_values(found.values).digest)
                return found
        return None

    def tests(self, variation: Variation, places: Iterable[int]) -> list[int]:
        """Return the examples to test a variation on: those that it does not show.

        Args:
            variation: The variation.
            places: The examples at hand.
        """
        shown = variation.sources
        return [p for p in places if not shown or self._sources[p] not in shown]

    def told(self, variation: Variation, kept: bool) -> None:
        """Take note whether a variation was kept."""
        if variation.sources:
            self._failures = 0 if kept else self._failures + 1
            return
        (change,) = variation.changes
        key = change.parameter, self._place(change)
        self._misses[key] = 0 if kept else self._misses.get(key, 0) + 1

    def _choice(self, here: Candidate) -> Variation | None:
        """Return another value of a choice, of those that failed least the first."""
        open_: list[tuple[int, Change]] = []
        for name, values in self._choices.items():
            for value in values:
                change = Change(name, here.values[name], value, "another choice")
                misses = self._misses.get((name, self._place(change)), 0)
                tried = here.with_values({name: value}).digest in self._tried
                if not (tried or misses >= _MISSES or _is_same(change)):
                    open_.append((misses, change))
        best = min(open_, key=lambda pair: pair[0], default=None)
        return None if best is None else Variation((best[1],))

    def _place(self, change: Change) -> int:
        """Return which of its values a choice is changed to."""
        values = self._choices[change.parameter]
        return next(k for k, value in enumerate(values) if value is change.after)

    def _subset(self, here: Candidate, tested: set[str]) -> Variation | None:
        """Return good runs to show that were not tried together; the most first."""
        pool = [one for source, one in self._lessons.items() if source not in tested]
        if len(pool) < MAX_DEMOS:
            pool = list(self._lessons.values())
        if self._failures >= _FAILURES:
            return None
        most = min(MAX_DEMOS, len(pool))
        for draw in range(_DRAWS if most else 0):
            is_first = draw == 0 and self._failures == 0
            size = most if is_first else self._rng.randint(1, most)
            lessons = self._rng.sample(pool, size)
            found = self._showing(here, lessons)
            if found.changes:
                return found
        return None

    def _showing(self, here: Candidate, lessons: Sequence[Lesson]) -> Variation:
        """Return the variation that shows some runs; nothing if it was tried."""
        values = shown_by(lessons, self._demos, MAX_DEMOS)
        if here.with_values(values).digest in self._tried:
            return Variation(())
        changes = [
            Change(name, here.values[name], value, "runs that scored well")
            for name, value in values.items()
            if value != here.values[name]
        ]
        return Variation(tuple(changes), tuple([one.source for one in lessons]))


def variations_of(
    parameters: Mapping[str, Parameter], search: Search, names: Iterable[str]
) -> Variations:
    """Return what to vary in a search.

    Args:
        parameters: The optimizer's parameters, by dotted name.
        search: What the trainer offers.
        names: Those that the search is about.

    Raises:
        UsageError: If there are demonstrations to look for, and no held-out examples.
    """
    chosen = {name: parameters[name] for name in names}
    demos = [n for n, p in chosen.items() if isinstance(p, DemoParameter)]
    if demos and not search.val_size:
        raise UsageError(
            f"{demos[0]!r} is a DemoParameter, and looking for demonstrations needs "
            "held-out examples: one must not stand in the prompt of the example that "
            "it is from. Give val, such as one half of split(data, 0.5), or freeze it "
            "with requires_grad_(False)."
        )
    if not demos:
        return Variations(chosen, search.rng)
    sources = search.sources("train"), search.sources("val")
    return Variations(chosen, search.rng, *sources)


def gained(verdict: Verdict) -> bool:
    """Say whether a variation may stay: it is accepted, and better.

    Args:
        verdict: What a gate says of it.
    """
    return verdict.accepted and verdict.gain.mean > 0


def _is_same(change: Change) -> bool:
    """Say whether a choice is the value that there is; True is not 1."""
    before, after = change.before, change.after
    return isinstance(before, bool) == isinstance(after, bool) and before == after
