"""`serve`: a head, its API, and nodes on the same machine."""

import asyncio
import logging
import socket
from dataclasses import dataclass

from butterfly.api.app import MOST_BYTES, create_app
from butterfly.cluster.children import Children
from butterfly.cluster.head import Head
from butterfly.cluster.options import HeadOptions
from butterfly.config import place_of
from butterfly.errors import ClusterError, ConfigurationError
from butterfly.web.ports import PortServer, listening

_log = logging.getLogger("butterfly.server")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What a server can be told.

    Args:
        head: What its head is told.
        nodes: How many nodes to start here.
        host: The address of the API.
        port: Its port, 0 for any.
        name: What the model is called; empty for the name it was given by.
        api_key: What clients must send; empty for nothing.
        most_bytes: The most bytes of a request.
        threads: How many threads a node computes with.
        tensor: How many processes compute each layer of a node together.
    """

    head: HeadOptions
    nodes: int
    host: str = "127.0.0.1"
    port: int = 8000
    name: str = ""
    api_key: str = ""
    most_bytes: int = MOST_BYTES
    threads: int = 1
    tensor: int = 1

    @property
    def needed(self) -> int:
        """How many nodes all rings need."""
        plan = self.head.plan
        if plan is not None:
            return sum(len(chain.stages) for chain in plan.chains)
        return self.head.stages * self.head.replicas


async def serve(options: ServeOptions) -> int:
    """Serve until a signal comes; return the exit code.

    Args:
        options: What to serve, and where.

    Raises:
        ConfigurationError: If the model cannot be served.
        ClusterError: If a port is taken, or the nodes that were started here cannot
            hold the model.
    """
    with _listening(options.host, options.port) as listener:
        head = Head(options.head)
        app = create_app(
            head,
            name=options.name,
            api_key=options.api_key,
            most_bytes=options.most_bytes,
        )
        server = _Server(app)
        await head.start()
        o = options.head
        children = Children(
            *(options.nodes, o.address, head.port, o.secret),
            *("--threads", str(options.threads), "--tensor", str(options.tensor)),
            *("--address", o.address),
        )
        children.start()
        said = asyncio.ensure_future(_announce(head, options, listener))
        works = asyncio.ensure_future(_works(head, children, server))
        try:
            await server.serve(sockets=[listener])
        finally:
            said.cancel()
            works.cancel()
            await children.release()
            await head.close()
            await children.close()
        if server.error:
            raise ClusterError(server.error)
        return server.code


class _Server(PortServer):
    """A server that may end because of its nodes."""

    error = ""


async def _works(head: Head, children: Children, server: _Server) -> None:
    """End a server whose nodes never could hold the model."""
    ready = asyncio.ensure_future(head.ready(float("inf")))
    refused = asyncio.ensure_future(children.refused.wait())
    try:
        await asyncio.wait({ready, refused}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            server.error = head.failure or "a node ended at once: see what it said."
            server.should_exit = True
    finally:
        ready.cancel()
        refused.cancel()


def _listening(host: str, port: int) -> socket.socket:
    """Return the socket of the API."""
    try:
        return listening(host, port)
    except OSError as exc:
        raise ClusterError(
            f"cannot listen on {place_of(host, port)} ({exc.strerror}): take another "
            "--port."
        ) from exc
    except OverflowError as exc:
        raise ConfigurationError(f"{port} is no port: 0 to 65535.") from exc


async def _announce(head: Head, options: ServeOptions, listener: socket.socket) -> None:
    """Say where the API is, and when it serves."""
    host, port = listener.getsockname()[:2]
    name = options.name or options.head.model
    print(f"butterfly: http://{place_of(host, port)}/v1 will serve {name}", flush=True)  # noqa: T201
    if options.nodes < options.needed:
        where = place_of(options.head.address, head.port)
        print(f"butterfly: waiting for `butterfly node --join {where}`", flush=True)  # noqa: T201
    if options.head.plan is not None:
        print(f"butterfly: {head.lacks}", flush=True)  # noqa: T201
    await head.ready(float("inf"))
    roles = [member.role for member in head.stages if member.role]
    shares = ", ".join([f"{r.first}-{r.last - 1}" for r in roles])
    print(f"butterfly: ready, layers {shares}", flush=True)  # noqa: T201
