"""`ReflectiveEvolution`: facts about the search, on an in-memory `Search`."""

import asyncio
import contextlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from inf_engine import InferenceModule, LLMInference, Parameter
from inf_engine.errors import BudgetExceededError, ProposalError, UsageError
from inf_engine.optimization.acceptance import Verdict
from inf_engine.optimization.constraints import FrozenSpans
from inf_engine.optimization.evolution import Evolution, ReflectiveEvolution
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.notes import Evidence, Note
from inf_engine.optimization.pareto import Member
from inf_engine.optimization.rewriter import Job, Rewrite
from inf_engine.optimization.search import Candidate, Change, Rollout, Split

RULES = 6
_RULE = re.compile(r"rule (\d+)")


class Two(InferenceModule):
    """Two texts; what they are used for does not matter here."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Parameter("Begin.", "how to begin")
        self.second = Parameter("End.", "how to end")
        self.one = LLMInference("m", self.first)
        self.two = LLMInference("m", self.second)

    def forward(self, text: str) -> str:
        return self.two(self.one(text))


def either(values: dict[str, str], place: int) -> float:
    """An example needs one rule, in any text."""
    return float(f"rule {place % RULES}." in " ".join(values.values()))


def both(values: dict[str, str], place: int) -> float:
    """An example needs one rule, in all texts."""
    return float(all(f"rule {place % RULES}." in text for text in values.values()))


@dataclass
class Memory:
    """A `Search` whose scores come from a function."""

    score: Callable[[dict[str, str], int], float] = either
    budget: int = 220
    train_size: int = 48
    val_size: int = 48
    seed: int = 0
    engine: Any = field(default_factory=object)

    def __post_init__(self) -> None:
        self.start = Candidate({"first": "Begin.", "second": "End."})
        self.names: Sequence[str] = list(self.start.values)
        self.rng = random.Random(self.seed)
        self.runs: list[tuple[str, Split, int]] = []
        self.log: list[tuple[str, Candidate, str]] = []
        self.verdicts: list[Verdict] = []
        self._order: list[int] = []

    def batch(self) -> Sequence[int]:
        self._order = self._order or self.rng.sample(
            range(self.train_size), self.train_size
        )
        places, self._order = self._order[:8], self._order[8:]
        return places

    async def rollouts(
        self,
        candidate: Candidate,
        places: Sequence[int],
        *,
        split: Split = "train",
        record: bool = False,
    ) -> list[Rollout]:
        await asyncio.sleep(0)
        known = set(self.runs)
        new = [(candidate.digest, split, p) for p in places]
        new = [run for run in dict.fromkeys(new) if run not in known]
        if len(self.runs) + len(new) > self.budget:
            raise BudgetExceededError("the budget is spent")
        self.runs += new
        return [self._rollout(candidate, place) for place in places]

    def _rollout(self, candidate: Candidate, place: int) -> Rollout:
        score = self.score(dict(candidate.values), place)
        return Rollout(place, score, Feedback(f"rule {place % RULES}", score))

    async def notes(
        self, candidate: Candidate, rollouts: Sequence[Rollout]
    ) -> dict[str, list[Note]]:
        return {
            name: [
                Note(
                    r.feedback.content,
                    r.score,
                    evidence=(
                        Evidence(
                            n,
                            name,
                            "system",
                            feedback=r.feedback.content,
                            score=r.score,
                        ),
                    ),
                )
                for n, r in enumerate(rollouts)
            ]
            for name in self.names
        }

    def accepted(
        self,
        candidate: Candidate,
        parents: Sequence[Candidate],
        changes: Sequence[Change],
        verdict: Verdict,
    ) -> None:
        self.verdicts.append(verdict)
        self.log.append(("accepted", candidate, verdict.reason))

    def rejected(
        self,
        candidate: Candidate,
        parents: Sequence[Candidate],
        changes: Sequence[Change],
        reason: str,
    ) -> None:
        self.log.append(("rejected", candidate, reason))

    def sources(self, split: Any) -> list[str]:
        size = self.val_size if split == "val" else self.train_size
        return [f"{split} {place}" for place in range(size)]

    def is_over(self) -> bool:
        return len(self.runs) >= self.budget

    def count(self, split: Split, candidate: Candidate | None = None) -> int:
        """How many rollouts of a split there were, of one candidate or of all others
        than the first."""
        return sum(
            run[1] == split
            and (
                run[0] == candidate.digest if candidate else run[0] != self.start.digest
            )
            for run in self.runs
        )


class Teacher:
    """A rewriter that adds the rules it is shown; it may be made worse."""

    def __init__(self, most: int = 2, spoil: bool = False, texts: int = 9) -> None:
        self.most, self.spoil, self.texts = most, spoil, texts
        self.jobs: list[Job] = []

    async def rewrite(self, engine: Any, jobs: Sequence[Job]) -> list[Rewrite]:
        await asyncio.sleep(0)
        self.jobs += jobs
        return [
            self._rewrite(job, place)
            for job in jobs
            for place, _ in enumerate(job.targets)
        ]

    def _rewrite(self, job: Job, place: int) -> Rewrite:
        target = job.targets[place]
        if self.spoil:
            return Rewrite(f"Spoilt {job.seed}.", "for the worse")
        if place >= self.texts:
            return Rewrite()
        shown = [
            _RULE.search(call.feedback)
            for note in target.notes
            for call in note.evidence
            if call.score == 0.0
        ]
        rules = list(dict.fromkeys(int(m[1]) for m in shown if m))
        draw = random.Random(f"{job.seed}")
        picked = draw.sample(rules, min(self.most, len(rules)))
        new = [
            f" rule {rule}." for rule in picked if f"rule {rule}." not in target.text
        ]
        return Rewrite(target.text + "".join(new), "learned")


class Fixed:
    """A rewriter that gives the same value for every text, or fails."""

    def __init__(self, answer: Rewrite | Exception) -> None:
        self.answer = answer
        self.asked = 0

    async def rewrite(self, engine: Any, jobs: Sequence[Job]) -> list[Rewrite]:
        self.asked += len(jobs)
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer for job in jobs for _ in job.targets]


class Spoiler:
    """A rewriter that adds one sentence, which spoils what is right."""

    def __init__(self) -> None:
        self.asked = 0

    async def rewrite(self, engine: Any, jobs: Sequence[Job]) -> list[Rewrite]:
        self.asked += 1
        said = f" Of rule {self.asked % 4}: bad {self.asked % 4}."
        return [Rewrite(t.text + said) for job in jobs for t in job.targets]


def evolve(
    search: Memory, rewriter: Any = None, **options: Any
) -> tuple[Evolution, Candidate]:
    """Run a search; return it and the best candidate."""
    module = Two()
    optimizer = ReflectiveEvolution(
        module.parameters(), alias="m", rewriter=rewriter or Teacher(), **options
    )
    evolution = Evolution(optimizer, search)
    with contextlib.suppress(BudgetExceededError):
        asyncio.run(evolution.run())
    return evolution, evolution.book.ranked()[0][0].candidate


def true(search: Memory, candidate: Candidate) -> float:
    places = range(RULES)
    return sum(search.score(dict(candidate.values), p) for p in places) / RULES


def test_it_learns_what_the_evidence_says() -> None:
    """All rules are found within the budget, and the last accepted has them all."""
    search = Memory()
    _, best = evolve(search)
    assert true(search, best) == 1.0
    told = [candidate for word, candidate, _ in search.log if word == "accepted"]
    assert told[-1] == best


def test_the_parameters_are_not_written_to() -> None:
    """A search proposes; the trainer writes."""
    module = Two()
    optimizer = ReflectiveEvolution(module.parameters(), alias="m", rewriter=Teacher())
    asyncio.run(optimizer.search(Memory()))
    assert module.state_dict() == {"first": "Begin.", "second": "End."}


def test_it_learns_a_rule_that_all_texts_must_share() -> None:
    """Where no single change helps, one call proposes for all texts together."""
    search, teacher = Memory(both), Teacher()
    _, best = evolve(search, teacher)
    assert true(search, best) == 1.0
    joint = [job for job in teacher.jobs if len(job.targets) == 2]
    assert joint
    assert {job.mode for job in joint} == {"edits"}
    assert all("work together" in job.advice for job in joint)
    assert [t.name for t in joint[0].targets] == ["first", "second"]
    assert "The text of first:" in joint[0].targets[0].purpose


def only_start(values: dict[str, str], place: int) -> float:
    """Any change is for the worse."""
    return float(values["first"] == "Begin." and place % 2)


@pytest.mark.parametrize("coordinated", [True, False])
def test_what_edits_did_not_mend_is_written_anew(coordinated: bool) -> None:
    """By every second proposal from one parent, if the first brought nothing."""
    search, teacher = Memory(lambda values, place: 0.0), Teacher(texts=0)
    evolve(search, teacher, coordinated=coordinated)
    jobs = {job.seed: job for job in teacher.jobs}
    assert [jobs[n].mode for n in (0, 1, 2)] == ["edits", "rewrite", "edits"]
    assert "Write it anew" in jobs[1].advice and not jobs[1].targets[1:]


@pytest.mark.parametrize("coordinated", [True, False])
def test_all_texts_at_once_are_not_written_anew(coordinated: bool) -> None:
    """That would lose too much while there is something to try."""
    teacher = Teacher(spoil=True)
    evolve(Memory(only_start), teacher, coordinated=coordinated)
    assert ("rewrite" in [job.mode for job in teacher.jobs]) == (not coordinated)


def test_without_coordination_each_text_is_asked_for_alone() -> None:
    """The option does what it says."""
    teacher = Teacher()
    evolve(Memory(), teacher, coordinated=False)
    assert {len(job.targets) for job in teacher.jobs} == {1}


def test_several_proposals_are_asked_for_at_once_and_merged() -> None:
    """The first candidate of a round holds what all of its proposals learned."""
    search, teacher = Memory(), Teacher(most=1)
    evolution, _ = evolve(search, teacher, proposals=4, coordinated=False)
    first = evolution.pool.members[1].candidate.values["first"]
    assert len(_RULE.findall(first)) > 1
    assert {job.seed for job in teacher.jobs[:8]} == {0, 1, 2, 3}


def test_ties_are_accepted_and_losses_are_not() -> None:
    """A change without effect on the minibatch goes on, a bad one does not."""
    tie = Fixed(Rewrite("Something else."))
    search = Memory(lambda values, place: 0.0)
    evolution, _ = evolve(search, tie)
    assert len(evolution.pool) > 1

    def half(values: dict[str, str], place: int) -> float:
        return float(place % 2 and not any("Spoilt" in v for v in values.values()))

    search = Memory(half)
    evolution, best = evolve(search, Teacher(spoil=True))
    assert len(evolution.pool) == 1
    assert best == search.start
    assert any("refused" in reason for _, _, reason in search.log)


def spoilt(values: dict[str, str], place: int) -> float:
    """As `either`, but a sentence may forbid what an example needs."""
    text = " ".join(values.values())
    return float(f"bad {place % RULES}." not in text) * either(values, place)


def started(start: dict[str, str], **of: Any) -> Memory:
    """A search with other texts to begin with."""
    search = Memory(spoilt, **of)
    search.start = Candidate(start)
    return search


def test_a_sentence_that_does_harm_is_left_out() -> None:
    """Of all texts that have it, though the rewriter only adds."""
    rules = " ".join(f"About rule {n}." for n in range(RULES))
    start = {"first": f"Begin. {rules} Of rule 2: bad 2.", "second": "End."}
    start["second"] += "\n- Of rule 2: bad 2."
    search = started(start)
    _, best = evolve(search, Fixed(Rewrite("No use.")))
    assert best.values == {"first": f"Begin. {rules}", "second": "End."}
    left = [c for word, c, _ in search.log if word == "accepted"]
    assert best in left


@pytest.mark.parametrize("shorten", [True, False])
def test_what_is_about_nothing_is_left_out_at_the_end(shorten: bool) -> None:
    """Not what is needed, and not if nobody wants it."""
    rules = " ".join(f"About rule {n}." for n in range(RULES))
    talk = "Do take care. We value that. It matters, you know."
    search = started({"first": f"Begin. {talk} {rules}", "second": f"End. {talk}"})
    search.score = lambda values, place: spoilt(values, place) * (place != 11)
    evolution, _ = evolve(search, Fixed(Rewrite()), shorten=shorten)
    shortest = min(
        (len(m.candidate.values["first"]), m) for m in evolution.pool.members
    )
    values = dict(shortest[1].candidate.values)
    kept = {"first": f"Begin. {rules}", "second": "End."}
    assert values == (kept if shorten else search.start.values)
    assert all(true(search, m.candidate) == 1.0 for m in evolution.pool.members)


def test_no_minibatch_is_asked_for_where_all_examples_are_known() -> None:
    """The trainer ends a search whose minibatches bring nothing new."""

    class Counted(Memory):
        batches = 0

        def batch(self) -> Sequence[int]:
            self.batches += 1
            return super().batch()

    search = Counted(lambda values, place: float(place > 0), train_size=16)
    evolve(search, Fixed(Rewrite()))
    assert 2 <= search.batches <= 4


def test_no_constraint_is_broken_by_leaving_out() -> None:
    """A frozen span stays, whatever harm it does."""
    rules = " ".join(f"About rule {n}." for n in range(RULES))
    start = {"first": f"Begin. {rules} Of rule 2: bad 2.", "second": "End."}
    search = started(start)
    frozen = FrozenSpans("Of rule 2: bad 2.")
    evolve(search, Fixed(Rewrite()), constraints=[frozen])
    assert search.log
    tried = [candidate.values["first"] for _, candidate, _ in search.log]
    assert all("Of rule 2: bad 2." in text for text in tried)


def test_a_change_is_tested_where_it_may_matter() -> None:
    """What it is about is among the examples, and so it fails what it would spoil."""
    rules = " ".join(f"About rule {n}." for n in range(4))
    search = started({"first": f"Begin. {rules}", "second": "End."})
    _, best = evolve(search, Spoiler())
    tested = {
        candidate.values["first"]: reason
        for word, candidate, reason in search.log
        if word == "rejected"
    }
    spoiling = [text for text in tested if "bad" in text]
    assert spoiling and all("worse" in tested[text] for text in spoiling)
    assert "bad" not in best.values["first"]


def test_rejected_edits_are_shown_to_later_proposals() -> None:
    """What did not help is remembered, with the reason."""

    def half(values: dict[str, str], place: int) -> float:
        return float(place % 2 and not any("Spoilt" in v for v in values.values()))

    teacher = Teacher(spoil=True)
    evolve(Memory(half), teacher)
    assert teacher.jobs[-1].targets[0].rejected
    assert "refused" in teacher.jobs[-1].targets[0].rejected[0].why


def test_a_candidate_that_loses_on_held_out_examples_costs_few_of_them() -> None:
    """Good where it was tried and bad elsewhere: the race ends after one stretch."""

    def overfitted(values: dict[str, str], place: int) -> float:
        return float(not any("Spoilt" in text for text in values.values()))

    class Lures(Memory):
        async def rollouts(self, *args: Any, **options: Any) -> list[Rollout]:
            found = await super().rollouts(*args, **options)
            if options.get("split") == "val":
                return found
            return [Rollout(r.place, 0.0, r.feedback) for r in found]

    search = Lures(overfitted)
    _, best = evolve(search, Teacher(spoil=True), val_share=0.49)
    assert best == search.start
    lost = [c for _, c, reason in search.log if "it lost on 8 held-out" in reason]
    assert lost
    assert {search.count("val", candidate) for candidate in lost} == {8}


@pytest.mark.parametrize("seed", range(4))
def test_held_out_rollouts_stay_under_half(seed: int) -> None:
    """And under the share that was asked for, at any time."""
    search = Memory(both, seed=seed)
    evolve(search, Teacher(most=1), val_share=0.3)
    val = train = 0
    for digest, split, _ in search.runs:
        val += split == "val" and digest != search.start.digest
        train += split == "train"
        assert val <= 0.3 * (val + train) + 8
    assert val < 0.5 * len(search.runs)


def test_parents_come_from_the_front_only() -> None:
    """Every parent that was drawn was on the front at that time."""
    search = Memory(both)
    module = Two()
    optimizer = ReflectiveEvolution(module.parameters(), alias="m", rewriter=Teacher())
    evolution = Evolution(optimizer, search)
    draw = evolution.pool.draw

    def checked(rng: random.Random, sharpness: float, strengths: Any) -> Any:
        front = evolution.pool.weights(strengths)
        parent = draw(rng, sharpness, strengths)
        assert parent in front or not front
        return parent

    evolution.pool.draw = checked  # ty: ignore[invalid-assignment]
    with contextlib.suppress(BudgetExceededError):
        asyncio.run(evolution.run())
    assert len(evolution.pool) > 1


def test_two_that_learned_apart_are_crossed() -> None:
    """Both come from one ancestor and know different things; the cross knows both."""
    search = Memory()
    module = Two()
    optimizer = ReflectiveEvolution(module.parameters(), alias="m", rewriter=Teacher())
    evolution = Evolution(optimizer, search)
    base = Member(search.start, (), {0: 0.0, 1: 0.0})
    one = Member(search.start.with_values({"first": "rule 0."}), (base,), {0: 1, 1: 0})
    two = Member(search.start.with_values({"second": "rule 1."}), (base,), {0: 0, 1: 1})
    for member in (base, one, two):
        evolution.pool.add(member)

    async def crossed() -> bool:
        await evolution.book.run(one.candidate, range(8))
        return await evolution._cross() and not await evolution._cross()

    assert asyncio.run(crossed())
    child = evolution.pool.members[-1]
    assert child.candidate.values == {"first": "rule 0.", "second": "rule 1."}
    assert child.parents == (one, two)


def test_single_components_are_tried_where_the_joint_candidate_fails() -> None:
    """One good and one bad text in a proposal: the good one is kept."""

    class Mixed:
        async def rewrite(self, engine: Any, jobs: Sequence[Job]) -> list[Rewrite]:
            texts = {"first": "Good.", "second": "Bad."}
            return [Rewrite(texts[t.name]) for job in jobs for t in job.targets]

    def score(values: dict[str, str], place: int) -> float:
        if "Bad." in values["second"] and place % 4 in (1, 2):
            return 0.0
        return float(place % 4 > 0 or "Good." in values["first"])

    _, best = evolve(Memory(score), Mixed(), proposals=1)
    assert best.values == {"first": "Good.", "second": "End."}


@pytest.mark.parametrize("proposals", [1, 3])
def test_the_same_seed_gives_the_same_trajectory(proposals: int) -> None:
    """Rollouts, decisions and the best are the same, in order."""
    searches = [Memory(both, seed=3), Memory(both, seed=3), Memory(both, seed=4)]
    for search in searches:
        evolve(search, Teacher(), proposals=proposals, parents=2)
    one, same, other = searches
    assert one.runs == same.runs
    assert [e[:2] for e in one.log] == [e[:2] for e in same.log]
    assert one.runs != other.runs


@pytest.mark.parametrize("budget", [0, 5, 8, 20, 33, 61, 100])
def test_a_budget_that_is_gone_in_the_middle_ends_the_search(budget: int) -> None:
    """Wherever it happens, the trainer is told; what was accepted before counts."""
    search = Memory(both, budget=budget)
    evolve(search)
    assert len(search.runs) <= budget


def test_a_dead_rewriter_is_an_error() -> None:
    """It is not mistaken for having nothing to say."""
    dead = Fixed(ProposalError("the rewriting model could not be asked"))
    with pytest.raises(ProposalError, match="could not be asked"):
        evolve(Memory(), dead)


@pytest.mark.parametrize(
    "answer",
    [Rewrite(refused="It is empty."), Rewrite("Begin."), Rewrite(None)],
    ids=["empty", "unchanged", "nothing"],
)
def test_proposals_of_no_use_cost_no_rollouts(answer: Rewrite) -> None:
    """Only the first candidate is ever run, and the search ends."""
    search, rewriter = Memory(lambda values, place: 0.0), Fixed(answer)
    module = Two()
    module.second.apply_update("Begin.")
    search.start = Candidate({"first": "Begin.", "second": "Begin."})
    optimizer = ReflectiveEvolution(module.parameters(), alias="m", rewriter=rewriter)
    asyncio.run(optimizer.search(search))
    assert {digest for digest, _, _ in search.runs} == {search.start.digest}
    assert 0 < rewriter.asked < 60


def test_nothing_is_asked_where_all_is_right() -> None:
    """No mistakes, no proposals, and an end."""
    rewriter = Fixed(Rewrite("x"))
    search = Memory(lambda values, place: 1.0)
    evolve(search, rewriter)
    assert rewriter.asked == 0
    assert not search.log


def test_a_child_reuses_the_minibatch_that_it_was_tested_on() -> None:
    """No training example is run twice for one candidate."""
    search = Memory(both)
    evolve(search)
    assert len(search.runs) == len(set(search.runs))


def test_without_held_out_examples_it_chooses_by_training_ones() -> None:
    """No validation data, no validation; the search works still."""
    search = Memory(val_size=0)
    _, best = evolve(search)
    assert true(search, best) == 1.0
    assert not any(split == "val" for _, split, _ in search.runs)


def test_examples_without_a_score_are_left_out() -> None:
    """A loss that fails for some, also held-out ones, hinders nothing."""

    class Partial(Memory):
        async def rollouts(self, *args: Any, **options: Any) -> list[Rollout]:
            found = await super().rollouts(*args, **options)
            return [
                Rollout(r.place, None if r.place % 5 == 0 else r.score, r.feedback)
                for r in found
            ]

    search = Partial()
    _, best = evolve(search)
    assert true(search, best) > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minibatch": 0}, "minibatch=0: give a whole number, 1 or more"),
        ({"parents": True}, "parents=True: give a whole number"),
        ({"proposals": 1.5}, "proposals=1.5: give a whole number"),
        ({"val_share": 0.5}, "val_share=0.5: give the part of the rollouts"),
    ],
)
def test_numbers_out_of_range_are_refused(
    options: dict[str, Any], message: str
) -> None:
    """With what to give instead."""
    module = Two()
    with pytest.raises(UsageError, match=message):
        ReflectiveEvolution(module.parameters(), alias="m", **options)


def test_parameters_of_another_module_are_refused() -> None:
    """Before anything is run."""
    search = Memory()
    search.names = ["other"]
    module = Two()
    optimizer = ReflectiveEvolution(module.parameters(), alias="m", rewriter=Teacher())
    with pytest.raises(UsageError, match="none of those of the module in training"):
        asyncio.run(optimizer.search(search))
    assert not search.runs
