"""`Row`: one answer in the journal, and the tables that hold it."""

import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from inf_engine.journal.files import journal_error
from inf_engine.journal.keys import KEY_BYTES
from inf_engine.types import ImagePart

LIBRARY = "0.1.0"
"""The version of the library, which a journal notes for who cannot read it."""

APPLICATION = 0x496E664A  # "InfJ", in the header of the file
VERSION = 2  # of the tables

TABLES = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE answers(id INTEGER PRIMARY KEY, key BLOB, kind TEXT, path TEXT, "
    "alias TEXT, model TEXT, input TEXT, number INTEGER, request TEXT, response TEXT, "
    "created TEXT, place TEXT, first BLOB, crc INTEGER)",
    f"INSERT INTO meta VALUES ('format', 'inf-engine journal {VERSION}')",
    f"INSERT INTO meta VALUES ('library', '{LIBRARY}')",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)
COLUMNS = (
    "key, kind, path, alias, model, input, number, request, response, created, place, "
    "first"
)
INSERT = f"INSERT INTO answers({COLUMNS}, crc) VALUES ({'?, ' * 12}?)"


@dataclass(frozen=True, slots=True)
class Row:
    """One answer in the journal.

    Args:
        key: Its key, 16 bytes.
        kind: What it answers: ``call``, ``op``, ``cache``.
        path: The attribute path of the module.
        alias: The alias that was called.
        model: The first model of the alias.
        input: The identity of the input.
        number: How many equal calls came before in this input.
        request: The canonical request.
        response: The answer, JSON text.
        created: When it came, ISO 8601; empty for the moment of `append`.
        place: Where in the program the call stands, to tell equal calls apart.
        first: The key of the first of equal calls, None for that one itself.
        id: Its number in the file, 0 before it is there.
        images: Those of the request; they are kept apart, and are not read with it.
    """

    key: bytes
    kind: str = "call"
    path: str = ""
    alias: str = ""
    model: str = ""
    input: str = ""
    number: int = 0
    request: str = ""
    response: str = ""
    created: str = ""
    place: str = ""
    first: bytes | None = None
    id: int = 0
    images: tuple[ImagePart, ...] = field(default=(), compare=False, repr=False)


def checksum(key: bytes, response: str) -> int:
    """Return what tells whether a row still is as it was written: a CRC-32.

    SQLite itself does not notice a byte that was changed inside a text.
    """
    return zlib.crc32(response.encode(), zlib.crc32(key))


def values_of(row: Row, response: str | None, path: str) -> tuple[Any, ...]:
    """Return the row as `INSERT` takes it.

    Args:
        row: The row.
        response: The answer, None for that of the row.
        path: The journal, for the message.

    Raises:
        JournalError: If a field of it cannot be stored.
    """
    created = row.created or datetime.now(UTC).isoformat()
    texts = (row.kind, row.path, row.alias, row.model, row.input)
    answer = row.response if response is None else response
    long = (row.request, answer, created, row.place)
    if not isinstance(row.key, bytes) or len(row.key) != KEY_BYTES:
        problem = (
            f"its key is not {KEY_BYTES} bytes: make it with call_key or cache_key"
        )
    elif type(row.number) is not int or row.number.bit_length() > 63:
        problem = "its number is not a whole number of at most 63 bits"
    elif not _is_text((*texts, *long)):
        problem = "a field is not text, or has half a character in it"
    else:
        return row.key, *texts, row.number, *long, row.first, checksum(row.key, answer)
    raise journal_error(path, "cannot store a row", f"Mend the row: {problem}.")


def _is_text(texts: tuple[Any, ...]) -> bool:
    """Say whether all are texts that UTF-8 knows."""
    try:
        "".join(texts).encode()
    except (TypeError, UnicodeEncodeError):
        return False
    return True
