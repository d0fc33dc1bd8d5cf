"""What happens to processes and networks, made to happen."""

import contextlib
import ctypes
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

_PIDFD_GETFD = 438  # of Linux, everywhere
_SO_ATTACH_FILTER = 26
_RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)  # a program of classic BPF


def silence(pid: int, control_port: int) -> int:
    """Let nothing more arrive at a process's connections, but for the control one.

    The kernel drops what comes, so that the other ends are not told, as when a network
    is gone.

    Args:
        pid: The process.
        control_port: The port that the control connection goes to.

    Returns:
        How many connections there are.
    """
    program = ctypes.create_string_buffer(_RETURN_NOTHING, len(_RETURN_NOTHING))
    told = struct.pack("HxxxxxxP", 1, ctypes.addressof(program))
    count = 0
    for each in connections(pid):
        if each.getpeername()[1] != control_port:
            each.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, told)
            count += 1
    return count


def connections(pid: int) -> Iterator[socket.socket]:
    """Give duplicates of the TCP connections of a process."""
    system = ctypes.CDLL(None, use_errno=True).syscall
    process = os.pidfd_open(pid)
    try:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if not str(file.readlink()).startswith("socket:"):
                    continue
                found = system(_PIDFD_GETFD, process, int(file.name), 0)
                if found < 0:
                    why = os.strerror(ctypes.get_errno())
                    pytest.skip(f"sockets of other processes are out of reach: {why}")
                with socket.socket(fileno=found) as each:
                    if each.family in (socket.AF_INET, socket.AF_INET6):
                        each.getpeername()  # else it is not connected
                        yield each
    finally:
        os.close(process)


@contextlib.contextmanager
def slowed(
    pid: int, stopped: float = 0.03, running: float = 0.01
) -> Generator[None, None, None]:
    """Stop a process again and again.

    Args:
        pid: The process.
        stopped: Seconds that it is stopped at a time.
        running: Seconds that it runs between.
    """
    done = threading.Event()

    def work() -> None:
        while not done.wait(running):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(stopped)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
