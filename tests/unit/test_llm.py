"""`LLMInference`: what it takes, what it refuses, and the request it builds."""

import copy
import json
import pickle
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import pytest
from pydantic import BaseModel

from inf_engine import (
    InfEngineError,
    InferenceModule,
    LLMInference,
    ModuleError,
    NotBoundError,
    Parameter,
    ParameterTypeError,
    ParameterValueError,
    SchemaError,
)
from inf_engine.messages import as_messages, template_fields
from inf_engine.types import ImagePart, Message, TextPart, ToolCall


class Fact(BaseModel):
    text: str


@dataclass
class Point:
    x: int


class Row(TypedDict):
    name: str


def look_up(word: str) -> str:
    """Look a word up."""
    return word


def prompt_of(llm: LLMInference[Any], *args: Any, **kwargs: Any) -> str:
    """Return the text of the user message of a call."""
    (message,) = llm.build_request(args, kwargs).messages
    assert message.role == "user"
    return message.text


# -- arguments ------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], type[InfEngineError], str]] = [
    ({"alias": ""}, ModuleError, "the alias .* must be a non-empty str, not ''"),
    ({"alias": None}, ModuleError, "the alias .* must be a non-empty str, not None"),
    ({"alias": 3}, ModuleError, "the alias .* must be a non-empty str, not 3"),
    ({"system_prompt": 3}, ParameterTypeError, "system_prompt must be a str or a Par"),
    ({"system_prompt": ""}, ParameterValueError, "must not be empty"),
    ({"prompt": ["{x}"]}, ParameterTypeError, "prompt must be a str or a Parameter"),
    ({"prompt": "{x"}, ModuleError, "broken prompt template: .*Double the braces"),
    ({"prompt": Parameter("}")}, ModuleError, "broken prompt template"),
    ({"prompt": "{}"}, ModuleError, "has a field without a name: '{}'"),
    ({"prompt": "{0}"}, ModuleError, "has a field without a name: '{0}'"),
    ({"prompt": '{"a": 1}'}, ModuleError, "without a name.* double the braces"),
    ({"response_format": "text"}, SchemaError, "has to be a type, not a value"),
    ({"tools": [3]}, SchemaError, "a tool has to be a function"),
    ({"tools": look_up}, SchemaError, "tools has to be a list"),
    ({"tools": [look_up, look_up]}, SchemaError, "two tools are named 'look_up'"),
    ({"temperature": -0.1}, ModuleError, "temperature is out of .* not at least 0"),
    ({"temperature": float("nan")}, ModuleError, "temperature is out of range: nan"),
    ({"temperature": float("inf")}, ModuleError, "temperature is out of range: inf"),
    ({"temperature": "0"}, ModuleError, "temperature must be a number, not '0'"),
    ({"temperature": True}, ModuleError, "temperature must be a number, not True"),
    ({"top_p": 0}, ModuleError, "top_p is out of .* 0 is not above 0 and at most 1"),
    ({"top_p": 1.1}, ModuleError, "top_p is out of range: 1.1"),
    ({"max_tokens": 0}, ModuleError, "max_tokens is out of range: 0 is not at least 1"),
    ({"max_tokens": 1.5}, ModuleError, "max_tokens must be an int, not 1.5"),
    ({"stop": [""]}, ModuleError, r"stop must be a non-empty text .* not \[''\]"),
    ({"stop": ""}, ModuleError, "stop must be a non-empty text or a list"),
    ({"stop": [3]}, ModuleError, "stop must be a non-empty text"),
    ({"stop": None}, ModuleError, "stop must be a non-empty text .* not None"),
    ({"seed": 1.0}, ModuleError, "seed must be an int, not 1.0"),
    ({"max_reasks": -1}, ModuleError, "max_reasks is out of range"),
    ({"max_reasks": None}, ModuleError, "max_reasks must be an int, not None"),
    ({"max_tool_turns": -1}, ModuleError, "max_tool_turns is out of range"),
    ({"max_tool_turns": None}, ModuleError, "max_tool_turns must be an int"),
    ({"tool_errors": "hide"}, ModuleError, "must be 'return' or 'raise', not 'hide'"),
]


@pytest.mark.parametrize(("bad", "kind", "message"), BAD)
def test_a_bad_argument_is_refused_when_it_is_built(
    bad: dict[str, Any], kind: type[InfEngineError], message: str
) -> None:
    """Nothing waits for the first call to be refused."""
    build: Any = LLMInference
    with pytest.raises(kind, match=message):
        build(**{"alias": "fast", **bad})


