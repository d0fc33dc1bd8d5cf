"""The HTTP clients against a real server: what arrives there, what comes back."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from tests.integration.http_helpers import (
    CALL,
    CLOSED,
    HELLO,
    KEY,
    OPEN,
    RICH,
    SCHEMA,
    TOOL,
    TOOLS,
    Both,
    client_of,
    pieces_of,
)

from inf_engine.clients.anthropic import MAX_TOKENS, AnthropicClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.errors import EngineStateError, UsageError
from inf_engine.testing.replies import (
    anthropic_body,
    anthropic_events,
    openai_body,
    openai_events,
)
from inf_engine.testing.server import LoopbackServer
from inf_engine.types import (
    ImagePart,
    LLMRequest,
    LLMResponse,
    Message,
    Quota,
    RateHint,
    ResponseSchema,
    TextPart,
    ToolCall,
    Usage,
)

IMAGES = LLMRequest(
    messages=(
        Message(
            "user",
            (
                TextPart("What?"),
                ImagePart(url="https://h.test/a.png"),
                ImagePart(data="QUJD", media_type="image/jpeg"),
                ImagePart(url="data:image/webp;base64,REVG"),
            ),
        ),
    )
)


async def arrived(kind: Any, request: LLMRequest, **options: Any) -> Any:
    """What arrives at the server when `request` is completed."""
    async with LoopbackServer() as server, client_of(kind, server, **options) as client:
        await client.complete(request)
        return server.requests[0]


async def test_openai_headers_and_path() -> None:
    """The key is a bearer token; further headers are sent with it."""
    seen = await arrived(OpenAIClient, HELLO, headers={"X-Team": "t"})
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["x-team"] == "t"


async def test_anthropic_headers_and_path() -> None:
    """The key is x-api-key, and the version of the API is sent."""
    seen = await arrived(AnthropicClient, HELLO)
    assert seen.path == "/v1/messages"
    assert seen.headers["x-api-key"] == KEY
    assert seen.headers["anthropic-version"] == "2026-10-21"
    assert "authorization" not in seen.headers


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"top_p": 0.5}])
async def test_anthropic_sampling_asks_the_version_that_has_it(
    setting: dict[str, Any],
) -> None:
    """Temperature and top_p go with the last version of the API that takes them."""
    seen = await arrived(AnthropicClient, replace(HELLO, **setting))
    assert seen.headers["anthropic-version"] == "2023-06-01"
    assert setting.items() <= seen.body.items()


async def test_anthropic_version_can_be_set() -> None:
    """A version among the client's headers wins over both."""
    version = {"Anthropic-Version": "2099-01-01"}
    for request in (HELLO, replace(HELLO, temperature=1.0)):
        seen = await arrived(AnthropicClient, request, headers=version)
        assert seen.headers["anthropic-version"] == "2099-01-01"


async def test_without_a_key_none_is_sent() -> None:
    """A client without a key sends no credentials."""
    async with LoopbackServer() as server:
        for client in (
            OpenAIClient("m", base_url=server.base_url, api_key=None),
            AnthropicClient("m", base_url=server.anthropic_url, api_key=None),
        ):
            await client.complete(HELLO)
            await client.aclose()
        for seen in server.requests:
            assert not {"authorization", "x-api-key"} & seen.headers.keys()


async def test_openai_sends_only_what_is_set() -> None:
    """What a request leaves at None is not in the body."""
    seen = await arrived(OpenAIClient, HELLO)
    assert seen.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi you"},
        ],
    }


async def test_anthropic_sends_only_what_is_set() -> None:
    """The system message is top-level; max_tokens is filled in."""
    seen = await arrived(AnthropicClient, HELLO)
    assert seen.body == {
        "model": "m",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Hi you"}],
        "max_tokens": MAX_TOKENS,
    }


SAMPLING: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "max_tokens": 7,
    "stop": ("END", "."),
    "seed": 3,
}


