"""Tools in `/v1/chat/completions`, by OpenAI's own client."""

import json
from typing import Any

import openai
import pytest

ASKED: list[Any] = [{"role": "user", "content": "The quick brown fox"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Say what the weather is.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"enum": ["here", "there"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["place", "days"],
            "additionalProperties": False,
        },
    },
}
STOP: dict[str, Any] = {"type": "function", "function": {"name": "stop"}}
NAMED: dict[str, Any] = {"type": "function", "function": {"name": "stop"}}


def ask(client: openai.OpenAI, **more: Any) -> Any:
    """Return the response to a request with tools."""
    given: dict[str, Any] = {
        **{"messages": ASKED, "tools": [WEATHER, STOP], "max_tokens": 90},
        **{"parallel_tool_calls": False, "seed": 3},
    }
    return client.chat.completions.create(model="tiny", **{**given, **more})


def test_an_answer_that_must_call_does(client: openai.OpenAI) -> None:
    """The arguments have the form of the function; there is no other text."""
    found = ask(client, tool_choice="required", n=4)
    for choice in found.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls
        told = json.loads(call.function.arguments)
        assert call.id.startswith("call_") and call.type == "function"
        if call.function.name == "weather":
            assert told["place"] in ("here", "there") and 1 <= told["days"] <= 9
        else:
            assert (call.function.name, told) == ("stop", {})
    assert len({c.message.tool_calls[0].id for c in found.choices}) == 4


def test_a_named_function_is_called(client: openai.OpenAI) -> None:
    """And no other; the reason is then to stop, as OpenAI has it."""
    for choice in ask(client, tool_choice=NAMED, n=3, temperature=1).choices:
        assert choice.message.tool_calls[0].function.name == "stop"
        assert choice.message.tool_calls[0].function.arguments == "{}"
        assert choice.finish_reason == "stop"


def test_a_stream_tells_the_same_calls(client: openai.OpenAI) -> None:
    """A call comes whole in one piece; its number says which it is."""
    more: dict[str, Any] = {"tool_choice": "required", "temperature": 1, "seed": 5}
    more |= {"parallel_tool_calls": True, "max_tokens": 400}
    expected = ask(client, **more).choices[0]
    calls, text, reasons = [], "", []
    for chunk in ask(client, stream=True, **more):
        (choice,) = chunk.choices
        text += choice.delta.content or ""
        calls += choice.delta.tool_calls or []
        reasons += [choice.finish_reason] if choice.finish_reason else []
    told = [(c.function.name, c.function.arguments) for c in calls]
    assert told == [
        (c.function.name, c.function.arguments) for c in expected.message.tool_calls
    ]
    assert [call.index for call in calls] == list(range(len(calls)))
    assert reasons == [expected.finish_reason]
    assert text == (expected.message.content or "")


def test_text_is_an_answer_too(client: openai.OpenAI) -> None:
    """With auto a random model calls nothing; with none it could not."""
    for choice in ("auto", "none"):
        found = ask(client, tool_choice=choice, max_tokens=9).choices[0]
        assert found.message.content and found.message.tool_calls is None
        assert found.finish_reason in ("length", "stop")


def test_a_call_that_is_cut_is_text(client: openai.OpenAI) -> None:
    """What there is of it, with the reason that it was cut."""
    found = ask(client, tool_choice="required", max_tokens=9).choices[0]
    assert found.finish_reason == "length" and found.message.tool_calls is None
    assert found.message.content.startswith("<tool")


def test_a_conversation_goes_on_with_what_came_of_a_call(
    client: openai.OpenAI,
) -> None:
    """The client's own messages come back as they were sent out."""
    more: dict[str, Any] = {"tools": [STOP], "max_tokens": 70}
    first = ask(client, tool_choice=NAMED, **more).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "ok"}
    messages = [*ASKED, first, result]
    more |= {"max_tokens": 4, "extra_body": {"return_token_ids": True}}
    found = ask(client, messages=messages, **more)
    assert found.choices[0].finish_reason
    alone = ask(client, **more)
    assert len(found.prompt_token_ids) > len(alone.prompt_token_ids) + 20


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tool_choice": "always"}, "tool_choice 'always' is not known"),
        ({"tools": [], "tool_choice": "required"}, "'tool_choice' needs 'tools'"),
        (
            {
                "tool_choice": "required",
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "a", "parameters": {"type": "nope"}},
                    }
                ],
            },
            "the schema cannot be used: .*nope",
        ),
    ],
)
def test_tools_without_sense_are_refused(
    client: openai.OpenAI, more: dict[str, Any], said: str
) -> None:
    """400, by the field."""
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        ask(client, **more)
    assert caught.value.param in ("tools", "tool_choice")
