"""Templates: text with holes for values that are not known yet.

An f-string over a proxy is ordinary text to Python, so a hole travels through it as a
token. Rules:

* A token is made of letters of one rare cased script (Medefaidrin), capitals at its
  ends and small letters between, and has in it the characters that escaping changes.
  So every piece that slicing leaves, every change of case, and every escape (JSON,
  HTML, ``repr``, regular expression, shell) breaks it visibly; escapes of its letters
  (URL, ``ascii``, base64 ...) leave known traces.
* Each formatting makes a token of its own, so a token that is read nowhere tells that
  the text was compared, searched, printed or measured instead of passed on.
* A token carries a number drawn per table: text kept from another run is refused.

What stays invisible: operations that leave tokens whole but would have changed the
value (``replace``, ``strip``, ``split``, padding of a template that goes on whole).
"""

import itertools
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from inf_engine.dispatch import dispatcher
from inf_engine.errors import TracingError
from inf_engine.quick import quick
from inf_engine.types import ImagePart

_START, _END = "\U00016e40", "\U00016e41"
_DIGITS = {ord(digit): chr(0x16E60 + int(digit, 16)) for digit in "0123456789abcdef"}
_VALUES = {ord(letter): chr(digit) for digit, letter in _DIGITS.items()}
_NONCE = _NUMBER = 8  # digits; tokens are all of one length, so a cut one shows
_NONCES = itertools.count(secrets.randbits(4 * _NONCE))
_BAIT = "\\'\"&<"  # what repr, JSON, HTML, re.escape and shells put escapes before
_TOKEN = re.compile(
    f"{_START}{re.escape(_BAIT)}([\U00016e60-\U00016e6f]{{{_NONCE + _NUMBER}}}){_END}"
)
_LETTER = re.compile("[\U00016e40-\U00016e7f]")
_ESCAPED = re.compile(
    r"\\ud81b|\\U00016e[4-7]|%F0%96%B9|&#93(?:7[6-9]|8[0-2])\d;|&#x16e[4-7]"
    r"|8Ja5.{12}8Ja5|(?:f096b9..){3}",  # base64 and hex of UTF-8
    re.IGNORECASE,
)
_TRACES = ("d81b", "00016e", "%f0%96%b9", "&#93", "&#x16e", "8ja5", "f096b9")
_ESCAPED_BYTES = b"\xf0\x96\xb9"


class MixedText(str):
    """A text with images in it; Python sees their names in their places.

    Args:
        parts: The texts and images, in order.
    """

    __slots__ = ("parts",)

    parts: tuple[str | ImagePart, ...]

    def __new__(cls, parts: Iterable[str | ImagePart]) -> "MixedText":
        kept = tuple(part for part in parts if part)
        made = super().__new__(cls, "".join(map(str, kept)))
        made.parts = kept
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.parts,)

    def __format__(self, spec: str) -> str:
        answer = dispatcher.get()
        if answer is None:
            return str.__format__(self, spec)
        return answer.format_parameter(self, spec)

    def __add__(self, other: Any) -> Any:
        return joined([self, other]) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return joined([other, self]) if isinstance(other, str) else NotImplemented

    @property
    def name(self) -> str:
        """What a message calls it."""
        return "a text with images"

    @property
    def value(self) -> "MixedText":
        """Itself, as a `Parameter` has a value."""
        return self


