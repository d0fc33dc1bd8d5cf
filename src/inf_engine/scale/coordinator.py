"""`Coordinator`: the one that has the journal, and keeps the limits, of all actors.

It lives on the machine of the caller, whose file the journal is. Each row is committed
before it is acknowledged. All its methods are synchronous and short: what it is asked,
it answers one after the other.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from inf_engine.errors import InfEngineError
from inf_engine.journal import JournalStore, Row
from inf_engine.resources.funds import NOTHING, Amounts, FundsAsk, FundsGrant
from inf_engine.resources.lease import Ask, Grant, Terms
from inf_engine.scale.budget_book import BudgetBook
from inf_engine.scale.lease_book import LeaseBook
from inf_engine.scale.parcel import Kept

Which = Literal["journal", "cache"]


class Place(NamedTuple):
    """A file of answers.

    Args:
        path: Its path.
        durability: As for `JournalStore`.
    """

    path: str
    durability: Literal["process", "power"]


@dataclass(frozen=True, slots=True)
class Charge:
    """What a coordinator is to keep.

    Args:
        files: The journal and the cache, those that there are.
        terms: The limits of each deployment, by its number.
        left: What the budget leaves, None without one.
        spent: What was spent of it before.
    """

    files: Mapping[Which, Place]
    terms: Mapping[int, Terms]
    left: tuple[float, float, float] | None = None
    spent: Amounts = NOTHING


class Coordinator:
    """Has the journal and the cache, and lends the limits (see the top of this file).

    Args:
        charge: What it keeps.
        clock: Seconds.
    """

    def __init__(
        self, charge: Charge, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._files = charge.files
        self._stores: dict[str, JournalStore] = {}
        self._inputs: dict[str, list[tuple[bytes, bytes | None]]] = {}
        self._dead: dict[str, None] = {}
        self._book = LeaseBook(charge.terms)
        left = charge.left
        self._budget = None if left is None else BudgetBook(left, charge.spent)
        self._clock = clock

    def open(self) -> InfEngineError | None:
        """Open the files; return what is wrong with them."""
        try:
            for which, place in self._files.items():
                store = JournalStore(place.path, durability=place.durability)
                self._stores[which] = store
            if "journal" in self._stores:
                for key, first, identity in self._stores["journal"].inputs():
                    self._inputs.setdefault(identity, []).append((key, first))
        except InfEngineError as error:
            self.close()
            return error
        return None

    def cached(self) -> frozenset[bytes] | None:
        """Return the keys in the cache, None without one."""
        cache = self._stores.get("cache")
        return None if cache is None else frozenset(k for k, *_ in cache.inputs())

    def join(self, holder: str) -> None:
        """Count on an actor: slots are kept for it."""
        self._book.join(holder, self._clock())

    def forget(self, holder: str) -> None:
        """Take back what an actor held: it is dead."""
        self._dead[holder] = None
        self._book.forget(holder)
        if self._budget is not None:
            self._budget.forget(holder)

    def sync(
        self, holder: str, asks: Mapping[int, Ask], funds: FundsAsk | None
    ) -> tuple[dict[int, Grant], FundsGrant | None]:
        """Take note of what an actor keeps and has spent, and grant it more."""
        if holder in self._dead:  # its last words came late
            return {}, None
        grants = self._book.sync(holder, asks, self._clock())
        if funds is None or self._budget is None:
            return grants, None
        return grants, self._budget.sync(holder, funds)

    def recall(self, identities: Iterable[str]) -> dict[str, list[Kept]] | Any:
        """Return what the journal has for some inputs, or why it cannot be read."""
        store = self._stores["journal"]
        try:
            return {
                identity: [self._kept(store, *pair) for pair in self._inputs[identity]]
                for identity in identities
                if identity in self._inputs
            }
        except InfEngineError as error:
            return error

    def append(self, which: Which, rows: list[Row]) -> InfEngineError | None:
        """Commit some rows; return why they are not kept, None if they are."""
        store = self._stores[which]
        try:
            for row in rows:
                if store.append(row) and which == "journal":
                    pair = row.key, row.first
                    self._inputs.setdefault(row.input, []).append(pair)
            store.commit()
        except InfEngineError as error:
            return error
        return None

    def fetch(self, key: bytes) -> str | InfEngineError | None:
        """Return an answer of the cache, or why it cannot be read."""
        try:
            return self._stores["cache"].get(key)
        except InfEngineError as error:
            return error

    def close(self) -> Amounts:
        """Let go of the files; return what was spent."""
        for store in self._stores.values():
            store.close()
        self._stores.clear()
        return NOTHING if self._budget is None else self._budget.spent

    @staticmethod
    def _kept(store: JournalStore, key: bytes, first: bytes | None) -> Kept:
        return Kept(key, first, store.place(key), store.get(key) or "")
