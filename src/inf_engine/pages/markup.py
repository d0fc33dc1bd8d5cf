"""Text to safe markup: escaping, numbers, long texts, values, the bare page.

What models and users wrote passes through `escape`, whole, and nothing else makes
markup of it. The page has no script and fetches nothing; its content security policy
says so to the browser too.
"""

import dataclasses
import enum
import json
import re
import reprlib
from collections.abc import Iterable
from typing import Any

from inf_engine.template import MixedText, pieces_of
from inf_engine.types import ImagePart

LONG = 1_500
LONGEST = 20_000
PREVIEW = 120
DEEPEST = 12
MOST_ITEMS = 500
MOST_PICTURE = 3_000_000  # characters of base64 of one image
MOST_PICTURES = 12_000_000  # of all on a page

PICTURE_STYLE = """
.picture-of{display:inline-block;width:220px;height:160px;margin:4px 8px 4px 0;
border:1px solid var(--line);border-radius:6px;vertical-align:middle;
background:var(--panel) center/contain no-repeat}
"""

_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_CONTROLS |= dict.fromkeys((*range(128, 160), 65534, 65535), 65533)
_CONTROLS |= dict.fromkeys((0x202D, 0x202E), 65533)  # they turn letters around
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
_ESCAPES: dict[int, int | str] = {**_CONTROLS, 0x7F: 0x2421}
_ESCAPES |= {ord(letter): entity for letter, entity in _ENTITIES.items()}
_IMAGE_TYPE = re.compile("image/[a-z]{3,8}")
_BASE64 = re.compile("[A-Za-z0-9+/]+={0,2}")
_SURROGATES = re.compile("[\ud800-\udfff]")

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a text; one with a `source` is marked.

    Args:
        text: The text.
        source: The name of what it came from, None for none.
        look: The class of the mark: ``node`` or ``parameter``.
        link: The id on the page that the source's name leads to, empty for none.
        image: An image that the text stands for, None for none.
    """

    text: str
    source: str | None = None
    look: str = "node"
    link: str = ""
    image: ImagePart | None = None


def escape(text: str) -> str:
    """Return text that is safe in HTML and SVG, also between double quotes.

    Control characters become their pictures; what no page can hold becomes U+FFFD, and
    so does what shows letters in another order than they are in (U+202D, U+202E).
    """
    text = _SURROGATES.sub("\ufffd", text.replace("\r\n", "\n"))
    return text.translate(_ESCAPES)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 node``, ``1,200 nodes``."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def seconds_text(seconds: float) -> str:
    """Return a duration as a person would write it."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.1f}".removesuffix(".0") + " ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def usd_text(cost: float | None) -> str:
    """Return an amount of USD, small ones with as many decimals as tell something."""
    if cost is None:
        return "unknown"
    if cost == 0:
        return "$0"
    if cost < 1e-6:
        return "<$0.000001"
    decimals = 2 if cost >= 100 else 4 if cost >= 0.01 else 6
    return f"${cost:,.{decimals}f}"


def text_block(pieces: Iterable[Piece], *, code: bool = False) -> str:
    """Return a text as a block; a long one folded, a huge one cut.

    Args:
        pieces: The text; marked pieces show the name of their source.
        code: Whether it is JSON rather than prose.
    """
    pieces = list(pieces)
    size = sum(len(piece.text) for piece in pieces)
    if not size:
        return '<p class="none">empty</p>'
    body, room = [], LONGEST
    for piece in pieces:
        if room > 0:
            body.append(_mark(piece, piece.text[:room]))
            body += [] if piece.image is None else [thumbnail(piece.image)]
        room -= len(piece.text)
    block = f'<pre class="{"code" if code else "text"}">{"".join(body)}</pre>'
    if size > LONGEST:
        block += f'<p class="none">{size - LONGEST:,} more characters left out</p>'
    if size <= LONG:
        return block
    start = " ".join("".join(piece.text[:PREVIEW] for piece in pieces[:9]).split())
    summary = f"<b>{size:,} characters</b> {escape(start[:PREVIEW])} …"
    return f"<details><summary>{summary}</summary>{block}</details>"


