"""`plain_messages`: conversations as chat templates take them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from butterfly.api.calls import CLOSES, OPENS
from butterfly.api.refusals import Refusal
from butterfly.api.tools import Toolbox


def plain_messages(
    messages: Sequence[Mapping[str, Any]],
    tools: Toolbox | None = None,
    *,
    knows_tools: bool = True,
) -> list[dict[str, Any]]:
    """Return messages whose contents are texts, and whose arguments are objects.

    Args:
        messages: The conversation, as OpenAI has it.
        tools: The functions that may be called.
        knows_tools: Whether the template knows tools; if not, functions, calls and
            what came of them are told as text.

    Raises:
        Refusal: If a message is not as OpenAI has it.
    """
    plain = [_plain(message, n) for n, message in enumerate(messages)]
    if knows_tools:
        return plain
    plain = [_as_text(message) for message in plain]
    if tools is None:
        return plain
    told = tools.told()
    if plain and plain[0]["role"] == "system":
        first = {**plain[0], "content": f"{plain[0]['content']}\n\n{told}"}
        return [first, *plain[1:]]
    return [{"role": "system", "content": told}, *plain]


def _plain(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return a message whose content is a text."""
    if not isinstance(message.get("role"), str):
        raise Refusal(f"messages[{number}] has no role.", param="messages")
    found = dict(message)
    calls = found.pop("tool_calls", None)
    if calls:
        found["tool_calls"] = [_call(call, number) for call in _listed(calls, number)]
    content = found.get("content")
    if content is None and calls:
        content = ""
    if isinstance(content, list):
        content = "".join([_part(part, number) for part in content])
    if not isinstance(content, str):
        raise Refusal(
            f"the content of messages[{number}] must be a text.", param="messages"
        )
    return {**found, "content": content}


def _listed(calls: Any, number: int) -> list[Any]:
    if not isinstance(calls, list):
        raise Refusal(
            f"the tool_calls of messages[{number}] must be a list.", param="messages"
        )
    return calls


def _call(call: Any, number: int) -> dict[str, Any]:
    """Return a call whose arguments are an object, as templates want them."""
    body = call.get("function") if isinstance(call, Mapping) else None
    given = body.get("arguments") if isinstance(body, Mapping) else None
    try:
        told = json.loads(given or "{}") if isinstance(given, str) else given
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not isinstance(body, Mapping):
        raise Refusal(
            f"a call of messages[{number}] has no arguments that are a JSON object.",
            param="messages",
        )
    if not isinstance(body.get("name"), str):
        raise Refusal(f"a call of messages[{number}] has no name.", param="messages")
    return {**call, "function": {**body, "arguments": told}}


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without calls, for templates that know none."""
    if message["role"] == "tool":
        told = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": told}
    calls = message.pop("tool_calls", [])
    bodies = [
        {"name": c["function"]["name"], "arguments": c["function"]["arguments"]}
        for c in calls
    ]
    texts = [json.dumps(body, ensure_ascii=False) for body in bodies]
    lines = [f"{OPENS}\n{text}\n{CLOSES}" for text in texts]
    content = [message["content"]] if message["content"] else []
    return {**message, "content": "\n".join(content + lines)}


def _part(part: Any, number: int) -> str:
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        if part.get("type") in ("text", "input_text"):
            return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else None
    raise Refusal(
        f"messages[{number}] has content of type {kind!r}: only text is understood.",
        param="messages",
    )
