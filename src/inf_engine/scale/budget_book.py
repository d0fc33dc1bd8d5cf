"""`BudgetBook`: what is left of a budget that all actors spend, and who holds what."""

import math

from inf_engine.resources.funds import NOTHING, Amounts, FundsAsk, FundsGrant


class BudgetBook:
    """What is left of a budget, and who holds what of it.

    Args:
        left: What may be spent, infinity where it is not limited.
        spent: What was spent before.
    """

    def __init__(
        self, left: tuple[float, float, float], spent: Amounts = NOTHING
    ) -> None:
        self._free = list(left)
        self._before = spent
        self._spent = [0, 0, 0]
        self._held: dict[str, list[int]] = {}

    @property
    def spent(self) -> Amounts:
        """What all holders have spent."""
        requests, tokens, units = self._spent
        return requests, tokens, units

    def sync(self, holder: str, ask: FundsAsk) -> FundsGrant:
        """Take note of what a holder has spent, and grant it more.

        Args:
            holder: Its name.
            ask: What it tells.
        """
        held = self._held.setdefault(holder, [0, 0, 0])
        for i in range(3):
            self._spent[i] += ask.spent[i]
            held[i] -= ask.spent[i] + ask.back[i]
            self._free[i] += ask.back[i]
            if held[i] < 0:  # it cost more than was estimated
                self._free[i] += held[i]
                held[i] = 0
        if not any(ask.lacking):
            return FundsGrant()
        if all(
            want <= free for want, free in zip(ask.lacking, self._free, strict=True)
        ):
            return FundsGrant(self._lent(held, ask))
        there = [sum(each) for each in zip(*self._held.values(), strict=True)]
        out = [
            want > free + held
            for want, free, held in zip(ask.lacking, self._free, there, strict=True)
        ]
        before = [a + b for a, b in zip(self._before, self._spent, strict=True)]
        return FundsGrant(
            NOTHING,
            (out[0], out[1], out[2]),
            (before[0], before[1], before[2]),
            (there[0], there[1], there[2]),
        )

    def forget(self, holder: str) -> None:
        """Count as spent what a dead holder held: nobody knows what became of it."""
        for i, amount in enumerate(self._held.pop(holder, NOTHING)):
            self._spent[i] += amount

    def _lent(self, held: list[int], ask: FundsAsk) -> Amounts:
        """Lend what is lacking, and for a few more, but no more than a fair part."""
        given = list(ask.lacking)
        for _ in range(ask.count):
            more = [g + s for g, s in zip(given, ask.size, strict=True)]
            parts = [math.inf if f == math.inf else f / 2 for f in self._free]
            if any(m > part for m, part in zip(more, parts, strict=True)):
                break
            given = more
        for i, amount in enumerate(given):
            self._free[i] -= amount
            held[i] += amount
        return given[0], given[1], given[2]