def _mark(piece: Piece, text: str) -> str:
    if piece.source is None:
        return escape(text)
    name = escape(piece.source)
    label = f'<a href="#{piece.link}">{name}</a>' if piece.link else name
    title = f"{'parameter' if piece.look == 'parameter' else 'output of'} {name}"
    return (
        f'<mark class="{piece.look}" title="{title}"><span class="source">{label}'
        f"</span>{escape(text)}</mark>"
    )


def value_block(value: Any) -> str:
    """Return a value as a block: text as it is, everything else as JSON."""
    if isinstance(value, ImagePart | MixedText):
        return text_block([piece_of(piece) for piece in pieces_of(value)])
    if isinstance(value, str) and not isinstance(value, enum.Enum):
        return text_block([Piece(value)])
    shown = json.dumps(_plain(value), indent=2, ensure_ascii=False)
    return text_block([Piece(shown)], code=True)


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a JSON value that shows any value; too deep or too many become '…'."""
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, enum.Enum) else value
    if depth >= DEEPEST:
        return "…"
    fields = None if isinstance(value, ImagePart) else _fields(value)
    if fields is not None:
        items = list(fields.items())
        shown = {_key(k): _plain(v, depth + 1) for k, v in items[:MOST_ITEMS]}
        left = len(items) - MOST_ITEMS
        return shown | ({"…": f"{left:,} more"} if left > 0 else {})
    if isinstance(value, list | tuple):
        listed = [_plain(item, depth + 1) for item in value[:MOST_ITEMS]]
        left = len(value) - MOST_ITEMS
        return [*listed, f"… {left:,} more"] if left > 0 else listed
    if isinstance(value, set | frozenset):
        return sorted(_leaf(item) for item in value)[:MOST_ITEMS]
    return _plain(value.value, depth) if isinstance(value, enum.Enum) else _leaf(value)


def _fields(value: Any) -> dict[Any, Any] | None:
    """Return the fields of a dict, dataclass or pydantic model, else None."""
    if isinstance(value, dict):
        return value
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value) if f.repr]
        return {name: getattr(value, name, None) for name in names}
    if hasattr(type(value), "__pydantic_fields__"):
        return dict(value.__dict__)
    return None


def _key(key: Any) -> str:
    return key if isinstance(key, str) else _leaf(key)


def piece_of(value: Any) -> Piece:
    """Return a text or an image as a piece of a text."""
    return Piece(str(value), image=value if isinstance(value, ImagePart) else None)


def thumbnail(image: ImagePart) -> str:
    """Return an image as markup: small, a frame where its content is not here.

    What it shows is in `pictures`, once for all places.
    """
    size = f" · {len(image.data) * 3 // 4 / 1000:,.1f} kB" if image.data else ""
    label = str(image)[1:-1] + size
    return (
        f'<span class="picture-of i{image.digest[:24]}" role="img" '
        f'aria-label="{escape(label)}" title="{escape(label)}"></span>'
    )


def pictures(images: Iterable[ImagePart]) -> str:
    """Return the style sheet with the contents of images, each once.

    Args:
        images: All images of a page; of large ones, and of very many, there are only
            frames, so that the page stays small.
    """
    each = {image.digest: image for image in images}
    rules, room = [PICTURE_STYLE] if each else [], MOST_PICTURES
    for digest, image in each.items():
        kind, data = image.media_type, image.data
        if not (_IMAGE_TYPE.fullmatch(kind) and _BASE64.fullmatch(data)):
            continue
        if len(data) > min(room, MOST_PICTURE):
            continue
        room -= len(data)
        address = f"data:{kind};base64,{data}"
        rules.append(f'.i{digest[:24]}{{background-image:url("{address}")}}')
    return "\n".join(rules)


def _leaf(value: Any) -> str:
    """Return a bounded repr, also of a value whose own repr raises."""
    shortener = reprlib.Repr()
    shortener.maxother = shortener.maxstring = LONG
    return shortener.repr(value)


def page(title: str, style: str, body: str) -> str:
    """Return a whole page.

    Args:
        title: Its title, not escaped yet.
        style: Its style sheet.
        body: What stands in its body, markup.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body>{body}</body></html>\n"
    )
