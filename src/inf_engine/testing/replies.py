"""What the loopback server answers: the bodies and events of both providers.

An answer is told once, in the library's words, as an `LLMResponse`; here it becomes
the JSON of chat completions or of Anthropic's messages, whole or as server-sent
events. Tokens that the answer does not give are counted as words.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from inf_engine.types import LLMResponse, ToolCall, Usage

Answer: TypeAlias = str | LLMResponse | Mapping[str, Any]
"""A text; a whole response; or a mapping with some of the fields of one."""

_ANTHROPIC_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}

_ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}

_TEXT_KEYS = ("content", "text", "system", "messages")


def as_response(answer: Answer, body: Mapping[str, Any], number: int) -> LLMResponse:
    """Return an answer in full: model, id, finish reason and usage filled in.

    Args:
        answer: A text, a response, or a mapping with ``text``, ``tool_calls`` (each
            with ``name``, ``arguments`` as JSON text or object, perhaps ``id``),
            ``reasoning``, ``finish_reason``, ``usage`` (a `Usage` or its fields).
        body: The request.
        number: How many requests came before; it makes the id.
    """
    if not isinstance(answer, LLMResponse):
        given = {"text": answer} if isinstance(answer, str) else dict(answer)
        calls = given.pop("tool_calls", ())
        given["tool_calls"] = tuple(_call(c, n) for n, c in enumerate(calls))
        if given["tool_calls"]:
            given.setdefault("finish_reason", "tool_calls")
        usage = given.get("usage", {})
        if not isinstance(usage, Usage):
            given["usage"] = Usage(**{"requests": 1, **usage})
        answer = LLMResponse(**given)
    usage = answer.usage if answer.usage.total_tokens else _counted(answer, body)
    return LLMResponse(
        text=answer.text,
        tool_calls=answer.tool_calls,
        reasoning=answer.reasoning,
        finish_reason=answer.finish_reason,
        usage=usage,
        model=answer.model or str(body.get("model", "")),
        id=answer.id or f"loopback-{number}",
    )


def openai_body(response: LLMResponse) -> dict[str, Any]:
    """Return the chat completion that says `response`."""
    message: dict[str, Any] = {"role": "assistant", "content": response.text or None}
    if response.reasoning:
        message["reasoning_content"] = response.reasoning
    if response.tool_calls:
        message["tool_calls"] = [_openai_call(call) for call in response.tool_calls]
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": response.finish_reason,
    }
    return {
        "id": response.id,
        "object": "chat.completion",
        "created": 0,
        "model": response.model,
        "choices": [choice],
        "usage": _openai_usage(response.usage),
    }


def openai_text(text: str, body: Mapping[str, Any], number: int) -> tuple[bytes, int]:
    """Return the chat completion that says a plain text, in the shortest way.

    It is what `openai_body` and `as_response` make of it, for benchmarks.

    Args:
        text: The answer.
        body: The request.
        number: How many requests came before; it makes the id.

    Returns:
        The JSON, and the tokens it tells of.
    """
    sent, said = count_words(body), len(text.split())
    model = json.dumps(str(body.get("model", "")))
    told = (
        f"loopback-{number}",
        model,
        json.dumps(text or None),
        sent,
        said,
        sent + said,
    )
    return (_PLAIN_TEXT % told).encode(), sent + said


def openai_events(response: LLMResponse) -> list[bytes]:
    """Return the server-sent events that say `response`, ``[DONE]`` included."""
    head = {
        "id": response.id,
        "object": "chat.completion.chunk",
        "created": 0,
        "model": response.model,
    }
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in _pieces(response.reasoning)]
    deltas += [{"content": piece} for piece in _pieces(response.text)]
    deltas += _call_deltas(response.tool_calls)
    choices: list[Any] = [
        {"index": 0, "delta": d, "finish_reason": None} for d in deltas
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": response.finish_reason})
    chunks: list[Any] = [{**head, "choices": [c]} for c in choices]
    chunks.append({**head, "choices": [], "usage": _openai_usage(response.usage)})
    return [_event(chunk) for chunk in chunks] + [b"data: [DONE]\n\n"]


def anthropic_body(response: LLMResponse) -> dict[str, Any]:
    """Return the message that says `response`."""
    return {
        "id": response.id,
        "type": "message",
        "role": "assistant",
        "model": response.model,
        "content": list(_blocks(response)),
        "stop_reason": _ANTHROPIC_REASONS.get(response.finish_reason, "pause_turn"),
        "stop_sequence": None,
        "usage": _anthropic_usage(response.usage),
    }


def anthropic_events(response: LLMResponse) -> list[bytes]:
    """Return the server-sent events that say `response`."""
    body = anthropic_body(response)
    usage = {**body["usage"], "output_tokens": 0}
    start = {**body, "content": [], "stop_reason": None, "usage": usage}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    events.append({"type": "ping"})
    for index, block in enumerate(body["content"]):
        events.extend(_block_events(index, block))
    delta = {"stop_reason": body["stop_reason"], "stop_sequence": None}
    end = {"type": "message_delta", "delta": delta, "usage": body["usage"]}
    events += [end, {"type": "message_stop"}]
    return [_event(event, event["type"]) for event in events]


def error_body(status: int, message: str, *, anthropic: bool) -> dict[str, Any]:
    """Return the body with which a provider refuses a request."""
    if anthropic:
        kind = _ANTHROPIC_ERRORS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def error_event(status: int, message: str, *, anthropic: bool) -> bytes:
    """Return the event that ends a stream in place of its second half."""
    body = error_body(status, message, anthropic=anthropic)
    return _event(body, "error" if anthropic else "")


def count_words(value: Any) -> int:
    """Return the number of words in all texts inside a request."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, dict):
        return sum([count_words(value[key]) for key in _TEXT_KEYS if key in value])
    return sum([count_words(item) for item in value]) if isinstance(value, list) else 0


