"""`Lanes`: the keys and values of sequences, one lane each, in every layer of a stage.

A lane is a row of one tensor per layer, `[lanes, heads, positions, head size]`. The
memory is claimed once and takes room when it is written to; until then it reads as zero
(a position that is masked out still must not be NaN). Sequences that sit in
neighbouring lanes attend together, over a view: nothing is gathered or copied.
"""

import math

import numpy as np
import torch


class Lanes:
    """Keys and values of a stage's layers.

    Args:
        layers: How many layers.
        lanes: How many sequences there is room for.
        heads: How many key-value heads a layer has.
        positions: How many positions a lane has.
        head_size: Of one head.
        dtype: Of the numbers.
        device: Where they are.
    """

    def __init__(
        self,
        layers: int,
        lanes: int,
        heads: int,
        positions: int,
        head_size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        shape = lanes, heads, positions, head_size
        self.count, self.positions = lanes, positions
        self.keys = [_zeros(shape, dtype, device) for _ in range(layers)]
        self.values = [_zeros(shape, dtype, device) for _ in range(layers)]

    @property
    def nbytes(self) -> int:
        """How many bytes they take when all are full."""
        return sum(tensor.nbytes for tensor in [*self.keys, *self.values])

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first positions of one lane to another, in all layers.

        Args:
            source: The lane to copy from.
            target: The lane to copy to.
            count: How many positions.
        """
        for tensor in [*self.keys, *self.values]:
            tensor[target, :, :count] = tensor[source, :, :count]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    """Return zeros that take no memory on a CPU until they are written to."""
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    data = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(data).view(dtype).view(shape)
