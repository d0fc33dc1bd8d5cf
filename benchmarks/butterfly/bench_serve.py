"""SmolLM2 over 1 to 3 stages, beside transformers' `generate` and its `pp_size`.

Everything computes for real, one torch thread a process, all in one run and in turn, so
the ratios mean something where the seconds do not. On a machine with fewer cores than
stages the stages take turns: `bench_ring.py` says what the pipeline itself can do.

*CPU* is that of all processes for a token: it says more than seconds where others use
the machine, too. *bound* is for as many cores as stages, from the times of layers
measured in this run.

    python benchmarks/butterfly/bench_serve.py              # 5 minutes
    python benchmarks/butterfly/bench_serve.py 1 8          # only for 1 and 8 sequences
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence as Items
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402

from benchmarks.butterfly.bench_ring import SPLITS  # noqa: E402
from benchmarks.butterfly.emulation import HIDDEN, VOCABULARY, Costs  # noqa: E402
from benchmarks.butterfly.fleet import Fleet  # noqa: E402
from benchmarks.butterfly.loop import Setting, expected, serve  # noqa: E402
from butterfly.cluster.profile import layer_times  # noqa: E402
from butterfly.engine.weights import Checkpoint  # noqa: E402

SIZES = (1, 2, 3, 8, 32)
PROMPT, NEW, SECONDS = 16, 24, 5.0
CHILD = Path(__file__).with_name("with_transformers.py")


class Peer:
    """transformers in processes of its own.

    Args:
        count: How many; with more than one it is its pipeline parallelism.
    """

    def __init__(self, count: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        base = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        self._processes = []
        for rank in range(count):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            place |= {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
            process = subprocess.Popen(
                [sys.executable, str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**base, **place, "MASTER_PORT": port} if count > 1 else base,
                text=True,
            )
            self._processes.append(process)

    def measure(self, batch: int) -> tuple[float, float, float]:
        """Return tokens a second, seconds to the first ones, CPU seconds a token.

        Args:
            batch: How many sequences.
        """
        told = self._asked(batch, PROMPT, NEW)
        used = sum(one["token_cpu_s"] for one in told)
        return told[0]["tokens_per_s"], told[0]["ttft_s"], used

    def whole(self, batch: int, prompt: int, new: int) -> tuple[float, float]:
        """Return wall and CPU seconds of all that is generated, prompts too.

        Args:
            batch: How many sequences.
            prompt: Tokens of each prompt.
            new: Tokens of each answer.
        """
        told = self._asked(batch, prompt, new)
        return told[0]["whole_s"], sum(one["whole_cpu_s"] for one in told)

    def _asked(self, batch: int, prompt: int, new: int) -> list[dict[str, float]]:
        """Return what each process says."""
        asked = json.dumps({"batch": batch, "prompt": prompt, "new": new})
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(asked + "\n")
            process.stdin.flush()
        told = []
        for process in self._processes:
            assert process.stdout is not None
            told.append(json.loads(process.stdout.readline()))
        return told

    def __enter__(self) -> "Peer":
        self.measure(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End them."""
        for process in self._processes:
            process.terminate()
            process.communicate()


@dataclass(frozen=True)
class Table:
    """Figures beside those of `generate`.

    Args:
        base: Tokens a second, first token, CPU seconds a token of `generate`.
    """

    base: tuple[float, float, float]

    def row(
        self, name: str, found: tuple[float, float, float], size: float, rest: str = ""
    ) -> None:
        """Print a line."""
        rate, ttft, used = found
        first = f"{ttft * 1e3:.0f} ms" if ttft else "-"
        print(
            f"{name:<23}{rate:<10.1f}{rate / self.base[0]:<12.2f}{used * 1e3:<8.1f}"
            f"{used / self.base[2]:<12.2f}{first:<13}{size:<12.0f}{rest}",
            flush=True,
        )


async def compare(
    size: int, fleet: Fleet, peers: dict[int, Peer], costs: Costs
) -> None:
    """Measure all of them with a number of sequences."""
    print(f"\n{size} sequences", " " * 11, "tokens/s  / generate  CPU ms  ", end="")
    print("/ generate  first token  bytes/token")
    table = Table(peers[1].measure(size))
    table.row("generate", table.base, 0)
    for count in (1, 2, 3):
        for kind in ("even", "balanced") if count > 1 else ("balanced",):
            setting = Setting(SPLITS[kind, count], size, PROMPT, 96, spread=0.2)
            bound, _ = expected(setting, costs=costs)
            one = await serve(fleet, setting, is_emulated=False, seconds=SECONDS)
            name = f"butterfly {count} {kind if count > 1 else ''}"
            rest = f"{one.tokens_per_s / bound:.2f} of bound"
            found = one.tokens_per_s, one.ttft_s, one.token_cpu_s
            table.row(name, found, one.token_bytes, rest)
        if count > 1:
            told = 4 * (count - 1) * (HIDDEN + VOCABULARY)
            found = peers[count].measure(size)
            table.row(f"pp_size={count}", found, told, "bytes by its source")
    table.row("generate again", peers[1].measure(size), 0)


async def main(sizes: Items[int]) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    costs = Costs(*layer_times(Checkpoint.of("smollm2")))
    print(f"a layer: {costs.layer}\nthe head: {costs.head}")
    with ExitStack() as stack:
        peers = {count: stack.enter_context(Peer(count)) for count in (1, 2, 3)}
        fleet = stack.enter_context(Fleet.here(3))
        for size in sizes:
            await compare(size, fleet, peers, costs)


if __name__ == "__main__":
    asyncio.run(main([int(text) for text in sys.argv[1:]] or SIZES))
    sys.stdout.flush()
    os._exit(0)  # threads may still wait inside of gloo
