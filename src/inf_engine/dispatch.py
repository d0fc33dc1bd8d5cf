"""Who answers a module call: a tracer, an eager runner, or nobody.

One ContextVar, so that modules import neither tracing nor execution, and so that two
forwards running at the same time never see each other.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol


class Dispatcher(Protocol):
    """What answers the calls that a running ``forward`` makes."""

    @property
    def is_async(self) -> bool:
        """Whether that forward is a coroutine."""
        ...

    def call_module(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Answer a call of a module."""
        ...

    def call_op(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a call of an `@op` function."""
        ...

    def call_branch(
        self, name: str, fn: Callable[..., Any], args: tuple[Any, ...], wait: bool
    ) -> Any:
        """Answer with what `fn` gives for `args`, run as a forward of its own.

        A graph break in it stops nothing else. With `wait` it starts when all of
        `args` are known and gets their values, else at once.
        """
        ...

    def is_known(self, value: Any) -> bool:
        """Say whether a value is there already, or only stood for by a proxy."""
        ...

    def call_first(self, candidates: list[Any], good: Callable[[Any], bool]) -> Any:
        """Answer with the first candidate that succeeds and is good."""
        ...

    def format_parameter(self, parameter: Any, spec: str) -> str:
        """Return the text that stands for a parameter, or an image, in an f-string."""
        ...


dispatcher: ContextVar[Dispatcher | None] = ContextVar("dispatcher", default=None)
