"""`RemoteStore`: a journal that another process has."""

import pytest

from inf_engine.errors import JournalError
from inf_engine.journal import Row
from inf_engine.scale.parcel import Kept
from inf_engine.scale.remote_store import RemoteStore


def row(number: int, first: bytes | None = None) -> Row:
    """A row of the input "x"."""
    key = bytes([number]) * 16
    return Row(key, input="x", response=f"answer {number}", first=first)


def test_a_row_lasts_once_it_is_acknowledged() -> None:
    """All that was appended since is sent together, and once."""
    sent: list[list[Row]] = []
    store = RemoteStore(lambda rows: sent.append(rows))
    assert store.append(row(1))
    assert store.append(row(2))
    assert not store.append(row(2))
    assert not store.is_lasting(row(1).key)
    store.commit()
    assert store.is_lasting(row(1).key)
    store.commit()
    assert sent == [[row(1), row(2)]]


def test_a_row_that_is_not_kept_is_an_error_for_all_later_ones() -> None:
    """As of a journal that lies here."""
    error = JournalError("the disk is full.")
    store = RemoteStore(lambda rows: error)
    store.append(row(1))
    with pytest.raises(JournalError, match="the disk is full"):
        store.commit()
    with pytest.raises(JournalError, match="the disk is full"):
        store.append(row(2))


def test_rows_are_there_as_long_as_their_input_is_alive() -> None:
    """Those that came with it and those that it added; so memory does not grow."""
    store = RemoteStore(lambda rows: None)
    first = row(1).key
    store.load(
        "x", [Kept(first, None, "0", "one"), Kept(row(2).key, first, "1", "two")]
    )
    store.append(row(3, first))
    store.commit()
    assert store.get(first) == "one"
    assert store.twins(first) == [first, row(2).key, row(3).key]
    assert store.place(row(2).key) == "1"
    store.drop("x")
    assert len(store) == 0
    assert store.get(first) is None
    assert store.twins(first) == []


def test_of_a_cache_only_the_keys_are_here() -> None:
    """What was there before, and what was added and acknowledged."""
    asked: list[bytes] = []

    def fetch(key: bytes) -> str:
        asked.append(key)
        return "fetched"

    known = row(1).key
    store = RemoteStore(lambda rows: None, fetch, [known])
    assert store.get(known) == "fetched"
    assert store.get(row(2).key) is None
    store.append(row(2))
    assert store.get(row(2).key) == "answer 2"
    store.commit()
    assert len(store) == 0
    assert store.get(row(2).key) == "fetched"
    assert asked == [known, row(2).key]
