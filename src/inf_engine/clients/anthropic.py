"""The client of Anthropic's messages API.

What differs from chat completions, and how a request is mapped:

- System messages, wherever they stand, become the top-level ``system``.
- The answers to the tools of one turn have to stand in one user message.
- ``max_tokens`` is required; a request without one gets `MAX_TOKENS`.
- ``seed`` does not exist and is left out.
- A response schema becomes ``output_config.format``. The provider enforces a part of
  JSON schema only; a schema outside it becomes an instruction in ``system``.
- Since version 2026-10-21 of the API, sampling settings are refused, default values
  included. A request that sets ``temperature`` or ``top_p`` is therefore sent as
  version 2023-06-01, which takes them from the models that still know them.
- ``input_tokens`` leaves out what the model reads from the cache or writes to it;
  here both are parts of the input, each with its own count.
"""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from itertools import groupby
from typing import Any

from inf_engine.clients.strict import ANTHROPIC, strict_schema
from inf_engine.clients.transport import Transport
from inf_engine.clients.wire import Wire, tokens
from inf_engine.types import (
    FinishReason,
    ImagePart,
    LLMRequest,
    LLMResponse,
    Message,
    Part,
    RateHint,
    ToolCall,
    ToolSpec,
    Usage,
)

BASE_URL = "https://api.anthropic.com"
MAX_TOKENS = 4096
"""The most tokens to write where a request does not say."""

VERSION = "2026-10-21"
SAMPLING_VERSION = "2023-06-01"
"""The last version of the API with ``temperature`` and ``top_p``."""

