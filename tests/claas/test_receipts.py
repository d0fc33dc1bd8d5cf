"""Receipts and the ledger on the disk."""

import contextlib
import json
import sqlite3
import stat
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from claas.config import Limits
from claas.database import Database
from claas.errors import ConflictError, NotFoundError, StorageError
from claas.ledger import Ledger
from claas.ratings import Ratings
from claas.receipts import Receipts
from claas.types import Check, Feedback, Receipt
from claas.web.workshop import receipts_of

ONE = Receipt(
    id="chatcmpl-1",
    user="ann",
    lora="ann/bot",
    version=3,
    messages=({"role": "user", "content": "h\ud800i \0"},),
    prompt_ids=(1, 2),
    token_ids=(3, 4),
    logprobs=(-0.5, -1e-9),
    text="there",
    tools=({"type": "function"},),
    sampling={"temperature": 0.5, "stop": ["x"]},
    created=1000.0,
)
Opened = Callable[[Path], Database]
SAID = Feedback("ann/1", ONE.id, "critique", "shorter", 0.5, 1.0, Check("Kuro"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "deep" / "claas.sqlite3"


def test_a_receipt_comes_back_as_it_was(path: Path, opened: Opened) -> None:
    """From another process's connection, with all its fields."""
    Receipts(opened(path)).add(ONE)
    assert Receipts(opened(path)).get(ONE.id) == ONE
    with pytest.raises(NotFoundError, match="there is no receipt 'x'"):
        Receipts(opened(path)).get("x")


def test_receipts_are_added_whole_or_not(path: Path, opened: Opened) -> None:
    """One that is there already leaves none of the others."""
    receipts = Receipts(opened(path))
    receipts.add(ONE)
    with pytest.raises(ConflictError, match="there is a receipt already"):
        receipts.add(replace(ONE, id="new"), ONE)
    with pytest.raises(NotFoundError):
        receipts.get("new")


def test_equal_answers_to_different_prompts_stay_apart(
    path: Path, opened: Opened
) -> None:
    """The id is what tells them apart, nothing in them."""
    receipts = Receipts(opened(path))
    other = replace(ONE, id="chatcmpl-2", messages=({"role": "user", "content": "?"},))
    receipts.add(ONE, other)
    assert receipts.get(ONE.id).messages != receipts.get(other.id).messages


def test_the_file_is_private(path: Path, opened: Opened) -> None:
    """Nobody else may read what was asked, not even in the log beside it."""
    Receipts(opened(path)).add(ONE)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_old_and_the_many_go_but_not_what_feedback_names(
    path: Path, opened: Opened
) -> None:
    """By age, and by number for each user; a lesson's receipt stays, and takes the
    room of no other."""
    database = opened(path)
    receipts, ledger = Receipts(database, most=2, days=1), Ledger(database)
    day = 86_400.0
    for number in range(6):
        receipts.add(replace(ONE, id=str(number), created=number * 0.1 * day))
    receipts.add(replace(ONE, id="bob's", user="bob", created=day))
    ledger.add("ann", "ann/bot", replace(SAID, receipt="0"))
    assert receipts.prune(now=1.15 * day) == 3  # 1 is too old, 2 and 3 are too many
    assert receipts.count("ann") == 3 and receipts.count("bob") == 1
    for name in ("0", "4", "5", "bob's"):
        receipts.get(name)
    receipts.forget("ann/bot")
    assert receipts.get("0") and receipts.count("ann") == 1


def test_receipts_have_room_in_bytes(path: Path, opened: Opened) -> None:
    """The oldest without feedback go until the others fit; each user has his own."""
    database = opened(path)
    one = len(json.dumps(asdict(ONE), separators=(",", ":")))
    receipts = receipts_of(database, Limits(receipt_bytes=3 * one))
    for number in range(6):
        receipts.add(replace(ONE, id=f"chatcmpl-{number}", created=float(number)))
    receipts.add(replace(ONE, id="chatcmpl-b", user="bob"))
    Ledger(database).add("ann", "ann/bot", replace(SAID, receipt="chatcmpl-0"))
    assert receipts.prune(now=0) == 2
    for name in ("0", "3", "4", "5", "b"):
        receipts.get(f"chatcmpl-{name}")
    receipts.add(replace(ONE, id="chatcmpl-large", text="x" * one, created=9.0))
    assert receipts.prune(now=0) == 2 and receipts.prune(now=0) == 0


def test_a_database_of_the_schema_before_is_taken_over(
    path: Path, opened: Opened
) -> None:
    """It had no sizes: they are counted once; and no ratings."""
    Receipts(opened(path)).add(ONE)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(
            "DROP TABLE ratings; DROP INDEX receipts_by_user;"
            "ALTER TABLE receipts DROP COLUMN bytes;"
            "CREATE INDEX receipts_by_user ON receipts (user, created);"
            "PRAGMA user_version = 1;"
        )
    database = opened(path)
    receipts = Receipts(database, size=10)
    assert Ratings(database).means(ONE.lora) == {}
    assert receipts.get(ONE.id) == ONE and receipts.prune(now=0) == 1


def test_feedback_is_one_per_id(path: Path, opened: Opened) -> None:
    """The same again is the same; another under its id is refused."""
    ledger = Ledger(opened(path))
    assert ledger.add("ann", "ann/bot", SAID) is True
    assert ledger.add("ann", "ann/bot", replace(SAID, created=9.0)) is False
    for user, lora, other in (
        ("ann", "ann/bot", replace(SAID, content="longer")),
        ("ann", "ann/bot", replace(SAID, check=None)),
        ("ann", "ann/cat", SAID),
        ("bob", "ann/bot", SAID),
    ):
        with pytest.raises(ConflictError, match="'ann/1' was used for another"):
            ledger.add(user, lora, other)
    assert Ledger(opened(path)).open("ann/bot") == [SAID]


def test_the_ledger_says_what_went_where(path: Path, opened: Opened) -> None:
    """States are rows; what was rejected waits again; versions can be made again."""
    ledger = Ledger(opened(path))
    both = [replace(SAID, id=name) for name in ("a", "b")]
    ledger.add_all("ann", [("ann/bot", one) for one in both])
    ledger.mark(["a", "b"], "trained", 1, "version 1 was trained on it")
    assert ledger.open("ann/bot") == []
    ledger.mark(["a"], "promoted", 1, "it serves")
    ledger.mark(["b"], "rejected", 1, "it drifts")
    assert ledger.open("ann/bot") == both[1:]
    first, second = Ledger(opened(path)).history("ann/bot")
    assert [m.state for m in first.marks] == ["trained", "promoted"]
    assert (second.state, second.marks[-1].why) == ("rejected", "it drifts")
    assert ledger.into("ann/bot", 1) == both and ledger.into("ann/bot", 2) == []
    with pytest.raises(NotFoundError, match="no feedback 'z'"):
        ledger.mark(["b", "z"], "dropped", None, "")
    assert ledger.history("ann/bot")[1].state == "rejected"


def test_processes_take_turns(path: Path, opened: Opened) -> None:
    """Many writers with connections of their own lose nothing."""

    def write(name: str) -> None:
        receipts = Receipts(opened(path))
        for number in range(10):
            receipts.add(replace(ONE, id=f"{name}{number}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Receipts(opened(path)).count("ann") == 40


def test_files_that_are_none_are_named(
    path: Path, tmp_path: Path, opened: Opened
) -> None:
    """A damaged file, one of another claas, a folder that cannot be written."""
    Receipts(opened(path)).add(ONE)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StorageError, match="of another claas .schema 99"):
        Receipts(opened(path))
    (tmp_path / "no").write_bytes(b"this is no database at all" * 40)
    with pytest.raises(StorageError, match="cannot be used: file is not a database"):
        Receipts(opened(tmp_path / "no"))
    with pytest.raises(StorageError, match="cannot be used"):
        Receipts(opened(tmp_path / "no" / "way.sqlite3"))
