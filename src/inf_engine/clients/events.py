"""Server-sent events: cutting them out of the bytes that carry them."""

EVENT_STREAM = "text/event-stream"

_STARTS = (b"data:", b"event:", b":")


def looks_like_events(body: bytes) -> bool:
    """Say whether a body is events, of a server that calls its content otherwise."""
    return body.lstrip().startswith(_STARTS)


class EventDecoder:
    """Cuts a stream of bytes into the data of server-sent events.

    Comments, event names and ids are left out: both providers repeat the name in the
    data. Lines end in ``\\n`` or ``\\r\\n``, and may have any length.
    """

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        self._lines: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes, in order."""
        if b"\n" not in chunk:
            self._tail.append(chunk)
            return []
        if self._tail:
            chunk = b"".join((*self._tail, chunk))
        *lines, rest = chunk.split(b"\n")
        self._tail = [rest] if rest else []
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._lines.append(line[5:].removeprefix(b" "))
            elif not line:
                events.extend(self.end())
        return events

    def end(self) -> list[bytes]:
        """Return the event whose lines are complete but for the blank one, if any."""
        lines, self._lines = self._lines, []
        return [b"\n".join(lines)] if lines else []
