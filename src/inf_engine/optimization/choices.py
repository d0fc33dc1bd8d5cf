"""`ChoiceParameter`: one of a few given values; `ChoiceSearch` looks for the best.

A choice is a model alias, a temperature, how many samples are drawn: whatever decides
quality and cost and is no text. As an argument of an `LLMInference` (its alias,
temperature, top_p, max_tokens, seed) the call uses the value that is chosen; elsewhere
forward reads ``self.samples.value``.

The cost of a run is what its answers took when they were paid for, and not what was
billed: an answer out of the cache or the journal costs what it cost first, so that a
candidate does not look cheap because another one has paid for it, and a training that
runs again decides as it did.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

from inf_engine.demos import DemoParameter
from inf_engine.errors import (
    ParameterTypeError,
    ParameterValueError,
    TrainingError,
    UsageError,
    known_names,
)
from inf_engine.optimization.acceptance import Gate, Verdict
from inf_engine.optimization.comparing import ComparingOptimizer
from inf_engine.optimization.groups import check_counts
from inf_engine.optimization.objective import Objective, judge, means
from inf_engine.optimization.search import Candidate, Change, Search, Split, names_in
from inf_engine.optimization.variations import variations_of
from inf_engine.parameter import Parameter
from inf_engine.record import Call, RunRecord
from inf_engine.resources.estimate import CHARACTERS_PER_TOKEN, TokenEstimator
from inf_engine.resources.prices import Price
from inf_engine.types import LLMResponse, Usage

_MOST_SHOWN = 16  # minibatches of a round in which demonstrations are tried

Choice: TypeAlias = str | int | float | bool | None


class ChoiceParameter(Parameter):
    """One of a few values.

    Args:
        value: The one to begin with.
        choices: All of them: text, numbers, booleans or None, each once.
        description: What is chosen.
        requires_grad: Whether optimizers may choose another one.

    Raises:
        ParameterTypeError: If a choice is of another kind, or the choices are no list.
        ParameterValueError: If the value is no choice, or a choice comes twice.

    Example:
        >>> alias = ChoiceParameter("fast", ["fast", "smart"])
        >>> alias.value = "smart"
        >>> alias
        ChoiceParameter('smart', ['fast', 'smart'])
    """

    is_text: ClassVar[bool] = False

    def __init__(
        self,
        value: Choice,
        choices: Sequence[Choice],
        description: str = "",
        *,
        requires_grad: bool = True,
    ) -> None:
        self._choices = _checked_choices(choices)
        given: Any = value
        super().__init__(given, description, requires_grad=requires_grad)

    @property
    def value(self) -> Any:
        """The value that is chosen; setting it chooses another one."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = self._checked(value)
        for holder in self._holders_left():
            module = holder()
            if module is not None:
                module._parameter_changed(self)

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values that it may have."""
        return self._choices

    def _checked(self, value: Any) -> Any:
        for choice in self._choices:
            if _same(choice, value):
                return choice
        raise ParameterValueError(
            f"{self._label()} must be one of {list(self._choices)}, not {value!r:.60}."
        )

    def _label(self) -> str:
        name = self.name
        return f"parameter {name!r}" if name else "the value of a ChoiceParameter"

    def __str__(self) -> str:
        return str(self._value)

    def __format__(self, spec: str) -> str:
        return format("None", spec) if self._value is None else super().__format__(spec)

    def __repr__(self) -> str:
        frozen = "" if self.requires_grad else ", requires_grad=False"
        return f"ChoiceParameter({self._value!r}, {list(self._choices)}{frozen})"


def _checked_choices(choices: Any) -> tuple[Any, ...]:
    if not isinstance(choices, list | tuple) or not choices:
        raise ParameterTypeError(
            "the choices of a ChoiceParameter must be a list with at least one value, "
            f"not {type(choices).__name__}: ChoiceParameter('fast', ['fast', 'smart'])."
        )
    for place, choice in enumerate(choices):
        if not (choice is None or type(choice) in (str, int, float, bool)):
            raise ParameterTypeError(
                f"choice {place} of a ChoiceParameter is of type "
                f"{type(choice).__name__}: use text, numbers, booleans or None."
            )
        if isinstance(choice, float) and not math.isfinite(choice):
            raise ParameterValueError(
                f"choice {place} of a ChoiceParameter is {choice}: use finite numbers."
            )
        if any(_same(choice, other) for other in choices[:place]):
            raise ParameterValueError(
                f"choice {place} of a ChoiceParameter is given twice: {choice!r:.60}."
            )
    return tuple(choices)


def _same(one: Any, other: Any) -> bool:
    """Say whether two values are the same choice; True is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


