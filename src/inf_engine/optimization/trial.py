"""`Trial`: what other values of a module's parameters are worth on examples."""

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.optimization.acceptance import Gate, Verdict
from inf_engine.optimization.intervals import mean_interval
from inf_engine.optimization.loss import lend_engine
from inf_engine.optimization.runner import Runner
from inf_engine.optimization.search import Rollout
from inf_engine.optimization.shown import source_of
from inf_engine.record import RunRecord
from inf_engine.resources.estimate import TokenEstimator

_AS_IT_IS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the examples with some values.

    Args:
        scores: The score of each example, from 0 to 1, by its place; those for which
            the loss failed are left out.
        tokens: How many tokens the prompts of a run have, on average; as the endpoint
            counted them, estimated where it counts nothing.
        rollouts: The runs.
    """

    scores: Mapping[int, float]
    tokens: float
    rollouts: Sequence[Rollout] = field(default=(), repr=False)

    def only(self, places: Collection[int]) -> "Outcome":
        """Return the scores of some examples only.

        Args:
            places: Their places.
        """
        left = {p: score for p, score in self.scores.items() if p in places}
        return replace(self, scores=left)


class Trial:
    """Runs a module on examples, with its values or others, and compares.

    Args:
        module: The module; copies of it are run.
        examples: The examples, as for `DataLoader`.
        loss: Judges the outputs.
        engine: Runs both; None for the engine that the module is bound to.
        gate: Says from the scores before and after whether a change may stay; None for
            ``Gate("not worse")``.
        target: The field of an example that is its target; empty for all of it.

    Raises:
        UsageError: If there is no engine, or it answers from memory though weights
            may change; if an example does not fit; or if the loss only ranks.
    """

    def __init__(
        self,
        module: Any,
        examples: Any,
        loss: Any,
        *,
        engine: Any = None,
        gate: Gate | None = None,
        target: str = "",
    ) -> None:
        engine = module._engine if engine is None else engine
        _check(module, loss, engine)
        lend_engine(loss, engine)
        self.module = module
        self.engine = engine
        self.gate = gate or Gate("not worse")
        self._runner = Runner(module, loss, engine, target=target)
        self._calls = self._runner.read(examples)

    async def run(self, values: Mapping[str, Any] = _AS_IT_IS) -> Outcome:
        """Return the scores with some values in place of the module's own.

        Args:
            values: Other values, by dotted name.

        Raises:
            TrainingError: If no run reached an endpoint.
            LossError: If the loss failed for all examples.
            BudgetExceededError: If a budget does not allow all of it.
        """
        module = copy.deepcopy(self.module)
        module.load_state_dict({**module.state_dict(), **values})
        places = range(len(self._calls))
        made = await self._runner.rollouts(module, self._calls, places, strict=True)
        self._runner.check_loss(made)
        scores = {r.place: r.score for r in made if r.score is not None}
        read = [_read(r.record) for r in made if r.record is not None]
        return Outcome(scores, math.fsum(read) / max(1, len(read)), made)

    @property
    def sources(self) -> list[str]:
        """The digests of the inputs of the examples."""
        return [source_of(call) for call in self._calls]

    def judge(self, before: Outcome, after: Outcome, least: float = 0.0) -> Verdict:
        """Return whether a change may stay.

        Args:
            before: What came without the change.
            after: What came with it.
            least: The mean score that there has to be with it, from 0 to 1.
        """
        verdict = self.gate.judge(before.scores, after.scores)
        score = mean_interval(list(after.scores.values())).mean
        if not verdict.accepted or score >= least:
            return verdict
        why = f"the mean score is {score:.2g}, and {least:g} is the least"
        return replace(verdict, accepted=False, reason=f"refused: {why}")


def _check(module: Any, loss: Any, engine: Any) -> None:
    """Refuse what can prove nothing."""
    if engine is None:
        raise UsageError(
            f"there is no engine to run {type(module).__name__} with: pass "
            "engine=engine, or bind the module with module.bind(engine)."
        )
    if getattr(loss, "is_relative", False):
        raise UsageError(
            f"{type(loss).__name__} says which output of a batch is better: the mean "
            "of its scores is always the same. Use ComparisonLoss, which compares with "
            "a reference."
        )
    if engine._scheduler.memory is not None and any(
        parameter.is_weights for parameter in module.parameters()
    ):
        raise UsageError(
            "the engine has a journal or a cache, which answers what an earlier "
            "version of the weights said: give an Engine without them."
        )


def _read(record: RunRecord) -> int:
    """Return how many tokens the prompts of a run have."""
    calls = [call for node in record.nodes for call in node.calls]
    guess = TokenEstimator().input_tokens
    return sum(call.usage.input_tokens or guess(call.request) for call in calls)
