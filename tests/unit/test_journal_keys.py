"""The identity of an input, and the keys of journal and cache."""

import os
import subprocess
import sys
import uuid
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

import pydantic
import pytest

from inf_engine.errors import JournalError
from inf_engine.journal.codec import canonical_request
from inf_engine.journal.identity import DEPTH, identity_of
from inf_engine.journal.keys import CallNumbers, cache_key, call_key
from inf_engine.types import LLMRequest, Message

ROOT = Path(__file__).parents[2]
HI = LLMRequest((Message("user", "hi"),))
HO = LLMRequest((Message("user", "ho"),))


class Colour(Enum):
    """An enum for inputs."""

    RED = 1
    BLUE = "blue"


class Word(StrEnum):
    """An enum whose members are texts."""

    A = "a"


class Access(Flag):
    """An enum whose members add up."""

    READ = 1
    WRITE = 2


@dataclass
class Page:
    """A dataclass for inputs."""

    text: Any
    number: int = 0
    cache: object = field(default=None, compare=False)


@dataclass
class Leaf:
    """Another class with the same fields."""

    text: str
    number: int = 0


class Model(pydantic.BaseModel):
    """A model for inputs."""

    text: Any
    page: Page | None = None


Point = namedtuple("Point", "x y")  # noqa: PYI024

DIFFERENT = [
    *(None, True, False, 1, 0, -1, 255, 256, -256, 2**64, 1.0, 0.0, -0.0, 1.5),
    *(float("nan"), float("inf"), float("-inf"), "", "1", "a", "\ud83d", "😀"),
    *("None", b"", b"a", [], (), {}, set(), [1], (1,), {1}, [[]], [()], [1, 1]),
    *({"a": 1}, {"a": 1.0}, {1: "a"}, {"1": "a"}, {"a": {"b": 1}}, {"ab": 1}),
    *(["ab", "c"], ["a", "bc"], ["abc"], [["a"], "b"], ["a", ["b"]]),
    *(Path("a"), datetime(2020, 1, 1), datetime(2020, 1, 1, fold=1), date(2020, 1, 1)),
    *(datetime(2020, 1, 1, tzinfo=UTC), time(1), timedelta(1), Decimal("1")),
    *(Decimal("1.0"), uuid.UUID(int=1), Colour.RED, Colour.BLUE, Word.A, Access.READ),
    *(Access.READ | Access.WRITE, Page("a"), Page("a", 1), Leaf("a"), Model(text="a")),
    *(Model(text=1), Model(text="a", page=Page("b")), Point(1, 2), [Point(1, 2)]),
]


def one(value: Any) -> str:
    """Return the identity of one argument."""
    return identity_of((value,), {})


def test_different_inputs() -> None:
    """What differs in type or content has another identity."""
    ids = [one(value) for value in DIFFERENT]
    assert len(set(ids)) == len(DIFFERENT)
    assert all(len(i) == 32 for i in ids)


def test_equal_inputs() -> None:
    """Order of dicts and sets, caches, and plain subclasses do not show."""
    pairs: list[tuple[Any, Any]] = [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2, 3, "x"}, frozenset(["x", 3, 2, 1])),
        (OrderedDict(b=1, a=2), {"a": 2, "b": 1}),
        (Point(1, 2), (1, 2)),
        (bytearray(b"a"), b"a"),
        (Page("a", cache=object()), Page("a")),
        (Path("a/b"), PurePosixPath("a/b")),
        (float("nan"), -float("nan")),
    ]
    for a, b in pairs:
        assert one(a) == one(b), (a, b)


def test_the_kind_of_argument_counts() -> None:
    """Positional is not keyword; the order of keywords does not matter."""
    assert identity_of((1, 2), {}) != identity_of(((1, 2),), {})
    assert identity_of((1,), {}) != identity_of((), {"a": 1})
    assert identity_of((), {"a": 1, "b": 2}) == identity_of((), {"b": 2, "a": 1})
    assert identity_of((), {"a": 1, "b": 2}) != identity_of((), {"b": 1, "a": 2})


def test_times_count_with_their_offset() -> None:
    """One moment in two time zones is two inputs, for a prompt shows it."""
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    assert one(moment) != one(moment.astimezone(timezone(timedelta(hours=1))))


