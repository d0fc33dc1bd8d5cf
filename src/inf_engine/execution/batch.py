"""`Batch`: many inputs through one program, a few of them alive at a time.

Inputs are pulled lazily: never more than `limit` of them are alive, counting results
that nobody has taken yet, so a million inputs take the memory of a few.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from inf_engine.errors import ModuleError
from inf_engine.execution.books import record_of
from inf_engine.execution.run import Run
from inf_engine.quick import quick
from inf_engine.record import RunRecord
from inf_engine.types import Usage

_BREATHE_EVERY = 16
_LONGEST_BREATH = 0.002  # seconds


@quick
@dataclass(frozen=True, slots=True)
class Result:
    """What one input of a `map` or a `stream` gave.

    Args:
        index: The place of the input, from 0.
        inputs: The input, one element for each iterable.
        output: What the run gave, None if it failed.
        error: Why it failed, None if it did not.
        usage: Tokens and requests it took.
        seconds: How long it took.
        record: What happened in it, if records were asked for.
        cost: What its answers cost in USD, None where a price is not known.
    """

    index: int
    inputs: tuple[Any, ...]
    output: Any
    error: BaseException | None
    usage: Usage
    seconds: float
    record: RunRecord | None = None
    cost: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it went well."""
        return self.error is None

    def unwrap(self) -> Any:
        """Return the output.

        Raises:
            BaseException: What made the run fail.
        """
        if self.error is not None:
            raise self.error
        return self.output


class Rows:
    """The inputs, pulled one at a time and zipped as `zip` does.

    Args:
        iterables: Iterables or async iterables; the shortest one ends it.
    """

    def __init__(self, iterables: tuple[Any, ...]) -> None:
        self.ended = False
        self._pull: asyncio.Future[tuple[Any, ...]] | None = None
        self._sync: Iterator[tuple[Any, ...]] | None = None
        if not iterables:
            raise ModuleError(
                "map and stream need at least one iterable of inputs; for a module "
                "without inputs call engine.run."
            )
        for place, iterable in enumerate(iterables):
            if not hasattr(iterable, "__iter__") and not hasattr(iterable, "__aiter__"):
                raise ModuleError(
                    f"argument {place + 1} of map or stream must be an iterable of "
                    f"inputs, not {type(iterable).__name__}; for one input call "
                    "engine.run."
                )
        self._each = [
            aiter(i) if hasattr(i, "__aiter__") else iter(i) for i in iterables
        ]
        if not any(hasattr(iterable, "__aiter__") for iterable in iterables):
            self._sync = zip(*self._each, strict=False)

    @property
    def waiting(self) -> bool:
        """Whether the next input is awaited."""
        return self._pull is not None and not self._pull.done()

    def take(self, changed: asyncio.Event) -> tuple[Any, ...] | None:
        """Return the next input, or None if there is none now.

        Args:
            changed: Is set when one arrives later.

        Raises:
            Exception: What the iterables raise.
        """
        if self._sync is not None:
            row = next(self._sync, None)
            self.ended = row is None
            return row
        if self._pull is None:
            self._pull = asyncio.ensure_future(self._next())
            self._pull.add_done_callback(lambda _: changed.set())
        if not self._pull.done():
            return None
        pulled, self._pull = self._pull, None
        try:
            return pulled.result()
        except StopAsyncIteration:
            self.ended = True
            return None

    async def aclose(self) -> None:
        """Stop pulling, and close the generators that were pulled from."""
        if self._pull is not None:
            self._pull.cancel()
            await asyncio.gather(self._pull, return_exceptions=True)
            self._pull = None
        for each in self._each:
            if inspect.isasyncgen(each):
                await each.aclose()
            elif inspect.isgenerator(each):
                each.close()

    async def _next(self) -> tuple[Any, ...]:
        row = []
        for each in self._each:
            if hasattr(each, "__anext__"):
                row.append(await anext(each))
            else:
                try:
                    row.append(next(each))
                except StopIteration:
                    raise StopAsyncIteration from None
        return tuple(row)


