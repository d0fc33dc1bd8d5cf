"""`Climb`: the plain search of an optimizer, one minibatch after the other.

A round runs the present candidate on a minibatch, turns the feedback into notes, and
asks the rewriter for changes. The changed candidate runs on the same minibatch; if it
is not worse there (ties are kept: most rewrites show their worth on other examples), it
is the present one of the next round, and after every few such rounds it is compared
with the last accepted candidate on the held-out examples. If it is not worse there
either it is accepted, else the search goes back to the last accepted one. What was
rejected is remembered by the optimizer, with the reason.

The search ends when the trainer says so, when the budget does not allow the next call,
or when as many examples as two passes over the data brought nothing new to try:
everything is right already, or the rewriter has nothing usable to say.

Where there are demonstrations or choices, a round also tries another value of them
(`Variations`) on its minibatch; that has to be better there, and is checked on the
held-out examples like a text.
"""

from collections.abc import Sequence
from typing import Any

from inf_engine.optimization.acceptance import Verdict
from inf_engine.optimization.proposals import Proposal
from inf_engine.optimization.search import (
    Candidate,
    Change,
    Rollout,
    Scores,
    Search,
    names_in,
)
from inf_engine.optimization.variations import gained, variations_of

_TOP = 1.0 - 1e-9  # the scores of a search are in [0, 1]
_PASSES = 2