@pytest.mark.parametrize(("bad", "kind", "message"), BAD)
def test_a_bad_argument_is_refused_when_it_is_assigned(
    bad: dict[str, Any], kind: type[InfEngineError], message: str
) -> None:
    """An attribute takes what the constructor takes, and is else left as it was."""
    llm = LLMInference(alias="fast", response_format=list[str], temperature=0.5)
    ((name, value),) = bad.items()
    before = getattr(llm, name)
    with pytest.raises(kind, match=message):
        setattr(llm, name, value)
    assert getattr(llm, name) is before


def test_an_argument_may_be_assigned_later() -> None:
    """Text becomes a frozen parameter, a type an output type, functions tools."""
    llm: LLMInference[Any] = LLMInference(alias="fast", system_prompt="old")
    llm.system_prompt = "new"  # ty: ignore[invalid-assignment]
    llm.prompt = "{word}"  # ty: ignore[invalid-assignment]
    llm.response_format = list[str]
    llm.tools = [look_up]  # ty: ignore[invalid-assignment]
    llm.stop = "END"  # ty: ignore[invalid-assignment]
    request = llm.build_request(("a",), {})
    assert (request.system, request.prompt, request.stop) == ("new", "a", ("END",))
    assert request.response_schema is not None
    assert [tool.name for tool in request.tools] == ["look_up"]
    assert llm.state_dict() == {"system_prompt": "new", "prompt": "{word}"}
    llm.system_prompt = llm.response_format = None
    assert llm.build_request(("a",), {}).response_schema is None
    assert list(llm.state_dict()) == ["prompt"]


def test_the_request_carries_every_argument() -> None:
    """What was configured is what goes out."""
    llm = LLMInference(
        alias="fast",
        system_prompt="List facts.",
        response_format=Fact,
        tools=[look_up],
        temperature=0,
        top_p=0.5,
        max_tokens=10,
        stop=["A", "B"],
        seed=-7,
    )
    request = llm.build_request(("text",), {})
    assert request.messages == (
        Message("system", "List facts."),
        Message("user", "text"),
    )
    assert (request.temperature, request.top_p, request.max_tokens) == (0, 0.5, 10)
    assert (request.stop, request.seed) == (("A", "B"), -7)
    assert request.tools == (llm.tools["look_up"].spec,)
    assert request.response_schema == llm.output_type.schema
    assert request.model == ""


def test_nothing_is_sent_that_was_not_asked_for() -> None:
    """The defaults leave everything to the endpoint."""
    request = LLMInference(alias="fast").build_request(("text",), {})
    assert request.messages == (Message("user", "text"),)
    sampling = request.temperature, request.top_p, request.max_tokens, request.seed
    assert sampling == (None,) * 4
    assert (request.stop, request.tools, request.response_schema) == ((), (), None)


# -- the system prompt ----------------------------------------------------------------


def test_a_text_system_prompt_is_a_frozen_parameter() -> None:
    """It is in the state dict, and no optimizer changes it unasked."""
    llm = LLMInference(alias="fast", system_prompt="List facts.")
    assert json.loads(json.dumps(llm.state_dict())) == {"system_prompt": "List facts."}
    assert llm.system_prompt is not None
    assert not llm.system_prompt.requires_grad
    llm.load_state_dict({"system_prompt": "List all facts."})
    assert llm.build_request(("x",), {}).system == "List all facts."


