"""In which form a request wants its answer, and that answer in it.

Any program may ask: nothing here knows who. A request can ask for

- JSON by a schema (``response_format``), or by a template or field names in its text,
- fields after markers, ``[[ ## name ## ]]``,
- tags, ``<NAME>...</NAME>``,
- a fenced block,
- or just text.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_TAIL = 4000
_BACKTICKED = re.compile(r"`\[\[ ## (\w+) ## \]\]`")
_ASKED_TAG = re.compile(
    r"\b(?:respond|reply|send|return|write|put|wrap|enclose|provide|give|output)\b"
    r"[^.\n<]{0,80}\b(?:between|within|inside|in|with)(?: the| an?)? ?"
    r"<([A-Za-z_][\w.-]*)>",
    re.IGNORECASE,
)
_GIVEN_TAG = re.compile(r"\b(?:provided|specified|given|shown|found) (?:in|within)\W*$")
_EMPTY_TAG = re.compile(
    r"<([A-Za-z_][\w.-]*)>\s*(?:\{+[^{}]{0,80}\}+|\[[^\[\]]{0,80}\]|\.\.\.|…"
    r"|(?:your|the (?:new|improved|revised|updated|better))\b[^<]{0,80})\s*</\1>",
    re.IGNORECASE,
)
_FENCE = re.compile(
    r"(?:\b(?:within|inside|between|in|with|using)\b[^.\n]{0,40})"
    r"(?:```|triple backtick|fenced|code block)",
    re.IGNORECASE,
)
_JSON = re.compile(
    r"\b(?:respond|reply|return|output|answer|format|response)\b[^\n]{0,80}\bjson\b",
    re.IGNORECASE,
)
_KEY = re.compile(r'"([A-Za-z_][\w.-]*)"\s*:\s*(\{|\[)?')
_NAMED = re.compile(r"`([A-Za-z_]\w*)`")
_THOUGHT = re.compile(
    r"reason|thought|think|analy|critique|critic|feedback|note|diagnos|expla|summar"
    r"|observ|descri|rationale|comment|gradient|why|cause|hypothes|plan$",
    re.IGNORECASE,
)


def is_thought(name: str) -> bool:
    """Say whether a field of that name wants thoughts, and not a finished text."""
    return _THOUGHT.search(name) is not None


def messages_of(body: dict[str, Any]) -> list[str]:
    """Return the texts of a request's messages, in order; at least one."""
    texts = []
    for message in body.get("messages", ()):
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "\n".join(part.get("text", "") for part in content)
        texts.append(content)
    return texts or [""]


@dataclass(frozen=True, slots=True)
class Form:
    """The form of an answer.

    Args:
        kind: "schema", "json", "markers", "tags", "fence" or "text".
        names: The names of its fields.
        schema: The JSON schema.
        nested: The fields of "json" that hold an object by names of their own.
    """

    kind: str = "text"
    names: tuple[str, ...] = ()
    schema: dict[str, Any] = field(default_factory=dict)
    nested: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        """Whether it may have room for more than one finished text."""
        texts = [name for name in self.names if not is_thought(name)]
        return self.kind == "schema" or bool(self.nested) or len(texts) > 1

    def plain(self, text: str) -> str:
        """Return an answer of one text, and a thought where one is wanted.

        Args:
            text: The text.
        """
        thought = "I did what I was told."
        return self.filled(lambda name: thought if is_thought(name) else text)

    def filled(
        self,
        give: Callable[[str], str],
        objects: Callable[[], dict[str, str]] | None = None,
    ) -> str:
        """Return an answer; a schema's objects and lists it fills with the same.

        Args:
            give: Gives the text of a field by its name; "" where there are none.
            objects: Gives the fields of a nested object.
        """
        if self.kind in ("schema", "json"):
            names = self.names or ("answer",)
            value: dict[str, Any] = {name: give(name) for name in names}
            for name in self.nested:
                value[name] = objects() if objects else {}
            return json.dumps(value, ensure_ascii=False)
        if self.kind == "markers":
            parts = [f"[[ ## {name} ## ]]\n{give(name)}" for name in self.names]
            return "\n\n".join([*parts, "[[ ## completed ## ]]"])
        if self.kind == "tags":
            return "\n".join(f"<{name}>{give(name)}</{name}>" for name in self.names)
        if self.kind == "fence":
            return f"Here it is:\n\n```\n{give('')}\n```"
        return give("")


def form_of(body: dict[str, Any], text: str, *, working: bool = False) -> Form:
    """Return the form that a request wants.

    Args:
        body: The request.
        text: Its text, all or the last message.
        working: Whether it comes from a program at work, so that its text is data:
            then only markers, and JSON that is asked for in `body`, are looked for.
    """
    asked = body.get("response_format") or {}
    if asked.get("type") == "json_schema":
        schema = asked["json_schema"].get("schema", {})
        return Form("schema", tuple(schema.get("properties", {})), schema)
    markers = [m for m in _BACKTICKED.findall(text[-_TAIL:]) if m != "completed"]
    if markers:
        return Form("markers", tuple(dict.fromkeys(markers)))
    if asked.get("type") == "json_object" or (not working and _JSON.search(text)):
        return _json_form(text)
    if working:
        return Form()
    tags = _tags(text)
    if tags:
        return Form("tags", tags)
    return Form("fence") if _FENCE.search(text) else Form()


def _tags(text: str) -> tuple[str, ...]:
    """The tags that an answer shall have."""
    found = [match.group(1) for match in _EMPTY_TAG.finditer(text)]
    for match in _ASKED_TAG.finditer(text):
        before = match.group(0)[: -len(match.group(1)) - 2]
        closes = f"</{match.group(1)}>" in text[match.end() :]
        if not _GIVEN_TAG.search(before) and (
            closes or "tag" in text[match.end() :][:9]
        ):
            found.append(match.group(1))
    return tuple(dict.fromkeys(found))


def _json_form(text: str) -> Form:
    """The fields of the JSON that a text asks for: of its template, or as named."""
    asked = [match.end() for match in _JSON.finditer(text)]
    template = text[asked[0] :] if asked else text
    template = template.replace("{{", "{").replace("}}", "}")
    start = template.find("{")
    names: list[str] = []
    nested: list[str] = []
    depth = 0
    for position in range(max(start, 0), len(template)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(template[position], 0)
        if depth == 0:
            break
        key = _KEY.match(template, position) if depth == 1 else None
        if key:
            (nested if key.group(2) == "{" else names).append(key.group(1))
    if not names and not nested:
        names = _NAMED.findall(template[:300])
    return Form("json", tuple(dict.fromkeys(names)), nested=tuple(nested))
