"""`Linear`: a linear layer that multiplies few rows the other way round.

Decoding reads every weight for one to four rows. On a CPU, MKL takes two to three times
as long for `x W^T` with two to four rows as for `W x^T`, the same sums in the same
memory; one row is a little faster as two equal ones. From five rows on it is the other
way about (benchmarks/butterfly/bench_linear.py).
"""

import torch
from torch import nn

FEW = 4


class Linear(nn.Linear):
    """A linear layer; float32 on a CPU is what it knows better."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return `input W^T + b`, `[..., out]`.

        Args:
            input: `[..., in]`.
        """
        rows = input.numel() // self.in_features
        is_known = input.dtype is torch.float32 and input.device.type == "cpu"
        if not (is_known and 0 < rows <= FEW):
            return super().forward(input)
        flat = input.reshape(rows, self.in_features)
        taken = flat if rows > 1 else flat.repeat(2, 1)
        found = torch.mm(self.weight, taken.t())[:, :rows].t().contiguous()
        if self.bias is not None:
            found += self.bias
        return found.view(*input.shape[:-1], self.out_features)


def hasten(model: nn.Module) -> None:
    """Put a `Linear` in the place of each linear layer; they share no memory yet.

    Args:
        model: A model on the meta device.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                has_bias = child.bias is not None
                sizes = child.in_features, child.out_features
                setattr(parent, name, Linear(*sizes, bias=has_bias, device="meta"))