@pytest.mark.parametrize("compatible", [False, True])
async def test_openai_sampling(compatible: bool) -> None:
    """Every setting arrives; the name of the token limit depends on the server."""
    request = replace(HELLO, model="other", **SAMPLING)
    seen = await arrived(OpenAIClient, request, compatible=compatible)
    limit = "max_tokens" if compatible else "max_completion_tokens"
    assert {k: v for k, v in seen.body.items() if k != "messages"} == {
        "model": "other",
        "temperature": 0.5,
        "top_p": 0.9,
        limit: 7,
        "stop": ["END", "."],
        "seed": 3,
    }


async def test_anthropic_sampling() -> None:
    """Every setting arrives but the seed, which the API does not have."""
    request = replace(HELLO, model="other", **SAMPLING)
    seen = await arrived(AnthropicClient, request)
    body = {k: v for k, v in seen.body.items() if k not in ("messages", "system")}
    assert body == {
        "model": "other",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop_sequences": ["END", "."],
    }


async def test_openai_images() -> None:
    """Images are addresses; content becomes a data address."""
    seen = await arrived(OpenAIClient, IMAGES)
    text, *images = seen.body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What?"}
    assert [image["image_url"]["url"] for image in images] == [
        "https://h.test/a.png",
        "data:image/jpeg;base64,QUJD",
        "data:image/webp;base64,REVG",
    ]


async def test_anthropic_images() -> None:
    """Images are addresses or base64 content; a data address becomes content."""
    seen = await arrived(AnthropicClient, IMAGES)
    text, *images = seen.body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What?"}
    assert [image["source"] for image in images] == [
        {"type": "url", "url": "https://h.test/a.png"},
        {"type": "base64", "media_type": "image/jpeg", "data": "QUJD"},
        {"type": "base64", "media_type": "image/webp", "data": "REVG"},
    ]


async def test_openai_tools() -> None:
    """Tools, calls and results arrive as chat completions have them."""
    seen = await arrived(OpenAIClient, TOOLS)
    _, asked, first, second, _ = seen.body["messages"]
    assert asked["content"] is None
    assert [call["function"] for call in asked["tool_calls"]] == [
        {"name": "add", "arguments": '{"a": 1}'},
        {"name": "add", "arguments": ""},
    ]
    assert first == {"role": "tool", "content": "3", "tool_call_id": "c1"}
    assert second["tool_call_id"] == "c2"
    function = {"name": "add", "description": "Add two.", "parameters": TOOL.parameters}
    assert seen.body["tools"] == [{"type": "function", "function": function}]


async def test_anthropic_tools() -> None:
    """The results of one turn stand in one user message, as the API demands."""
    seen = await arrived(AnthropicClient, TOOLS)
    messages = seen.body["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "user"]
    assert messages[1]["content"] == [
        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
        {"type": "tool_use", "id": "c2", "name": "add", "input": {}},
    ]
    assert messages[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "c1", "content": "3"},
        {"type": "tool_result", "tool_use_id": "c2", "content": "4"},
    ]
    tool = {"name": "add", "description": "Add two.", "input_schema": TOOL.parameters}
    assert seen.body["tools"] == [tool]


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]"])
async def test_anthropic_gets_broken_arguments_as_text(arguments: str) -> None:
    """Arguments of a past call that are no object are wrapped in one."""
    said = Message("assistant", "So:", (replace(CALL, arguments=arguments),))
    seen = await arrived(AnthropicClient, LLMRequest(messages=(said,)))
    text, call = seen.body["messages"][0]["content"]
    assert text == {"type": "text", "text": "So:"}
    assert call["input"] == {"arguments": arguments}


@pytest.mark.parametrize(
    ("schema", "compatible", "sent"),
    [
        (SCHEMA, False, {"schema": CLOSED, "strict": True}),
        (OPEN, False, {"schema": OPEN}),
        (SCHEMA, True, {"schema": SCHEMA}),
        (CLOSED, True, {"schema": CLOSED, "strict": True}),
    ],
)
async def test_openai_response_schema(
    schema: dict[str, Any], compatible: bool, sent: dict[str, Any]
) -> None:
    """Strict where the schema can be; a compatible server gets it unchanged."""
    request = replace(HELLO, response_schema=ResponseSchema("A", schema))
    seen = await arrived(OpenAIClient, request, compatible=compatible)
    wanted = {"type": "json_schema", "json_schema": {"name": "A", **sent}}
    assert seen.body["response_format"] == wanted


