"""`HttpServer`: the one file that knows the HTTP server, aiohttp's.

It reads a request whole, up to a size, asks for the reply, and sends it. When the
client leaves, the task that answers it is cancelled, and with that its run.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.serving.exchange import Pieces, Refused, Reply, Request

logger = logging.getLogger("inf_engine")

MOST_BYTES = 4 * 2**20
_READ_SECONDS = 30.0  # for a body; who sends slower is sent away
_END_SECONDS = 2.0  # for what was cancelled


class HttpServer:
    """A server on the running loop.

    Args:
        answer: Gives the reply to a request, or raises `Refused`.
        host: The address.
        port: The port, 0 for any.
        most_bytes: The largest body of a request.
        tls: The certificate and its key, for HTTPS; None for HTTP.
    """

    def __init__(
        self,
        answer: Callable[[Request], Awaitable[Reply]],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        most_bytes: int = MOST_BYTES,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._answer = answer
        self._host, self.port = host, port
        self._most_bytes = most_bytes
        self._tls = tls
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._runner: Any = None
        self._site: Any = None
        self._web: Any = None

    @property
    def url(self) -> str:
        """Where it is."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http{'s' if self._tls else ''}://{host}:{self.port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            UsageError: If the address cannot be had.
        """
        import aiohttp.web  # noqa: PLC0415

        self._web = aiohttp.web
        server = aiohttp.web.Server(
            self._handle, handler_cancellation=True, access_log=None
        )
        self._runner = aiohttp.web.ServerRunner(server, shutdown_timeout=_END_SECONDS)
        await self._runner.setup()
        self._site = aiohttp.web.TCPSite(
            self._runner, self._host, self.port, ssl_context=self._tls
        )
        try:
            await self._site.start()
        except (OSError, OverflowError) as exc:
            await self._runner.cleanup()
            why = str(exc).rstrip(".")
            raise UsageError(
                f"cannot listen at {self._host} port {self.port}: {why}. Name another "
                "--host or --port."
            ) from exc
        self.port = self._runner.addresses[0][1]

    async def finish(self) -> None:
        """Listen no more, and wait until all that is under way is answered."""
        await self._site.stop()
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def close(self) -> None:
        """Close everything; what is not answered within 2 seconds is cut off."""
        await self._runner.cleanup()

    async def _handle(self, raw: Any) -> Any:
        """Answer one request of aiohttp's."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = None
        try:
            return await self._send(raw, await self._replied(raw))
        finally:
            del self._tasks[task]

    async def _replied(self, raw: Any) -> Reply:
        """Return the reply to a request."""
        try:
            return await self._answer(await self._read(raw))
        except Refused as exc:
            return exc.reply
        except Exception as exc:  # noqa: BLE001 - the client is told, and the log
            # no text and no traceback: they may hold what a model answered
            logger.error("the server failed with %s", type(exc).__name__)
            return Refused("the server failed.", 500, code="server_failed").reply

    async def _read(self, raw: Any) -> Request:
        """Return a request, read whole."""
        most, body = self._most_bytes, bytearray()
        too_large = Refused(
            f"the request is larger than {most} bytes: send less, or start the server "
            "with a larger --max-bytes.",
            413,
            headers={"Connection": "close"},
        )
        if (raw.content_length or 0) > most:
            raise too_large
        try:
            async with asyncio.timeout(_READ_SECONDS):
                async for chunk in raw.content.iter_any():
                    body += chunk
                    if len(body) > most:
                        raise too_large
        except TimeoutError as exc:
            slow = f"the body did not come within {_READ_SECONDS:.0f} s."
            raise Refused(slow, 408, headers={"Connection": "close"}) from exc
        headers = {name.lower(): value for name, value in raw.headers.items()}
        return Request(raw.method, raw.path, dict(raw.query), headers, bytes(body))

    async def _send(self, raw: Any, reply: Reply) -> Any:
        """Send a reply; one that comes in pieces is closed when nobody reads on."""
        headers = {"Server": "inf-engine", **reply.headers, "Content-Type": reply.kind}
        if isinstance(reply.body, bytes):
            return self._web.Response(
                body=reply.body, status=reply.status, headers=headers
            )
        return await self._stream(raw, reply.body, reply.status, headers)

    async def _stream(
        self,
        raw: Any,
        pieces: Pieces,
        status: int,
        headers: dict[str, str],
    ) -> Any:
        response = self._web.StreamResponse(
            status=status, headers={**headers, "Cache-Control": "no-store"}
        )
        async with contextlib.aclosing(pieces):
            await response.prepare(raw)
            async for piece in pieces:
                await response.write(piece)
        await response.write_eof()
        return response
