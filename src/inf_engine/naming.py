"""`Named`: things that know the module that holds them, and so their dotted name."""

import weakref
from typing import Any, ClassVar


class Named:
    """Something a module holds under a key.

    Holders are weak references: a name never keeps a module alive, and copies and
    pickles start without one until their new holder registers them.
    """

    _tree_leaf: ClassVar[bool] = True
    _owner: weakref.ref[Any] | None
    _key: str

    def _attach(self, owner: Any, key: str) -> None:
        """Remember the first holder."""
        if self._holder() is None and owner is not self:
            self._set_owner(weakref.ref(owner), key)

    def _detach(self, owner: Any, key: str) -> None:
        """Forget the holder, if it is the one that gives the name."""
        if self._holder() is owner and self._key == key:
            self._set_owner(None, "")

    def _holder(self) -> Any:
        return self._owner() if self._owner is not None else None

    def _set_owner(self, owner: weakref.ref[Any] | None, key: str) -> None:
        object.__setattr__(self, "_owner", owner)
        object.__setattr__(self, "_key", key)

    def _outermost(self) -> Any:
        """Return the outermost holder, itself if it has none."""
        seen: set[int] = set()
        here: Any = self
        while (holder := here._holder()) is not None and id(here) not in seen:
            seen.add(id(here))
            here = holder
        return here
