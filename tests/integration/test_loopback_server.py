"""The loopback server itself: what it says, counts and does wrong on purpose."""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from inf_engine.clients.openai import OpenAIClient
from inf_engine.errors import EndpointServerError, UsageError
from inf_engine.testing.server import LoopbackServer
from inf_engine.types import LLMRequest, LLMResponse, Message, ToolCall, Usage


def ask(server: LoopbackServer, text: str, **fields: Any) -> Any:
    """Post a chat completion without any of our clients."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    request = urllib.request.Request(
        f"{server.base_url}/chat/completions", json.dumps(body).encode()
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as answer:
        return json.load(answer)


def said(answer: Any) -> str:
    """The text of a chat completion."""
    return answer["choices"][0]["message"]["content"]


def test_it_runs_in_a_thread() -> None:
    """Synchronous code can use it: `with`, or start and stop."""
    with LoopbackServer("hello") as server:
        assert said(ask(server, "one two")) == "hello"
        assert server.bodies[0]["messages"][0]["content"] == "one two"
    server = LoopbackServer().start()
    assert said(ask(server, "x")) == "ok"
    server.stop()
    server.stop()
    assert server.open_connections == 0
    with pytest.raises(urllib.error.URLError):
        ask(server, "x")


def test_it_is_not_started_twice() -> None:
    """A running server refuses to start again, and goes on."""
    with LoopbackServer() as server:
        with pytest.raises(UsageError, match="is running already"):
            server.start()
        assert said(ask(server, "x")) == "ok"


def test_answers_in_order() -> None:
    """A list is one answer each; after the last one it is a 500 that says so."""
    with LoopbackServer(["a", {"text": "b"}]) as server:
        assert [said(ask(server, "x")) for _ in range(2)] == ["a", "b"]
        with pytest.raises(urllib.error.HTTPError, match="500") as caught:
            ask(server, "x")
        with caught.value:
            assert b"no answer left" in caught.value.read()
        assert server.statuses == {200: 2, 500: 1}


def test_a_function_answers() -> None:
    """A function of the body makes the answer; usage is counted in words."""
    with LoopbackServer(lambda body: f"you sent {len(body['messages'])}") as server:
        answer = ask(server, "one two three")
    assert said(answer) == "you sent 1"
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 3


def test_an_answer_in_full() -> None:
    """A mapping or a response sets tool calls, reasoning and usage."""
    call = {"name": "f", "arguments": {"a": 1}}
    usage = {"input_tokens": 5, "output_tokens": 7}
    full = LLMResponse(tool_calls=(ToolCall("c", "g", "{}"),), usage=Usage(1, 2, 3))
    with LoopbackServer([{"tool_calls": [call], "usage": usage}, full]) as server:
        first, second = (ask(server, "x") for _ in range(2))
    choice = first["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    function = {"name": "f", "arguments": '{"a": 1}'}
    assert choice["message"]["tool_calls"][0]["function"] == function
    assert first["usage"]["total_tokens"] == 12
    assert second["choices"][0]["message"]["tool_calls"][0]["id"] == "c"
    assert second["usage"]["total_tokens"] == 5


def test_the_key_is_checked() -> None:
    """With api_key, a request without that key is refused."""
    with (
        LoopbackServer(api_key="k") as server,
        pytest.raises(urllib.error.HTTPError, match="401") as caught,
    ):
        ask(server, "x")
    caught.value.close()


def test_unknown_faults_and_paths_are_told() -> None:
    """A fault that does not exist is a 500 that lists those that do; a path, a 404."""
    with LoopbackServer(errors=["explode"]) as server:
        with pytest.raises(urllib.error.HTTPError, match="500") as caught:
            ask(server, "x")
        with caught.value:
            assert b"no fault 'explode'; known: reset" in caught.value.read()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            opener.open(f"{server.url}/nowhere")
        caught.value.close()


def test_benchmarks_need_not_record() -> None:
    """Without record it counts and keeps nothing."""
    with LoopbackServer(record=False) as server:
        ask(server, "x")
        assert (server.count, server.requests) == (1, [])


async def test_faults_and_latency_by_function() -> None:
    """Both can depend on the index and the body of a request."""
    request = LLMRequest(messages=(Message("user", "hi"),))
    async with LoopbackServer(
        errors=lambda index, body: 503 if index == 1 else None,
        latency=lambda index, body: 0.03 if index == 0 else 0.0,
    ) as server:
        client = OpenAIClient("m", base_url=server.base_url, api_key=None)
        slow = asyncio.create_task(client.complete(request))
        await server.until(lambda: server.in_flight == 1)
        with pytest.raises(EndpointServerError, match="answered 503"):
            await client.complete(request)
        assert not slow.done()
        assert (await slow).seconds >= 0.025
        assert server.requests[0].arrival <= server.requests[1].arrival
        assert server.max_in_flight == 2
        await client.aclose()
