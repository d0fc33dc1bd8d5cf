"""Prompts in all their forms: what `LLMInference` makes of what it is called with."""

import string
from collections.abc import Mapping
from typing import Any, cast

from inf_engine.dispatch import dispatcher
from inf_engine.errors import ModuleError, known_names
from inf_engine.images import Image
from inf_engine.parameter import Parameter
from inf_engine.template import (
    HoleTable,
    MixedText,
    interpolated,
    is_t_string,
    pieces_of,
)
from inf_engine.types import ImagePart, Message, Part, TextPart, ToolCall

_ROLES = ("system", "user", "assistant", "tool")
_MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id")


def as_messages(prompt: Any) -> tuple[Message, ...]:
    """Return the messages that a prompt stands for.

    Args:
        prompt: Text, an `Image`, a `Parameter`, a `Message`, a list of messages
            (`Message` or dicts with ``role`` and ``content``), or a list of text and
            image parts.

    Raises:
        ModuleError: If it is anything else.
    """
    if isinstance(prompt, (str, Parameter)):
        return (Message("user", content_of(prompt)),)
    if isinstance(prompt, ImagePart):
        return (Message("user", (part_of(prompt),)),)
    if is_t_string(prompt):
        return (Message("user", interpolated(prompt)),)
    if isinstance(prompt, Message):
        return (prompt,)
    if isinstance(prompt, Mapping):
        return (_as_message(prompt),)
    if not isinstance(prompt, (list, tuple)) or not prompt:
        fix = "write it into an f-string, e.g. self.llm(f'{value}')."
        if hasattr(prompt, "__await__"):
            fix = "await it first, e.g. self.llm(await value)."
        raise ModuleError(
            f"a prompt must be text or messages, not {type(prompt).__name__}: {fix}"
        )
    if all(_is_part(item) for item in prompt):
        return (Message("user", content_of(prompt)),)
    return tuple([_as_message(item) for item in prompt])


def _is_part(item: Any) -> bool:
    if isinstance(item, Mapping):
        return "type" in item and "role" not in item
    return isinstance(item, (str, Parameter, TextPart, ImagePart))


def _as_message(item: Any) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping) or not {"role", "content"} <= set(item):
        raise ModuleError(
            "a message must be a Message or a dict with 'role' and 'content', not "
            f"{type(item).__name__}."
        )
    for key, value in item.items():
        if key not in _MESSAGE_KEYS and value is not None:
            raise ModuleError(
                f"a message has the unknown key {key!r}; "
                f"{known_names(str(key), _MESSAGE_KEYS)}"
            )
    role, content = item["role"], item["content"]
    if role not in _ROLES:
        raise ModuleError(f"unknown role {role!r}; {known_names(str(role), _ROLES)}")
    calls = tuple([_as_tool_call(call) for call in item.get("tool_calls") or ()])
    return Message(
        role,
        "" if content is None and calls else content_of(content),
        tool_calls=calls,
        tool_call_id=str(item.get("tool_call_id") or ""),
    )


def _as_tool_call(call: Any) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    try:
        function = call["function"]
        return ToolCall(str(call["id"]), function["name"], function["arguments"])
    except (TypeError, KeyError) as exc:
        raise ModuleError(
            "a tool call must be a ToolCall or {'id': ..., 'function': {'name': ..., "
            f"'arguments': '<JSON text>'}}}}, not {call!r}."
        ) from exc


def content_of(content: Any) -> str | tuple[Part, ...]:
    """Return the content of a message: text, or parts where there are images.

    Args:
        content: Text, a `Parameter`, or a list of text and image parts.

    Raises:
        ModuleError: If it is anything else.
    """
    if isinstance(content, MixedText):
        content = [content]
    if isinstance(content, (str, Parameter)):
        return str(content)
    if not isinstance(content, (list, tuple)):
        raise ModuleError(
            "the content of a message must be text or a list of parts, not "
            f"{type(content).__name__}: write it into an f-string."
        )
    return tuple([part_of(p) for part in content for p in pieces_of(part)])


