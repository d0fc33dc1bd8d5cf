"""Requests and answers as JSON text."""

import json
from dataclasses import fields, replace
from hashlib import sha256
from typing import Any

import pytest

from inf_engine.errors import JournalError
from inf_engine.journal import codec
from inf_engine.journal.codec import (
    canonical_request,
    decode_request,
    decode_response,
    encode_response,
)
from inf_engine.types import (
    ImagePart,
    LLMRequest,
    LLMResponse,
    Message,
    Quota,
    RateHint,
    ResponseSchema,
    TextPart,
    ToolCall,
    ToolSpec,
    Usage,
)

PARTS = (TextPart("look"), ImagePart(url="https://x/y.png"), ImagePart(data="aGk="))

REQUESTS = {
    "empty": LLMRequest(()),
    "plain": LLMRequest((Message("system", "be brief"), Message("user", "hi"))),
    "parts": LLMRequest((Message("user", PARTS), Message("user", ()))),
    "odd parts": LLMRequest((Message("user", (ImagePart(), TextPart(""))),)),
    "tools": LLMRequest(
        (
            Message("assistant", "", (ToolCall("1", "f", '{"a": 1}'),)),
            Message("tool", "2", tool_call_id="1"),
        ),
        tools=(ToolSpec("f", "does", {"type": "object", "x": [1, 1.0, None, True]}),),
    ),
    "settings": LLMRequest(
        (Message("user", "hi"),),
        model="m",
        temperature=0.0,
        top_p=1.0,
        max_tokens=0,
        stop=("\n", ""),
        seed=2**70,
        response_schema=ResponseSchema("answer", {"properties": {"b": {}, "a": {}}}),
    ),
}
RESPONSES = {
    "empty": LLMResponse(),
    "no usage": LLMResponse(usage=Usage()),
    "full": LLMResponse(
        text="yes",
        tool_calls=(ToolCall("1", "f", "not JSON"), ToolCall("", "", "")),
        reasoning="because",
        finish_reason="tool_calls",
        usage=Usage(1, 2, 3, 4, 5),
        model="m-2",
        id="r-1",
        seconds=0.1 + 0.2,
        cost=0.0,
    ),
    "unicode": LLMResponse("é 漢 😀 \0 \u2028 \\ \" '"),
    "half characters": LLMResponse("\ud83d", reasoning="\ud83d\ude00 is not 😀"),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_request_comes_back(request_: LLMRequest) -> None:
    """A request that was written and read is equal; images by their digests."""
    read = decode_request(canonical_request(request_))
    assert canonical_request(read) == canonical_request(request_)
    if not any(image.data for image in request_.images):
        assert read == request_


def test_an_image_is_its_digest() -> None:
    """Its content is not in the text; another content is another text."""
    text = canonical_request(REQUESTS["parts"])
    assert f"inf-image:{sha256(b'hi').hexdigest()}" in text
    assert "aGk=" not in text
    other = LLMRequest((Message("user", (*PARTS[:2], ImagePart(data="aG8="))),))
    assert canonical_request(other) != text
    with pytest.raises(JournalError, match="whose data is no base64 text"):
        canonical_request(LLMRequest((Message("user", (ImagePart(data="%"),)),)))


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_an_answer_comes_back(response: LLMResponse) -> None:
    """An answer that was written and read is equal, and its text is UTF-8."""
    text = encode_response(response)
    assert decode_response(text) == response
    text.encode()


def test_a_text_that_looks_like_an_envelope() -> None:
    """A request that holds the envelope's own name is not mistaken for one."""
    spec = ToolSpec("f", "", {"wtf-8": "22"})
    request = LLMRequest((), tools=(spec,))
    assert decode_request(canonical_request(request)) == request


def test_the_canonical_text() -> None:
    """It is sorted, without whitespace, readable, and without what is the default."""
    request = LLMRequest((Message("user", "é"),), temperature=1, stop=("b",))
    assert canonical_request(request) == (
        '{"messages":[{"content":"é","role":"user"}],"stop":["b"],"temperature":1.0}'
    )
    assert canonical_request(LLMRequest(())) == '{"messages":[]}'
    assert encode_response(LLMResponse("é")) == '{"text":"é"}'


def test_equal_requests_have_one_text() -> None:
    """1 and 1.0, -0.0 and 0.0, the order of a dict, do not show."""
    one, other = ResponseSchema("s", {"a": 1, "b": 2}), ResponseSchema("s", {})
    other.schema.update(b=2, a=1)
    first = LLMRequest((), temperature=0.0, top_p=1.0, seed=1, response_schema=one)
    second = replace(first, temperature=-0.0, top_p=1, seed=True, response_schema=other)
    assert first == second
    assert canonical_request(first) == canonical_request(second)


def test_limits_are_not_kept() -> None:
    """What the headers said that minute is left out; the cost is kept."""
    hint = RateHint(requests=Quota(limit=5.0))
    back = decode_response(encode_response(LLMResponse("a", limits=hint, cost=0.5)))
    assert back.limits is None
    assert back.cost == 0.5


def records() -> list[Any]:
    """Return the tables of all types."""
    found = [value for value in vars(codec).values() if hasattr(value, "kinds")]
    assert len(found) >= 7
    return found


def test_every_field_is_in_the_tables() -> None:
    """A field that is added to a type is kept, or left out on purpose."""
    for record in records():
        names = {f.name for f in fields(record.cls)}
        assert names == {*record.kinds, *record.left_out}, record.cls


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"text": "a", "mood": "good"}, "it has a field that .* not know, 'mood'"),
        ({"usage": {"cents": 1}}, "its field 'usage' has a field .* 'cents'"),
        ({"x y": "a secret prompt"}, "not know, an unknown name"),
        ({"tool_calls": [{"id": "1"}]}, "its field 'tool_calls.0' has no 'name'"),
        ({"text": 5}, "its field 'text' is a int, not text"),
        ({"tool_calls": "abc"}, "its field 'tool_calls' is a str, not a tuple"),
        ({"usage": None}, "its field 'usage' is a NoneType, not an object"),
        ([], "it is a list, not an object"),
    ],
)
def test_an_answer_of_a_newer_version(value: Any, said: str) -> None:
    """What is not in the tables is refused, with its place; no text is repeated."""
    with pytest.raises(JournalError, match=said) as caught:
        decode_response(json.dumps(value))
    assert "install that version" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "\0", "[" * 100_000, '{"wtf-8":"x"}', '{"wtf-8":5}']
)
def test_a_damaged_answer(text: str) -> None:
    """What is not JSON is told as damage."""
    with pytest.raises(JournalError, match="an answer in the journal is damaged"):
        decode_response(text)
    with pytest.raises(JournalError, match="a request in the journal is damaged"):
        decode_request(text)


def test_an_answer_that_cannot_be_written() -> None:
    """A client that fills a field wrongly is told which."""
    wrong: Any = None
    text: Any = "text"
    with pytest.raises(JournalError, match="its field 'text' is a NoneType, not text"):
        encode_response(LLMResponse(text=wrong))
    call = ToolCall("1", "f", wrong)
    with pytest.raises(JournalError, match=r"'tool_calls\.0\.arguments' is a NoneType"):
        encode_response(LLMResponse(tool_calls=(call,)))
    with pytest.raises(JournalError, match="it is a str, not a LLMResponse"):
        encode_response(text)


def test_a_request_that_cannot_be_written() -> None:
    """A schema that is not JSON is refused, without its content."""
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    with pytest.raises(JournalError, match="nested too deep, or in itself"):
        canonical_request(LLMRequest((), tools=(ToolSpec("f", "", loop),)))
    secret: Any = {"secret": object(), 1: 2}
    with pytest.raises(JournalError, match="a value that JSON does not know") as caught:
        canonical_request(LLMRequest((), tools=(ToolSpec("f", "", secret),)))
    assert "secret" not in str(caught.value)
    with pytest.raises(JournalError, match="JSON does not know"):
        canonical_request(LLMRequest((), temperature=10**400))
