"""OutputType: what a response format asks for, and how an answer is read."""

import copy
import dataclasses
import datetime
import enum
import json
import pickle
import subprocess
import sys
import typing
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal

import pydantic
import pytest
import typing_extensions
from hypothesis import given, settings
from hypothesis import strategies as st

from inf_engine.errors import OutputParseError, SchemaError
from inf_engine.schema import OutputType, jsonable

JSON_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


class Review(pydantic.BaseModel):
    """A review."""

    title: str
    stars: int = pydantic.Field(ge=1, le=5)
    tags: list[str] = []


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


@dataclasses.dataclass
class Path:
    name: str
    points: list[Point]
    parent: "Path | None" = None


class Old(typing.TypedDict):
    a: int
    b: typing.NotRequired[list[str]]


class Outer(typing.TypedDict, total=False):
    old: typing.Required[Old]
    many: list[Old] | None


class Tree(typing.TypedDict):
    kids: "list[Tree]"


class New(typing_extensions.TypedDict):
    a: int


class Loose(pydantic.BaseModel):
    """Everything has a default, so any object fits."""

    pros: list[str] = []
    cons: list[str] = []


Sentiment = Literal["positive", "negative"]


def schema_of(tp: Any) -> dict[str, Any]:
    schema = OutputType.of(tp).schema
    assert schema is not None
    return schema.schema


