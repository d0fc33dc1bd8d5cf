"""`Named`: things that know the modules that hold them, and so their dotted name."""

import weakref
from typing import Any, ClassVar


class Named:
    """Something that modules hold under a key.

    The oldest holder that is left gives the name. Holders are weak references: a name
    never keeps a module alive, and copies and pickles start without one until their
    new holder registers them.
    """

    _tree_leaf: ClassVar[bool] = True

    def _attach(self, owner: Any) -> None:
        """Remember a holder, once for each key it holds this under."""
        holders = self.__dict__.setdefault("_holders", [])
        if owner is not self:
            holders.append(weakref.ref(owner, holders.remove))

    def _detach(self, owner: Any) -> None:
        """Forget one key of a holder."""
        holders = self._holders_left()
        for place, holder in enumerate(holders):
            if holder() is owner:
                del holders[place]
                return

    def _holders_left(self) -> list["weakref.ref[Any]"]:
        holders: list[weakref.ref[Any]] = self.__dict__.get("_holders", [])
        return holders

    def _outermost(self) -> Any:
        """Return the outermost holder, itself if it has none."""
        seen: set[int] = set()
        here: Any = self
        above: Any = self
        while above is not None and id(above) not in seen:
            here = above
            seen.add(id(here))
            alive = (holder() for holder in here._holders_left())
            above = next((holder for holder in alive if holder is not None), None)
        return here

    def _state(self) -> dict[str, Any]:
        """Return the attributes that a copy gets: all but the holders."""
        return {k: v for k, v in self.__dict__.items() if k != "_holders"}
