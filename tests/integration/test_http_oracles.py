"""The HTTP clients against the official SDKs: asked the same, they send the same."""

from dataclasses import replace
from typing import Any

import anthropic
import openai
from tests.integration.http_helpers import (
    CLOSED,
    HELLO,
    KEY,
    RICH,
    SCHEMA,
    TOOL,
    TOOLS,
    client_of,
    pieces_of,
)

from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.testing.server import LoopbackServer
from inf_engine.types import ResponseSchema


async def test_openai_sdk_sends_the_same() -> None:
    """The official SDK, asked the same, sends the same bodies and reads the same."""
    strict = {"name": "A", "schema": CLOSED, "strict": True}
    request = replace(
        TOOLS, response_schema=ResponseSchema("A", SCHEMA), max_tokens=9, stop=("x",)
    )
    async with LoopbackServer(RICH) as server, client_of(OpenAIClient, server) as ours:
        sdk: Any = openai.AsyncOpenAI(
            base_url=server.base_url, api_key=KEY, max_retries=0
        )
        answer = await ours.complete(request)
        sent = server.requests[0].body
        async with sdk:
            theirs = await sdk.chat.completions.create(
                model="m",
                messages=sent["messages"],
                tools=[openai_tool()],
                response_format={"type": "json_schema", "json_schema": strict},
                max_completion_tokens=9,
                stop=["x"],
            )
        assert server.requests[1].body == sent
        shared = ("authorization", "content-type")
        first, second = (r.headers for r in server.requests)
        assert {k: first[k] for k in shared} == {k: second[k] for k in shared}
    choice = theirs.choices[0]
    assert (choice.message.content, choice.finish_reason) == (
        answer.text,
        answer.finish_reason,
    )
    assert theirs.usage.prompt_tokens == answer.usage.input_tokens
    assert theirs.usage.completion_tokens == answer.usage.output_tokens


def openai_tool() -> dict[str, Any]:
    """The tool of `TOOLS` as OpenAI's documentation writes it."""
    function = {"name": "add", "description": "Add two.", "parameters": TOOL.parameters}
    return {"type": "function", "function": function}


async def test_openai_sdk_streams_the_same() -> None:
    """The official SDK reads the same pieces from the same stream."""
    async with LoopbackServer(RICH) as server, client_of(OpenAIClient, server) as ours:
        *pieces, _ = await pieces_of(ours, HELLO)
        sent = server.requests[0].body
        sdk: Any = openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY)
        async with sdk:
            stream = await sdk.chat.completions.create(**sent)
            deltas = [c.choices[0].delta async for c in stream if c.choices]
        assert server.requests[1].body == sent
    assert [delta.content for delta in deltas if delta.content] == pieces


async def test_anthropic_sdk_sends_the_same() -> None:
    """The official SDK, asked the same, sends the same bodies and reads the same."""
    request = replace(
        TOOLS, response_schema=ResponseSchema("A", CLOSED), max_tokens=9, stop=("x",)
    )
    tool = {"name": "add", "description": "Add two.", "input_schema": TOOL.parameters}
    async with (
        LoopbackServer(RICH) as server,
        client_of(AnthropicClient, server) as ours,
    ):
        answer = await ours.complete(request)
        sent = server.requests[0].body
        sdk: Any = anthropic.AsyncAnthropic(
            base_url=server.anthropic_url, api_key=KEY, max_retries=0
        )
        async with sdk:
            theirs = await sdk.messages.create(
                model="m",
                messages=sent["messages"],
                tools=[tool],
                output_config={"format": {"type": "json_schema", "schema": CLOSED}},
                max_tokens=9,
                stop_sequences=["x"],
            )
        assert server.requests[1].body == sent
        versions = {r.headers["anthropic-version"] for r in server.requests}
        assert len(versions) == 1
    texts = "".join(block.text for block in theirs.content if block.type == "text")
    assert texts == answer.text
    assert theirs.usage.output_tokens == answer.usage.output_tokens
    assert theirs.usage.output_tokens_details.thinking_tokens == 5


async def test_anthropic_sdk_streams_the_same() -> None:
    """The official SDK reads the same pieces from the same stream."""
    async with (
        LoopbackServer(RICH) as server,
        client_of(AnthropicClient, server) as ours,
    ):
        *pieces, answer = await pieces_of(ours, HELLO)
        sent = {k: v for k, v in server.requests[0].body.items() if k != "stream"}
        sdk: Any = anthropic.AsyncAnthropic(base_url=server.anthropic_url, api_key=KEY)
        async with sdk, sdk.messages.stream(**sent) as stream:
            assert [piece async for piece in stream.text_stream] == pieces
            theirs = await stream.get_final_message()
        assert server.requests[1].body == server.requests[0].body
    calls = [block for block in theirs.content if block.type == "tool_use"]
    assert [call.id for call in calls] == [call.id for call in answer.tool_calls]
    assert calls[1].input == {"b": "é"}
