"""`Lessons`: feedback with its answers, and which version knows which."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import claas.storage as storage
from claas.errors import NotFoundError
from claas.parts import Entry, Ledger, Receipts
from claas.types import Lesson
from claas.volumes import Volume


@dataclass(frozen=True, slots=True)
class Lessons:
    """What ledger, receipts and versions know of feedback, together.

    Args:
        ledger: The feedback.
        receipts: The receipts.
        volume: Where adapters are; None for `storage.default_storage`.
    """

    ledger: Ledger
    receipts: Receipts
    volume: Volume | None

    def waiting(self, lora: str) -> tuple[str, ...]:
        """Return the ids of the feedback that waits for an update, the oldest first.

        What was rejected comes after what was rejected less often: it would else keep
        new feedback out of every update.

        Args:
            lora: The adapter, ``user/model``.
        """
        rejected = {
            entry.feedback.id: [mark.state for mark in entry.marks].count("rejected")
            for entry in self.ledger.history(lora)
        }
        ids = [feedback.id for feedback in self.ledger.open(lora)]
        return tuple(sorted(ids, key=lambda name: rejected[name]))

    def of(self, lora: str, ids: Iterable[str]) -> tuple[list[Lesson], dict[str, str]]:
        """Return the lessons of some feedback, and why which is none, by its id.

        Args:
            lora: The adapter.
            ids: The ids of the feedback.
        """
        entries = {entry.feedback.id: entry for entry in self.ledger.history(lora)}
        lessons, missing = [], {}
        for name in ids:
            if name not in entries:
                missing[name] = "the ledger does not know it"
                continue
            if _state(entries[name]) == "forgotten":
                missing[name] = "it was forgotten"
                continue
            feedback = entries[name].feedback
            try:
                lessons.append(Lesson(feedback, self.receipts.get(feedback.receipt)))
            except NotFoundError:
                missing[name] = "its receipt is gone"
        return lessons, missing

    def has_receipt(self, receipt_id: str) -> bool:
        """Say whether an answer is there.

        Args:
            receipt_id: The id of its receipt.
        """
        with contextlib.suppress(NotFoundError):
            return bool(self.receipts.get(receipt_id))
        return False

    def taught(self, lora: str, number: int | None) -> tuple[str, ...]:
        """Return the ids of the feedback that a version knows, the oldest first.

        Args:
            lora: The adapter.
            number: The number of the version, None for none.

        Returns:
            What it and those before it were trained on; nothing if all was deleted.
        """
        if number is None:
            return ()
        with contextlib.suppress(NotFoundError):
            chain = storage.lineage(f"{lora}@v{number}", self.volume)
            ids = (name for link in chain for name in link.meta.get("lessons", ()))
            return tuple(dict.fromkeys(ids))
        return ()

    def mark(
        self, lora: str, ids: Iterable[str], state: str, version: int | None, why: str
    ) -> None:
        """Tell the ledger what became of feedback, unless it knows, or has forgotten.

        Args:
            lora: The adapter.
            ids: The ids of the feedback.
            state: What it is now.
            version: The version that it is about.
            why: A sentence.
        """
        known = {
            entry.feedback.id: [(mark.state, mark.version) for mark in entry.marks]
            for entry in self.ledger.history(lora)
        }
        told = [i for i in ids if i in known and known[i][-1:] != [(state, version)]]
        told = [i for i in told if not known[i] or known[i][-1][0] != "forgotten"]
        if told:
            self.ledger.mark(told, state, version, why)


def _state(entry: Entry) -> str:
    """Return what a feedback is now."""
    return entry.marks[-1].state if entry.marks else "open"
