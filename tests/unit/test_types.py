"""The data between the floors: what it takes and what it makes of it."""

import json
from types import MappingProxyType
from typing import Any

import pytest

from inf_engine.types import ToolCall


@pytest.mark.parametrize("kind", [dict, MappingProxyType])
def test_the_arguments_of_a_tool_call_may_be_a_mapping(kind: Any) -> None:
    """They become JSON text; text stays as it came."""
    given = {"city": "Zürich", "days": [1, 2]}
    call = ToolCall("1", "weather", kind(given))
    assert json.loads(call.arguments) == given
    assert call == ToolCall("1", "weather", '{"city": "Zürich", "days": [1, 2]}')
    assert ToolCall("1", "weather", "{ not json").arguments == "{ not json"