@quick
@dataclass(frozen=True, slots=True, eq=False)
class Hole:
    """A place in a text whose value comes later.

    Args:
        source: What gives the value: a graph node or a parameter.
        spec: The format spec, as in ``f"{p:>10}"``.
        conversion: ``"r"`` for ``!r``, else empty.
        where: File and line of the formatting.
        known: The value, for a parameter or an image; None for a node.
        token: What stands for it while the text travels through forward.
    """

    source: Any
    spec: str
    conversion: str
    where: str
    known: Any = None
    token: str = ""
    _tree_leaf: ClassVar[bool] = True

    def format(self, value: Any) -> Any:
        """Return what goes into the hole for its value: its text, or an image."""
        if isinstance(value, (ImagePart, MixedText)) and not self.conversion:
            return value if not self.spec else format(_name_of(value), self.spec)
        return format(repr(value) if self.conversion else value, self.spec)


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """Text with holes: `parts` are texts and holes, in order."""

    parts: tuple[str | Hole, ...]
    _tree_leaf: ClassVar[bool] = True

    @property
    def holes(self) -> Iterator[Hole]:
        """The holes, in order."""
        return (part for part in self.parts if isinstance(part, Hole))

    def segments(
        self, value_of: Callable[[Any], Any]
    ) -> list[tuple[str | ImagePart, Hole | None]]:
        """Return the filled text piece by piece, each with the hole it came from."""
        filled = [(_fill(part, value_of), _hole(part)) for part in self.parts]
        return [(piece, hole) for found, hole in filled for piece in pieces_of(found)]

    def fill(self, value_of: Callable[[Any], Any]) -> str:
        """Return the text, given the values of the sources of its holes.

        With images among them it is a `MixedText`.
        """
        return joined([_fill(part, value_of) for part in self.parts])

    def text(self) -> str:
        """Return the text as forward saw it, a token in the place of each hole."""
        return "".join([p if isinstance(p, str) else p.token for p in self.parts])


def is_t_string(value: Any) -> bool:
    """Say whether a value is a t-string (PEP 750, Python 3.14)."""
    kind = type(value)
    return kind.__module__ == "string.templatelib" and kind.__name__ == "Template"


def interpolated(t_string: Any) -> str:
    """Return a t-string as the f-string of the same text."""
    convert = {"r": repr, "s": str, "a": ascii}
    pieces = [t_string.strings[0]]
    for hole, text in zip(t_string.interpolations, t_string.strings[1:], strict=True):
        value = convert[hole.conversion](hole.value) if hole.conversion else hole.value
        value = interpolated(value) if is_t_string(value) else value
        pieces += [format(value, hole.format_spec), text]
    return "".join(pieces)


def has_placeholder(text: str) -> bool:
    """Say whether a piece of a token stands in a text."""
    return not text.isascii() and _LETTER.search(text) is not None


def _is_escaped(text: str) -> bool:
    """Say whether an escaped piece of a token stands in a text.

    The regular expression takes 0.2 µs a character. Every match of it has a trace in
    it, and nearly no other text has: so most are done a hundred times faster.
    """
    folded = text.lower()
    for trace in _TRACES:
        if trace in folded:
            return _ESCAPED.search(text) is not None
    return False


def _name_of(value: Any) -> str:
    """Return a value's own text, without a hole."""
    return str.__str__(value) if isinstance(value, str) else str(value)


def _hole(part: str | Hole) -> Hole | None:
    return part if isinstance(part, Hole) else None


def pieces_of(value: Any) -> tuple[Any, ...]:
    """Return the texts and images of a text; anything else is one piece."""
    return value.parts if type(value) is MixedText else (value,)


def joined(pieces: list[Any]) -> str:
    """Return texts and images as one text, which holds the images."""
    for piece in pieces:
        if type(piece) is not str and isinstance(piece, (ImagePart, MixedText)):
            return MixedText([p for piece in pieces for p in pieces_of(piece)])
    return "".join(pieces)


def _fill(part: str | Hole, value_of: Callable[[Any], Any]) -> Any:
    if isinstance(part, str):
        return part
    return part.format(value_of(part.source) if part.known is None else part.known)


