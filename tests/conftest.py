"""What holds for every test: no network but loopback, no chance, no keys.

The network is closed by an audit hook, so whatever library tries to leave this
machine is stopped at the socket, with an error that no code expects or converts.
"""

import ipaddress
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.butterfly.nursery import Nursery

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")


class NetworkClosed(AssertionError):
    """A test tried to reach another machine."""


def is_local(host: object) -> bool:
    """Say whether a host is this machine, without asking a name server."""
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def close_network(event: str, args: tuple[Any, ...]) -> None:
    """Refuse the socket events that would leave this machine."""
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # else a unix path
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if not is_local(host):
        raise NetworkClosed(
            f"a test tried to reach {host!r}; tests talk to 127.0.0.1 only"
        )


sys.addaudithook(close_network)

for name in KEYS:  # a test must never spend a developer's money
    os.environ.pop(name, None)

hypothesis.settings.register_profile(
    "same every time",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("same every time")


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Nursery"]:
    """What starts processes of butterfly, for its tests and for those of claas."""
    from tests.butterfly.nursery import Nursery  # noqa: PLC0415

    found = Nursery(tmp_path_factory.mktemp("said"))
    try:
        yield found
    finally:
        found.close()
