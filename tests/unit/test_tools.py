"""Tool: a typed function as a model sees it, and the road back into it."""

import asyncio
import contextvars
import copy
import dataclasses
import enum
import functools
import json
import pickle
import subprocess
import sys
import threading
import typing
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inf_engine.errors import SchemaError, ToolArgumentError
from inf_engine.tools import Tool, tools_of


class Unit(enum.Enum):
    METRIC = "metric"
    IMPERIAL = "imperial"


@dataclasses.dataclass
class Place:
    city: str
    country: str = "FR"


class Window(pydantic.BaseModel):
    start: int
    end: int


class Old(typing.TypedDict):
    a: int


def weather(
    city: str,
    days: int = 3,
    unit: Unit = Unit.METRIC,
    detail: Literal["low", "high"] | None = None,
) -> str:
    """Look up the weather.

    Knows only large cities.

    Args:
        city: The city, with its country
            if the name is common: as in "Paris, Texas".
        days (int, optional): How many days ahead.
        unit: Metric or not.
        nonsense: Not an argument.

    Returns:
        A forecast: in words.
    """
    return f"{city} {days} {unit!r} {detail}"


async def visit(place: Place, windows: list[Window]) -> list[Any]:
    """Visit a place."""
    return [place, windows, type(place).__name__, type(windows[0]).__name__]


def nothing() -> None:
    pass


class Shop:
    def __init__(self, stock: int = 0) -> None:
        self.stock = stock

    def add(self, count: int) -> int:
        """Add to the stock."""
        self.stock += count
        return self.stock

    async def take(self, count: int) -> int:
        self.stock -= count
        return self.stock

    @staticmethod
    def open_at(hour: int) -> bool:
        return hour > 8


