"""`Toolbox`: the functions that an answer may call, and whether it must."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from butterfly.api.calls import CLOSES, OPENS
from butterfly.api.refusals import Refusal

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TOLD = f"""\
You may call functions. To call one, write
{OPENS}
{{"name": "its name", "arguments": {{"one": 1}}}}
{CLOSES}
and nothing else; what comes of it is told between <tool_response> and \
</tool_response>. The functions, with the JSON schemas of their parameters:
"""


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The functions that an answer may call.

    Args:
        tools: As they were sent.
        choice: ``auto``, ``required`` or ``named``.
        chosen: The names of the functions that may be called.
        is_single: Whether one call is enough.
    """

    tools: tuple[Mapping[str, Any], ...]
    choice: str
    chosen: tuple[str, ...]
    is_single: bool

    @property
    def must_call(self) -> bool:
        """Whether the answer must be a call."""
        return self.choice != "auto"

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The JSON schema of the arguments of each function that may be called."""
        bodies = [tool["function"] for tool in self.tools]
        return {
            body["name"]: {"type": "object", **(body.get("parameters") or _NOTHING)}
            for body in bodies
            if body["name"] in self.chosen
        }

    def told(self) -> str:
        """Return what to tell a model whose chat template knows no tools."""
        lines = [json.dumps(t["function"], ensure_ascii=False) for t in self.tools]
        return _TOLD + "\n".join(lines)


_NOTHING: dict[str, Any] = {"properties": {}, "additionalProperties": False}


def toolbox_of(
    tools: Sequence[Mapping[str, Any]] | None, choice: Any, *, is_single: bool = False
) -> Toolbox | None:
    """Return the functions that an answer may call; None if it may call none.

    Args:
        tools: The functions, as OpenAI has them.
        choice: ``none``, ``auto``, ``required``, or one of them; None for the default.
        is_single: Whether one call is enough.

    Raises:
        Refusal: If they are not as OpenAI has them.
    """
    names = [_checked(tool, n) for n, tool in enumerate(tools or ())]
    twice = [name for n, name in enumerate(names) if name in names[:n]]
    if twice:
        raise Refusal(f"there are two functions {twice[0]!r}.", param="tools")
    if choice == "none" or (not names and choice in (None, "auto")):
        return None
    if not names:
        raise Refusal("'tool_choice' needs 'tools'.", param="tool_choice")
    given = tuple(tools or ())
    if choice in (None, "auto", "required"):
        return Toolbox(given, choice or "auto", tuple(names), is_single)
    body = choice.get("function") if isinstance(choice, Mapping) else None
    name = body.get("name") if isinstance(body, Mapping) else None
    if name is None or choice.get("type") != "function":
        raise Refusal(
            f"tool_choice {choice!r} is not known: use none, auto, required, or "
            '{"type": "function", "function": {"name": …}}.',
            param="tool_choice",
        )
    if name not in names:
        known = ", ".join(map(repr, names))
        raise Refusal(
            f"tool_choice names {name!r}, and 'tools' has {known}.", param="tool_choice"
        )
    return Toolbox(given, "named", (name,), is_single=True)


def _checked(tool: Mapping[str, Any], number: int) -> str:
    """Return the name of a function."""
    body = tool.get("function")
    if tool.get("type") != "function" or not isinstance(body, Mapping):
        raise Refusal(
            f'tools[{number}] is no function: send {{"type": "function", "function": '
            '{"name": …, "parameters": …}}.',
            param="tools",
        )
    name, schema = body.get("name"), body.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refusal(
            f"tools[{number}].function.name must be 1 to 64 letters, digits, '_', '-' "
            "or '.'.",
            param="tools",
        )
    if schema is not None and not isinstance(schema, Mapping):
        raise Refusal(
            f"tools[{number}].function.parameters must be a JSON schema.",
            param="tools",
        )
    return name
