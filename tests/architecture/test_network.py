"""The tests themselves stay on this machine."""

import asyncio
import os
import socket

import pytest


def test_a_connection_to_another_machine_is_refused() -> None:
    """A socket to a public address raises before a packet is sent."""
    with socket.socket() as s, pytest.raises(AssertionError, match=r"127\.0\.0\.1"):
        s.connect(("192.0.2.1", 80))


def test_a_foreign_name_is_not_looked_up() -> None:
    """A host name is refused before a name server is asked."""
    with pytest.raises(AssertionError, match=r"tried to reach 'example\.invalid'"):
        socket.getaddrinfo("example.invalid", 80)


async def test_asyncio_is_refused_too() -> None:
    """The hook also holds under asyncio's own connect."""
    with pytest.raises(AssertionError, match=r"tried to reach '192\.0\.2\.1'"):
        await asyncio.open_connection("192.0.2.1", 80)


async def test_loopback_is_open() -> None:
    """A server on 127.0.0.1 can be reached, by address and as localhost."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            reader, writer = await asyncio.open_connection(host, port)
            assert await reader.read() == b"here"
            writer.close()
            await writer.wait_closed()


def test_no_key_of_the_developer_is_visible() -> None:
    """Tests run without the provider keys of the environment."""
    assert not {"OPENAI_API_KEY", "ANTHROPIC_API_KEY"} & set(os.environ)
