"""Which JSON schemas a provider enforces while the model writes.

Providers constrain the answer only to a part of JSON schema, and answer 400 to the
rest. `strict_schema` rewrites a schema into that part, or says that it cannot:

- Objects are closed. An object that is open on purpose (`dict[str, int]`) has no
  strict form. Where the provider wants it, every property is required.
- A limit that the provider does not know (`maxLength`, say) moves into the
  description, where the model reads it; the caller validates the answer anyway.
- ``oneOf`` with a discriminator becomes ``anyOf``: the tags keep the branches apart.
- A ``$ref`` with a description becomes ``anyOf`` of that one ``$ref``, since a ``$ref``
  must stand alone.

So what fits the strict schema has the structure that the original asks for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The part of JSON schema that a provider enforces.

    Args:
        limits: The keywords beyond structure that it knows.
        formats: The formats of strings that it knows.
        all_required: Every property has to be required.
        recursive: A schema may refer to itself.
    """

    limits: frozenset[str]
    formats: frozenset[str]
    all_required: bool
    recursive: bool


_FORMATS = frozenset(
    "date-time time date duration email hostname ipv4 ipv6 uuid".split()
)

OPENAI = Dialect(
    limits=frozenset(
        "pattern minimum maximum exclusiveMinimum exclusiveMaximum multipleOf "
        "minItems maxItems".split()
    ),
    formats=_FORMATS,
    all_required=True,
    recursive=True,
)

ANTHROPIC = Dialect(
    limits=frozenset(),
    formats=_FORMATS | {"uri"},
    all_required=False,
    recursive=False,
)

_KEPT = frozenset("type title description enum const $ref".split())
_DROPPED = frozenset("default examples discriminator $schema $id".split())
_STRUCTURE = frozenset(
    "properties required additionalProperties items anyOf oneOf allOf $defs".split()
)
_REFUSED = frozenset(
    "not if then else patternProperties propertyNames prefixItems contains "
    "dependentRequired dependentSchemas unevaluatedProperties definitions "
    "unevaluatedItems additionalItems $dynamicRef".split()
)


class _NoStrictFormError(Exception):
    """The schema says something that the dialect cannot."""


def strict_schema(schema: Schema, dialect: Dialect) -> Schema | None:
    """Return `schema` as the provider enforces it, None if it has no such form.

    Args:
        schema: A JSON schema; it is left as it is.
        dialect: What the provider enforces.

    Returns:
        A new schema. An answer that fits it has the structure `schema` asks for.
    """
    schema = _at_root(schema)
    if schema.get("type") != "object" or {"anyOf", "oneOf"} & schema.keys():
        return None
    if not dialect.recursive and _is_recursive(schema):
        return None
    try:
        return _strict(schema, dialect)
    except _NoStrictFormError:
        return None


def _at_root(schema: Schema) -> Schema:
    """The schema with the definition that its root refers to, in its place."""
    definitions = schema.get("$defs", {})
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    if name not in definitions:
        return schema
    outer = {key: value for key, value in schema.items() if key != "$ref"}
    return {**definitions[name], **outer}


def _strict(schema: Any, dialect: Dialect) -> Schema:
    """The strict form of one schema, parts included."""
    if not isinstance(schema, dict) or _REFUSED & schema.keys():
        raise _NoStrictFormError
    only = schema.get("allOf", ())
    if only:
        if len(only) != 1 or not isinstance(only[0], dict):
            raise _NoStrictFormError
        outer = {key: schema[key] for key in schema if key != "allOf"}
        return _strict({**only[0], **outer}, dialect)
    if not {"type", "anyOf", "oneOf", "$ref", "enum", "const"} & schema.keys():
        raise _NoStrictFormError
    strict = {key: value for key, value in schema.items() if key in _KEPT}
    _set_structure(schema, strict, lambda part: _strict(part, dialect), dialect)
    _set_limits(schema, strict, dialect)
    return _alone(strict)


def _set_structure(
    schema: Schema,
    strict: Schema,
    convert: Callable[[Any], Schema],
    dialect: Dialect,
) -> None:
    """Convert what nests: definitions, branches, items, properties."""
    if "$defs" in schema:
        strict["$defs"] = {k: convert(v) for k, v in schema["$defs"].items()}
    if "oneOf" in schema and "discriminator" not in schema:
        raise _NoStrictFormError
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        strict["anyOf"] = [convert(branch) for branch in branches]
    if "items" in schema:
        strict["items"] = convert(schema["items"])
    elif schema.get("type") == "array":
        raise _NoStrictFormError
    if schema.get("type") == "object":
        _set_properties(schema, strict, convert, dialect)


def _set_properties(
    schema: Schema,
    strict: Schema,
    convert: Callable[[Any], Schema],
    dialect: Dialect,
) -> None:
    """Close an object and convert its properties."""
    properties = schema.get("properties")
    if properties is None or schema.get("additionalProperties", False) is not False:
        raise _NoStrictFormError
    strict["properties"] = {key: convert(part) for key, part in properties.items()}
    required = properties if dialect.all_required else schema.get("required", ())
    strict["required"] = list(required)
    strict["additionalProperties"] = False


def _set_limits(schema: Schema, strict: Schema, dialect: Dialect) -> None:
    """Keep the limits that the dialect knows; describe the others."""
    described = []
    for key, value in schema.items():
        if key in _KEPT or key in _STRUCTURE or key in _DROPPED:
            continue
        known = value in dialect.formats if key == "format" else key in dialect.limits
        if known:
            strict[key] = value
        else:
            described.append(f"{key}: {value}")
    if described:
        text = "{" + ", ".join(described) + "}"
        strict["description"] = "\n\n".join(
            filter(None, [strict.get("description"), text])
        )


def _alone(strict: Schema) -> Schema:
    """Give a ``$ref`` with neighbours a schema of its own."""
    if "$ref" not in strict or strict.keys() <= {"$ref", "$defs"}:
        return strict
    rest = {key: value for key, value in strict.items() if key != "$ref"}
    return {**rest, "anyOf": [{"$ref": strict["$ref"]}]}


def _is_recursive(schema: Schema) -> bool:
    """Whether following the references of `schema` comes back to one of them."""
    definitions = schema.get("$defs", {})
    edges = {f"#/$defs/{name}": _refs(part) for name, part in definitions.items()}
    edges["#"] = _refs({k: v for k, v in schema.items() if k != "$defs"})
    while leaves := [name for name in edges if not edges[name] & edges.keys()]:
        for name in leaves:
            del edges[name]
    return bool(edges)


def _refs(value: Any) -> set[str]:
    """The references anywhere inside a schema."""
    found: set[str] = set()
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                found.add(part["$ref"])
            todo.extend(part.values())
        elif isinstance(part, list):
            todo.extend(part)
    return found
