"""One exchange with the loopback server: the request as it came, the reply as it goes.

A reply is decided whole, fault included, before its first byte leaves. What is written
after the head is a sequence of `Reply.frames`; when they are written is the matter of
the connection.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inf_engine.testing.replies import error_body

OPENAI_PATH = "/v1/chat/completions"
ANTHROPIC_PATH = "/v1/messages"

TRICKLE_PIECES = 32
"""In how many pieces, at most, a trickled answer comes."""

_HALVED = ("truncate", "short")
_PLAIN = b"HTTP/1.1 200 Loopback\r\nContent-Type: application/json\r\n"
_BODIES = {"malformed": b'{"choices": [', "content-type": b"<html>It works!</html>\n"}


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A request as it arrived.

    Args:
        index: How many requests came before it.
        path: The path, query included.
        headers: The headers, names in lower case.
        body: The JSON object in the body; empty if there is none.
        arrival: When its last byte was there, in seconds of the server's loop.
    """

    index: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    arrival: float

    @property
    def is_anthropic(self) -> bool:
        """Whether it asks Anthropic's API."""
        return self.path.partition("?")[0] == ANTHROPIC_PATH


@dataclass(slots=True)
class Reply:
    """What goes back: whole, or event by event.

    Args:
        status: The HTTP status.
        headers: Headers besides (or in place of) the type and the length.
        parts: The body; of a stream, its events.
        fault: The name of what goes wrong, None if nothing does.
        streamed: Whether it is a stream of events.
        tokens: The tokens that the answer used.
    """

    status: int
    headers: Mapping[str, str]
    parts: list[bytes]
    fault: str | None = None
    streamed: bool = False
    tokens: int = 0

    @property
    def complete(self) -> bool:
        """Whether it is, once all is sent, a whole 200 answer."""
        return self.status == 200 and self.fault in (None, "trickle")

    @property
    def closes(self) -> bool:
        """Whether the connection is closed after it."""
        halved = self.fault == "short" and not self.streamed
        return halved or self.fault in ("truncate", "half-head", "oversized")

    def head(self) -> bytes:
        """Return the status line and the headers."""
        length = sum(map(len, self.parts))
        if self.status == 200 and not (self.streamed or self.headers or self.fault):
            return b"%bContent-Length: %d\r\n\r\n" % (_PLAIN, length)
        kind = "text/event-stream" if self.streamed else "application/json"
        headers = {"Content-Type": kind, **self.headers}
        if self.streamed or self.fault == "oversized":
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(length)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {self.status} Loopback\r\n{lines}\r\n".encode()
        if self.fault == "half-head":
            return head[: (head.index(b"\r\n") + 2 + len(head)) // 2]
        return head

    def frames(self) -> Iterator[bytes]:
        """Yield what is written after the head, in order, as far as the fault goes."""
        if self.fault == "half-head":
            return
        for part in self._pieces():
            yield chunk(part) if self.streamed else part
        if self.streamed and self.fault != "truncate":
            yield chunk(b"")

    def _pieces(self) -> list[bytes]:
        """The parts of the body that are sent."""
        if self.fault == "trickle":
            body = b"".join(self.parts)
            size = -(-len(body) // TRICKLE_PIECES) or 1
            return [body[n : n + size] for n in range(0, len(body), size)]
        if self.fault not in _HALVED:
            return self.parts
        if self.streamed:
            return self.parts[: len(self.parts) // 2]
        body = b"".join(self.parts)
        return [body[: len(body) // 2]]


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body; the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def faulty(fault: str, *, streamed: bool) -> Reply:
    """Return the reply to a request that gets a named fault and no answer.

    Args:
        fault: One of "reset", "hang", "malformed", "content-type", "oversized".
        streamed: Whether a stream was asked for.
    """
    body = [_BODIES[fault]] if fault in _BODIES else []
    if fault == "content-type":
        return Reply(200, {"Content-Type": "text/html"}, body, fault)
    endless = fault == "oversized" and streamed
    return Reply(200, {}, body, fault, streamed=endless)


def refused(
    request: ServerRequest, status: int, headers: Mapping[str, str], body: Any
) -> Reply:
    """Return the reply with a status.

    Args:
        request: What is refused.
        status: The HTTP status.
        headers: Its headers.
        body: Text or a JSON value; a text becomes the message of a provider's error,
            unless the status is 200 or it is markup.
    """
    if status != 200 and isinstance(body, str) and not body.startswith("<"):
        body = error_body(status, body, anthropic=request.is_anthropic)
    text = body if isinstance(body, str) else json.dumps(body)
    return Reply(status, headers, [text.encode()])
