"""`ComparingOptimizer`: the base of optimizers that need scores and no feedback."""

from typing import Any

from inf_engine.errors import UsageError
from inf_engine.optimization.optimizer import Optimizer
from inf_engine.optimization.proposals import Proposal, Step


class ComparingOptimizer(Optimizer):
    """Compares values by their scores, so it takes no step from feedback.

    Args:
        params: Parameters, or groups of them (see `Optimizer`).
        **options: The other arguments of `Optimizer`.
    """

    async def step(self) -> Step:
        """Refuse: its values are not made from feedback.

        Raises:
            UsageError: Always.
        """
        return self.apply(await self.propose())

    async def propose(self, *args: Any, **kwargs: Any) -> Proposal:
        """Refuse: its values are not made from feedback.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            f"{type(self).__name__} takes no step from feedback: it compares scores. "
            "Train with Trainer(..., optimizer=...).fit(...), which calls its search."
        )
