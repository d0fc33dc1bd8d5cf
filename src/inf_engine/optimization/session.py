"""`Session`: one training as the optimizer sees it; it keeps the books and the best.

Which candidate is best? The optimizer's acceptances are proposals: what counts in the
end is the held-out data, or all of the training data where there is none. Candidates
have scores of different examples, and of few, so the best is not the one with the
highest mean but the most probable one (`racing.estimate`), of equal ones the latest.
Before it is written it is compared with the start on held-out examples that both were
run on: nothing that is worse there can win. Where the optimizer weighs cost
(`ChoiceSearch`) its objective counts instead of the score.

So that the winner can still be checked when the search has used up its rollouts, as
many as the check takes are kept back, but no more than an eighth of all. What an
optimizer has validated itself is not run again. A check that cannot be complete runs
the start and the winner on the same examples; a winner without any is none.
"""

import math
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from inf_engine.errors import BudgetExceededError
from inf_engine.optimization.acceptance import Gate, Verdict
from inf_engine.optimization.data import DataLoader
from inf_engine.optimization.examples import ExampleCall
from inf_engine.optimization.notes import Note
from inf_engine.optimization.objective import Objective, judge, score_alone
from inf_engine.optimization.purse import Purse, Spent
from inf_engine.optimization.racing import Entry, estimate
from inf_engine.optimization.rollouts import Rollouts
from inf_engine.optimization.runner import Runner
from inf_engine.optimization.search import Candidate, Change, Rollout, Split
from inf_engine.optimization.shown import source_of
from inf_engine.optimization.trajectory import (
    CandidateAccepted,
    CandidateRejected,
    Decision,
    Evaluated,
    History,
    StepStarted,
    TrainingEvent,
    Trajectory,
)
from inf_engine.record import RunRecord

_MOST_SAID = 5
_MOST_IDLE = 8  # minibatches, and two epochs
_IN_SHORT = 300  # characters


