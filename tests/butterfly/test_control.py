"""Control connections: what is no message closes one, and nothing else."""

import asyncio
import json
from typing import Any

import pytest

from butterfly.communication.control import MOST_BYTES, Connection
from butterfly.errors import ClusterError

HELLO = b'{"challenge": "' + b"0" * 32 + b'"}\n'


def refused(*said: bytes) -> str:
    """Return why a head refuses an end that says something."""

    async def run() -> str:
        why: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def head(r: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
            connection = Connection(r, w)
            try:
                await connection.prove("ours", "head", "node")
                await connection.receive()
            except ClusterError as exc:
                why.set_result(str(exc))
            finally:
                connection.close()

        server = await asyncio.start_server(head, "127.0.0.1", 0, limit=MOST_BYTES)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in said:
            writer.write(part)
        try:
            return await asyncio.wait_for(why, 20)
        finally:
            writer.close()
            server.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([b"GET / HTTP/1.1\r\n\r\n"], "no JSON"),
        ([b"\xff\xfe\n"], "no JSON"),
        ([b"[" * 100_000 + b"\n"], "no JSON"),
        ([b"[1]\n"], "no message"),
        ([b"x" * (MOST_BYTES + 1)], "more than 1048576 bytes"),
        ([b"{}\n"], "does not know the cluster's secret"),
        ([b'{"challenge": "\\ud800"}\n'], "does not know the cluster's secret"),
        ([HELLO, b'{"proof": "\\u00fc\\ud800"}\n'], "does not know the cluster's"),
        ([HELLO, b'{"proof": [1]}\n'], "does not know the cluster's secret"),
    ],
)
def test_what_is_no_message_is_refused(said: list[bytes], why: str) -> None:
    """Whatever a stranger says: one error, of one kind."""
    assert why in refused(*said)


def test_the_other_end_may_be_gone() -> None:
    """A connection that closes is an error with a sentence."""

    async def run() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(json.dumps({"half": 1}).encode())
        reader.feed_eof()
        writer: Any = None  # unused
        with pytest.raises(ClusterError, match="was closed"):
            await Connection(reader, writer).receive()

    asyncio.run(run())
