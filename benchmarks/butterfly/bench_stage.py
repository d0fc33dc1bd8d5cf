"""One stage beside transformers' `generate`: the same requests, in turn.

Both get so many prompts of 16 tokens at once and give 64 tokens for each, greedily, one
torch thread each; what is counted is all of it, prompts too. One process waits while
the other one computes, and they take turns, for the machine changes from one minute to
the next: the ratio is the median of those of the pairs. *CPU* is that of the node, its
head and this program, against that of the process that generates.

    python benchmarks/butterfly/bench_stage.py              # 3 minutes
    python benchmarks/butterfly/bench_stage.py 1 8          # only for 1 and 8 sequences
"""

import asyncio
import os
import secrets
import statistics
import sys
import time
from collections.abc import Sequence as Items
from contextlib import aclosing
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.butterfly.bench_serve import Peer  # noqa: E402
from benchmarks.butterfly.fleet import Fleet  # noqa: E402
from butterfly.cluster.head import Head  # noqa: E402
from butterfly.cluster.options import HeadOptions  # noqa: E402
from butterfly.scheduling import Sequence  # noqa: E402

SIZES = (1, 4, 8, 32)
PROMPT, NEW, ROUNDS = 16, 64, 7


async def answered(head: Head, number: int) -> None:
    """Wait for the answer to one request."""
    tokens = [100 + (7 * number + k) % 9_900 for k in range(PROMPT)]
    async with aclosing(head.generate(Sequence(tokens, NEW))) as answers:
        count = len([one async for one in answers])
    assert count == NEW, count


async def measured(head: Head, fleet: Fleet, size: int) -> tuple[float, float]:
    """Return wall and CPU seconds of so many requests at once."""
    began, used = time.perf_counter(), fleet.cpu() + time.process_time()
    await asyncio.gather(*[answered(head, number) for number in range(size)])
    took = time.perf_counter() - began
    return took, fleet.cpu() + time.process_time() - used


async def compare(size: int, fleet: Fleet, peer: Peer) -> None:
    """Print the figures for so many sequences."""
    secret = secrets.token_hex(8)
    head = Head(
        HeadOptions(
            *("smollm2", 1, secret),
            lanes=size,
            positions=128,
            reuse=False,
            speculate=0,
            rebalance=0.0,
        )
    )
    await head.start()
    try:
        told = {"host": "127.0.0.1", "port": head.port, "secret": secret}
        fleet.join(0, **told, name="n0", is_emulated=False)
        await head.ready()
        ours, theirs = [], []
        for _ in range(ROUNDS):
            theirs.append(peer.whole(size, PROMPT, NEW))
            ours.append(await measured(head, fleet, size))
    finally:
        await head.close()
    _row(size, ours, theirs)


def _row(
    size: int, ours: Items[tuple[float, float]], theirs: Items[tuple[float, float]]
) -> None:
    count = size * NEW
    row = f"{size:<11}"
    for unit in (0, 1):
        pairs = [(a[unit], b[unit]) for a, b in zip(ours, theirs, strict=True)]
        ratio = statistics.median([a / b for a, b in pairs])
        mine, other = (min(each) / count * 1e3 for each in zip(*pairs, strict=True))
        row += f"{mine:<10.1f}{other:<10.1f}{ratio:<12.2f}"
    print(row, flush=True)


async def main(sizes: Items[int]) -> None:
    """Print the table."""
    print("sequences  wall ms   generate  ratio       CPU ms    generate  ratio")
    with Peer(1) as peer, Fleet.here(1) as fleet:
        for size in sizes:
            await compare(size, fleet, peer)


if __name__ == "__main__":
    asyncio.run(main([int(text) for text in sys.argv[1:]] or SIZES))
    sys.stdout.flush()
    os._exit(0)  # threads may still wait inside of gloo
