"""`Watch`: a version whose answers are rated worse than before is taken back.

The ratings of the version that serves are compared with those of the one that it was
trained from, pair by pair: the last one from before the switch with the first one after
it, and so on, away from the switch (`Ratings.pair`), by a test that may be looked at
after every rating (`claas.intervals.evidence`). Both must have been asked the like:
where users changed meanwhile, that is what the test finds. And each rating must stand
for itself: where one person rates five answers of a conversation alike, the test takes
one opinion for five.

A version that was taken back is not promoted again by any update; whoever promotes it
by hand is believed, and it is not looked at again. Its feedback is dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass

import claas.storage as storage
from claas.intervals import evidence, mean_change
from claas.names import LoraName
from claas.ratings import Ratings
from claas.tuning import RatingLimits
from claas.updates import Update, Updates
from claas.volumes import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Takes a version back.

    Args:
        ratings: The ratings.
        limits: When to do it.
        updates: The table of updates.
        volume: Where adapters are; None for `storage.default_storage`.
        switch: `Worker.switch`.
    """

    ratings: Ratings
    limits: RatingLimits
    updates: Updates
    volume: Volume | None
    switch: Callable[..., Update]

    def look(self, lora: str) -> Update | None:
        """Take the live version back if it is surely rated worse than the one before.

        Args:
            lora: The adapter, ``user/model``.

        Returns:
            The switch to the version before, if there was one.

        Raises:
            NotFoundError: If there is no such adapter, or not the version before.
            ConflictError: If another version went live meanwhile.
            StorageError: If the disk refuses.
            ServingError: If the inference server refuses.
        """
        live = storage.version(f"{lora}@live", self.volume)
        parent = live.meta.get("parent")
        if not self.limits.least or parent is None:
            return None
        why = self._why(lora, LoraName.of(parent).version or 0, live.number)
        if not why or live.number in self.updates.left(lora):
            return None
        return self.switch(lora, parent, why=why, leaving=live.id)

    def _why(self, lora: str, before: int, after: int) -> str:
        """Return how the ratings fell, empty if they did not surely fall."""
        old, new = self.ratings.pair(lora, before, after)
        many = min(len(old), len(new))
        if many < self.limits.least:
            return ""
        needed = 1 / (1 - self.limits.confidence)
        if (found := evidence(old, new, self.limits.least)) < needed:
            return ""
        change = mean_change(old[:many], new[:many], self.limits.confidence)
        return (
            f"ratings fell from {change.before:.2f} (version {before}) to "
            f"{change.after:.2f} (version {after}) over {many} answers each (evidence "
            f"{found:.3g}, needed {needed:.3g})"
        )
