"""What each codec costs and changes, on SmolLM2 in three stages.

The same texts go through the whole model once with each codec on both links; the next-
token distributions are compared with those of f32.

    python benchmarks/butterfly/bench_codecs.py
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from butterfly.communication.codecs import CODECS, Codec, Int8  # noqa: E402
from butterfly.communication.frames import Segment  # noqa: E402
from butterfly.engine.stage import Shape, Stage  # noqa: E402
from butterfly.engine.weights import Checkpoint  # noqa: E402

TEXTS, TOKENS = 6, 96
RANGES = [(0, 13), (13, 25), (25, 30)]


def texts() -> list[list[int]]:
    """Return the tokens of some texts: messages of hotel guests in a row."""
    lines = (ROOT / "examples" / "data" / "hotel.jsonl").read_text("utf-8").splitlines()
    tokenizer: Any = AutoTokenizer.from_pretrained(CHECKPOINT.folder)
    words = " ".join(json.loads(line)["text"] for line in lines)
    ids: list[int] = tokenizer(words)["input_ids"]
    return [ids[k * TOKENS : (k + 1) * TOKENS] for k in range(TEXTS)]


def logprobs(tokens: list[int], codec: Codec) -> torch.Tensor:
    """Return the log probabilities of all next tokens."""
    segments = [Segment(0, 0, len(tokens))]
    hidden = STAGES[0].embed(torch.tensor(tokens))
    for stage in STAGES:
        hidden = stage.forward(hidden, segments)
        if not stage.is_last:
            data = codec.encode(hidden)
            hidden = codec.decode(data, len(tokens), torch.float32)
    return STAGES[-1].logits(hidden).log_softmax(-1)


def microseconds(codec: Codec, rows: int) -> float:
    """Return what writing and reading a frame takes, the least of some rounds."""
    states, best = torch.randn(rows, 576), 1.0
    for _ in range(30):
        began = time.perf_counter()
        codec.decode(codec.encode(states), rows, torch.float32)
        best = min(best, time.perf_counter() - began)
    return best * 1e6


def main() -> None:
    """Print the table."""
    samples = texts()
    exact = [logprobs(sample, CODECS[0]) for sample in samples]
    print("codec           bytes a row  us, 1 row  us, 32 rows  same top-1  KL, nats")
    for codec in [*CODECS, Int8("int8, 0 outl.", 0), Int8("int8, 1 outl.", 1)]:
        kl, same, count = 0.0, 0, 0
        for sample, one in zip(samples, exact, strict=True):
            other = logprobs(sample, codec)
            kl += float((one.exp() * (one - other)).sum())
            same += int((one.argmax(-1) == other.argmax(-1)).sum())
            count += len(sample)
        times = microseconds(codec, 1), microseconds(codec, 32)
        print(
            f"{codec.name:<16}{codec.row_bytes(576):<13}{times[0]:<11.0f}"
            f"{times[1]:<13.0f}{same / count:<12.4f}{kl / count:.2e}",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    CHECKPOINT = Checkpoint.of("smollm2")
    STAGES = [Stage(CHECKPOINT, Shape(*pair, 1, TOKENS)) for pair in RANGES]
    main()