async def test_anthropic_response_schema() -> None:
    """A schema that the provider enforces is native; another one is asked for."""
    request = replace(HELLO, response_schema=ResponseSchema("A", CLOSED))
    seen = await arrived(AnthropicClient, request)
    wanted = {"format": {"type": "json_schema", "schema": CLOSED}}
    assert seen.body["output_config"] == wanted
    request = replace(HELLO, response_schema=ResponseSchema("A", OPEN))
    seen = await arrived(AnthropicClient, request)
    assert "output_config" not in seen.body
    assert seen.body["system"].startswith("Be brief.\n\nAnswer with one JSON value")
    assert '"additionalProperties"' in seen.body["system"]


@Both
async def test_a_whole_answer(kind: Any) -> None:
    """Text, calls, reasoning, finish reason, usage, model and id come back."""
    async with LoopbackServer(RICH) as server, client_of(kind, server) as client:
        answer = await client.complete(HELLO)
    assert replace(answer, seconds=0.0) == RICH
    assert answer.seconds > 0


@Both
async def test_a_streamed_answer(kind: Any) -> None:
    """The pieces are the text; the last item is the answer, as if not streamed."""
    async with LoopbackServer(RICH) as server, client_of(kind, server) as client:
        *pieces, answer = await pieces_of(client, HELLO)
        assert server.requests[0].body["stream"] is True
    assert len(pieces) == 4
    assert "".join(pieces) == RICH.text
    assert replace(answer, seconds=0.0) == RICH


@Both
@pytest.mark.parametrize("streamed", [False, True])
async def test_limits_come_with_an_answer(kind: Any, streamed: bool) -> None:
    """What the headers say about rate limits stands on the response."""
    headers = {
        "Content-Type": "text/event-stream" if streamed else "application/json",
        "X-RateLimit-Limit-Requests": "60",
        "X-RateLimit-Remaining-Tokens": "149984",
    }
    if not streamed:
        make = openai_body if kind is OpenAIClient else anthropic_body
        body = json.dumps(make(RICH))
    else:
        events = openai_events if kind is OpenAIClient else anthropic_events
        body = b"".join(events(RICH)).decode()
    async with (
        LoopbackServer(errors=[(200, headers, body), None]) as server,
        client_of(kind, server) as client,
    ):
        ask = pieces_of if streamed else completed
        *_, answer = await ask(client, HELLO)
        assert answer.limits == RateHint(Quota(limit=60), Quota(remaining=149_984))
        assert replace(answer, seconds=0.0) == RICH
        *_, answer = await ask(client, HELLO)
        assert answer.limits is None


async def completed(client: Any, request: LLMRequest) -> list[LLMResponse]:
    """The answer alone, like the end of a stream."""
    return [await client.complete(request)]


@Both
async def test_pieces_come_as_they_are_written(kind: Any) -> None:
    """The first piece is there while the server is still writing."""
    async with (
        LoopbackServer("a b c", piece_latency=0.005) as server,
        client_of(kind, server) as client,
    ):
        stream = client.stream(HELLO)
        assert await anext(stream) == "a"
        assert server.in_flight == 1
        rest = [piece async for piece in stream]
    assert rest[:-1] == [" b", " c"]


@Both
async def test_leaving_a_stream_hangs_up(kind: Any) -> None:
    """A stream that is closed early cuts its connection and leaves nothing behind."""
    async with (
        LoopbackServer("a b c", piece_latency=0.005) as server,
        client_of(kind, server) as client,
    ):
        stream: Any = client.stream(HELLO)
        assert await anext(stream) == "a"
        await stream.aclose()
        assert len(asyncio.all_tasks()) == 1
        await server.until(lambda: server.disconnects)
        assert server.in_flight == 0


