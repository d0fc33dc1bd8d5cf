"""What a type means to a model: a JSON schema on the way out, a value on the way in.

This is the only file that knows pydantic, and it is imported at the first use of a
schema, never when a module is built.

**The root is an object.** Providers ask for it, so a type whose schema is anything
else (``list[str]``, a ``Literal``, a union ...) travels as ``{"value": ...}``. On the
way back both the wrapped and the plain form are read.

**Finding the value.** An answer is read in this order, and the first form in which it
fits the type wins:

1. one code fence around the whole answer is taken off;
2. the whole answer as JSON;
3. JSON values standing in prose. A value inside a broken one is never taken (the inner
   object of a truncated answer may well fit a type that is all defaults), and two
   different values that fit are an error: which one was meant is a guess;
4. for a wrapped type, the bare text: ``positive`` for ``Literal["positive", ...]``.

Validation is pydantic's lax JSON mode: dates, sets and enums are read from JSON.
"""

import functools
import json
import operator
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from inf_engine.errors import OutputParseError, SchemaError
from inf_engine.types import ResponseSchema

if TYPE_CHECKING:
    from pydantic import ValidationError

_VALUE = "value"
_MOST_PROBLEMS = 5
_MOST_BRACKETS = 1000
_FENCE = re.compile(r"\A```[^\n`]*\n(.*?)\n?[ \t]*```\Z", re.DOTALL)
_OPENING = re.compile(r"[{\[]")
_BRACKET = re.compile(r"[{}\[\]]")
_USABLE = (
    "Use what JSON can carry: a pydantic model, dataclass, TypedDict, Literal, Enum, "
    "str, bool, int, float, list[...], dict[str, ...] or a union of these"
)


