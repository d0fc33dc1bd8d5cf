"""A port, and a server on it that ends in order."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

_BACKLOG = 2048
_GRACE = 2  # seconds for answers that are being sent when the server ends


class PortServer(uvicorn.Server):
    """A server that ends at SIGINT and SIGTERM, and lets its caller end in order.

    Args:
        app: What it serves.
        lifespan: Whether the app is told of the beginning and the end.

    Attributes:
        code: The exit code: 0, or 128 and the number of the signal.
    """

    def __init__(self, app: ASGIApp, *, lifespan: bool = False) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="on" if lifespan else "off",
                access_log=False,
                log_config=None,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self.code = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take note of signals; a second one does not wait for answers."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        yield

    def _stop(self, number: int) -> None:
        self.force_exit = self.should_exit
        self.should_exit, self.code = True, 128 + number


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: The address.
        port: The port, 0 for any.

    Raises:
        OSError: If the port is taken, or the address is none of this machine.
        OverflowError: If it is no port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small pieces at once only where the protocol is named
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
