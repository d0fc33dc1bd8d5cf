"""`stream_tokens`: the text of the output as it is written."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Compare, Flow, echo, engines

from inf_engine import (
    AnswerError,
    Engine,
    ExecutionError,
    InferenceModule,
    LLMInference,
)
from inf_engine.errors import EndpointConnectionError
from inf_engine.types import LLMRequest, LLMResponse, ToolCall


async def tokens_of(engine: Engine, module: InferenceModule, *args: Any) -> list[str]:
    """All pieces of a token stream."""
    return [piece async for piece in engine.stream_tokens(module, *args)]


def test_tokens_add_up_to_the_output_and_come_as_they_are_written() -> None:
    """Pieces of the last call only, the first of them before the last is written."""
    client = echo(1.0)
    got = engines(lambda e: tokens_of(e, Compare(), "a b", "c"), client)
    assert got == ["A", " B+C"]


class NotStreaming:
    """A client that only completes."""

    async def complete(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse(text=request.prompt)


def test_a_client_without_stream_gives_one_piece() -> None:
    """Nothing is asked of a client but `complete`."""
    assert engines(lambda e: tokens_of(e, Ask(), "a b"), NotStreaming()) == ["a b"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda m, x: [m.llm(x)], "not a list"),
        (lambda m, x: m.llm(x).strip(), "not the call node 'call#1'"),
        (lambda m, x: f"{m.llm(x)}!", "not a "),
        (lambda m, x: None, "not a NoneType"),
        (lambda m, x: "text", "not a str"),
    ],
)
def test_an_output_that_is_not_one_text_is_refused_before_it_is_paid(
    body: Any, message: str
) -> None:
    """A TypeError, and no request has left."""
    client = echo()
    with pytest.raises(TypeError, match=f"output is the text of one .*{message}"):
        engines(lambda e: tokens_of(e, Flow(body), "x"), client)
    assert client.requests == []


class Awaiting(InferenceModule):
    """An async forward that returns the text it has awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Any = LLMInference("m")
        self.second: Any = LLMInference("m")

    async def forward(self, text: str) -> str:
        return await self.second(await self.first(text))


@pytest.mark.parametrize("module", [Awaiting(), Flow(lambda m, x: str(m.llm(x)))])
def test_a_text_that_forward_waited_for_is_the_text_of_its_node(module: Any) -> None:
    """It is paid already, so it is handed out and not refused."""
    got = engines(lambda e: tokens_of(e, module, "a b"))
    assert "".join(got) == "A B"


def test_a_typed_output_is_refused() -> None:
    """The text of a structured answer is not the output."""
    with pytest.raises(TypeError, match="not the llm node 'llm#1'"):
        engines(lambda e: tokens_of(e, Ask(response_format=int), "x"))


def test_an_output_that_used_tools_comes_at_the_end() -> None:
    """Texts between tool calls are not part of the output."""

    def look(name: str) -> str:
        """Look."""
        return "found"

    call = ToolCall("1", "look", '{"name": "x"}')
    asks = LLMResponse(text="hm", tool_calls=(call,))
    client = echo(1.0, lambda r: "a b" if r.messages[-1].role == "tool" else asks)
    assert engines(lambda e: tokens_of(e, Ask(tools=[look]), "x"), client) == ["a b"]


class Breaking:
    """Breaks off after one word at the first try."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    async def complete(self, request: LLMRequest) -> LLMResponse:
        raise NotImplementedError

    async def stream(self, request: LLMRequest) -> AsyncIterator[Any]:
        text = self.texts.pop(0)
        for word in text.split():
            yield f"{word} "
        if self.texts:
            raise EndpointConnectionError("hung up")
        yield LLMResponse(text="".join(f"{word} " for word in text.split()))


def test_a_second_try_goes_on_behind_what_was_handed_out() -> None:
    """The pieces still add up to the output."""
    client = Breaking("one two", "one two three")
    got = engines(lambda e: tokens_of(e, Ask(), "x"), client)
    assert got == ["one ", "two ", "three "]


def test_a_second_try_that_writes_something_else_is_an_error() -> None:
    """What was handed out cannot be taken back."""
    client = Breaking("one two", "other words")
    with pytest.raises(AnswerError, match="broke off after 8 characters .*engine.run"):
        engines(lambda e: tokens_of(e, Ask(), "x"), client)


def test_leaving_a_token_stream_cancels_the_run() -> None:
    """Nothing stays in flight."""
    client = echo(lambda r: 1.0 if r.prompt == "x" else 60.0)
    module = Flow(lambda m, x: m.llm(x))

    async def body(engine: Engine) -> None:
        stream = engine.stream_tokens(module, "x")
        assert await anext(stream) == "X"
        await stream.aclose()
        assert client.in_flight == 0
        assert len(asyncio.all_tasks()) == 1

    engines(body, client)


def test_a_failed_run_raises_after_its_pieces() -> None:
    """The error is that of run."""
    with pytest.raises(ExecutionError, match="'llm#1'"):
        engines(
            lambda e: tokens_of(e, LLMInference("m"), "x"),
            echo(1.0, lambda r: ValueError("no")),
        )
