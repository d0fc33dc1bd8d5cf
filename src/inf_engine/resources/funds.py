"""`Funds`: the part of a budget that this process may spend, where others spend, too.

As with a `Lease`, one process keeps the budget and the others ask it: for what the
first in line lacks and a little more. What they hold and do not need goes back. A
request is refused only when all that is left, and all that others hold and may still
give back, would not do.
"""

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from inf_engine.resources.budget import Budget, BudgetAccount, Reservation

Amounts = tuple[int, int, int]
"""Requests, tokens, and units of money."""

NOTHING: Amounts = (0, 0, 0)
_MOST_AHEAD = 16


class FundsAsk(NamedTuple):
    """What a process tells of its part of a budget.

    Args:
        spent: What it has spent since the last ask; what may be spent counts.
        back: What it gives back.
        lacking: What the first in line lacks.
        size: What one more takes.
        count: For how many more.
    """

    spent: Amounts = NOTHING
    back: Amounts = NOTHING
    lacking: Amounts = NOTHING
    size: Amounts = NOTHING
    count: int = 0


@dataclass(frozen=True, slots=True)
class FundsGrant:
    """What a process gets of a budget.

    Args:
        amounts: What it may spend more.
        refused: Of requests, tokens and money: whether what is lacking never comes.
        spent: What all have spent until now.
        reserved: What all hold.
    """

    amounts: Amounts = NOTHING
    refused: tuple[bool, bool, bool] = (False, False, False)
    spent: Amounts = NOTHING
    reserved: Amounts = NOTHING


class Funds(BudgetAccount):
    """An account that may spend only what it was granted.

    Args:
        budget: The whole budget.
        began: When it began, seconds on the loop's clock.
        need: Called when something is lacking.
    """

    def __init__(self, budget: Budget, began: float, need: Callable[[], None]) -> None:
        super().__init__(budget, began)
        self._need = need
        self._limited = [limit < math.inf for limit in self._limits]
        self._granted: Amounts = NOTHING
        self._told: Amounts = NOTHING  # what was told to be spent
        self._lacking: Amounts = NOTHING
        self._size: Amounts = NOTHING
        self._refused = (math.inf, math.inf, math.inf)  # so much is, or more
        self._last = FundsGrant()
        self._allow()

    def may_fit_later(
        self, *, now: float, tokens: int = 0, usd: float = 0.0, requests: int = 1
    ) -> bool:
        """Return whether a request may fit once more is granted."""
        asked = self._reservation(requests, tokens, usd)
        self._size = size = asked.requests, asked.tokens, asked.units
        if not self._in_time(now) or any(map(operator.ge, size, self._refused)):
            return False
        lacking = map(operator.sub, size, self._free())
        self._lacking = _amounts(max(0, int(n)) if n > 0 else 0 for n in lacking)
        if any(self._lacking):
            self._need()
        return True

    def ask(self, waiting: int) -> FundsAsk:
        """Return what to tell who keeps the budget; what goes back is gone.

        Args:
            waiting: Requests in line.
        """
        used = self.used
        spent = _amounts(map(operator.sub, used, self._told))
        self._told, back = used, NOTHING
        if not waiting:
            free = self._free()
            back = _amounts(int(n) if 0 < n < math.inf else 0 for n in free)
            self._lacking = NOTHING
            self._granted = _amounts(map(operator.sub, self._granted, back))
            self._allow()
        count = min(waiting, _MOST_AHEAD) if any(self._lacking) else 0
        return FundsAsk(spent, back, self._lacking, self._size, count)

    def granted(self, grant: FundsGrant) -> bool:
        """Take over what was granted; say whether anything is clearer now."""
        self._last = grant
        if any(grant.refused):
            pairs = zip(self._size, grant.refused, strict=True)
            first, second, third = (n if is_out else math.inf for n, is_out in pairs)
            self._refused = first, second, third
            return True
        self._granted = _amounts(map(operator.add, self._granted, grant.amounts))
        self._allow()
        return any(grant.amounts)

    def _free(self) -> list[float]:
        """Return what is granted and neither spent nor reserved."""
        reserved = self._reserved
        open_ = reserved.requests, reserved.tokens, reserved.units
        taken = map(operator.add, self.used, open_)
        return list(map(operator.sub, self._limits, taken))

    def _allow(self) -> None:
        """Let the account spend what is granted."""
        pairs = zip(self._granted, self._limited, strict=True)
        requests, tokens, units = (n if is_ else math.inf for n, is_ in pairs)
        self._limits = requests, tokens, units

    def _refusal(self, asked: Reservation, now: float) -> str:
        """Return what is said of a request that does not fit, over all processes."""
        whole = BudgetAccount(self.budget, self.began)
        whole.book(*self._last.spent)
        whole._reserved.add(*self._last.reserved)
        return whole._refusal(asked, now)


def _amounts(each: Iterable[int]) -> Amounts:
    requests, tokens, units = each
    return requests, tokens, units
