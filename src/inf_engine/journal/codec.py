"""Requests and answers as plain JSON text, and back, exactly.

The rules, because keys and years of paid answers hang on them:

- A field that has its default value is left out. So a field that is added later, with
  a default, changes no text and no key that exists. A default must never change.
- Keys are sorted and there is no whitespace: equal requests give one text. Numbers
  that are compared as floats are written as floats, so ``1`` and ``1.0`` are one.
- A field that is not in the tables below is refused, never dropped: a newer version
  wrote it, and what it means is not known here.
- JSON cannot hold every text of Python: in a string, two escaped halves of a surrogate
  pair are read as one character. A text with a lone surrogate in it (a model's answer
  cut in an emoji) is kept as ``{"wtf-8": hex}`` of the whole JSON text.
- An image is written as the SHA-256 of its content, ``inf-image:<hex>`` in the place of
  its address. Its content is kept once (`pictures`), and read back only when asked for.
- What an answer's headers said about rate limits is not kept: it was true that minute.

Each type has a table of kinds; a kind knows how to write and how to read one field.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, Protocol

from inf_engine.errors import JournalError
from inf_engine.types import (
    ImagePart,
    LLMRequest,
    LLMResponse,
    Message,
    ResponseSchema,
    TextPart,
    ToolCall,
    ToolSpec,
    Usage,
)

IMAGE_SCHEME = "inf-image:"
"""What the address of an image that is kept apart begins with; its SHA-256 follows."""

_ENVELOPE = "wtf-8"
_NEEDED = object()
_DUMPS = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False
).encode


def canonical_request(request: LLMRequest) -> str:
    """Return the one JSON text of a request; equal requests have equal texts.

    Args:
        request: The request.

    Raises:
        JournalError: If it holds what JSON does not know.
    """
    fix = "Build the request of JSON values, as inf_engine.types says."
    return _written(_REQUEST, request, "a request", fix)


def decode_request(text: str) -> LLMRequest:
    """Return the request that `canonical_request` has written.

    Args:
        text: The JSON text.

    Raises:
        JournalError: If it is damaged, or a newer version wrote it.
    """
    return _read(_REQUEST, text, "a request")


def encode_response(response: LLMResponse) -> str:
    """Return an answer as JSON text, all but its `limits`.

    Args:
        response: The answer.

    Raises:
        JournalError: If a field is not of its type.
    """
    fix = "Let the client that made it fill LLMResponse as its docstring says."
    return _written(_RESPONSE, response, "an answer", fix)


def decode_response(text: str) -> LLMResponse:
    """Return the answer that `encode_response` has written.

    Args:
        text: The JSON text.

    Raises:
        JournalError: If it is damaged, or a newer version wrote it.
    """
    return _read(_RESPONSE, text, "an answer")


class _MisfitError(ValueError):
    """A field that cannot be written or read; its place grows on the way up."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.place: list[str] = []

    def __str__(self) -> str:
        place = ".".join(reversed(self.place))
        return f"its field {place!r} {self.problem}" if place else f"it {self.problem}"


class _Kind(Protocol):
    """How a field is written and read."""

    def write(self, value: Any) -> Any:
        """Return the JSON value of a field."""
        ...

    def read(self, value: Any) -> Any:
        """Return the field of a JSON value."""
        ...


class _Plain:
    """A value that is the same in JSON."""

    def __init__(self, name: str, *types: type) -> None:
        self._name = name
        self._types = types

    def write(self, value: Any) -> Any:
        """Return the value, if it is of the type."""
        if not isinstance(value, self._types):
            raise _MisfitError(f"is a {type(value).__name__}, not {self._name}")
        return value

    read = write


class _Number(_Plain):
    """A float; an int is written as one, and -0.0 as 0.0."""

    def write(self, value: Any) -> Any:
        """Return the value as a float."""
        return float(super().write(value)) + 0.0


class _Whole(_Plain):
    """An int; True is written as 1, which it equals."""

    def write(self, value: Any) -> Any:
        """Return the value as an int."""
        return int(super().write(value))


