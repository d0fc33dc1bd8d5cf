"""`Loaded`: which versions are there and on the inference server, and how long."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import claas.storage as storage
from claas.errors import (
    ConfigurationError,
    ConflictError,
    NotFoundError,
    ServingError,
    StorageError,
)
from claas.names import LoraName
from claas.parts import Serving
from claas.updates import Updates
from claas.versions import surplus
from claas.volumes import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Loads versions, and unloads those that serve no more.

    Args:
        updates: The table of updates, with what is to be unloaded.
        serving: The inference server.
        volume: Where adapters are; None for `storage.default_storage`.
        grace: Seconds until what does not serve is unloaded.
        clock: Seconds since 1970.
    """

    updates: Updates
    serving: Serving
    volume: Volume | None
    grace: float
    clock: Callable[[], float]

    def lend(self, version_id: str) -> None:
        """Have a version that somebody asked for unloaded after the grace.

        Args:
            version_id: ``user/model@v3``. If it serves by then, it stays.

        Raises:
            StorageError: If it cannot be written down.
        """
        name = LoraName.of(version_id)
        self.updates.retire(name.lora, [name.serving], self.clock() + self.grace)

    def retire(self) -> list[str]:
        """Unload versions that do not serve, and whose grace is over.

        Returns:
            Their serving names. An inference server that does not answer is asked
            again the next time.
        """
        gone = []
        for lora, name in self.updates.due(self.clock()):
            with (
                contextlib.suppress(ServingError, StorageError),
                storage.switching(lora, f"unload {name}", 0, self.volume),
            ):
                live = self.live(lora)
                if live is None or live.serving != name:
                    self.serving.unload(name)
                    gone.append(name)
                self.updates.unretire(name)
        return gone

    def prune(self, lora: str, most: int) -> None:
        """Delete old versions; what cannot be now, is after the next update.

        Args:
            lora: The adapter.
            most: How many are kept, see `claas.versions.surplus`; 0 for all of them.
        """
        with (
            contextlib.suppress(StorageError, NotFoundError, ConflictError),
            storage.switching(lora, "pruning", 0, self.volume),
        ):
            if not most or self.updates.unfinished(lora):
                return
            old = surplus(storage.versions(lora, self.volume), most)
            names = [LoraName.of(version.id) for version in old]
            self.updates.retire(lora, [n.serving for n in names], self.clock())
            for name in names:
                storage.delete_lora(str(name), self.volume)

    def live(self, lora: str) -> LoraName | None:
        """Return the live version, if there is one.

        Args:
            lora: The adapter.
        """
        with contextlib.suppress(NotFoundError):
            return LoraName.of(storage.version(f"{lora}@live", self.volume).id)
        return None


def check_base(version_id: str, base: str, volume: Volume | None) -> None:
    """Refuse an adapter that belongs to another base model.

    Args:
        version_id: A version, or an adapter.
        base: The base model that is configured; empty if nobody knows.
        volume: Where adapters are.

    Raises:
        NotFoundError: If there is no such version.
        ConfigurationError: If its first version names another base.
    """
    made = storage.lineage(version_id, volume)[0].meta.get("base")
    if not (base and made) or made == base:
        return
    if Path(made).resolve() != Path(base).resolve():
        raise ConfigurationError(
            f"{version_id} was made for the base model {made!r}, and 'base_model' is "
            f"{base!r}: set it back, or make another adapter. If the model was only "
            "moved, leave a link at its old place."
        )
