"""`Access`: who may ask.

With a key: ``Authorization: Bearer KEY``, and for pages in a browser its own log-in
(Basic, any name, the key as the password). Only what reads may use the latter, because
a browser sends it along with what a foreign page asks for.

Without a key the server listens on this machine only, and answers only what was asked
under this machine's own name: a foreign page whose name is made to lead here (DNS
rebinding) is refused.
"""

import base64
import binascii
import hmac

from inf_engine.serving.exchange import Refused, Request

_OPEN = ("/health",)
_OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Access:
    """Decides who may ask.

    Args:
        key: The key; None for anybody on this machine.
    """

    def __init__(self, key: str | None) -> None:
        self._key = None if key is None else key.encode(errors="surrogateescape")

    def check(self, request: Request) -> None:
        """Let a request pass.

        Args:
            request: The request.

        Raises:
            Refused: If it has not the key.
        """
        if request.path in _OPEN:
            return
        if self._key is None:
            _check_host(request.headers.get("host", ""))
            return
        given = _given(request)
        # in constant time; of a wrong length, too, nothing but that is told
        if given is None or not hmac.compare_digest(given, self._key):
            raise Refused(
                "the API key is missing or wrong. Send Authorization: Bearer KEY.",
                401,
                code="invalid_api_key",
                headers=_ask_browser(request),
            )


def _given(request: Request) -> bytes | None:
    """Return the key that came with a request."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip().encode(errors="surrogateescape")
    if kind.lower() != "basic" or request.method not in ("GET", "HEAD"):
        return None
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return None


def _ask_browser(request: Request) -> dict[str, str]:
    """Return the header with which a browser asks its user for the key."""
    if "text/html" not in request.headers.get("accept", ""):
        return {"WWW-Authenticate": "Bearer"}
    return {"WWW-Authenticate": 'Basic realm="inf-engine", charset="UTF-8"'}


def _check_host(host: str) -> None:
    name = host.rpartition(":")[0] if not host.endswith("]") else host
    if (name or host).lower() not in _OWN_NAMES:
        raise Refused(
            "without an API key only requests to localhost are answered. Start the "
            "server with --api-key-env.",
            403,
        )
