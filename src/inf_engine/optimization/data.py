"""`DataLoader`: examples in batches, in an order that a seed gives."""

import random
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sized
from typing import Any, Generic, TypeVar

from inf_engine.errors import StateDictError, UsageError
from inf_engine.optimization.examples import fields_of
from inf_engine.optimization.intervals import check_share

T = TypeVar("T")

_STATE = ("epoch", "position", "examples", "batch_size", "shuffle", "seed")


class DataLoader(Generic[T]):
    """Examples in batches; each pass over it is an epoch with an order of its own.

    The order of an epoch follows from `seed` and the number of the epoch, on every
    machine. Each ``for`` loop begins an epoch: the next one, also where the loop before
    was left by ``break``.

    Args:
        data: The examples. What has a length and is indexed from 0 is used as it is;
            every other iterable is read once and kept.
        batch_size: How many examples make a batch; the last one may be smaller.
        shuffle: Whether each epoch has another order.
        seed: What the orders follow from.
        drop_last: Whether a smaller last batch is left out.

    Raises:
        UsageError: If there is no example, or no batch, or `data` is something whose
            examples would have to be guessed: a text, a mapping, a set, one model, a
            table, an async iterable.

    Attributes:
        examples: The examples, in their own order.
        epoch: The number, from 0, of the epoch that is under way or comes next.

    Example:
        >>> loader = DataLoader("a b c d e".split(), batch_size=2)
        >>> list(loader)
        [['a', 'b'], ['c', 'd'], ['e']]
        >>> len(loader), loader.epoch
        (3, 1)
    """

    def __init__(
        self,
        data: Iterable[T],
        batch_size: int = 8,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self.examples: Any = examples_of(data)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int):
            kind = type(batch_size).__name__
            raise UsageError(f"batch_size must be an int, not {kind}: give 1 or more.")
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}: give 1 or more.")
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        self._position = 0
        self._resumes = False
        if not len(self):
            raise UsageError(
                f"{len(self.examples)} examples make no batch of {batch_size} with "
                "drop_last=True: give more examples, a smaller batch_size, or "
                "drop_last=False."
            )

    def __len__(self) -> int:
        """How many batches an epoch has."""
        whole, rest = divmod(len(self.examples), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[list[T]]:
        """Begin the next epoch, or go on where a loaded state stopped."""
        for places in self.batches():
            yield [self.examples[place] for place in places]

    def batches(self) -> Iterator[list[int]]:
        """Iterate as the loader does, over the places of the examples in `examples`."""
        if not self._resumes and self._position:
            self.epoch, self._position = self.epoch + 1, 0
        self._resumes = False
        epoch, order = self.epoch, self.order()
        for number in range(self._position, len(self)):
            start = number * self.batch_size
            self.epoch, self._position = epoch, number + 1
            yield order[start : start + self.batch_size]
        self.epoch, self._position = epoch + 1, 0

    def order(self, epoch: int | None = None) -> list[int]:
        """Return the order of an epoch, as places in `examples`.

        Args:
            epoch: Its number, None for the present one.
        """
        order = list(range(len(self.examples)))
        if self.shuffle:
            _shuffle(order, f"{self.seed}:{self.epoch if epoch is None else epoch}")
        return order

    def set_epoch(self, epoch: int) -> None:
        """Let the next loop begin this epoch.

        Args:
            epoch: Its number, 0 or more.

        Raises:
            UsageError: If it is no such number.
        """
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise UsageError(f"epoch={epoch!r}: give its number, 0 or more.")
        self.epoch, self._position, self._resumes = epoch, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return where it is: plain values, for JSON.

        Inside of a loop the batch in hand counts as done.
        """
        values = (
            *(self.epoch, self._position, len(self.examples)),
            *(self.batch_size, self.shuffle, self.seed),
        )
        return dict(zip(_STATE, values, strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next loop go on where another one stopped.

        Args:
            state: What `state_dict` returned.

        Raises:
            StateDictError: If keys are missing or unknown, or if the other one had
                other examples, batches or orders. Nothing is changed then.
        """
        mine = self.state_dict()
        if list(state) != list(mine) and sorted(state) != sorted(mine):
            odd = [key for key in [*mine, *state] if (key in mine) != (key in state)]
            raise StateDictError(
                f"the state of a DataLoader has the keys {', '.join(mine)}; missing or "
                f"unknown: {', '.join(map(str, odd))}. Give what state_dict() returned."
            )
        for key in _STATE[2:]:
            if state[key] != mine[key]:
                raise StateDictError(
                    f"the state is of a DataLoader with {key}={state[key]}, and this "
                    f"one has {key}={mine[key]}: its batches are not the same. Build "
                    "it as the other one was."
                )
        epoch, position = state["epoch"], state["position"]
        if not (_counts(epoch) and _counts(position) and position <= len(self)):
            raise StateDictError(
                f"epoch={epoch!r} and position={position!r} are no place in a "
                f"DataLoader of {len(self)} batches. Give what state_dict() returned."
            )
        if position == len(self):
            epoch, position = epoch + 1, 0
        self.epoch, self._position, self._resumes = epoch, position, True

    def __repr__(self) -> str:
        return (
            f"DataLoader({len(self.examples)} examples, batch_size={self.batch_size}, "
            f"shuffle={self.shuffle}, seed={self.seed})"
        )


def examples_of(data: Any) -> Any:
    """Return the examples of a data set: indexed from 0, with a length.

    Args:
        data: As for `DataLoader`.

    Raises:
        UsageError: As for `DataLoader`.
    """
    fix = _unfit(data)
    if fix:
        raise UsageError(f"data must be examples in order, not {fix}.")
    if not (isinstance(data, Sized) and hasattr(data, "__getitem__")):
        data = list(data)
    if not len(data):
        raise UsageError("data has no example: give at least one.")
    return data


def split(data: Iterable[T], fraction: float, seed: int = 0) -> tuple[list[T], list[T]]:
    """Part a data set in two at random, each part in the order of the data.

    Args:
        data: As for `DataLoader`.
        fraction: How much of it the first part gets, in (0, 1); rounded, and at
            least one example for each.
        seed: What the choice follows from.

    Returns:
        The two parts.

    Raises:
        UsageError: If there are fewer than two examples, or the fraction is not in
            (0, 1).

    Example:
        >>> split(range(10), 0.8, seed=3)
        ([1, 2, 3, 5, 6, 7, 8, 9], [0, 4])
    """
    examples = examples_of(data)
    share = check_share(fraction, "fraction")
    n = len(examples)
    if n < 2:
        raise UsageError("data has one example, which cannot be split: give two.")
    order = list(range(n))
    _shuffle(order, f"split:{seed}")
    size = min(max(1, round(share * n)), n - 1)
    first, second = sorted(order[:size]), sorted(order[size:])
    return [examples[k] for k in first], [examples[k] for k in second]


def _unfit(data: Any) -> str:
    """Say what a data set is that examples cannot be read from, and the fix."""
    kind = type(data).__name__
    if isinstance(data, str | bytes | bytearray):
        return f"a {kind}: put it into a list"
    if isinstance(data, Mapping):
        return f"a {kind}: give list(data.values()), or a list of dicts"
    if isinstance(data, set | frozenset):
        return f"a {kind}, which has no order: give sorted(data)"
    if hasattr(data, "iloc"):
        return f"a {kind}: give data.to_dict('records') of a table, or data.tolist()"
    if isinstance(data, AsyncIterable):
        return "an async iterable: give [x async for x in data]"
    if fields_of(data) is not None:
        return f"one {kind}: put it into a list"
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        return f"a {kind}: give a list"
    return ""


def _shuffle(order: list[int], seed: str) -> None:
    """Shuffle in place (Fisher-Yates), by `random`, which all Pythons have alike."""
    chance = random.Random(seed)
    for last in range(len(order) - 1, 0, -1):
        other = int(chance.random() * (last + 1))
        order[last], order[other] = order[other], order[last]


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
