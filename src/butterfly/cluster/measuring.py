"""What a node answers when the head asks it to measure: itself, or a link."""

import threading
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from butterfly.cluster.profile import link_of, node_of
from butterfly.communication.links import Ring
from butterfly.engine.weights import Checkpoint
from butterfly.errors import ButterflyError
from butterfly.partitioning import Link

_LARGE = 1 << 19  # bytes of a frame that shows the bandwidth
_PATIENCE = 20.0  # seconds for the other end of a link


def answered(
    message: Mapping[str, Any], host: str, address: str, **machine: Any
) -> dict[str, Any]:
    """Return the answer to a message that asks for a measurement.

    Args:
        message: With a ``key``, and the ``model`` for the node itself, or the ``ring``
            of a link to be measured with its other end.
        host: Where the head is.
        address: The address of the interface that frames come in at.
        **machine: `name`, `device`, `memory` and `tensor` as in `node_of`.
    """
    told = {"event": "measured", "key": message["key"]}
    try:
        if "ring" in message:
            port, patience = int(message["store_port"]), timedelta(seconds=_PATIENCE)
            store = dist.TCPStore(host, port, None, False, patience)
            link = linked(store, message["ring"], int(message["rank"]), address)
            return {**told, "link": asdict(link)}
        kind = getattr(torch, message["dtype"])
        checkpoint = Checkpoint.of(message["model"])
        return {
            **told,
            "node": asdict(node_of(**machine, checkpoint=checkpoint, dtype=kind)),
        }
    except (ButterflyError, RuntimeError, OSError, MemoryError) as exc:
        return {**told, "error": f"{type(exc).__name__}: {exc}"[:500]}


def linked(
    store: Any,
    name: str,
    rank: int,
    address: str,
    over: threading.Event | None = None,
) -> Link:
    """Measure the link to the other end of a ring of two; both call it.

    Args:
        store: The head's store.
        name: The ring's random name.
        rank: 0 or 1.
        address: The address of the interface to use.
        over: As for `Ring`.

    Raises:
        LinkError: If the other end does not come, or the link broke.
    """
    ring = Ring(
        *(store, name, 0, rank, 2),
        frame_bytes=_LARGE + 4096,
        depth=2,
        address=address,
        patience=_PATIENCE,
        over=over,
    )
    return link_of(ring, is_first=rank == 0, size=_LARGE)
