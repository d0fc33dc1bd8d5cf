"""`Hosts`: machines with slow links between them, on one machine.

Each host is a network namespace with one address; a wire (`delaywire.c`, compiled when
it is needed) joins each pair, since not every kernel has netem. This process moves into
the first host, and whatever it starts is there too.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from itertools import combinations
from pathlib import Path
from types import TracebackType

SOURCE = Path(__file__).with_name("delaywire.c")
_NEW_NET = 0x40000000  # CLONE_NEWNET
_QUEUE = 4_000_000  # bytes


def missing() -> str:
    """Return why there can be no hosts here; empty if there can."""
    if os.geteuid():
        return "network namespaces need root"
    for program in ("ip", "gcc"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    return ""


class Hosts:
    """Some hosts, which are gone when the block ends.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self.names = [f"bfly{os.getpid()}-{k}" for k in range(count)]
        self.addresses = [f"10.78.0.{k + 1}" for k in range(count)]
        self._wires: list[subprocess.Popen[str]] = []
        self._folder = tempfile.TemporaryDirectory()
        self._wire = str(Path(self._folder.name) / "delaywire")

    def __enter__(self) -> "Hosts":
        """Make them, and move into the first one."""
        subprocess.run(["gcc", "-O2", "-o", self._wire, str(SOURCE)], check=True)
        for name, address in zip(self.names, self.addresses, strict=True):
            _ip(f"netns add {name}")
            _ip(f"-n {name} link set lo up")
            _ip(f"-n {name} address add {address}/32 dev lo")
        with open("/proc/self/ns/net") as home:
            self._home = os.dup(home.fileno())
        with open(f"/run/netns/{self.names[0]}") as space:
            _move(space.fileno())
        return self

    def join(self, one_way_s: float, bits_per_s: float) -> None:
        """Join each pair by a wire; wires that there were are taken away.

        Args:
            one_way_s: Seconds that a bit travels.
            bits_per_s: How many go in a second.
        """
        self.part()
        for a, b in combinations(range(len(self.names)), 2):
            ends = [self.names[a], f"to{b}", self.names[b], f"to{a}"]
            numbers = [str(round(one_way_s * 1e6)), str(round(bits_per_s)), str(_QUEUE)]
            command = [self._wire, *ends, *numbers]
            wire = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self._wires.append(wire)
            assert wire.stdout is not None
            if wire.stdout.readline() != "ready\n":
                raise RuntimeError("delaywire did not start")
            for here, there in ((a, b), (b, a)):
                own, other = self.addresses[here], self.addresses[there]
                name = self.names[here]
                _ip(f"-n {name} link set to{there} mtu 1500 txqueuelen 2000 up")
                _ip(f"-n {name} route add {other}/32 dev to{there} src {own}")

    def part(self) -> None:
        """Take all wires away."""
        for wire in self._wires:
            wire.terminate()
            wire.communicate()
        self._wires.clear()

    def command(self, number: int) -> list[str]:
        """Return what a command on a host begins with.

        Args:
            number: Which host.
        """
        return ["ip", "netns", "exec", self.names[number]]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Move back, and take everything away."""
        self.part()
        _move(self._home)
        os.close(self._home)
        for name in self.names:
            _ip(f"netns delete {name}")
        self._folder.cleanup()


def _ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


def _move(space: int) -> None:
    """Move this thread, and what it starts, into a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(space, _NEW_NET):
        raise OSError(ctypes.get_errno(), "setns")
