"""Frames: what is written is what is read, and nothing else is."""

import dataclasses

import pytest

pytest.importorskip("numpy")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from butterfly.communication.frames import (  # noqa: E402
    Frame,
    Hop,
    Kind,
    Sampling,
    Segment,
    largest,
)
from butterfly.errors import FrameError  # noqa: E402

COUNTS = st.integers(0, 2**31 - 1)
SHARES = st.floats(0.0, 1.0, width=32)
SAMPLINGS = st.builds(
    Sampling,
    SHARES,
    SHARES,
    COUNTS,
    SHARES,
    st.integers(0, 2**64 - 1),
    st.none() | st.integers(0, 20),
)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    """Any segment."""
    length = draw(st.integers(0, 4))
    targets = draw(st.lists(st.integers(-1, 999), min_size=length, max_size=length))
    drafts = st.lists(st.integers(0, 999), max_size=max(0, length - 1))
    return Segment(
        *(draw(COUNTS), draw(COUNTS), length, draw(COUNTS)),
        *(draw(st.integers(-1, 99)), draw(COUNTS), draw(st.booleans())),
        draw(SAMPLINGS),
        tuple(targets) if draw(st.booleans()) else (),
        tuple(draw(drafts)),
        draw(st.binary(max_size=9)),
        draw(st.binary(max_size=9)),
    )


FRAMES = st.builds(
    Frame,
    st.just(7),
    COUNTS,
    st.lists(segments(), max_size=5).map(tuple),
    st.sampled_from(Kind),
    st.binary(max_size=64),
    st.integers(0, 255),
    st.lists(st.builds(Hop, COUNTS, COUNTS, COUNTS), max_size=3).map(tuple),
)


@given(FRAMES, st.binary(max_size=16))
def test_a_frame_comes_back_as_it_was(frame: Frame, rest: bytes) -> None:
    """Whatever follows it in the buffer; its size is known before."""
    data = frame.encode()
    assert len(data) == frame.nbytes
    assert Frame.decode(data + rest, 7) == frame


@given(FRAMES, st.integers(0, 200))
def test_a_cut_frame_is_refused(frame: Frame, size: int) -> None:
    """Wherever it is cut."""
    data = frame.encode()
    if size < len(data):
        with pytest.raises(FrameError, match="no frame|damaged"):
            Frame.decode(data[:size], 7)


def test_strangers_are_refused() -> None:
    """Other bytes, another version, another epoch, rows that do not add up."""
    frame = Frame(7, 1, (Segment(0, 0, 2),), Kind.TOKENS, b"12345678")
    data = frame.encode()
    with pytest.raises(FrameError, match="is no frame"):
        Frame.decode(b"x" * 100, 7)
    with pytest.raises(FrameError, match="of epoch 7 came in epoch 8"):
        Frame.decode(data, 8)
    with pytest.raises(FrameError, match="of version 9 came, and this is version 3"):
        Frame.decode(data[:4] + b"\x09" + data[5:], 7)
    negative = dataclasses.replace(frame, segments=(Segment(-1, 0, 2),)).encode()
    with pytest.raises(FrameError, match="rows do not add up"):
        Frame.decode(negative, 7)


def test_a_token_takes_8_bytes_on_its_way_back() -> None:
    """Beside the header of the frame that brings them all."""
    from butterfly.engine.sampling import Drawn, pack  # noqa: PLC0415 - torch

    assert len(pack([Drawn(3, 17), Drawn(4, 9)])) == 16


def test_the_largest_frame_has_room_for_any_other() -> None:
    """With as many segments, rows and bytes."""
    parts = tuple([Segment(k, 0, 4, targets=(1,) * 4) for k in range(3)])
    frame = Frame(7, 1, parts, Kind.HIDDEN, bytes(12 * 64), hops=(Hop(1, 1, 1),) * 9)
    assert frame.nbytes <= largest(3, 12, 64)
