"""`serve`: the API on a port, until a signal comes."""

import asyncio
import socket

from fastapi import FastAPI

from butterfly.web.ports import PortServer, listening
from claas.api import app_of
from claas.config import Settings
from claas.errors import ConfigurationError


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
    server = _Server(app, lifespan=True)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    server.said = (
        f"claas: http://{shown}:{port}/v1 in front of {settings.server_url}, "
        f"base {settings.served}"
    )
    await server.serve(sockets=[listener])
    return server.code if server.started else 2


class _Server(PortServer):
    """A server that says when it serves."""

    said = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and say so."""
        await super().startup(sockets)
        if self.started:
            print(self.said, flush=True)  # noqa: T201


def _listening(host: str, port: int) -> socket.socket:
    """Return the socket of the API."""
    try:
        return listening(host, port)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({exc.strerror}): take another --port."
        ) from exc
