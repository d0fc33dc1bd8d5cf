"""`Parameter`: a described text that an optimizer may rewrite."""

from typing import Any, ClassVar

from inf_engine.dispatch import dispatcher
from inf_engine.errors import ParameterTypeError, ParameterValueError
from inf_engine.naming import Named


class Parameter(Named):
    """A text value that belongs to a module and can be trained.

    In an f-string inside ``forward`` it is a hole of its own, so that the trace knows
    which prompt it shaped, and where. Outside of one it is its value.

    Args:
        value: The text; not empty.
        description: What the text is for, told to whoever rewrites it.
        requires_grad: Whether optimizers may change it.

    Raises:
        ParameterTypeError: If the value or the description is not a str.
        ParameterValueError: If the value is empty or only white space.

    Example:
        >>> style = Parameter("Be brief.", description="how answers are written")
        >>> f"{style} Answer in French."
        'Be brief. Answer in French.'
    """

    is_text: ClassVar[bool] = True
    """Whether its value is words, which feedback is about and a model may rewrite."""
    is_weights: ClassVar[bool] = False
    """Whether it stands for weights, which feedback is about, too."""

    def __init__(
        self, value: str, description: str = "", *, requires_grad: bool = True
    ) -> None:
        if not isinstance(description, str):
            raise ParameterTypeError(
                "the description of a Parameter must be a str, not "
                f"{type(description).__name__}: say in words what the text is for."
            )
        self.value = value
        self.description = description
        self.requires_grad = requires_grad
        self._feedback: list[Any] = []

    @property
    def value(self) -> str:
        """The text. Setting it checks it; the feedback stays."""
        return self._value

    @value.setter
    def value(self, value: str) -> None:
        self._value = self._checked(value)

    @property
    def state(self) -> Any:
        """What stands for the value in a `state_dict`, as JSON; the text itself."""
        return self.value

    @property
    def choices(self) -> tuple[Any, ...] | None:
        """The only values that it may have, None for any."""
        return None

    @property
    def name(self) -> str:
        """The dotted name in the outermost module that holds it, or ``""``."""
        named: Any = getattr(self._outermost(), "named_parameters", dict)()
        return next((name for name, held in named if held is self), "")

    @property
    def feedback(self) -> list[Any]:
        """A copy of the feedback since the last `zero_feedback`, oldest first."""
        return list(self._feedback)

    def accumulate_feedback(self, feedback: Any) -> None:
        """Add feedback to the buffer; ignored if it is frozen, or is about no value."""
        if self.requires_grad and (self.is_text or self.is_weights):
            self._feedback.append(feedback)

    def zero_feedback(self) -> None:
        """Empty the feedback buffer; the value stays."""
        self._feedback.clear()

    def apply_update(self, value: Any) -> None:
        """Replace the value and empty the feedback buffer.

        Args:
            value: The new text.

        Raises:
            ParameterTypeError: If it is not a str.
            ParameterValueError: If it is empty, or `requires_grad` is False. The old
                value and the feedback are kept.
        """
        if not self.requires_grad:
            raise ParameterValueError(
                f"{self._label()} is frozen (requires_grad=False) and cannot be "
                "updated; call requires_grad_() first, or leave it out."
            )
        self.value = value
        self.zero_feedback()

    def requires_grad_(self, requires_grad: bool = True) -> "Parameter":
        """Set `requires_grad` and return the parameter."""
        self.requires_grad = requires_grad
        return self

    def _checked(self, value: Any) -> Any:
        if not isinstance(value, str):
            raise ParameterTypeError(
                f"{self._label()} must be a str, not {type(value).__name__}: "
                "a parameter is text that a model reads."
            )
        if not value.strip():
            raise ParameterValueError(
                f"{self._label()} must not be empty: give it the text to start from."
            )
        return str.__str__(value)

    def _label(self) -> str:
        name = self.name
        return f"parameter {name!r}" if name else "the value of a Parameter"

    def __getstate__(self) -> dict[str, Any]:
        return {**self._state(), "_feedback": list(self._feedback)}

    def __str__(self) -> str:
        return self._value

    def __format__(self, spec: str) -> str:
        answer = dispatcher.get()
        if answer is None:
            return format(self._value, spec)
        return answer.format_parameter(self, spec)

    def __repr__(self) -> str:
        text = self._value if len(self._value) <= 60 else self._value[:57] + "..."
        frozen = "" if self.requires_grad else ", requires_grad=False"
        return f"Parameter({text!r}{frozen})"
