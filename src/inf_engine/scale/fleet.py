"""`Fleet`: the actors of one map, as the process that asked for it sees them.

Inputs go out in lists, one for each turn of the loop; results come back in reports, as
soon as there is one. An actor that is lost is replaced, and its inputs run again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from inf_engine.errors import ActorLostError, InfEngineError, ModuleError
from inf_engine.execution.batch import Result
from inf_engine.scale.parcel import Item, Load, Report
from inf_engine.scale.shards import Shards

CLOSE_SECONDS = 10.0
REPORT_SECONDS = 1.0


class Hand(Protocol):
    """An actor; all but `kill` raise `ActorLostError` if it is gone."""

    name: str

    async def open(self, errand: bytes) -> BaseException | None:
        """Get it ready; return why that cannot be."""
        ...

    def put(self, items: list[Item]) -> None:
        """Give it inputs; what goes wrong is told by `take`."""
        ...

    async def take(self) -> Report:
        """Wait for its next report."""
        ...

    async def close(self) -> Report:
        """Have it cancel what it does, and take its last report."""
        ...

    def kill(self) -> None:
        """End its process."""
        ...


class FarRun:
    """A run in an actor, as a `Batch` sees it.

    Args:
        done: Called with it when it has ended.

    Attributes:
        finished: Whether it has ended.
        error: Why it failed, None if it did not.
        result: What it gave, None if its actor was lost for good.
    """

    __slots__ = ("_done", "error", "finished", "result")

    def __init__(self, done: Callable[[Any], None]) -> None:
        self._done = done
        self.finished = False
        self.error: BaseException | None = None
        self.result: Result | None = None

    def end(self, result: Result | None, error: BaseException | None) -> None:
        """Take note of how it ended, and say so."""
        self.finished, self.result, self.error = True, result, error
        self._done(self)

    def cancel(self, error: BaseException) -> None:
        """Nothing to do: the fleet is closed as a whole."""

    async def wait_closed(self) -> None:
        """Nothing to wait for: the fleet is closed as a whole."""


class Fleet:
    """The actors of one map.

    Args:
        hire: Starts an actor.
        errand: What actors are to do.
        size: How many actors.
        load: Unpickles.
        told: Takes each report.
        forget: Tells the coordinator that an actor is dead.
        first_room: How many inputs an actor is given before it tells of its room.

    Attributes:
        broken: Why nothing goes on any more, None while it does.
    """

    def __init__(
        self,
        hire: Callable[[], Hand],
        errand: bytes,
        size: int,
        load: Load,
        told: Callable[[Report], None],
        forget: Callable[[str], Awaitable[None]],
        first_room: int,
    ) -> None:
        self._hire = hire
        self._errand = errand
        self._size = size
        self._load = load
        self._told = told
        self._forget = forget
        self._hands: dict[str, Hand] = {}
        self._runs: dict[int, FarRun] = {}
        self._shards = Shards(first_room)
        self._outbox: dict[str, list[Item]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.broken: BaseException | None = None

    @property
    def room(self) -> int:
        """How many inputs keep all actors busy."""
        return max(1, self._shards.room)

    async def start(self) -> None:
        """Start all actors.

        Raises:
            InfEngineError: If one cannot do what it is for.
        """
        joins = [self._join() for _ in range(self._size)]
        for error in await asyncio.gather(*joins, return_exceptions=True):
            if error is not None:
                raise error

    def submit(self, item: Item, done: Callable[[Any], None]) -> FarRun:
        """Have an input run; `done` is called when it has ended.

        Args:
            item: The input.
            done: Called with the run.
        """
        run = FarRun(done)
        if self.broken is not None:
            run.end(None, self.broken)
            return run
        self._runs[item.index] = run
        self._send(self._shards.place([item]))
        return run

    async def close(self) -> None:
        """Have all actors cancel what they do, and end them."""
        self._is_closed = True
        ready = [hand for hand in self._hands.values() if hand.name in self._shards]
        try:
            await asyncio.gather(*[self._dismiss(hand) for hand in ready])
            await self._wind_up(list(self._tasks))
        finally:  # also where this is cancelled
            for hand in self._hands.values():
                hand.kill()

    async def _wind_up(self, tasks: list[asyncio.Task[None]]) -> None:
        """Take the last reports."""
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=REPORT_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _dismiss(self, hand: Hand) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                self._told(await hand.close())
        except (InfEngineError, TimeoutError):
            pass

    async def _join(self) -> None:
        """Start one actor."""
        hand = self._hire()
        self._hands[hand.name] = hand
        error = await hand.open(self._errand)
        if error is not None:
            raise error
        task = asyncio.ensure_future(self._listen(hand))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._send(self._shards.join(hand.name))

    async def _listen(self, hand: Hand) -> None:
        """Take the reports of an actor until it is lost, then replace it."""
        try:
            while self.broken is None and not self._is_closed:
                self._heard(hand, await hand.take())
        except ActorLostError:
            if not self._is_closed:
                await self._replace(hand)
        except Exception as exc:  # noqa: BLE001 - ends the map
            self._break(exc)

    def _heard(self, hand: Hand, report: Report) -> None:
        self._told(report)
        self._shards.heard(hand.name, report.room)
        for index, data in report.outcomes:
            if self._shards.ended(index):
                self._end(index, *self._opened(data))
        if report.broken is not None:
            self._break(report.broken)

    def _opened(self, data: bytes) -> tuple[Result | None, BaseException | None]:
        try:
            result = self._load(data)
        except Exception as exc:  # noqa: BLE001 - of modules that are not here
            return None, ModuleError(
                f"an output cannot be loaded here: {type(exc).__name__}: {exc}. What "
                "it is made of must be installed here, too."
            )
        return result, result.error

    async def _replace(self, hand: Hand) -> None:
        """Have the inputs of a lost actor run again, from the journal."""
        del self._hands[hand.name]
        hand.kill()
        self._outbox.pop(hand.name, None)
        again, failed = self._shards.lost(hand.name)
        try:
            await self._forget(hand.name)
            for item in failed:
                self._end(item.index, None, _deadly(item))
            self._send(self._shards.place(again))
            await self._join()
        except Exception as exc:  # noqa: BLE001 - ends the map
            self._break(exc)

    def _end(
        self, index: int, result: Result | None, error: BaseException | None
    ) -> None:
        self._runs.pop(index).end(result, error)

    def _send(self, placed: Iterable[tuple[str, Item]]) -> None:
        """Send inputs in the next turn of the loop, those of one actor together."""
        for name, item in placed:
            if not self._outbox:
                asyncio.get_running_loop().call_soon(self._flush)
            self._outbox.setdefault(name, []).append(item)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, {}
        for name, items in outbox.items():
            if name in self._hands:
                self._hands[name].put(items)

    def _break(self, error: BaseException) -> None:
        """End all that is alive; what comes later ends as well."""
        if self.broken is None:
            self.broken = error
            for index in list(self._runs):
                self._end(index, None, error)


def _deadly(item: Item) -> InfEngineError:
    return ActorLostError(
        f"input {item.index} was with several actors that died, one after the other, "
        "and is not tried again. See why in the logs of Ray (out of memory?); run it "
        "by itself with engine.run."
    )
