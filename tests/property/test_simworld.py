"""What holds in every simulated world, whatever it is asked."""

import json
from typing import Any

from benchmarks.simworld import FAMILIES, World
from hypothesis import given, settings
from hypothesis import strategies as st

WORLDS = {family: World(family, 1) for family in FAMILIES}
worlds = st.sampled_from(list(WORLDS))
schemas = st.recursive(
    st.sampled_from(
        [
            {"type": "string"},
            {"type": "integer", "minimum": 2},
            {"type": "number"},
            {"type": "boolean"},
            {"type": ["string", "null"]},
            {"enum": ["add", "remove"]},
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
        ]
    ),
    lambda inner: (
        inner.map(lambda items: {"type": "array", "items": items, "minItems": 1})
        | st.dictionaries(
            st.sampled_from(["reasoning", "prompt", "edits", "name", "desk", "old"]),
            inner,
            min_size=1,
        ).map(lambda fields: {"type": "object", "properties": fields})
    ),
    max_leaves=6,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a family and a text made of what optimizers put together."""
    family = draw(worlds)
    world = WORLDS[family]
    pieces = [*world.start_prompts().values(), "```", "<a>", "</a>", '{"x": "', "\\n"]
    pieces += [example.text for example in world.train[:3]]
    pieces += [world.train[0].expected, "What did not help:", "Give feedback.", "json"]
    pieces += [rule.sentence() for rule in world.book.rules[:4]]
    parts = st.sampled_from(pieces) | st.text(max_size=20)
    return family, "\n".join(draw(st.lists(parts, max_size=12)))


def asked(model: str, text: str, **fields: Any) -> dict[str, Any]:
    """Return a request of one message."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


@given(requests(), st.sampled_from(["task", "reflector"]))
@settings(max_examples=60)
def test_any_text_has_one_answer(request: tuple[str, str], model: str) -> None:
    """Whatever is asked, there is an answer, and it is the same in an equal world."""
    family, text = request
    first = WORLDS[family].reply(asked(model, text))
    assert WORLDS[family].reply(asked(model, text)) == first
    assert World(family, 1).reply(asked(model, text)) == first


@given(requests())
@settings(max_examples=60)
def test_no_right_mark_from_nowhere(request: tuple[str, str]) -> None:
    """The reflector names no right mark that the request does not."""
    family, text = request
    reply = WORLDS[family].reply(asked("reflector", text))
    known = [rule.mark for rule in WORLDS[family].book.rules if rule.mark in text]
    named = [rule.mark for rule in WORLDS[family].book.rules if rule.mark in reply]
    assert [mark for mark in named if mark not in known] == []


@given(requests(), schemas)
@settings(max_examples=60)
def test_an_answer_fits_its_schema(
    request: tuple[str, str], schema: dict[str, Any]
) -> None:
    """An object is answered with the fields and the kinds that it asks for."""
    family, text = request
    whole = {"type": "object", "properties": {"value": schema}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": whole}}
    reply = WORLDS[family].reply(asked("reflector", text, response_format=wanted))
    assert fits(json.loads(reply), whole)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Say whether a value is what one of the schemas above asks for."""
    if "anyOf" in schema:
        return any(fits(value, option) for option in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    python = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
    if kinds == ["object"]:
        fields = schema["properties"]
        return set(value) == set(fields) and all(
            fits(value[name], part) for name, part in fields.items()
        )
    if kinds == ["array"]:
        return len(value) >= 1 and all(fits(item, schema["items"]) for item in value)
    return any(kind == "null" or isinstance(value, python[kind]) for kind in kinds)


@given(worlds, st.sets(st.integers(0, 9)), st.integers(0, 9))
def test_a_rule_more_never_hurts(family: str, stated: set[int], more: int) -> None:
    """Stating one more rule, in every stage, gives a score that is not lower."""
    world = WORLDS[family]

    def score(numbers: set[int]) -> float:
        rules = [rule for rule in world.book.rules if rule.id in numbers]
        said = "\n".join(rule.sentence() for rule in rules) or "Be kind."
        return world.true_score(dict.fromkeys(world.family.stages, said))

    assert score(stated | {more}) >= score(stated)
