"""`BootstrapDemos`: demonstrations out of the module's own good runs.

The module runs on training examples as it is. What its calls were asked and answered in
runs that scored well is a pool of demonstrations, for each node in whose prompt a
`DemoParameter` stands; so nodes in the middle get some, too, for which nobody has
labels. Candidates are subsets of the good runs, drawn by the seed: all parameters take
theirs from the same runs, so that they fit together (Khattab et al. 2023, "DSPy",
arXiv:2310.03714, does so for pipelines).

What a model gets right by itself are the easy examples. With ``labelled=2`` up to two
of the demonstrations of a candidate are training examples that it got wrong, with their
targets as the answers. That takes a target which has the form of the answer (a text, or
the type of a typed one), and a call whose answer is the module's output, the only one
in which the parameter stands. Whether a target is what the model should write is not
known here (it may lack the reasoning before it): there are none unless asked for.

Never the example under test in its own prompt. Candidates are scored on held-out
examples only, and demonstrations come from training examples only; without held-out
examples the search is refused. An example that is in both sets, by what is in it, is
left out of the pool. And where a demonstration of an example stands in the prompt
already, its run is no evidence and gives no new one.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from inf_engine.demos import Demo, DemoParameter
from inf_engine.errors import UsageError
from inf_engine.optimization.acceptance import Gate
from inf_engine.optimization.comparing import ComparingOptimizer
from inf_engine.optimization.groups import check_counts
from inf_engine.optimization.search import (
    Candidate,
    Change,
    Rollout,
    Scores,
    Search,
    names_in,
)
from inf_engine.optimization.shown import (
    Lesson,
    demo_of,
    gives_the_output,
    is_answer,
    lesson_of,
    shown_by,
    source_of,
    stands_in,
)
from inf_engine.optimization.variations import Variations
from inf_engine.parameter import Parameter

_CLOSE = 1e-9
_DRAWS = 16  # tries to draw a subset that was not tried yet


class BootstrapDemos(ComparingOptimizer):
    """Looks for the demonstrations that raise the held-out score.

    Args:
        params: Parameters, or groups of them; texts and weights are left alone. Once
            demonstrations are found, other values of choices are tried as well.
        engine: Not needed: it asks no model of its own.
        max_demos: How many demonstrations a parameter may get, 1 or more.
        labelled: How many of them may be training examples with their targets, 0 to
            `max_demos`.
        candidates: How many subsets are tried, 1 or more.
        threshold: How well a run has to score for its calls to be shown, in [0, 1]: a
            share of the loss's scale.
        pool: How many good runs are enough to draw from, `max_demos` or more; None for
            three times as many as `max_demos`.
        gate: Judges a candidate against the best so far on the held-out examples; None
            for ``Gate("improves")``.

    Raises:
        UsageError: If there is no `DemoParameter`, or an argument is wrong.

    Attributes:
        harvested: How many good runs the last search drew from; 0 says that the module
            gets nothing right by itself, or not as much as `threshold` asks for.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        engine: Any = None,
        max_demos: int = 4,
        labelled: int = 0,
        candidates: int = 8,
        threshold: float = 1.0,
        pool: int | None = None,
        gate: Gate | None = None,
    ) -> None:
        check_counts(least=1, max_demos=max_demos, candidates=candidates)
        pool = 3 * max_demos if pool is None else pool
        check_counts(least=max_demos, pool=pool)
        if not (isinstance(threshold, int | float) and 0 <= threshold <= 1):
            raise UsageError(
                f"threshold={threshold!r}: give the score of a good run as a share of "
                "the loss's scale, in [0, 1]."
            )
        super().__init__(params, engine=engine, gate=gate or Gate("improves"))
        check_counts(least=0, labelled=labelled)
        if labelled > max_demos:
            raise UsageError(
                f"labelled={labelled} is more than max_demos={max_demos}, the most "
                "demonstrations in all: raise max_demos."
            )
        self.max_demos = max_demos
        self.labelled = labelled
        self.candidates = candidates
        self.threshold = float(threshold)
        self.pool = pool
        self.harvested = 0
        if not any(_takes_demos(held.parameter) for held in self._held):
            raise UsageError(
                "BootstrapDemos got no DemoParameter: give one to a model call, "
                "LLMInference(..., demos=DemoParameter())."
            )

    async def search(self, search: Search) -> None:
        """Look for better demonstrations; see the top of the file.

        Args:
            search: What the trainer offers. No parameter is written to.

        Raises:
            UsageError: If none of its names is one of ours, or it has no held-out
                examples.
            BudgetExceededError: If the budget does not allow the next call.
        """
        await _Bootstrap(self, search).run()

    def _changes(self, parameter: Parameter) -> bool:
        return _takes_demos(parameter) or parameter.choices is not None