_FINISH_REASONS: dict[Any, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class AnthropicClient:
    """Answers requests at ``{base_url}/v1/messages``.

    Args:
        model: The model to ask where a request names none.
        base_url: The address up to and without ``/v1/messages``, or with the ``/v1``.
        api_key: The key itself, None to send none. It is never shown.
        timeout: Seconds until the last byte of an answer must have arrived.
        transport: What carries the bytes; None for a connection pool of its own.
        headers: Further headers, sent with every request. They are never shown; an
            ``anthropic-version`` among them wins over the one chosen here.

        key_name: The environment variable that holds the key, for messages.

    Raises:
        ConfigurationError: An address or a key that cannot be sent.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = BASE_URL,
        api_key: str | None,
        timeout: float = 600.0,
        transport: Transport | None = None,
        headers: Mapping[str, str] | None = None,
        key_name: str = "",
    ) -> None:
        self.model = model
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        sent = {"anthropic-version": VERSION}
        if api_key:
            sent["x-api-key"] = api_key
        further = {name.lower(): value for name, value in (headers or {}).items()}
        url = f"{self.base_url}/v1/messages"
        self._wire = Wire(
            url, {**sent, **further}, api_key, timeout, transport, key_name=key_name
        )
        old = {"anthropic-version": SAMPLING_VERSION}
        self._sampling_headers = {**self._wire.headers, **old, **further}

    def __repr__(self) -> str:
        return f"AnthropicClient(model={self.model!r}, base_url={self.base_url!r})"

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Answer one request.

        Args:
            request: Its model, if it names one, is asked instead of the client's;
                its seed is left out.

        Raises:
            EndpointError: The endpoint failed; the type says how.
        """
        payload = self._payload(request)
        return await self._wire.post(payload, self._response, self._headers(request))

    def stream(self, request: LLMRequest) -> AsyncIterator[str | LLMResponse]:
        """Yield the pieces of the text, then the whole response, once.

        Args:
            request: Its model, if it names one, is asked instead of the client's;
                its seed is left out.

        Raises:
            EndpointError: The endpoint failed, or the stream ended too soon.
        """
        payload = {**self._payload(request), "stream": True}
        headers = self._headers(request)
        return self._wire.stream(payload, self._response, _StreamedAnswer(), headers)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()

    def _headers(self, request: LLMRequest) -> Mapping[str, str]:
        """The headers, of the version of the API that takes the request."""
        if request.temperature is None and request.top_p is None:
            return self._wire.headers
        return self._sampling_headers

    def _payload(self, request: LLMRequest) -> dict[str, Any]:
        """The request as the provider wants it; what is None is left out."""
        system, config = _system(request)
        payload: dict[str, Any] = {
            "model": request.model or self.model,
            "messages": list(_messages(request.messages)),
            "max_tokens": request.max_tokens or MAX_TOKENS,
            "system": system or None,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop_sequences": list(request.stop) or None,
            "tools": [_tool(tool) for tool in request.tools] or None,
            "output_config": config,
        }
        return {key: value for key, value in payload.items() if value is not None}

    def _response(
        self, body: Mapping[str, Any], limits: RateHint | None, seconds: float
    ) -> LLMResponse:
        """The answer in the library's words."""
        blocks = body.get("content")
        if not isinstance(blocks, list):
            raise self._wire.malformed(
                "its body has no 'content' list, so it is no message"
            )
        return LLMResponse(
            text=_join(blocks, "text"),
            tool_calls=self._tool_calls(blocks),
            reasoning=_join(blocks, "thinking"),
            finish_reason=_FINISH_REASONS.get(body.get("stop_reason"), "unknown"),
            usage=_usage(body.get("usage")),
            model=str(body.get("model") or ""),
            id=str(body.get("id") or ""),
            seconds=seconds,
            limits=limits,
        )

    def _tool_calls(self, blocks: list[Any]) -> tuple[ToolCall, ...]:
        """The tools that the model wants called."""
        try:
            return tuple(
                ToolCall(str(block["id"]), str(block["name"]), _arguments(block))
                for block in blocks
                if block.get("type") == "tool_use"
            )
        except (KeyError, AttributeError) as exc:
            raise self._wire.malformed(
                "a 'tool_use' block in it has no 'id' or 'name'"
            ) from exc


class _StreamedAnswer:
    """Puts the events of a stream together, to the body of a plain answer."""

    def __init__(self) -> None:
        self.finished = False
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}

    def add(self, event: Mapping[str, Any]) -> str:
        """Take in one event and return the piece of text in it."""
        match event.get("type"):
            case "message_start":
                self._head.update(event.get("message") or {})
                self._use(self._head.get("usage"))
            case "content_block_start":
                block = {**(event.get("content_block") or {}), "json": ""}
                self._blocks[event.get("index", 0)] = block
                return str(block.get("text") or "")
            case "content_block_delta":
                return self._extend(event)
            case "message_delta":
                self._head.update(event.get("delta") or {})
                self._use(event.get("usage"))
            case "message_stop":
                self.finished = True
        return ""

    def _extend(self, event: Mapping[str, Any]) -> str:
        """Take in a piece of a block and return it if it is text."""
        delta = event.get("delta") or {}
        block = self._blocks.setdefault(event.get("index", 0), {"type": "text"})
        for source, target in (
            ("text", "text"),
            ("thinking", "thinking"),
            ("partial_json", "json"),
        ):
            if delta.get(source):
                block[target] = (block.get(target) or "") + delta[source]
        return str(delta.get("text") or "")

    def _use(self, usage: Any) -> None:
        """Take in counts; those that come later are totals and win."""
        counts = usage.items() if isinstance(usage, dict) else ()
        self._usage.update({key: n for key, n in counts if n is not None})

    def body(self) -> dict[str, Any]:
        """The body that the endpoint would have answered with, unstreamed."""
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        for block in blocks:
            if block.get("json"):
                block["input"] = block["json"]
        return {**self._head, "content": blocks, "usage": self._usage}


def _system(request: LLMRequest) -> tuple[str, dict[str, Any] | None]:
    """The system text, and the output config that makes the answer fit a schema."""
    if request.response_schema is None:
        return request.system, None
    schema = request.response_schema.schema
    strict = strict_schema(schema, ANTHROPIC)
    if strict is not None:
        config = {"format": {"type": "json_schema", "schema": strict}}
        return request.system, config
    words = filter(None, [request.system, _instruction(schema)])
    return "\n\n".join(words), None


