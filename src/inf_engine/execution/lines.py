"""`CallShape` and `line_of`: a JSON value as an input, and a result as a line of JSON.

What a line means, for a forward with the parameters ``left`` and ``right``:

- an array gives the inputs by position: ``["a", "b"]``;
- an object gives them by keyword: ``{"left": "a", "right": "b"}``; a key that is no
  parameter is an error, so that a misspelled one is told before it is paid for;
- anything else is the only input: a text, a number.

An object of other keys is the only input where nothing else can be meant: forward has
no parameters with names (``*texts``), or has one only and says that it takes an object
(annotated ``dict``, ``Mapping``, a TypedDict, ``object`` or ``Any``). Everywhere else,
an only input that is itself an array or an object is put into an array:
``[["a", "b"]]``, ``[{"any": "keys"}]``.

Where forward says that a parameter is an `Image`, a text is its path (beside the file
of the inputs), or its address (https, data); whoever asks over HTTP has no paths.

Empty lines are passed over. Parameters that a line leaves out have their default, and
it is part of the input: each input is the whole call, and has the same identity
whatever the other lines give.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, is_typeddict

from inf_engine.containers import Sequential
from inf_engine.errors import ExecutionError, UsageError, known_names
from inf_engine.execution.batch import Result
from inf_engine.images import Image
from inf_engine.module import InferenceModule
from inf_engine.schema import jsonable
from inf_engine.template import MixedText
from inf_engine.types import ImagePart

_Kind = inspect.Parameter

Row: TypeAlias = tuple[Any, ...]


class LineError(ValueError):
    """A line that gives no input."""


class CallShape:
    """What a module takes, and how the value of a line becomes that.

    Args:
        module: The module.
        folder: Where the paths of images begin; None for inputs without paths.

    Attributes:
        names: The names of what its forward takes by position.
        varies: Whether it takes any number of inputs.

    Raises:
        UsageError: If its forward takes nothing, or something by keyword only.
    """

    def __init__(self, module: InferenceModule, folder: Path | None = None) -> None:
        name = type(module).__name__
        self._folder = folder
        self._signature = _signature_of(module)
        parameters = self._signature.parameters.values()
        by_place = (_Kind.POSITIONAL_ONLY, _Kind.POSITIONAL_OR_KEYWORD)
        self.names = [p.name for p in parameters if p.kind in by_place]
        self._by_keyword = [p for p in parameters if p.kind == _Kind.KEYWORD_ONLY]
        self.varies = any(p.kind == _Kind.VAR_POSITIONAL for p in parameters)
        self._images = [p.name for p in parameters if _is_image(p.annotation)]
        self._takes_objects = self._only_takes_objects()
        if not self.names and not self.varies:
            raise UsageError(
                f"the forward of {name} takes no inputs by position, so there is "
                "nothing to run on a file of inputs: give it a parameter."
            )
        for parameter in self._by_keyword:
            if parameter.default is _Kind.empty:
                raise UsageError(
                    f"the forward of {name} needs {parameter.name!r} by keyword, but "
                    "inputs are given by position: move it before the '*'."
                )

    def row(self, value: Any) -> Row:
        """Return the inputs that the value of a line stands for.

        Args:
            value: The JSON value.

        Raises:
            LineError: If they do not fit.
        """
        args, kwargs = self._call(value)
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as exc:
            takes = str(self._signature).split(" ->")[0]
            raise LineError(f"{exc}; forward takes {takes}. Give that") from exc
        bound.apply_defaults()
        for name in self._images:
            bound.arguments[name] = self._image(bound.arguments[name])
        return bound.args

    def _image(self, value: Any) -> Any:
        """Return the image that a line gives by its path or address."""
        if isinstance(value, MixedText) and len(value.parts) == 1:
            return value.parts[0]
        if not isinstance(value, str):
            return value
        source: Any = value
        if not value.startswith(("data:", "http://", "https://")):
            if self._folder is None:
                raise LineError(
                    "an image is given by its address here, https://... or "
                    "data:image/png;base64,..., not by a path. Send that"
                )
            source = self._folder / value
        try:
            return Image(source)
        except UsageError as exc:
            raise LineError(str(exc).rstrip(".")) from exc

    def _call(self, value: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return the inputs that a line gives by position and by keyword."""
        if isinstance(value, list):
            return value, {}
        if not isinstance(value, dict):
            return [value], {}
        foreign = [key for key in value if key not in self.names]
        if self._takes_objects and len(foreign) == len(value):
            return [value], {}
        if foreign:
            raise LineError(
                f"{_cut(foreign[0])} is no parameter that forward takes by position; "
                f"{known_names(foreign[0], self.names)}. Correct the key, or put the "
                "object into an array, [{...}], to give it as the only input"
            )
        return [], value

    def _only_takes_objects(self) -> bool:
        """Say whether an object of other keys can be nothing but the only input."""
        if not self.names:
            return True
        if len(self.names) > 1 or self.varies or self._by_keyword:
            return False
        return _may_be_object(self._signature.parameters[self.names[0]].annotation)


