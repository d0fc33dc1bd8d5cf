"""`Nursery`: real processes of `butterfly` that begin in no time.

Importing torch and transformers takes seconds. One process does it once, and forks for
each command line that it is told; what it forks are processes with pids, signals and
exit codes like any other.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.butterfly.server_helpers import SOURCE

ROOT = Path(__file__).parents[2]


class Nursery:
    """Starts processes by forking.

    Args:
        folder: Where what they say is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.butterfly.nursery"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
                "OMP_NUM_THREADS": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._count = 0
        self.born: list[Born] = []

    def start(self, *arguments: str, **environ: str) -> "Born":
        """Start `butterfly` with some arguments."""
        self._count += 1
        log = self._folder / f"{self._count}.log"
        log.touch()
        told = {"arguments": arguments, "environ": environ, "log": str(log)}
        born = Born(self, self.ask(told), log)
        self.born.append(born)
        return born

    def ask(self, told: object) -> int:
        """Tell the process that forks something, and return its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End all processes."""
        for born in self.born:
            born.end(signal.SIGKILL)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


class Born:
    """A process that was forked.

    Args:
        nursery: What forked it.
        pid: The process.
        log: What it says.
    """

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self._nursery, self.pid, self._log = nursery, pid, log
        self.code: int | None = None

    @property
    def said(self) -> str:
        """What it said until now."""
        return self._log.read_text("utf-8", "replace")

    def line(self, part: str, patience: float = 60.0) -> str:
        """Wait for a line that has some text."""
        until = time.monotonic() + patience
        while True:
            found = [line for line in self.said.splitlines() if part in line]
            if found:
                return found[0]
            ended = self.code is not None or self._poll() is not None
            assert not ended and time.monotonic() < until, f"no {part!r}:\n{self.said}"
            time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        if self.code is None:
            os.kill(self.pid, number)

    def end(self, number: int = signal.SIGTERM, patience: float = 20.0) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        if self.code is None and self._poll() is None:
            self.kill(number)
        return self.wait(patience)

    def wait(self, patience: float = 20.0) -> int:
        """Wait for the end, and return the exit code; of a signal it is negative."""
        until = time.monotonic() + patience
        while self._poll() is None:
            if time.monotonic() > until:
                self.kill()
                raise AssertionError(f"it did not end:\n{self.said}")
            time.sleep(0.02)
        assert self.code is not None
        return self.code

    def _poll(self) -> int | None:
        """Return the exit code if it ended; its parent knows."""
        if self.code is None:
            found = self._nursery.ask(self.pid)
            self.code = None if found == _RUNS else found
        return self.code


_RUNS = 1000


def _ended(pid: int) -> int:
    """Return the exit code of a child."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else _RUNS


def _forked(arguments: Sequence[str], environ: dict[str, str], log: str) -> int:
    """Return the pid of a new process that runs a command line."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.environ.update(environ)
        with open(os.devnull) as nothing, open(log, "a") as file:
            os.dup2(nothing.fileno(), 0)
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        code = _main(arguments)
    except BaseException:  # noqa: BLE001 - the process ends with it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _main(arguments: Sequence[str]) -> int:
    from butterfly.cli import main  # noqa: PLC0415

    return main(arguments)


def _serve() -> None:
    """Import what takes long, then fork as told."""
    import torch  # noqa: PLC0415
    from transformers.models.llama import modeling_llama  # noqa: PLC0415

    import butterfly.api.server  # noqa: PLC0415
    import butterfly.cluster.node  # noqa: F401, PLC0415

    del modeling_llama
    torch.set_num_threads(1)
    for line in sys.stdin:
        told = json.loads(line)
        print(_ended(told) if isinstance(told, int) else _forked(**told), flush=True)


if __name__ == "__main__":
    _serve()
