"""`AdapterTable`: the adapters that the head has given out, by name and number.

A number is given once and never again, so neither a lane nor a frame on its way can
take a later version for an earlier one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from butterfly.cluster.members import Member
from butterfly.engine.adapters import AdapterConfig
from butterfly.errors import ClusterError, ConfigurationError


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter that requests may name.

    Args:
        name: What requests call it.
        number: What segments call it.
        folder: Where PEFT saved it; every node reads it there.
    """

    name: str
    number: int
    folder: str


class Stages(Protocol):
    """What the table needs of a head."""

    @property
    def stages(self) -> Sequence[Member]:
        """The nodes of the present epoch."""
        ...

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to all stages."""
        ...

    @property
    def is_serving(self) -> bool:
        """Whether the ring is whole."""
        ...

    async def changed(self) -> None:
        """Wait until something happened."""
        ...


class AdapterTable:
    """The adapters of a head.

    Attributes:
        by_name: Those that requests may name.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, LoadedAdapter] = {}
        self._loading: LoadedAdapter | None = None
        self._number = 0

    @property
    def folders(self) -> tuple[tuple[int, str], ...]:
        """The numbers and folders of all, also of one that is being loaded."""
        each = [*self.by_name.values(), *([self._loading] if self._loading else [])]
        return tuple([(one.number, one.folder) for one in each])

    async def load(self, name: str, folder: str, head: Stages) -> None:
        """Load an adapter on all stages.

        Args:
            name: What requests will call it.
            folder: Where PEFT saved it.
            head: Who knows the stages, which may change meanwhile.

        Raises:
            ConfigurationError: If the name is taken, there is no adapter, or a node
                cannot load it. Nothing is loaded then.
            ClusterError: If the epoch ended meanwhile. Nothing is loaded then, too.
        """
        if name in self.by_name:
            raise ConfigurationError(
                f"the adapter {name!r} is loaded already: unload it first, or give the "
                "new version another name."
            )
        AdapterConfig.read(Path(folder))
        self._must_serve(name, head)
        self._number += 1
        new = self._loading = LoadedAdapter(name, self._number, folder)
        head.tell({"do": "adapt", "number": new.number, "folder": folder})
        try:
            while any(new.number not in member.adapters for member in head.stages):
                await head.changed()
                self._must_serve(name, head)
        finally:
            self._loading = None
        why = [told for m in head.stages if (told := m.adapters[new.number])]
        if why:
            head.tell({"do": "adapt", "number": new.number})
            raise ConfigurationError(why[0])
        self.by_name[name] = new

    def _must_serve(self, name: str, head: Stages) -> None:
        """Wait for no stages that are gone: the next epoch waits for who waits."""
        if not head.is_serving:
            raise ClusterError(
                f"the stages changed while the adapter {name!r} was to be loaded: try "
                "again."
            )

    def remove(self, name: str) -> LoadedAdapter:
        """Forget an adapter, and return it.

        Args:
            name: What requests call it.

        Raises:
            ConfigurationError: If there is none.
        """
        if name not in self.by_name:
            known = ", ".join(self.by_name) or "none"
            raise ConfigurationError(
                f"no adapter {name!r} is loaded; there is {known}."
            )
        return self.by_name.pop(name)