def test_a_parameter_may_be_shared_between_modules() -> None:
    """It is the same object, yielded once, and both follow its value."""

    class Both(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            style = Parameter("Be brief.")
            self.a = LLMInference(alias="fast", system_prompt=style)
            self.b = LLMInference(alias="smart", system_prompt=style)

    both = Both()
    (style,) = both.parameters()
    assert style.requires_grad
    assert style.name == "a.system_prompt"
    style.apply_update("Be long.")
    for llm in (both.a, both.b):
        assert llm.build_request(("x",), {}).system == "Be long."


def test_without_a_system_prompt_there_is_no_parameter() -> None:
    """None is None."""
    assert LLMInference(alias="fast").state_dict() == {}
    assert LLMInference(alias="fast").system_prompt is None


# -- prompts --------------------------------------------------------------------------

PICTURE = ImagePart(url="https://example.org/a.png")


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ("hi", [Message("user", "hi")]),
        ("", [Message("user", "")]),
        (Parameter("hi"), [Message("user", "hi")]),
        (Message("assistant", "hi"), [Message("assistant", "hi")]),
        ({"role": "user", "content": "hi"}, [Message("user", "hi")]),
        (
            [{"role": "system", "content": Parameter("s")}, Message("user", "u")],
            [Message("system", "s"), Message("user", "u")],
        ),
        (
            ("look:", PICTURE, Parameter("p"), TextPart("t")),
            [
                Message(
                    "user", (TextPart("look:"), PICTURE, TextPart("p"), TextPart("t"))
                )
            ],
        ),
        (
            [
                {"type": "text", "text": "look:"},
                {"type": "image_url", "image_url": {"url": PICTURE.url}},
                {"type": "image_url", "image_url": PICTURE.url},
            ],
            [Message("user", (TextPart("look:"), PICTURE, PICTURE))],
        ),
        (
            {"role": "user", "content": ["look:", PICTURE], "tool_calls": None},
            [Message("user", (TextPart("look:"), PICTURE))],
        ),
        (
            [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "1", "function": {"name": "f", "arguments": "{}"}},
                        ToolCall("2", "g", "{}"),
                    ],
                },
                {"role": "tool", "content": "done", "tool_call_id": "1"},
            ],
            [
                Message(
                    "assistant",
                    tool_calls=(ToolCall("1", "f", "{}"), ToolCall("2", "g", "{}")),
                ),
                Message("tool", "done", tool_call_id="1"),
            ],
        ),
    ],
)
def test_a_prompt_is_text_messages_or_parts(
    prompt: Any, messages: list[Message]
) -> None:
    """Each form gives these messages."""
    assert list(as_messages(prompt)) == messages
    request = LLMInference(alias="fast").build_request((prompt,), {})
    assert list(request.messages) == messages


class Later:
    """What an ``async def`` gives before it is awaited."""

    def __await__(self) -> Any: ...


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (3, r"text or messages, not int: write it into an f-string"),
        (Later(), r"not Later: await it first, e.g. self.llm\(await value\)"),
        (None, "text or messages, not NoneType"),
        (b"bytes", "text or messages, not bytes"),
        ([], "text or messages, not list"),
        ([3], "a message must be a Message or a dict .* not int"),
        (["text", 3], "a message must be a Message or a dict .* not str"),
        ({"content": "hi"}, "a dict with 'role' and 'content', not dict"),
        ({"role": "usr", "content": "x"}, r"unknown role 'usr'; .*mean 'user'"),
        ({"role": ["user"], "content": "x"}, "unknown role"),
        ({"role": "user", "content": 3}, "the content of a message must be .* not int"),
        ({"role": "user", "content": None}, "the content .* not NoneType"),
        ({"role": "user", "content": [3]}, "a part of a message must be text, .* int"),
        ([{"type": "image_url", "image_url": None}], "a part of a message must be"),
        ([{"type": "input_audio"}], "a part of a message must be text"),
        (
            {"role": "user", "content": "x", "nmae": "y"},
            "a message has the unknown key 'nmae'; known: content, role, tool_call_id",
        ),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
            r"a tool call must be a ToolCall or \{'id'",
        ),
    ],
)
def test_a_bad_prompt_is_refused(prompt: Any, message: str) -> None:
    """With what it was, and what to give instead."""
    with pytest.raises(ModuleError, match=message):
        LLMInference(alias="fast").build_request((prompt,), {})


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), (("a", "b"), {}), ((), {"text": "a"})]
)
def test_without_a_template_a_call_takes_one_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """The message says how it was called, and what a template is."""
    called = f"called with {len(args)} and the keywords"
    with pytest.raises(ModuleError, match=f"{called}.*template"):
        LLMInference(alias="fast").build_request(args, kwargs)


# -- templates ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "args", "kwargs", "text"),
    [
        ("A: {a}, B: {b}", (), {"a": 1, "b": "x"}, "A: 1, B: x"),
        ("Translate {text}!", ("hi",), {}, "Translate hi!"),
        ("{text} {text!r}", ("hi",), {}, "hi 'hi'"),
        ("{p.x} {row[name]} {seq[0]}", (), None, "1 n 5"),
        ("{n:>4}|{n:.2f}", (1.5,), {}, " 1.5|1.50"),
        ("{n:>{width}}", (), {"n": 1, "width": 3}, "  1"),
        ('{{"json": {n}}}', (1,), {}, '{"json": 1}'),
        ("{text}", (), {"text": "{not a field}"}, "{not a field}"),
        ("no fields", (), {}, "no fields"),
        ("{self} {module} {args}", (), {"self": 1, "module": 2, "args": 3}, "1 2 3"),
        ("{style}", (Parameter("Be brief."),), {}, "Be brief."),
    ],
)
def test_a_template_is_filled(
    template: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None, text: str
) -> None:
    """Named fields by keyword, the only one also by position."""
    if kwargs is None:
        kwargs = {"p": Point(1), "row": {"name": "n"}, "seq": [5]}
    llm = LLMInference(alias="fast", prompt=template)
    assert prompt_of(llm, *args, **kwargs) == text


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"missing \['a', 'b'\], unknown \[\], 0 given by position"),
        ((), {"a": 1}, r"has the fields \['a', 'b'\]; missing \['b'\]"),
        ((), {"a": 1, "b": 2, "c": 3}, r"missing \[\], unknown \['c'\]"),
        ((1, 2), {}, "2 given by position. Give each field by keyword"),
        ((1,), {"b": 2}, "1 given by position"),
    ],
)
def test_fields_that_do_not_match_are_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    """The message lists the fields, what is missing and what is unknown."""
    llm = LLMInference(alias="fast", prompt="{a} {b}")
    with pytest.raises(ModuleError, match=message):
        llm.build_request(args, kwargs)