def line_of(result: Result) -> tuple[str, BaseException | None]:
    """Return the line of a result, and the error that it tells of.

    Args:
        result: What one input gave.

    Returns:
        ``{"index", "output"}`` or ``{"index", "error": {"type", "message"}}`` as JSON,
        and None or the error; an output that JSON cannot carry is one too.
    """
    error = result.error
    if error is None:
        try:
            return json_text({"index": result.index, "output": result.output}), None
        except (TypeError, ValueError, RecursionError) as exc:
            kind = type(result.output).__name__
            error = UsageError(
                f"the output, a {kind}, cannot be written as JSON ({exc}). Return "
                "texts, numbers, lists, dicts, dataclasses or pydantic models."
            )
    told = {"type": kind_of(error), "message": str(error)}
    return json_text({"index": result.index, "error": told}), error


def kind_of(error: BaseException) -> str:
    """Return the name of what went wrong: for a node that failed, of its cause."""
    if isinstance(error, ExecutionError) and error.cause is not None:
        return kind_of(error.cause)
    return type(error).__name__


def json_text(value: Any) -> str:
    """Return a value as JSON that can be written as UTF-8.

    Args:
        value: The value.

    Raises:
        TypeError: If JSON cannot carry it; or a ValueError, or a RecursionError.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=jsonable)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which JSON can escape
        return json.dumps(value, allow_nan=False, default=jsonable)
    return text


def _signature_of(module: InferenceModule) -> inspect.Signature:
    """Return what a module takes; a Sequential takes what its first step takes."""
    for _ in module.modules():  # no more often, should a Sequential be its own step
        steps = list(module.children())
        if type(module).forward is not Sequential.forward or not steps:
            break
        module = steps[0]
    if module.leaf and inspect.ismethod(getattr(module, "build_request", None)):
        prompt = _Kind("prompt", _Kind.POSITIONAL_OR_KEYWORD)
        return inspect.Signature([prompt])
    try:
        return inspect.signature(module.forward, eval_str=True)
    except Exception:  # noqa: BLE001 - an annotation that names nothing
        return inspect.signature(module.forward)


def _is_image(annotation: Any) -> bool:
    """Say whether an annotation names an image, maybe beside other types."""
    kinds = get_args(annotation) or (annotation,)
    return any(isinstance(k, type) and issubclass(k, ImagePart) for k in kinds)


def _may_be_object(annotation: Any) -> bool:
    """Say whether an annotation tells that a JSON object is welcome."""
    if annotation is Any or annotation is object or is_typeddict(annotation):
        return True
    origin = get_origin(annotation)
    if origin is Annotated:
        return _may_be_object(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return any(map(_may_be_object, get_args(annotation)))
    kind = origin or annotation
    return isinstance(kind, type) and issubclass(kind, Mapping)


def _cut(key: str) -> str:
    """Return a key of a line as a message may show it."""
    return repr(key) if key.isidentifier() and len(key) <= 40 else "a key"
