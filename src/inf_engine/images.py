"""`Image`: an image as an input of a module.

It is read when it is made, so a missing file or a file of another kind is told at
once. What counts is its content: journal, cache and inputs know it by its SHA-256.
An image by address (http, https) is not fetched here; its provider does that.

In an f-string inside ``forward``, and in a field of a prompt template, it is a hole
of its own, and the model gets the image there. Everywhere else its text is its name.
"""

import base64
import io
import os
import re
import struct
from pathlib import Path
from typing import Any

from inf_engine.dispatch import dispatcher
from inf_engine.errors import UsageError
from inf_engine.types import ImagePart

MOST_BYTES = 20_000_000
"""The largest image that is taken; some providers take smaller ones only."""

_PIXELS_PER_TOKEN = 750  # as Anthropic counts; OpenAI's tiles are about as many
_FEWEST_TOKENS, _MOST_TOKENS = 85, 1600
_FORMATS = "PNG, JPEG, GIF or WebP"
_DATA_URL = re.compile(r"data:([\w/+.-]*)((?:;[\w=.-]+)*?)(;base64)?,", re.IGNORECASE)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's start of a frame
_SAVED = ("PNG", "JPEG", "GIF", "WEBP")


class Image(ImagePart):
    """An image, known by its content.

    Args:
        source: A path; the bytes of a file; an address (http, https, data); a Pillow
            image; or an `ImagePart`. PNG, JPEG, GIF and WebP are taken.

    Raises:
        UsageError: If there is no such file, or it is no image, or too large.

    Example:
        >>> dot = Image(bytes.fromhex("47494638396101000100") + b"\\0\\0\\0;")
        >>> dot.media_type, dot.width, dot.height
        ('image/gif', 1, 1)
    """

    __slots__ = ("_digest",)

    _digest: str

    def __init__(self, source: Any) -> None:
        url, content = _read(source)
        media_type = "image/png" if url else _media_type(content, _told(source))
        encoded = base64.b64encode(content).decode()
        super().__init__(url, encoded, media_type)

    @property
    def digest(self) -> str:
        """The SHA-256 of its content, hex; of its address where that is all."""
        try:
            return self._digest
        except AttributeError:  # not asked yet, or a copy
            object.__setattr__(self, "_digest", super().digest)
            return self._digest

    @property
    def width(self) -> int:
        """Its width in pixels, 0 if that is not known."""
        return _size_of(self._head)[0]

    @property
    def height(self) -> int:
        """Its height in pixels, 0 if that is not known."""
        return _size_of(self._head)[1]

    @property
    def size(self) -> int:
        """Its bytes; 0 for one by address."""
        return len(self.data) * 3 // 4 - self.data[-2:].count("=")

    @property
    def tokens(self) -> int:
        """About how many tokens it is."""
        if not (pixels := self.width * self.height):
            return super().tokens
        return min(max(pixels // _PIXELS_PER_TOKEN, _FEWEST_TOKENS), _MOST_TOKENS)

    @property
    def name(self) -> str:
        """What stands for it in a text."""
        return str(self)

    @property
    def value(self) -> "Image":
        """Itself, as a `Parameter` has a value."""
        return self

    @property
    def _head(self) -> bytes:
        """The first bytes of its content, which tell its size."""
        return base64.b64decode(self.data[:400_000])

    def __str__(self) -> str:
        if not self.data:
            return super().__str__()
        size = f"{self.width}x{self.height} " if self.width else ""
        return f"[{self.media_type} {size}{self.digest[:12]}]"

    def __format__(self, spec: str) -> str:
        answer = dispatcher.get()
        if answer is None:
            return format(str(self), spec)
        return answer.format_parameter(self, spec)


def _read(source: Any) -> tuple[str, bytes]:
    """Return the address of an image, or its content."""
    if isinstance(source, ImagePart):
        return _read(source.url) if source.url else ("", source.content)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return source, b""
    if isinstance(source, str) and source.startswith("data:"):
        return "", _of_data_url(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "", bytes(source)
    if isinstance(source, (str, os.PathLike)):
        return "", _of_file(Path(source))
    if callable(getattr(source, "save", None)) and hasattr(source, "mode"):
        return "", _of_pillow(source)
    raise UsageError(
        "an Image is made of a path, bytes, an address or a Pillow image, not of "
        f"{type(source).__name__}."
    )


def _told(source: Any) -> str:
    """Return how a message names a source."""
    if isinstance(source, (str, os.PathLike)) and not str(source).startswith("data:"):
        return f"{str(source)!r}"
    return f"what was given to Image ({type(source).__name__})"


def _of_file(path: Path) -> bytes:
    """Return the content of a file that is not too large."""
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MOST_BYTES else b""
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "it is no path"
        raise UsageError(
            f"cannot read the image {str(path)[:200]!r}: {reason} (in {os.getcwd()}). "
            "Give the path of a file, an address (https://, data:) or bytes."
        ) from exc
    if size > MOST_BYTES:
        raise _too_large(f"{str(path)!r}", size)
    return content


def _of_data_url(url: str) -> bytes:
    """Return the content of a data address."""
    head = _DATA_URL.match(url)
    if head is None or not head[3]:
        raise UsageError(
            "a data address of an image begins with data:image/png;base64, (or another "
            "type), and its content follows as base64 text. Correct it."
        )
    try:
        return ImagePart(data=url[head.end() :]).content
    except ValueError as exc:
        raise UsageError(
            "the content of a data address of an image is no base64 text. Encode it "
            "with base64.b64encode."
        ) from exc


def _of_pillow(picture: Any) -> bytes:
    """Return a Pillow image as a file, in its own format if that is taken."""
    file = io.BytesIO()
    kind = getattr(picture, "format", None)
    try:
        picture.save(file, format=kind if kind in _SAVED else "PNG")
    except (OSError, ValueError) as exc:
        raise UsageError(
            f"the Pillow image cannot be written as an image file: {exc}. Convert it, "
            "e.g. picture.convert('RGB')."
        ) from exc
    return file.getvalue()


def _too_large(what: str, size: int) -> UsageError:
    return UsageError(
        f"{what} has {size / 1e6:,.1f} MB, and an image may have "
        f"{MOST_BYTES / 1e6:,.0f} MB: make it smaller."
    )


def _media_type(content: bytes, what: str) -> str:
    """Return the MIME type of an image, by its first bytes."""
    if len(content) > MOST_BYTES:
        raise _too_large(what, len(content))
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    raise UsageError(
        f"{what} is no image that models take: its first bytes are not of {_FORMATS}. "
        "Convert it to one of these."
    )


def _size_of(head: bytes) -> tuple[int, int]:
    """Return width and height, by the first bytes of an image; zeros if not known."""
    try:
        if head.startswith(b"\x89PNG"):
            return struct.unpack(">II", head[16:24])
        if head.startswith(b"GIF"):
            return struct.unpack("<HH", head[6:10])
        if head.startswith(b"RIFF"):
            return _size_of_webp(head[12:16], head[20:30])
        return _size_of_jpeg(head)
    except (struct.error, IndexError):
        return 0, 0


def _size_of_webp(kind: bytes, head: bytes) -> tuple[int, int]:
    """Return the size of a WebP image, given the first bytes of its first chunk."""
    if kind == b"VP8X":
        sides = head[4:7], head[7:10]
        width, height = (int.from_bytes(side, "little") for side in sides)
        return width + 1, height + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", head[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _size_of_jpeg(head: bytes) -> tuple[int, int]:
    """Return the size of a JPEG image: that of its first frame."""
    place = 2
    while head[place : place + 1] == b"\xff":
        marker = head[place + 1]
        if marker in _FRAMES:
            height, width = struct.unpack(">HH", head[place + 5 : place + 9])
            return width, height
        place += 2 + int.from_bytes(head[place + 2 : place + 4], "big")
    return 0, 0
