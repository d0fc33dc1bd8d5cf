"""The tree of errors is what its docstring draws, and every error travels."""

import copy
import pickle
import re
from collections.abc import Iterator

import pytest

from inf_engine import errors
from inf_engine.errors import (
    AnswerError,
    DeadlineError,
    ExecutionError,
    InfEngineError,
    OutputParseError,
    RateLimitError,
    UnknownAliasError,
    known_names,
)
from inf_engine.types import LLMResponse, Usage


def tree(kind: type, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield base and name of every error class, those of `ExecutionError.of` aside."""
    yield above, kind.__name__
    for below in kind.__subclasses__():
        if vars(errors).get(below.__name__) is below:
            yield from tree(below, kind.__name__)


def drawn() -> Iterator[tuple[str, str]]:
    """Yield base and name of every line of the drawing."""
    drawing = (errors.__doc__ or "").split("::\n")[1].split("Messages say")[0]
    path = [""]
    for line in drawing.splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+Error)\b", line)
        if found:
            path[len(found.group(1)) // 4 + 1 :] = [found.group(2)]
            yield path[-2], path[-1]


ALL = [getattr(errors, name) for _, name in tree(InfEngineError)]
WITH_MORE = [
    UnknownAliasError("fsat", ["fast", "smart"], where="pipeline.extract"),
    OutputParseError("does not fit", raw="{", problems=["a: missing"]),
    RateLimitError("slow down", status=429, retry_after=1.5),
    AnswerError("refused", response=LLMResponse(id="a1", usage=Usage(1, 2, 3))),
    ExecutionError(
        "failed", node="a#1", alias="fast", attempt=2, cause=RateLimitError("no")
    ),
]


def test_the_docstring_draws_the_real_tree() -> None:
    """Every class stands in the drawing below its base, and no other does."""
    assert sorted(drawn()) == sorted(tree(InfEngineError))


def test_every_error_of_the_package_is_in_the_tree() -> None:
    """No other file of the library adds an error of its own."""
    stack: list[type[InfEngineError]] = [InfEngineError]
    strangers: list[str] = []
    while stack:
        kind = stack.pop()
        stack += kind.__subclasses__()
        if kind.__module__ != errors.__name__:
            strangers.append(kind.__module__)
    assert not [name for name in strangers if name.startswith("inf_engine")]


def made(kind: type[InfEngineError]) -> InfEngineError:
    """Return an error of a kind."""
    for error in WITH_MORE:
        if type(error) is kind:
            return error
    return kind("what, where, the fix")


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        *[
            lambda e, protocol=protocol: pickle.loads(pickle.dumps(e, protocol))
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
        ],
    ],
)
@pytest.mark.parametrize("kind", ALL)
def test_every_error_can_be_copied_and_pickled(kind, copied) -> None:
    """Type, message and every attribute arrive."""
    error = made(kind)
    error.add_note("a note")
    twin = copied(error)
    assert type(twin) is kind
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert twin.__dict__.keys() == error.__dict__.keys()
    plain = {k: v for k, v in error.__dict__.items() if k != "cause"}
    assert {k: twin.__dict__[k] for k in plain} == plain
    assert str(twin.__dict__.get("cause")) == str(error.__dict__.get("cause"))
    error.__notes__.clear()


def test_the_fault_is_in_the_type() -> None:
    """What Python's own types promise holds, so that plain handlers catch them."""
    assert issubclass(errors.ParameterTypeError, TypeError)
    assert issubclass(errors.ParameterValueError, ValueError)
    assert issubclass(DeadlineError, TimeoutError)


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    """A refused request or key is not tried again."""
    retryable = {
        kind.__name__ for kind in ALL if getattr(kind, "retryable", False) is True
    }
    assert retryable == {
        "EndpointConnectionError",
        "EndpointTimeoutError",
        "RateLimitError",
        "EndpointServerError",
        "MalformedResponseError",
    }


def test_an_unknown_alias_lists_the_known_ones_and_the_closest() -> None:
    """The message holds what, where, what exists, and the fix."""
    error = UnknownAliasError("fsat", ["smart", "fast"], where="a.b")
    assert str(error) == (
        "unknown alias 'fsat' used by 'a.b'; known: fast, smart (did you mean "
        "'fast'?). Add [endpoints.fsat] to the resources, or correct the name."
    )
    assert error.known == ("smart", "fast")


def test_a_prompt_in_the_place_of_an_alias_is_not_repeated() -> None:
    """The likeliest mistake is told; a prompt stands in no message."""
    error = UnknownAliasError("You are a critic.\nBe brief.", ["fast"], where="llm")
    assert str(error) == (
        "unknown alias of 6 words used by 'llm'; known: fast. If it is a prompt, write "
        "LLMInference(alias, system_prompt=...)."
    )


def test_known_names_says_so_when_there_are_none() -> None:
    """An empty list is not printed as an empty list."""
    assert known_names("x", []) == "none is known"
    assert known_names("x", ["y"]) == "known: y"


def test_the_error_of_a_node_keeps_its_second_type() -> None:
    """It comes from another process as it was raised there."""
    cause = errors.RateLimitError("too many", status=429)
    kind = errors.ExecutionError.of(cause)
    error = kind("'a#1' failed", node="a#1", cause=cause)
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is kind
    assert isinstance(twin, errors.RateLimitError)
    assert (twin.node, twin.status) == ("a#1", 429)
