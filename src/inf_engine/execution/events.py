"""What an engine tells its observers while it runs: one frozen event at a time.

An observer is any callable that takes an event. It is called on the engine's loop and
must not block. Times are seconds on the loop's clock. No event carries a key; only
`TokenDelta` carries text. An observer with ``wants_tokens = False`` gets no
`TokenDelta`; if nobody wants them, endpoints are not asked to stream.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from inf_engine.types import Usage


@dataclass(frozen=True, slots=True)
class RunStarted:
    """An input began its way through a module."""

    run: int
    at: float


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """A request left (once per try), or a function started."""

    run: int
    node: str
    alias: str | None
    at: float


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """A piece of an answer arrived."""

    run: int
    node: str
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class NodeFinished:
    """A model call, op or leaf ended; `error` is None if it went well."""

    run: int
    node: str
    alias: str | None
    at: float
    seconds: float
    usage: Usage
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class RunFinished:
    """An input has gone through its module; `error` is None if it went well."""

    run: int
    at: float
    seconds: float
    usage: Usage
    error: BaseException | None


Event: TypeAlias = RunStarted | NodeStarted | TokenDelta | NodeFinished | RunFinished
Observer: TypeAlias = Callable[[Event], object]