class Batch:
    """The runs of one `map` or `stream`; iterate over `results`.

    Args:
        rows: The inputs.
        start: Starts a run on an input, given what to call when it has ended.
        limit: Says how many inputs may be alive now.
        ordered: Whether results come in input order instead of as they finish.
        record: Whether results carry records.
        told: Takes this batch with False when it begins to pull inputs, with True
            when it has pulled all of them, with None when it is done.
        result: Makes the result of a run, as `result_of` does.

    Attributes:
        done: How many inputs have ended, cancelled ones not counted.
        failed: How many of these failed.
    """

    def __init__(
        self,
        rows: Rows,
        start: Callable[[tuple[Any, ...], Callable[[Any], None]], Any],
        limit: Callable[[], int],
        *,
        ordered: bool,
        record: bool,
        told: Callable[["Batch", bool | None], None],
        result: Callable[[Any, int, tuple[Any, ...], bool], Result] | None = None,
    ) -> None:
        self._told = told
        self._rows = rows
        self._start = start
        self._limit = limit
        self._ordered = ordered
        self._record = record
        self._result = result or result_of
        self._pulled = 0
        self._alive: dict[Any, None] = {}
        self._ready: dict[int, Result] = {}
        self._order: deque[int] = deque()
        self._changed = asyncio.Event()
        self._broken: Exception | None = None
        self._stopped: BaseException | None = None
        self._told_end = False
        self.done = self.failed = 0

    @property
    def alive(self) -> int:
        """How many inputs have begun and not ended."""
        return len(self._alive)

    async def results(self) -> AsyncGenerator[Result, None]:
        """Yield a result for each input; leaving the loop cancels what is alive.

        Raises:
            Exception: What the iterables raised, once all that had been pulled before
                has its result.
        """
        self._told(self, False)
        try:
            while True:
                self._changed.clear()
                await self._fill()
                if self._stopped is not None:
                    raise self._stopped
                if self._order and self._order[0] in self._ready:
                    yield self._ready.pop(self._order.popleft())
                elif self._rows.ended and not self._alive:
                    if self._broken is not None:
                        raise self._broken
                    return
                else:
                    await self._changed.wait()
        finally:
            await self._stop()

    async def _fill(self) -> None:
        """Start runs until enough are alive or no input is there.

        Others on the loop get a turn now and then: what ends at once may take long.
        """
        loop = asyncio.get_running_loop()
        breathed, limit = loop.time(), self._limit()
        while not self._rows.ended and len(self._alive) + len(self._ready) < limit:
            inputs = self._take()
            if inputs is None:
                break
            self._begin(inputs)
            now = loop.time()
            if self._pulled % _BREATHE_EVERY == 0 or now - breathed > _LONGEST_BREATH:
                await asyncio.sleep(0)
                breathed, limit = now, self._limit()
        if self._rows.ended and not self._told_end:
            self._told_end = True
            self._told(self, True)

    def _begin(self, inputs: tuple[Any, ...]) -> None:
        """Start the run on an input."""
        index = self._pulled
        self._pulled += 1
        if self._ordered:
            self._order.append(index)
        run = self._start(inputs, partial(self._ended, index, inputs))
        if not run.finished:
            self._alive[run] = None

    def _take(self) -> tuple[Any, ...] | None:
        try:
            return self._rows.take(self._changed)
        except Exception as exc:  # noqa: BLE001 - raised when the rest is done
            self._broken = exc
            self._rows.ended = True
            return None

    def _ended(self, index: int, inputs: tuple[Any, ...], run: Run) -> None:
        self._alive.pop(run, None)
        if isinstance(run.error, (KeyboardInterrupt, SystemExit)):
            self._stopped = run.error
        if not isinstance(run.error, asyncio.CancelledError):
            self.done += 1
            self.failed += run.error is not None
        self._ready[index] = self._result(run, index, inputs, self._record)
        if not self._ordered:
            self._order.append(index)
        self._changed.set()

    async def _stop(self) -> None:
        self._told(self, None)
        try:
            await self._rows.aclose()
        finally:
            alive = list(self._alive)
            for run in alive:
                run.cancel(asyncio.CancelledError("nobody takes the results any more"))
            for run in alive:
                await run.wait_closed()


def result_of(run: Run, index: int, inputs: tuple[Any, ...], record: bool) -> Result:
    """Return what a run that has ended gave.

    Args:
        run: The run.
        index: The place of its input.
        inputs: The input.
        record: Whether the result carries a record.
    """
    work = run.work
    return Result(
        index=index,
        inputs=inputs,
        output=run.output,
        error=run.error,
        usage=work.usage,
        seconds=work.now() - work.began,
        record=record_of(run) if record else None,
        cost=work.cost,
    )
