"""`Connection`: the server's end of one connection, HTTP/1.1 by hand.

Reads a request, asks the `Desk` for the reply, sends it, reads the next, and tells the
`Counters`. There is no task, only timers.

What is known about an answer's way back. A write goes to the kernel at once; what does
not fit stays in the transport, which then says `pause_writing`, and `resume_writing`
when the kernel has taken the rest (the limits of its buffer are 0). So a reply counts
as sent when the kernel has it, on a connection that the client was not seen to close.
It cannot be known whether the client read it.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from inf_engine.testing.counters import Counters
from inf_engine.testing.desk import Desk
from inf_engine.testing.exchange import Reply, ServerRequest, chunk

OVERSIZED_BYTES = 100 * 2**20
"""After how many bytes an oversized body ends."""

TRICKLE_SECONDS = 0.01
"""Seconds between the pieces of a trickled answer, if the server has no others."""

_BLOCK = 64 * 2**10
_HEADS_KEPT = 1000

Head = tuple[str, dict[str, str], int]
"""A parsed head: the path, the headers, the length of the body."""


class Connection(asyncio.Protocol):
    """One connection of a loopback server.

    Args:
        desk: What decides.
        counters: What counts.
        loop: The loop it runs in.
        heads: The heads that were parsed so far, shared by the connections.
    """

    def __init__(
        self,
        desk: Desk,
        counters: Counters,
        loop: asyncio.AbstractEventLoop,
        heads: dict[bytes, Head],
    ) -> None:
        self._desk = desk
        self._counters = counters
        self._loop = loop
        self._heads = heads
        self._buffer = b""
        self._transport: Any = None
        self._timer: asyncio.Handle | None = None
        self._busy = False
        self._begun = False
        self._paused = False
        self._unflushed = 0
        self._flood_left = 0

    def connection_made(self, transport: Any) -> None:
        """Count it in."""
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        self._counters.on_open(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count out the request that was being answered."""
        if self._timer is not None:
            self._timer.cancel()
        busy, self._busy = self._busy, False
        self._counters.on_close(self, busy=busy, begun=self._begun)

    def cut(self) -> None:
        """Reset the connection."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect, and answer when a request is there."""
        self._buffer += data
        if not self._busy:
            self._read()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        self._paused = True

    def resume_writing(self) -> None:
        """All that was written is with the kernel."""
        self._paused = False
        unflushed, self._unflushed = self._unflushed, 0
        for _ in range(unflushed):
            self._counters.on_flush()
        if self._flood_left:
            self._flood()

    def _read(self) -> None:
        """Take a request off the buffer, if it is there whole, and answer it."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        path, headers, length = self._heads.get(head) or self._parsed_head(head)
        end += 4
        if len(self._buffer) < end + length:
            return
        body = self._buffer[end : end + length]
        self._buffer = self._buffer[end + length :]
        self._accept(path, headers, body)

    def _parsed_head(self, head: bytes) -> Head:
        """Parse a head and keep it: clients send the same again and again."""
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", 0))
        if len(self._heads) >= _HEADS_KEPT:
            self._heads.clear()
        self._heads[head] = parsed = (first.split(" ")[1], headers, length)
        return parsed

    def _accept(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Count a request in and answer it after the latency."""
        now = self._loop.time()
        counters, desk = self._counters, self._desk
        request = ServerRequest(
            counters.count, path, headers.copy(), _parsed(body), now
        )
        self._busy, self._begun = True, False
        counters.on_request(request)
        refusal = desk.refusal(request, counters.in_flight)
        if refusal is not None:
            self._answer(refusal)
            return
        wait = desk.wait(request)
        if wait <= 0:
            self._answer(desk.reply(request))
        elif desk.limits is None:
            self._timer = self._loop.call_soon(self._answer_at, now + wait, request)
        else:
            self._answer_at(now + wait, request)

    def _answer_at(self, then: float, request: ServerRequest) -> None:
        """Make the reply while its latency passes.

        Other requests are read first, unless the tokens of this answer count at once.
        """
        reply = self._desk.reply(request)
        self._timer = self._loop.call_at(then, self._answer, reply)

    def _answer(self, reply: Reply) -> None:
        """Send the reply, or do what the fault says."""
        self._begun = True
        self._counters.on_reply(reply)
        if reply.fault == "reset":
            self.cut()
        elif reply.fault == "oversized":
            self._transport.write(reply.head())
            self._flood_left = OVERSIZED_BYTES
            self._transport.write(
                chunk(b'data: {"x": "' if reply.streamed else b'{"x": "')
            )
            self._flood()
        elif reply.fault != "hang":
            self._send_reply(reply)

    def _send_reply(self, reply: Reply) -> None:
        """Send the head and the first frame, or all of them if there is no delay."""
        delay = self._desk.piece_latency if reply.streamed else 0.0
        if reply.fault == "trickle":
            delay = self._desk.piece_latency or TRICKLE_SECONDS
        frames = reply.frames()
        frame = next(frames, None)
        if delay > 0 and frame is not None:
            self._transport.write(reply.head())
            self._send_frames(reply, frame, frames, delay)
        else:
            self._transport.write(reply.head() + (frame or b"") + b"".join(frames))
            self._end(reply)

    def _send_frames(
        self, reply: Reply, frame: bytes, frames: Iterator[bytes], delay: float
    ) -> None:
        """Send a frame and set the timer for the next; with the last one it ends."""
        self._transport.write(frame)
        following = next(frames, None)
        if following is None:
            self._end(reply)
        else:
            self._timer = self._loop.call_later(
                delay, self._send_frames, reply, following, frames, delay
            )

    def _flood(self) -> None:
        """Send blocks of an endless body until the client does not keep up, or left."""
        if self._paused or self._transport.is_closing():
            return
        self._flood_left -= _BLOCK
        self._transport.write(chunk(b"x" * _BLOCK))
        if self._flood_left <= 0:
            self._flood_left = 0
            self._transport.close()
        elif not self._paused:
            self._timer = self._loop.call_soon(self._flood)

    def _end(self, reply: Reply) -> None:
        """Count the request out; read the next one, or close."""
        self._busy = False
        self._timer = None
        if reply.complete and not self._transport.is_closing():
            if self._paused:
                self._unflushed += 1
            else:
                self._counters.on_flush()
        if reply.closes:
            self._transport.close()
        self._counters.on_end()
        if self._buffer and not reply.closes:
            self._read()


def _parsed(body: bytes) -> dict[str, Any]:
    """The JSON object in a body, empty if there is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
