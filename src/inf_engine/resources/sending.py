"""One request through one client: streamed or not, and checked to be an answer."""

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

from inf_engine.errors import ConfigurationError
from inf_engine.types import Client, LLMRequest, LLMResponse, StreamingClient


def sending(
    client: Client, request: LLMRequest, delta: Callable[[str], None] | None
) -> Any:
    """Return the answer of a client, or what to await for it.

    Args:
        client: The client.
        request: What to ask it.
        delta: Called with each piece of text; None not to stream.
    """
    if delta is None:
        return client.complete(request)
    if isinstance(client, StreamingClient):
        return _streamed(client.stream(request), delta)
    return _whole(client.complete(request), delta)


async def _whole(answer: Any, delta: Callable[[str], None]) -> Any:
    """Return the answer of a client that cannot stream: it is one piece."""
    response = await answer if inspect.isawaitable(answer) else answer
    if isinstance(response, LLMResponse) and isinstance(response.text, str):
        delta(response.text)
    return response


def checked(alias: str, response: Any) -> LLMResponse:
    """Return what a client answered with, if it is an answer.

    Args:
        alias: What the client is called, for messages.
        response: What it gave.

    Raises:
        ConfigurationError: If that is no answer.
    """
    if not isinstance(response, LLMResponse):
        raise ConfigurationError(
            f"the client of alias {alias!r} answered with "
            f"{type(response).__name__}; complete() must return an LLMResponse, e.g. "
            "LLMResponse(text='...'), and stream() must yield one as the last."
        )
    if not isinstance(response.text, str):
        raise ConfigurationError(
            f"the client of alias {alias!r} answered with an LLMResponse "
            f"whose text is of type {type(response.text).__name__}; it must be a str, "
            "'' for none. For a failure, raise an EndpointError."
        )
    return response


async def _streamed(
    pieces: AsyncIterator[str | LLMResponse], delta: Callable[[str], None]
) -> LLMResponse | None:
    response = None
    async for piece in pieces:
        if isinstance(piece, str):
            delta(piece)
        else:
            response = piece
    return response