class _Bootstrap:
    """One search of a `BootstrapDemos`."""

    def __init__(self, optimizer: BootstrapDemos, search: Search) -> None:
        self.optimizer = optimizer
        self.search = search
        chosen = names_in(search, optimizer.names)
        held = {n: h.parameter for n, h in optimizer._by_name().items() if n in chosen}
        self.names = [name for name in chosen if _takes_demos(held[name])]
        choices = {n: p for n, p in held.items() if p.choices is not None}
        self.variations = Variations(choices, search.rng)
        if not search.val_size:
            raise UsageError(
                "BootstrapDemos needs held-out examples: a demonstration must not "
                "stand in the prompt of the example that it is from. Give val, such as "
                "one half of split(data, 0.5)."
            )
        self.best = search.start
        self.tried = {search.start.digest}

    async def run(self) -> None:
        """Fill the pool, then try subsets of it."""
        before = await self._held_out(self.search.start)
        runs, labelled = await self._harvest(self._barred(before))
        self.optimizer.harvested = len(runs)
        scores = Scores.of(self.best, before)
        for number in range(self.optimizer.candidates):
            candidate = self._candidate(runs, labelled, number)
            if candidate is None or self.search.is_over():
                break
            scores = await self._try(candidate, scores, self._reason)
        while variation := self.variations.next(self.best):
            if self.search.is_over():
                break
            before, candidate = scores, self.best.with_values(variation.values)
            scores = await self._try(candidate, before, "another choice")
            self.variations.told(variation, scores is not before)

    async def _held_out(self, candidate: Candidate) -> list[Rollout]:
        """Run a candidate on the held-out examples; with records for the first."""
        return await self.search.rollouts(
            candidate,
            range(self.search.val_size),
            split="val",
            record=candidate == self.search.start,
        )

    @property
    def _reason(self) -> str:
        """Why demonstrations are tried."""
        return _LABELLED if self.optimizer.labelled else _REASON

    def _barred(self, held_out: Sequence[Rollout]) -> set[str]:
        """Return the sources that must give no demonstration (only looked up in)."""
        tested = {source_of(r.record) for r in held_out if r.record is not None}
        shown = [d for name in self.names for d in self.search.start.values[name]]
        return tested | {Demo.of(demo).source for demo in shown}

    async def _harvest(self, barred: set[str]) -> tuple[list[Lesson], list[Lesson]]:
        """Run training examples until the pool is full, each at most once.

        Returns:
            What good runs show, and what the targets of the others show.
        """
        seen: dict[int, None] = {}
        found: dict[str, Lesson] = {}
        labelled: dict[str, Lesson] = {}
        drawn, size = 0, self.search.train_size
        while len(seen) < size and drawn < 2 * size and not self.search.is_over():
            places = self.search.batch()
            drawn += max(1, len(places))
            batch = [place for place in places if place not in seen]
            if not batch:
                continue
            seen.update(dict.fromkeys(batch))
            for rollout in await self.search.rollouts(
                self.search.start, batch, record=True
            ):
                is_good = self._is_good(rollout)
                lesson = self._shown(rollout) if is_good else self._labelled(rollout)
                if lesson is not None and lesson.source not in barred:
                    pool = found if is_good else labelled
                    pool.setdefault(lesson.source, lesson)
            if len(found) >= self.optimizer.pool:
                break
        return list(found.values())[: self.optimizer.pool], list(labelled.values())

    def _is_good(self, rollout: Rollout) -> bool:
        """Say whether a run went well."""
        record, score = rollout.record, rollout.score
        if record is None or record.error is not None or score is None:
            return False
        return score >= self.optimizer.threshold - _CLOSE

    def _shown(self, rollout: Rollout) -> Lesson | None:
        """Return what the calls of a run show, None if they are none of ours."""
        assert rollout.record is not None
        return lesson_of(rollout.record, self.names, self.search.start.values)

    def _labelled(self, rollout: Rollout) -> Lesson | None:
        """Return what the target of an example shows, None if it shows nothing."""
        record = rollout.record
        if record is None or not self.optimizer.labelled:
            return None
        source, target = source_of(record), rollout.feedback.target
        parameters = set(self.search.start.values)  # only looked up in
        demos: dict[str, tuple[Demo, ...]] = {}
        for name in self.names:
            calls = [node for node in record.nodes if stands_in(name, node)]
            is_one = len(calls) == 1 and gives_the_output(calls[0], record)
            if is_one and is_answer(target, calls[0].node.target.output_type):
                node = dataclasses.replace(calls[0], output=target)
                demos[name] = (demo_of(node, parameters, source),)
        return Lesson(source, demos) if demos else None

    def _candidate(
        self, runs: Sequence[Lesson], labelled: Sequence[Lesson], number: int
    ) -> Candidate | None:
        """Return a subset that was not tried; the first is as large as it may be."""
        most_labelled = min(self.optimizer.labelled, len(labelled))
        most = min(self.optimizer.max_demos, len(runs) + most_labelled)
        for _ in range(_DRAWS if most else 0):
            rng = self.search.rng
            size = most if number == 0 else rng.randint(1, most)
            few, many = max(0, size - len(runs)), min(most_labelled, size)
            extra = many if number == 0 or few == many else rng.randint(few, many)
            lessons = rng.sample(runs, size - extra)
            if extra:
                lessons += rng.sample(labelled, extra)
                rng.shuffle(lessons)
            values = shown_by(lessons, self.names, self.optimizer.max_demos)
            candidate = self.search.start.with_values(values)
            if candidate.digest not in self.tried:
                self.tried.add(candidate.digest)
                return candidate
        return None

    async def _try(self, candidate: Candidate, best: Scores, reason: str) -> Scores:
        """Compare a candidate with the best, and return the scores of the winner."""
        scores = Scores.of(candidate, await self._held_out(candidate))
        verdict = self.optimizer.gate.judge(best.by_place, scores.by_place)
        changes = [
            Change(name, self.best.values[name], candidate.values[name], reason)
            for name in candidate.values
            if candidate.values[name] != self.best.values[name]
        ]
        self.optimizer.steps += 1
        parents = [self.best]
        if not verdict.accepted:
            reason = f"on held-out examples: {verdict.reason}"
            self.search.rejected(candidate, parents, changes, reason)
            return best
        self.search.accepted(candidate, parents, changes, verdict)
        self.best = candidate
        return scores


_REASON = "calls of training runs that scored well"
_LABELLED = f"{_REASON}, and targets of others"


def _takes_demos(parameter: Parameter) -> bool:
    return isinstance(parameter, DemoParameter)
