"""What processes are told by their environment, and where they may listen."""

import ipaddress
import os
import secrets
import socket

from butterfly.errors import ConfigurationError

VERSION = "0.1.0"

SECRET = "BUTTERFLY_SECRET"
"""The variable with the cluster's secret."""

API_KEY = "BUTTERFLY_API_KEY"
"""The variable with the key that clients send."""


def secret(*, is_needed: bool) -> str:
    """Return the cluster's secret from the environment, or a new one.

    Args:
        is_needed: Whether nodes that are started by hand must know it.

    Raises:
        ConfigurationError: If it is needed, and not there.
    """
    found = os.environ.get(SECRET, "")
    if not found and is_needed:
        raise ConfigurationError(
            f"there is no cluster secret: set {SECRET} to the same value on the head "
            "and on all nodes."
        )
    return found or secrets.token_hex(16)


def address_of(host: str, *, allows_public: bool) -> str:
    """Return the address of an interface to listen on.

    Args:
        host: A name or an address.
        allows_public: Whether strangers may reach it.

    Raises:
        ConfigurationError: If there is no such host, or strangers may reach it.
    """
    address = _resolved(host)
    if not allows_public and not is_private(address):
        raise ConfigurationError(
            f"{host} may be reached by strangers: name a private or loopback address, "
            "or say --allow-public."
        )
    return address


def _resolved(host: str) -> str:
    """Return the address of a host, which may be one already."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise ConfigurationError(
            f"there is no address for {host!r}: {exc.strerror or exc}."
        ) from exc
    return str(found[0][4][0])


def place_of(host: str, port: int) -> str:
    """Return a host and a port as one word; IPv6 addresses get brackets.

    Args:
        host: A name or an address.
        port: The port.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_private(address: str) -> bool:
    """Say whether an address is this machine's, or one of a private network.

    Args:
        address: The address.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    return not found.is_unspecified and (found.is_loopback or found.is_private)


def own_address(host: str, port: int) -> str:
    """Return the address of the interface that leads to a host; nothing is sent.

    Args:
        host: The host.
        port: Any port of it.

    Raises:
        ConfigurationError: If no way leads there.
    """
    try:
        family, kind, _, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0])
    except OSError as exc:
        raise ConfigurationError(
            f"no way leads to {host}: {exc.strerror or exc}."
        ) from exc
