"""Lists and dicts of modules and parameters that register what they hold."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar, cast, overload

from inf_engine.errors import ModuleError, known_names
from inf_engine.module import InferenceModule
from inf_engine.parameter import Parameter

Held = TypeVar("Held", InferenceModule, Parameter)


class _Container(InferenceModule, Generic[Held]):
    """What the four containers share: a table with one kind of thing in it."""

    _kind: type[Any]

    @property
    def _table(self) -> dict[str, Held]:
        own = self._modules if self._kind is InferenceModule else self._parameters
        return cast("dict[str, Held]", own)

    def _put(self, key: str, value: Any) -> None:
        value = self._taken(value)
        self._check(value)
        self._register(self._table, key, value)

    def _taken(self, value: Any) -> Any:
        """Return what to hold for a value: a parameter for a text, where those are."""
        wanted = self._kind is Parameter and isinstance(value, str)
        return Parameter(value) if wanted else value

    def _check(self, *values: Any) -> None:
        for value in values:
            if not isinstance(value, self._kind):
                raise ModuleError(
                    f"{type(self).__name__} holds {self._kind.__name__} objects, not "
                    f"{type(value).__name__}."
                )
            if isinstance(value, InferenceModule):
                value._check_initialised()

    def clear(self) -> None:
        """Remove everything."""
        for key in list(self._table):
            self._unregister(key)

    def __len__(self) -> int:
        return len(self._table)

    def __bool__(self) -> bool:
        return bool(self._table)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a container is not a step.

        Raises:
            ModuleError: Always.
        """
        raise ModuleError(
            f"{type(self).__name__} is not callable: loop over it in your forward, "
            "or use Sequential."
        )


class _ListOf(_Container[Held]):
    """What the lists share; each item is registered under its index."""

    def __init__(self, items: Iterable[Held] = ()) -> None:
        super().__init__()
        self._refill(_unnamed(items))

    def append(self, item: Held) -> Self:
        """Add an item at the end and return the list."""
        self._put(str(len(self)), item)
        return self

    def extend(self, items: Iterable[Held]) -> Self:
        """Add items at the end and return the list; none if one of them is wrong."""
        new = list(map(self._taken, items))
        self._check(*new)
        for item in new:
            self.append(item)
        return self

    def insert(self, index: int, item: Held) -> None:
        """Insert an item before `index`, as list does."""
        pairs = self._pairs()
        pairs.insert(index, ("", item))
        self._refill(pairs)

    def pop(self, index: int = -1) -> Held:
        """Remove and return the item at `index`."""
        item = list(self)[index]
        del self[index]
        return item

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._table.values()))

    def __contains__(self, item: object) -> bool:
        return any(held is item for held in self)

    def __add__(self, items: Iterable[Held]) -> Self:
        return self._like(self._pairs() + _unnamed(items))

    def __iadd__(self, items: Iterable[Held]) -> Self:
        return self.extend(items)

    @overload
    def __getitem__(self, index: int) -> Held: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Held | Self:
        """Return the item at `index`, or a new list of those in a slice."""
        if isinstance(index, slice):
            return self._like(self._pairs()[index])
        return list(self)[index]

    def __setitem__(self, index: int | slice, item: Any) -> None:
        if not isinstance(index, slice):
            self._place(list(self._table)[index], item)
            return
        pairs = self._pairs()
        pairs[index] = _unnamed(item)
        self._refill(pairs)

    def __delitem__(self, index: int | slice) -> None:
        pairs = self._pairs()
        del pairs[index]
        self._refill(pairs)

    def _pairs(self) -> list[tuple[str, Any]]:
        return list(self._table.items())

    def _like(self, pairs: list[tuple[str, Any]]) -> Self:
        """Return a copy of this list with other items."""
        new = copy.copy(self)
        new._refill(pairs)
        return new

    def _refill(self, pairs: list[tuple[str, Any]]) -> None:
        """Hold these instead, under their names, or under the place of each."""
        items = [self._taken(item) for _, item in pairs]
        self._check(*items)
        self.clear()
        for place, item in enumerate(items):
            name = pairs[place][0]
            self._place(name if name and not name.isdigit() else str(place), item)

    def _place(self, key: str, item: Any) -> None:
        """Put an item; one with a name is an attribute, too."""
        self._put(key, item)
        if not key.isdigit():
            self._shadow(key, self._table[key])


def _unnamed(items: Iterable[Any]) -> list[tuple[str, Any]]:
    """Return items in pairs with the name that they do not have."""
    return [("", item) for item in items]


