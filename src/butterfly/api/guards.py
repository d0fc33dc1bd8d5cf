"""Guards before the endpoints: the API key, and how large a request may be."""

import hmac
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from butterfly.api.refusals import error_body

OPEN = ("/", "/health")
"""What needs no key; the page asks for it itself."""


class KeyGuard:
    """Refuses requests without the API key.

    Args:
        app: What is behind it.
        key: The key; it is compared in constant time.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, key = given.partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key):
            await self._app(scope, receive, send)
            return
        said = "the API key is missing or wrong: send 'Authorization: Bearer KEY'."
        body = error_body(said, 401, code="invalid_api_key")
        await JSONResponse(body, 401)(scope, receive, send)


class SizeGuard:
    """Refuses requests that are too large, before they are read to the end.

    Args:
        app: What is behind it.
        most: The most bytes of a body.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told) > self._most:
            await self._refusal()(scope, receive, send)
            return
        await self._counted(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and count what comes of it."""
        count, is_answered = 0, False

        async def counting() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self._most:
                raise _TooLarge
            return message

        async def sending(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        try:
            await self._app(scope, counting, sending)
        except _TooLarge:
            if not is_answered:
                await self._refusal()(scope, receive, send)

    def _refusal(self) -> JSONResponse:
        body: dict[str, Any] = error_body(
            f"the request is larger than {self._most} bytes: send less, or serve with "
            "a larger --body.",
            413,
        )
        return JSONResponse(body, 413)


class _TooLarge(BaseException):
    """More came than may come; no handler of errors on the way may answer it."""
