"""Calls of functions in the text of answers, and in conversations."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butterfly.api.calls import CallReader
from butterfly.api.grammar import Grammar, grammar_of
from butterfly.api.messages import plain_messages
from butterfly.api.refusals import Refusal
from butterfly.api.tokenizer import Tokenizer
from butterfly.api.tools import Toolbox, toolbox_of
from butterfly.engine.weights import Checkpoint

SCHEMA = {
    "type": "object",
    "properties": {"size": {"$ref": "#/$defs/size"}},
    "required": ["size"],
    "additionalProperties": False,
    "$defs": {"size": {"enum": ["big", "small"]}},
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "grow", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "stop"}},
]
GROW = '{"name": "grow", "arguments": {"size": "big"}}'
STOP = '{"name": "stop", "parameters": {}}'


def read(text: str, *cuts: int, single: bool = False) -> tuple[str, list[Any]]:
    """Return what is said and called by a text that comes in parts."""
    reader = CallReader(["grow", "stop"], is_single=single)
    places = [0, *sorted(cuts), len(text)]
    said, calls = "", []
    for number, (a, b) in enumerate(zip(places, places[1:], strict=False)):
        told, found = reader.feed(text[a:b], is_last=number == len(places) - 2)
        said += told
        calls += [(call.name, json.loads(call.arguments)) for call in found]
    return said, calls


BIG, END = ("grow", {"size": "big"}), ("stop", {})
READ: list[tuple[str, str, list[Any]]] = [
    ("just text, {not} <tools>", "just text, {not} <tools>", []),
    (f"<tool_call>\n{GROW}\n</tool_call>", "", [BIG]),
    (f"I will.\n<tool_call>{GROW}</tool_call>\n", "I will.", [BIG]),
    (
        f"<tool_call>{GROW}</tool_call>\n<tool_call>{STOP}</tool_call> ok",
        "ok",
        [BIG, END],
    ),
    (f"a <tool_call>{GROW}", "a", [BIG]),  # some models end so
    (f"  {STOP}\n", "", [END]),
    (f"<|python_tag|>{GROW}; {STOP}", "", [BIG, END]),
    (f"{GROW} and more", f"{GROW} and more", []),
    ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', []),
    ('{"size": "big"}', '{"size": "big"}', []),
    ("<tool_call>{broken</tool_call> x", "<tool_call>{broken</tool_call> x", []),
    ('<tool_call>{"name": "gr', '<tool_call>{"name": "gr', []),
    ("ends with <tool", "ends with <tool", []),
    ("  space around  ", "  space around  ", []),
    (
        '{"name": "stop", "arguments": {"x": NaN}}',
        '{"name": "stop", "arguments": {"x": NaN}}',
        [],
    ),
    (
        '{"name": "stop", "arguments": {"x": "\\ud800"}}',
        '{"name": "stop", "arguments": {"x": "\\ud800"}}',
        [],
    ),
]


@given(st.sampled_from(READ), st.lists(st.integers(0, 99), max_size=9))
def test_calls_are_found_however_the_text_comes(
    case: tuple[str, str, list[Any]], cuts: list[int]
) -> None:
    """In both forms; all else stays text."""
    text, said, calls = case
    assert read(text, *[min(cut, len(text)) for cut in cuts]) == (said, calls)


def test_text_is_told_as_soon_as_it_is_no_call() -> None:
    """Only what may begin a call waits."""
    reader = CallReader(["stop"])
    assert reader.feed("Hello <b", is_last=False) == ("Hello <b", ())
    assert reader.feed("><tool_", is_last=False) == (">", ())
    assert reader.feed("x", is_last=False) == ("<tool_x", ())


def test_one_call_is_enough_if_told_so() -> None:
    """As `parallel_tool_calls` has it."""
    text = f"<tool_call>{GROW}</tool_call>\n" * 2
    assert read(text, 40, single=True) == ("", [BIG])
    assert read(f"{GROW};{STOP}", single=True) == ("", [BIG])


def box(choice: Any = "required", *, single: bool = True) -> Toolbox:
    """Return functions that an answer must call."""
    found = toolbox_of(TOOLS, choice, is_single=single)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    """The tokenizer of the tiny model."""
    return Tokenizer(model, Checkpoint(model).config())


def follows(tokenizer: Tokenizer, grammar: str, text: str) -> bool:
    """Say whether a whole text follows a grammar."""
    matcher = Grammar(tokenizer.native, grammar)._matcher
    return bool(
        matcher.consume_tokens(tokenizer.encode(text)) and matcher.is_accepting()
    )


def test_the_grammar_of_calls(tokenizer: Tokenizer) -> None:
    """Arguments have the form of their function; schemas keep their own refs."""
    tagged = grammar_of(None, box())
    assert follows(tokenizer, tagged, f"<tool_call>\n{GROW}\n</tool_call>")
    none = STOP.replace("parameters", "arguments")
    assert follows(tokenizer, tagged, f"<tool_call>\n{none}\n</tool_call>")
    wrong = GROW.replace("big", "huge")
    assert not follows(tokenizer, tagged, f"<tool_call>\n{wrong}\n</tool_call>")
    two = f"<tool_call>\n{GROW}\n</tool_call>\n" * 2
    assert not follows(tokenizer, tagged, two[:-1])
    assert follows(tokenizer, grammar_of(None, box(single=False)), two[:-1])
    bare = grammar_of(None, box(), is_tagged=False)
    assert follows(tokenizer, bare, STOP) and not follows(tokenizer, bare, none)
    named = {"type": "function", "function": {"name": "grow"}}
    bare = grammar_of(None, box(named), is_tagged=False)
    assert not follows(tokenizer, bare, STOP)
    assert follows(tokenizer, bare, GROW.replace("arguments", "parameters"))


def test_a_form_or_a_call(tokenizer: Tokenizer) -> None:
    """With auto an answer of a form may be a call instead; it need not."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    both = grammar_of(form, box("auto"))
    assert follows(tokenizer, both, '{"a": 3}')
    assert follows(tokenizer, both, f"<tool_call>\n{GROW}\n</tool_call>")
    assert not follows(tokenizer, both, "text")
    assert grammar_of(None, box("auto")) == ""
    with pytest.raises(Refusal, match="leave out 'response_format'"):
        grammar_of(form, box())


