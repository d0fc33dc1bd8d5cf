"""`GroupCommit`: answers that wait together until a loss of power cannot take them.

With ``durability="power"`` an answer may be used after an fsync, which takes as long as
many requests. All that come in one turn of the loop share one, and so do all that come
while another runs: a thread waits for the disk, the loop goes on. ::

    turn 1       a b c appended ──► fsync in a thread ──► a b c used
    meanwhile                       d e appended      ──► fsync in a thread ──► ...
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from inf_engine.errors import JournalError
from inf_engine.journal import AnswerStore

Told = Callable[[JournalError | None], None]


class GroupCommit:
    """Makes the answers in some files last, many with one fsync.

    Args:
        stores: The files; what is appended to them outside is made lasting, too.
    """

    def __init__(self, stores: Iterable[AnswerStore]) -> None:
        self._stores = tuple(stores)
        self._waiting: list[Told] = []
        self._is_busy = False
        self._is_closed = False

    def wait(self, told: Told) -> None:
        """Be told in a turn of the loop once all that is appended now lasts.

        Args:
            told: Called with None, or with why the answers are not kept.
        """
        self._waiting.append(told)
        if not self._is_busy:
            self._is_busy = True
            asyncio.get_running_loop().call_soon(self._commit)

    def close(self) -> None:
        """Make what is appended last now; nobody is told any more.

        Raises:
            JournalError: If it could not be kept.
        """
        self._is_closed = True
        self._waiting.clear()
        self.commit()

    def commit(self) -> None:
        """Make what is appended last before this returns.

        Raises:
            JournalError: If it could not be kept.
        """
        for store in self._stores:
            if store.unsettled():
                store.commit()

    def _commit(self) -> None:
        """Let a thread wait until what is appended is on the disk."""
        if self._is_closed:
            return
        waiting, self._waiting = self._waiting, []
        keys = [store.unsettled() for store in self._stores]
        syncs = [store.sync for store in self._stores]
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(None, _outcomes, syncs)
        future.add_done_callback(partial(self._synced, loop, waiting, keys))

    def _synced(
        self,
        loop: asyncio.AbstractEventLoop,
        waiting: list[Told],
        keys: list[list[bytes]],
        future: "asyncio.Future[list[OSError | None]]",
    ) -> None:
        """Tell each in a step of its own, and see to those who came meanwhile."""
        if self._is_closed or future.cancelled():
            return
        error: JournalError | None = None
        each = zip(self._stores, keys, future.result(), strict=True)
        for store, settled, failure in each:
            try:
                store.settle(settled, failure)
            except JournalError as exc:
                error = exc
        if error is not None:  # then nothing that was appended since counts, either
            waiting, self._waiting = [*waiting, *self._waiting], []
        for told in waiting:
            loop.call_soon(told, error)
        self._is_busy = bool(self._waiting)
        if self._waiting:
            loop.call_soon(self._commit)


def _outcomes(syncs: list[Callable[[], None]]) -> list[OSError | None]:
    """Call all; return how each has failed."""
    return [_failure(sync) for sync in syncs]


def _failure(sync: Callable[[], None]) -> OSError | None:
    try:
        sync()
    except OSError as exc:
        return exc
    return None
