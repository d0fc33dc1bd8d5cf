"""`Purse`: what a training may spend, counted over all traffic of its engine.

Whoever asks a model (the module, the judge, the critic, the rewriter) asks over the
engine, so the purse counts there: what left for an endpoint while it was open, with
retries, plus what a journal or cache answered *for the first time*. The latter is why a
training that was killed and runs again stops where it would have stopped: an answer
that the first process paid for is paid for in the books of the second one, too. Asking
for the same again is free in both.

A budget is kept exactly: it lies over the engine's own while the purse is open, and a
request that does not fit in both is not sent.
"""

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inf_engine.errors import BudgetExceededError, UsageError
from inf_engine.execution.memory import Memory
from inf_engine.resources.budget import Budget, BudgetAccount, Reservation
from inf_engine.resources.job import JobState
from inf_engine.resources.prices import UNITS
from inf_engine.types import LLMResponse

_LIMITS = ("requests", "tokens", "usd", "seconds")


@dataclass(frozen=True, slots=True)
class Spent:
    """What a training has spent, all of its model calls.

    Args:
        requests: Tries that left for an endpoint, and answers that an earlier process
            had paid for.
        tokens: Tokens read and written; of lost answers the most they may have cost.
        usd: Money, as far as prices are known.
        seconds: Wall-clock time.
        reused: Answers from a journal or cache, first time or not.
        unpriced: Answers whose price is not known.
    """

    requests: int = 0
    tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    reused: int = 0
    unpriced: int = 0


class _Account(BudgetAccount):
    """A budget's account over another one: a request has to fit in both."""

    def __init__(
        self, budget: Budget, began: float, below: BudgetAccount | None
    ) -> None:
        super().__init__(budget, began)
        self.below = below
        self._pairs: dict[Reservation, Reservation] = {}

    def reserve(
        self, *, now: float, tokens: int = 0, usd: float = 0.0, requests: int = 1
    ) -> Reservation:
        asked: dict[str, Any] = {"tokens": tokens, "usd": usd, "requests": requests}
        mine = super().reserve(now=now, **asked)
        if self.below is not None:
            try:
                self._pairs[mine] = self.below.reserve(now=now, **asked)
            except BudgetExceededError:
                super().cancel(mine)
                raise
        return mine

    def fits(
        self, *, now: float, tokens: int = 0, usd: float = 0.0, requests: int = 1
    ) -> bool:
        asked: dict[str, Any] = {"tokens": tokens, "usd": usd, "requests": requests}
        below = self.below
        return super().fits(now=now, **asked) and (
            below is None or below.fits(now=now, **asked)
        )

    def may_fit_later(
        self, *, now: float, tokens: int = 0, usd: float = 0.0, requests: int = 1
    ) -> bool:
        asked: dict[str, Any] = {"tokens": tokens, "usd": usd, "requests": requests}
        below = self.below
        return super().may_fit_later(now=now, **asked) and (
            below is None or below.may_fit_later(now=now, **asked)
        )

    def settle(self, reservation: Reservation, tokens: int, usd: float | None) -> None:
        super().settle(reservation, tokens, usd)
        if self.below is not None:
            self.below.settle(self._pair(reservation), tokens, usd)

    def release(self, reservation: Reservation) -> None:
        super().release(reservation)
        if self.below is not None:
            self.below.release(self._pair(reservation))

    def keep(self, reservation: Reservation) -> None:
        super().keep(reservation)
        if self.below is not None:
            self.below.keep(self._pair(reservation))

    def cancel(self, reservation: Reservation) -> None:
        super().cancel(reservation)
        if self.below is not None:
            self.below.cancel(self._pair(reservation))

    def _pair(self, reservation: Reservation) -> Reservation:
        """Return the reservation below; one from before this account is its own."""
        return self._pairs.pop(reservation, reservation)


