"""`plausible`: an answer to any request, made from the request alone.

The same request always gets the same answer, and an answer fits the request's schema,
so that any pipeline runs without a script.
"""

import json
import zlib
from typing import Any

from inf_engine.types import LLMRequest


def plausible(request: LLMRequest) -> str:
    """Return an answer that depends on the whole conversation, and fits the schema.

    Args:
        request: Any request.

    Returns:
        Text; JSON where the request has a response schema.
    """
    asked = "|".join(f"{message.role}:{message.text}" for message in request.messages)
    seed = zlib.crc32(asked.encode("utf-8", "surrogatepass"))
    if request.response_schema is None:
        return f"answer {seed:08x} to {request.prompt[:40]!r}"
    schema = request.response_schema.schema
    return json.dumps(_example(schema, schema.get("$defs", {}), seed, 0))


def _example(schema: dict[str, Any], defs: dict[str, Any], seed: int, deep: int) -> Any:
    """Return a value that fits a JSON schema."""
    if "$ref" in schema:
        target = defs[schema["$ref"].rsplit("/", 1)[1]]
        return _example(target, defs, seed, deep + 1)
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            options = schema[choice]
            pick = options[-1] if deep > 4 else options[seed % len(options)]
            return _example(pick, defs, seed, deep + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][seed % len(schema["enum"])]
    return _plain_example(schema, defs, seed, deep)


def _plain_example(
    schema: dict[str, Any], defs: dict[str, Any], seed: int, deep: int
) -> Any:
    kind = schema.get("type")
    if kind == "object":
        fields = schema.get("properties", {})
        wanted = [name for name in fields if name in schema.get("required", fields)]
        return {name: _example(fields[name], defs, seed, deep + 1) for name in wanted}
    if kind == "array":
        count = max(schema.get("minItems", 0), 0 if deep > 4 else 1 + seed % 3)
        items = schema.get("prefixItems") or [schema.get("items", {})] * count
        return [
            _example(item, defs, seed + i, deep + 1) for i, item in enumerate(items)
        ]
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        return min(low + seed % 10, schema.get("maximum", low + 10))
    if kind == "boolean":
        return bool(seed % 2)
    if kind == "null":
        return None
    text = f"text {seed:08x}".ljust(schema.get("minLength", 0), ".")
    return text[: schema.get("maxLength", len(text))]