class TestSchema:
    @pytest.mark.parametrize("tp", [None, str])
    def test_text_has_no_schema(self, tp: Any) -> None:
        """str and None mean free text: no schema, the answer as it came."""
        output = OutputType.of(tp)
        assert output.is_text
        assert output.schema is None
        assert not output.wrapped
        assert output.parse("  ```x```\n") == "  ```x```\n"

    def test_model_is_its_own_root(self) -> None:
        """An object type is the root itself, without titles that repeat names."""
        output = OutputType.of(Review)
        assert not output.wrapped
        assert output.schema is not None
        assert output.schema.name == "Review"
        assert output.schema.schema["type"] == "object"
        assert output.schema.schema["description"] == "A review."
        assert output.schema.schema["properties"]["title"] == {"type": "string"}

    @pytest.mark.parametrize(
        ("tp", "value"),
        [
            (Sentiment, {"enum": ["positive", "negative"], "type": "string"}),
            (bool, {"type": "boolean"}),
            (int, {"type": "integer"}),
            (float, {"type": "number"}),
            (list[str], {"type": "array", "items": {"type": "string"}}),
            (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
            (Annotated[str, pydantic.Field(max_length=3)], None),
            (list[Old], None),
            (Any, {}),
        ],
    )
    def test_other_roots_are_wrapped(self, tp: Any, value: Any) -> None:
        """A type whose schema is no object travels as {"value": ...}."""
        output = OutputType.of(tp)
        root = schema_of(tp)
        assert output.wrapped
        assert root["type"] == "object"
        assert root["required"] == ["value"]
        assert root["additionalProperties"] is False
        if value is not None:
            assert root["properties"]["value"] == value

    def test_definitions_move_to_the_root(self) -> None:
        """The $defs of a wrapped type stand at the root, where its refs point."""
        root = schema_of(list[Point])
        assert root["properties"]["value"]["items"] == {"$ref": "#/$defs/Point"}
        assert set(root["$defs"]) == {"Point"}

    def test_recursive_root(self) -> None:
        """A recursive type has an object at the root, not a reference."""
        root = schema_of(Path)
        assert root["type"] == "object"
        assert "Path" in root["$defs"]

    @pytest.mark.parametrize(
        ("tp", "name", "sent"),
        [
            (list[str], "list[str]", "list_str"),
            (dict[str, Point], "dict[str, Point]", "dict_str_Point"),
            (Sentiment, "Literal['positive', 'negative']", None),
            (Annotated[int, "x"], "int", "int"),
            (int | None, "int | None", "int_None"),
            (tuple[int, ...], "tuple[int, ...]", "tuple_int"),
            (dataclasses.make_dataclass("评论", [("a", int)]), "评论", "answer"),
            (Literal[Mood.GOOD], "Literal[Mood.GOOD]", "Literal_Mood_GOOD"),
        ],
    )
    def test_names(self, tp: Any, name: str, sent: str | None) -> None:
        """A type is named for people as written, for providers in safe characters."""
        output = OutputType.of(tp)
        assert output.name == name
        assert repr(output) == f"OutputType({name})"
        assert output.schema is not None
        assert len(output.schema.name) <= 64
        if sent is not None:
            assert output.schema.name == sent

    def test_odd_default(self) -> None:
        """A default that is no JSON is left out of the schema, without a warning."""

        @dataclasses.dataclass
        class Odd:
            a: int = dataclasses.field(default_factory=int)
            b: Any = object

        assert schema_of(Odd)["properties"]["b"] == {}


class TestParse:
    @pytest.mark.parametrize(
        ("tp", "text", "value"),
        [
            (Review, '{"title": "A", "stars": 3}', Review(title="A", stars=3)),
            (Review, '{"title": "A", "stars": "3"}', Review(title="A", stars=3)),
            (Point, '{"x": 1, "y": 2}', Point(1, 2.0)),
            (Path, '{"name": "p", "points": [{"x": 1}]}', Path("p", [Point(1)])),
            (Old, '{"a": 1, "b": ["x"]}', {"a": 1, "b": ["x"]}),
            (Outer, '{"old": {"a": "1"}}', {"old": {"a": 1}}),
            (New, '{"a": 1}', {"a": 1}),
            (list[Old], '[{"a": "1"}]', [{"a": 1}]),
            (Old | None, "null", None),
            (Annotated[Old, "note"], '{"a": 1}', {"a": 1}),
            (dict[str, Old], '{"k": {"a": 1}}', {"k": {"a": 1}}),
            (typing.List[Old], '[{"a": 1}]', [{"a": 1}]),  # noqa: UP006
            (Sentiment, '{"value": "positive"}', "positive"),
            (Sentiment, "positive", "positive"),
            (Sentiment, "`negative`", "negative"),
            (Sentiment, "```\nnegative\n```", "negative"),
            (Mood, "good", Mood.GOOD),
            (Mood, '{"value": "bad"}', Mood.BAD),
            (Literal["1", "2"], "1", "1"),
            (Sentiment | None, "positive", "positive"),
            (Annotated[str, pydantic.Field(max_length=9)], "two words", "two words"),
            (bool, "True", True),
            (int, "42", 42),
            (int, '{"value": 42}', 42),
            (float, "1e3", 1000.0),
            (list[str], '{"value": ["a"], "why": "b"}', ["a"]),
            (dict[str, int], '{"value": 1}', {"value": 1}),
            (list[tuple[int, str]], '[[1, "a"]]', [(1, "a")]),
            (set[int], "[1, 1]", {1}),
            (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
            (Decimal, '{"value": "1.10"}', Decimal("1.10")),
            (Any, '{"value": {"a": 1}}', {"a": 1}),
        ],
    )
    def test_values(self, tp: Any, text: str, value: Any) -> None:
        """Each kind of type is read from each form that a model may answer in."""
        result = OutputType.of(tp).parse(text)
        if value is not None:
            assert result == value
            assert type(result) is type(value)

    @pytest.mark.parametrize(
        "text",
        [
            '```json\n{"title": "A", "stars": 3}\n```',
            '```\n{"title": "A", "stars": 3}```',
            'Here it is:\n```json\n{"title": "A", "stars": 3}\n```\nGood luck!',
            'The [answer] is {"title": "A", "stars": 3}. Use {braces} with care.',
            'I said {"title": "A", "stars": 3}; so {"stars": 3, "title": "A"}.',
            'First {"draft": 1}, then {"title": "A", "stars": 3}',
        ],
    )
    def test_found_in_prose(self, text: str) -> None:
        """One value that fits is found in a fence and in prose."""
        assert OutputType.of(Review).parse(text) == Review(title="A", stars=3)

    def test_wrapped_value_in_prose(self) -> None:
        """A wrapper is found in prose too."""
        text = 'The label is {"value": "positive"}, I think.'
        assert OutputType.of(Sentiment).parse(text) == "positive"

    def test_union_with_a_value_field(self) -> None:
        """A type that has a field 'value' itself is read wrapped and plain."""

        class Holder(pydantic.BaseModel):
            value: int

        output = OutputType.of(Holder | Point)
        assert output.parse('{"value": 1}') == Holder(value=1)
        assert output.parse('{"value": {"value": 1}}') == Holder(value=1)
        assert output.parse('{"value": {"x": 1}}') == Point(1)

    def test_root_model(self) -> None:
        """A RootModel of a list is wrapped and comes back as the model."""
        tags = pydantic.RootModel[list[str]]
        output = OutputType.of(tags)
        assert output.wrapped
        assert output.parse('{"value": ["a"]}') == tags(["a"])

    def test_local_and_redefined_classes(self) -> None:
        """Local classes work, and a class defined again is another type."""

        def define() -> Any:
            @dataclasses.dataclass
            class Local:
                a: int

            return Local

        first, second = define(), define()
        assert type(OutputType.of(first).parse('{"a": 1}')) is first
        assert type(OutputType.of(second).parse('{"a": 1}')) is second

    @given(st.lists(JSON_TEXT))
    def test_lists_round_trip(self, value: list[str]) -> None:
        """What JSON writes is read back, plain, wrapped and fenced."""
        text = json.dumps(value, ensure_ascii=False)
        for answer in (text, f'{{"value": {text}}}', f"```json\n{text}\n```"):
            assert LISTS.parse(answer) == value

    @given(
        st.builds(
            Path,
            JSON_TEXT,
            st.lists(
                st.builds(
                    Point, st.integers(-(2**63), 2**63), st.floats(allow_nan=False)
                )
            ),
            st.none() | st.builds(Path, JSON_TEXT, st.just([])),
        )
    )
    def test_dataclasses_round_trip(self, value: Path) -> None:
        """A nested dataclass survives its own JSON."""
        assert PATHS.parse(json.dumps(dataclasses.asdict(value))) == value

    @given(st.text() | st.text(alphabet='{}[]":,a1 \n`'))
    @settings(max_examples=500)
    def test_any_text(self, text: str) -> None:
        """Any text gives a value of the type or an OutputParseError, nothing else."""
        for output in (LISTS, PATHS, LABELS):
            try:
                value = output.parse(text)
            except OutputParseError as exc:
                assert exc.raw == text
                assert exc.problems
            else:
                assert isinstance(value, (list, Path, str))


LISTS = OutputType.of(list[str])
PATHS = OutputType.of(Path)
LABELS = OutputType.of(Sentiment)


class TestRefusal:
    def refused(self, tp: Any, text: str, match: str) -> OutputParseError:
        with pytest.raises(OutputParseError, match=match) as caught:
            OutputType.of(tp).parse(text)
        assert caught.value.raw == text
        return caught.value

    def test_places(self) -> None:
        """The message names the type, and each problem with its place."""
        error = self.refused(
            Path,
            '{"points": [{"x": "one"}]}',
            r"does not fit Path: name: Field required; points\[0\]\.x: Input should be",
        )
        assert len(error.problems) == 2
        assert "The answer was" in str(error)

    def test_wrapped_place(self) -> None:
        """A problem in a wrapped value is placed in the wrapper that was asked for."""
        self.refused(list[int], '{"value": [1, "b"]}', r"list\[int\]: value\[1\]: Inp")

    def test_wrong_whole(self) -> None:
        """A problem of the whole answer has the answer as its place."""
        self.refused(Review, "[1]", "Review: the answer: Input should be an object")
        self.refused(Sentiment, "maybe", "the answer: Input should be 'positive' or")
        self.refused(Mood, '{"value": "so-so"}', "value: Input should be 'good' or")

    @pytest.mark.parametrize("text", ["", " \n", "```\n\n```"])
    def test_empty(self, text: str) -> None:
        """An empty answer is named so, for wrapped types too."""
        self.refused(Review, text, "does not fit Review: it is empty")
        self.refused(str | None, text, "it is empty")

    @pytest.mark.parametrize(
        "text",
        [
            "no JSON at all",
            '{"title": "A", "stars": 3',
            "{'title': 'A', 'stars': 3}",
            "9" * 5000,
            "[" * 100_000,
            "{x} " * 100_000,
        ],
    )
    def test_not_json(self, text: str) -> None:
        """An answer without JSON says why it is none."""
        self.refused(Review, text, "the answer is not JSON: |Input should be")

    @pytest.mark.parametrize(
        "text",
        [
            '{"pros": ["a"], "notes": {"x": 1}, "cons": ["b"',
            '{"pros": ["a"], // good\n "notes": {"x": 1}}',
            "{'notes': {}}",
            'see :{ and {"pros": ["a"]}',
        ],
    )
    def test_inside_of_broken_json(self, text: str) -> None:
        """A value inside broken JSON is not taken for the answer."""
        self.refused(Loose, text, "is not JSON")

    def test_two_values(self) -> None:
        """Two different values that fit are refused: which was meant is a guess."""
        error = self.refused(list[str], '["a"] or ["b"]', "holds 2 different values")
        assert len(error.problems) == 1

    def test_number_in_prose(self) -> None:
        """A number in a sentence is not guessed."""
        self.refused(int, "It is 42.", "should be a valid integer")

    def test_broken_json_is_not_bare_text(self) -> None:
        """JSON that is cut off is not the text of a str."""
        self.refused(str | None, '{"value": "cut o', "is not JSON")

    def test_bounds(self) -> None:
        """Problems and the excerpt are bounded; the raw text is whole."""
        text = json.dumps({"value": ["x" * 50] * 40})
        error = self.refused(list[int], text, "and 35 more")
        assert len(error.problems) == 6
        excerpt = str(error).split("The answer was '")[1].split("'. Say")[0]
        assert len(excerpt) == 200
        assert excerpt.startswith('{"value"')
        assert excerpt.endswith('"]}')

    def test_fault_of_a_validator(self) -> None:
        """What a user's validator raises by mistake is not the model's fault."""

        def broken(value: str) -> str:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            OutputType.of(Annotated[str, pydantic.AfterValidator(broken)]).parse("a")

    def test_describe(self) -> None:
        """The model is told each problem and the schema to fit."""
        output = OutputType.of(list[int])
        error = self.refused(list[int], '["a"]', "list")
        text = output.describe(error)
        assert "- [0]: Input should be a valid integer" in text
        assert json.dumps(schema_of(list[int])) in text
        assert "one JSON value" in text
        other = OutputParseError("too rude", raw="x")
        assert "- too rude" in OutputType.of(str).describe(other)


class TestUnusable:
    @pytest.mark.parametrize("value", ["Review", 5, {"type": "object"}, [str]])
    def test_values(self, value: Any) -> None:
        """A value where a type belongs is refused when the module is made."""
        with pytest.raises(SchemaError, match="has to be a type, not a .*Use what"):
            OutputType.of(value)

    @pytest.mark.parametrize("tp", [Callable[[int], int], object()])
    def test_no_schema(self, tp: Any) -> None:
        """A type that JSON cannot carry is refused with those it can."""
        with pytest.raises(SchemaError, match="has no JSON schema.*Use what JSON"):
            _ = OutputType.of(tp).schema

    def test_plain_class(self) -> None:
        """An ordinary class is refused by name."""

        class Plain:
            pass

        with pytest.raises(SchemaError, match="response format Plain has no JSON"):
            OutputType.of(Plain).parse("{}")

    def test_unknown_annotation(self) -> None:
        """A dataclass that names a type nobody knows is refused with the name."""
        tp = dataclasses.make_dataclass("Lost", [("a", "Nowhere")])
        with pytest.raises(SchemaError, match="name 'Nowhere' is not defined"):
            _ = OutputType.of(tp).schema

    @pytest.mark.skipif(sys.version_info >= (3, 12), reason="allowed since 3.12")
    def test_old_typed_dict_inside_a_class(self) -> None:
        """Where a typing.TypedDict cannot be replaced, the fix is named."""

        holder = dataclasses.make_dataclass("Holder", [("old", Old)])
        for tp in (holder, Tree):
            with pytest.raises(SchemaError, match=r"e `typing_extensions\.TypedDict`"):
                _ = OutputType.of(tp).schema


class TestObject:
    def test_pickle_and_copy(self) -> None:
        """It pickles and copies as its type does, before and after use."""
        for tp in (Review, list[str], Sentiment, int | None):
            output = OutputType.of(tp)
            for _ in range(2):
                assert pickle.loads(pickle.dumps(output)).type == tp
                assert copy.deepcopy(output).type == tp
                assert copy.copy(output).type == tp
                _ = output.schema

    def test_built_once(self) -> None:
        """The schema is worked out at the first use and kept; `of` is idempotent."""
        output = OutputType.of(OutputType.of(Review))
        assert output.schema is output.schema

    def test_no_pydantic_before_use(self) -> None:
        """Making an OutputType, and reading text, does not import pydantic."""
        code = (
            "import sys, dataclasses\n"
            "from inf_engine.schema import OutputType\n"
            "assert OutputType.of(str).parse('a') == 'a'\n"
            "assert OutputType.of(str).schema is None\n"
            "output = OutputType.of(list[int])\n"
            "assert 'pydantic' not in sys.modules\n"
            "assert output.parse('[1]') == [1]\n"
            "assert 'pydantic' in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestJsonable:
    def test_classes(self) -> None:
        """json writes classes as objects, and sets in an order of their own."""
        value = {"p": Point(1), "r": Review(title="A", stars=1), "s": {"b", "a", "c"}}
        assert json.loads(json.dumps(value, default=jsonable)) == {
            "p": {"x": 1, "y": 0.0},
            "r": {"title": "A", "stars": 1, "tags": []},
            "s": ["a", "b", "c"],
        }
