"""What the tests of the HTTP clients share: a key, requests, an answer, a client."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.testing.server import LoopbackServer
from inf_engine.types import (
    LLMRequest,
    LLMResponse,
    Message,
    StreamingClient,
    ToolCall,
    ToolSpec,
    Usage,
)

KEY = "sk-loopback-1234"
HELLO = LLMRequest(messages=(Message("system", "Be brief."), Message("user", "Hi you")))
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
CLOSED = {**SCHEMA, "required": ["a"], "additionalProperties": False}
OPEN = {"type": "object", "additionalProperties": {"type": "string"}}
TOOL = ToolSpec("add", "Add two.", {"type": "object", "properties": {}})
CALL = ToolCall("c1", "add", '{"a": 1}')
TOOLS = LLMRequest(
    messages=(
        Message("user", "Add."),
        Message("assistant", "", (CALL, replace(CALL, id="c2", arguments=""))),
        Message("tool", "3", tool_call_id="c1"),
        Message("tool", "4", tool_call_id="c2"),
        Message("user", "And?"),
    ),
    tools=(TOOL,),
)
RICH = LLMResponse(
    text="Two  words\nand more.",
    tool_calls=(CALL, ToolCall("c2", "sub", '{"b": "é"}')),
    reasoning="Think first.",
    finish_reason="tool_calls",
    usage=Usage(1, 100, 20, 40, 5),
    model="m-1",
    id="answer-7",
)

Both = pytest.mark.parametrize("kind", [OpenAIClient, AnthropicClient])


@asynccontextmanager
async def client_of(
    kind: Any, server: LoopbackServer, **options: Any
) -> AsyncGenerator[StreamingClient]:
    """A client of `server`, closed in the end."""
    url = server.base_url if kind is OpenAIClient else server.anthropic_url
    client = kind("m", base_url=url, api_key=KEY, **options)
    try:
        yield client
    finally:
        await client.aclose()


async def pieces_of(client: StreamingClient, request: LLMRequest) -> list[Any]:
    """Everything that a stream yields."""
    return [piece async for piece in client.stream(request)]