class _Many:
    """A tuple of things of one kind."""

    def __init__(self, kind: _Kind) -> None:
        self._kind = kind

    def write(self, value: Any) -> Any:
        """Return the list of what is in the tuple."""
        return self._each(self._kind.write, value)

    def read(self, value: Any) -> Any:
        """Return the tuple of what is in the list."""
        return tuple(self._each(self._kind.read, value))

    def _each(self, convert: Callable[[Any], Any], value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise _MisfitError(f"is a {type(value).__name__}, not a tuple")
        return [_at(str(i), convert, item) for i, item in enumerate(value)]


class _Record:
    """A frozen dataclass: the fields that have not their default value.

    Args:
        cls: The class.
        left_out: Fields that are not kept.
        kinds: The kind of each other field.
    """

    def __init__(
        self, cls: type[Any], left_out: tuple[str, ...] = (), **kinds: _Kind
    ) -> None:
        self.cls = cls
        self.left_out = left_out
        self.kinds = kinds
        self._defaults = {f.name: _default(f) for f in fields(cls)}
        self._table = tuple((n, k.write, self._defaults[n]) for n, k in kinds.items())

    def write(self, value: Any) -> Any:
        """Return the fields as a dict."""
        if not isinstance(value, self.cls):
            name = self.cls.__name__
            raise _MisfitError(f"is a {type(value).__name__}, not a {name}")
        plain: dict[str, Any] = {}
        name = ""
        try:
            for name, write, default in self._table:
                item = getattr(value, name)
                if item is not default and item != default:
                    plain[name] = write(item)
        except _MisfitError as error:
            error.place.append(name)
            raise
        return plain

    def read(self, value: Any) -> Any:
        """Return the dataclass of a dict."""
        if not isinstance(value, dict):
            raise _MisfitError(f"is a {type(value).__name__}, not an object")
        found = {}
        for name, item in value.items():
            if name not in self.kinds:
                raise _unknown(name)
            found[name] = _at(name, self.kinds[name].read, item)
        for name in self.kinds:
            if name not in found and self._defaults[name] is _NEEDED:
                raise _MisfitError(f"has no {name!r}")
        return self.cls(**found)


class _Part:
    """A text or an image in a message; what has a text is a text."""

    def write(self, value: Any) -> Any:
        """Return the part as a dict; the content of an image by its digest."""
        if isinstance(value, ImagePart) and value.data and not value.url:
            url = f"{IMAGE_SCHEME}{_digest(value)}"
            value = ImagePart(url=url, media_type=value.media_type)
        return (_TEXT_PART if isinstance(value, TextPart) else _IMAGE_PART).write(value)

    def read(self, value: Any) -> Any:
        """Return the part of a dict."""
        is_text = isinstance(value, dict) and "text" in value
        return (_TEXT_PART if is_text else _IMAGE_PART).read(value)


class _Content:
    """The content of a message: text, or parts."""

    def write(self, value: Any) -> Any:
        """Return the text, or a list of parts."""
        return value if isinstance(value, str) else _PARTS.write(value)

    def read(self, value: Any) -> Any:
        """Return the text, or a tuple of parts."""
        return value if isinstance(value, str) else _PARTS.read(value)


def _digest(image: ImagePart) -> str:
    """Return what stands for the content of an image."""
    try:
        return image.digest
    except ValueError:
        raise _MisfitError("holds an image whose data is no base64 text") from None


def _default(field: Any) -> Any:
    """Return the default of a field, `_NEEDED` if it has none."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return _NEEDED if field.default is MISSING else field.default


def _at(name: str, convert: Callable[[Any], Any], value: Any) -> Any:
    """Convert a value; what goes wrong is told with its place."""
    try:
        return convert(value)
    except _MisfitError as error:
        error.place.append(name)
        raise


def _unknown(name: str) -> _MisfitError:
    """Return the error for a field of a newer version; odd names are not repeated."""
    shown = repr(name) if name.isidentifier() and len(name) <= 40 else "an unknown name"
    return _MisfitError(f"has a field that this version does not know, {shown}")


def _written(kind: _Record, value: Any, what: str, fix: str) -> str:
    """Return the JSON text of a record, in an envelope if it is not UTF-8."""
    try:
        text = _DUMPS(kind.write(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise JournalError(
            f"{what} cannot be written to the journal: {_reason(error)}. {fix}"
        ) from error
    try:
        text.encode()
    except UnicodeEncodeError:
        return _DUMPS({_ENVELOPE: text.encode("utf-8", "surrogatepass").hex()})
    return text


def _reason(error: Exception) -> str:
    """Return why JSON cannot be made, without what should have been written."""
    if isinstance(error, _MisfitError):
        return str(error)
    if isinstance(error, RecursionError) or "Circular" in str(error):
        return "it is nested too deep, or in itself"
    return "it holds a value that JSON does not know"


def _read(kind: _Record, text: str, what: str) -> Any:
    """Return the record of a JSON text."""
    try:
        plain = json.loads(text)
        if isinstance(plain, Mapping) and plain.keys() == {_ENVELOPE}:
            inner = bytes.fromhex(plain[_ENVELOPE]).decode("utf-8", "surrogatepass")
            plain = json.loads(inner)
        return kind.read(plain)
    except _MisfitError as error:
        raise JournalError(
            f"{what} in the journal cannot be read: {error}. A newer version of the "
            "library wrote it (the table 'meta' says which), or it was changed: "
            "install that version, or begin a new journal."
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise JournalError(
            f"{what} in the journal is damaged: it is not JSON. "
            "Restore the file from a copy, or begin a new journal."
        ) from error


_TEXT = _Plain("text", str)
_WHOLE = _Whole("a whole number", int)
_NUMBER = _Number("a number", int, float)
_JSON = _Plain("a dict", dict)
_TEXT_PART = _Record(TextPart, text=_TEXT)
_IMAGE_PART = _Record(ImagePart, url=_TEXT, data=_TEXT, media_type=_TEXT)
_PARTS = _Many(_Part())
_CALL = _Record(ToolCall, id=_TEXT, name=_TEXT, arguments=_TEXT)
_USAGE = _Record(
    Usage,
    requests=_WHOLE,
    input_tokens=_WHOLE,
    output_tokens=_WHOLE,
    cached_tokens=_WHOLE,
    reasoning_tokens=_WHOLE,
    cache_write_tokens=_WHOLE,
)
_MESSAGE = _Record(
    Message,
    role=_TEXT,
    content=_Content(),
    tool_calls=_Many(_CALL),
    tool_call_id=_TEXT,
)
_REQUEST = _Record(
    LLMRequest,
    messages=_Many(_MESSAGE),
    model=_TEXT,
    temperature=_NUMBER,
    top_p=_NUMBER,
    max_tokens=_WHOLE,
    stop=_Many(_TEXT),
    seed=_WHOLE,
    tools=_Many(_Record(ToolSpec, name=_TEXT, description=_TEXT, parameters=_JSON)),
    response_schema=_Record(ResponseSchema, name=_TEXT, schema=_JSON),
)
_RESPONSE = _Record(
    LLMResponse,
    left_out=("limits",),
    text=_TEXT,
    tool_calls=_Many(_CALL),
    reasoning=_TEXT,
    finish_reason=_TEXT,
    usage=_USAGE,
    model=_TEXT,
    id=_TEXT,
    seconds=_NUMBER,
    cost=_NUMBER,
)
