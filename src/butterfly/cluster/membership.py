"""`Membership`: the nodes that are here, from their joining until they are gone."""

import asyncio
import logging
import time
from typing import Any, Protocol

from butterfly.cluster.members import Member
from butterfly.cluster.options import HeadOptions
from butterfly.communication.control import MOST_BYTES, Connection
from butterfly.config import place_of
from butterfly.errors import ClusterError

_log = logging.getLogger("butterfly.head")
_SILENCE = 5.0  # seconds without a heartbeat
_PARTING = 2.0  # seconds for nodes to go home


class Watcher(Protocol):
    """Who is told what nodes do."""

    def came(self, member: Member) -> None:
        """A node is here."""
        ...

    def heard(self, member: Member, message: dict[str, Any]) -> None:
        """A node said something."""
        ...

    def left(self, member: Member, why: str) -> None:
        """A node is gone."""
        ...


class Membership:
    """The nodes that are here.

    Args:
        options: What the head was told.
        watcher: Who is told what nodes do.

    Attributes:
        members: The nodes, in the order in which they came.
    """

    def __init__(self, options: HeadOptions, watcher: Watcher) -> None:
        self.members: list[Member] = []
        self._options, self._watcher = options, watcher
        self._server: asyncio.Server | None = None
        self._visits: set[asyncio.Task[None]] = set()  # connections of nodes

    async def start(self) -> None:
        """Listen for nodes.

        Raises:
            ClusterError: If the port is taken.
        """
        o = self._options
        try:
            self._server = await asyncio.start_server(
                self._joined, o.address, o.control_port, limit=MOST_BYTES
            )
        except OSError as exc:
            raise ClusterError(
                f"cannot listen on {place_of(o.address, o.control_port)} "
                f"({exc.strerror or exc}): "
                "take another --control-port."
            ) from exc

    @property
    def port(self) -> int:
        """The port that nodes connect to."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no more, and send all nodes home."""
        if self._server is not None:
            self._server.close()
        for member in self.members:
            member.connection.send({"do": "stop"})
        if self._visits:
            await asyncio.wait(self._visits, timeout=_PARTING)
        for member in list(self.members):
            member.connection.close()
        if self._visits:
            await asyncio.wait(self._visits, timeout=_PARTING)

    def leave(self, member: Member, why: str) -> None:
        """Forget a node.

        Args:
            member: The node.
            why: What happened.
        """
        member.connection.close()
        if member not in self.members:
            return
        self.members.remove(member)
        self._watcher.left(member, why)

    def dismiss(self, member: Member, why: str) -> None:
        """Send a node away that cannot be used; it is told why, and ends.

        Args:
            member: The node.
            why: What is wrong with it.
        """
        _log.warning("%s is sent away: %s", member.name, why)
        member.connection.send({"do": "stop", "error": why})
        self.leave(member, why)

    async def watch(self) -> None:
        """Miss the heartbeats of nodes that hang."""
        while True:
            await asyncio.sleep(_SILENCE / 5)
            for member in list(self.members):
                if time.monotonic() - member.seen > _SILENCE:
                    self.leave(member, f"no heartbeat for {_SILENCE:g} s")

    async def _joined(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take in a node, and listen to it until it is gone."""
        visit: Any = asyncio.current_task()
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)
        connection = Connection(reader, writer)
        try:
            await connection.prove(self._options.secret, "head", "node")
            async with asyncio.timeout(_SILENCE):
                about = await connection.receive()
            about["pid"] = int(about.get("pid", 0))
        except (ClusterError, TimeoutError, TypeError, ValueError) as exc:
            _log.warning("a connection from %s was refused: %s", connection.peer, exc)
            connection.close()
            return
        name = str(about.get("name", ""))[:80].encode("utf-8", "replace").decode()
        member = Member(connection, name, about)
        self.members.append(member)
        self._watcher.came(member)
        try:
            while True:
                message = await connection.receive()
                member.seen = time.monotonic()
                self._watcher.heard(member, message)
        except ClusterError as exc:
            self.leave(member, str(exc))
        except (KeyError, TypeError, ValueError) as exc:
            self.leave(member, f"it sent what is no message: {exc!r}")
