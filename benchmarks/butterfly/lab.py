"""Emulated stages on hosts with slow links between them: bound, simulator, measurement.

As `bench_ring.py`, but each stage is on a host of its own (`hosts.py`), and the head on
the first one's. Links: 1 ms one way and 1 Gbit/s; 20 ms and 100 Mbit/s. First decoding;
then the first token of a prompt of 256, by how hidden states travel.

    python benchmarks/butterfly/lab.py             # 4 minutes, as root
    python benchmarks/butterfly/lab.py decoding    # or: prompts
"""

import asyncio
import os
import sys
from collections.abc import Sequence as Items
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.butterfly.hosts import Hosts, missing  # noqa: E402

LINKS = {"1 ms, 1 Gbit/s": (0.001, 1e9), "20 ms, 100 Mbit/s": (0.02, 1e8)}


async def decoding(hosts: Hosts, fleet: "Fleet") -> None:
    """Print what decoding serves."""
    print("link               stages split     sequences frames ", end="")
    print("tokens/s  bound   share  simulated  ratio  bytes/token")
    for word, (delay, rate) in LINKS.items():
        hosts.join(delay, rate)
        for kind, count, clients, frames in (
            *(("balanced", 2, clients, 0) for clients in (1, 2, 4, 8)),
            ("balanced", 2, 8, 4),
            ("even", 2, 8, 0),
            *(("balanced", 3, clients, 0) for clients in (1, 3, 8)),
            ("balanced", 3, 8, 6),
        ):
            setting = Setting(SPLITS[kind, count], clients, frames=frames)
            link = Link(2 * delay, rate / 8)
            bound, said = expected(setting, link=link, is_head_apart=False)
            home = hosts.addresses[0]
            found = await serve(fleet, setting, address=home, seconds=4.0)
            served = found.tokens_per_s
            print(
                f"{word:<19}{count:<7}{kind:<10}{clients:<10}{setting.flying:<7}"
                f"{served:<10.1f}{bound:<8.1f}{served / bound:<7.2f}{said:<11.1f}"
                f"{served / said:<7.2f}{found.token_bytes:.0f}",
                flush=True,
            )


async def prompts(hosts: Hosts, fleet: "Fleet") -> None:
    """Print when the first token comes."""
    print("\nlink               stages codec  first token of a prompt of 256")
    for word, (delay, rate) in LINKS.items():
        hosts.join(delay, rate)
        for count in (2, 3):
            plain = Setting(SPLITS["balanced", count], 1, 256, 1, spread=0.0)
            for codec in ("f32", "f16", "int8"):
                setting = replace(plain, codec=codec)
                home = hosts.addresses[0]
                found = await serve(fleet, setting, address=home, seconds=6.0)
                first = f"{found.ttft_s * 1e3:.0f} ms"
                print(f"{word:<19}{count:<7}{codec:<7}{first}", flush=True)


async def main(names: Items[str], hosts: Hosts) -> None:
    """Print the tables."""
    commands = [[], *(hosts.command(k) for k in (1, 2))]
    with Fleet(list(zip(commands, hosts.addresses, strict=True))) as fleet:
        if not names or "decoding" in names:
            await decoding(hosts, fleet)
        if not names or "prompts" in names:
            await prompts(hosts, fleet)


if __name__ == "__main__":
    if why := missing():
        sys.exit(f"left out: {why}")
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # hosts without a name are fine
    import torch

    from benchmarks.butterfly.bench_ring import SPLITS
    from benchmarks.butterfly.fleet import Fleet
    from benchmarks.butterfly.loop import Setting, expected, serve
    from butterfly.partitioning import Link

    torch.set_num_threads(1)
    with Hosts(3) as hosts:
        asyncio.run(main(sys.argv[1:], hosts))
    sys.stdout.flush()
    os._exit(0)  # threads may still wait inside of gloo
