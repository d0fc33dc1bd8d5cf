"""A key changes when, and only when, what it is made of changes."""

import copy
import random
from base64 import b64encode
from dataclasses import fields, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from inf_engine.journal.codec import (
    canonical_request,
    decode_request,
    decode_response,
    encode_response,
)
from inf_engine.journal.identity import identity_of
from inf_engine.journal.keys import cache_key, call_key
from inf_engine.types import (
    ImagePart,
    LLMRequest,
    LLMResponse,
    Message,
    ResponseSchema,
    TextPart,
    ToolCall,
    ToolSpec,
    Usage,
)

ANY_TEXT = st.text(st.characters(), max_size=6)  # lone surrogates too
TEXT = st.text("ab:1\0\ud83d\ude00é", max_size=4) | ANY_TEXT
WHOLE = st.integers(0, 5)
NUMBER = st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | NUMBER | TEXT,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2)
    ),
    max_leaves=4,
)
SCHEMA = st.dictionaries(TEXT, JSON, max_size=2)
CALLS = st.lists(st.builds(ToolCall, TEXT, TEXT, TEXT), max_size=2).map(tuple)
ENCODED = st.binary(max_size=3).map(lambda data: b64encode(data).decode())
PART = st.builds(TextPart, TEXT) | st.builds(ImagePart, TEXT, ENCODED, TEXT)
MESSAGE = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    TEXT | st.lists(PART, max_size=2).map(tuple),
    CALLS,
    TEXT,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(MESSAGE, max_size=2).map(tuple),
    "model": TEXT,
    "temperature": st.none() | NUMBER,
    "top_p": st.none() | NUMBER,
    "max_tokens": st.none() | WHOLE,
    "stop": st.lists(TEXT, max_size=2).map(tuple),
    "seed": st.none() | st.integers(),
    "tools": st.lists(st.builds(ToolSpec, TEXT, TEXT, SCHEMA), max_size=2).map(tuple),
    "response_schema": st.none() | st.builds(ResponseSchema, TEXT, SCHEMA),
}
REQUEST = st.builds(LLMRequest, **FIELDS)
RESPONSE = st.builds(
    LLMResponse,
    text=TEXT,
    tool_calls=CALLS,
    reasoning=TEXT,
    finish_reason=st.sampled_from(["stop", "length", "unknown"]),
    usage=st.builds(Usage, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE),
    model=TEXT,
    id=TEXT,
    seconds=NUMBER,
    cost=st.none() | NUMBER,
)
CALL = st.tuples(TEXT, REQUEST, TEXT, TEXT, WHOLE)
INPUT = st.recursive(
    st.none() | st.booleans() | WHOLE | NUMBER | TEXT | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXT | WHOLE, inner, max_size=3)
        | st.sets(TEXT, max_size=3)
    ),
    max_leaves=8,
)


def test_no_field_is_forgotten() -> None:
    """A field that is added to a request has a strategy here."""
    assert set(FIELDS) == {f.name for f in fields(LLMRequest)}


def shuffled(value: Any) -> Any:
    """Return a copy with every dict and set built in another order."""
    if isinstance(value, dict):
        items = [(k, shuffled(v)) for k, v in value.items()]
        random.Random(len(items)).shuffle(items)
        return dict(items)
    if isinstance(value, set):
        again: set[Any] = set()
        for item in sorted(value, reverse=True):
            again |= {item}
        return again
    if isinstance(value, list | tuple):
        return type(value)(shuffled(item) for item in value)
    return copy.deepcopy(value)


def exact(value: Any) -> str:
    """Return a text that is the same for the same value only, type and all."""
    if isinstance(value, dict):
        return f"dict {sorted((exact(k), exact(v)) for k, v in value.items())}"
    if isinstance(value, set):
        return f"set {sorted(map(exact, value))}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} {[exact(item) for item in value]}"
    return f"{type(value).__name__} {value!r}"


@given(REQUEST)
def test_a_request_comes_back(request: LLMRequest) -> None:
    """Written and read, any request is equal, its images named; its text is UTF-8."""
    text = canonical_request(request)
    text.encode()
    assert decode_request(text) == named(request)


def named(request: LLMRequest) -> LLMRequest:
    """A request with the digests of its images in the place of their contents."""

    def name(part: Any) -> Any:
        if not isinstance(part, ImagePart) or part.url or not part.data:
            return part
        return ImagePart(f"inf-image:{part.digest}", media_type=part.media_type)

    messages = [
        m
        if isinstance(m.content, str)
        else replace(m, content=(*map(name, m.content),))
        for m in request.messages
    ]
    return replace(request, messages=tuple(messages))


@given(RESPONSE)
def test_an_answer_comes_back(response: LLMResponse) -> None:
    """Written and read, any answer is equal, and its text is UTF-8."""
    text = encode_response(response)
    text.encode()
    assert decode_response(text) == response


@given(CALL)
def test_equal_calls_have_equal_keys(call: tuple[Any, ...]) -> None:
    """A request that is built again, its dicts in another order, has the same key."""
    path, request, model, input_id, number = call
    specs = [replace(t, parameters=shuffled(t.parameters)) for t in request.tools]
    again = replace(copy.deepcopy(request), tools=tuple(specs))
    assert call_key(*call) == call_key(path, again, model, input_id, number)
    assert cache_key(request, model, number) == cache_key(again, model, number)


@given(REQUEST, st.sampled_from(sorted(FIELDS)), st.data())
def test_every_field_changes_the_key(
    request: LLMRequest, name: str, data: st.DataObject
) -> None:
    """A request that differs in one field has another key, and no other has."""
    other = replace(request, **{name: data.draw(FIELDS[name])})
    same = canonical_request(other) == canonical_request(request)
    if other != request:
        assert not same
    keys = [call_key("a", r, "m", "i", 0) for r in (request, other)]
    assert (keys[0] == keys[1]) == same
    hits = [cache_key(r, "m", 0) for r in (request, other)]
    assert (hits[0] == hits[1]) == same


@given(
    st.lists(
        st.tuples(TEXT, st.sampled_from(["", "a", "{}"]), TEXT, TEXT, WHOLE), max_size=8
    )
)
def test_only_equal_calls_have_equal_keys(calls: list[Any]) -> None:
    """Texts that run together into one are told apart."""
    keys = {call_key(*call) for call in calls}
    assert len(keys) == len(set(calls))


@given(st.text("ab", max_size=6), st.integers(0, 6), st.integers(0, 6))
def test_moving_a_boundary_changes_the_key(text: str, i: int, j: int) -> None:
    """The same letters, cut elsewhere into path and model, are another call."""
    i, j = min(i, len(text)), min(j, len(text))
    one = call_key(text[:i], "{}", text[i:], "", 0)
    other = call_key(text[:j], "{}", text[j:], "", 0)
    assert (one == other) == (i == j)


@given(INPUT)
def test_equal_inputs_have_one_identity(value: Any) -> None:
    """A copy in another order is the same input."""
    assert identity_of((value,), {}) == identity_of((shuffled(value),), {})


@given(INPUT, INPUT)
def test_only_equal_inputs_have_one_identity(one: Any, other: Any) -> None:
    """Inputs of another type or content are told apart."""
    same = identity_of((one,), {}) == identity_of((other,), {})
    assert same == (exact(one) == exact(other))
