"""`InputFile`: a JSONL file as the inputs of a batch.

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

Empty lines are passed over. Parameters that a line leaves out have their default, and
it is part of the input: each input is the whole call, and has the same identity
whatever the other lines give.

The file is read twice: first to check all of it, before anything is paid, then line by
line as the batch goes on, so that it may be of any size.
"""

import inspect
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, is_typeddict

from inf_engine.containers import Sequential
from inf_engine.errors import UsageError, known_names
from inf_engine.module import InferenceModule

_MOST_PROBLEMS = 10
_Kind = inspect.Parameter

Row = tuple[Any, ...]


class LineError(ValueError):
    """A line that gives no input."""


class CallShape:
    """What a module takes, and how the value of a line becomes that.

    Args:
        module: The module.

    Raises:
        UsageError: If its forward takes nothing, or something by keyword only.
    """

    def __init__(self, module: InferenceModule) -> None:
        name = type(module).__name__
        self._signature = _signature_of(module)
        parameters = self._signature.parameters.values()
        by_place = (_Kind.POSITIONAL_ONLY, _Kind.POSITIONAL_OR_KEYWORD)
        self._names = [p.name for p in parameters if p.kind in by_place]
        self._by_keyword = [p for p in parameters if p.kind == _Kind.KEYWORD_ONLY]
        self.varies = any(p.kind == _Kind.VAR_POSITIONAL for p in parameters)
        self._takes_objects = self._only_takes_objects()
        if not self._names and not self.varies:
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
        return bound.args

    def _call(self, value: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return the inputs that a line gives by position and by keyword."""
        if isinstance(value, list):
            return value, {}
        if not isinstance(value, dict):
            return [value], {}
        foreign = [key for key in value if key not in self._names]
        if self._takes_objects and len(foreign) == len(value):
            return [value], {}
        if foreign:
            raise LineError(
                f"{_cut(foreign[0])} is no parameter that forward takes by position; "
                f"{known_names(foreign[0], self._names)}. Correct the key, or put the "
                "object into an array, [{...}], to give it as the only input"
            )
        return [], value

    def _only_takes_objects(self) -> bool:
        """Say whether an object of other keys can be nothing but the only input."""
        if not self._names:
            return True
        if len(self._names) > 1 or self.varies or self._by_keyword:
            return False
        return _may_be_object(self._signature.parameters[self._names[0]].annotation)


class InputFile:
    """The inputs of a batch, in a JSONL file (see the top of this file).

    Args:
        path: The file.
        shape: What the module takes.

    Attributes:
        total: How many inputs there are, once `check` has read them.
        pulled: How many the batch has taken.
    """

    def __init__(self, path: str | Path, shape: CallShape) -> None:
        self.path = Path(path)
        self.total = self.pulled = 0
        self._shape = shape
        self._width = 1
        self._rows: Iterator[Row] | None = None
        self._row: Row = ()
        self._stopped = False

    def check(self) -> None:
        """Read all lines and count them.

        Raises:
            UsageError: If the file cannot be read, or lines give no input; each is
                named by its number.
        """
        if self.path.exists() and not self.path.is_file():
            raise UsageError(
                f"{self.path} is not a plain file, and the inputs are read twice: "
                "write them into a file first."
            )
        self.total = 0
        problems: list[str] = []
        first = 0
        for number, line in self._lines():
            try:
                row = self._read(line)
                if self.total and len(row) != self._width:
                    raise LineError(
                        f"{len(row)} inputs, but line {first} gives {self._width}. "
                        "Give all lines the same number"
                    )
            except LineError as exc:
                problems.append(f"{self.path}:{number}: {exc}")
                continue
            if not self.total:
                first, self._width = number, len(row)
            self.total += 1
        if problems:
            raise UsageError(_listed(problems))
        if not self._width:
            raise UsageError(
                f"{self.path}: its lines give no inputs. Give at least one."
            )

    @property
    def columns(self) -> "list[_Column]":
        """The inputs as a batch takes them: one iterable for each parameter."""
        return [_Column(self, place) for place in range(self._width)]

    @property
    def is_through(self) -> bool:
        """Whether the batch has taken all inputs."""
        return self.pulled >= self.total

    def stop(self) -> None:
        """Give no further inputs."""
        self._stopped = True

    def value(self, place: int) -> Any:
        """Return one input of the present row; place 0 goes on to the next row.

        Raises:
            StopIteration: If there is none.
            UsageError: If the file has become another one meanwhile.
        """
        if place == 0:
            if self._rows is None:
                self._rows = self._all_rows()
            if self._stopped:
                raise StopIteration
            self._row = next(self._rows)
            self.pulled += 1
        return self._row[place]

    def _all_rows(self) -> Iterator[Row]:
        for number, line in self._lines():
            try:
                row = self._read(line)
                if len(row) != self._width:
                    raise LineError("another number of inputs")
            except LineError as exc:
                what = f"has changed while it was read: line {number}: {exc}"
                raise UsageError(f"{self.path} {what.rstrip('.')}. Run again.") from exc
            yield row

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that are not empty, with their numbers from 1."""
        try:
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, start=1):
                    if number == 1:
                        line = line.removeprefix(b"\xef\xbb\xbf")
                    if line.strip():
                        yield number, line
        except OSError as exc:
            raise UsageError(
                f"cannot read the inputs {self.path}: {exc.strerror} (in "
                f"{os.getcwd()}). Correct --inputs."
            ) from exc

    def _read(self, line: bytes) -> Row:
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as exc:
            raise LineError("not UTF-8 text. Save the file as UTF-8") from exc
        except json.JSONDecodeError as exc:
            raise LineError(
                f"not JSON: {exc.msg} at column {exc.colno}. Write one JSON value a "
                'line: a "text" in double quotes, [...] or {...}'
            ) from exc
        except (ValueError, RecursionError) as exc:
            raise LineError(
                "a number too long, or nested too deep. Shorten it, or give it as text"
            ) from exc
        return self._shape.row(value)


class _Column:
    """One parameter's inputs; all columns of a file share its place in it."""

    def __init__(self, file: InputFile, place: int) -> None:
        self._file = file
        self._place = place

    def __len__(self) -> int:
        return self._file.total

    def __iter__(self) -> "_Column":
        return self

    def __next__(self) -> Any:
        return self._file.value(self._place)


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


def _listed(problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{problems[0]}. Nothing was sent."
    more = len(problems) - _MOST_PROBLEMS
    shown = problems[:_MOST_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
    lines = "\n".join(f"  {problem}" for problem in shown)
    return f"{len(problems)} bad lines in the inputs, and nothing was sent:\n{lines}"