def _call(call: ToolCall | Mapping[str, Any], number: int) -> ToolCall:
    """A tool call in the library's words."""
    if isinstance(call, ToolCall):
        return call
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(call.get("id", f"call_{number}"), call["name"], text)


def _counted(response: LLMResponse, body: Mapping[str, Any]) -> Usage:
    """The usage of a response in words."""
    calls = " ".join(f"{call.name} {call.arguments}" for call in response.tool_calls)
    thought = count_words(response.reasoning)
    said = count_words(response.text) + count_words(calls)
    return Usage(1, count_words(body), said + thought, 0, thought)


def _openai_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _call_deltas(calls: Iterable[ToolCall]) -> Iterator[dict[str, Any]]:
    """Each call in three deltas: its name, and its arguments in two halves."""
    for index, call in enumerate(calls):
        half = len(call.arguments) // 2
        head = {"index": index, **_openai_call(call)}
        head["function"] = {"name": call.name, "arguments": ""}
        yield {"tool_calls": [head]}
        for part in (call.arguments[:half], call.arguments[half:]):
            delta = {"index": index, "function": {"arguments": part}}
            yield {"tool_calls": [delta]}


def _openai_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _anthropic_usage(usage: Usage) -> dict[str, Any]:
    cached = usage.cached_tokens + usage.cache_write_tokens
    return {
        "input_tokens": usage.input_tokens - cached,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _blocks(response: LLMResponse) -> Iterator[dict[str, Any]]:
    if response.reasoning:
        block = {"type": "thinking", "thinking": response.reasoning}
        yield {**block, "signature": "loopback"}
    if response.text or not response.tool_calls:
        yield {"type": "text", "text": response.text}
    for call in response.tool_calls:
        given = json.loads(call.arguments)
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


def _block_events(index: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of one block: its start, its pieces, its end."""
    kind = block["type"]
    if kind == "tool_use":
        start = {**block, "input": {}}
        text = json.dumps(block["input"], ensure_ascii=False)
        half = len(text) // 2
        pieces, name, field = [text[:half], text[half:]], "input_json", "partial_json"
    else:
        start = {**block, kind: ""}
        pieces, name, field = _pieces(block[kind]), kind, kind
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for piece in pieces:
        delta = {"type": f"{name}_delta", field: piece}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _pieces(text: str) -> list[str]:
    """A text cut into words, each with the space before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def _event(value: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


def _plain_text() -> str:
    """The JSON of a chat completion, with gaps for what differs between texts."""
    usage = Usage(1, 1001, 2002)
    plain = LLMResponse(text="@text", usage=usage, model="@model", id="@id")
    told = json.dumps(openai_body(plain)).replace("%", "%%").replace("@id", "%s")
    for gap in ('"@model"', '"@text"', "1001", "2002", "3003"):
        told = told.replace(gap, "%s")
    return told


_PLAIN_TEXT = _plain_text()
