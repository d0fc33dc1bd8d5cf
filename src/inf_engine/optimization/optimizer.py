"""`Optimizer`: turns the notes that wait on parameters into better texts.

As in PyTorch it is given parameters, in groups that may have options of their own; a
step reads what feedback left on them. It proposes first and writes afterwards: a
proposal that is empty, unchanged, malformed or against a constraint is refused with the
reason and changes nothing, and a rewriter that cannot be asked raises `ProposalError`
before anything was written.

What was refused or rejected, and what earlier notes said, is remembered for each
parameter, in bounded numbers, and shown to the rewriter. `state_dict` holds all that a
later step depends on, so that a loaded optimizer goes on where the saved one stopped.

`search` is for the trainer: it looks for candidates and writes into no parameter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from inf_engine.errors import StateDictError, UsageError, known_names
from inf_engine.optimization.acceptance import Gate
from inf_engine.optimization.climb import Climb
from inf_engine.optimization.edits import unchanged as is_unchanged
from inf_engine.optimization.exhibits import as_notes, in_short
from inf_engine.optimization.groups import (
    OPTIONS,
    Held,
    check_counts,
    check_parameters,
    check_texts,
    checked_options,
    groups_of,
)
from inf_engine.optimization.proposals import Proposal, Refusal, Step
from inf_engine.optimization.rewriter import (
    Job,
    Rejected,
    Rewrite,
    Rewriter,
    Target,
)
from inf_engine.optimization.schedule import edits_at, schedule_from, schedule_state
from inf_engine.optimization.search import Change, Search
from inf_engine.parameter import Parameter

_MOST_UNDO = 16


class Optimizer:
    """Rewrites parameters by the notes that feedback left on them.

    It is usable as it is, and the base class of all optimizers. A search also tries
    other demonstrations and choices (`Variations`); a step has no examples for that.

    Args:
        params: Parameters, or groups of them: dicts with ``params`` and options that
            win over `defaults`.
        engine: Runs the rewriter; a search uses the trainer's.
        rewriter: What writes the proposals; None for a `Rewriter`.
        momentum: How many earlier steps' notes are shown, 0 or more.
        remember: How many rejected proposals are shown for each parameter, 0 or more.
        high: The score of an output that needs no change. If all notes on a parameter
            have it, the rewriter is not asked.
        gate: Judges a candidate of a search on its minibatch; None for
            ``Gate("not worse")``.
        held_out: Judges it on the held-out examples; None for the same rule.
        check_every: After how many candidates that passed `gate` the last one is
            judged on the held-out examples, 1 or more.
        **defaults: The options of groups that have none of their own: ``alias`` (the
            rewriting model), ``edits`` (how many a step may make to one text, or a
            schedule; 3), ``mode`` (``"edits"`` or ``"rewrite"`` of the whole text),
            ``coupled`` (whether the group's texts are proposed in one call; False) and
            ``constraints`` (none).

    Raises:
        UsageError: If there is nothing to train, a parameter comes twice or has no
            name, or an option is unknown or wrong.

    Attributes:
        param_groups: The groups, each with ``params`` and every option.
        steps: How many steps were taken.
    """

    options: ClassVar[Mapping[str, Any]] = OPTIONS

    def __init__(
        self,
        params: Iterable[Any],
        *,
        engine: Any = None,
        rewriter: Any = None,
        momentum: int = 0,
        remember: int = 6,
        high: float = 1.0,
        gate: Gate | None = None,
        held_out: Gate | None = None,
        check_every: int = 1,
        **defaults: Any,
    ) -> None:
        check_counts(momentum=momentum, remember=remember)
        check_counts(least=1, check_every=check_every)
        self.engine = engine
        self.rewriter: Any = Rewriter() if rewriter is None else rewriter
        self.momentum = momentum
        self.remember = remember
        self.high = high
        self.gate = gate or Gate("not worse")
        self.held_out = held_out or Gate("not worse")
        self.check_every = check_every
        self.defaults = {**self.options, **checked_options(defaults, self.options)}
        self.param_groups: list[dict[str, Any]] = []
        self.steps = 0
        self._held: list[Held] = []
        self._undo: list[Step] = []
        for group in groups_of(params):
            self.add_param_group(group)

    # -- parameters -------------------------------------------------------------

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters.

        Args:
            group: Its ``params``, and options that win over the defaults.

        Raises:
            UsageError: As the constructor. Nothing is added then.
        """
        if not isinstance(group, Mapping) or "params" not in group:
            raise UsageError(
                "a parameter group is a dict with 'params' and options: "
                "{'params': module.parameters(), 'alias': 'smart'}."
            )
        options = {name: group[name] for name in group if name != "params"}
        options = checked_options(options, self.options)
        given = group["params"]
        params = [given] if isinstance(given, Parameter) else list(given)
        check_parameters(params, [held.parameter for held in self._held])
        added = {**self.defaults, **options, "params": params}
        self._held += [Held(parameter, added) for parameter in params]
        self.param_groups.append(added)

    @property
    def names(self) -> tuple[str, ...]:
        """The dotted names of the parameters that may be changed, in order."""
        return tuple(self._trainable())

    def zero_feedback(self) -> None:
        """Empty the feedback of every parameter; the values stay."""
        for held in self._held:
            held.parameter.zero_feedback()

    # -- a step -----------------------------------------------------------------

    async def step(self) -> Step:
        """Propose from the notes that wait on the parameters, and apply it.

        Returns:
            What was written, and what was not and why.

        Raises:
            UsageError: If there is no engine or alias to ask, or no text to change.
            ProposalError: If the rewriter could not be asked. Nothing is written.
            BudgetExceededError: If the budget does not allow it. Nothing is written.
        """
        check_texts(type(self).__name__, self._trainable())
        return self.apply(await self.propose())

    async def propose(
        self,
        notes: Mapping[str, Sequence[Any]] | None = None,
        *,
        values: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
        engine: Any = None,
        seed: int | None = None,
        advice: str = "",
    ) -> Proposal:
        """Return new values that keep the constraints; nothing is written or noted.

        Parameters whose notes all tell of outputs that are right, or that have none,
        are left alone; without others no model is asked. All are asked concurrently.

        Args:
            notes: The notes by dotted name; None for those that wait on the parameters.
            values: The present values by dotted name, where they are not those of the
                parameters: a candidate's.
            names: The parameters to change; None for all that may be.
            engine: Runs the rewriter; None for the optimizer's own.
            seed: Tells this sample of the rewriter's answers from others.
            advice: What else to tell the rewriter.

        Raises:
            UsageError: If there is no engine or alias to ask, or a name is unknown.
            ProposalError: If the rewriter could not be asked.
            BudgetExceededError: If the budget does not allow it.
        """
        chosen = self._chosen(names)
        targets: dict[str, Target] = {}
        for name, held in chosen.items():
            value = held.parameter.state
            value = values.get(name, value) if values is not None else value
            about = held.parameter.feedback if notes is None else notes.get(name, ())
            if held.parameter.is_text:
                targets[name] = self._target(name, held, value, about)
        jobs = self._jobs(targets, seed, advice)
        asked = [target for job in jobs for target in job.targets]
        found = await self._asked(jobs, engine) if jobs else []
        return self._sorted(list(chosen), asked, found)

    def apply(self, proposal: Proposal) -> Step:
        """Write a proposal into the parameters, all of it or nothing.

        The feedback of what is written is emptied; it was about the old value.

        Args:
            proposal: What `propose` gave.

        Returns:
            The step, which `revert` can undo.

        Raises:
            UsageError: If a parameter is frozen or gone, or no longer has the value
                that the proposal starts from. Nothing is written.
        """
        self._write([(c.parameter, c.before, c.after) for c in proposal.changes])
        step = Step(self.steps, proposal.changes, proposal.unchanged, proposal.refused)
        self.learn(proposal)
        if step.updates:
            self._undo = [*self._undo, step][-_MOST_UNDO:]
        return step

    def revert(self, reason: str = "it was taken back") -> Step:
        """Undo the last step that wrote something; again for the one before it.

        What it had written is shown to later proposals as rejected. Feedback of the
        parameters is emptied. At most the last 16 steps can be undone.

        Args:
            reason: Why, told to the rewriter.

        Returns:
            The step that was undone.

        Raises:
            UsageError: If there is none, or a value is not as the step left it.
        """
        if not self._undo:
            raise UsageError(
                "there is no step to revert: none wrote anything, or all are undone."
            )
        step = self._undo[-1]
        self._write([(c.parameter, c.after, c.before) for c in step.updates])
        self._undo.pop()
        self.reject(step.updates, reason)
        return step

    def learn(self, proposal: Proposal) -> None:
        """Count a step, and remember what its notes said and what was refused.

        `apply` does it; a search does it for proposals that it does not apply.

        Args:
            proposal: What `propose` gave.
        """
        self.steps += 1
        everyone = self._by_name()
        for name, text in proposal.seen.items():
            if text and name in everyone:
                held = everyone[name]
                held.past = (
                    [*held.past, text][-self.momentum :] if self.momentum else []
                )
        for refusal in proposal.refused:
            if refusal.value is not None:
                tried = Rejected(refusal.before, refusal.value, refusal.reason)
                self._remember(refusal.parameter, tried)

    def reject(self, changes: Iterable[Change], reason: str) -> None:
        """Remember changes that did not help, for later proposals.

        Args:
            changes: What was tried.
            reason: What came of it, told to the rewriter.
        """
        for change in changes:
            tried = Rejected(change.before, change.after, reason)
            self._remember(change.parameter, tried)

    # -- a search ---------------------------------------------------------------

    async def search(self, search: Search) -> None:
        """Look for better candidates until the search is over; see `Climb`.

        Args:
            search: What the trainer offers. No parameter is written to.

        Raises:
            UsageError: If none of its names is one of ours.
            ProposalError: If the rewriter could not be asked.
            CriticError: If the critic failed.
            BudgetExceededError: If the budget does not allow the next call.
        """
        await Climb(self, search).run()

    # -- state ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what later steps depend on, as JSON; the values are the module's.

        Engine, aliases, constraints and schedules of one's own are not in it.
        """
        return {
            "kind": type(self).__name__,
            "steps": self.steps,
            "momentum": self.momentum,
            "edits": [schedule_state(group["edits"]) for group in self.param_groups],
            "parameters": {
                name: {
                    "past": list(held.past),
                    "rejected": [asdict(tried) for tried in held.rejected],
                }
                for name, held in self._by_name().items()
            },
            "undo": [asdict(step) for step in self._undo],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` gave. Nothing is changed unless all of it fits.

        Args:
            state: The state of an optimizer of the same class, with parameters of the
                same names in as many groups.

        Raises:
            StateDictError: If it does not fit.
        """
        own = self._by_name()
        self._check_state(state, own)
        try:
            undo = [Step.of_state(step) for step in state["undo"]]
            parts = state["parameters"].items()
            past = {name: [str(text) for text in part["past"]] for name, part in parts}
            rejected = {
                n: [Rejected(**r) for r in part["rejected"]] for n, part in parts
            }
            steps, momentum = int(state["steps"]), int(state["momentum"])
            edits = [None if e is None else schedule_from(e) for e in state["edits"]]
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise StateDictError(
                f"the state of {type(self).__name__} is damaged "
                f"({type(exc).__name__}): give what state_dict() gave."
            ) from exc
        self.steps, self.momentum, self._undo = steps, momentum, undo
        for name, held in own.items():
            held.past, held.rejected = past[name], rejected[name]
        for group, number in zip(self.param_groups, edits, strict=True):
            group["edits"] = group["edits"] if number is None else number

    def __repr__(self) -> str:
        groups = len(self.param_groups)
        return f"{type(self).__name__}({len(self._held)} parameters, {groups} groups)"

    def _by_name(self) -> dict[str, Held]:
        """Return what is held, by dotted name."""
        return {held.parameter.name: held for held in self._held}

    def _trainable(self) -> dict[str, Held]:
        each = [(n, held, held.parameter) for n, held in self._by_name().items()]
        return {n: h for n, h, p in each if p.requires_grad and self._changes(p)}

    def _changes(self, parameter: Parameter) -> bool:
        """Say whether this optimizer changes such a parameter."""
        return not parameter.is_weights

    def _chosen(self, names: Iterable[str] | None) -> dict[str, Held]:
        """Return what is to be changed."""
        found = self._trainable()
        if names is None:
            return found
        wanted = list(names)
        for name in wanted:
            if name not in found:
                raise UsageError(
                    f"the optimizer has no parameter {name!r} that may be changed; "
                    f"{known_names(name, found)}."
                )
        return {name: held for name, held in found.items() if name in wanted}

    def _target(self, name: str, held: Held, text: str, notes: Sequence[Any]) -> Target:
        """Return what the rewriter is told of a parameter."""
        return Target(
            name=name,
            text=text,
            purpose=held.parameter.description,
            notes=as_notes(notes),
            rules=tuple([constraint.rule for constraint in held.constraints]),
            past=tuple(held.past[-self.momentum :] if self.momentum else ()),
            rejected=tuple(held.rejected),
            high=self.high,
        )

    def _jobs(
        self, targets: Mapping[str, Target], seed: int | None, advice: str
    ) -> list[Job]:
        """Return the calls to make: one for each text, or for each coupled group."""
        everyone = self._by_name()
        jobs: list[Job] = []
        for group in self.param_groups:
            own = [t for name, t in targets.items() if everyone[name].group is group]
            wrong = [target for target in own if target.needs_work]
            if not wrong:
                continue
            if not group["alias"]:
                raise UsageError(
                    f"no model to ask for a better text of {wrong[0].name!r}: give the "
                    "optimizer alias='smart', or its group an 'alias'."
                )
            edits = edits_at(group["edits"], self.steps)
            parts = [tuple(own)] if group["coupled"] else [(one,) for one in wrong]
            jobs += [
                Job(part, group["alias"], edits, group["mode"], seed, advice)
                for part in parts
            ]
        return jobs

    async def _asked(self, jobs: Sequence[Job], engine: Any) -> list[Rewrite]:
        """Return what the rewriter proposes."""
        engine = self.engine if engine is None else engine
        if engine is None:
            raise UsageError(
                f"{type(self).__name__} has no engine to ask a model with: pass "
                "engine=engine to it, or to propose."
            )
        found: list[Rewrite] = await self.rewriter.rewrite(engine, jobs)
        return found

    def _sorted(
        self, names: list[str], asked: Sequence[Target], found: Sequence[Rewrite]
    ) -> Proposal:
        """Return rewrites as changes and refusals, in the order of the parameters."""
        everyone = self._by_name()
        changes, refused = [], []
        for target, rewrite in zip(asked, found, strict=True):
            name, old, new = target.name, target.text, rewrite.text
            why = rewrite.refused
            if new is not None and not why:
                why = everyone[name].broken(old, new)
                why = why or ("It changes nothing." if is_unchanged(old, new) else "")
            if why:
                refused.append(Refusal(name, why, old, new))
            elif new is not None:
                changes.append(Change(name, old, new, rewrite.reason))
        told = [item.parameter for item in [*changes, *refused]]
        left = tuple([name for name in names if name not in told])
        seen = {target.name: in_short(target.notes, self.high) for target in asked}
        return Proposal(tuple(changes), left, tuple(refused), seen)

    def _write(self, values: Sequence[tuple[str, Any, Any]]) -> None:
        """Set values by name from what they are to what they become."""
        found = self._trainable()
        for name, before, _ in values:
            if name not in found:
                raise UsageError(
                    f"{name!r} is frozen or none of the optimizer's parameters now: "
                    f"nothing was written; {known_names(name, found)}."
                )
            if found[name].parameter.state != before:
                raise UsageError(
                    f"the value of {name!r} was changed by somebody else meanwhile: "
                    "nothing was written. Propose again from the present value."
                )
        for name, _, after in values:
            found[name].parameter.apply_update(after)

    def _remember(self, name: str, tried: Rejected) -> None:
        """Keep a rejected proposal, the newest ones only, each once."""
        held = self._by_name().get(name)
        if held is not None and self.remember:
            others = [old for old in held.rejected if old.after != tried.after]
            held.rejected = [*others, tried][-self.remember :]

    def _check_state(self, state: Any, own: Mapping[str, Held]) -> None:
        """Refuse the state of another optimizer."""
        kind = type(self).__name__
        told = state.get("kind") if isinstance(state, Mapping) else None
        if told != kind:
            raise StateDictError(
                f"this is no state of {kind}: give what the state_dict() of a {kind} "
                "gave."
            )
        names = list(state.get("parameters", ()))
        groups = len(state.get("edits", ()))
        if sorted(names) != sorted(own) or groups != len(self.param_groups):
            raise StateDictError(
                f"the state is of {sorted(names)} in {groups} groups, the {kind} has "
                f"{sorted(own)} in {len(self.param_groups)}: build it with the same "
                "parameters and groups."
            )