def test_templates_get_tools_and_objects(tokenizer: Tokenizer) -> None:
    """Arguments as objects, results as messages, functions as they were sent."""
    call = {"id": "1", "type": "function", "function": json.loads(GROW)}
    call["function"]["arguments"] = '{"size": "big"}'
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "go"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    inner = tokenizer._inner
    kept = inner.chat_template
    inner.chat_template = (
        "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}"
        "{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls %}!{{ c.function.arguments.size }}{% endfor %};"
        "{% endfor %}"
    )
    try:
        known = tokenizer.decode(tokenizer.chat(messages, tools=box("auto")))
        assert not tokenizer.is_tagged
    finally:
        inner.chat_template = kept
    assert known == "[grow][stop]user:go;assistant:!big;tool:done;"
    text = tokenizer.decode(
        tokenizer.chat(messages, tools=box("auto")), skip_special=False
    )
    assert tokenizer.is_tagged
    assert text.startswith("<|system|>You may call functions.")
    assert '"size"' in text and '"stop"' in text
    assert f"<tool_call>\n{GROW}\n</tool_call><|end|>" in text
    assert "<|user|><tool_response>\ndone\n</tool_response><|end|>" in text


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "assistant", "content": None}, "must be a text"),
        ({"role": "assistant", "tool_calls": [{}]}, "no arguments that are a JSON"),
        (
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "a", "arguments": "["}}],
            },
            "no arguments that are a JSON",
        ),
        ({"role": "assistant", "tool_calls": "a"}, "must be a list"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]},
            "has no name",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            r"messages\[0\] has content of type 'image_url': only text",
        ),
    ],
)
def test_bad_messages_are_refused(message: dict[str, Any], said: str) -> None:
    """By their place."""
    with pytest.raises(Refusal, match=said):
        plain_messages([message])


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        (None, "required", "'tool_choice' needs 'tools'"),
        ([{"type": "web_search"}], None, r"tools\[0\] is no function"),
        ([{"type": "function", "function": {"name": "a b"}}], None, "1 to 64 letters"),
        (TOOLS * 2, None, "there are two functions 'grow'"),
        (
            [{"type": "function", "function": {"name": "a", "parameters": 3}}],
            None,
            "must be a JSON schema",
        ),
        (TOOLS, "always", "tool_choice 'always' is not known"),
        (
            TOOLS,
            {"type": "function", "function": {"name": "fly"}},
            "names 'fly', and 'tools' has 'grow', 'stop'",
        ),
    ],
)
def test_bad_tools_are_refused(tools: Any, choice: Any, said: str) -> None:
    """With what is wrong, and what there is."""
    with pytest.raises(Refusal, match=said):
        toolbox_of(tools, choice)


def test_no_tools_are_none() -> None:
    """None, an empty list, and the choice of none."""
    assert toolbox_of(None, None) is toolbox_of([], "auto") is None
    assert toolbox_of(TOOLS, "none") is None
