"""`Member`: a node that joined, as the head knows it."""

import time
from dataclasses import dataclass, field
from typing import Any

from butterfly.cluster.roles import Role
from butterfly.communication.control import Connection


@dataclass(slots=True, eq=False)
class Member:
    """A node that joined.

    Args:
        connection: Its control connection.
        name: What it is called.
        about: What it said of itself.
        role: What it is in the present epoch, None for a standby.
        seen: When it was last heard of, on the monotonic clock.
        is_ready: Whether it has loaded what it was asked to prepare.
        told: What its last heartbeat said.
        is_asleep: Whether it gave its layers away.
        answers: What it measured, by the key that it was asked with.
        adapters: Why it could not load an adapter, empty if it could, by number.
        prepared: The layers that it was asked to load as a standby.
        has_served: Whether an epoch with it was whole.
        stuck: How often frames got stuck at it lately.
        speed: Its speed by that of the others, None if it was never told apart.
    """

    connection: Connection
    name: str
    about: dict[str, Any]
    role: Role | None = None
    seen: float = field(default_factory=time.monotonic)
    is_ready: bool = False
    told: dict[str, Any] = field(default_factory=dict)
    is_asleep: bool = False
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    adapters: dict[int, str] = field(default_factory=dict)
    prepared: tuple[int, int] | None = None
    has_served: bool = False
    stuck: int = 0
    speed: float | None = None

    def beat(self, message: dict[str, Any]) -> None:
        """Take a heartbeat.

        Args:
            message: What came.

        Raises:
            TypeError: If it is none; ValueError, too.
        """
        told: dict[str, Any] = {"epoch": message.get("epoch")}
        told["busy"] = float(message.get("busy", 0.0))
        for end in ("sent", "received"):
            frames, size, waited = message.get(end, (0, 0, 0.0))
            told[end] = int(frames), int(size), float(waited)
        self.told = told