class OutputType:
    """What a ``response_format`` means: the schema to ask for, and how to read it.

    Made with `OutputType.of`. Its schema is made at the first use; pickle drops it.

    Attributes:
        type: The Python type; ``str`` for free text.
        name: The type's name, for people.
    """

    def __init__(self, type: Any) -> None:
        self.type = type
        self.name = _name_of(type)

    @classmethod
    def of(cls, type: Any) -> "OutputType":
        """Return the output type of a ``response_format``.

        Args:
            type: A type, or None for free text; an `OutputType` is returned as is.

        Raises:
            SchemaError: If it is a value, not a type.
        """
        if isinstance(type, OutputType):
            return type
        if isinstance(type, (str, bytes, int, float, list, tuple, dict)):
            raise SchemaError(
                f"a response format has to be a type, not a value of type "
                f"{type.__class__.__name__}. {_USABLE}"
            )
        return cls(str if type is None else type)

    @property
    def is_text(self) -> bool:
        """Whether any text is an answer."""
        return self.type is str

    @property
    def schema(self) -> ResponseSchema | None:
        """The JSON schema to ask for, None for free text.

        Raises:
            SchemaError: If the type has none.
        """
        return None if self.is_text else self._built.schema

    @property
    def wrapped(self) -> bool:
        """Whether the value travels as ``{"value": ...}``."""
        return not self.is_text and len(self._built.validators) > 1

    def parse(self, text: str) -> Any:
        """Read an answer.

        Args:
            text: The model's answer, as it came.

        Returns:
            A value of the type.

        Raises:
            OutputParseError: If the answer does not fit the type.
            SchemaError: If the type has no schema.
        """
        if self.is_text:
            return text
        fence = _FENCE.match(text.strip())
        reading = _Reading(self._built.validators)
        reading.read((fence.group(1) if fence else text).strip())
        if len(reading.fits) == 1:
            return reading.fits[0][1]
        raise self._refusal(text, reading)

    def describe(self, error: OutputParseError) -> str:
        """Return what to say to the model when it is asked again.

        Args:
            error: What `parse` raised.
        """
        problems = error.problems or (str(error),)
        listed = "\n".join(f"- {problem}" for problem in problems)
        message = f"Your answer cannot be used:\n{listed}\n"
        if self.schema is None:
            return f"{message}Answer again."
        schema = json.dumps(self.schema.schema, ensure_ascii=False)
        return (
            f"{message}Answer again with one JSON value and nothing around it. "
            f"It has to fit this JSON schema:\n{schema}"
        )

    @functools.cached_property
    def _built(self) -> "_Built":
        return _built(self.type, self.name)

    def _refusal(self, text: str, reading: "_Reading") -> OutputParseError:
        """Return the error for an answer that was read in no way, or in several."""
        problems, count = reading.problems, len(reading.fits)
        if count:
            problems = [f"the answer holds {count} different values; write exactly one"]
        return OutputParseError(
            f"the answer does not fit {self.name}: {'; '.join(problems)}. "
            f"The answer was {_excerpt(text)!r}. Say in the prompt what to answer, "
            f"or loosen the type.",
            raw=text,
            problems=problems,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return OutputType, (self.type,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OutputType":
        return self

    def __repr__(self) -> str:
        return f"OutputType({self.name})"


class MisfitError(Exception):
    """JSON text does not fit a type: what, and where in it.

    Never leaves the library: each reader of JSON makes its own error of it.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Validator:
    """One type as pydantic sees it.

    Args:
        type: The type.
        what: What has this type, for messages.

    Raises:
        SchemaError: If pydantic cannot work with the type.
    """

    def __init__(self, type: Any, what: str) -> None:
        from pydantic import PydanticUserError, TypeAdapter  # noqa: PLC0415

        self._name = _name_of(type)
        self._what = what
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(_modern(type))
            if not self._adapter.pydantic_complete:
                self._adapter.rebuild(raise_errors=True)
        except NameError as exc:
            raise SchemaError(
                f"{what} names a type that cannot be found: {_first_line(exc)} Define "
                f"it at module level, or remove `from __future__ import annotations`"
            ) from exc
        except (PydanticUserError, TypeError) as exc:
            raise self._refusal(exc) from exc

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema, a root reference filled in.

        Raises:
            SchemaError: If JSON cannot carry the type.
        """
        from pydantic import PydanticUserError  # noqa: PLC0415

        try:
            schema = self._adapter.json_schema(schema_generator=_lean_generator())
        except (PydanticUserError, TypeError) as exc:
            raise self._refusal(exc) from exc
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            return {**schema["$defs"][name], "$defs": schema["$defs"]}
        return schema

    def read(self, text: str, root: str) -> Any:
        """Return the value that JSON text stands for.

        Args:
            text: The text.
            root: The place of a problem that concerns the whole.

        Raises:
            MisfitError: If it is not JSON or does not fit.
        """
        from pydantic import ValidationError  # noqa: PLC0415

        try:
            return self._adapter.validate_json(text)
        except ValidationError as exc:
            raise MisfitError(_problems(exc, root)) from exc

    def default(self, value: Any) -> Any:
        """Return a default as a JSON value.

        Raises:
            SchemaError: If it is not of the type.
        """
        try:
            return self._adapter.dump_python(
                self._adapter.validate_python(value), mode="json"
            )
        except ValueError as exc:  # does not fit, or cannot be written
            raise SchemaError(
                f"the default of {self._what}, a value of type "
                f"{type(value).__name__}, does not fit {self._name}. Change the "
                f"default, or widen the type as in `{self._name} | None = None`"
            ) from exc

    def _refusal(self, exc: Exception) -> SchemaError:
        """Return the error for a type that pydantic refuses."""
        reason = _first_line(exc)
        return SchemaError(f"{self._what} has no JSON schema: {reason} {_USABLE}")


def object_type(fields: Mapping[str, Any], extra: str) -> Any:
    """Return a TypedDict: unlike a model, it allows a field any name.

    Args:
        fields: The type of each field.
        extra: What other keys in the JSON are: ``forbid`` or ``ignore``.
    """
    result = _object({name: _modern(tp) for name, tp in fields.items()})
    result.__pydantic_config__ = {"extra": extra}
    return result


def _object(fields: dict[str, Any]) -> Any:
    """Return a TypedDict that pydantic takes."""
    from typing_extensions import TypedDict  # noqa: PLC0415

    make: Any = TypedDict
    return make("Object", fields)


def jsonable(value: Any) -> Any:
    """Return what json can write for a class, enum, date, set (sorted) ...

    Raises:
        ValueError: If JSON cannot carry it.
    """
    from pydantic_core import to_jsonable_python  # noqa: PLC0415

    if isinstance(value, (set, frozenset)):
        return sorted(value, key=functools.partial(json.dumps, default=jsonable))
    return to_jsonable_python(value)


@dataclass(frozen=True, slots=True)
class _Built:
    """What is worked out of a type at its first use; wrapper first, if there is one."""

    schema: ResponseSchema
    validators: tuple[Validator, ...]


class _Reading:
    """One attempt to read an answer: what fits (JSON and value), or what does not."""

    def __init__(self, validators: tuple[Validator, ...]) -> None:
        self.validators = validators
        self.fits: list[tuple[Any, Any]] = []
        self.problems: list[str] = []

    def read(self, body: str) -> None:
        """Try the text as JSON, else the JSON that stands in it, else as it is."""
        not_json = ""
        try:
            values = [(body, json.loads(body))]
        except (ValueError, RecursionError) as exc:
            not_json = f"the answer is not JSON: {exc}" if body else "it is empty"
            values = list(_embedded(body))
        for part, value in values:
            self._try(part, value)
        is_wrapped = len(self.validators) > 1
        if not self.fits and is_wrapped and body and body[0] not in "{[":
            bare = _unquoted(body)
            self._try(json.dumps(bare), bare)
        self.problems = self.problems or [not_json]

    def _try(self, part: str, value: Any) -> None:
        """Validate one JSON text; what has a wrapper is unwrapped first."""
        *wrapper, validator = self.validators
        if wrapper and isinstance(value, dict) and _VALUE in value:
            if self._read(wrapper[0], part, value[_VALUE], unwrap=True):
                return
        self._read(validator, part, value, unwrap=False)

    def _read(self, validator: Validator, part: str, value: Any, unwrap: bool) -> bool:
        """Validate one JSON text in one way; say whether it fitted."""
        try:
            result = validator.read(part, "the answer")
        except MisfitError as exc:
            self.problems = self.problems or exc.problems
            return False
        if all(value != other for other, _ in self.fits):
            self.fits.append((value, result[_VALUE] if unwrap else result))
        return True


def _built(tp: Any, name: str) -> _Built:
    """Work out the schema of a type, and what validates it."""
    what = f"response format {name}"
    validator = Validator(tp, what)
    schema = validator.json_schema()
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:64] or "answer"
    if schema.get("type") == "object":
        return _Built(ResponseSchema(safe, schema), (validator,))
    definitions = {"$defs": schema.pop("$defs")} if "$defs" in schema else {}
    root: dict[str, Any] = {
        "type": "object",
        "properties": {_VALUE: schema},
        "required": [_VALUE],
        "additionalProperties": False,
        **definitions,
    }
    wrapper = Validator(object_type({_VALUE: tp}, extra="ignore"), what)
    return _Built(ResponseSchema(safe, root), (wrapper, validator))


def _lean_generator() -> Any:
    """Return a schema generator without titles that only repeat a field's name."""
    from pydantic.json_schema import GenerateJsonSchema  # noqa: PLC0415

    class Lean(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

    return Lean


def _modern(tp: Any, inside: tuple[Any, ...] = ()) -> Any:
    """Replace each typing.TypedDict, which pydantic refuses before Python 3.12."""
    if sys.version_info >= (3, 12):
        return tp
    if type(tp) is typing._TypedDictMeta and tp not in inside:  # type: ignore
        return _modern_typed_dict(tp, (*inside, tp))
    origin, args = get_origin(tp), get_args(tp)
    if not args or origin is Literal:
        return tp
    if origin is Annotated:
        first = _modern(args[0], inside)
        return tp if first is args[0] else Annotated[(first, *args[1:])]
    new = [_modern(arg, inside) for arg in args]
    if all(a is b for a, b in zip(new, args, strict=True)):
        return tp
    if origin in (Union, UnionType):
        return functools.reduce(operator.or_, new)
    return tp.copy_with(tuple(new)) if hasattr(tp, "copy_with") else origin[tuple(new)]


def _modern_typed_dict(tp: Any, inside: tuple[Any, ...]) -> Any:
    """Return the typing_extensions twin of a typing.TypedDict."""
    fields = {}
    for name, hint in typing.get_type_hints(tp, include_extras=True).items():
        while get_origin(hint) in (typing.Required, typing.NotRequired):
            (hint,) = get_args(hint)
        required = name in tp.__required_keys__
        new = _modern(hint, inside)
        fields[name] = new if required else typing.NotRequired[new]
    twin = _object(fields)
    twin.__name__, twin.__doc__ = tp.__name__, tp.__doc__
    twin.__pydantic_config__ = getattr(tp, "__pydantic_config__", {})
    return twin


def _name_of(tp: Any) -> str:
    """Return a type's name as a person would write it, without modules."""
    if tp is None or tp is type(None):
        return "None"
    origin, args = get_origin(tp), get_args(tp)
    if origin is Annotated:
        return _name_of(args[0])
    if origin is Literal:
        values = (str(a) if isinstance(a, Enum) else repr(a) for a in args)
        return f"Literal[{', '.join(values)}]"
    if origin in (Union, UnionType):
        return " | ".join(_name_of(arg) for arg in args)
    if origin is not None and args:
        return f"{_name_of(origin)}[{', '.join(_name_of(arg) for arg in args)}]"
    return "..." if tp is Ellipsis else getattr(tp, "__name__", repr(tp))


def _unquoted(text: str) -> str:
    """Return the text without the quotes around it."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`"
    return text[1:-1].strip() if quoted else text


def _embedded(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the outermost JSON objects and arrays that stand in a text.

    Whatever stands inside brackets that are not JSON is passed over with them; after
    a bracket that never closes nothing is looked for. The number of brackets tried is
    bounded, because each failure costs as much as the text is long.
    """
    decoder = json.JSONDecoder()
    end = 0
    for _ in range(_MOST_BRACKETS):
        opening = _OPENING.search(text, end)
        if opening is None:
            return
        start = opening.start()
        try:
            value, end = decoder.raw_decode(text, start)
            yield text[start:end], value
        except (ValueError, RecursionError):
            end = _closing(text, start)


def _closing(text: str, start: int) -> int:
    """Return where the bracket at `start` has closed, the text's end if never."""
    depth = 0
    for bracket in _BRACKET.finditer(text, start):
        depth += 1 if bracket.group() in "{[" else -1
        if depth == 0:
            return bracket.end()
    return len(text)


def _problems(exc: "ValidationError", root: str) -> list[str]:
    """Return what does not fit, each with its place, the first few of them."""
    errors = exc.errors(include_url=False, include_context=False, include_input=False)
    problems = [_problem(e["loc"], e["msg"], root) for e in errors[:_MOST_PROBLEMS]]
    if len(errors) > _MOST_PROBLEMS:
        problems.append(f"and {len(errors) - _MOST_PROBLEMS} more")
    return problems


def _problem(loc: tuple[int | str, ...], message: str, root: str) -> str:
    """Return ``items[2].name: Field required`` for a place and a message."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    place = "".join(steps).removeprefix(".") or root
    return f"{_excerpt(place)}: {_excerpt(message)}"


def _excerpt(text: str) -> str:
    """Return a text, of a long one the start and the end: 200 characters at most."""
    return text if len(text) <= 200 else f"{text[:133]}…{text[-66:]}"


def _first_line(exc: BaseException) -> str:
    """Return the first line of a foreign message, as a sentence."""
    line = str(exc).strip().split("\n", 1)[0].strip()
    return line if line.endswith(".") or not line else f"{line}."
