"""A module as a model: OpenAI's own client against the service."""

import asyncio
import json
from typing import Any

import openai
import pytest
from tests.integration.serving_helpers import (
    Ask,
    Server,
    Steps,
    Talk,
    served,
)

from inf_engine.errors import EndpointServerError
from inf_engine.serving.chat import Chat
from inf_engine.serving.exchange import Request

HELLO: Any = [
    {"role": "system", "content": "ignored"},
    {"role": "user", "content": "first"},
    {"role": "user", "content": [{"type": "text", "text": "hello you"}]},
]


def test_a_chat_is_answered() -> None:
    """The last user message goes in, the output's text comes out."""

    async def check(server: Server) -> None:
        async with server.openai() as client:
            models = await client.models.list()
            assert [model.id for model in models.data] == ["Ask"]
            assert (await client.models.retrieve("Ask")).owned_by == "inf-engine"
            found = await client.chat.completions.create(
                model="Ask", messages=HELLO, temperature=0.5, max_tokens=9
            )
        assert found.choices[0].message.content == "SAY HELLO YOU"
        assert found.choices[0].finish_reason == "stop"
        assert found.usage is not None
        assert found.usage.total_tokens == 8
        assert server.client.prompts == ["Say hello you"]

    served(Ask(), check)


def test_a_whole_conversation() -> None:
    """A forward whose one parameter is ``messages`` gets all of them."""

    async def check(server: Server) -> None:
        async with server.openai() as client:
            await client.chat.completions.create(model="Talk", messages=HELLO)
        sent = [(m.role, m.text) for m in server.client.requests[0].messages]
        assert sent == [("system", "ignored"), ("user", "first"), ("user", "hello you")]

    served(Talk(), check)


async def chunks_of(server: Server, **more: Any) -> list[Any]:
    """Return the chunks of a streamed chat."""
    async with server.openai() as client:
        stream = await client.chat.completions.create(
            model=server.service.name,
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True},
        )
        return [chunk async for chunk in stream]


def test_a_text_is_streamed_as_it_is_written() -> None:
    """Where one model call writes the output, its pieces are passed on."""

    async def check(server: Server) -> None:
        *chunks, last = await chunks_of(server)
        deltas = [chunk.choices[0].delta for chunk in chunks]
        pieces = [delta.content for delta in deltas if delta.content]
        assert pieces == ["SAY", " HELLO", " YOU"]
        assert deltas[0].role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert last.usage.completion_tokens == 3

    served(Ask(), check)


def test_the_first_piece_does_not_wait_for_the_last() -> None:
    """A client reads the beginning while the model is still writing."""

    async def check(server: Server) -> None:
        more = asyncio.Event()

        async def stream(request: Any) -> Any:
            yield "one"
            await more.wait()
            yield " two"
            yield await server.client.complete(request)

        server.client._answer = lambda _: "one two"
        server.client.stream = stream
        async with server.openai() as client:
            chunks = await client.chat.completions.create(
                model="Ask", messages=HELLO, stream=True
            )
            first = await anext(aiter(chunks))
            assert first.choices[0].delta.content == "one"
            assert len(server.service.runs.alive) == 1
            more.set()
            rest = [chunk.choices[0].delta.content async for chunk in chunks]
        assert rest == [" two", None]

    served(Ask(), check)


def test_an_output_that_is_no_text_comes_as_one_piece_of_json() -> None:
    """There is nothing to stream before it is whole."""

    async def check(server: Server) -> None:
        *chunks, _ = await chunks_of(server)
        pieces = [chunk.choices[0].delta.content for chunk in chunks]
        assert pieces == ['{"answer": "HELLO YOU AND NOTHING"}', None]

    served(Steps(), check)


def test_a_stream_that_fails_at_once_has_a_status() -> None:
    """The first event waits until there is something to tell."""

    async def check(server: Server) -> None:
        with pytest.raises(openai.InternalServerError, match="alias 'm'") as caught:
            await chunks_of(server)
        assert caught.value.status_code == 502
        assert len(server.client.requests) == 1  # OpenAI's client would try again

    served(Ask(), check, lambda _: EndpointServerError("down"), engine={"retries": 0})


def test_a_stream_that_breaks_says_so() -> None:
    """An error after the first piece is an event, which OpenAI's client raises."""

    async def check(server: Server) -> None:
        async def stream(_: Any) -> Any:
            yield "one"
            raise EndpointServerError("down")

        server.client.stream = stream
        with pytest.raises(openai.APIError, match="alias 'm'"):
            await chunks_of(server)
        assert server.service.runs.outcomes["failed"] == 1

    served(Ask(), check, engine={"retries": 0})


def test_a_stream_that_nobody_reads_is_cancelled() -> None:
    """Also when the client has left before the first event was sent."""

    async def check(server: Server) -> None:
        async def stream(_: Any) -> Any:
            yield "one"
            await asyncio.Event().wait()

        server.client.stream = stream
        body = {"model": "Ask", "messages": HELLO, "stream": True}
        sent = json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = Request("POST", "/v1/chat/completions", headers=headers, body=sent)
        reply = await Chat(server.service).complete(request)
        assert not isinstance(reply.body, bytes)
        await reply.body.aclose()
        assert server.service.runs.outcomes["cancelled"] == 1

    served(Ask(), check)


def test_the_key_is_openais() -> None:
    """A wrong one is an authentication error."""

    async def check(server: Server) -> None:
        async with server.openai("wrong") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        async with server.openai("right") as client:
            assert len((await client.models.list()).data) == 1

    served(Ask(), check, key="right")


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ({"model": "other"}, 404, "there is no such model; there is 'Ask'"),
        ({"n": 2}, 400, "n is not supported"),
        ({"logprobs": True}, 400, "logprobs is not supported"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format is not"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "no user message"),
        ({"messages": "x"}, 400, "messages is a list"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "a part of a message is a text, or an image_url with",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(
    more: dict[str, Any], status: int, message: str
) -> None:
    """Before anything is sent."""

    async def check(server: Server) -> None:
        body = {"model": "Ask", "messages": HELLO, **more}
        got, found = await server.post("/v1/chat/completions", body)
        assert got == status
        assert message in found["error"]["message"]
        assert server.client.requests == []

    served(Ask(), check)


def test_the_name_can_be_chosen() -> None:
    """And is what clients ask for."""

    async def check(server: Server) -> None:
        async with server.openai() as client:
            found = await client.chat.completions.create(model="mine", messages=HELLO)
        assert found.model == "mine"

    served(Ask(), check, name="mine")
