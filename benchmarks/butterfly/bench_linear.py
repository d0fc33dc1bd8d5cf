"""What a linear layer takes for few rows: `x W^T` as torch has it, and `Linear`.

SmolLM2's five shapes, as often as a model has them, one thread; the matrices of a shape
are more than a cache holds. CPU time, the least of seven in turn.

    python benchmarks/butterfly/bench_linear.py    # a minute
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src")]

import torch  # noqa: E402
from torch import nn  # noqa: E402

from butterfly.engine.linear import Linear  # noqa: E402

SHAPES = {
    (576, 576): 60,
    (576, 192): 60,
    (576, 1536): 60,
    (1536, 576): 30,
    (576, 49152): 1,
}
"""In and out features, and how many layers of a model have them."""

ENOUGH = 1.5e7  # weights: 60 MB


def seconds(layers: Sequence[nn.Linear], given: torch.Tensor) -> float:
    """Return the CPU seconds that one layer takes on average."""
    began = time.process_time()
    for layer in layers:
        layer(given)
    return (time.process_time() - began) / len(layers)


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("rows  nn.Linear  Linear  ratio  (ms for all of SmolLM2's)")
    pairs = {}
    for (wide, out), count in SHAPES.items():
        some = max(1, round(ENOUGH / (wide * out)))
        plain = [nn.Linear(wide, out, bias=False) for _ in range(some)]
        ours = [Linear(wide, out, bias=False) for _ in range(some)]
        for mine, other in zip(ours, plain, strict=True):
            mine.weight = other.weight
        pairs[wide, count] = plain, ours
    for rows in (1, 2, 3, 4, 5, 8):
        sums = [0.0, 0.0]
        for (wide, count), both in pairs.items():
            given = torch.randn(rows, wide)
            times = [[seconds(one, given) for one in both] for _ in range(7)]
            for k, took in enumerate(zip(*times, strict=True)):
                sums[k] += count * min(took) * 1e3
        print(f"{rows:<6}{sums[0]:<11.1f}{sums[1]:<8.1f}{sums[1] / sums[0]:.2f}")


if __name__ == "__main__":
    main()
