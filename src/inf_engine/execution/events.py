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
    """An input began its way through a module, of the class `module`."""

    run: int
    at: float
    module: str = ""


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
class TryFinished:
    """A request that had left has ended: answered, failed, or cancelled.

    A call whose answer was there before (journal, cache) has none.

    Args:
        run: The run.
        node: The model call.
        alias: What it was sent to: the module's alias, or a fallback of it.
        at: When it ended.
        seconds: How long it was on the wire.
        waited: Seconds that it was in line before it left.
        provider: The provider of the endpoint, empty for a client that was handed in.
        model: The model that was asked for, empty if that is not known.
        base_url: Where the endpoint is, empty for the provider's own address.
        answer: What came back but for its texts, None if nothing did.
        error: Why it failed; a ``CancelledError`` if nobody wanted it any more, e.g.
            because its hedge was faster.
        is_hedge: Whether it was the second request for one answer.
    """

    run: int
    node: str
    alias: str
    at: float
    seconds: float
    waited: float
    provider: str
    model: str
    base_url: str
    answer: "Answer | None"
    error: BaseException | None
    is_hedge: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What is told of an answer: no text.

    Args:
        model: The model that answered, as it names itself.
        id: The provider's id of the answer.
        finish_reason: Why the model stopped.
        usage: Its tokens.
        cost: What it cost in USD, None where no price is known.
    """

    model: str
    id: str
    finish_reason: str
    usage: Usage
    cost: float | None


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


Event: TypeAlias = (
    RunStarted | NodeStarted | TokenDelta | TryFinished | NodeFinished | RunFinished
)
Observer: TypeAlias = Callable[[Event], object]