def part_of(part: Any) -> Part:
    """Return a part of a message.

    Args:
        part: Text, an image, or a dict as OpenAI describes it.

    Raises:
        ModuleError: If it is anything else.
        UsageError: If the content of an image is none.
    """
    if isinstance(part, ImagePart) and part.url.startswith("data:"):
        return Image(part)
    if isinstance(part, (TextPart, ImagePart)):
        return part
    if isinstance(part, (str, Parameter)):
        return TextPart(str(part))
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return TextPart(part["text"])
    address = part.get("image_url") if isinstance(part, Mapping) else None
    if isinstance(address, Mapping):
        address = address.get("url")
    if isinstance(address, str) and address:
        return part_of(ImagePart(url=address))
    raise ModuleError(
        "a part of a message must be text, an Image, a TextPart, "
        "{'type': 'text', 'text': ...} or {'type': 'image_url', 'image_url': ...}, not "
        f"{type(part).__name__}."
    )


def template_fields(template: str) -> list[str]:
    """Return the names of the ``{fields}`` of a template, each once, in order.

    Raises:
        ModuleError: If the template is broken or has fields without a name.
    """
    roots: list[str] = []
    for name, spec in _fields(template):
        roots += [name.split(".")[0].split("[")[0], *template_fields(spec)]
    for root in roots:
        if not root.isidentifier():
            raise ModuleError(
                f"a prompt template has a field without a name: '{{{root}}}'. Write "
                "{name}, and double the braces that are plain text."
            )
    return list(dict.fromkeys(roots))


def _fields(template: str) -> list[tuple[str, str]]:
    """Return field and format spec of each replacement."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as exc:
        raise ModuleError(
            f"broken prompt template: {exc}. Double the braces that are plain text."
        ) from exc
    return [(field, spec or "") for _, field, spec, _ in parsed if field is not None]


def by_field(
    template: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return what a call gives for each field of a template.

    Args:
        template: The template.
        args: Positional arguments; one is enough for a template with one field.
        kwargs: The fields by name.

    Raises:
        ModuleError: If they are not the template's fields.
    """
    fields = template_fields(template)
    if args and len(args) == len(fields) == 1 and not kwargs:
        kwargs = {fields[0]: args[0]}
        args = ()
    missing = [name for name in fields if name not in kwargs]
    unknown = [name for name in kwargs if name not in fields]
    if args or missing or unknown:
        raise ModuleError(
            f"the prompt template has the fields {fields}; missing {missing}, unknown "
            f"{unknown}, {len(args)} given by position. Give each field by keyword."
        )
    return kwargs


def filled_prompt(template: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return a template with its fields filled in.

    Raises:
        ModuleError: If the fields are not the template's, or do not fit it.
    """
    return filled_fields(template, by_field(template, args, kwargs))


def filled_fields(template: str, given: Mapping[str, Any]) -> str:
    """Return a template with its fields filled in, of which none is missing.

    With images in them it is a `MixedText`.

    Raises:
        ModuleError: If they do not fit it.
    """
    holes = _Holes()
    before = dispatcher.set(cast(Any, holes))
    try:
        return holes.filled(template.format(**given))
    except (AttributeError, LookupError, TypeError, ValueError) as exc:
        kinds = ", ".join(f"{name}: {type(v).__name__}" for name, v in given.items())
        raise ModuleError(
            f"the prompt template cannot be filled with ({kinds}): {exc}. Correct the "
            "fields of the template, or what the call gives for them."
        ) from exc
    finally:
        dispatcher.reset(before)


class _Holes:
    """Keeps images apart while a template is filled, as `dispatcher`."""

    def __init__(self) -> None:
        self._table: HoleTable | None = None

    def format_parameter(self, parameter: Any, spec: str) -> str:
        """Return what stands for an image, or a text with images."""
        if isinstance(parameter, Parameter):
            return format(parameter.value, spec)
        self._table = self._table or HoleTable()
        return self._table.issue(parameter, spec, known=parameter.value)

    def filled(self, text: str) -> str:
        """Return a text with its images."""
        if self._table is None:
            return text
        found = self._table.scan(text, "a prompt template")
        return found if isinstance(found, str) else found.fill(str)
