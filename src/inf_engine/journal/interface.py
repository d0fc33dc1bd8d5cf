"""`AnswerStore`: what an engine needs of its journal and its cache.

`JournalStore` is one that lies on this machine; where several processes share a file,
one of them has it, and the others a store that asks that one (`inf_engine.scale`).
"""

from collections.abc import Iterable
from typing import Protocol

from inf_engine.journal.rows import Row


class AnswerStore(Protocol):
    """Answers by key, as `JournalStore` has them; its docstrings hold here, too."""

    @property
    def gathers(self) -> bool:
        """Whether rows last after `commit` only."""
        ...

    def get(self, key: bytes) -> str | None:
        """Return the answer to a key, None if there is none."""
        ...

    def twins(self, first: bytes) -> list[bytes]:
        """Return the keys of the answers to equal calls, in the order they came."""
        ...

    def place(self, key: bytes) -> str:
        """Return where in the program the call of an answer stands."""
        ...

    def is_lasting(self, key: bytes) -> bool:
        """Say whether an answer that was appended may be used."""
        ...

    def check(self) -> None:
        """Make sure that an answer could be appended, as far as is known."""
        ...

    def append(self, row: Row, response: str | None = None) -> bool:
        """Keep an answer, and say whether it is new; the first one of a key stays."""
        ...

    def commit(self) -> None:
        """Make all appended rows last."""
        ...

    def unsettled(self) -> list[bytes]:
        """Return the keys that a `sync` would make lasting."""
        ...

    def sync(self) -> None:
        """Make all appended rows last; any thread may do it."""
        ...

    def settle(self, keys: Iterable[bytes], error: OSError | None = None) -> None:
        """Take note of how a `sync` has ended."""
        ...

    def close(self) -> None:
        """Commit what is appended, and let go of it."""
        ...
