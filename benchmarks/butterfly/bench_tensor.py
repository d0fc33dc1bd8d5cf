"""Layers of one process beside the same layers of two that compute them together.

Eight layers of a random Llama (hidden 1024, 16 heads, 8 for keys and values; SmolLM2's
9 and 3 heads cannot be halved), one torch thread a process, frames of so many sequences
that decode at position 64, or of a prompt; in turn, the least of some rounds each. CPU
is that of the first process: where cores are busy, who adds up waits for who computes.

    python benchmarks/butterfly/bench_tensor.py          # 1 minute
"""

import sys
import tempfile
import time
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from butterfly.communication.frames import Segment  # noqa: E402
from butterfly.engine.stage import Shape, Stage  # noqa: E402
from butterfly.engine.team import stage_of  # noqa: E402
from butterfly.engine.weights import Checkpoint  # noqa: E402

FRAMES: dict[str, list[Segment]] = {
    **{f"{n} decode": [Segment(k, 64, 1) for k in range(n)] for n in (1, 4, 8)},
    "prompt of 64": [Segment(0, 0, 64)],
    "prompt of 256": [Segment(0, 0, 256)],
}
ROUNDS = 15
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}


def taken(stage: Stage, segments: Items[Segment]) -> tuple[float, float]:
    """Return the milliseconds that a frame takes, and those of this process's CPU."""
    hidden = torch.randn(sum(s.length for s in segments), stage.hidden)
    began, used = time.perf_counter(), time.process_time()
    stage.forward(hidden, segments)
    took = time.perf_counter() - began
    return took * 1e3, (time.process_time() - used) * 1e3


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
        checkpoint, shape = Checkpoint(Path(folder)), Shape(0, 8, 8, 320)
        alone, both = (stage_of(checkpoint, shape, tensor=n) for n in (1, 2))
    print("frame          one ms   two ms   ratio   one CPU  two CPU  ratio")
    for name, segments in FRAMES.items():
        pairs = [(taken(alone, segments), taken(both, segments)) for _ in range(ROUNDS)]
        row = f"{name:<15}"
        for unit in (0, 1):
            one, two = (min(e[unit] for e in each) for each in zip(*pairs, strict=True))
            row += f"{one:<9.1f}{two:<9.1f}{one / two:<8.2f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
