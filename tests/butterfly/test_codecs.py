"""Codecs: f32 is exact, the others keep to what they promise."""

import pytest

torch = pytest.importorskip("torch")

from butterfly.communication.codecs import CODECS, Plain, codec_number  # noqa: E402
from butterfly.communication.frames import SEGMENT_BYTES  # noqa: E402
from butterfly.errors import ConfigurationError  # noqa: E402
from butterfly.partitioning.codec import CODECS as PRICES  # noqa: E402
from butterfly.partitioning.problem import (  # noqa: E402
    SEGMENT_BYTES as SEGMENT_PRICE,
)


def states(rows: int = 5, hidden: int = 64) -> "torch.Tensor":
    """Hidden states with two channels far larger than the rest."""
    torch.manual_seed(1)
    found = torch.randn(rows, hidden)
    found[:, 3] *= 300
    found[:, 17] *= 90
    return found


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_the_size_is_known_before(codec: Plain, rows: int) -> None:
    """Receives are posted for it."""
    data = codec.encode(states(rows)) if rows else b""
    assert len(data) == rows * codec.row_bytes(64)


def test_the_planner_pays_what_the_wire_costs() -> None:
    """The price of a row is its bytes, for every codec; so is that of a segment."""
    assert list(PRICES) == [codec.name for codec in CODECS]
    for codec in CODECS:
        for hidden in (64, 4096):
            row = PRICES[codec.name].size(hidden, 1)
            assert row == codec.row_bytes(hidden)
    assert SEGMENT_PRICE == SEGMENT_BYTES


@pytest.mark.parametrize(
    ("name", "worst"), [("f32", 0.0), ("f16", 5e-4), ("int8", 5e-4)]
)
def test_what_comes_back_is_near(name: str, worst: float) -> None:
    """The large channels within f16; the small ones within half a step of int8."""
    codec, plain = CODECS[codec_number(name)], states()
    back = codec.decode(codec.encode(plain), 5, torch.float32)
    error = (back - plain).abs()
    large = plain.abs() > 10
    assert (error[large] <= worst * plain.abs()[large]).all()
    rest = 3.5 / 127 / 2 if name == "int8" else 10 * worst
    assert (error[~large] <= rest).all()


def test_without_outliers_apart_int8_would_be_useless() -> None:
    """The largest channel's scale leaves the rest no more than a step or two."""
    from butterfly.communication.codecs import Int8  # noqa: PLC0415

    plain = states()
    small = plain.abs() < 10
    errors = []
    for codec in (Int8(outliers=1), Int8(outliers=4)):
        back = codec.decode(codec.encode(plain), 5, torch.float32)
        errors.append(float((back - plain)[small].square().mean()))
    assert errors[0] > 100 * errors[1]


def test_zeros_and_huge_numbers_survive() -> None:
    """No division by zero; what f16 cannot hold is as large as it can hold."""
    codec = CODECS[codec_number("int8")]
    assert codec.decode(codec.encode(torch.zeros(2, 8)), 2, torch.float32).eq(0).all()
    huge = torch.full((1, 8), 1e6)
    assert torch.isfinite(codec.decode(codec.encode(huge), 1, torch.float32)).all()


def test_an_unknown_codec_is_refused() -> None:
    """The known ones are named."""
    with pytest.raises(ConfigurationError, match="unknown codec 'f8': name one of"):
        codec_number("f8")
