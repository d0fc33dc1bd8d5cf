"""Tokens into text, as they come."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butterfly.api.text import TextStream


def by_bytes(tokens: Sequence[int]) -> str:
    """Return the text of tokens that are bytes."""
    return bytes(tokens).decode("utf-8", "replace")


def by_fallback(tokens: Sequence[int]) -> str:
    """Return the text of tokens that are bytes, where one bad byte spoils them all.

    So a tokenizer with byte fallback does it.
    """
    try:
        return bytes(tokens).decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(tokens)


@pytest.mark.parametrize("decode", [by_bytes, by_fallback])
@given(text=st.text(max_size=30))
def test_no_character_is_split(decode, text: str) -> None:  # noqa: ANN001
    """Each piece is whole characters; together they are the text."""
    stream = TextStream(decode)
    pieces = [stream.feed(byte) for byte in text.encode()]
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text
    assert "".join([*pieces, stream.end()]) == text
    joined = ""
    for piece, size in zip(pieces, range(1, len(pieces) + 1), strict=True):
        joined += piece
        whole = text.encode()[:size].decode("utf-8", "ignore")
        assert joined == whole or "\ufffd" in text


def test_bytes_that_are_no_text_are_sent_as_such() -> None:
    """They are not held for ever."""
    stream = TextStream(by_bytes)
    pieces = [stream.feed(0xFF) for _ in range(9)]
    assert len("".join(pieces)) > 3
    assert "".join([*pieces, stream.end()]) == "\ufffd" * 9


def test_half_a_character_at_the_end_is_sent_at_the_end() -> None:
    """As the sign for a broken character."""
    stream = TextStream(by_bytes)
    assert [stream.feed(byte) for byte in "aü".encode()[:2]] == ["a", ""]
    assert stream.end() == "\ufffd"


def test_the_space_after_the_prompt_is_kept() -> None:
    """A decoder that strips the first space sees the end of the prompt before it."""

    def stripping(tokens: Sequence[int]) -> str:
        return bytes(tokens).decode().removeprefix(" ")

    assert TextStream(stripping, b"The fox".hex().encode()).feed(ord(" ")) == " "


@given(
    text=st.text("abc", max_size=30),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    keeps=st.booleans(),
)
def test_text_ends_at_the_first_stop(text: str, stops: list[str], keeps: bool) -> None:
    """What was sent is what stands before the stop that is whole first."""
    stream = TextStream(by_bytes, stops=stops, keeps_stop=keeps)
    sent = ""
    for size, byte in enumerate(text.encode(), 1):
        sent += stream.feed(byte)
        seen = text[:size]
        found = [s for s in stops if s in seen]
        if found:
            place, _, stop = min((seen.index(s), -len(s), s) for s in found)
            assert stream.stopped == stop
            assert sent == seen[: place + len(stop) * keeps]
            assert stream.end() == ""
            return
        held = seen[len(sent) :]
        assert seen.startswith(sent)
        assert not held or any(stop.startswith(held) for stop in stops)
    assert sent + stream.end() == text
