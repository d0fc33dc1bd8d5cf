"""The images of a journal: each is kept once, under the SHA-256 of its content.

The table is made with the first image, so a journal without any is as it ever was.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from inf_engine.types import ImagePart

if TYPE_CHECKING:
    import sqlite3

_TABLE = (
    "CREATE TABLE IF NOT EXISTS images(digest TEXT PRIMARY KEY, content BLOB) "
    "WITHOUT ROWID"
)
_THERE = "SELECT 1 FROM sqlite_master WHERE name = 'images'"


def keep_images(database: "sqlite3.Connection", images: Iterable[ImagePart]) -> None:
    """Keep images that are not there yet; those by address have no content.

    Args:
        database: The open journal.
        images: The images of a request.

    Raises:
        sqlite3.Error: If they could not be kept.
    """
    for digest, image in {i.digest: i for i in images if i.data and not i.url}.items():
        if read_image(database, digest, "1") is None:
            database.execute(_TABLE)
            row = digest, image.content
            database.execute("INSERT INTO images VALUES (?, ?)", row)


def read_image(
    database: "sqlite3.Connection", digest: str, column: str = "content"
) -> bytes | None:
    """Return the content of an image, None if it is not there.

    Args:
        database: The open journal.
        digest: Its SHA-256, hex.
        column: What of it is read.

    Raises:
        sqlite3.Error: If it cannot be read.
    """
    if database.execute(_THERE).fetchone() is None:
        return None
    query = f"SELECT {column} FROM images WHERE digest = ?"
    found = database.execute(query, (digest,)).fetchone()
    return None if found is None else found[0]
