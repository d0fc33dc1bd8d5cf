"""`TokenEstimator`: tokens of a request before it is sent.

A tokenizer would have to be fetched, per model. So the text is measured in characters,
and how many of them make a token is learnt from the `usage` of answers: sums of both,
of which an answer counts half as much once some thirty more have come. It starts at
4 characters a token. An image is as many tokens as its size tells; tools, calls and
schemas count as text. How much is written is the mean of what was written lately;
before the first answer `max_tokens`, or 256. Never more than `max_tokens`.
"""

import json
from typing import Any

from inf_engine.types import (
    CHARACTERS_PER_TOKEN,
    ImagePart,
    LLMRequest,
    Message,
    ResponseSchema,
    TextPart,
    ToolSpec,
    Usage,
)

OUTPUT_TOKENS = 256

_KEPT = 0.98
_PRIOR_TOKENS = 50.0
_MOST_MEASURED = 256


class TokenEstimator:
    """How many tokens the requests to one model read and write, as far as known."""

    __slots__ = ("_characters", "_measured", "_tokens", "_written")

    def __init__(self) -> None:
        self._tokens = _PRIOR_TOKENS
        self._characters = _PRIOR_TOKENS * CHARACTERS_PER_TOKEN
        self._written: float | None = None
        # id -> (what was measured, kept so that its id stays its own; characters)
        self._measured: dict[int, tuple[Any, int]] = {}

    @property
    def characters_per_token(self) -> float:
        """How many characters make a token, as learnt until now."""
        return self._characters / self._tokens

    def input_tokens(self, request: LLMRequest) -> int:
        """Return how many tokens the request has, estimated.

        Args:
            request: What is to be sent.
        """
        characters, images = self._measure(request)
        tokens = characters * self._tokens / self._characters
        return int(tokens) + 1 + images

    def output_tokens(self, request: LLMRequest) -> int:
        """Return how many tokens the answer will have, estimated.

        Args:
            request: What is to be sent.
        """
        most = request.max_tokens
        if self._written is None:
            return OUTPUT_TOKENS if most is None else most
        tokens = int(self._written) + 1
        return tokens if most is None or tokens < most else most

    def learn(self, request: LLMRequest, usage: Usage) -> None:
        """Learn from an answer; nothing from one without token counts.

        Args:
            request: What was sent.
            usage: What it used.
        """
        characters, images = self._measure(request)
        tokens = usage.input_tokens - images
        if tokens > 0 and characters > 0:
            self._tokens = _KEPT * self._tokens + tokens
            self._characters = _KEPT * self._characters + characters
        if usage.output_tokens > 0:
            if self._written is None:
                self._written = float(usage.output_tokens)
            self._written += (1 - _KEPT) * (usage.output_tokens - self._written)

    def _measure(self, request: LLMRequest) -> tuple[int, int]:
        """Return the characters of a request, and the tokens of its images."""
        characters = images = 0
        for message in request.messages:
            content = message.content
            if isinstance(content, str) and not message.tool_calls:
                characters += len(content)
            else:
                text, pictures = _of_message(message)
                characters += text
                images += pictures
        for tool in request.tools:
            characters += self._of_schema(tool)
        if request.response_schema is not None:
            characters += self._of_schema(request.response_schema)
        return characters, images

    def _of_schema(self, thing: ToolSpec | ResponseSchema) -> int:
        """Return its characters; measured once, since most requests share it."""
        found = self._measured.get(id(thing))
        if found is not None:
            return found[1]
        if len(self._measured) >= _MOST_MEASURED:
            self._measured.clear()
        count = _characters_of(thing)
        self._measured[id(thing)] = (thing, count)
        return count


def _of_message(message: Message) -> tuple[int, int]:
    """Return the characters and the images' tokens of a message with parts."""
    calls = sum(len(c.name) + len(c.arguments) for c in message.tool_calls)
    if isinstance(message.content, str):
        return calls + len(message.content), 0
    texts = [len(p.text) for p in message.content if isinstance(p, TextPart)]
    images = [p.tokens for p in message.content if isinstance(p, ImagePart)]
    return calls + sum(texts), sum(images)


def _characters_of(thing: ToolSpec | ResponseSchema) -> int:
    if isinstance(thing, ToolSpec):
        text = json.dumps(thing.parameters)
        return len(thing.name) + len(thing.description) + len(text)
    return len(thing.name) + len(json.dumps(thing.schema))
