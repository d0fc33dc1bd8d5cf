"""`TextGradientDescent`: the batch's notes are the gradient, edits are the step."""

from collections.abc import Iterable, Sequence
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.optimization.constraints import Constraint
from inf_engine.optimization.optimizer import Optimizer
from inf_engine.optimization.schedule import EditSchedule


class TextGradientDescent(Optimizer):
    """One rewrite of each text per batch, from all notes of the batch at once.

    The learning rate is how many edits a step may make to one text. Momentum is how
    many earlier steps' notes stay in view, so that a step does not undo what an
    earlier batch asked for.

    Args:
        params: Parameters, or groups of them (see `Optimizer`).
        engine: Runs the rewriter; a search uses the trainer's.
        alias: The rewriting model.
        edits: How many edits a step may make to one text, 1 or more.
        momentum: How many earlier steps' notes are shown, 0 or more.
        schedule: Gives the number of edits for each step, in place of `edits`.
        constraints: What new texts are held to.
        **options: The other arguments of `Optimizer`.

    Raises:
        UsageError: As `Optimizer`, and if `edits` and `schedule` are both given.

    Example:
        >>> from inf_engine import InferenceModule, Parameter
        >>> class Desk(InferenceModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.rules = Parameter("Be brief.", "how to answer")
        >>> desk = Desk()
        >>> TextGradientDescent(desk.parameters(), alias="smart", edits=2)
        TextGradientDescent(1 parameters, 1 groups)
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        engine: Any = None,
        alias: str | None = None,
        edits: int | None = None,
        momentum: int = 2,
        schedule: EditSchedule | None = None,
        constraints: Sequence[Constraint] = (),
        **options: Any,
    ) -> None:
        if edits is not None and schedule is not None:
            raise UsageError(
                "edits and schedule both say how many edits a step may make: give one "
                "of them, such as schedule=LinearEdits(5, 1, steps=20)."
            )
        if edits is None:
            edits = self.options["edits"]
        super().__init__(
            params,
            engine=engine,
            alias=alias,
            edits=edits if schedule is None else schedule,
            momentum=momentum,
            constraints=constraints,
            **options,
        )