class Session:
    """What a trainer offers to an optimizer's search (`Search`).

    Args:
        runner: Makes the rollouts.
        start: The candidate that the module came with.
        names: The parameters that may be changed.
        train: The training examples.
        val: The held-out ones, empty if there are none.
        loader: Gives the minibatches of places.
        purse: What may be spent.
        most_rollouts: How many may be made, None for any number.
        max_steps: How many minibatches there are, None for any number.
        patience: After how many decisions in a row without a better best to stop.
        critic: The alias of the model that writes notes, or a `Critic`.
        seed: Of `rng`.
        calls_per_run: How many model calls a run makes, as far as is known.
        trajectory: The file that all of it goes to, None for none.
        tell: Called with each event.
        objective: Says what a run is worth, by its score and its record.
    """

    def __init__(
        self,
        runner: Runner,
        start: Candidate,
        names: Sequence[str],
        train: Sequence[ExampleCall],
        val: Sequence[ExampleCall],
        *,
        loader: DataLoader[Any],
        purse: Purse,
        most_rollouts: int | None,
        max_steps: int | None,
        patience: int | None,
        critic: Any,
        seed: int,
        calls_per_run: float,
        trajectory: Trajectory | None,
        tell: Callable[[TrainingEvent], None],
        objective: Callable[[float, RunRecord], Objective] = score_alone,
    ) -> None:
        self.engine = runner.engine
        self.start = start
        self.names = tuple(names)
        self.train_size = len(train)
        self.val_size = len(val)
        self.rng = random.Random(f"training:{seed}")
        self.stopped = ""
        self.steps = 0
        self.best = start
        self.gate: Split = "val" if val else "train"
        self._loader = loader
        self._batches: Iterator[list[int]] = iter(())
        self._purse = purse
        self._most = most_rollouts
        self._max_steps = max_steps
        self._patience = patience
        self._since_best = 0
        self._critic = critic
        self._guess = calls_per_run
        self._trajectory = trajectory
        self._tell = tell
        self._accepted: dict[Candidate, tuple[Candidate, ...]] = {}  # and its parents
        self._unchecked: list[Candidate] = []
        self._evaluations: list[Evaluated] = []
        self._decisions: list[Decision] = []
        self._said: dict[str, dict[str, tuple[str, ...]]] = {}
        self._is_checking = False
        self._idle = 0  # minibatches in a row without a new rollout
        self._done = -1
        self._data: dict[Split, Sequence[ExampleCall]] = {"train": train, "val": val}
        self._rollouts = Rollouts(
            *(runner, start, self._data, self._allow, self._made, trajectory, objective)
        )

    # -- what an optimizer may ask ----------------------------------------------

    def batch(self) -> Sequence[int]:
        """Return the places of the next minibatch of the training examples."""
        places = next(self._batches, None)
        if places is None:
            self._batches = self._loader.batches()
            places = next(self._batches)
        self.steps += 1
        self._idle = self._idle + 1 if self._rollouts.count == self._done else 0
        self._done = self._rollouts.count
        count = self._rollouts.count
        self._tell(StepStarted(self.steps, self._loader.epoch, tuple(places), count))
        return places

    async def rollouts(
        self,
        candidate: Candidate,
        places: Sequence[int],
        *,
        split: Split = "train",
        record: bool = False,
    ) -> list[Rollout]:
        """Run a candidate on examples; see `Search.rollouts`."""
        try:
            return await self._rollouts.get(
                candidate, places, split=split, record=record
            )
        except BudgetExceededError:
            if not self._is_checking:
                self.stopped = self.stopped or "the budget is spent"
            raise

    async def notes(
        self, candidate: Candidate, rollouts: Sequence[Rollout]
    ) -> dict[str, list[Note]]:
        """Return the notes on each parameter; see `Search.notes`."""
        found = await self._rollouts.notes(rollouts, self._critic)
        said = {name: _in_short(notes) for name, notes in found.items()}
        self._said.setdefault(candidate.digest, {}).update(said)
        return found

    def sources(self, split: Split) -> Sequence[str]:
        """Return the digests of the inputs of the examples; see `Search.sources`."""
        return [source_of(call) for call in self._data[split]]

    def accepted(
        self,
        candidate: Candidate,
        parents: Sequence[Candidate],
        changes: Sequence[Change],
        verdict: Verdict,
    ) -> None:
        """Take note that a candidate was accepted."""
        self._accepted.setdefault(candidate, tuple(parents))
        before, self.best = self.best, self._leader()
        is_best = self.best != before and self.best == candidate
        self._decided(
            CandidateAccepted(
                len(self._decisions) + 1,
                candidate,
                tuple(parents),
                tuple(changes),
                verdict,
                self._rollouts.count,
                is_best,
            ),
            is_better=self.best != before,
        )

    def rejected(
        self,
        candidate: Candidate,
        parents: Sequence[Candidate],
        changes: Sequence[Change],
        reason: str,
    ) -> None:
        """Take note that a candidate was rejected."""
        self._decided(
            CandidateRejected(
                len(self._decisions) + 1,
                candidate,
                tuple(parents),
                tuple(changes),
                reason,
                self._rollouts.count,
            ),
            is_better=False,
        )

    def is_over(self) -> bool:
        """Say whether to stop: the budget is gone, or it was asked for."""
        if self.stopped:
            return True
        left = self.rollouts_left
        if self._purse.is_empty or (left is not None and left <= self._kept_back()):
            self.stopped = "the budget is spent"
        elif self._max_steps is not None and self.steps >= self._max_steps:
            self.stopped = "all steps were taken"
        elif self._patience is not None and self._since_best >= self._patience:
            self.stopped = f"no better candidate in {self._patience} decisions"
        elif self._idle > max(_MOST_IDLE, 2 * len(self._loader)):
            self.stopped = f"nothing new was tried in {self._idle} minibatches"
        return bool(self.stopped)

    # -- what the trainer asks --------------------------------------------------

    @property
    def count(self) -> int:
        """How many rollouts were begun."""
        return self._rollouts.count

    @property
    def rollouts_left(self) -> int | None:
        """How many rollouts the budget still allows, None for any number."""
        lefts = [] if self._most is None else [self._most - self._rollouts.count]
        requests = self._purse.left("requests")
        if requests is not None:
            lefts.append(math.floor(requests / max(self._calls_per_run, 1e-9)))
        return min(lefts, default=None)

    @property
    def spent(self) -> Spent:
        """What was spent until now."""
        return self._purse.spent

    @property
    def history(self) -> History:
        """What happened until now."""
        order = sorted(self._evaluations, key=lambda event: event.number)
        return History(tuple(order), tuple(self._decisions), self._said)

    def scores(self, candidate: Candidate, split: Split | None = None) -> list[float]:
        """Return the scores of a candidate, on the deciding split if None."""
        return list(self._rollouts.scores(candidate, split or self.gate).values())

    def gain(self, candidate: Candidate) -> Verdict:
        """Return how a candidate compares with the start on the deciding split."""
        before = self._rollouts.objectives(self.start, self.gate)
        after = self._rollouts.objectives(candidate, self.gate)
        return judge(Gate("not worse"), before, after)

    async def check(self) -> Candidate:
        """Return the best candidate, checked as far as the budget allows."""
        self._is_checking = True
        tried: list[Candidate] = []
        while (best := self._leader()) not in tried:
            tried.append(best)
            await self._compare(best)
            if best != self.start and self._edge(best, self.gate) is None:
                self._unchecked.append(best)
        if best != self.start and not self.gain(best).accepted:
            best = self.start
        self.best = best
        return best

    # -- inside -----------------------------------------------------------------

    async def _compare(self, best: Candidate) -> None:
        """Run the start and a candidate where one of them is missing, if it fits."""
        both = dict.fromkeys((self.start, best))
        missing = {c: self._rollouts.missing(c, self.gate) for c in both}
        counts: dict[int, int] = {}
        for place in [p for places in missing.values() for p in places]:
            counts[place] = counts.get(place, 0) + 1
        left, chosen = self.rollouts_left, []
        for place in sorted(counts, key=lambda p: (counts[p], p)):
            if left is not None:
                left -= counts[place]
                if left < 0:
                    break
            chosen.append(place)
        try:
            for candidate, places in missing.items():
                todo = [place for place in chosen if place in places]
                await self.rollouts(candidate, todo, split=self.gate)
        except BudgetExceededError:
            return

    def _leader(self) -> Candidate:
        """Return the candidate that is most probably the best (see the top)."""
        field = [self.start, *[c for c in self._accepted if c not in self._unchecked]]
        places = {candidate: place for place, candidate in enumerate(field)}
        entries = []
        for candidate in field:
            parents = [p for p in self._accepted.get(candidate, ()) if p in places]
            origins = [places[p] for p in parents if places[p] < places[candidate]]
            if not origins and candidate != self.start:
                origins = [0]
            entries.append(Entry(self._known(candidate), origins))
        strengths = estimate(entries)
        return field[max(range(len(field)), key=lambda k: (strengths[k], k))]

    def _known(self, candidate: Candidate) -> dict[Hashable, float]:
        """Return what the runs of a candidate were worth, on any example."""
        splits: tuple[Split, ...] = ("train", "val")
        return {
            (split, place): objective.value
            for split in splits
            for place, objective in self._rollouts.objectives(candidate, split).items()
        }

    def _edge(self, candidate: Candidate, split: Split) -> float | None:
        """Return how much better than the start one is, on common examples."""
        before = self._rollouts.objectives(self.start, split)
        after = self._rollouts.objectives(candidate, split)
        common = [place for place in after if place in before]
        gains = [after[place].value - before[place].value for place in common]
        return round(math.fsum(gains) / len(gains), 12) if gains else None

    def _kept_back(self) -> int:
        """Return how many rollouts are kept to check the best."""
        each = dict.fromkeys((self.start, self.best))
        missing = sum(len(self._rollouts.missing(c, self.gate)) for c in each)
        left = self.rollouts_left
        return 0 if left is None else min(missing, (self.count + left) // 8)

    def _allow(self, wanted: int, split: Split) -> None:
        """Refuse rollouts that the budget does not allow.

        Raises:
            BudgetExceededError: If it does not; nothing was run.
        """
        if self._purse.is_empty:
            raise BudgetExceededError(
                f"the budget is spent: it does not allow {wanted} more rollouts."
            )
        held = 0 if self._is_checking or split == self.gate else self._kept_back()
        left = self.rollouts_left
        if left is not None and wanted > left - held:
            kept = f", {held} of them to check the best candidate" if held else ""
            raise BudgetExceededError(
                f"the budget does not allow {wanted} more rollouts of about "
                f"{self._calls_per_run:.3g} requests each: there are {max(0, left)} "
                f"left{kept}. None was run."
            )

    @property
    def _calls_per_run(self) -> float:
        """How many model calls a run makes: as seen, or as the graph tells."""
        done = self._rollouts
        return done.calls / done.ended if done.ended else self._guess

    def _made(
        self,
        candidate: Candidate,
        split: Split,
        number: int,
        count: int,
        made: Sequence[Rollout],
    ) -> None:
        """Write new rollouts down, and tell of them."""
        if self._trajectory is not None:
            for rollout in made:
                self._trajectory.score(candidate, split, rollout)
        known = list(self._rollouts.scores(candidate, split).values())
        mean = math.fsum(known) / len(known) if known else None
        scores = {rollout.place: rollout.score for rollout in made}
        event = Evaluated(number, candidate, split, scores, count, mean, len(known))
        self._evaluations.append(event)
        self._tell(event)

    def _decided(self, event: Decision, *, is_better: bool) -> None:
        """Write a decision down, and tell of it."""
        if self._trajectory is not None:
            self._trajectory.decide(event)
        self._since_best = 0 if is_better else self._since_best + 1
        self._decisions.append(event)
        self._tell(event)


def _in_short(notes: Sequence[Note]) -> tuple[str, ...]:
    """Return what a few notes say, the worst outputs first."""
    order = sorted(notes, key=lambda n: math.inf if n.score is None else n.score)
    texts = dict.fromkeys(" ".join(note.content.split()) for note in order)
    return tuple([text[:_IN_SHORT] for text in texts if text][:_MOST_SAID])