class Climb:
    """One search.

    Args:
        optimizer: Proposes, and remembers what was rejected. Its `gate` judges on the
            minibatch, its `held_out` gate on the held-out examples, after every
            `check_every` candidates that passed the first.
        search: What the trainer offers.

    Raises:
        UsageError: If no parameter of the search is one of the optimizer's.
    """

    def __init__(self, optimizer: Any, search: Search) -> None:
        self.optimizer = optimizer
        self.search = search
        self.names = names_in(search, optimizer.names)
        self.accepted = search.start
        self.here = search.start
        self.changes: list[Change] = []
        self.passed = 0
        self.idle = 0
        self.tried = {search.start.digest}
        held = {name: held.parameter for name, held in optimizer._by_name().items()}
        self.variations = variations_of(held, search, self.names)
        self.has_texts = any(held[name].is_text for name in self.names)

    async def run(self) -> None:
        """Search until it is over.

        Raises:
            ProposalError: If the rewriter could not be asked.
            CriticError: If the critic failed.
            BudgetExceededError: If the budget does not allow the next call.
        """
        most = _PASSES * self.search.train_size
        while self.idle < most and not self.search.is_over():
            await self._round()
        if not self.search.is_over():
            await self._check()

    async def _round(self) -> None:
        """Try new texts, and another value of what is no text."""
        places = self.search.batch()
        before = await self.search.rollouts(self.here, places, record=True)
        scored = [rollout for rollout in before if rollout.score is not None]
        self.variations.learn(self.here, scored)
        tried = await self._rewrite(scored) if self.has_texts else False
        if self.variations and not _are_right(scored):
            tried |= await self._vary([rollout.place for rollout in scored])
        self.idle = 0 if tried else self.idle + max(1, len(places))

    async def _rewrite(self, scored: Sequence[Rollout]) -> bool:
        """Try new texts; say whether there was anything to try."""
        proposal = await self._proposal(scored)
        candidate = self.here.with_values(proposal.values)
        if candidate.digest in self.tried:
            return False
        self.tried.add(candidate.digest)
        after = await self.search.rollouts(candidate, [r.place for r in scored])
        verdict = self._judged(self.optimizer.gate, self.here, scored, candidate, after)
        if not verdict.accepted:
            self._rejected(candidate, self.here, proposal.changes, verdict.reason)
        else:
            await self._passed(candidate, proposal.changes, verdict)
        return True

    async def _vary(self, places: Sequence[int]) -> bool:
        """Try another value; say whether there was any."""
        variation = self.variations.next(self.here, places)
        if variation is None or self.search.is_over():
            return False
        candidate = self.here.with_values(variation.values)
        places = self.variations.tests(variation, places)
        before = await self.search.rollouts(self.here, places)
        after = await self.search.rollouts(candidate, places)
        verdict = self._judged(self.optimizer.gate, self.here, before, candidate, after)
        kept = gained(verdict)
        self.variations.told(variation, kept)
        if kept:
            await self._passed(candidate, variation.changes, verdict)
        else:
            parents, changes = [self.here], variation.changes
            self.search.rejected(candidate, parents, changes, verdict.reason)
        return True

    async def _passed(
        self, candidate: Candidate, changes: Sequence[Change], verdict: Verdict
    ) -> None:
        """Go on from a candidate that passed on a minibatch."""
        self.here = candidate
        self.changes += changes
        self.passed += 1
        if not self.search.val_size:
            self._accepted(verdict)
        elif self.passed >= self.optimizer.check_every:
            await self._check()

    async def _proposal(self, scored: Sequence[Rollout]) -> Proposal:
        """Return what to change; nothing if every output is right."""
        if _are_right(scored):
            return Proposal()
        notes = await self.search.notes(self.here, scored)
        proposal: Proposal = await self.optimizer.propose(
            {name: notes.get(name, ()) for name in self.names},
            values=self.here.values,
            names=self.names,
            engine=self.search.engine,
        )
        self.optimizer.learn(proposal)
        for refusal in proposal.refused:
            if refusal.value is not None:
                name, old, new = refusal.parameter, refusal.before, refusal.value
                refused = self.here.with_values({name: new})
                change = Change(name, old, new)
                self.search.rejected(refused, [self.here], [change], refusal.reason)
        return proposal

    async def _check(self) -> None:
        """Compare with the last accepted candidate on the held-out examples."""
        if self.here == self.accepted:
            self.passed, self.changes = 0, []
            return
        places = range(self.search.val_size)
        old = await self.search.rollouts(self.accepted, places, split="val")
        new = await self.search.rollouts(self.here, places, split="val")
        verdict = self._judged(
            self.optimizer.held_out, self.accepted, old, self.here, new
        )
        if verdict.accepted:
            self._accepted(verdict)
            return
        reason = f"on held-out examples: {verdict.reason}"
        self._rejected(self.here, self.accepted, self._net(), reason)
        self.here, self.changes, self.passed = self.accepted, [], 0

    def _accepted(self, verdict: Verdict) -> None:
        self.search.accepted(self.here, [self.accepted], self._net(), verdict)
        self.accepted, self.changes, self.passed = self.here, [], 0

    def _rejected(
        self,
        candidate: Candidate,
        parent: Candidate,
        changes: Sequence[Change],
        reason: str,
    ) -> None:
        self.optimizer.reject(changes, reason)
        self.search.rejected(candidate, [parent], changes, reason)

    def _net(self) -> list[Change]:
        """Return the changes since the last accepted candidate, one per parameter."""
        old, new = self.accepted.values, self.here.values
        reasons: dict[str, list[str]] = {}
        for change in self.changes:
            reasons.setdefault(change.parameter, []).append(change.reason)
        return [
            Change(name, old[name], new[name], " ".join(filter(None, said)))
            for name, said in reasons.items()
            if old[name] != new[name]
        ]

    def _judged(
        self,
        gate: Any,
        old: Candidate,
        before: Sequence[Rollout],
        new: Candidate,
        after: Sequence[Rollout],
    ) -> Verdict:
        first, second = Scores.of(old, before), Scores.of(new, after)
        verdict: Verdict = gate.judge(first.by_place, second.by_place)
        return verdict


def _are_right(rollouts: Sequence[Rollout]) -> bool:
    """Say whether nothing went wrong in any."""
    return all(r.score is None or r.score >= _TOP for r in rollouts)
