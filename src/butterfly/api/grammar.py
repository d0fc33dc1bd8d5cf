"""`Grammar`: which tokens keep an answer in the form that was asked for.

llguidance follows the grammar; the head asks it for the allowed tokens before each one
is drawn, and they travel to the last stage, one bit each.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from butterfly.api.calls import CLOSES, OPENS
from butterfly.api.refusals import Refusal
from butterfly.api.tools import Toolbox

_SPACING: Any = {
    # as json.dumps writes it: with free whitespace small models write nothing else
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


class Grammar:
    """The place of one answer in a grammar.

    Args:
        native: The tokenizer.
        grammar: What `grammar_of` gave.
        param: The field of the request that it is of.

    Raises:
        Refusal: If the grammar is none.
    """

    def __init__(
        self, native: LLTokenizer, grammar: str, param: str = "response_format"
    ) -> None:
        self._matcher = LLMatcher(native, grammar, log_level=0)
        if self._matcher.is_error():
            raise Refusal(
                f"the schema cannot be used: {self._matcher.get_error()}",
                param=param,
            )

    def fits(self, draft: list[int]) -> int:
        """Return how many tokens of a draft may come, one after the other.

        Args:
            draft: The tokens.
        """
        return self._matcher.validate_tokens(draft)

    def allowed(self, draft: list[int]) -> bytes:
        """Return which tokens may come next, one bit each, deflated.

        Args:
            draft: Tokens that fit; those that may come after each are told, too.
        """
        masks = [self._matcher.compute_bitmask()]
        for token in draft:
            self._matcher.consume_token(token)
            masks.append(self._matcher.compute_bitmask())
        if draft:
            self._matcher.rollback(len(draft))
        return zlib.compress(b"".join(masks), 1)

    def accept(self, token: int) -> None:
        """Take the token that was drawn.

        Args:
            token: The token.
        """
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


def grammar_of(
    form: Mapping[str, Any] | None,
    tools: Toolbox | None = None,
    *,
    is_tagged: bool = True,
) -> str:
    """Return the grammar that an answer must follow; empty if any text will do.

    Args:
        form: The `response_format` that was asked for.
        tools: The functions that may be called.
        is_tagged: Whether calls are written between tags, and not as bare JSON.

    Raises:
        Refusal: If the form is not known, or does not go with the functions.
    """
    schema = _schema(form)
    if tools is not None and tools.must_call:
        if schema is not None:
            raise Refusal(
                "an answer that must call a function has no other form: leave out "
                "'response_format', or set 'tool_choice' to auto.",
                param="response_format",
            )
        return _written(_calls(tools, is_tagged), "tools")
    if schema is None:
        return ""
    rules = {"form": f"%json {json.dumps(_spaced(schema))}"}
    if tools is None:
        return _written({"start": "form", **rules}, "response_format")
    calls = _calls(tools, is_tagged)
    start = {"start": f"{calls.pop('start')} | form"}
    return _written({**start, **calls, **rules}, "response_format")


def _schema(form: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the schema of a `response_format`; None if any text will do."""
    kind = (form or {"type": "text"}).get("type")
    if kind == "text":
        return None
    schema: Any = {"type": "object"}
    if kind == "json_schema":
        told = (form or {}).get("json_schema")
        schema = told.get("schema") if isinstance(told, Mapping) else None
    elif kind != "json_object":
        raise Refusal(
            f"response_format {kind!r} is not known: use text, json_object or "
            "json_schema.",
            param="response_format",
        )
    if not isinstance(schema, Mapping):
        raise Refusal(
            "response_format.json_schema.schema must be a JSON schema.",
            param="response_format",
        )
    return schema


def _spaced(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {**schema, "x-guidance": _SPACING}


def _calls(tools: Toolbox, is_tagged: bool) -> dict[str, str]:
    """Return the rules of calls; each schema is a root of its own, for its refs."""
    word = "arguments" if is_tagged else "parameters"
    names = list(tools.parameters)
    one = " | ".join([f"call{n}" for n in range(len(names))])
    rules = {"start": "call"}
    if not is_tagged:
        rules["call"] = one
    else:
        opens, closes = json.dumps(f"{OPENS}\n"), json.dumps(f"\n{CLOSES}")
        rules["call"] = f"{opens} ({one}) {closes}"
        rules["start"] = "call" if tools.is_single else 'call ("\\n" call)*'
    for n, name in enumerate(names):
        begin = json.dumps(f'{{"name": "{name}", "{word}": ')
        rules[f"call{n}"] = f'{begin} given{n} "}}"'
        schema = _spaced(tools.parameters[name])
        rules[f"given{n}"] = f"%json {json.dumps(schema)}"
    return rules


def _written(rules: Mapping[str, str], param: str) -> str:
    """Return a grammar of rules, as llguidance reads it."""
    text = "\n".join([f"{name}: {rule}" for name, rule in rules.items()])
    try:
        return LLMatcher.grammar_from_lark(text)
    except (ValueError, RecursionError) as exc:
        raise Refusal(f"the schema cannot be used: {exc}", param=param) from exc
