"""The client of OpenAI's chat completions, and of every server that speaks them.

`OpenAIClient` maps an `LLMRequest` to one POST and the answer back; transport, status
mapping and JSON are `wire.py`'s. With ``compatible=True`` it speaks to vLLM, Ollama,
llama.cpp, OpenRouter and the like, which differ in two fields: they take
``max_tokens``, and they take any JSON schema, so that none is rewritten.
"""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from inf_engine.clients.refusal import LONGEST_REASON
from inf_engine.clients.strict import OPENAI, strict_schema
from inf_engine.clients.transport import Transport
from inf_engine.clients.wire import Wire, tokens
from inf_engine.errors import AnswerError
from inf_engine.types import (
    FinishReason,
    ImagePart,
    LLMRequest,
    LLMResponse,
    Message,
    Part,
    RateHint,
    ResponseSchema,
    ToolCall,
    ToolSpec,
    Usage,
)

BASE_URL = "https://api.openai.com/v1"

_FINISH_REASONS: dict[Any, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class OpenAIClient:
    """Answers requests at ``{base_url}/chat/completions``.

    Args:
        model: The model to ask where a request names none.
        base_url: The address up to and without ``/chat/completions``.
        api_key: The key itself, None to send none. It is never shown.
        timeout: Seconds until the last byte of an answer must have arrived.
        compatible: The server is not OpenAI's: see the top of this file.
        transport: What carries the bytes; None for a connection pool of its own.
        headers: Further headers, sent with every request. They are never shown.

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
        compatible: bool = False,
        transport: Transport | None = None,
        headers: Mapping[str, str] | None = None,
        key_name: str = "",
    ) -> None:
        self.model = model
        self.base_url = base_url.rstrip("/")
        self.compatible = compatible
        sent = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        url = f"{self.base_url}/chat/completions"
        self._wire = Wire(
            url,
            {**sent, **(headers or {})},
            api_key,
            timeout,
            transport,
            key_name=key_name,
        )

    def __repr__(self) -> str:
        return f"OpenAIClient(model={self.model!r}, base_url={self.base_url!r})"

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Answer one request.

        Args:
            request: Its model, if it names one, is asked instead of the client's.

        Raises:
            EndpointError: The endpoint failed; the type says how.
        """
        payload = self._payload(request)
        return await self._wire.post(payload, self._response)

    def stream(self, request: LLMRequest) -> AsyncIterator[str | LLMResponse]:
        """Yield the pieces of the text, then the whole response, once.

        Args:
            request: Its model, if it names one, is asked instead of the client's.

        Raises:
            EndpointError: The endpoint failed, or the stream ended too soon.
        """
        payload = self._payload(request)
        payload |= {"stream": True, "stream_options": {"include_usage": True}}
        return self._wire.stream(payload, self._response, _StreamedAnswer())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()

    def _payload(self, request: LLMRequest) -> dict[str, Any]:
        """The request as the provider wants it; what is None is left out."""
        payload: dict[str, Any] = {
            "model": request.model or self.model,
            "messages": [_message(message) for message in request.messages],
        }
        if request.temperature is not None:
            payload["temperature"] = request.temperature
        if request.top_p is not None:
            payload["top_p"] = request.top_p
        if request.max_tokens is not None:
            limit = "max_tokens" if self.compatible else "max_completion_tokens"
            payload[limit] = request.max_tokens
        if request.seed is not None:
            payload["seed"] = request.seed
        if request.stop:
            payload["stop"] = list(request.stop)
        if request.tools:
            payload["tools"] = [_tool(tool) for tool in request.tools]
        if request.response_schema is not None:
            payload["response_format"] = self._format(request.response_schema)
        return payload

    def _format(self, wanted: ResponseSchema) -> dict[str, Any]:
        """The response format, strict where the provider can enforce the schema."""
        strict = strict_schema(wanted.schema, OPENAI)
        if strict is None or (self.compatible and strict != wanted.schema):
            form: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema}
        else:
            form = {"name": wanted.name, "schema": strict, "strict": True}
        return {"type": "json_schema", "json_schema": form}

    def _response(
        self, body: Mapping[str, Any], limits: RateHint | None, seconds: float
    ) -> LLMResponse:
        """The answer in the library's words."""
        choice, message = self._choice(body)
        calls = self._tool_calls(message.get("tool_calls"))
        text = _text(message.get("content"))
        finish = _FINISH_REASONS.get(choice.get("finish_reason"), "unknown")
        if calls and finish == "stop":
            finish = "tool_calls"
        response = LLMResponse(
            text=text,
            tool_calls=calls,
            reasoning=_reasoning(message),
            finish_reason=finish,
            usage=_usage(body.get("usage")),
            model=str(body.get("model") or ""),
            id=str(body.get("id") or ""),
            seconds=seconds,
            limits=limits,
        )
        self._check(message, response)
        return response

    def _check(self, message: Mapping[str, Any], response: LLMResponse) -> None:
        """Refuse a refusal, and a message in which nothing stands."""
        if message.get("refusal"):
            words = self._wire.clean(str(message["refusal"]))
            raise AnswerError(
                f"{self._wire.place}: the model refused to answer "
                f"({words[:LONGEST_REASON]!r}). Reword the prompt, "
                "or use another model.",
                response=response,
            )
        says = response.tool_calls or response.reasoning
        says_why = response.finish_reason in ("length", "content_filter")
        if message.get("content") is None and not (says or says_why):
            raise self._wire.malformed("'choices[0].message' has no content")

    def _choice(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The first choice of an answer, and its message."""
        try:
            choice = body["choices"][0]
            message = choice["message"]
        except (KeyError, IndexError, TypeError) as exc:
            raise self._wire.malformed(
                "its body has no 'choices[0].message', so it is no chat completion"
            ) from exc
        if not isinstance(message, dict):
            raise self._wire.malformed("'choices[0].message' is not an object")
        return choice, message

    def _tool_calls(self, calls: Any) -> tuple[ToolCall, ...]:
        """The tools that the model wants called."""
        if not calls:
            return ()
        try:
            return tuple(
                ToolCall(
                    id=str(call.get("id") or f"call_{number}"),
                    name=str(call["function"]["name"]),
                    arguments=_arguments(call["function"].get("arguments")),
                )
                for number, call in enumerate(calls)
            )
        except (KeyError, TypeError, AttributeError) as exc:
            raise self._wire.malformed(
                "a tool call in it has no 'function.name'"
            ) from exc


class _StreamedAnswer:
    """Puts the chunks of a stream together, to the body of a plain answer."""

    def __init__(self) -> None:
        self._finish: str | None = None
        self._head: dict[str, Any] = {}
        self._parts: dict[str, list[str]] = {"content": [], "reasoning": []}
        self._parts["refusal"] = []
        self._calls: dict[int, dict[str, Any]] = {}

    @property
    def finished(self) -> bool:
        """Whether the model came to its end."""
        return bool(self._finish)

    def add(self, event: Mapping[str, Any]) -> str:
        """Take in one chunk and return the piece of text in it."""
        for key in ("id", "model", "usage"):
            if event.get(key):
                self._head[key] = event[key]
        choices: Any = event.get("choices") or ({},)
        delta = choices[0].get("delta") or {}
        self._finish = choices[0].get("finish_reason") or self._finish
        piece = _text(delta.get("content"))
        self._parts["content"].append(piece)
        self._parts["reasoning"].append(_reasoning(delta))
        self._parts["refusal"].append(delta.get("refusal") or "")
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        return piece

    def _add_call(self, part: Mapping[str, Any]) -> None:
        """Take in a part of a tool call."""
        empty = {"id": "", "function": {"name": "", "arguments": ""}}
        call = self._calls.setdefault(part.get("index", len(self._calls)), empty)
        call["id"] = part.get("id") or call["id"]
        function = part.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    def body(self) -> dict[str, Any]:
        """The body that the endpoint would have answered with, unstreamed."""
        message: dict[str, Any] = {k: "".join(v) for k, v in self._parts.items()}
        message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        choice = {"message": message, "finish_reason": self._finish}
        return {**self._head, "choices": [choice]}


def _message(message: Message) -> dict[str, Any]:
    """One message as the provider wants it."""
    content: Any = message.content
    if not isinstance(content, str):
        content = [_part(part) for part in content]
    sent: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        sent["content"] = content or None
        sent["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if message.role == "tool":
        sent["tool_call_id"] = message.tool_call_id
    return sent


def _part(part: Part) -> dict[str, Any]:
    """A text or an image as the provider wants it."""
    if isinstance(part, ImagePart):
        url = part.url or f"data:{part.media_type};base64,{part.data}"
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "text", "text": part.text}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    """A call that the model made, as the provider wants it back."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    """A tool as the provider wants it."""
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return {"type": "function", "function": function}


def _arguments(given: Any) -> str:
    """The arguments of a tool call as JSON text, which some servers send as JSON."""
    if isinstance(given, str) and given:
        return given
    return json.dumps(given or {}, ensure_ascii=False)


def _text(content: Any) -> str:
    """The text of a content, which some servers send in parts; it may be None."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    if content is not None and not isinstance(content, str):
        raise TypeError(f"its content is of type {type(content).__name__}")
    return content or ""


def _reasoning(message: Mapping[str, Any]) -> str:
    """The reasoning, under either of the names that servers give it."""
    for name in ("reasoning_content", "reasoning"):
        given = message.get(name)
        if given and isinstance(given, (str, list)):
            return _text(given)
    return ""


def _usage(usage: Any) -> Usage:
    """What the answer cost; zeros where the server does not say."""
    counts = usage if isinstance(usage, dict) else {}
    read = counts.get("prompt_tokens_details")
    written = counts.get("completion_tokens_details")
    return Usage(
        requests=1,
        input_tokens=tokens(counts, "prompt_tokens"),
        output_tokens=tokens(counts, "completion_tokens"),
        cached_tokens=tokens(read, "cached_tokens"),
        reasoning_tokens=tokens(written, "reasoning_tokens"),
        cache_write_tokens=tokens(read, "cache_write_tokens"),
    )
