"""`Shards`: which input is with which actor; no I/O.

An input goes to the actor that has the most room; one that is equal to an input which
is alive goes where that is, so that the two share their answers. The inputs of an actor
that is lost go to others, oldest first; an input that was with several lost actors may
be what kills them, and fails.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from inf_engine.scale.parcel import Item

MOST_LOSSES = 3
FIRST_ROOM = 16


@dataclass(slots=True)
class _Shard:
    """What one actor has."""

    room: int
    alive: dict[int, Item] = field(default_factory=dict)


class Shards:
    """Which input is with which actor.

    Args:
        first_room: How many inputs are given to an actor before it tells of its room.

    Attributes:
        waiting: Inputs that no actor has, because there is none now.
    """

    def __init__(self, first_room: int = FIRST_ROOM) -> None:
        self._first_room = max(FIRST_ROOM, first_room)
        self._shards: dict[str, _Shard] = {}
        self._where: dict[int, str] = {}
        self._equal: dict[str, dict[int, None]] = {}
        self._losses: dict[int, int] = {}
        self.waiting: list[Item] = []

    def __len__(self) -> int:
        return len(self._shards)

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    @property
    def room(self) -> int:
        """How many inputs keep all actors busy."""
        return sum(shard.room for shard in self._shards.values())

    def join(self, name: str) -> list[tuple[str, Item]]:
        """Count on an actor; return where those go that waited for one.

        Args:
            name: The actor.
        """
        self._shards[name] = _Shard(self._first_room)
        waiting, self.waiting = self.waiting, []
        return self.place(waiting)

    def place(self, items: Iterable[Item]) -> list[tuple[str, Item]]:
        """Give inputs to actors, and return to which; none if there is none.

        Args:
            items: The inputs.
        """
        placed = []
        for item in items:
            if not self._shards:
                self.waiting.append(item)
                continue
            name = self._choice(item)
            self._shards[name].alive[item.index] = item
            self._where[item.index] = name
            if item.identity is not None:
                self._equal.setdefault(item.identity, {})[item.index] = None
            placed.append((name, item))
        return placed

    def heard(self, name: str, room: int) -> None:
        """Take note of how many inputs keep an actor busy."""
        if name in self._shards:
            self._shards[name].room = max(1, room)

    def ended(self, index: int) -> bool:
        """Take note that an input has its result; say whether it is the first."""
        name = self._where.get(index)
        if name is None:
            return False
        self._removed(name, index)
        self._losses.pop(index, None)
        return True

    def lost(self, name: str) -> tuple[list[Item], list[Item]]:
        """Forget an actor; return its inputs: those to run again, and those to fail.

        Args:
            name: The actor.
        """
        alive = self._shards[name].alive
        items = [alive[index] for index in sorted(alive)]
        for item in items:
            self._removed(name, item.index)
            self._losses[item.index] = self._losses.get(item.index, 0) + 1
        del self._shards[name]
        again = [i for i in items if self._losses[i.index] < MOST_LOSSES]
        failed = [i for i in items if self._losses[i.index] >= MOST_LOSSES]
        return again, failed

    def _choice(self, item: Item) -> str:
        for index in self._equal.get(item.identity or "", ()):
            return self._where[index]
        shards = self._shards
        return max(shards, key=lambda name: shards[name].room - len(shards[name].alive))

    def _removed(self, name: str, index: int) -> None:
        del self._where[index]
        item = self._shards[name].alive.pop(index)
        if item.identity is not None:
            equal = self._equal[item.identity]
            del equal[index]
            if not equal:
                del self._equal[item.identity]
