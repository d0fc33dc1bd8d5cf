"""`KeyGuard`: the API key, before the endpoints."""

import hmac

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from butterfly.web.failures import error_body

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
