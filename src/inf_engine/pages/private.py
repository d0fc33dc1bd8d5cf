"""`write_private`: a file for its owner's eyes, there whole or not at all."""

import contextlib
import os
import secrets
from pathlib import Path


def write_private(path: Path, data: bytes) -> None:
    """Write a file that is readable by its owner only, replaced in one step.

    Args:
        path: The file.
        data: What is to be in it.

    Raises:
        OSError: If the folder does not exist or cannot be written to.
    """
    draft = path.parent / f".draft-{secrets.token_hex(6)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(draft, flags, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
