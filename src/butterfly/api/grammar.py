"""`Grammar`: which tokens keep an answer in the form that was asked for.

llguidance follows the grammar; the head asks it for the allowed tokens before each one
is drawn, and they travel to the last stage, one bit each.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from butterfly.api.refusals import Refusal

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

    Raises:
        Refusal: If the grammar is none.
    """

    def __init__(self, native: LLTokenizer, grammar: str) -> None:
        self._matcher = LLMatcher(native, grammar, log_level=0)
        if self._matcher.is_error():
            raise Refusal(
                f"the schema cannot be used: {self._matcher.get_error()}",
                param="response_format",
            )

    def allowed(self) -> bytes:
        """Return which tokens may come next, one bit each, deflated."""
        return zlib.compress(self._matcher.compute_bitmask(), 1)

    def accept(self, token: int) -> None:
        """Take the token that was drawn.

        Args:
            token: The token.
        """
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


def grammar_of(form: Mapping[str, Any] | None) -> str:
    """Return the grammar of a `response_format`; empty if any text will do.

    Args:
        form: The form that was asked for.

    Raises:
        Refusal: If it is not known.
    """
    kind = (form or {"type": "text"}).get("type")
    if kind == "text":
        return ""
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
    try:
        text = json.dumps(schema)
        return LLMatcher.grammar_from_json_schema(text, defaults=_SPACING)
    except (ValueError, RecursionError) as exc:
        raise Refusal(
            f"the schema cannot be used: {exc}", param="response_format"
        ) from exc