@Both
async def test_cancelling_hangs_up(kind: Any) -> None:
    """A cancelled call cuts its connection."""
    async with (
        LoopbackServer(errors=["hang"]) as server,
        client_of(kind, server) as client,
    ):
        task = asyncio.create_task(client.complete(HELLO))
        await server.until(lambda: server.in_flight)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: server.disconnects)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("function_call", "tool_calls"), ("eos", "unknown"), (None, "unknown")],
)
async def test_openai_finish_reasons(said: Any, meant: str) -> None:
    """A finish reason that is not known is unknown, not an error."""
    choice = {"message": {"content": "x"}, "finish_reason": said}
    answer = await answered(OpenAIClient, {"choices": [choice]})
    assert answer.finish_reason == meant
    assert answer.usage == Usage(requests=1)


TEXT = [{"type": "text", "text": "hi"}]


async def answered(kind: Any, body: Any) -> LLMResponse:
    """What a client makes of a body."""
    async with (
        LoopbackServer(errors=[(200, {}, body)]) as server,
        client_of(kind, server) as client,
    ):
        return await client.complete(HELLO)


async def test_openai_variants() -> None:
    """Parts, the other reasoning field and calls after a 'stop'."""
    parts = [{"type": "text", "text": "a"}, {"type": "thinking"}, {"text": "b"}]
    call = {"function": {"name": "f"}}
    said = {"content": parts, "reasoning": "hm", "tool_calls": [call]}
    choice = {"message": said, "finish_reason": "stop"}
    answer = await answered(OpenAIClient, {"choices": [choice], "usage": None})
    assert (answer.text, answer.reasoning) == ("ab", "hm")
    assert answer.tool_calls == (ToolCall("call_0", "f", "{}"),)
    assert answer.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "unknown"),
    ],
)
async def test_anthropic_finish_reasons(said: str, meant: str) -> None:
    """Stop reasons are mapped; what is read from or written to a cache is input."""
    usage = {"input_tokens": 1, "output_tokens": 2}
    usage |= {"cache_read_input_tokens": 10, "cache_creation_input_tokens": 100}
    answer = await answered(
        AnthropicClient, {"content": TEXT, "stop_reason": said, "usage": usage}
    )
    assert answer.finish_reason == meant
    assert answer.usage == Usage(1, 111, 2, 10, 0, 100)


@Both
async def test_one_pool_is_reused(kind: Any) -> None:
    """Calls one after another use one connection."""
    async with LoopbackServer() as server, client_of(kind, server) as client:
        for _ in range(3):
            await client.complete(HELLO)
        assert server.connections == 1


@Both
async def test_the_pool_has_no_limit_of_its_own(kind: Any) -> None:
    """As many requests are on the wire as are sent: there is no second queue."""
    async with (
        LoopbackServer(errors=lambda index, body: "hang") as server,
        client_of(kind, server) as client,
    ):
        tasks = [asyncio.create_task(client.complete(HELLO)) for _ in range(150)]
        await server.until(lambda: server.in_flight == 150)
        assert server.connections == 150
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@Both
async def test_closing_closes_the_connections(kind: Any) -> None:
    """After aclose no connection is open, and another call says what to do."""
    async with LoopbackServer() as server:
        async with client_of(kind, server) as client:
            await client.complete(HELLO)
            assert server.open_connections == 1
        await server.until(lambda: not server.open_connections)
        with pytest.raises(EngineStateError, match=r"is closed\. Make a new client"):
            await client.complete(HELLO)


def test_another_loop_is_refused() -> None:
    """Connections belong to the loop that opened them."""
    with LoopbackServer() as server:
        client = OpenAIClient("m", base_url=server.base_url, api_key=None)
        with asyncio.Runner() as first:
            first.run(client.complete(HELLO))
            with (
                pytest.raises(EngineStateError, match="belong to another event loop"),
                asyncio.Runner() as second,
            ):
                second.run(client.complete(HELLO))
            first.run(client.aclose())


@Both
async def test_what_is_no_json_is_refused_before_it_is_sent(kind: Any) -> None:
    """A schema with a foreign object, or NaN, is a UsageError; nothing is sent."""
    tool = replace(TOOL, parameters={"type": object()})
    async with LoopbackServer() as server, client_of(kind, server) as client:
        for wrong in ({"tools": (tool,)}, {"temperature": float("nan")}):
            with pytest.raises(UsageError, match="is not JSON: .* Give tools"):
                await client.complete(replace(HELLO, **wrong))
        assert server.count == 0
