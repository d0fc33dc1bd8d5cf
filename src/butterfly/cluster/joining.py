"""How the head makes its store, and joins a ring without waiting for ever."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from butterfly.errors import ButterflyError, ClusterError

T = TypeVar("T")
_PATIENCE = 30.0  # seconds for the store to answer


def store_at(address: str) -> dist.TCPStore:
    """Return a store at an address; by itself TCPStore listens at all of them.

    Args:
        address: The address of an interface.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        port = listener.getsockname()[1]
        return dist.TCPStore(
            *(address, port, None, True),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )


def store_of(host: str, port: int) -> dist.TCPStore:
    """Return a connection of one's own to a store.

    Who waits in a store blocks all who share the connection; one who waits for a node
    that is gone does so for minutes.

    Args:
        host: Where the store is.
        port: Its port.
    """
    return dist.TCPStore(host, port, None, False, timedelta(seconds=_PATIENCE))


async def joined(join: Callable[[threading.Event], T], lost: asyncio.Event) -> T:
    """Join a ring in a thread, which ends if a node is lost meanwhile.

    Args:
        join: What joins it, and returns it or what it found there; it is given what is
            set when nobody waits for it any more.
        lost: Set when a node of the ring is gone.

    Raises:
        ClusterError: If a node was lost.
        LinkError: If the ring was not whole in time.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[T | ButterflyError] = loop.create_future()
    over = threading.Event()

    def work() -> None:
        found: T | ButterflyError
        try:
            found = join(over)
        except ButterflyError as exc:
            found = exc
        except (RuntimeError, MemoryError) as exc:  # no room for frames, for example
            found = ClusterError(f"the head could not join its ring: {exc}"[:500])
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: told.done() or told.set_result(found))

    threading.Thread(target=work, name="joining", daemon=True).start()
    gone = asyncio.ensure_future(lost.wait())
    try:
        await asyncio.wait({told, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            raise ClusterError("a node was lost before its ring was whole.")
        found = told.result()
        if isinstance(found, ButterflyError):
            raise found
        return found
    finally:
        over.set()
        gone.cancel()
        told.cancel()
