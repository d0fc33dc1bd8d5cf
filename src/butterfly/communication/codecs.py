"""Codecs: how hidden states are written for a link.

f32 is exact, and the default. The others are lossy: a link uses one only where it was
asked for, because its divergence was measured and found small enough.

A few channels of a transformer's hidden states are tens to hundreds of times larger
than the rest. One scale for a row of int8 then leaves the rest a few steps out of 255.
So `Int8` takes the largest channels of each row out first, and keeps them in f16.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from butterfly.errors import ConfigurationError


class Codec(Protocol):
    """Writes hidden states, and reads them."""

    @property
    def name(self) -> str:
        """What it is called in plans and options."""
        ...

    def row_bytes(self, hidden: int) -> int:
        """Return the most bytes that a row takes."""
        ...

    def encode(self, states: torch.Tensor) -> bytes:
        """Return `[rows, hidden]` as bytes."""
        ...

    def decode(
        self, data: bytes | memoryview, rows: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """Return bytes as `[rows, hidden]`."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """Numbers as they are, in a floating-point format.

    Args:
        name: What it is called.
        dtype: The format.
    """

    name: str
    dtype: torch.dtype

    def row_bytes(self, hidden: int) -> int:
        """Return how many bytes a row takes.

        Args:
            hidden: How many numbers a row has.
        """
        return hidden * self.dtype.itemsize

    def encode(self, states: torch.Tensor) -> bytes:
        """Return hidden states as bytes.

        Args:
            states: `[rows, hidden]`.
        """
        return _bytes(states.to("cpu", self.dtype))

    def decode(
        self, data: bytes | memoryview, rows: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """Return bytes as hidden states.

        Args:
            data: What `encode` gave.
            rows: How many rows.
            dtype: Of the numbers that are returned.
        """
        plain = torch.frombuffer(bytearray(data), dtype=self.dtype)
        return plain.view(rows, -1).to(dtype)


@dataclass(frozen=True, slots=True)
class Int8:
    """A byte a number, with one scale a row and the largest channels in f16.

    Args:
        name: What it is called.
        outliers: How many channels of a row are kept in f16.
    """

    name: str = "int8"
    outliers: int = 4

    def row_bytes(self, hidden: int) -> int:
        """Return how many bytes a row takes.

        Args:
            hidden: How many numbers a row has.
        """
        return 4 + 4 * self.outliers + hidden

    def encode(self, states: torch.Tensor) -> bytes:
        """Return hidden states as bytes: scales, outliers, then the rest.

        Args:
            states: `[rows, hidden]`.
        """
        plain = states.to("cpu", torch.float32)
        large = plain.abs().topk(self.outliers).indices
        kept = plain.gather(1, large).clamp(-_F16_MAX, _F16_MAX).half()
        rest = plain.scatter(1, large, 0.0)
        scales = rest.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
        parts = scales, large.to(torch.int16), kept, (rest / scales).round().char()
        return b"".join([_bytes(part) for part in parts])

    def decode(
        self, data: bytes | memoryview, rows: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """Return bytes as hidden states.

        Args:
            data: What `encode` gave.
            rows: How many rows.
            dtype: Of the numbers that are returned.
        """
        raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        sizes = [4 * rows, 2 * self.outliers * rows, 2 * self.outliers * rows]
        parts = raw.split([*sizes, len(raw) - sum(sizes)])
        kinds = torch.float32, torch.int16, torch.float16, torch.int8
        scales, large, kept, rest = [
            part.clone().view(kind).view(rows, -1)
            for part, kind in zip(parts, kinds, strict=True)
        ]
        places = large.long() & 0xFFFF
        return (rest * scales).scatter(1, places, kept.float()).to(dtype)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


_F16_MAX = 65504.0
CODECS: tuple[Codec, ...] = (
    Plain("f32", torch.float32),
    Plain("f16", torch.float16),
    Int8(),
)


def codec_number(name: str) -> int:
    """Return the number of a codec in frames.

    Args:
        name: What it is called.

    Raises:
        ConfigurationError: If there is none of that name.
    """
    names = [codec.name for codec in CODECS]
    if name not in names:
        raise ConfigurationError(f"unknown codec {name!r}: name one of {names}.")
    return names.index(name)
