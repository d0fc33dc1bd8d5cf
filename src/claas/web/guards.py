"""Guards before the endpoints: whose key, and how many requests."""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from claas.errors import LimitError
from claas.web.refusals import Refusal, response_of

OPEN = ("/", "/v1/health")
"""What needs no key; the page asks for it itself."""


class KeyGuard:
    """Refuses requests without a user's key; says to the others whose it is.

    All keys are compared, each in constant time, whichever one fits.

    Args:
        app: What is behind it.
        users: The key of each user.
    """

    def __init__(self, app: ASGIApp, users: Mapping[str, str]) -> None:
        self._app = app
        self._users = {name: _digest(key.encode()) for name, key in users.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        user = self._user(dict(scope["headers"]).get(b"authorization", b""))
        if user:
            scope.setdefault("state", {})["user"] = user
            await self._app(scope, receive, send)
            return
        exc = Refusal(
            "the API key is missing or wrong: send 'Authorization: Bearer KEY'.",
            status=401,
            code="invalid_api_key",
        )
        await response_of(exc)(scope, receive, send)

    def _user(self, given: bytes) -> str:
        """Return whose key a header has; empty for nobody's."""
        kind, _, key = given.partition(b" ")
        digest = _digest(key.strip() if kind.lower() == b"bearer" else b"")
        fits = [n for n, d in self._users.items() if hmac.compare_digest(d, digest)]
        return fits[0] if fits else ""


@dataclass(slots=True)
class _Use:
    """What a user does at the moment.

    Args:
        open: How many of his requests are open.
        left: How many more he may send at once.
        at: When `left` was true, seconds.
    """

    open: int
    left: float
    at: float


class RateGuard:
    """Refuses the requests of a user who has too many.

    Args:
        app: What is behind it.
        most: How many of a user may be open at once.
        per_minute: How many he may send in a minute; 0 for any number.
        clock: Returns seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        most: int,
        per_minute: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._most, self._rate = app, most, per_minute
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        user = scope.get("state", {}).get("user", "")
        if scope["type"] != "http" or not user:
            await self._app(scope, receive, send)
            return
        use = self._uses.setdefault(user, _Use(0, self._rate, self._clock()))
        if said := self._surplus(use):
            await response_of(LimitError(said))(scope, receive, send)
            return
        use.open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            use.open -= 1

    def _surplus(self, use: _Use) -> str:
        """Return what is too much, empty if nothing is; count the request if so."""
        if use.open >= self._most:
            return f"{use.open} of your requests are open: wait until one has ended."
        if not self._rate:
            return ""
        now = self._clock()
        use.left = min(self._rate, use.left + (now - use.at) * self._rate / 60)
        use.at = now
        if use.left < 1:
            return f"you may send {self._rate} requests in a minute: send fewer."
        use.left -= 1
        return ""


def _digest(key: bytes) -> bytes:
    """Return what is compared instead of a key: always as long."""
    return hashlib.sha256(key).digest()
