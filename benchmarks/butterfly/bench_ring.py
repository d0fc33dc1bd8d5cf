"""Tokens a second around a ring of emulated stages: bound, simulator, measurement.

Head and nodes are real processes with real links, frames and scheduler; only the layers
are emulated (`emulation.py`). First decoding alone, by split; then with prompts, where
the simulator is put to the test; then one prompt of 256 alone, by the size of its parts
(whole, 128, 64, 32); then two machines as one ring of two stages, or as two rings.

    python benchmarks/butterfly/bench_ring.py             # 7 minutes
    python benchmarks/butterfly/bench_ring.py decoding    # prompts, chunks, rings
"""

import asyncio
import os
import sys
from collections.abc import Sequence as Items
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402

from benchmarks.butterfly.emulation import LAYERS  # noqa: E402
from benchmarks.butterfly.fleet import Fleet  # noqa: E402
from benchmarks.butterfly.loop import Setting, expected, serve  # noqa: E402
from butterfly.cluster.roles import balanced  # noqa: E402

HEAD_LAYERS = 8.0  # as butterfly.cluster.roles.head_layers guesses for SmolLM2
SPLITS = {
    (kind, count): tuple(balanced(LAYERS, count, HEAD_LAYERS * (kind == "balanced")))
    for kind in ("even", "balanced")
    for count in (1, 2, 3)
}
DECODING = [
    (kind, Setting(ranges, clients))
    for (kind, count), ranges in sorted(SPLITS.items(), key=lambda pair: pair[0][1])
    for clients in (1, count, 4 * count, 32)
    if (kind == "balanced" or count > 1) and (count > 1 or clients != count)
]
PROMPTS = [
    (kind, Setting(SPLITS[kind, count], *sizes))
    for kind, count, sizes in (
        ("balanced", 1, (4, 128, 32)),
        ("balanced", 2, (2, 64, 64)),
        ("balanced", 2, (8, 128, 32)),
        ("even", 2, (8, 128, 32)),
        ("balanced", 3, (3, 64, 64)),
        ("balanced", 3, (12, 32, 96)),
        ("balanced", 3, (12, 256, 32)),
        ("even", 3, (12, 128, 64)),
    )
]

CHUNKS = [
    ("balanced", Setting(SPLITS["balanced", count], 1, 256, 1, spread=0.0, chunk=chunk))
    for count in (2, 3)
    for chunk in (256, 128, 64, 32)
]
RINGS = [
    (name, Setting(SPLITS["balanced", count], *sizes, rings=3 - count))
    for sizes in ((1,), (2,), (8,), (8, 128, 32))
    for name, count in (("one ring", 2), ("two rings", 1))
]


async def table(fleet: Fleet, rows: Items[tuple[str, Setting]], seconds: float) -> None:
    """Print what some settings serve."""
    print(
        "stages split     requests prompt+answer  tokens/s   bound  share  "
        "simulated  ratio  first token  bytes/token"
    )
    for kind, setting in rows:
        o = setting
        bound, said = expected(setting)
        found = await serve(fleet, setting, warm=seconds * 0.6, seconds=seconds)
        rate, load = found.tokens_per_s, f"{o.prompt} + {o.answer}"
        first = f"{found.ttft_s * 1e3:.0f} ms" if found.ttft_s else "-"
        print(
            f"{len(o.ranges):<7}{kind:<10}{o.clients:<9}{load:<15}"
            f"{rate:<11.1f}{bound:<7.1f}{rate / bound:<7.2f}{said:<11.1f}"
            f"{rate / said:<7.2f}{first:<13}{found.token_bytes:.0f}",
            flush=True,
        )


async def main(names: Items[str]) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    with Fleet.here(3) as fleet:
        if not names or "decoding" in names:
            await table(fleet, DECODING, 4.0)
        if not names or "prompts" in names:
            await table(fleet, PROMPTS, 12.0)
        if not names or "chunks" in names:
            await table(fleet, CHUNKS, 5.0)
        if not names or "rings" in names:
            await table(fleet, RINGS, 5.0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
    sys.stdout.flush()
    os._exit(0)  # threads may still wait inside of gloo
