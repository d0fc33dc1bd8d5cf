"""`ExampleReader`: an example as the arguments of forward, least surprising first."""

import collections
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Protocol, TypedDict

import pydantic
import pytest

from inf_engine.errors import UsageError
from inf_engine.optimization.examples import ExampleCall, ExampleReader, fields_of


@dataclasses.dataclass
class Question:
    """An example with an answer that the module is not to see."""

    question: str
    answer: str = "4"


class Model(pydantic.BaseModel):
    """The same."""

    question: str
    answer: str = "4"


class Attrs:
    """What attrs makes of a class."""

    __attrs_attrs__ = tuple(map(collections.namedtuple("A", "name"), ["question"]))
    question = "2 + 2?"


class Row(TypedDict):
    """The same, typed."""

    text: str


class Shape(Protocol):
    """What cannot be asked with isinstance."""

    size: int


Named = collections.namedtuple("Named", "question answer")


def plain(question): ...
def both(question: str, context: str = "none"): ...
def needs(question: str, context: str): ...


def read(forward: Callable[..., Any], example: Any, target: str = "") -> ExampleCall:
    """Return the call of an example."""
    reader = ExampleReader(inspect.signature(forward), target=target)
    return reader.read(example, 3)


WITH_FIELDS = [
    Question("2 + 2?"),
    Model(question="2 + 2?"),
    {"question": "2 + 2?", "answer": "4"},
    MappingProxyType({"question": "2 + 2?", "answer": "4"}),
    Named("2 + 2?", "4"),
]


