"""What the loopback server says: the two ways to say a plain text."""

import json
from typing import Any

import pytest

from inf_engine.testing.replies import as_response, openai_body, openai_text


@pytest.mark.parametrize("text", ["", "plain", '%s "quoted" %d', "@text @id 1001", "é"])
@pytest.mark.parametrize("model", ["m", "@id%", None])
def test_the_short_way_says_the_same(text: str, model: str | None) -> None:
    """A plain text is answered in a cheaper way, with the same JSON."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "one two"}]}
    if model is not None:
        body["model"] = model
    data, tokens = openai_text(text, body, 5)
    response = as_response(text, body, 5)
    assert json.loads(data) == openai_body(response)
    assert tokens == response.usage.total_tokens
    assert list(json.loads(data)) == list(openai_body(response))
