"""Lists and dicts of modules and parameters that register what they hold."""

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
        if not isinstance(value, self._kind):
            raise ModuleError(
                f"{type(self).__name__} holds {self._kind.__name__} objects, not "
                f"{type(value).__name__} (at key {key!r})."
            )
        setattr(self, key, value)

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
    def __init__(self, items: Iterable[Held] = ()) -> None:
        super().__init__()
        self.extend(items)

    def append(self, item: Held) -> Self:
        """Add an item at the end and return the list."""
        self._put(str(len(self)), item)
        return self

    def extend(self, items: Iterable[Held]) -> Self:
        """Add items at the end and return the list."""
        for item in items:
            self.append(item)
        return self

    def insert(self, index: int, item: Held) -> None:
        """Insert an item before `index`, as list does."""
        items = list(self)
        items.insert(index, item)
        self._refill(items)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._table.values()))

    @overload
    def __getitem__(self, index: int) -> Held: ...
    @overload
    def __getitem__(self, index: slice) -> list[Held]: ...
    def __getitem__(self, index: int | slice) -> Held | list[Held]:
        """Return the item at `index`, or a plain list of those in a slice."""
        return list(self._table.values())[index]

    def __setitem__(self, index: int, item: Held) -> None:
        key = str(range(len(self))[index])
        self._put(key, item)

    def __delitem__(self, index: int | slice) -> None:
        items = list(self)
        del items[index]
        self._refill(items)

    def _refill(self, items: list[Held]) -> None:
        for key in list(self._table):
            self._unregister(key)
        self.extend(items)


class _DictOf(_Container[Held]):
    def __init__(
        self, items: Mapping[str, Held] | Iterable[tuple[str, Held]] = ()
    ) -> None:
        super().__init__()
        self.update(items)

    def update(self, items: Mapping[str, Held] | Iterable[tuple[str, Held]]) -> None:
        """Put all items of a mapping or of pairs."""
        for key, value in dict(items).items():
            self[key] = value

    def __getitem__(self, key: str) -> Held:
        if key not in self._table:
            names = known_names(key, self._table)
            raise KeyError(f"no {key!r} in {type(self).__name__}; {names}")
        return self._table[key]

    def __setitem__(self, key: str, value: Held) -> None:
        if not isinstance(key, str):
            raise ModuleError(
                f"the keys of {type(self).__name__} are str, not {type(key).__name__}: "
                "they are part of dotted names."
            )
        if hasattr(type(self), key):
            raise ModuleError(
                f"{key!r} cannot be a key of {type(self).__name__}: it is the name of "
                "one of its methods."
            )
        self._put(key, value)

    def __delitem__(self, key: str) -> None:
        self[key]
        self._unregister(key)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._table))

    def __contains__(self, key: object) -> bool:
        return key in self._table

    def keys(self) -> Iterable[str]:
        """The keys, in order."""
        return list(self._table)

    def values(self) -> Iterable[Held]:
        """The items, in order."""
        return list(self._table.values())

    def items(self) -> Iterable[tuple[str, Held]]:
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
        items: The parameters.

    Raises:
        ModuleError: If an item is not a `Parameter`.
    """

    _kind = Parameter


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
        items: A mapping or pairs; keys are non-empty str without dots.

    Raises:
        ModuleError: If a key or an item is of another kind.
    """

    _kind = Parameter


class Sequential(_ListOf[InferenceModule]):
    """Modules called one after the other, each with the output of the one before.

    Args:
        modules: The steps, in order. The first takes all arguments of the call.
    """

    _kind = InferenceModule

    def __init__(self, *modules: InferenceModule) -> None:
        super().__init__(modules)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the last step; without steps, the single argument."""
        if not self:
            (value,) = args
            return value
        first, *rest = self
        value = first(*args, **kwargs)
        for step in rest:
            value = step(value)
        return value