@pytest.mark.parametrize(
    ("template", "value", "cause"),
    [
        ("{a.b}", "x", AttributeError),
        ("{a[b]}", {}, KeyError),
        ("{a[9]}", [], IndexError),
        ("{a:.2f}", "x", ValueError),
        ("{a[0]}", 3, TypeError),
    ],
)
def test_a_value_that_does_not_fit_its_field_is_refused(
    template: str, value: Any, cause: type[Exception]
) -> None:
    """The message names the fields and the types; the cause is kept."""
    kind = type(value).__name__
    with pytest.raises(ModuleError, match=rf"filled with \(a: {kind}\)") as info:
        LLMInference(alias="fast", prompt=template).build_request((value,), {})
    assert isinstance(info.value.__cause__, cause)


def test_a_template_may_be_a_parameter_that_changes() -> None:
    """A call uses the text as it is then, and checks its fields again."""
    task = Parameter("Translate {text}.")
    llm = LLMInference(alias="fast", prompt=task)
    assert prompt_of(llm, "x") == "Translate x."
    task.apply_update("Turn {text} into {language}.")
    assert prompt_of(llm, text="x", language="French") == "Turn x into French."
    with pytest.raises(ModuleError, match=r"missing \['language'\]"):
        llm.build_request((), {"text": "x"})
    task.apply_update("Broken {")
    with pytest.raises(ModuleError, match="broken prompt template"):
        llm.build_request(("x",), {})


def test_the_fields_of_a_template_are_listed_once_in_order() -> None:
    """Attributes, items, conversions and nested specs count by their root."""
    template = "{b.x} {a[0]} {b!r:>{w}} {{c}}"
    assert template_fields(template) == ["b", "a", "w"]


# -- calls, text, copies --------------------------------------------------------------


def test_nobody_answers_an_unbound_call() -> None:
    """The message names the alias and every way to run it."""
    with pytest.raises(NotBoundError, match=r"alias='fast'.*engine\.run.*bind.*op\("):
        LLMInference(alias="fast", prompt="{self}")(self="x")


async def test_nobody_answers_an_unbound_acall() -> None:
    """It raises when awaited."""
    with pytest.raises(NotBoundError, match="nobody answers"):
        await LLMInference(alias="fast").acall("x")


def test_it_is_a_leaf() -> None:
    """Its calls are recorded, not traced through."""
    assert LLMInference.leaf
    assert LLMInference[str](alias="fast").leaf


def test_the_repr_shows_alias_format_and_prompts() -> None:
    """One look says what it does."""
    assert repr(LLMInference(alias="fast")) == "LLMInference(alias='fast')"
    llm = LLMInference(alias="fast", prompt=Parameter("{x}"), response_format=Fact)
    assert repr(llm) == (
        "LLMInference(alias='fast', response_format=Fact\n"
        "  (prompt): Parameter('{x}')\n"
        ")"
    )


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda llm: pickle.loads(pickle.dumps(llm))]
)
@pytest.mark.parametrize(
    "response_format",
    [None, str, Fact, Point, Row, Literal["a", "b"], list[str], int | None],
)
def test_copies_build_the_same_request(copied: Any, response_format: Any) -> None:
    """Response formats and tools survive, also when their schemas were made."""
    llm: LLMInference[Any] = LLMInference[Any](
        alias="fast",
        system_prompt="s",
        prompt="{x}",
        response_format=response_format,
        tools=[look_up],
        stop="END",
        seed=1,
    )
    for _ in range(2):
        twin = copied(llm)
        assert twin.build_request(("v",), {}) == llm.build_request(("v",), {})
        assert twin.response_format == response_format
        assert twin.tools["look_up"].fn is look_up
