"""`Bench`: what the worker's process does apart from an update, and room to write.

A version is made again from the ledger, a feedback is explained, two versions are
compared. None of it changes what serves.
"""

import contextlib
import shutil
import uuid
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import claas.storage as storage
from claas.errors import NotFoundError
from claas.lessons import Lessons
from claas.names import LoraName
from claas.parts import Teaching
from claas.types import TokenRow
from claas.updates import Updates
from claas.versions import Version
from claas.volumes import Volume, told


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Makes versions again, explains feedback, compares versions.

    Args:
        lessons: What is known of feedback.
        updates: The table of updates, with what the gate said.
        teaching: Gives the learner.
        volume: Where adapters are; None for `storage.default_storage`.
        scratch: Where candidates are written before they are versions.
        patience: Seconds to wait for an update of the same adapter.
    """

    lessons: Lessons
    updates: Updates
    teaching: Callable[[], Teaching]
    volume: Volume | None
    scratch: Path
    patience: float

    def rebuild(self, version_id: str, rebuild_id: str | None = None) -> str:
        """Make a version again from the ledger: its lessons, in the order of versions.

        Args:
            version_id: ``user/model@v3``.
            rebuild_id: Its id; the same id twice is one rebuild. None for a new one.

        Returns:
            The new version. It is not judged and does not serve.

        Raises:
            IdentifierError: If the name is none.
            NotFoundError: If there is no such version, or feedback or a receipt of it
                is gone.
            StorageError: If the first version is damaged, or the disk refuses.
        """
        chain = storage.lineage(version_id, self.volume)
        lora, name = LoraName.of(version_id).lora, rebuild_id or uuid.uuid4().hex
        with storage.updating(lora, "a rebuild", self.patience, self.volume):
            return self.replay(chain, name).id

    def replay(
        self, chain: Sequence[Version], name: str, without: Collection[str] = ()
    ) -> Version:
        """Make a version again from the first of its line; nobody else trains it.

        Args:
            chain: The version and those that it was trained from, the oldest first.
            name: What it is called; the same name twice is one replay.
            without: The ids of feedback to leave out. What comes of it is the same, bit
                for bit, as if it had never been said.

        Returns:
            The new version; its meta has ``batches``, what was trained on at a time.

        Raises:
            NotFoundError: If feedback or a receipt is gone.
            StorageError: If the first version is damaged, or the disk refuses.
        """
        lora, folder = LoraName.of(chain[0].id).lora, chain[0].path
        for known in storage.versions(lora, self.volume):
            if known.meta.get("rebuild") == name:
                return known
        storage.load_lora(chain[0].id, self.volume)  # is it whole?
        with self.room(f"rebuild-{name}") as scratch:
            batches: list[list[str]] = []
            for version, batch in _batches(chain[1:], without):
                lessons, missing = self.lessons.of(lora, batch)
                if missing:
                    raise NotFoundError(
                        f"{version.id} cannot be made again: {len(missing)} feedback, "
                        "or the receipts of it, are gone."
                    )
                batches.append(batch)
                out = scratch / f"v{len(batches)}"
                out.mkdir()
                folder = self.teaching().learner.train(folder, lessons, out).folder
            meta = {
                **{"parent": chain[0].id, "rebuilt": chain[-1].id, "rebuild": name},
                **{"lessons": sum(batches, []), "batches": batches},
            }
            made = storage.save_lora(folder, lora, meta, self.volume)
            return storage.version(made, self.volume)

    def explain(self, version_id: str, feedback_id: str) -> Sequence[TokenRow]:
        """Return what a feedback pushes, token by token of the answer it is about.

        Args:
            version_id: The student, ``user/model@v3``.
            feedback_id: The id of the feedback.

        Raises:
            IdentifierError: If the name is none.
            NotFoundError: If there is no such version or feedback, or no receipt of it.
            TeachingError: If the model cannot take the feedback.
        """
        lora = LoraName.of(version_id).lora
        lessons, missing = self.lessons.of(lora, (feedback_id,))
        for why in missing.values():
            raise NotFoundError(f"{feedback_id[:80]!r} cannot be explained: {why}.")
        folder = storage.load_lora(version_id, self.volume)
        return self.teaching().explain(folder, lessons[0])

    def diff(self, first: str, second: str) -> dict[str, Any]:
        """Return how two versions differ; no base model is needed.

        Args:
            first: ``user/model@v1``.
            second: ``user/model@v3``.

        Returns:
            ``total`` and ``layers``, see `claas.differences`; ``feedback``, what one of
            them knows and the other does not; ``gate``, what each was found to be like.

        Raises:
            IdentifierError: If a name is none.
            NotFoundError: If there is no such version.
            ConfigurationError: If they cannot be compared.
            StorageError: If a file is damaged.
        """
        pair = [storage.version(name, self.volume) for name in (first, second)]
        folders = [storage.load_lora(version.id, self.volume) for version in pair]
        told = {"first": pair[0].id, "second": pair[1].id, **compared(*folders)}
        return {**told, "feedback": self._between(*pair), "gate": self._judged(*pair)}

    def _between(self, *pair: Version) -> list[dict[str, Any]]:
        """Return the feedback that only one of two versions knows."""
        loras = [LoraName.of(version.id).lora for version in pair]
        zipped = zip(loras, pair, strict=True)
        knows = [set(self.lessons.taught(lora, v.number)) for lora, v in zipped]
        found = []
        for lora in dict.fromkeys(loras):
            for entry in self.lessons.ledger.history(lora):
                one = entry.feedback
                if (one.id in knows[0]) is not (one.id in knows[1]):
                    where = pair[one.id in knows[1]].id
                    found.append({"id": one.id, "kind": one.kind, "only_in": where})
        return found

    def _judged(self, *pair: Version) -> dict[str, list[float | None]]:
        """Return what the gate measured of each of two versions, by its checks."""
        figures = []
        for version in pair:
            past = self.updates.history(LoraName.of(version.id).lora)
            said = [u.verdict for u in past if u.kind == "update" and u.verdict]
            made = [u.version for u in past if u.kind == "update" and u.verdict]
            known = dict(zip(made, said, strict=True)).get(version.number)
            figures.append(known.figures if known else {})
        names = dict.fromkeys([*figures[0], *figures[1]])
        return {name: [_after(some.get(name)) for some in figures] for name in names}

    @contextlib.contextmanager
    def room(self, name: str) -> Generator[Path, None, None]:
        """Give an empty folder for a candidate; it goes at the end.

        Args:
            name: What it is called.

        Raises:
            StorageError: If the disk refuses.
        """
        out = self.scratch / name
        shutil.rmtree(out, ignore_errors=True)
        try:
            with told(f"write a candidate to {out}"):
                out.mkdir(parents=True, mode=0o700)
                yield out
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def sweep(self, kept: Collection[str]) -> None:
        """Delete what workers that died left behind.

        Args:
            kept: The ids of updates that are not done.
        """
        for left in self.scratch.glob("*"):
            if left.name not in kept:
                shutil.rmtree(left, ignore_errors=True)


def compared(first: Path, second: Path) -> dict[str, Any]:
    """Return how two adapters differ, as plain data; see `claas.differences`.

    Args:
        first: PEFT's files.
        second: PEFT's files, of an adapter of the same base model.

    Raises:
        ConfigurationError: If they cannot be compared.
    """
    from claas.differences import compare  # noqa: PLC0415 - torch

    return asdict(compare(first, second))


def _after(figure: Any) -> float | None:
    """Return what a check of the gate measured of the candidate, if it did."""
    return figure.get("after") if isinstance(figure, Mapping) else None


def _batches(
    chain: Sequence[Version], without: Collection[str]
) -> Iterator[tuple[Version, list[str]]]:
    """Give what versions were trained on at a time, and which version it was."""
    for version in chain:
        for batch in version.meta.get("batches") or [version.meta.get("lessons", ())]:
            if left := [one for one in batch if one not in without]:
                yield version, left
