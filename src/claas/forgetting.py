"""`Forgetting`: an adapter as if something had never been said.

    erase     the words go from the ledger, the answers from the receipts
    replay    what serves is made again from its first version, without the feedback
    judge     the gate compares it with that first version
    switch    it serves; if it is rejected, or cannot be made, the last version before
              the feedback does
    remove    every version that knew the feedback is unloaded and deleted

Each step can be done twice, so what was interrupted is just done again. To forget is
never refused by the gate: then the last version that did not know the feedback serves,
and what was said later waits for the next update.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import claas.storage as storage
from claas.bench import Bench
from claas.errors import ClaasError, ConflictError, ServingError, StorageError
from claas.lessons import Lessons
from claas.names import LoraName
from claas.types import Verdict
from claas.updates import Update, Updates
from claas.versions import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """Takes feedback out of an adapter.

    Args:
        lessons: What is known of feedback.
        bench: What makes versions again, and judges.
        updates: The table of updates, with what is to be unloaded.
        switch: Lets a version of an adapter serve, and says why.
        clock: Seconds since 1970.
    """

    lessons: Lessons
    bench: Bench
    updates: Updates
    switch: Callable[[str, str, str], Update]
    clock: Callable[[], float]

    def forget(
        self,
        lora: str,
        ids: Collection[str],
        receipts: Collection[str],
        name: str,
        *,
        replays: bool = True,
    ) -> dict[str, Any]:
        """Forget feedback; nobody trains the adapter meanwhile.

        Args:
            lora: The adapter, ``user/model``.
            ids: The ids of the feedback.
            receipts: Answers to delete, with all feedback on them: also with what was
                said since this was asked for.
            name: What this is called; the same name twice is one forgetting.
            replays: Whether what is left is learnt again now, not with the next update.

        Returns:
            ``outcome``, the ``version`` that serves, the numbers of those that were
            ``removed``, ``verdict`` where something was trained, ``error``, and
            ``kept``: those of `receipts` that stay, since the feedback of another
            adapter is about them.

        Raises:
            NotFoundError: If there is no such feedback.
            StorageError: If the disk refuses.
            ServingError: If the inference server does.
        """
        ids = self.lessons.ledger.erase(lora, ids, receipts)
        kept = [name for name in receipts if self.lessons.has_receipt(name)]
        told: dict[str, Any] = {"outcome": "forgotten", "kept": kept}
        live = storage.version(f"{lora}@live", self.bench.volume)
        if self._knows(lora, live, ids):
            told |= self._renew(lora, live, ids, name, replays)
        live = storage.version(f"{lora}@live", self.bench.volume)
        return {**told, "version": live.number, "removed": self._removed(lora, ids)}

    def _knows(self, lora: str, version: Version, ids: Collection[str]) -> bool:
        """Say whether a version was trained on some feedback."""
        return not set(ids).isdisjoint(self.lessons.taught(lora, version.number))

    def _renew(
        self, lora: str, live: Version, ids: Collection[str], name: str, replays: bool
    ) -> dict[str, Any]:
        """Let a version serve that does not know the feedback; say what it is like."""
        chain = storage.lineage(live.id, self.bench.volume)
        kept = [i for i in self.lessons.taught(lora, live.number) if i not in ids]
        to, why, told = _before(chain, ids), "nothing else was learnt", {}
        try:
            if kept and not replays:
                raise ClaasError("the rest is learnt again with the next update")
            if kept:
                made = self.bench.replay(chain, name, ids)
                verdict = self._judged(chain[0], made, kept)
                to = made if verdict.is_promoted else to
                why, told = " ".join(verdict.reasons), {"verdict": asdict(verdict)}
        except (ServingError, StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - what must go goes, whatever fails
            is_ours = isinstance(error, ClaasError)  # another's words may hold a prompt
            why = str(error) if is_ours else f"it ended by {type(error).__name__}"
            told = {"error": why}
        done = self.switch(lora, to.id, f"feedback was forgotten: {why}")
        if done.outcome != "promoted":
            raise ConflictError(f"{lora} is as it was: {done.error}")
        return told

    def _judged(self, first: Version, made: Version, kept: Collection[str]) -> Verdict:
        """Ask the gate whether what is left was learnt."""
        lora, volume = LoraName.of(made.id).lora, self.bench.volume
        lessons, _ = self.lessons.of(lora, kept)
        folders = [storage.load_lora(one.id, volume) for one in (first, made)]
        return self.bench.teaching().gate.judge(*folders, lessons, ())

    def _removed(self, lora: str, ids: Collection[str]) -> list[int]:
        """Delete what knew the feedback; return the numbers of these versions."""
        volume = self.bench.volume
        found = [v for v in storage.versions(lora, volume) if self._knows(lora, v, ids)]
        names = [LoraName.of(version.id).serving for version in found]
        self.updates.retire(lora, names, self.clock())
        for version in found:
            storage.delete_lora(version.id, volume)
        return [version.number for version in found]


def _before(chain: Sequence[Version], ids: Collection[str]) -> Version:
    """Return the last of a lineage that is there and does not know the feedback."""
    forgotten = set(ids)
    free = takewhile(lambda v: forgotten.isdisjoint(v.meta.get("lessons", ())), chain)
    there = [version for version in free if "files" in version.meta]
    return there[-1] if there else chain[0]
