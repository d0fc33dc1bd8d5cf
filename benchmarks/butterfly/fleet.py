"""`Fleet`: node processes that benchmarks use again and again.

Importing torch takes seconds, so the processes stay: each reads a line of JSON that
says which head to join, is a node until that head is gone, and reads the next line.

    python benchmarks/butterfly/fleet.py      # one of them
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence as Items
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]


class Fleet:
    """Node processes.

    Args:
        places: What each command begins with, such as ``ip netns exec NAME``; and the
            address of each.
    """

    def __init__(self, places: Items[tuple[Items[str], str]]) -> None:
        self.addresses = [address for _, address in places]
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # hosts of the lab have no names
        self._processes = [
            subprocess.Popen(
                [*prefix, sys.executable, __file__],
                stdin=subprocess.PIPE,
                env=environ,
                text=True,
            )
            for prefix, _ in places
        ]

    @classmethod
    def here(cls, count: int) -> "Fleet":
        """Return some on this machine.

        Args:
            count: How many.
        """
        return cls([((), "127.0.0.1")] * count)

    def join(self, number: int, **told: Any) -> None:
        """Let a node join a head.

        Args:
            number: Which node.
            **told: What it is told: fields of `NodeOptions`, and `is_emulated`.
        """
        pipe = self._processes[number].stdin
        assert pipe is not None
        pipe.write(json.dumps({**told, "address": self.addresses[number]}) + "\n")
        pipe.flush()

    def cpu(self) -> float:
        """Return the CPU seconds of all of them until now (Linux)."""
        ticks = 0
        for process in self._processes:
            told = Path(f"/proc/{process.pid}/stat").read_text("utf-8")
            ticks += sum(map(int, told.rpartition(")")[2].split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> "Fleet":
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
        for process in self._processes:
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def main() -> None:
    """Be a node for each head that is told of."""
    from benchmarks.butterfly.emulation import EmulatedNode  # noqa: PLC0415
    from butterfly.cluster.node import NodeAgent, NodeOptions  # noqa: PLC0415

    for line in sys.stdin:
        told = json.loads(line)
        kind = EmulatedNode if told.pop("is_emulated") else NodeAgent
        asyncio.run(kind(NodeOptions(**told)).run())
    os._exit(0)  # threads may wait inside of gloo


if __name__ == "__main__":
    main()