@dataclass(slots=True)
class HoleTable:
    """The holes that one running trace has handed out."""

    _nonce: str = ""
    _holes: list[Hole] = field(default_factory=list)
    _unread: dict[int, Hole] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether any were handed out."""
        return bool(self._holes)

    def issue(
        self, source: Any, spec: str = "", conversion: str = "", known: Any = None
    ) -> str:
        """Return a token that stands for the value of `source` in a text."""
        if not self._nonce:
            self._nonce = _encode(next(_NONCES) % 16**_NONCE, _NONCE)
        number = len(self._holes)
        token = f"{_START}{_BAIT}{self._nonce}{_encode(number, _NUMBER)}{_END}"
        hole = Hole(source, spec, conversion, _user_line(), known, token)
        self._holes.append(hole)
        self._unread[number] = hole
        return token

    def repr_of(self, source: Any) -> str:
        """Return a token for the repr of a value; it may be formatted further."""
        return _Repr(self, self.issue(source, conversion="r"))

    def respec(self, token: str, spec: str) -> str:
        """Return another token for a token that is formatted once more."""
        number = _decode(token[-1 - _NUMBER : -1])
        hole = self._unread.pop(number, self._holes[number])
        return self.issue(hole.source, spec, hole.conversion, hole.known)

    def scan(self, text: str, where: str) -> str | Template:
        """Return `text` itself, or the template that it stands for.

        Args:
            text: Any text that reached a call or an output.
            where: What it reached, for the message.

        Raises:
            TracingError: If a token in it is damaged or belongs to another run.
        """
        if not self._holes:
            if not text.isascii() and _START in text and _TOKEN.search(text):
                raise TracingError(_foreign(where))
            return text
        if text.isascii():
            if _is_escaped(text):
                raise TracingError(self._damaged(where))
            return text
        pieces = _TOKEN.split(text)
        if any(map(has_placeholder, pieces[::2])) or _is_escaped(text):
            raise TracingError(self._damaged(where))
        if len(pieces) == 1:
            return text
        return Template(tuple(self._parts(pieces, where)))

    def check_bytes(self, data: bytes, where: str) -> None:
        """Refuse bytes that were encoded from a text with holes.

        Raises:
            TracingError: If `data` contains a token.
        """
        if self._holes and _ESCAPED_BYTES in data:
            raise TracingError(self._damaged(where))

    def keep(self, sources: list[Any], value_of: Callable[[Any], Any]) -> None:
        """Fill the holes that texts on their way have, before values are changed.

        Args:
            sources: The nodes whose values may change.
            value_of: Gives the value of one of them.
        """
        for number, hole in list(self._unread.items()):
            if hole.known is None and hole.source in sources:
                text = hole.format(value_of(hole.source))  # or an image
                if number not in self._unread:
                    continue  # it was read while this one waited for the value
                kept = replace(hole, known=text, spec="", conversion="")
                self._holes[number] = self._unread[number] = kept

    def check_all_read(self) -> None:
        """Refuse holes that reached no call and no output.

        Raises:
            TracingError: If there is one.
        """
        for hole in self._unread.values():
            raise TracingError(
                f"the text made from {_described(hole)} at {hole.where} reached no "
                "call and no output: it was compared, searched, printed, measured or "
                "dropped while its value was not known yet. Use str(p) to wait for the "
                "value, or move that code into an @op function."
            )

    def _parts(self, pieces: list[str], where: str) -> Iterator[str | Hole]:
        for index, piece in enumerate(pieces):
            if index % 2 == 0:
                if piece:
                    yield piece
                continue
            if not piece.startswith(self._nonce):
                raise TracingError(_foreign(where))
            number = _decode(piece[_NONCE:])
            self._unread.pop(number, None)
            yield self._holes[number]

    def _damaged(self, where: str) -> str:
        holes = [*self._unread.values()] or self._holes
        sources = dict.fromkeys(_described(hole) for hole in holes)
        names = ", ".join(list(sources)[:5])
        return (
            f"a text made from {names} was changed before its value was known and "
            f"then reached {where}: slicing, upper(), lower(), json.dumps() and the "
            "like see only the placeholder. Change the value instead "
            "(f'{p.upper()}'), wait for it with str(p), or move that code into an @op "
            "function."
        )


class _Repr(str):
    """The token of ``{p!r}``, to which Python applies the format spec itself."""

    __slots__ = ("_table",)

    _table: HoleTable

    def __new__(cls, table: HoleTable, token: str) -> "_Repr":
        made = super().__new__(cls, token)
        made._table = table
        return made

    def __format__(self, spec: str) -> str:
        token = str.__str__(self)
        return self._table.respec(token, spec) if spec else token


def _described(hole: Hole) -> str:
    """Name the node or parameter that gives the value."""
    name = repr(hole.source.name)
    return name if hole.known is None else f"parameter {name}"


def _foreign(where: str) -> str:
    return (
        f"a text with placeholders of another run reached {where}: it was kept from an "
        "earlier forward. Keep results (the output of engine.run), not what forward "
        "builds while it is traced."
    )


def _encode(number: int, width: int) -> str:
    return f"{number:0{width}x}".translate(_DIGITS)


def _decode(letters: str) -> int:
    return int(letters.translate(_VALUES), 16)


def _user_line() -> str:
    """Return file and line of the nearest caller outside of this package."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        if not frame.f_globals.get("__name__", "").startswith("inf_engine."):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
