"""A 200 that is no stream, or that holds no answer, from either provider."""

from typing import Any

import pytest
from tests.integration.http_helpers import HELLO, KEY, Both, client_of, pieces_of

from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.errors import (
    AnswerError,
    AuthenticationError,
    ConfigurationError,
    EndpointServerError,
    MalformedResponseError,
)
from inf_engine.resources.binding import make_client
from inf_engine.resources.config import EndpointConfig
from inf_engine.testing.server import LoopbackServer
from inf_engine.types import LLMResponse, Usage


def body_of(kind: Any, text: Any, finish: str) -> dict[str, Any]:
    """A whole answer, as the provider of a client writes it."""
    if kind is OpenAIClient:
        return {"choices": [{"message": {"content": text}, "finish_reason": finish}]}
    reasons = {"length": "max_tokens", "content_filter": "refusal", "stop": "end_turn"}
    content = [{"type": "text", "text": text}]
    return {"content": content, "stop_reason": reasons[finish]}


async def streamed(kind: Any, body: Any, **headers: str) -> list[Any]:
    """What a stream yields where the server answers with a whole body."""
    async with (
        LoopbackServer(errors=[(200, headers, body)]) as server,
        client_of(kind, server) as client,
    ):
        return await pieces_of(client, HELLO)


@Both
async def test_a_server_that_does_not_stream_is_read_as_a_whole(kind: Any) -> None:
    """The answer comes in one piece."""
    *pieces, answer = await streamed(kind, body_of(kind, "a b", "stop"))
    assert (pieces, answer.text, answer.finish_reason) == (["a b"], "a b", "stop")


@Both
@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("<html>hello</html>", MalformedResponseError, "its body is not JSON"),
        ({}, MalformedResponseError, "so it is no"),
        ({"error": {"message": "busy"}}, EndpointServerError, "answered 500: busy"),
    ],
)
async def test_a_stream_that_is_none_fails_like_a_plain_answer(
    kind: Any, body: Any, error: Any, message: str
) -> None:
    """Not as a connection that broke off."""
    with pytest.raises(error, match=message):
        await streamed(kind, body)


async def test_events_under_another_content_type_are_events() -> None:
    """Some servers leave the content type out."""
    done = '{"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}'
    headers = {"Content-Type": "text/plain"}
    *pieces, answer = await streamed(OpenAIClient, f"data: {done}\n\n", **headers)
    assert (pieces, answer.text) == (["hi"], "hi")


@Both
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("finish", "fix"),
    [("length", "Raise max_tokens"), ("content_filter", "Reword the prompt")],
)
async def test_an_empty_text_that_is_a_failure(
    kind: Any, stream: bool, finish: str, fix: str
) -> None:
    """What was cut off or withheld before its first word is no answer."""
    async with (
        LoopbackServer(errors=[(200, {}, body_of(kind, "", finish))]) as server,
        client_of(kind, server) as client,
    ):
        with pytest.raises(
            AnswerError, match=f"without any text: .*{finish}.*{fix}"
        ) as caught:
            await (pieces_of(client, HELLO) if stream else client.complete(HELLO))
    assert caught.value.response.finish_reason == finish


@Both
@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_an_empty_stream_tells_what_it_cost(kind: Any, finish: str) -> None:
    """The tokens come in the last events, and are on the error."""
    usage = Usage(1, 90, 7, 30)
    answer = LLMResponse(finish_reason=finish, usage=usage)  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]
    async with LoopbackServer(answer) as server, client_of(kind, server) as client:
        with pytest.raises(AnswerError) as caught:
            await pieces_of(client, HELLO)
    assert caught.value.usage == usage
    assert caught.value.response.id == "loopback-0"


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_written_to_a_cache_are_counted(stream: bool) -> None:
    """Anthropic tells them beside the input, OpenAI as a part of it."""
    anthropic = body_of(AnthropicClient, "hi", "stop") | {
        "usage": {"input_tokens": 60, "cache_creation_input_tokens": 30}
    }
    openai = body_of(OpenAIClient, "hi", "stop") | {
        "usage": {
            "prompt_tokens": 90,
            "prompt_tokens_details": {"cache_write_tokens": 30},
        }
    }
    for kind, body in ((AnthropicClient, anthropic), (OpenAIClient, openai)):
        async with (
            LoopbackServer(errors=[(200, {}, body)]) as server,
            client_of(kind, server) as client,
        ):
            if stream:
                *_, answer = await pieces_of(client, HELLO)
            else:
                answer = await client.complete(HELLO)
        assert answer.usage == Usage(1, 90, cache_write_tokens=30)


@Both
async def test_an_empty_text_after_a_stop_is_an_answer(kind: Any) -> None:
    """The model had nothing to say."""
    *_, answer = await streamed(kind, body_of(kind, "", "stop"))
    assert answer.text == ""


async def test_a_refusal_is_no_answer() -> None:
    """It is told in the model's own words."""
    refused = {"message": {"content": None, "refusal": "Not I."}}
    body = {"id": "r1", "choices": [refused], "usage": {"completion_tokens": 3}}
    message = "refused to answer .*Not I.*Reword"
    with pytest.raises(AnswerError, match=message) as caught:
        await streamed(OpenAIClient, body)
    assert (caught.value.response.id, caught.value.usage) == ("r1", Usage(1, 0, 3))


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_messages_name_the_variable_of_the_key(provider: str) -> None:
    """A key that is refused, and one that cannot be sent."""
    async with LoopbackServer(errors=[401]) as server:
        config = EndpointConfig(
            provider, model="m", base_url=server.base_url, api_key_env="MY_KEY"
        )
        client = make_client("m", config, {"MY_KEY": KEY})
        with pytest.raises(AuthenticationError, match="Check the API key in MY_KEY."):
            await client.complete(HELLO)
        await getattr(client, "aclose")()  # noqa: B009 - the protocol has none
    with pytest.raises(ConfigurationError, match="Set MY_KEY again"):
        make_client("m", config, {"MY_KEY": "a\nb"})


async def test_anthropic_takes_an_address_with_its_version() -> None:
    """``/v1`` may stand in base_url, as it does for the other provider."""
    async with LoopbackServer("hi") as server:
        client = AnthropicClient("m", base_url=f"{server.url}/v1/", api_key=None)
        assert (await client.complete(HELLO)).text == "hi"
        await client.aclose()
