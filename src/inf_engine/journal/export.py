"""`export_journal`: the rows of a journal as JSON lines or as Parquet.

Each row has the columns of `EXPORT_COLUMNS`, in this order and under these names;
columns may be added at the end, none is taken away or changes its meaning. What a row
does not have (an op asked no model) is null. `request` and `response` hold everything,
as the journal does (`codec`): JSON values in JSON lines, JSON text in Parquet. The
others are what one filters and sums by.

Rows are read and written a few at a time. The file is written under another name and
renamed at the end, so a file that is there is whole; its mode is 0600, for prompts and
answers are in it.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from inf_engine.errors import JournalError, UsageError
from inf_engine.journal.codec import decode_request, decode_response
from inf_engine.journal.rows import Row
from inf_engine.journal.store import JournalStore

if TYPE_CHECKING:
    import pyarrow as pa

EXPORT_COLUMNS = {
    "id": "int64",
    "key": "string",
    "kind": "string",
    "input": "string",
    "path": "string",
    "place": "string",
    "number": "int64",
    "alias": "string",
    "model": "string",
    "created": "timestamp",
    "prompt": "string",
    "text": "string",
    "finish_reason": "string",
    "answered_by": "string",
    "input_tokens": "int64",
    "output_tokens": "int64",
    "cached_tokens": "int64",
    "reasoning_tokens": "int64",
    "cache_write_tokens": "int64",
    "cost": "double",
    "seconds": "double",
    "request": "json",
    "response": "json",
}
"""The columns and their types.

- `id`: the number of the row, from 1; `key`: what the journal finds it by, hex
- `kind`: ``call`` (of a model), ``op`` (a value that was kept) or ``cache``
- `input`: the identity of the input of the run; equal inputs have equal ones
- `path`: the module; `place`: where in the program; `number`: equal calls before it
- `alias`, `model`: who was asked, `answered_by`: the model by its own name
- `created`: when the answer came, UTC (ISO 8601 in JSON lines)
- `prompt`: the text of the last user message; `text`: that of the answer
- `cost`: USD, null if no price is known; `seconds`: from sending to the last byte
"""

_ROWS, _CHARACTERS = 4096, 16_000_000  # of a row group, at most; or one row
_TOKENS = [name for name in EXPORT_COLUMNS if name.endswith("_tokens")]


def export_journal(
    journal: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> int:
    """Write the rows of a journal to a file; return how many.

    Memory does not grow with the journal, and it may be written to meanwhile.

    Args:
        journal: The journal.
        out: The file: ``NAME.jsonl`` or ``NAME.parquet`` (extra ``parquet``).
        overwrite: Whether a file that is there may be replaced.

    Raises:
        JournalError: If the journal cannot be read.
        UsageError: If the file is there, has another ending or cannot be written, or
            pyarrow is missing.
    """
    path = Path(out)
    _check_free(path, overwrite)
    write = _writer(path)
    draft = path.parent / f".export-{secrets.token_hex(6)}.tmp"
    with JournalStore(journal, read_only=True) as store:
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                count = write(store.rows(), file)
            _check_free(path, overwrite)
            os.replace(draft, path)
        except OSError as exc:
            raise UsageError(
                f"cannot write to {path}: {exc.strerror or exc}. Name a file in a "
                "folder that exists and has room."
            ) from exc
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()
    return count


def write_lines(rows: Iterable[Row], file: BinaryIO) -> int:
    """Write rows as JSON lines; return how many.

    Args:
        rows: The rows.
        file: Where to.

    Raises:
        OSError: If they cannot be written.
    """
    count = 0
    for row in rows:
        file.write(json.dumps(columns_of(row)).encode() + b"\n")
        count += 1
    return count


def columns_of(row: Row) -> dict[str, Any]:
    """Return a row as JSON values, by column (see `EXPORT_COLUMNS`).

    Args:
        row: The row.
    """
    asked = {} if row.kind == "op" else _asked(row.request)
    answer = {} if row.kind == "op" else _answered(row.response)
    whole = {
        "key": row.key.hex(),
        "request": row.request if row.kind == "op" else parsed(row.request),
        "response": parsed(row.response),
    }
    found = {**asked, **answer, **whole}
    return {
        name: found[name] if name in found else getattr(row, name, None)
        for name in EXPORT_COLUMNS
    }


def _asked(text: str) -> dict[str, Any]:
    """Return the columns that stand in a request, none if it cannot be read."""
    try:
        return {"prompt": decode_request(text).prompt}
    except JournalError:
        return {}


def _answered(text: str) -> dict[str, Any]:
    """Return the columns that stand in an answer, none if it cannot be read."""
    try:
        answer = decode_response(text)
    except JournalError:
        return {}
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "answered_by": answer.model,
        **{name: getattr(answer.usage, name) for name in _TOKENS},
        "cost": answer.cost,
        "seconds": answer.seconds,
    }


def parsed(text: str) -> Any:
    """Return JSON text as a value, what is no JSON as it is.

    Args:
        text: The text.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _writer(path: Path) -> Callable[[Iterable[Row], BinaryIO], int]:
    """Return what writes a file of this name."""
    if path.suffix == ".jsonl":
        return write_lines
    if path.suffix == ".parquet":
        return _Parquet().write
    raise UsageError(
        f"cannot tell what to write from the name {path.name!r}: name a file that ends "
        "in .jsonl or .parquet."
    )


def _check_free(path: Path, overwrite: bool) -> None:
    """Refuse a file that is not to be replaced, and what is no file."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a plain file. Name another file.")
    if path.exists() and not overwrite:
        raise UsageError(
            f"{path} is there already. Name another file, or allow to write over it: "
            "--force, or overwrite=True."
        )


class _Parquet:
    """Rows as Parquet, a row group at a time."""

    def __init__(self) -> None:
        try:
            import pyarrow  # noqa: PLC0415
            import pyarrow.parquet  # noqa: PLC0415
        except ImportError as exc:
            raise UsageError(
                "Parquet needs the package pyarrow, which is not installed: pip "
                "install 'inf-engine[parquet]', or name a file that ends in .jsonl."
            ) from exc
        self._arrow = pyarrow
        types: dict[str, Any] = {
            "int64": pyarrow.int64(),
            "string": pyarrow.string(),
            "double": pyarrow.float64(),
            "timestamp": pyarrow.timestamp("us", tz="UTC"),
            "json": pyarrow.string(),
        }
        fields = [(name, types[kind]) for name, kind in EXPORT_COLUMNS.items()]
        self._schema: pa.Schema = pyarrow.schema(fields)

    def write(self, rows: Iterable[Row], file: BinaryIO) -> int:
        """Write rows to a file; return how many."""
        count = 0
        parquet = self._arrow.parquet
        with parquet.ParquetWriter(file, self._schema, compression="zstd") as writer:
            for group in _groups(rows):
                lines = [_typed(row) for row in group]
                table = self._arrow.Table.from_pylist(lines, schema=self._schema)
                writer.write_table(table)
                count += len(group)
        return count


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield rows in groups that are not too large to be held."""
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row.request) + len(row.response)
        if len(group) >= _ROWS or size >= _CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _typed(row: Row) -> dict[str, Any]:
    """Return a row as Parquet's values, by column."""
    found = {**columns_of(row), "request": row.request, "response": row.response}
    found["created"] = _moment(row.created)
    for name in ("prompt", "text"):
        if found[name] is not None:  # half a character is no UTF-8
            found[name] = found[name].encode("utf-8", "replace").decode()
    return found


def _moment(text: str) -> datetime | None:
    """Return a time of ISO 8601, None if it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None
