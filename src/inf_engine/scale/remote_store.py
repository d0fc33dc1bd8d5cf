"""`RemoteStore`: a journal or a cache that the coordinator has, as an actor sees it.

What is appended is sent to the coordinator, all of one turn of the loop together, and
counts once that has acknowledged it: the engine waits for that as it waits for a disk
(`GroupCommit`). Of the journal an actor has the rows of the inputs that are alive here;
they came with the inputs. Of the cache it has the keys, and fetches what it needs.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from inf_engine.errors import InfEngineError, JournalError
from inf_engine.journal import Row
from inf_engine.scale.parcel import Kept

Send = Callable[[list[Row]], InfEngineError | None]
Fetch = Callable[[bytes], str | None]


class RemoteStore:
    """Answers that the coordinator keeps; an `AnswerStore`.

    Args:
        send: Sends rows and waits until they are kept; from any thread.
        fetch: Gets an answer by its key, and waits for it.
        known: The keys that there is something to fetch of.
    """

    gathers = True

    def __init__(
        self, send: Send, fetch: Fetch | None = None, known: Iterable[bytes] = ()
    ) -> None:
        self._send = send
        self._fetch = fetch
        self._known = dict.fromkeys(known)
        self._kept: dict[bytes, Kept] = {}
        self._twins: dict[bytes, list[bytes]] = {}
        self._inputs: dict[str, dict[bytes, None]] = {}
        self._fresh: dict[bytes, Row] = {}
        self._lost = ""

    def load(self, identity: str, rows: Iterable[Kept]) -> None:
        """Take over what the journal has for an input.

        Args:
            identity: What the input is called.
            rows: What there is.
        """
        for row in rows:
            self._note(identity, row)

    def drop(self, identity: str) -> None:
        """Forget what there is of an input that is not alive here any more.

        Args:
            identity: What the input is called.
        """
        for key in self._inputs.pop(identity, ()):
            if key not in self._fresh:
                row = self._kept.pop(key)
                self._twins.pop(row.first or key, None)

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> str | None:
        """Return the answer to a key, None if there is none.

        Raises:
            JournalError: If the coordinator cannot tell.
        """
        row = self._kept.get(key)
        if row is not None:
            return row.text
        if self._fetch is not None and key in self._known:
            return self._fetch(key)
        return None

    def twins(self, first: bytes) -> list[bytes]:
        """Return the keys of the answers to equal calls, in the order they came."""
        found = [first] if first in self._kept else []
        return [*found, *self._twins.get(first, ())]

    def place(self, key: bytes) -> str:
        """Return where in the program the call of an answer stands."""
        return self._kept[key].place

    def is_lasting(self, key: bytes) -> bool:
        """Say whether the coordinator has acknowledged an answer."""
        return key not in self._fresh

    def check(self) -> None:
        """Make sure that an answer could be kept, as far as is known.

        Raises:
            JournalError: If it could not.
        """
        if self._lost:
            raise JournalError(self._lost)

    def append(self, row: Row, response: str | None = None) -> bool:
        """Keep an answer; say whether it is new here. It may be used after `commit`.

        Raises:
            JournalError: If an earlier one was lost.
        """
        self.check()
        if row.key in self._kept or row.key in self._known:
            return False
        text = row.response if response is None else response
        self._fresh[row.key] = replace(row, response=text)
        self._note(row.input, Kept(row.key, row.first, row.place, text))
        return True

    def commit(self) -> None:
        """Wait until all appended rows are acknowledged.

        Raises:
            JournalError: If one was lost.
        """
        keys, failure = self.unsettled(), None
        try:
            self.sync()
        except OSError as error:
            failure = error
        self.settle(keys, failure)

    def unsettled(self) -> list[bytes]:
        """Return the keys that are not acknowledged."""
        return list(self._fresh)

    def sync(self) -> None:
        """Send all appended rows, and wait until they are acknowledged.

        Raises:
            OSError: If they were not; `settle` them with it.
        """
        error = self._send(list(self._fresh.values())) if self._fresh else None
        if error is not None:
            self._lost = self._lost or str(error)
            raise OSError(str(error)) from error

    def settle(self, keys: Iterable[bytes], error: OSError | None = None) -> None:
        """Take note of how a `sync` has ended.

        Raises:
            JournalError: If it failed, for those who wait for the keys.
        """
        if error is not None:
            raise JournalError(str(error)) from error
        for key in keys:
            row = self._fresh.pop(key, None)
            if row is not None and self._fetch is not None:
                self._known[key] = None
                self.drop(row.input)

    def close(self) -> None:
        """Wait for what is not acknowledged."""
        self.commit()

    def _note(self, identity: str, row: Kept) -> None:
        if row.key in self._kept:
            return
        self._kept[row.key] = row
        self._inputs.setdefault(identity, {})[row.key] = None
        if row.first is not None:
            self._twins.setdefault(row.first, []).append(row.key)
