"""`ReflectiveEvolution`: a pool of candidates that learn from what went wrong.

The family of GEPA (Agrawal et al. 2025, "GEPA: Reflective Prompt Evolution Can
Outperform Reinforcement Learning", arXiv:2507.19457): a parent is drawn from the
per-example Pareto front, run on a minibatch, rewritten by a model that reads what
happened, and its child is kept if it is not worse on that minibatch. What a graph, and
an engine that runs many calls at once, add to that:

- The evidence of *all* parameters is there after one run, exact and for every call, so
  one candidate changes all of them. If that fails but helped somewhere, the single
  changes are tried where it made a difference.
- Several proposals are asked for at once and put together sentence by sentence
  (`pareto.merge`), so that a candidate, which costs rollouts, holds what several
  proposals, which cost none, have learned. They are tried one by one if that fails.
- Where one example blames several parameters, one of the proposals is coordinated: one
  call sees all of these texts and says of each edit which of them it is for, since a
  rule that several steps must share helps in none of them alone.
- Proposals are edits: what they do not name is neither forgotten nor paid for again.
  What edits did not mend is written anew: in every second proposal from one parent;
  but several texts, of which more would be forgotten, only while there is nothing else
  to try.
- Demonstrations and choices are varied: what they should be, nobody can read off what
  was said. In each round the best one is tried with another value (`variations`).
- A child is tested on the examples that its changes seem to be about (`relevance`),
  and the best one is tried without what does harm or nothing (`pruning`).
- No evidence is paid for twice (`cases`).
- Held-out examples are for choosing, not for learning, and cost less than half of all
  rollouts. A child runs on a few, and on more only while it may be the best; a race
  that is lost ends (`racing.Race`). Which one is best is estimated from all scores at
  once (`racing.estimate`), so that luck on a few examples does not count as strength.

The search ends when the trainer says so, when the budget does not allow the next run,
or when several rounds brought nothing to try.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from inf_engine.errors import UsageError
from inf_engine.optimization.acceptance import Verdict
from inf_engine.optimization.cases import PASSING, Case, Cases, is_shared
from inf_engine.optimization.notes import Note
from inf_engine.optimization.optimizer import Optimizer
from inf_engine.optimization.pareto import Member, Pool, common_ancestor, merge
from inf_engine.optimization.proposals import Proposal
from inf_engine.optimization.pruning import Cut, Pruning
from inf_engine.optimization.racing import Race, Scorebook
from inf_engine.optimization.rewriter import Job, Rewriter, Target
from inf_engine.optimization.search import Candidate, Change, Search, names_in
from inf_engine.optimization.variations import gained, variations_of
from inf_engine.tasks import together

_SHARPNESS = 3.0  # of the draw of parents
_CUTS = 2  # sentences that the best is tried without in a round, at most
_MOST_IDLE = 8  # rounds that bring nothing to try, before it ends
_TOGETHER = (
    "These texts belong to steps of one program and work together. If a rule has to be "
    "known at several steps, this answer has to bring it into the text of each of "
    "them: in one of them alone it does not help."
)
_ANEW = (
    "Edits of the text did not mend these examples. Write it anew: where it says two "
    "things of one case keep the one that the examples confirm, and leave out what "
    "they speak against."
)


CutOf: TypeAlias = Callable[[Candidate, Mapping[int, float]], Cut | None]


class ReflectiveEvolution(Optimizer):
    """Evolves a pool of candidates by reflection on what went wrong.

    Args:
        params: Parameters, or groups of them (see `Optimizer`).
        engine: Runs the rewriter; a search uses the trainer's.
        alias: The rewriting model.
        minibatch: Training examples that a parent is run on in a round, 1 or more.
        parents: How many parents are tried in a round, 1 or more.
        proposals: How many proposals are made for each of them at once, 1 or more.
        coordinated: Whether one of the proposals writes all texts in one call, where
            an example blames several.
        val_share: The part of all rollouts that may be held-out ones, above 0 and
            below 0.5; those of the first candidate do not count.
        shorten: Whether sentences that seem to be about nothing are left out if nothing
            gets worse, once there is nothing else to try.
        mode: ``"edits"``, and whole texts where these do not help; or ``"rewrite"``,
            always whole texts.
        **options: The other arguments of `Optimizer`.

    Raises:
        UsageError: As `Optimizer`, and if a number is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        engine: Any = None,
        alias: str | None = None,
        minibatch: int = 8,
        parents: int = 1,
        proposals: int = 1,
        coordinated: bool = True,
        val_share: float = 0.15,
        shorten: bool = True,
        mode: str = "edits",
        **options: Any,
    ) -> None:
        counts = {"minibatch": minibatch, "parents": parents, "proposals": proposals}
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name}={value!r}: give a whole number, 1 or more.")
        if not 0.0 < val_share < 0.5:
            raise UsageError(
                f"val_share={val_share!r}: give the part of the rollouts that may be "
                "held-out ones, above 0 and below 0.5."
            )
        options.setdefault("rewriter", Rewriter(passing=PASSING))
        super().__init__(params, engine=engine, alias=alias, mode=mode, **options)
        self.minibatch, self.parents = minibatch, parents
        self.proposals, self.coordinated = proposals, coordinated
        self.val_share, self.shorten = val_share, shorten

    async def search(self, search: Search) -> None:
        """Look for better candidates until the search is over (see above).

        Args:
            search: What the trainer offers. No parameter is written to.

        Raises:
            UsageError: If none of its names is one of ours.
            ProposalError: If the rewriter could not be asked.
            CriticError: If the critic failed.
            BudgetExceededError: If the budget does not allow the next call.
        """
        await Evolution(self, search).run()

    def _jobs(
        self, targets: Mapping[str, Target], seed: int | None, advice: str
    ) -> list[Job]:
        """Return the calls to make; for a coordinated proposal one for all texts."""
        jobs = super()._jobs(targets, seed, advice)
        if advice == _ANEW:
            return [replace(job, mode="rewrite") for job in jobs]
        if advice != _TOGETHER or len(jobs) < 2:
            return jobs
        fused: dict[str, Job] = {}
        for job in jobs:
            named = tuple([_called(target) for target in job.targets])
            held = fused.get(job.alias)
            both = named if held is None else (*held.targets, *named)
            fused[job.alias] = replace(job, targets=both)
        return list(fused.values())


