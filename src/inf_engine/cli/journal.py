"""``inf-engine journal``: look at a journal, compare two, write one out as rows.

A journal is opened to read only, so a run may be writing into it meanwhile. No text of
a prompt or an answer is shown but with ``--full``, and by ``export``.
"""

import argparse
import itertools
import json
import sys
from dataclasses import replace
from typing import Any

from inf_engine.cli.console import say, show, table
from inf_engine.cli.outputs import same_file
from inf_engine.cli.summary import counted
from inf_engine.errors import JournalError, UsageError
from inf_engine.journal import JournalStore, Row, decode_response, export_journal
from inf_engine.journal.export import columns_of, parsed, write_lines
from inf_engine.types import Usage

_HEAD = ("row", "created", "kind", "module", "alias", "model", "input", "n", "tokens")


def show_journal(args: argparse.Namespace) -> int:
    """Print the rows of a journal; return the exit code.

    Args:
        args: The parsed command line.

    Raises:
        JournalError: If it cannot be read.
    """
    with JournalStore(args.file, read_only=True) as store:
        rows = itertools.islice(store.rows(), args.limit)
        if args.full:
            for row in rows:
                show(json.dumps(columns_of(row), ensure_ascii=False, indent=2))
        else:
            for line in table([_HEAD, *map(_cells, rows)]):
                show(line)
        say(f"{counted(len(store), 'answer')} in {store.path}")
    return 0


def diff_journals(args: argparse.Namespace) -> int:
    """Print what differs between two journals; return 1 if anything does, else 0.

    Args:
        args: The parsed command line.

    Raises:
        JournalError: If one cannot be read.
    """
    with (
        JournalStore(args.a, read_only=True) as a,
        JournalStore(args.b, read_only=True) as b,
    ):
        missing = [("-", *_cells(row)) for row in a.rows() if b.get(row.key) is None]
        added = [("+", *_cells(row)) for row in b.rows() if a.get(row.key) is None]
        changed = [("~", *_cells(row)) for row in a.rows() if _differs(row, b)]
    lines = [*missing, *added, *changed]
    for line in table([("", *_HEAD), *lines] if lines else []):
        show(line)
    show(
        f"{len(missing):,} only in {args.a}, {len(added):,} only in {args.b}, "
        f"{len(changed):,} with another answer"
    )
    return 1 if lines else 0


def export(args: argparse.Namespace) -> int:
    """Write the rows of a journal to a file or stdout; return the exit code.

    Args:
        args: The parsed command line.

    Raises:
        JournalError: If it cannot be read.
        UsageError: If the file cannot be written.
    """
    if same_file(args.file, args.out):
        raise UsageError("--out is the journal itself. Name another file.")
    if args.out == "-":
        with JournalStore(args.file, read_only=True) as store:
            write_lines(store.rows(), sys.stdout.buffer)
        return 0
    count = export_journal(args.file, args.out, overwrite=args.force)
    say(f"{counted(count, 'answer')} in {args.out}")
    return 0


def _cells(row: Row) -> tuple[str, ...]:
    """Return a row without its texts, in the order of `_HEAD`."""
    return (
        *(str(row.id), row.created[:19], row.kind, row.path or "-", row.alias or "-"),
        *(row.model or "-", row.input[:8] or "-", str(row.number), _tokens(row)),
    )


def _tokens(row: Row) -> str:
    try:
        usage = decode_response(row.response).usage
    except JournalError:  # of an op, or of a newer version
        return "-"
    return f"{usage.input_tokens}+{usage.output_tokens}"


def _differs(row: Row, other: JournalStore) -> bool:
    """Say whether another journal has another answer to the same call."""
    kept = other.get(row.key)
    return kept is not None and _answer(kept) != _answer(row.response)


def _answer(response: str) -> Any:
    """Return what a model said, without when, how long and for how much."""
    try:
        answer = decode_response(response)
    except JournalError:
        return parsed(response)
    return replace(answer, id="", seconds=0.0, cost=None, usage=Usage(), limits=None)