@dataclass(frozen=True, slots=True)
class TokenCost:
    """What a run costs: its tokens, or what they cost at given prices.

    As the endpoint counted them, also for an answer that is used again. Where it counts
    nothing they are estimated at 4 characters a token from what was asked and answered,
    reasoning included where it is shown.

    Args:
        prices: USD per million tokens for each alias; None to count tokens.

    Example:
        >>> cost = TokenCost({"fast": Price(0.1, 0.4), "smart": Price(2.0, 8.0)})
    """

    prices: Mapping[str, Price] | None = None

    def __call__(self, record: RunRecord) -> float:
        """Return the cost of a run, in USD or tokens.

        Args:
            record: What happened.

        Raises:
            UsageError: If an alias has no price.
        """
        return math.fsum(
            self._cost(node.alias or "", call)
            for node in record.nodes
            for call in node.calls
        )

    def _cost(self, alias: str, call: Call) -> float:
        answer = call.paid
        if answer is None:
            return 0.0
        usage = call.usage if call.usage.total_tokens else _estimated(call, answer)
        if self.prices is None:
            return usage.total_tokens
        if alias not in self.prices:
            raise UsageError(
                f"no price is given for the alias {alias!r}; "
                f"{known_names(alias, self.prices)}. Add it to prices, a local model "
                "with Price(0.0, 0.0)."
            )
        return self.prices[alias].cost(usage)


def _estimated(call: Call, answer: LLMResponse) -> Usage:
    """Return what a request and its answer take, by their characters."""
    tools = [f"{tool.name}{tool.arguments}" for tool in answer.tool_calls]
    written = len(answer.text) + len(answer.reasoning) + sum(map(len, tools))
    read = TokenEstimator().input_tokens(call.request)
    return Usage(1, read, math.ceil(written / CHARACTERS_PER_TOKEN))


def billed(record: RunRecord) -> float:
    """Return what a run was billed, in USD.

    An answer out of the cache or the journal was billed to another run, so a run that
    has one is refused: use it with an engine that keeps no answers.

    Args:
        record: What happened.

    Raises:
        TrainingError: If an answer was used again, or its price is not known.
    """
    calls = [call for node in record.nodes for call in node.calls]
    if any(call.reused for call in calls):
        raise TrainingError(
            "the bill of a run is not known: it used answers of the cache or the "
            "journal again. Give prices instead: cost=TokenCost({'fast': Price(...)})."
        )
    cost = record.cost
    if cost is None:
        raise TrainingError(
            "the bill of a run is not known: a model has no price. Give the endpoint "
            "a price, or cost=TokenCost({'fast': Price(...)})."
        )
    return cost


