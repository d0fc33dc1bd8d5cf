"""`JointOptimizer`: prompts first, weights for what recurs, then shorter prompts.

One backward pass leaves notes on prompts and on the weights behind an alias. A prompt
is changed in seconds and read by people; weights cost minutes, but then no call pays
for the instruction. So a step does this, each part behind a gate:

1. The prompts' optimizer proposes; the proposal is written if the examples are not
   worse with it, else it is rejected.
   Then one other value of its demonstrations or choices is tried (`variations.py`), if
   it has any, and written if the examples are better with it. A run that is shown is
   no evidence: it does not count among them.
2. What was said of the model's answers is counted by instruction (`instructions.py`).
   One that was said in `recurring` steps is more than prompts can do: what was said in
   all of them goes to the server of the weights, which trains, and promotes or rejects.
   All other notes wait.
3. Where a version was promoted, the sentences that say what was sent are left out of
   the prompts, if the examples are as good without them (`compaction.py`). Then prompts
   come first again.

Nothing is forgotten where a step fails: lessons that the server did not take are sent
by the next one. The engine must not answer from memory, which knows the old weights.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inf_engine.errors import StateDictError, UsageError
from inf_engine.optimization.acceptance import Gate, Verdict
from inf_engine.optimization.adapters import AdapterOptimizer, AdapterStep
from inf_engine.optimization.compaction import (
    Compaction,
    check_least,
    left_out,
    sentences_of,
)
from inf_engine.optimization.groups import check_counts
from inf_engine.optimization.instructions import Instruction, Instructions, alike
from inf_engine.optimization.optimizer import Optimizer
from inf_engine.optimization.proposals import Proposal, Refusal, Step
from inf_engine.optimization.search import Candidate, Change
from inf_engine.optimization.trial import Outcome, Trial
from inf_engine.optimization.variations import Variations, gained


@dataclass(frozen=True, slots=True)
class Recurrence:
    """An instruction that was said.

    Args:
        text: The words in which it was said first.
        times: In how many steps it was said since weights last learnt it.
        sent: How many lessons about it were sent to the weights in this step.
    """

    text: str
    times: int
    sent: int = 0

    def __str__(self) -> str:
        steps = "step" if self.times == 1 else "steps"
        sent = f", {self.sent} lessons sent to the weights" if self.sent else ""
        return f"said in {self.times} {steps}: {self.text!r}{sent}"


@dataclass(frozen=True, slots=True)
class JointStep:
    """What a step did; prints in words.

    Args:
        number: Its number, from 0.
        prompts: What was written into prompts, and what was refused and why.
        verdict: What the examples said of the proposal, None if there was none.
        varied: What was written into demonstrations or choices, or refused and why;
            None if nothing was tried.
        said: The instructions that were said, or sent.
        weights: What came of the weights, None if nothing was sent.
        compaction: What was left out of prompts, None if no version was promoted.
    """

    number: int
    prompts: Step
    verdict: Verdict | None = None
    said: tuple[Recurrence, ...] = ()
    weights: AdapterStep | None = None
    compaction: Compaction | None = None
    varied: Step | None = None

    def __str__(self) -> str:
        parts = [("prompt", self.prompts), ("value", self.varied)]
        lines: list[str] = []
        for what, step in parts:
            if step is not None:
                lines += [f"{what} {c.parameter} changed" for c in step.updates]
                refused = [(r.parameter, r.reason) for r in step.refused]
                lines += [f"{what} {name} stays: {why}" for name, why in refused]
        lines += [str(recurrence) for recurrence in self.said]
        for update in () if self.weights is None else self.weights.updates:
            why = "".join(f"; {reason}" for reason in update.reasons)
            lines.append(f"weights {update.lora}: {update.state}{why}")
        if self.compaction is not None:
            lines.append(str(self.compaction))
        return "\n".join([f"step {self.number}:", *(lines or ["nothing to do"])])


class JointOptimizer:
    """Improves prompts, and the weights where the same instruction keeps recurring.

    Args:
        prompts: Proposes texts.
        weights: Sends to a CLaaS server.
        module: The module that both are about.
        examples: What the gate looks at, as for `DataLoader`: the instructions have to
            matter for some of them.
        loss: Judges the outputs.
        engine: Runs all; None for that of `prompts`, or that the module is bound to.
        recurring: In how many steps an instruction has to be said before the weights
            learn it, 1 or more; at 1 they learn together with the prompts.
        gate: What the scores of changed prompts, longer or shorter, have to keep to;
            None for ``Gate("not worse")``.
        least: The mean score, from 0 to 1, that there has to be without a sentence for
            it to be left out: the weights comply.
        same: Says whether two notes give the same instruction; `alike` by their words.
        target: The field of an example that is its target; empty for all of it.

    Raises:
        UsageError: If a part is of a wrong kind, there is no engine, or the engine has
            a cache or a journal.

    Attributes:
        steps: How many steps were taken.

    Example::

        both = JointOptimizer(prompts, weights, module, examples, loss, engine=engine)
        await feedback.backward()
        print(await both.step())
    """

    def __init__(
        self,
        prompts: Optimizer,
        weights: AdapterOptimizer,
        module: Any,
        examples: Any,
        loss: Any,
        *,
        engine: Any = None,
        recurring: int = 3,
        gate: Gate | None = None,
        least: float = 0.5,
        same: Callable[[str, str], bool] = alike,
        target: str = "",
    ) -> None:
        _check_kinds(prompts, weights)
        check_counts(least=1, recurring=recurring)
        self.prompts, self.weights = prompts, weights
        self.least = check_least(least)
        self.steps = 0
        engine = prompts.engine if engine is None else engine
        self._trial = Trial(
            module, examples, loss, engine=engine, gate=gate, target=target
        )
        self._instructions = Instructions(recurring, same)
        held = prompts._trainable().items()
        parameters = {name: one.parameter for name, one in held}
        sources = self._trial.sources
        self._variations = Variations(parameters, random.Random(0), sources)

    async def step(self) -> JointStep:
        """Act on the notes that a backward pass left.

        Raises:
            ProposalError: If the rewriter could not be asked. Nothing is changed.
            TrainingError: If the server refuses, or no example could be run.
            EndpointError: If the server cannot be reached. What was to be sent waits.
            LossError: If the loss failed for all examples.
            BudgetExceededError: If a budget does not allow it.
        """
        written, verdict, known = await self._prompted()
        varied = await self._varied(known) if self._variations else None
        heard = self._heard(written)
        due = self._instructions.due()
        said = [
            Recurrence(one.text, one.times, len(one.lessons) if one in due else 0)
            for one in [*heard, *[one for one in due if one not in heard]]
        ]
        weights = await self._taught(due) if due else None
        compaction = None
        if weights is not None and weights.is_promoted:
            self._instructions.learnt(due)
            compaction = await self._compacted()
        self.steps += 1
        done = self.steps - 1, written, verdict, tuple(said), weights, compaction
        return JointStep(*done, varied)

    # -- state ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what later steps depend on, as JSON; the values are the module's."""
        return {
            "kind": type(self).__name__,
            "steps": self.steps,
            "instructions": self._instructions.state_dict(),
            "prompts": self.prompts.state_dict(),
            "weights": self.weights.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` gave. Nothing is changed unless all of it fits.

        Args:
            state: The state of one whose optimizers have the same parameters.

        Raises:
            StateDictError: If it does not fit.
        """
        kind = type(self).__name__
        if not isinstance(state, Mapping) or state.get("kind") != kind:
            raise StateDictError(
                f"this is no state of {kind}: give what the state_dict() of a {kind} "
                "gave."
            )
        before = self.state_dict()
        try:
            self._load(state)
        except (StateDictError, KeyError, TypeError, ValueError) as exc:
            self._load(before)
            if isinstance(exc, StateDictError):
                raise
            raise StateDictError(
                f"the state of {kind} is damaged ({type(exc).__name__}): give what "
                "state_dict() gave."
            ) from exc

    def __repr__(self) -> str:
        recurring = self._instructions.recurring
        return (
            f"JointOptimizer({self.prompts!r}, {self.weights!r}, recurring={recurring})"
        )

    # -- inside -----------------------------------------------------------------

    async def _prompted(self) -> tuple[Step, Verdict | None, Outcome | None]:
        """Change the prompts, if the examples are not worse with the changes.

        Returns:
            What was written, what the examples said of it, and what comes of them now.
        """
        proposal = await self.prompts.propose(engine=self._trial.engine)
        if not proposal.changes:
            return self.prompts.apply(proposal), None, None
        before = await self._trial.run()
        after = await self._trial.run(proposal.values)
        verdict = self._trial.judge(before, after)
        if verdict.accepted:
            return self.prompts.apply(proposal), verdict, after
        step = self.prompts.apply(_refused(proposal, verdict.reason))
        return step, verdict, before

    async def _varied(self, known: Outcome | None) -> Step | None:
        """Try another value of what is no text, if the examples could be better."""
        here = Candidate(self._trial.module.state_dict())
        before = known or await self._trial.run()
        self._variations.learn(here, before.rollouts)
        is_right = all(score >= 1.0 for score in before.scores.values())
        variation = None if is_right else self._variations.next(here)
        if variation is None:
            return None
        after = await self._trial.run(variation.values)
        places = self._variations.tests(variation, before.scores)
        verdict = self._trial.judge(before.only(places), after.only(places))
        kept, changes = gained(verdict), variation.changes
        self._variations.told(variation, kept)
        if not kept:
            refused = _refused(Proposal(changes), verdict.reason).refused
            return Step(self.steps, refused=refused)
        self.prompts._write([(c.parameter, c.before, c.after) for c in changes])
        return Step(self.steps, changes)

    def _heard(self, written: Step) -> list[Instruction]:
        """Count what waits on the weights, and take it."""
        adapters = self.weights.adapters
        notes = [note for adapter in adapters for note in adapter.feedback]
        heard = self._instructions.hear(notes, self.weights.high)
        self._instructions.credit(heard, written.updates)
        for adapter in adapters:
            adapter.zero_feedback()
        return heard

    async def _taught(self, due: list[Instruction]) -> AdapterStep:
        """Send what was said of instructions that recur, with what was praised."""
        lessons = [lesson for one in due for lesson in one.lessons]
        step = await self.weights.teach([*lessons, *self._instructions.praise])
        self._instructions.sent(due)
        return step

    async def _compacted(self) -> Compaction:
        """Leave out of the prompts what the weights have been taught."""
        held = self.prompts._trainable().items()
        texts = {name: one for name, one in held if one.parameter.is_text}
        wanted = self._instructions.said_by(sentences_of(texts))
        found, values = await left_out(self._trial, texts, wanted, self.least)
        changes = [
            Change(name, texts[name].parameter.value, new, "the weights comply")
            for name, new in values.items()
        ]
        if changes:
            self.prompts.apply(Proposal(tuple(changes)))
        return found

    def _load(self, state: Mapping[str, Any]) -> None:
        steps = int(state["steps"])
        self._instructions.load_state_dict(state["instructions"])
        self.prompts.load_state_dict(state["prompts"])
        self.weights.load_state_dict(state["weights"])
        self.steps = steps


def _refused(proposal: Proposal, reason: str) -> Proposal:
    """Return a proposal whose changes are all refused."""
    each = proposal.changes
    refused = [Refusal(c.parameter, reason, c.before, c.after) for c in each]
    return Proposal(
        (), proposal.unchanged, (*proposal.refused, *refused), proposal.seen
    )


def _check_kinds(prompts: Any, weights: Any) -> None:
    if not isinstance(weights, AdapterOptimizer):
        raise UsageError(
            f"the weights' optimizer is a {type(weights).__name__}: give an "
            "AdapterOptimizer(module.parameters(), url=...)."
        )
    if not isinstance(prompts, Optimizer) or isinstance(prompts, AdapterOptimizer):
        raise UsageError(
            f"the prompts' optimizer is a {type(prompts).__name__}: give one that "
            "proposes texts, such as TextGradientDescent(module.parameters(), ...)."
        )
