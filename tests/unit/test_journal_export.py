"""The rows of a journal as JSON lines and as Parquet."""

import json
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from inf_engine.errors import JournalError, UsageError
from inf_engine.journal import (
    EXPORT_COLUMNS,
    JournalStore,
    Row,
    canonical_request,
    encode_response,
    export_journal,
)
from inf_engine.journal import export as exporting
from inf_engine.types import LLMRequest, LLMResponse, Message, Usage

WHEN = "2026-11-22T15:00:00.000001+00:00"
ASKED = canonical_request(
    LLMRequest((Message("system", "Be brief."), Message("user", "a cat?")))
)
ANSWER = LLMResponse(
    "a \ud83d cat",
    usage=Usage(1, 7, 3, 2, 1, 4),
    model="cat-1",
    cost=0.25,
    seconds=1.5,
    finish_reason="length",
)


def key(number: int) -> bytes:
    """The key of a row."""
    return number.to_bytes(16, "big")


ROWS = (
    Row(key(1), "call", "a.b", "fast", "cat", "in1", 2, ASKED, "", WHEN, "0.1"),
    Row(key(2), "op", "load", input="in1", request="12", response="[1]", created=WHEN),
    Row(key(3), "call", "a", "fast", "cat", "in2", 0, "{}", '{"later":1}', "today"),
)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal of an answer, the value of an op, and what a newer version wrote."""
    with JournalStore(tmp_path / "run.db") as store:
        store.append(ROWS[0], encode_response(ANSWER))
        for row in ROWS[1:]:
            store.append(row)
    return tmp_path / "run.db"


def lines(path: Path) -> list[dict[str, Any]]:
    """The values of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_have_what_the_journal_has(journal: Path, tmp_path: Path) -> None:
    """All columns in each line, in order; request and answer as JSON values."""
    out = tmp_path / "rows.jsonl"
    assert export_journal(journal, out) == 3
    call, op, newer = lines(out)
    assert all(list(line) == list(EXPORT_COLUMNS) for line in (call, op, newer))
    with JournalStore(journal, read_only=True) as store:
        for row, line in zip(store.rows(), (call, op, newer), strict=True):
            for name in ("id", "kind", "path", "alias", "model", "input", "number"):
                assert line[name] == getattr(row, name)
            assert (line["key"], line["created"]) == (row.key.hex(), row.created)
            assert line["response"] == json.loads(row.response)
    assert (call["prompt"], call["text"], call["place"]) == (
        "a cat?",
        ANSWER.text,
        "0.1",
    )
    assert call["request"] == json.loads(ASKED)
    assert [call[n] for n in EXPORT_COLUMNS if n.endswith("tokens")] == [7, 3, 2, 1, 4]
    assert (call["cost"], call["seconds"], call["answered_by"]) == (0.25, 1.5, "cat-1")
    assert call["finish_reason"] == "length"
    assert (op["request"], op["response"], op["text"]) == ("12", [1], None)
    assert (newer["text"], newer["cost"]) == (None, None)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_parquet_has_the_same_rows(journal: Path, tmp_path: Path) -> None:
    """Typed, request and answer as the journal's own text, half a letter replaced."""
    parquet = pytest.importorskip("pyarrow.parquet")
    export_journal(journal, tmp_path / "rows.jsonl")
    export_journal(journal, tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.schema.names == list(EXPORT_COLUMNS)
    found, wanted = table.to_pylist(), lines(tmp_path / "rows.jsonl")
    assert found[0]["text"] == "a ? cat"
    assert found[0]["created"] == datetime(2026, 11, 22, 15, 0, 0, 1, tzinfo=UTC)
    assert found[2]["created"] is None  # of "today"
    for row, line in zip(found, wanted, strict=True):
        for name in ("request", "response"):
            assert row[name] == line[name] or json.loads(row[name]) == line[name]
        for name in ("text", "created", "request", "response"):
            del row[name], line[name]
        assert row == line


def test_few_rows_are_held_at_a_time(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row group is full at a number of rows or of characters; no keys are read."""
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(exporting, "_ROWS", 2)
    monkeypatch.setattr(JournalStore, "_note", None)  # would hold a key
    export_journal(journal, tmp_path / "a.parquet")
    assert parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2
    monkeypatch.setattr(exporting, "_CHARACTERS", 1)
    export_journal(journal, tmp_path / "b.parquet")
    assert parquet.ParquetFile(tmp_path / "b.parquet").num_row_groups == 3


def test_rows_are_written_as_they_are_read(tmp_path: Path) -> None:
    """When a row is asked for, the one before it is in the file."""
    with (tmp_path / "rows.jsonl").open("wb", buffering=0) as file:
        seen = []

        def rows() -> Iterator[Row]:
            for row in ROWS:
                seen.append(file.tell())
                yield row

        assert exporting.write_lines(rows(), file) == 3
    assert 0 == seen[0] < seen[1] < seen[2]


def test_beside_a_writer(journal: Path, tmp_path: Path) -> None:
    """What is committed is in it, and the writer goes on."""
    with JournalStore(journal) as store:
        store.append(Row(key(4), response="{}"))
        assert export_journal(journal, tmp_path / "rows.jsonl") == 4
        assert store.append(Row(key(5), response="{}"))


def test_a_file_is_not_written_over(journal: Path, tmp_path: Path) -> None:
    """Unless asked for; what fails on the way leaves it as it was."""
    out = tmp_path / "rows.jsonl"
    out.write_text("mine")
    with pytest.raises(UsageError, match="is there already. Name another file, or"):
        export_journal(journal, out)
    with pytest.raises(JournalError, match="does not exist"):
        export_journal(tmp_path / "no.db", out, overwrite=True)
    assert out.read_text() == "mine"
    assert export_journal(journal, out, overwrite=True) == 3
    assert len(lines(out)) == 3
    assert not list(tmp_path.glob(".export-*"))


def test_a_break_leaves_no_file(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a part under the name nor a draft."""

    def broken(row: Row) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "columns_of", broken)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        export_journal(journal, tmp_path / "rows.jsonl")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rows.csv", "'rows.csv': name a file that ends in .jsonl or .parquet"),
        ("no/rows.jsonl", "cannot write to .*: No such file or directory. Name a file"),
        ("run.db/rows.jsonl", "cannot write to .*: Not a directory"),
    ],
)
def test_names_that_cannot_be_written(
    journal: Path, tmp_path: Path, name: str, message: str
) -> None:
    """What is wrong, and what to do."""
    with pytest.raises(UsageError, match=message):
        export_journal(journal, tmp_path / name)


def test_no_pyarrow(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'inf-engine\[parquet\]'"):
        export_journal(journal, tmp_path / "rows.parquet")
    assert not (tmp_path / "rows.parquet").exists()
