"""`page`: what the server shows at ``/``; it loads nothing from elsewhere."""

from importlib.resources import files

_PAGE = files("claas") / "page.html"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""What a browser may do with the page."""


def page() -> str:
    """Return the page; it asks for a key, and the API for the rest."""
    return _PAGE.read_text("utf-8")
