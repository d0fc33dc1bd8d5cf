"""The data between the floors: what it takes and what it makes of it."""

import json
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import pytest

from inf_engine.types import ToolCall, Usage


@pytest.mark.parametrize("kind", [dict, MappingProxyType])
def test_the_arguments_of_a_tool_call_may_be_a_mapping(kind: Any) -> None:
    """They become JSON text; text stays as it came."""
    given = {"city": "Zürich", "days": [1, 2]}
    call = ToolCall("1", "weather", kind(given))
    assert json.loads(call.arguments) == given
    assert call == ToolCall("1", "weather", '{"city": "Zürich", "days": [1, 2]}')
    assert ToolCall("1", "weather", "{ not json").arguments == "{ not json"


def test_usages_add_up() -> None:
    """Every field is summed."""
    names = [field.name for field in fields(Usage)]
    one, two = Usage(*range(1, 7)), Usage(*range(10, 70, 10))
    assert [getattr(one + two, name) for name in names] == [11, 22, 33, 44, 55, 66]
    assert Usage.total([one, two]) == one + two
    assert Usage.total([]) == Usage()
