"""Which schemas the providers enforce, with the official SDKs as the oracle."""

import copy
from enum import Enum
from typing import Annotated, Any, Literal

import anthropic
import openai
import pytest
from pydantic import BaseModel, Field

from inf_engine.clients.strict import ANTHROPIC, OPENAI, Dialect, strict_schema


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    """A place."""

    x: int
    y: float | None


class Shape(BaseModel):
    name: str = Field(description="what it is called")
    kind: Literal["open", "closed"]
    colour: Colour
    points: list[Point]
    scale: dict[str, int] | None = None


class Drawing(BaseModel):
    name: str
    kind: Literal["a", "b"]
    colour: Colour
    points: list[Point]


class Tree(BaseModel):
    value: int
    children: list["Tree"]


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Pet(BaseModel):
    animal: Annotated[Cat | Dog, Field(discriminator="kind")]


def test_openai_agrees_with_its_sdk() -> None:
    """A pydantic model becomes the strict schema that OpenAI's own SDK makes of it."""
    expected = openai.pydantic_function_tool(Drawing)["function"]["parameters"]
    assert strict_schema(Drawing.model_json_schema(), OPENAI) == expected


def test_anthropic_agrees_with_its_sdk() -> None:
    """A pydantic model becomes the schema that Anthropic's own SDK makes of it."""
    found = strict_schema(Drawing.model_json_schema(), ANTHROPIC)
    expected = anthropic.transform_schema(Drawing)
    assert without_types(found) == without_types(expected)


def without_types(schema: Any) -> Any:
    """A schema without the type beside an enum, which one of the two leaves out."""
    if isinstance(schema, list):
        return [without_types(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    leave = {"type"} if {"enum", "const"} & schema.keys() else set()
    return {k: without_types(v) for k, v in schema.items() if k not in leave}


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC])
def test_the_schema_given_is_left_as_it_is(dialect: Dialect) -> None:
    """The strict form is a new schema."""
    schema = Drawing.model_json_schema()
    before = copy.deepcopy(schema)
    assert strict_schema(schema, dialect) is not None
    assert schema == before


def test_optional_properties_are_required_where_the_provider_wants_it() -> None:
    """OpenAI needs every property required, Anthropic does not; defaults go."""
    part = {"type": "string", "default": "x"}
    schema = {"type": "object", "properties": {"a": part}}
    closed = {"properties": {"a": {"type": "string"}}, "additionalProperties": False}
    base = {"type": "object", **closed}
    assert strict_schema(schema, OPENAI) == {**base, "required": ["a"]}
    assert strict_schema(schema, ANTHROPIC) == {**base, "required": []}


def test_limits_that_are_not_known_are_described() -> None:
    """What a provider cannot enforce, the model reads in the description."""
    part = {"type": "string", "maxLength": 3, "description": "a code"}
    more = {"type": "integer", "minimum": 1}
    schema = {"type": "object", "properties": {"a": part, "n": more}}
    found = strict_schema(schema, OPENAI) or {}
    assert found["properties"]["a"]["description"] == "a code\n\n{maxLength: 3}"
    assert found["properties"]["n"] == more
    found = strict_schema(schema, ANTHROPIC) or {}
    assert found["properties"]["n"]["description"] == "{minimum: 1}"


def test_a_reference_stands_alone() -> None:
    """A reference with a description becomes one branch of an anyOf."""
    part = {"$ref": "#/$defs/P", "description": "where"}
    schema = {
        "type": "object",
        "properties": {"p": part},
        "$defs": {"P": Point.model_json_schema()},
    }
    found = strict_schema(schema, OPENAI) or {}
    wanted = {"description": "where", "anyOf": [{"$ref": "#/$defs/P"}]}
    assert found["properties"]["p"] == wanted


def test_a_tagged_union_is_an_any_of() -> None:
    """A oneOf with a discriminator becomes anyOf; without one it has no strict form."""
    schema = Pet.model_json_schema()
    found = strict_schema(schema, OPENAI) or {}
    assert [*found["properties"]["animal"]] == ["title", "anyOf"]
    del schema["properties"]["animal"]["discriminator"]
    assert strict_schema(schema, OPENAI) is None


def test_recursion_is_for_openai_only() -> None:
    """A schema that refers to itself is enforced by OpenAI and not by Anthropic."""
    found = strict_schema(Tree.model_json_schema(), OPENAI) or {}
    assert found["type"] == "object"
    assert found["required"] == ["value", "children"]
    assert strict_schema(Tree.model_json_schema(), ANTHROPIC) is None


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {}, "additionalProperties": True},
        {"type": "object", "properties": {}, "patternProperties": {"x": {}}},
        {"allOf": [{"type": "string"}, {"type": "string"}]},
        {"not": {"type": "string"}},
        {"type": "array"},
        {"type": "array", "prefixItems": [{"type": "string"}]},
        {},
        True,
    ],
)
def test_what_cannot_be_enforced_has_no_strict_form(
    part: Any, dialect: Dialect
) -> None:
    """Open objects and the keywords that no provider knows have no strict form."""
    schema = {"type": "object", "properties": {"a": part}}
    assert strict_schema(schema, dialect) is None
    assert strict_schema(Shape.model_json_schema(), dialect) is None


def test_the_root_has_to_be_an_object() -> None:
    """A root that is no plain object has no strict form."""
    assert strict_schema({"type": "string"}, OPENAI) is None
    assert strict_schema({"anyOf": [Point.model_json_schema()]}, OPENAI) is None


def test_one_all_of_is_merged() -> None:
    """An allOf of one schema is that schema."""
    part = {"allOf": [{"type": "string"}], "description": "d"}
    schema = {"type": "object", "properties": {"a": part}}
    found = strict_schema(schema, OPENAI) or {}
    assert found["properties"]["a"] == {"type": "string", "description": "d"}
