"""Every error of the library, and whose fault each one is.

::

    InfEngineError
    ├── UsageError                    the caller's program
    │   ├── ModuleError               a module built or used wrongly
    │   ├── ParameterError            a parameter refused a value
    │   │   ├── ParameterTypeError    (also a TypeError)
    │   │   └── ParameterValueError   (also a ValueError)
    │   ├── StateDictError            keys that do not match the module
    │   ├── SchemaError               a type or tool without a usable schema
    │   ├── TracingError              forward did what a trace cannot follow
    │   │   └── NotBoundError         an LLM call that nobody answers
    │   ├── GraphError                a damaged graph
    │   └── EngineStateError          closed, forked, or from another loop
    ├── ConfigurationError            the resources file
    │   ├── UnknownAliasError         an alias that is bound to nothing
    │   └── MissingKeyError           an API key variable that is not set
    ├── EndpointError                 the endpoint
    │   ├── EndpointConnectionError   it could not be reached, or hung up
    │   ├── EndpointTimeoutError      it did not answer in time
    │   ├── AuthenticationError       401, 403
    │   ├── RateLimitError            429
    │   ├── RequestRefusedError       400, 404, 413, 422 ...
    │   ├── EndpointServerError       5xx
    │   └── MalformedResponseError    an answer that is not the provider's JSON
    ├── AnswerError                   the model's answer
    │   ├── OutputParseError          it does not fit the response format
    │   ├── ToolLoopError             it kept calling tools
    │   └── ToolArgumentError         it called a tool with unusable arguments
    ├── BudgetExceededError           a budget does not allow the next request
    ├── JournalError                  the journal or cache file
    ├── ActorLostError                a process that worked for a map is gone
    ├── TrainingError                 training could not go on
    │   ├── LossError                 a loss failed, or gave a score off its scale
    │   ├── CriticError               the critic wrote no usable notes
    │   └── ProposalError             the rewriter gave no usable proposal
    ├── ExecutionError                a node failed: where, and why (`cause`)
    └── DeadlineError                 a run or node timeout (also a TimeoutError)

Messages say what happened, where, and the fix. Foreign exceptions are converted
once, at the boundary where they arrive, and kept as ``__cause__``.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

_MOST_WORDS = 3  # of an alias; what has more is a prompt in its place


class InfEngineError(Exception):
    """Base of every error that the library raises on purpose.

    All can be copied and pickled, also those whose constructor takes more than the
    message; as with any exception, the cause and the traceback stay behind.

    Attributes:
        record: What had happened until then in the run that it ended (a `RunRecord`),
            None elsewhere.
    """

    record: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args), self.__dict__


def _rebuilt(kind: type[InfEngineError], args: tuple[Any, ...]) -> InfEngineError:
    """Return an error with these `args`, its constructor not called."""
    return kind.__new__(kind, *args)


class UsageError(InfEngineError):
    """The calling program is wrong."""


class ModuleError(UsageError):
    """A module was built or used wrongly."""


class ParameterError(UsageError):
    """A parameter refused a value."""


class ParameterTypeError(ParameterError, TypeError):
    """The value of a parameter is not text."""


class ParameterValueError(ParameterError, ValueError):
    """The value of a parameter is empty."""


class StateDictError(UsageError):
    """A state dict does not match the module it is loaded into."""


class SchemaError(UsageError):
    """A response format or a tool has no usable JSON schema."""


class TracingError(UsageError):
    """A ``forward`` did something that a trace cannot follow."""


class NotBoundError(TracingError):
    """An LLM call was made where nobody answers it."""


class GraphError(UsageError):
    """An inference graph is damaged."""


class EngineStateError(UsageError):
    """An engine was used after close or fork, or from another event loop."""


class ConfigurationError(InfEngineError):
    """The resources are described wrongly."""


class UnknownAliasError(ConfigurationError):
    """An alias is not bound to any endpoint.

    What looks like a prompt is not repeated in the message.

    Args:
        alias: The alias that was asked for.
        known: The aliases that exist.
        where: The module that uses it, if known.
    """

    def __init__(self, alias: str, known: Iterable[str], where: str = "") -> None:
        self.alias = alias
        self.known = tuple(known)
        place = f" used by {where!r}" if where else ""
        words = len(alias.split())
        if words > _MOST_WORDS:
            what = f"unknown alias of {words} words"
            fix = "If it is a prompt, write LLMInference(alias, system_prompt=...)."
        else:
            what = f"unknown alias {alias!r}"
            fix = f"Add [endpoints.{alias}] to the resources, or correct the name."
        known = known_names(alias, self.known)
        super().__init__(f"{what}{place}; {known}. {fix}")


class MissingKeyError(ConfigurationError):
    """The environment variable that holds an API key is not set."""


class EndpointError(InfEngineError):
    """An endpoint failed.

    Args:
        message: What happened, where, and the fix.
        status: The HTTP status, if there was an answer.
        retry_after: Seconds after which the endpoint asks to be tried again.
        limits: What the answer said about rate limits (a `RateHint`), None if nothing.

    Attributes:
        begun: A part of the answer had come already, so it may have to be paid for.
    """

    retryable = False
    begun = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        limits: Any = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.limits = limits


class EndpointConnectionError(EndpointError):
    """The endpoint could not be reached, or hung up before the last byte."""

    retryable = True


class EndpointTimeoutError(EndpointError):
    """The endpoint did not answer before the deadline of one attempt."""

    retryable = True


class AuthenticationError(EndpointError):
    """The endpoint refused the key (401, 403)."""


class RateLimitError(EndpointError):
    """The endpoint asks to be called less often (429)."""

    retryable = True


class RequestRefusedError(EndpointError):
    """The endpoint refused the request itself (400, 404, 413, 422 ...)."""


class EndpointServerError(EndpointError):
    """The endpoint failed on its own side (5xx, 408, 409)."""

    retryable = True


class MalformedResponseError(EndpointError):
    """The endpoint's answer is not the provider's JSON."""

    retryable = True


class AnswerError(InfEngineError):
    """The model's answer cannot be used.

    Args:
        message: What is wrong with it, and the fix.
        response: The answer (an `LLMResponse`), where the endpoint gave a whole one
            that was paid for and is in no books yet: its usage, id and finish reason.
            None elsewhere.
    """

    def __init__(self, message: str, *, response: Any = None) -> None:
        super().__init__(message)
        self.response = response

    @property
    def usage(self) -> Any:
        """What the answer cost (a `Usage`), None if that is not known."""
        return None if self.response is None else self.response.usage


class OutputParseError(AnswerError):
    """The model's answer does not fit the response format.

    Args:
        message: What does not fit, and the fix.
        raw: The answer as it came, whole.
        problems: Each thing that does not fit, with its place.
    """

    def __init__(self, message: str, *, raw: str, problems: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.raw = raw
        self.problems = tuple(problems)


class ToolLoopError(AnswerError):
    """The model kept calling tools beyond the allowed number of turns."""


class ToolArgumentError(AnswerError):
    """The model called a tool with unusable arguments; the message is for it."""


class BudgetExceededError(InfEngineError):
    """A budget does not allow the next request; it was not sent."""


class JournalError(InfEngineError):
    """The journal or cache file cannot be used, or not trusted."""


class ActorLostError(InfEngineError):
    """A process that worked for a `map` or a `stream` is gone, and cannot be replaced.

    What was journaled before is not paid for again.
    """


class DeadlineError(InfEngineError, TimeoutError):
    """A run or a node took longer than its timeout."""


class TrainingError(InfEngineError):
    """Training could not go on."""


class LossError(TrainingError):
    """A loss failed, or gave a score that is off its scale."""


class CriticError(TrainingError):
    """The critic could not be asked, or wrote no usable notes."""


class ProposalError(TrainingError):
    """The rewriter could not be asked, or gave no usable proposal."""


class ExecutionError(InfEngineError):
    """A node of a run failed.

    Where the cause is an error of this library, the error is of the cause's type too,
    with its attributes: ``except OutputParseError`` around a run catches it.

    Args:
        message: The cause in words.
        node: The name of the node (attribute path and call number).
        alias: The alias it called, None for nodes that call none.
        attempt: How many requests had been tried for it, 0 if none.
        cause: The exception that made it fail.
        record: What had happened in the run until then (a `RunRecord`).
    """

    def __init__(
        self,
        message: str,
        *,
        node: str,
        alias: str | None = None,
        attempt: int = 0,
        cause: BaseException | None = None,
        record: Any = None,
    ) -> None:
        Exception.__init__(self, message)
        self.node = node
        self.alias = alias
        self.attempt = attempt
        self.cause = cause
        self.record = record

    @classmethod
    def of(cls, cause: BaseException) -> "type[ExecutionError]":
        """Return the class of the error that tells of a node's failure.

        Args:
            cause: What made the node fail.
        """
        return _error_of(type(cause)) if isinstance(cause, InfEngineError) else cls


@lru_cache(maxsize=64)
def _error_of(kind: type[InfEngineError]) -> type[ExecutionError]:
    """Return an `ExecutionError` that is of the type of its cause, too."""

    def attribute(error: ExecutionError, name: str) -> Any:
        if name.startswith("__") or "cause" not in error.__dict__:
            raise AttributeError(name)
        return getattr(error.cause, name)

    def reduce(error: ExecutionError) -> tuple[Any, ...]:
        return _rebuilt_of, (kind, error.args), error.__dict__

    members = {"__getattr__": attribute, "__reduce__": reduce, "__module__": __name__}
    return type("ExecutionError", (ExecutionError, kind), members)


def _rebuilt_of(kind: type[InfEngineError], args: tuple[Any, ...]) -> InfEngineError:
    """Return the error of a node whose cause was of a type."""
    return _rebuilt(_error_of(kind), args)


def known_names(name: str, known: Iterable[str]) -> str:
    """Return the part of a message that lists the names that do exist."""
    names = list(known)
    if not names:
        return "none is known"
    close = get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"known: {', '.join(sorted(names))}{hint}"