@pytest.mark.parametrize("example", WITH_FIELDS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("forward", [plain, both])
def test_parameters_get_the_fields_of_their_names(
    example: Any, forward: Callable[..., Any]
) -> None:
    """The others are left to the loss: the whole example, or the field it is told."""
    call = read(forward, example)
    assert call.args[0] == "2 + 2?"
    assert "4" not in call.args
    assert call.target is example
    assert read(forward, example, target="answer").target == "4"


def test_an_attrs_object_has_fields_too() -> None:
    """Without attrs being imported."""
    assert fields_of(Attrs()) == {"question": "2 + 2?"}
    assert read(plain, Attrs()).args == ("2 + 2?",)


def test_every_call_has_all_arguments() -> None:
    """Defaults are filled in, so that all rows are equally long."""
    assert read(both, {"question": "a"}).args == ("a", "none")
    assert read(both, {"context": "b", "question": "a"}).args == ("a", "b")


def test_a_pair_is_inputs_and_target() -> None:
    """Its inputs are one, several by position, or several by name."""
    assert read(plain, ("a", "4")) == ExampleCall(("a",), {}, "4")
    assert read(needs, (("a", "b"), "4")) == ExampleCall(("a", "b"), {}, "4")
    named = {"context": "b", "question": "a"}
    assert read(needs, (named, None)) == ExampleCall(("a", "b"), {}, None)
    assert read(plain, (Question("a"), "4")) == ExampleCall(("a",), {}, "4")


@pytest.mark.parametrize("example", ["a", 7, ["a", "b"], None, 1.5, int, Question])
def test_everything_else_is_the_only_argument(example: Any) -> None:
    """Lists and classes too; there is no target."""
    assert read(plain, example) == ExampleCall((example,), {}, None)


def takes_question(item: Question): ...
def takes_either(item: str | Question): ...
def takes_any(item: Any): ...
def takes_object(item: Annotated[object, 1]): ...
def takes_unknown(item): ...
def takes_late(item: "Question"): ...
def takes_many(*items: Any): ...


@pytest.mark.parametrize(
    "forward",
    [
        *(takes_question, takes_either, takes_any, takes_object, takes_unknown),
        *(takes_late, takes_many),
    ],
)
def test_an_example_of_other_fields_is_the_only_argument_where_it_may_be(
    forward: Callable[..., Any],
) -> None:
    """Its type is the annotation's, or there is none."""
    example = Question("a")
    assert read(forward, example).args == (example,)
    assert read(forward, (example, "4")) == ExampleCall((example,), {}, "4")


def takes_row(row: Row): ...
def takes_dict(row: dict[str, str]): ...
def takes_mapping(row: Mapping[str, str]): ...
def takes_text(text: str): ...
def takes_shape(shape: Shape): ...
def by_keyword(*, text: str): ...
def anything(**fields: str): ...


@pytest.mark.parametrize("forward", [takes_row, takes_dict, takes_mapping])
def test_a_mapping_goes_where_a_mapping_is_wanted(forward: Callable[..., Any]) -> None:
    """Typed or not."""
    assert read(forward, {"other": "a"}).args == ({"other": "a"},)


def test_a_parameter_by_keyword_gets_its_field() -> None:
    """Apart from those by position."""
    assert read(by_keyword, {"text": "a"}) == ExampleCall(
        (), {"text": "a"}, {"text": "a"}
    )

    def forward(first: str, /, *, last: str) -> None: ...

    assert read(forward, {"last": "b", "first": "a"}).kwargs == {"last": "b"}
    assert read(forward, {"last": "b", "first": "a"}).args == ("a",)


@pytest.mark.parametrize(
    ("forward", "example", "message"),
    [
        (needs, {"question": "a"}, "example 3 has no field 'context', which forward n"),
        (needs, {"contxt": "b", "question": "a"}, r"did you mean 'contxt'\?"),
        (
            takes_text,
            {"txt": "a"},
            "no field 'text', which forward needs; fields known",
        ),
        (takes_text, Question("a"), "no field 'text'.*known: answer, question. Rename"),
        (
            takes_text,
            {"message": "a", "size": 3},
            "only text is the field 'message'. R",
        ),
        (takes_text, {"a b": "c"}, "only text is the field of an odd name. Rename"),
        (takes_unknown, {"message": "a", "size": 3}, "example 3 has no field 'item'"),
        (
            takes_unknown,
            {"message": "a"},
            "annotate 'item' with a type. Rename",
        ),
        (
            takes_unknown,
            ({"message": "a"}, "4"),
            "its only text is the field 'message'",
        ),
        (plain, {"qestion": "a", "answer": "4"}, "no field 'question'"),
        (takes_shape, Question("a"), "no field 'shape'"),
        (by_keyword, {"txt": "a"}, "no field 'text'"),
        (
            anything,
            {"text": "a"},
            "forward, which takes none by name; fields known: te",
        ),
        (needs, ("a", "4"), r"forward\(question: str, context: str\): missing a req"),
        (needs, ("a", "4"), r"A tuple is a pair \(inputs, target\)"),
        (needs, "a", "Give several inputs by name in a dict, or as a pair"),
        (plain, ("a", "b", "c"), r"is a tuple of 3: a tuple is a pair"),
        (both, ({"question": "a", "contxt": "b"}, "4"), "field 'contxt' of the inputs"),
        (both, ({"question": "a", "a b": "c"}, "4"), "field of an odd name of the inp"),
    ],
)
def test_what_does_not_fit_is_told_by_name(
    forward: Callable[..., Any], example: Any, message: str
) -> None:
    """Field and parameter, never what is in them."""
    with pytest.raises(UsageError, match=message):
        read(forward, example)


def test_a_target_that_is_not_there_is_told() -> None:
    """With the fields that are."""
    with pytest.raises(UsageError, match=r"no field 'anser', which is to be its targe"):
        read(plain, Question("a"), target="anser")


def test_the_target_is_not_handed_over_with_the_whole_example() -> None:
    """Only where the parameter is annotated so; then forward may not look at it."""
    row = {"question": "a", "context": "b", "answer": "4"}
    with pytest.raises(UsageError, match="no field 'item', which forward needs"):
        read(takes_unknown, row, target="answer")
    with pytest.raises(UsageError, match="its only text is the field 'question'; to"):
        read(takes_unknown, Question("a"), target="answer")
    assert read(takes_any, row, target="answer") == ExampleCall((row,), {}, "4")
    assert read(takes_unknown, row).args == (row,), "nothing speaks for one of three"


def test_a_target_that_the_module_would_see_is_refused() -> None:
    """At once, not per example."""
    with pytest.raises(UsageError, match="'question' is the target and a parameter"):
        ExampleReader(inspect.signature(plain), target="question")


def test_an_example_without_a_place_is_just_the_example() -> None:
    """For a single one."""
    with pytest.raises(UsageError, match="^the example has no field 'context'"):
        ExampleReader(inspect.signature(needs)).read({"question": "a"})
