"""`DataLoader`: batches, orders, and going on where it stopped."""

import collections
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator

import pydantic
import pytest

from inf_engine.errors import StateDictError, UsageError
from inf_engine.optimization.data import DataLoader, split


@dataclasses.dataclass
class Question:
    """An example."""

    text: str
    answer: str


class Model(pydantic.BaseModel):
    """An example, too."""

    text: str


class Stored:
    """Examples that are read when they are asked for, as a data base gives them."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 5

    def __getitem__(self, place: int) -> int:
        self.read.append(place)
        return place * 10


def test_batches_are_lists_and_the_last_one_is_smaller() -> None:
    """Unless it is dropped."""
    assert list(DataLoader(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(DataLoader(range(5), 2, drop_last=True)) == [[0, 1], [2, 3]]
    assert list(DataLoader(range(3))) == [[0, 1, 2]]


@pytest.mark.parametrize(("n", "size", "batches"), [(5, 2, 3), (4, 2, 2), (1, 8, 1)])
def test_its_length_is_the_number_of_batches(n: int, size: int, batches: int) -> None:
    """As torch counts it."""
    loader = DataLoader(range(n), size)
    assert len(loader) == batches == len(list(loader))


def test_examples_of_every_kind_come_as_they_are() -> None:
    """The very objects."""
    data = [Question("a", "b"), {"text": "a"}, Model(text="a"), ("a", "b"), "a", 1, [2]]
    batches = list(DataLoader(data, 3))
    assert [e for batch in batches for e in batch] == data
    assert batches[0][0] is data[0]


def test_what_can_be_read_once_is_kept() -> None:
    """A generator gives the same examples in every epoch."""

    def lines() -> Iterator[str]:
        yield from "abc"

    loader = DataLoader(lines(), 2)
    assert list(loader) == list(loader) == [["a", "b"], ["c"]]


def test_what_is_indexed_is_read_when_it_is_due() -> None:
    """Not all of it beforehand."""
    data = Stored()
    batches = iter(DataLoader(data, 2))  # ty: ignore[invalid-argument-type]
    assert data.read == []
    assert next(batches) == [0, 10]
    assert data.read == [0, 1]


def test_each_epoch_has_another_order_and_the_seed_tells_which() -> None:
    """The same for the same seed and epoch, whoever loads it."""
    loader = DataLoader(range(20), 20, shuffle=True, seed=7)
    first, second = next(iter(loader)), next(iter(loader))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second != list(range(20))
    twin = DataLoader(range(20), 20, shuffle=True, seed=7)
    assert [*twin, *twin] == [first, second]
    assert next(iter(DataLoader(range(20), 20, shuffle=True, seed=8))) != first


def test_the_order_is_the_same_on_every_machine() -> None:
    """Written down once; a journal of old runs depends on it."""
    loader = DataLoader(range(8), shuffle=True)
    assert loader.order() == loader.order(0) == [2, 1, 6, 5, 0, 3, 7, 4]
    assert loader.order(1) == [5, 6, 0, 2, 3, 4, 7, 1]


def test_the_epoch_can_be_set() -> None:
    """And is counted at the end of a loop."""
    loader = DataLoader(range(9), 4, shuffle=True)
    loader.set_epoch(3)
    batches = list(loader)
    assert [e for batch in batches for e in batch] == loader.order(3)
    assert loader.epoch == 4


def test_a_loop_after_a_break_is_another_epoch() -> None:
    """Whole, and in its own order."""
    loader = DataLoader(range(6), 2, shuffle=True)
    for _ in loader:
        break
    batches = list(loader)
    assert [e for batch in batches for e in batch] == loader.order(1)


def test_two_loops_at_once_are_two_epochs() -> None:
    """One does not take batches from the other."""
    loader = DataLoader(range(6), 2, shuffle=True)
    pairs = list(zip(loader, loader, strict=True))
    assert [e for one, _ in pairs for e in one] == loader.order(0)
    assert [e for _, two in pairs for e in two] == loader.order(1)


def test_places_tell_which_examples_are_in_a_batch() -> None:
    """For scores by example."""
    loader = DataLoader(list("abcde"), 2)
    assert list(loader.batches()) == [[0, 1], [2, 3], [4]]
    assert loader.examples[4] == "e"


@pytest.mark.parametrize("taken", range(8))
def test_it_goes_on_where_it_stopped(taken: int) -> None:
    """After any batch, also the last of an epoch; the state is plain JSON."""

    def taken_from(loader: DataLoader[int], n: int) -> list[list[int]]:
        found: list[list[int]] = []
        while len(found) < n:
            for batch in loader:
                found.append(batch)
                if len(found) == n:
                    break
        return found

    whole = taken_from(DataLoader(range(7), 2, shuffle=True, seed=1), 12)
    loader = DataLoader(range(7), 2, shuffle=True, seed=1)
    before = taken_from(loader, taken) if taken else []
    state = json.loads(json.dumps(loader.state_dict()))
    again = DataLoader(range(7), 2, shuffle=True, seed=1)
    again.load_state_dict(state)
    assert before + taken_from(again, 12 - taken) == whole


def test_a_state_of_another_loader_is_refused() -> None:
    """With what differs; the loader stays where it was."""
    loader = DataLoader(range(7), 2)
    state = loader.state_dict()
    with pytest.raises(StateDictError, match="batch_size=2, and this one has batch_si"):
        DataLoader(range(7), 3).load_state_dict(state)
    with pytest.raises(StateDictError, match="missing or unknown: seed, speed"):
        state["speed"] = state.pop("seed")
        loader.load_state_dict(state)
    with pytest.raises(StateDictError, match="position=9 are no place in a DataLoader"):
        loader.load_state_dict({**loader.state_dict(), "position": 9})
    assert next(iter(loader)) == [0, 1]


def test_it_prints_what_it_loads() -> None:
    """Not the examples themselves."""
    text = "DataLoader(2 examples, batch_size=8, shuffle=False, seed=0)"
    assert repr(DataLoader(["secret", "secret"])) == text


async def _lines() -> AsyncIterator[str]:
    yield "a"


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("data", "fix"),
    [
        ("abc", "not a str: put it into a list"),
        ({"a": 1}, r"not a dict: give list\(data.values"),
        ({1, 2}, "not a set, which has no order: give sorted"),
        (_lines(), r"async iterable: give \[x async for x in data\]"),
        (Question("a", "b"), "not one Question: put it into a list"),
        (Model(text="a"), "not one Model: put it into a list"),
        (Pair(1, 2), "not one Pair: put it into a list"),
        (7, "not a int: give a list"),
        (type("DataFrame", (), {"iloc": 0})(), r"give data.to_dict\('records'\)"),
        ([], "data has no example: give at least one"),
        (iter([]), "data has no example: give at least one"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_what_holds_no_examples_in_order_is_refused(data: object, fix: str) -> None:
    """With the fix."""
    with pytest.raises(UsageError, match=fix):
        DataLoader(data)  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_at_least_one_example(size: int) -> None:
    """Else nothing would come."""
    with pytest.raises(UsageError, match=f"batch_size={size}: give 1 or more"):
        DataLoader([1], size)


@pytest.mark.parametrize("size", [2.0, "8", True, None])
def test_a_batch_size_is_an_int(size: object) -> None:
    """No float, no bool."""
    with pytest.raises(UsageError, match="batch_size must be an int, not"):
        DataLoader([1], size)  # ty: ignore[invalid-argument-type]


def test_a_loader_without_a_batch_is_refused() -> None:
    """Not an epoch of nothing, for ever."""
    with pytest.raises(
        UsageError, match="3 examples make no batch of 4 with drop_last"
    ):
        DataLoader(range(3), 4, drop_last=True)


@pytest.mark.parametrize("epoch", [-1, 1.5, True])
def test_an_epoch_is_a_number_from_0(epoch: int) -> None:
    """Else its order would be another one each time."""
    with pytest.raises(UsageError, match="epoch=.*: give its number, 0 or more"):
        DataLoader([1]).set_epoch(epoch)


def test_a_split_parts_every_example_once() -> None:
    """By the seed, in the order of the data, for any iterable."""
    train, val = split((n for n in range(50)), 0.7, seed=4)
    assert len(train) == 35
    assert sorted(train + val) == list(range(50))
    assert (train, val) == (sorted(train), sorted(val))
    assert split(range(50), 0.7, seed=4) == (train, val)
    assert split(range(50), 0.7, seed=5) != (train, val)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_no_part_of_a_split_is_empty(fraction: float) -> None:
    """A fraction is rounded, to one example at least."""
    assert sorted(map(len, split([1, 2, 3], fraction))) == [1, 2]


def test_a_split_that_cannot_be_is_refused() -> None:
    """One example, and no fraction."""
    with pytest.raises(UsageError, match="has one example, which cannot be split"):
        split([1], 0.5)
    with pytest.raises(UsageError, match="fraction=80: give a number between 0 and 1"):
        split([1, 2], 80)
