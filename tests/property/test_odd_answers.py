"""Whatever JSON a server answers with, a client gives a response or a typed error."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.clients.transport import HttpResponse
from inf_engine.errors import AnswerError, EndpointError, MalformedResponseError
from inf_engine.types import LLMRequest, LLMResponse, Message

WORDS = (
    "choices message delta content tool_calls function name arguments finish_reason "
    "usage index text type tool_use thinking id input error code role reasoning "
    "content_block_start content_block_delta content_block message_start message_delta "
    "message_stop partial_json stop refusal model prompt_tokens_details cached_tokens"
).split()

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=4)
REQUEST = LLMRequest(messages=(Message("user", "hi"),))


class MemoryTransport:
    """Answers from memory: the bodies, one for a post, all for a stream."""

    def __init__(self, bodies: list[Any]) -> None:
        self._bodies = [json.dumps(body).encode() for body in bodies]

    async def send(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> HttpResponse:
        return HttpResponse(200, {}, self._bodies[0])

    async def stream(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        refuse: Callable[[HttpResponse], EndpointError],
    ) -> AsyncIterator[bytes]:
        for data in self._bodies:
            yield data

    async def aclose(self) -> None:
        return None


def client_of(kind: Any, bodies: list[Any]) -> Any:
    """A client whose server answers with `bodies`."""
    return kind("m", api_key=None, transport=MemoryTransport(bodies))


Both = pytest.mark.parametrize("kind", [OpenAIClient, AnthropicClient])


@Both
@given(body=BODIES)
async def test_odd_bodies(kind: Any, body: Any) -> None:
    """A whole answer of any shape is a response or a typed error."""
    try:
        answer = await client_of(kind, [body]).complete(REQUEST)
    except (EndpointError, AnswerError):
        return
    assert isinstance(answer, LLMResponse)
    hash(answer)


@Both
@given(events=st.lists(BODIES, max_size=4))
async def test_odd_streams(kind: Any, events: list[Any]) -> None:
    """A stream of any shape gives pieces of text and a response, or an error."""
    try:
        pieces = [p async for p in client_of(kind, events).stream(REQUEST)]
    except (EndpointError, AnswerError):
        return
    *texts, answer = pieces
    assert all(isinstance(text, str) for text in texts)
    hash(answer)


@Both
async def test_an_odd_shape_is_named(kind: Any) -> None:
    """A shape that nobody expects is a MalformedResponseError that says what broke."""
    odd = [{"choices": [5]}, {"type": "content_block_delta", "delta": 5}]
    with pytest.raises(MalformedResponseError, match=r"odd shape \(AttributeError: .*"):
        async for _ in client_of(kind, odd).stream(REQUEST):
            pass