@dataclass(slots=True)
class _Try:
    """A candidate that is to be tested."""

    candidate: Candidate
    parents: tuple[Member, ...]
    changes: tuple[Change, ...]


class Evolution:
    """One search of a `ReflectiveEvolution`.

    Args:
        optimizer: Proposes, and remembers what was rejected.
        search: What the trainer offers.

    Raises:
        UsageError: If no parameter of the search is one of the optimizer's.
    """

    def __init__(self, optimizer: ReflectiveEvolution, search: Search) -> None:
        self.names = names_in(search, optimizer.names)
        self.optimizer = optimizer
        self.search = search
        self.pool = Pool()
        self.book = Scorebook(search, self.pool, optimizer.val_share)
        self.cases = Cases(search, self.book, optimizer.minibatch)
        self._new: dict[Member, tuple[_Try, Verdict]] = {}
        self._tried = {search.start.digest}
        self._samples = self._idle = 0
        size = optimizer.minibatch
        held = {name: held.parameter for name, held in optimizer._by_name().items()}
        self.variations = variations_of(held, search, self.names)
        self.texts = [name for name in self.names if held[name].is_text]
        self.pruning = Pruning(self.book.relevance, self.texts, size)
        self._crossed: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Search until it is over.

        Raises:
            ProposalError: If the rewriter could not be asked.
            CriticError: If the critic failed.
            BudgetExceededError: If the budget does not allow the next call.
        """
        first = Member(self.search.start)
        self.pool.add(first)
        try:
            await self.book.validate(first)
            while self._idle < _MOST_IDLE and not self.search.is_over():
                await self._round()
        finally:  # the budget may have ended it
            self._report()

    async def _round(self) -> None:
        """Try children of some parents, and perhaps a cross."""
        cases = await self._cases() if self.texts else []
        notes = await together(self.cases.notes(case, self.names) for case in cases)
        asked = await together(
            self._proposed(case, about, sample)
            for case, about in zip(cases, notes, strict=True)
            for sample in self._seeds()
        )
        size = self.optimizer.proposals
        grown = False
        for number, case in enumerate(cases):
            proposals = asked[number * size : (number + 1) * size]
            grown |= await self._grow(case, proposals)
        grown |= await self._cross()
        grown |= bool(self.variations) and await self._vary()
        for _ in range(_CUTS):
            grown |= await self._prune(self.pruning.harmful)
        if self.optimizer.shorten and not grown and self._has_failed():
            grown = await self._prune(self.pruning.idle)
        self._idle = 0 if grown else self._idle + 1
        await self.book.compare()
        self._report()

    def _has_failed(self) -> bool:
        """Say whether any example ever went wrong; else there is nothing to do."""
        known = self.book.train.values()
        return any(score < 1.0 for scores in known for score in scores.values())

    async def _cases(self) -> list[Case]:
        """Return parents with something to learn from."""
        drawn: list[Member] = []
        strengths = dict(self.book.ranked())
        for _ in range(self.optimizer.parents):
            parent = self.pool.draw(self.search.rng, _SHARPNESS, strengths)
            if parent not in drawn:
                drawn.append(parent)
        cases = [await self.cases.of(parent) for parent in drawn]
        return [case for case in cases if case is not None]

    # -- proposals --------------------------------------------------------------

    def _seeds(self) -> list[int]:
        """Return the numbers of the next samples of the rewriter."""
        first = self._samples
        self._samples += self.optimizer.proposals
        return list(range(first, self._samples))

    async def _proposed(
        self, case: Case, notes: Mapping[str, Sequence[Note]], sample: int
    ) -> Proposal:
        """Ask for new values; the first sample of a round may be a coordinated one."""
        return await self.optimizer.propose(
            notes,
            values=case.parent.candidate.values,
            names=self.names,
            engine=self.search.engine,
            seed=sample,
            advice=self._advice(case, notes, sample),
        )

    def _advice(
        self, case: Case, notes: Mapping[str, Sequence[Note]], sample: int
    ) -> str:
        """Return what to tell the rewriter; it decides how it is asked, too."""
        is_first = sample % self.optimizer.proposals == 0
        joint = is_first and self.optimizer.coordinated and is_shared(notes)
        if case.turn % 2 and (self._idle or not joint):
            return _ANEW
        return _TOGETHER if joint else ""

    def _tries(self, case: Case, proposals: Sequence[Proposal]) -> list[_Try]:
        """Return the candidates that proposals make, the most promising first."""
        base = case.parent.candidate
        sides = [{**base.values, **p.values} for p in proposals if p.values]
        all_values = [merge(base.values, sides)] if len(sides) > 1 else []
        all_values += sides
        reasons = {c.parameter: c.reason for p in proposals for c in p.changes}
        return [self._try((case.parent,), values, reasons) for values in all_values]

    def _try(
        self,
        parents: tuple[Member, ...],
        values: Mapping[str, Any],
        reasons: Mapping[str, str],
    ) -> _Try:
        """Return a candidate with what it changes in its first parent."""
        before = parents[0].candidate
        changes = [
            Change(name, before.values[name], values[name], reasons.get(name, ""))
            for name in self.names
            if values.get(name, before.values[name]) != before.values[name]
        ]
        return _Try(before.with_values(values), parents, tuple(changes))

    async def _grow(self, case: Case, proposals: Sequence[Proposal]) -> bool:
        """Take in the first candidate that passes; say whether any was tested."""
        for proposal in proposals:
            self.optimizer.learn(proposal)
            self._refused(case.parent, proposal)
        tested = False
        before = self.book.train[case.parent.candidate]
        for attempt in self._tries(case, proposals):
            if attempt.candidate.digest in self._tried:
                continue
            tested = True
            places = self.cases.places(case, attempt.changes)
            verdict = await self._tested(attempt, places, before)
            if verdict.accepted:
                await self._take_in(attempt, verdict)
                break
            self._reject(attempt, verdict.reason)
            if await self._grow_part(case.parent, attempt):
                break
        return tested

    async def _grow_part(self, parent: Member, failed: _Try) -> bool:
        """Try the single changes of a candidate that failed but helped somewhere.

        Where it made no difference they are not tested. The last steps come first:
        those before them are cached.
        """
        before = self.book.train[parent.candidate]
        after = self.book.train[failed.candidate]
        places = [p for p, score in after.items() if score != before.get(p, score)]
        helped = any(after[place] > before[place] for place in places)
        for change in reversed(failed.changes if helped else ()):
            values = {change.parameter: change.after}
            part = self._try((parent,), values, {change.parameter: change.reason})
            if len(failed.changes) < 2 or part.candidate.digest in self._tried:
                continue
            verdict = await self._tested(part, places, before)
            if verdict.accepted and verdict.gain.mean > 0:
                await self._take_in(part, verdict)
                return True
            self._reject(part, verdict.reason)
        return False

    async def _tested(
        self, attempt: _Try, places: Sequence[int], before: Mapping[int, float]
    ) -> Verdict:
        """Run a candidate on training examples and judge it by them."""
        self._tried.add(attempt.candidate.digest)
        after = await self.book.run(attempt.candidate, places)
        known = {place: before[place] for place in places if place in before}
        return self.optimizer.gate.judge(known, after)

    # -- leaving out ------------------------------------------------------------

    async def _prune(self, cut_of: CutOf) -> bool:
        """Test the best one with less in it; say whether there was anything to test."""
        best = self.book.ranked()[0][0]
        before = self.book.train.get(best.candidate, {})
        cut = cut_of(best.candidate, before)
        if cut is None:
            return False
        why = "harmful" if cut.must_gain else "idle"
        reasons = dict.fromkeys(self.names, f"{why}: {' '.join(cut.sentences)}")
        attempt = self._try((best,), cut.candidate.values, reasons)
        held = self.optimizer._by_name()
        broken = [held[c.parameter].broken(c.before, c.after) for c in attempt.changes]
        if any(broken) or attempt.candidate.digest in self._tried:
            self.pruning.missed(cut)
            return False
        verdict = await self._tested(attempt, cut.first, before)
        if cut.is_kept(verdict):
            verdict = await self._tested(attempt, [*cut.first, *cut.then], before)
        if cut.is_kept(verdict):
            await self._take_in(attempt, verdict)
        else:
            self.pruning.missed(cut)
            self._told(attempt, verdict.reason)
        return True

    # -- varying ----------------------------------------------------------------

    async def _vary(self) -> bool:
        """Test the best one with another value of what is no text; say whether so."""
        best = self.book.ranked()[0][0]
        wrong, right, others = await self.cases.mixed(best, fresh=not self.texts)
        if self.variations.is_learning:
            shown = [*others, *right][: self.optimizer.minibatch]
            runs = await self.search.rollouts(best.candidate, shown, record=True)
            self.variations.learn(best.candidate, runs)
        before, places = self.book.train[best.candidate], [*wrong, *right]
        variation = self.variations.next(best.candidate, places) if wrong else None
        if variation is None:
            return False
        reasons = {change.parameter: change.reason for change in variation.changes}
        attempt = self._try((best,), variation.values, reasons)
        tests = self.variations.tests(variation, places)
        verdict = await self._tested(attempt, tests, before)
        self.variations.told(variation, kept := gained(verdict))
        if kept:
            await self._take_in(attempt, verdict)
        else:
            self._told(attempt, verdict.reason)
        return True

    # -- crossing ---------------------------------------------------------------

    async def _cross(self) -> bool:
        """Merge two of the front that have learned apart; say whether it was tested."""
        weights = self.pool.weights()
        members = sorted(weights, key=lambda member: weights[member], reverse=True)
        for number, one in enumerate(members):
            for two in members[number + 1 :]:
                key = one.candidate.digest, two.candidate.digest
                base = common_ancestor(one, two)
                if key in self._crossed or base in (None, one, two):
                    continue
                self._crossed |= {key, key[::-1]}
                if await self._crossed_over(one, two, base):
                    return True
        return False

    async def _crossed_over(self, one: Member, two: Member, base: Any) -> bool:
        """Test what two candidates have learned since their ancestor, in one."""
        sides = [one.candidate.values, two.candidate.values]
        values = merge(base.candidate.values, sides)
        reasons = dict.fromkeys(self.names, "merged from two candidates")
        attempt = self._try((one, two), values, reasons)
        own, other = (self.book.train.get(m.candidate, {}) for m in (one, two))
        places = sorted(
            {*own, *other},
            key=lambda p: (min(own.get(p, 1.0), other.get(p, 1.0)), p),
        )[: self.optimizer.minibatch]
        if attempt.candidate.digest in self._tried or not places:
            return False
        await self.book.run(one.candidate, places)
        verdict = await self._tested(attempt, places, self.book.train[one.candidate])
        if verdict.accepted:
            await self._take_in(attempt, verdict)
        else:
            self._reject(attempt, verdict.reason)
        return True

    # -- choosing ---------------------------------------------------------------

    async def _take_in(self, attempt: _Try, verdict: Verdict) -> None:
        """Race a candidate against the best one, and keep it unless it has lost."""
        member = Member(attempt.candidate, attempt.parents)
        best = self.book.ranked()[0][0]
        if self.book.may_validate():
            await self.book.validate(member)
        race = Race()
        if race.observe(best.scores, member.scores) == "worse":
            self._reject(attempt, f"it lost on {race.n} held-out examples")
            return
        if not self.search.val_size:
            member.scores = self.book.train[attempt.candidate]
        self.pool.add(member)
        self._new[member] = attempt, verdict

    def _report(self) -> None:
        """Tell if a new candidate, or one that was kept for later, is the best now."""
        best = self.book.ranked()[0][0]
        found = self._new.pop(best, None)
        if found is not None:
            attempt, verdict = found
            parents = [parent.candidate for parent in attempt.parents]
            self.search.accepted(best.candidate, parents, attempt.changes, verdict)

    # -- books ------------------------------------------------------------------

    def _refused(self, parent: Member, proposal: Proposal) -> None:
        """Tell of proposals that keep no constraint."""
        for refusal in proposal.refused:
            if refusal.value is not None:
                name, old, start = refusal.parameter, refusal.before, parent.candidate
                tried = start.with_values({name: refusal.value})
                change = Change(name, old, refusal.value)
                self.search.rejected(tried, [start], [change], refusal.reason)

    def _reject(self, attempt: _Try, reason: str) -> None:
        """Remember what was tried, and tell of it."""
        self.optimizer.reject(attempt.changes, reason)
        self._told(attempt, reason)

    def _told(self, attempt: _Try, reason: str) -> None:
        """Tell of what was tried."""
        parents = [parent.candidate for parent in attempt.parents]
        self.search.rejected(attempt.candidate, parents, attempt.changes, reason)


def _called(target: Target) -> Target:
    """Return a target that says beside its text what it is called."""
    purpose = target.purpose.strip() or "not said"
    return replace(target, purpose=f"{purpose}. The text of {target.name}:")
