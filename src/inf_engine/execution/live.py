"""`LiveRun`: a run on its way, that can be looked at before it has ended."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from inf_engine.execution.books import record_of
from inf_engine.execution.run import Run
from inf_engine.execution.state import NodeState
from inf_engine.execution.tokens import TokenStream
from inf_engine.record import RunRecord, cost_of
from inf_engine.types import Usage


class LiveRun:
    """A run that was started; `Engine.start` gives one.

    Args:
        begin: Starts the run, given what to call when it has ended, and options.
        tokens: Whether endpoints are asked to stream.
    """

    def __init__(self, begin: Callable[..., Run], *, tokens: bool) -> None:
        self._ended = asyncio.Event()
        self._stream = TokenStream(strict=False)
        options = self._stream.options if tokens else {}
        self._run = begin(self._done, keep=True, **options)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._run.finished

    @property
    def error(self) -> BaseException | None:
        """Why it failed, None if it did not until now."""
        return self._run.error

    @property
    def record(self) -> RunRecord:
        """What has happened in it until now."""
        return record_of(self._run)

    @property
    def usage(self) -> Usage:
        """What its answers took until now."""
        return self._run.work.usage

    @property
    def cost(self) -> float | None:
        """What they cost in USD, None if a price is not known."""
        entries = self._run.work.entries.values()
        return cost_of([call for entry in entries for call in entry.calls])

    @property
    def counts(self) -> tuple[int, int]:
        """How many of its nodes have ended, and how many it has until now."""
        states = self._run.state.states
        return sum(state >= NodeState.DONE for state in states), len(states)

    async def output(self) -> Any:
        """Wait for its output; cancelling this cancels it.

        Raises:
            Exception: What ended it, as `Engine.run` does.
        """
        try:
            await self._ended.wait()
        except asyncio.CancelledError as exc:
            self._run.cancel(exc)
            raise
        finally:
            await self._run.wait_closed()
        if self._run.error is not None:
            raise self._run.error
        return self._run.output

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Yield the text of its output as it is written.

        An output that is not the text of one model call, or that was not asked for as
        a stream, yields nothing: `rest` has it all.
        """
        try:
            async for piece in self._stream:
                yield piece
        except BaseException:
            self._run.cancel(asyncio.CancelledError("nobody reads on"))
            raise

    def rest(self, text: str) -> str:
        """Return what of the output's text `pieces` has not yielded.

        Args:
            text: The text of the output.

        Raises:
            AnswerError: If a later try wrote something else than what is out already.
        """
        return self._stream.rest(text)

    def cancel(self, error: BaseException) -> None:
        """Stop it.

        Args:
            error: What it ends with.
        """
        self._run.cancel(error)

    def _done(self, _: Run) -> None:
        self._ended.set()
        self._stream.close()
