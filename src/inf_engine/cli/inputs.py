"""`InputFile`: a JSONL file as the inputs of a batch.

What a line means is told in `inf_engine.execution.lines`.

The file is read twice: first to check all of it, before anything is paid, then line by
line as the batch goes on, so that it may be of any size.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.execution.lines import CallShape, LineError, Row

_MOST_PROBLEMS = 10


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


def _listed(problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{problems[0]}. Nothing was sent."
    more = len(problems) - _MOST_PROBLEMS
    shown = problems[:_MOST_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
    lines = "\n".join(f"  {problem}" for problem in shown)
    return f"{len(problems)} bad lines in the inputs, and nothing was sent:\n{lines}"
