"""What the command line writes: results to stdout, everything else to stderr."""

import sys
from collections.abc import Sequence


def show(text: str) -> None:
    """Write a line of what was asked for."""
    sys.stdout.write(f"{text}\n")


def say(text: str) -> None:
    """Write a line about how it goes, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return lines of equal columns, all to the left.

    Args:
        rows: The cells, as many in each row.
    """
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [
        [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        for row in rows
    ]
    return ["  ".join(cells).rstrip() for cells in padded]
