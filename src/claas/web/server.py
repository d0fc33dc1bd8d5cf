"""`serve`: the API on a port, until a signal comes."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator

import uvicorn
from fastapi import FastAPI

from claas.api import app_of
from claas.config import Settings
from claas.errors import ConfigurationError

_BACKLOG = 2048
_GRACE = 2  # seconds for answers that are being sent when the server ends


def serve(settings: Settings) -> int:
    """Serve until a signal comes; return the exit code.

    Args:
        settings: What the server is told.

    Raises:
        ConfigurationError: If the settings do not fit, or the port is taken.
    """
    app = app_of(settings)
    with _listening(settings.host, settings.port) as listener:
        return asyncio.run(_served(app, settings, listener))


async def _served(app: FastAPI, settings: Settings, listener: socket.socket) -> int:
    config = uvicorn.Config(
        app,
        lifespan="on",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=_GRACE,
    )
    server = _Server(config)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    server.said = (
        f"claas: http://{shown}:{port}/v1 in front of {settings.server_url}, "
        f"base {settings.served}"
    )
    await server.serve(sockets=[listener])
    return server.code if server.started else 2


class _Server(uvicorn.Server):
    """A server that says when it serves, and ends at SIGINT and SIGTERM."""

    code = 0
    said = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and say so."""
        await super().startup(sockets)
        if self.started:
            print(self.said, flush=True)  # noqa: T201

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


def _listening(host: str, port: int) -> socket.socket:
    """Return the socket of the API."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small pieces at once only where the protocol is named
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({exc.strerror}): take another --port."
        ) from exc
    return listener