class ChoiceSearch(ComparingOptimizer):
    """Chooses among the values of `ChoiceParameter`s, one parameter after the other.

    The objective of an example is its score less `cost_weight` times its cost. Each
    other value of each parameter is tried on a minibatch; where the objective is not
    lower there it is compared with the best so far on the held-out examples (on all
    training examples where there are none). So it goes round until a whole round
    changed nothing. Demonstrations are tried in the same way: subsets of the good runs
    that were seen (`Variations`). With a weight above 0 the cheaper of two values that
    score alike wins.

    Args:
        params: Parameters, or groups of them; texts and weights are left alone.
        engine: Not needed: it asks no model of its own.
        cost_weight: How much score one unit of `cost` is worth, 0 or more.
        cost: Gives the cost of a run: tokens (`TokenCost`), USD (`TokenCost` with
            prices, or `billed`), or any function of the record.
        rounds: How often to go round at most, 1 or more.
        gate: Judges the objective on the deciding examples; None for
            ``Gate("improves")``.

    Raises:
        UsageError: If there is nothing to choose, or an argument is wrong.

    Attributes:
        objectives: The mean score and the mean cost of each candidate on the deciding
            examples, by digest.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        engine: Any = None,
        cost_weight: float = 0.0,
        cost: Callable[[RunRecord], float] = TokenCost(),  # noqa: B008 - frozen
        rounds: int = 3,
        gate: Gate | None = None,
    ) -> None:
        check_counts(least=1, rounds=rounds)
        is_number = isinstance(cost_weight, int | float)
        if not (is_number and math.isfinite(cost_weight) and cost_weight >= 0):
            raise UsageError(
                f"cost_weight={cost_weight!r}: give the score that a unit of cost is "
                "worth, 0 or more."
            )
        if not callable(cost):
            raise UsageError(
                f"cost must be a function of the record, not {type(cost).__name__}: "
                "TokenCost(), TokenCost(prices) or billed."
            )
        super().__init__(params, engine=engine, gate=gate or Gate("improves"))
        self.cost_weight = float(cost_weight)
        self.cost = cost
        self.rounds = rounds
        self.objectives: dict[str, tuple[float, float]] = {}
        if not any(isinstance(h.parameter, ChoiceParameter) for h in self._held):
            raise UsageError(
                "ChoiceSearch got no ChoiceParameter: hold one in the module, such as "
                "LLMInference(ChoiceParameter('fast', ['fast', 'smart']))."
            )

    async def search(self, search: Search) -> None:
        """Look for better choices; see the class.

        Args:
            search: What the trainer offers. No parameter is written to.

        Raises:
            UsageError: If none of its names is one of ours.
            BudgetExceededError: If the budget does not allow the next call.
        """
        await _Rounds(self, search).run()

    def objective(self, score: float, record: RunRecord) -> Objective:
        """Return what a run is worth; the trainer chooses the best by it, too.

        Args:
            score: Its score, in [0, 1].
            record: What happened.

        Raises:
            UsageError: If `cost` gives no finite number of 0 or more.
        """
        cost = self.cost(record)
        _check_cost(cost)
        return Objective(score, cost, self.cost_weight)

    def _changes(self, parameter: Parameter) -> bool:
        return parameter.choices is not None or isinstance(parameter, DemoParameter)


class _Rounds:
    """One search of a `ChoiceSearch`."""

    def __init__(self, optimizer: ChoiceSearch, search: Search) -> None:
        self.optimizer = optimizer
        self.search = search
        self.split: Split = "val" if search.val_size else "train"
        self.places = range(search.val_size or search.train_size)
        held = optimizer._trainable()
        names = names_in(search, tuple(held))
        self.choices = {name: held[name].parameter.choices or () for name in names}
        demos = [name for name in names if not self.choices[name]]
        parameters = {name: one.parameter for name, one in held.items()}
        self.variations = variations_of(parameters, search, demos)
        self.best = search.start
        self.tried = {search.start.digest}

    async def run(self) -> None:
        """Go round until nothing changes, or the search is over."""
        for _ in range(self.optimizer.rounds):
            before = self.best
            for name in self.choices:
                await self._choose(name)
            for _ in range(_MOST_SHOWN if self.variations else 0):
                if not await self._show():
                    break
            if self.best == before or self.search.is_over():
                return

    async def _show(self) -> bool:
        """Try other demonstrations; say whether to go on."""
        batch = self.search.batch()
        runs = await self.search.rollouts(self.best, batch, record=True)
        self.variations.learn(self.best, runs)
        variation = self.variations.next(self.best, batch)
        if variation is None or self.search.is_over():
            return self.variations.is_learning and not self.search.is_over()
        candidate = self.best.with_values(variation.values)
        places = self.variations.tests(variation, batch)
        kept = await self._try(candidate, variation.changes, places)
        self.variations.told(variation, kept)
        return True

    async def _choose(self, name: str) -> None:
        """Try every other value of one parameter."""
        for choice in self.choices[name]:
            candidate = self.best.with_values({name: choice})
            if candidate.digest in self.tried or self.search.is_over():
                continue
            self.tried.add(candidate.digest)
            before = self.best.values[name]
            change = Change(name, before, choice, "another choice")
            await self._try(candidate, [change], self.search.batch())

    async def _try(
        self, candidate: Candidate, changes: Sequence[Change], batch: Sequence[int]
    ) -> bool:
        """Take a candidate in place of the best if it is better; say whether it is."""
        verdict = await self._judged(candidate, batch)
        self.optimizer.steps += 1
        if not verdict.accepted:
            self.search.rejected(candidate, [self.best], changes, verdict.reason)
            return False
        self.search.accepted(candidate, [self.best], changes, verdict)
        self.best = candidate
        return True

    async def _judged(self, candidate: Candidate, batch: Sequence[int]) -> Verdict:
        """Compare a candidate with the best, first on a minibatch, then in earnest."""
        verdict = await self._compared(candidate, batch, "train", Gate("not worse"))
        if not verdict.accepted:
            return replace(verdict, reason=f"on a minibatch: {verdict.reason}")
        gate = self.optimizer.gate
        return await self._compared(candidate, self.places, self.split, gate)

    async def _compared(
        self, candidate: Candidate, places: Sequence[int], split: Split, gate: Gate
    ) -> Verdict:
        """Judge two candidates by their objectives."""
        pairs = [await self._measured(c, places, split) for c in (self.best, candidate)]
        return judge(gate, *pairs)

    async def _measured(
        self, candidate: Candidate, places: Sequence[int], split: Split
    ) -> dict[int, Objective]:
        """Return the objective of each example that the loss could judge."""
        rollouts = await self.search.rollouts(
            candidate, places, split=split, record=True
        )
        found = {
            rollout.place: self.optimizer.objective(rollout.score, rollout.record)
            for rollout in rollouts
            if rollout.score is not None and rollout.record is not None
        }
        if split == self.split and found and len(places) == len(self.places):
            self.optimizer.objectives[candidate.digest] = means(found.values())
        return found


def _check_cost(cost: Any) -> None:
    is_number = isinstance(cost, int | float) and not isinstance(cost, bool)
    if not (is_number and math.isfinite(cost) and cost >= 0):
        raise UsageError(
            f"the cost of a run must be a finite number, 0 or more, not {cost!r:.60}: "
            "see to the function that was given as cost."
        )