def test_a_value_at_two_places_is_walked_once() -> None:
    """A nest that doubles at each level is no work, and equals its copy."""
    shared: list[Any] = []
    for _ in range(DEPTH - 1):
        shared = [shared, shared]
    assert one(shared)
    assert one([[1], [1]]) == one([[1]] * 2)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), r"args\[0\] is a object, whose content is not known. Give the"),
        ([1, {"a": [lambda: 0]}], r"args\[0\]\[1\]\['a'\]\[0\] is a function"),
        ({"a long secret": object()}, r"args\[0\]\[\.\.\.\] is a object"),
        ({object(): 1}, r"args\[0\]\{a key\} is a object"),
        ({Page}, r"args\[0\]\{an item\} is a type"),
        (Page(object()), r"args\[0\]\.text is a object"),
        (Model(text=object()), r"args\[0\]\.model_dump\(\)\['text'\] is a object"),
        (1j, "is a complex"),
    ],
)
def test_what_is_not_known(value: Any, said: str) -> None:
    """Anything else is refused, with its type, its place and the fix."""
    with pytest.raises(JournalError, match=said) as caught:
        one(value)
    assert "Engine, or its map or stream, an identity= function" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_keywords_are_named() -> None:
    """A keyword argument is called by its name."""
    with pytest.raises(JournalError, match=r"others: text\[0\] is a object"):
        identity_of((), {"text": [object()]})


def test_circles_and_depth() -> None:
    """What holds itself, or is too deep, is refused; the message stays short."""
    circle: list[Any] = [1]
    circle.append({"again": circle})
    with pytest.raises(
        JournalError, match=r"\[0\]\[1\]\['again'\] contains itself\. Give"
    ):
        one(circle)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(
        JournalError, match=r"\.\.\.\[0\] is nested more than 100 deep"
    ) as caught:
        one(deep)
    assert len(str(caught.value)) < 300


def test_a_model_that_cannot_be_dumped() -> None:
    """A model's own failure is told with its place."""

    class Broken:
        def model_dump(self, **options: object) -> object:
            raise ValueError("secret")

    with pytest.raises(JournalError, match="model_dump.* fails") as caught:
        one([Broken()])
    assert "secret" not in str(caught.value)


FROZEN = ["1c86b861f3b5663afda8ee52f87cdcce", "b440905ddb8ffaa7b37c67ffc4084662"]

SCRIPT = """
from inf_engine.journal import call_key, identity_of
from inf_engine.types import LLMRequest, Message
words = {f"word {i}" for i in range(50)}
i = identity_of((words, {w: {w} for w in words}), dict.fromkeys(words, 1))
print(i, call_key("a.b", LLMRequest((Message("user", "hi"),)), "m", i, 0).hex())
"""


def test_the_same_in_every_process() -> None:
    """Neither the hash seed nor the process shows, and the values are these for ever.

    A change of the constant loses what people have paid for: do not follow it lightly.
    """
    outputs = []
    for seed in ("0", "77"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, check=True
        )
        outputs.append(done.stdout.split())
    assert outputs == [FROZEN, FROZEN]


def test_a_key_is_16_bytes() -> None:
    """Keys are digests of 16 bytes, and take the canonical text too."""
    key = call_key("a", HI, "m", "i", 0)
    assert len(key) == 16
    assert key == call_key("a", canonical_request(HI), "m", "i", 0)
    assert len(cache_key(HI, "m", 0)) == 16
    assert cache_key(HI, "m", 0) == cache_key(canonical_request(HI), "m", 0)


def test_a_journal_key_is_no_cache_key() -> None:
    """The two purposes never meet in one key."""
    assert cache_key("", "", 0) != call_key("", "", "", "", 0)


def test_numbers_of_equal_calls() -> None:
    """Equal calls are counted from 0; another path, request or model starts anew."""
    numbers = CallNumbers()
    assert [numbers.take("a", HI, "m") for _ in range(3)] == [0, 1, 2]
    assert numbers.take("b", HI, "m") == 0
    assert numbers.take("a", HO, "m") == 0
    assert numbers.take("a", HI, "n") == 0
    assert numbers.take("a", canonical_request(HI), "m") == 3
    assert CallNumbers().take("a", HI, "m") == 0