class TestSpec:
    def test_whole(self) -> None:
        """Signature and docstring give name, description and parameters."""
        spec = Tool.of(weather).spec
        assert spec.name == "weather"
        assert spec.description == "Look up the weather.\n\nKnows only large cities."
        assert spec.parameters == {
            "type": "object",
            "properties": {
                "city": {
                    "type": "string",
                    "description": "The city, with its country if the name is common: "
                    'as in "Paris, Texas".',
                },
                "days": {
                    "type": "integer",
                    "default": 3,
                    "description": "How many days ahead.",
                },
                "unit": {
                    "$ref": "#/$defs/Unit",
                    "default": "metric",
                    "description": "Metric or not.",
                },
                "detail": {
                    "anyOf": [
                        {"enum": ["low", "high"], "type": "string"},
                        {"type": "null"},
                    ],
                    "default": None,
                },
            },
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {
                "Unit": {
                    "enum": ["metric", "imperial"],
                    "title": "Unit",
                    "type": "string",
                }
            },
        }

    def test_classes(self) -> None:
        """Dataclasses and pydantic models become definitions."""
        schema = Tool.of(visit).spec.parameters
        assert set(schema["$defs"]) == {"Place", "Window"}
        assert schema["required"] == ["place", "windows"]

    def test_no_arguments(self) -> None:
        """A function without arguments and docstring has an empty object."""
        spec = Tool.of(nothing).spec
        assert spec.description == ""
        assert spec.parameters == {
            "type": "object",
            "properties": {},
            "additionalProperties": False,
        }

    def test_any_argument_name(self) -> None:
        """Names that a pydantic model would not allow are allowed."""

        def find(schema: str, model_config: int, _x: int, json: str, copy: int) -> str:
            return f"{schema}{model_config}{_x}{json}{copy}"

        names = ["schema", "model_config", "_x", "json", "copy"]
        assert list(Tool.of(find).spec.parameters["properties"]) == names

    def test_annotated_description_wins(self) -> None:
        """A description in the annotation goes before the docstring's."""

        def find(query: Annotated[str, pydantic.Field(description="mine")]) -> str:
            """Find.

            Args:
                query: yours
            """
            return query

        properties = Tool.of(find).spec.parameters["properties"]
        assert properties["query"]["description"] == "mine"

    def test_bound_method(self) -> None:
        """A bound method has no self."""
        tool = Tool.of(Shop().add)
        assert tool.name == "add"
        assert list(tool.spec.parameters["properties"]) == ["count"]

    def test_of_itself(self) -> None:
        """A tool is its own tool."""
        tool = Tool.of(weather)
        assert Tool.of(tool) is tool
        assert repr(Tool.of(nothing)) == "Tool(nothing() -> None)"

    def test_no_pydantic_before_use(self) -> None:
        """Making a tool does not import pydantic."""
        code = (
            "import sys\n"
            "from inf_engine.tools import Tool\n"
            "def f(a: int) -> int: return a\n"
            "tool = Tool.of(f)\n"
            "assert 'pydantic' not in sys.modules\n"
            "tool.spec\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestCall:
    async def test_sync(self) -> None:
        """Arguments arrive as Python values; what is left out has its default."""
        text = await Tool.of(weather).call('{"city": "Rome", "unit": "imperial"}')
        assert text == "Rome 3 <Unit.IMPERIAL: 'imperial'> None"

    async def test_async(self) -> None:
        """Classes are instances; a result that is no str is JSON."""
        arguments = '{"place": {"city": "é"}, "windows": [{"start": 1, "end": "2"}]}'
        assert json.loads(await Tool.of(visit).call(arguments)) == [
            {"city": "é", "country": "FR"},
            [{"start": 1, "end": 2}],
            "Place",
            "Window",
        ]

    @pytest.mark.parametrize("arguments", ["", " ", "{}"])
    async def test_no_arguments(self, arguments: str) -> None:
        """Empty text is no arguments; None is null."""
        assert await Tool.of(nothing).call(arguments) == "null"

    async def test_methods(self) -> None:
        """Methods act on their object, sync and async."""
        shop = Shop(5)
        assert await Tool.of(shop.add).call('{"count": 2}') == "7"
        assert await Tool.of(shop.take).call('{"count": 3}') == "4"
        assert await Tool.of(Shop.open_at).call('{"hour": 9}') == "true"

    async def test_sync_runs_in_a_thread(self) -> None:
        """A sync function does not block the loop, and sees the caller's context."""
        user: contextvars.ContextVar[str] = contextvars.ContextVar("user")
        user.set("ann")
        both = threading.Barrier(2, timeout=5)

        def wait() -> str:
            both.wait()
            return f"{user.get()} {threading.current_thread() is main}"

        main = threading.current_thread()
        tool = Tool.of(wait)
        results = await asyncio.gather(tool.call(""), tool.call(""))
        assert results == ["ann False"] * 2

    async def test_wrapped_async(self) -> None:
        """A decorated coroutine function is awaited, with its own signature."""

        def logged(fn: Callable[..., Awaitable[int]]) -> Callable[..., Any]:
            @functools.wraps(fn)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return fn(*args, **kwargs)

            return wrapper

        @logged
        async def double(n: int) -> int:
            return 2 * n

        assert await Tool.of(double).call('{"n": 4}') == "8"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("as is\n", "as is\n"),
            (Unit.METRIC, '"metric"'),
            ({"a": [1, 2.5, None, True]}, '{"a": [1, 2.5, null, true]}'),
            ("é", "é"),
            (["é"], '["é"]'),
            ({"b", "a"}, '["a", "b"]'),
            (Place("x"), '{"city": "x", "country": "FR"}'),
            ([Window(start=1, end=2)], '[{"start": 1, "end": 2}]'),
        ],
    )
    async def test_results(self, value: Any, text: str) -> None:
        """A str is itself, anything else JSON."""

        def give() -> Any:
            return value

        assert await Tool.of(give).call("") == text

    async def test_result_that_is_no_json(self) -> None:
        """A result that JSON cannot carry names the tool and the fix."""

        def give() -> Any:
            return object()

        with pytest.raises(
            SchemaError, match="result of tool 'give', a value of type object, can"
        ):
            await Tool.of(give).call("")

    async def test_own_exceptions(self) -> None:
        """What the function raises leaves unchanged, sync and async."""
        error = KeyError("own")

        def fail() -> None:
            raise error

        async def fail_too() -> None:
            raise error

        for fn in (fail, fail_too):
            with pytest.raises(KeyError) as caught:
                await Tool.of(fn).call("")
            assert caught.value is error

    async def test_stop_iteration(self) -> None:
        """A StopIteration, which no thread can hand over, does not hang."""

        def fail() -> Any:
            return next(iter(()))

        with pytest.raises(RuntimeError, match="tool 'fail' raised StopIteration"):
            await Tool.of(fail).call("")

    async def test_old_typed_dict(self) -> None:
        """A typing.TypedDict argument works on every Python, also with a default."""

        def take(old: Old, more: list[Old] | None = None) -> Any:
            return [old, more]

        text = await Tool.of(take).call('{"old": {"a": "1"}, "more": [{"a": 2}]}')
        assert text == '[{"a": 1}, [{"a": 2}]]'

    @given(
        st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])), st.integers(-9, 9)
        )
    )
    def test_round_trip(self, value: dict[str, int]) -> None:
        """JSON arguments arrive equal, and go back equal."""

        async def echo(value: dict[str, int]) -> dict[str, int]:
            return value

        call = Tool.of(echo).call(json.dumps({"value": value}))
        assert json.loads(asyncio.run(call)) == value