def _messages(messages: Iterable[Message]) -> Iterable[dict[str, Any]]:
    """The conversation as the provider wants it, system messages left out."""
    said = (message for message in messages if message.role != "system")
    for is_tool, group in groupby(said, lambda message: message.role == "tool"):
        if is_tool:
            yield {"role": "user", "content": [_tool_result(m) for m in group]}
        else:
            yield from ({"role": m.role, "content": _content(m)} for m in group)


def _tool_result(message: Message) -> dict[str, Any]:
    """The answer of a tool as the provider wants it."""
    return {
        "type": "tool_result",
        "tool_use_id": message.tool_call_id,
        "content": _content(message),
    }


def _content(message: Message) -> str | list[dict[str, Any]]:
    """The content of a message, the calls it makes included."""
    content = message.content
    if not message.tool_calls:
        return content if isinstance(content, str) else [_part(p) for p in content]
    if isinstance(content, str):
        blocks = [{"type": "text", "text": content}] if content else []
    else:
        blocks = [_part(part) for part in content]
    return blocks + [_tool_use(call) for call in message.tool_calls]


def _part(part: Part) -> dict[str, Any]:
    """A text or an image as the provider wants it."""
    if not isinstance(part, ImagePart):
        return {"type": "text", "text": part.text}
    head, comma, data = part.url.partition(",")
    if comma and head.startswith("data:"):
        media_type = head.removeprefix("data:").partition(";")[0]
        return _image({"type": "base64", "media_type": media_type, "data": data})
    if part.url:
        return _image({"type": "url", "url": part.url})
    source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    return _image(source)


def _image(source: dict[str, str]) -> dict[str, Any]:
    """An image block."""
    return {"type": "image", "source": source}


def _tool_use(call: ToolCall) -> dict[str, Any]:
    """A call that the model made, as the provider wants it back.

    Arguments that are no JSON object (a model may write them) are sent as text under
    ``arguments``: the provider takes objects only.
    """
    try:
        given = json.loads(call.arguments or "{}")
    except ValueError:
        given = call.arguments
    if not isinstance(given, dict):
        given = {"arguments": call.arguments}
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    """A tool as the provider wants it."""
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.parameters,
    }


def _instruction(schema: Mapping[str, Any]) -> str:
    """The words that ask for a schema which the provider cannot enforce."""
    return (
        "Answer with one JSON value that fits this JSON schema, and with nothing else: "
        f"{json.dumps(schema, ensure_ascii=False)}"
    )


def _arguments(block: Mapping[str, Any]) -> str:
    """The arguments of a tool call as JSON text; a streamed one has them as text."""
    given = block.get("input")
    if isinstance(given, str):
        return given
    return json.dumps(given or {}, ensure_ascii=False)


def _join(blocks: list[Any], kind: str) -> str:
    """The text of all blocks of a kind; the field has the name of the kind."""
    texts = [
        block.get(kind) or ""
        for block in blocks
        if isinstance(block, dict) and block.get("type") == kind
    ]
    odd = next((type(text).__name__ for text in texts if type(text) is not str), "")
    if odd:
        raise TypeError(f"a {kind!r} block in it holds a value of type {odd}")
    return "".join(texts)


def _usage(usage: Any) -> Usage:
    """What the answer cost; zeros where the server does not say."""
    counts = usage if isinstance(usage, dict) else {}
    cached = tokens(counts, "cache_read_input_tokens")
    written = tokens(counts, "cache_creation_input_tokens")
    return Usage(
        requests=1,
        input_tokens=tokens(counts, "input_tokens") + cached + written,
        output_tokens=tokens(counts, "output_tokens"),
        cached_tokens=cached,
        reasoning_tokens=tokens(counts.get("output_tokens_details"), "thinking_tokens"),
        cache_write_tokens=written,
    )