class Purse:
    """Counts what goes over an engine while it is open, and keeps to a budget.

    An engine without journal and cache has a cache as long as the purse is open, so
    that a call whose request did not change is not repeated.

    Args:
        engine: The engine.
        budget: What may be spent, None for any amount.
    """

    def __init__(self, engine: Any, budget: Budget | None = None) -> None:
        self._engine = engine
        self._budget = budget
        self._spending = engine.resources.spending
        self._seen: set[bytes] = set()
        self._first = [0, 0, 0]  # requests, tokens and money units of first answers
        self._account: _Account | None = None
        self._own: tuple[Budget | None, BudgetAccount | None] = (None, None)
        self._folder: str | None = None
        self._memory: Memory | None = None
        self._base: Any = None
        self._began = 0.0
        self._final = Spent()

    def __enter__(self) -> "Purse":
        memory = self._engine._scheduler.memory
        if memory is not None and memory.observer is not None:
            raise UsageError(
                "this engine is in use by a training already, and two would count each "
                "other's calls: train one after the other, or give each an engine."
            )
        self._began = asyncio.get_running_loop().time()
        self._open_memory()
        try:
            self._lay_over()
        except BaseException:
            self._close_memory()
            raise
        self._base = self._engine.statistics().total
        return self

    def __exit__(self, *exc: object) -> None:
        self._final, self._base = self.spent, None
        if self._account is not None:
            self._spending.budget, self._spending.account = self._own
            self._account = None
        self._close_memory()

    @property
    def spent(self) -> Spent:
        """What was spent until now, or until it was closed."""
        base = self._base
        if base is None:
            return self._final
        now = self._engine.statistics().total
        requests, tokens, units = self._first
        hits = now.journal_hits + now.cache_hits - base.journal_hits - base.cache_hits
        return Spent(
            now.tries - base.tries + requests,
            _tokens(now) - _tokens(base) + tokens,
            round(now.cost - base.cost + units / UNITS, 12),
            asyncio.get_running_loop().time() - self._began,
            hits,
            now.unpriced - base.unpriced,
        )

    def left(self, what: str) -> float | None:
        """Return what is left of ``requests``, ``tokens``, ``usd`` or ``seconds``.

        Args:
            what: The name of the limit.

        Returns:
            What is left, None if there is no such limit.
        """
        limit = None if self._budget is None else getattr(self._budget, what)
        return None if limit is None else limit - getattr(self.spent, what)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left of a limit."""
        lefts = [self.left(what) for what in _LIMITS]
        return any(left is not None and left <= 0 for left in lefts)

    # -- what the memory tells (`Observer`) --------------------------------------

    def kept(self, job: Any) -> None:
        """Take note that an answer was paid for under this purse."""
        self._seen.add(job.key)

    def reused(self, job: Any, response: LLMResponse) -> bool:
        """Book an answer that is used again, if it is the first time here.

        Returns:
            False if the budget does not allow it: the job was ended with that error.
        """
        if job.key in self._seen:
            return True
        self._seen.add(job.key)
        return self._paid(job, response)

    # -- the budget -------------------------------------------------------------

    def _lay_over(self) -> None:
        """Put the budget over the engine's own, until it is closed."""
        budget, spending = self._budget, self._spending
        if budget is None:
            return
        spending.begin(self._began)
        own, below = spending.budget, spending.account
        self._own = own, below
        manager = self._engine.resources
        manager.limit(_priced(own, budget))  # each alias is checked for a price again
        spending.account = self._account = _Account(budget, self._began, below)

    # -- answers that were there already -----------------------------------------

    def _open_memory(self) -> None:
        """Be told of every answer that is kept or used again."""
        scheduler = self._engine._scheduler
        if scheduler.memory is None:
            self._folder = tempfile.mkdtemp(prefix="training-")
            cache = Path(self._folder) / "cache.db"
            scheduler.memory = Memory.opened(None, cache, self._engine.resources)
        memory: Any = scheduler.memory
        self._memory, memory.observer = memory, self

    def _close_memory(self) -> None:
        memory, self._memory = self._memory, None
        if memory is None:
            return
        memory.observer = None
        if self._folder is not None:
            self._engine._scheduler.memory = None
            memory.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _paid(self, job: Any, response: LLMResponse) -> bool:
        """Book an answer that an earlier process paid; False if it does not fit."""
        tokens, cost = response.usage.total_tokens, response.cost or 0.0
        if self._account is not None:
            now = asyncio.get_running_loop().time()
            try:
                asked = self._account.reserve(now=now, tokens=tokens, usd=cost)
            except BudgetExceededError as exc:
                job.state = JobState.ENDED
                job.ended(exc)
                return False
            self._account.settle(asked, tokens, cost)
        booked = (1, tokens, round(cost * UNITS))
        self._first = [a + b for a, b in zip(self._first, booked, strict=True)]
        return True


def _tokens(statistics: Any) -> int:
    s = statistics
    total: int = s.input_tokens + s.output_tokens + s.unknown_tokens
    return total


def _priced(own: Budget | None, budget: Budget) -> Budget:
    """Return the budget that says whether every model needs a known price."""
    if own is None or own.needs_price or not budget.needs_price:
        return budget if own is None else own
    return replace(own, usd=budget.usd)