class TestBadArguments:
    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ("{", "tool 'weather' cannot be used: the arguments: Invalid JSON"),
            ("[1]", "the arguments: Input should be an object"),
            ("null", "the arguments: Input should be an object"),
            ("{}", "city: Field required"),
            ('{"city": "a", "days": "many"}', "days: Input should be a valid integer"),
            ('{"city": "a", "unit": "feet"}', "unit: Input should be 'metric' or"),
            ('{"city": "a", "town": "b"}', "town: Extra inputs are not permitted"),
            ('"\ud800"', "the arguments: "),
        ],
    )
    async def test_message(self, arguments: str, match: str) -> None:
        """The model is told which argument is wrong, and to call again."""
        with pytest.raises(ToolArgumentError, match=match) as caught:
            await Tool.of(weather).call(arguments)
        assert "Call it again with a JSON object" in str(caught.value)


class TestRefusal:
    def refused(self, fn: Any, match: str) -> None:
        with pytest.raises(SchemaError, match=match):
            _ = Tool.of(fn).spec

    def test_signatures(self) -> None:
        """What has no schema is refused with function, argument and fix."""

        def stars(*args: int) -> None: ...
        def more(a: int, **kwargs: int) -> None: ...
        def place(a: int, /) -> None: ...
        def plain(a) -> None: ...  # type: ignore[no-untyped-def]

        self.refused(stars, r"argument 'args' of tool 'stars' takes any number.*Write")
        self.refused(more, r"argument 'kwargs' of tool 'more' takes any names")
        self.refused(place, r"argument 'a' of tool 'place' cannot be passed by name")
        self.refused(plain, r"'a' of tool 'plain' has no type\. Annotate it, as in `a:")
        self.refused(Shop.add, r"'self' of tool 'add' is not bound.*obj\.method")

    def test_types(self) -> None:
        """A type without a schema is refused by argument."""

        def lock(key: threading.Lock) -> None: ...
        def call(ok: int, back: Callable[[int], int]) -> None: ...

        self.refused(lock, "argument 'key' of tool 'lock' has no JSON schema.*Use what")
        self.refused(call, "argument 'back' of tool 'call' has no JSON schema")

    def test_unknown_annotation(self) -> None:
        """An annotation that nobody knows is named."""

        def lost(a: "Nowhere") -> None: ...  # type: ignore # noqa: F821

        self.refused(lost, "tool 'lost' use the name 'Nowhere'.*module level")

    def test_defaults(self) -> None:
        """A default that is not of the type is refused with the fix."""

        def none(a: int = None) -> None: ...  # type: ignore
        def odd(a: Any = object()) -> None: ...  # noqa: B008

        fix = r"does not fit int\. .*`int \| None = None`"
        self.refused(none, f"default of argument 'a' of tool 'none', a value.*{fix}")
        self.refused(odd, "default of argument 'a' of tool 'odd', a value of type obj")

    @pytest.mark.parametrize("fn", [5, "weather", Shop, functools.partial(weather)])
    def test_not_a_function(self, fn: Any) -> None:
        """Values, classes and partials are refused."""
        self.refused(
            fn, "has to be a function or a bound method, not a .*Write a `def`"
        )

    def test_names(self) -> None:
        """A name that models cannot call is refused."""

        def été() -> None: ...

        self.refused(lambda: 1, "cannot be named '<lambda>'.*Write a `def`")
        self.refused(été, "cannot be named 'été'")

    def test_builtin_without_signature(self) -> None:
        """A builtin that tells nothing about itself is refused."""
        self.refused(max, "tool 'max' has no readable signature|takes any number")


class TestToolsOf:
    def test_order(self) -> None:
        """Functions and tools become tools by name, in order."""
        tool = Tool.of(visit)
        tools = tools_of([weather, tool, nothing])
        assert list(tools) == ["weather", "visit", "nothing"]
        assert tools["visit"] is tool
        assert tools_of([]) == {}

    def test_duplicates(self) -> None:
        """Two tools of one name are refused."""
        with pytest.raises(SchemaError, match="two tools are named 'add'.*Rename"):
            tools_of([Shop().add, Shop().add])

    @pytest.mark.parametrize("tools", [weather, Tool.of(weather), "weather"])
    def test_not_a_list(self, tools: Any) -> None:
        """One function where a list belongs is refused."""
        with pytest.raises(SchemaError, match=r"tools has to be a list.*tools=\[sea"):
            tools_of(tools)


class TestObject:
    async def test_pickle_and_copy(self) -> None:
        """A tool pickles and copies as its function does, before and after use."""
        tool = Tool.of(weather)
        for _ in range(2):
            for twin in (pickle.loads(pickle.dumps(tool)), copy.deepcopy(tool)):
                assert twin.fn is weather
                assert twin.spec == tool.spec

    async def test_copied_method(self) -> None:
        """The copy of a method acts on a copy of its object."""
        shop = Shop(1)
        twin = copy.deepcopy(Tool.of(shop.add))
        assert await twin.call('{"count": 1}') == "2"
        assert shop.stock == 1
