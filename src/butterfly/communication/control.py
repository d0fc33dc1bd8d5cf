"""`Connection`: messages between the head and a node, one JSON object a line.

Both ends prove that they know the cluster's secret before anything else is said, and
neither sends it: each answers the other's random challenge with an HMAC (RFC 2104) over
both challenges and its own role.
"""

import asyncio
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from butterfly.errors import ClusterError

MOST_BYTES = 1 << 20
"""The most bytes of a message."""

_CHALLENGE = re.compile("[0-9a-f]{32}")
_PATIENCE = 10.0  # seconds for the other end to prove itself


class Connection:
    """One end of a control connection.

    Args:
        reader: What comes.
        writer: What goes.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, host: str, port: int, secret: str) -> "Connection":
        """Return a connection to a head that proved itself.

        Args:
            host: Where the head is.
            port: Its control port.
            secret: The cluster's secret.

        Raises:
            ClusterError: If there is no head, or the secrets differ.
        """
        try:
            streams = await asyncio.open_connection(host, port, limit=MOST_BYTES)
        except OSError as exc:
            raise ClusterError(
                f"there is no head at {host}:{port} ({exc.strerror or exc}): start "
                "one with `butterfly serve --control-port PORT`."
            ) from exc
        connection = cls(*streams)
        await connection.prove(secret, "node", "head")
        return connection

    async def prove(self, secret: str, role: str, other: str) -> None:
        """Prove to the other end that both know the secret.

        Args:
            secret: The cluster's secret.
            role: What this end is: ``"head"`` or ``"node"``.
            other: What the other end is.

        Raises:
            ClusterError: If the other end did not, in time.
        """
        mine = secrets.token_hex(16)
        try:
            async with asyncio.timeout(_PATIENCE):
                self.send({"challenge": mine})
                theirs = str((await self.receive())["challenge"])
                if not _CHALLENGE.fullmatch(theirs):
                    raise ClusterError(_STRANGER)
                both = {role: mine, other: theirs}
                self.send({"proof": _proof(secret, role, both)})
                proof = str((await self.receive()).get("proof"))
        except (TimeoutError, KeyError) as exc:
            raise ClusterError(_STRANGER) from exc
        expected = _proof(secret, other, both).encode()
        if not hmac.compare_digest(proof.encode("utf-8", "replace"), expected):
            raise ClusterError(_STRANGER)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; it may still be on its way.

        Args:
            message: JSON.
        """
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            ClusterError: If the connection is closed, or what came is no message.
        """
        try:
            line = await self._reader.readuntil(b"\n")
            message = json.loads(line)
        except (asyncio.IncompleteReadError, OSError) as exc:
            raise ClusterError("the control connection was closed.") from exc
        except asyncio.LimitOverrunError as exc:
            raise ClusterError(
                f"a message of more than {MOST_BYTES} bytes came over a control "
                "connection."
            ) from exc
        except (ValueError, RecursionError) as exc:
            raise ClusterError(
                "what came over a control connection is no JSON."
            ) from exc
        if not isinstance(message, dict):
            raise ClusterError("what came over a control connection is no message.")
        return message

    @property
    def peer(self) -> str:
        """The address of the other end."""
        name = self._writer.get_extra_info("peername")
        return str(name[0]) if name else ""

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


_STRANGER = (
    "the other end of a control connection does not know the cluster's secret: give "
    "all nodes the same BUTTERFLY_SECRET."
)


def _proof(secret: str, role: str, both: Mapping[str, str]) -> str:
    said = f"{role}:{both['head']}:{both['node']}"
    return hmac.new(secret.encode(), said.encode(), "sha256").hexdigest()