class _DictOf(_Container[Held]):
    """What the dicts share; each item is registered under its key."""

    def __init__(
        self, items: Mapping[str, Held] | Iterable[tuple[str, Held]] = ()
    ) -> None:
        super().__init__()
        self.update(items)

    def update(
        self,
        items: Mapping[str, Held] | Iterable[tuple[str, Held]] = (),
        /,
        **more: Held,
    ) -> None:
        """Put all items of a mapping or of pairs; none if one of them is wrong."""
        new = {k: self._taken(v) for k, v in {**dict(items), **more}.items()}
        for key in new:
            self._check_key(key)
        self._check(*new.values())
        for key, value in new.items():
            self._put(key, value)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the item under `key`, or `default`."""
        return self._table.get(key, default)

    def setdefault(self, key: str, default: Held) -> Held:
        """Return the item under `key`, which is `default` if there was none."""
        if key not in self._table:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        """Remove and return the item under `key`; `default` if there is none."""
        if key not in self._table and default:
            return default[0]
        item = self[key]
        self._unregister(key)
        return item

    def __getitem__(self, key: str) -> Held:
        if key not in self._table:
            names = known_names(str(key), self._table)
            raise KeyError(f"no {key!r} in {type(self).__name__}; {names}")
        return self._table[key]

    def __setitem__(self, key: str, value: Held) -> None:
        self._put(key, value)

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._table))

    def __contains__(self, key: object) -> bool:
        return key in self._table

    def keys(self) -> list[str]:
        """The keys, in order."""
        return list(self._table)

    def values(self) -> list[Held]:
        """The items, in order."""
        return list(self._table.values())

    def items(self) -> list[tuple[str, Held]]:
        """Pairs of key and item, in order."""
        return list(self._table.items())


class ModuleList(_ListOf[InferenceModule]):
    """A list of modules, each registered under its index.

    Args:
        items: The modules.

    Raises:
        ModuleError: If an item is not an `InferenceModule`.
    """

    _kind = InferenceModule


class ParameterList(_ListOf[Parameter]):
    """A list of parameters, each registered under its index.

    Args:
        items: The parameters; a text becomes one.

    Raises:
        ModuleError: If an item is not a `Parameter`.
    """

    _kind = Parameter

    def __init__(self, items: Iterable[Parameter | str] = ()) -> None:
        super().__init__(cast("Iterable[Parameter]", items))


class ModuleDict(_DictOf[InferenceModule]):
    """A dict of modules, each registered under its key.

    Args:
        items: A mapping or pairs; keys are non-empty str without dots.

    Raises:
        ModuleError: If a key or an item is of another kind.
    """

    _kind = InferenceModule


class ParameterDict(_DictOf[Parameter]):
    """A dict of parameters, each registered under its key.

    Args:
        items: A mapping or pairs; keys are non-empty str without dots, and a text
            becomes a parameter.

    Raises:
        ModuleError: If a key or an item is of another kind.
    """

    _kind = Parameter

    def __init__(
        self,
        items: Mapping[str, Parameter | str]
        | Iterable[tuple[str, Parameter | str]] = (),
    ) -> None:
        super().__init__(cast("Mapping[str, Parameter]", items))


class Sequential(_ListOf[InferenceModule]):
    """Modules called one after the other, each with the output of the one before.

    Args:
        modules: The steps, in order, or one dict of them that gives each its name.
            The first takes all arguments of the call.

    Example:
        >>> from inf_engine import LLMInference
        >>> Sequential({"draft": LLMInference("fast")}).draft.alias
        'fast'
    """

    _kind = InferenceModule

    def __init__(
        self, *modules: InferenceModule | Mapping[str, InferenceModule]
    ) -> None:
        steps: Any = modules
        if len(modules) != 1 or not isinstance(modules[0], Mapping):
            super().__init__(steps)
            return
        super().__init__()
        steps = dict(modules[0])
        for key in steps:
            self._check_key(key)
            self._check_attribute(key)
        self._refill(list(steps.items()))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the last step; without steps, the single argument."""
        if not self:
            if kwargs or len(args) != 1:
                raise ModuleError(
                    "a Sequential without steps returns its argument, so it takes one "
                    f"by position; it was called with {len(args)} and the keywords "
                    f"{sorted(kwargs)}."
                )
            return args[0]
        first, *rest = self
        value = first(*args, **kwargs)
        for step in rest:
            value = step(value)
        return value
