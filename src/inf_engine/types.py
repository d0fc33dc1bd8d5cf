"""The data that crosses between the floors: requests, responses, usage.

All are frozen; none knows a provider. Tool arguments and schemas are JSON text or
JSON values, so that a request hashes and prints the same everywhere.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from inf_engine.quick import quick

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "unknown"]

IMAGE_TOKENS = 765
"""How many tokens an image is thought to be where its size is not known."""
CHARACTERS_PER_TOKEN = 4.0
"""How long a token is thought to be where nothing was counted yet."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text in a message."""

    text: str


@dataclass(frozen=True, slots=True, repr=False)
class ImagePart:
    """An image in a message, by address or by content; `inf_engine.Image` makes one.

    Args:
        url: An http(s) or data address; empty if `data` is given.
        data: The encoded image, base64 text; empty if `url` is given.
        media_type: Its MIME type, e.g. ``image/png`` (needed with `data`).
    """

    url: str = ""
    data: str = ""
    media_type: str = "image/png"
    _tree_leaf: ClassVar[bool] = True

    @property
    def content(self) -> bytes:
        """The encoded image itself; empty for one by address.

        Raises:
            ValueError: If `data` is no base64 text.
        """
        try:
            return base64.b64decode(self.data, validate=True)
        except binascii.Error:
            raise ValueError("the data of an ImagePart is no base64 text") from None

    @property
    def digest(self) -> str:
        """The SHA-256 of its content, hex; of its address where that is all."""
        return hashlib.sha256(
            self.content or self.url.encode("utf-8", "surrogatepass")
        ).hexdigest()

    @property
    def tokens(self) -> int:
        """About how many tokens it is."""
        return IMAGE_TOKENS

    def __str__(self) -> str:
        """What stands for it in a text: kind and digest, or its address."""
        if self.url and not self.url.startswith("data:"):
            return f"[image {self.url}]"
        return f"[{self.media_type} {self.digest[:12]}]"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)[1:-1]})"


Part: TypeAlias = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to call a tool.

    Args:
        id: What the answer of the tool refers to.
        name: The tool.
        arguments: JSON text as it came; a mapping becomes JSON text.
    """

    id: str
    name: str
    arguments: str

    def __post_init__(self) -> None:
        given: Any = self.arguments
        if isinstance(given, Mapping):
            text = json.dumps(dict(given), ensure_ascii=False)
            object.__setattr__(self, "arguments", text)


@quick
@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Args:
        role: Who speaks.
        content: Text, or parts when there are images.
        tool_calls: The calls an assistant message asks for.
        tool_call_id: The call that a tool message answers.
    """

    role: Role
    content: str | tuple[Part, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        """The text of the message, images left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(p.text for p in self.content if isinstance(p, TextPart))


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model sees it; `parameters` is a JSON schema object."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResponseSchema:
    """The JSON schema that an answer has to fit; its root is an object."""

    name: str
    schema: dict[str, Any]


@quick
@dataclass(frozen=True, slots=True)
class LLMRequest:
    """One request to a model, independent of the provider.

    Args:
        messages: The conversation, system message first if there is one.
        model: A model in place of the endpoint's own; empty for that one.
        temperature: Sampling temperature, None for the provider's default.
        top_p: Nucleus sampling mass in (0, 1], None for the default.
        max_tokens: The most tokens to write, None for the default.
        stop: Texts that end the answer.
        seed: Sampling seed, None for none.
        tools: The tools that the model may call.
        response_schema: What the answer has to look like, None for free text.
    """

    messages: tuple[Message, ...]
    model: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[ToolSpec, ...] = ()
    response_schema: ResponseSchema | None = None

    @property
    def prompt(self) -> str:
        """The text of the last user message, empty if there is none."""
        texts = (m.text for m in reversed(self.messages) if m.role == "user")
        return next(texts, "")

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images in the messages, in order."""
        mixed = [m.content for m in self.messages if not isinstance(m.content, str)]
        return tuple(p for parts in mixed for p in parts if isinstance(p, ImagePart))

    @property
    def system(self) -> str:
        """The text of the system messages."""
        return "\n".join(m.text for m in self.messages if m.role == "system")


@quick
@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and requests spent; sums with ``+``.

    Args:
        requests: Requests that were answered.
        input_tokens: Tokens read, cached ones included.
        output_tokens: Tokens written, reasoning included.
        cached_tokens: The part of the input that the provider had cached.
        reasoning_tokens: The part of the output that was reasoning.
        cache_write_tokens: The part of the input that the provider wrote to its cache.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
        )

    @staticmethod
    def total(usages: "Iterable[Usage]") -> "Usage":
        """Return the sum of any number of usages."""
        each = list(usages)
        if len(each) == 1:
            return each[0]
        return Usage(*map(sum, zip(*map(_counts, each), strict=True)))

    @property
    def total_tokens(self) -> int:
        """Tokens read and written."""
        return self.input_tokens + self.output_tokens


_counts = attrgetter(*[each.name for each in fields(Usage)])


@dataclass(frozen=True, slots=True)
class Quota:
    """One rate limit as an answer's headers tell of it; None is what they leave out.

    Args:
        limit: What is allowed per minute.
        remaining: What is left of it now.
        reset: Seconds until all of it is there again.
    """

    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None


@dataclass(frozen=True, slots=True)
class RateHint:
    """What the headers of an answer say about rate limits.

    Args:
        requests: The limit of requests.
        tokens: The limit of tokens read and written.
        input_tokens: The limit of tokens read, where it is one of its own.
        output_tokens: The limit of tokens written, where it is one of its own.
    """

    requests: Quota | None = None
    tokens: Quota | None = None
    input_tokens: Quota | None = None
    output_tokens: Quota | None = None


@quick
@dataclass(frozen=True, slots=True)
class LLMResponse:
    """A model's answer, independent of the provider.

    Args:
        text: The text of the answer.
        tool_calls: The tools that the model wants called.
        reasoning: The reasoning text, where the provider shows it.
        finish_reason: Why the model stopped.
        usage: Tokens, with ``requests=1``.
        model: The model that answered, as it names itself.
        id: The provider's id of the answer.
        seconds: Wall time from sending to the last byte.
        limits: What its headers said about rate limits, None if nothing.
        cost: What it cost in USD, None where no price is known.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    finish_reason: FinishReason = "stop"
    usage: Usage = field(default_factory=lambda: Usage(requests=1))
    model: str = ""
    id: str = ""
    seconds: float = 0.0
    limits: RateHint | None = field(default=None, repr=False, compare=False)
    cost: float | None = None


@runtime_checkable
class Client(Protocol):
    """Anything that answers requests.

    A client may also have ``stream`` (see `StreamingClient`) and ``async aclose()``.
    """

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Answer one request, or raise an `EndpointError`."""
        ...


@runtime_checkable
class StreamingClient(Client, Protocol):
    """A client that can give an answer piece by piece."""

    def stream(self, request: LLMRequest) -> AsyncIterator[str | LLMResponse]:
        """Yield the pieces of the text, then the whole response, once."""
        ...
