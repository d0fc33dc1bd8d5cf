"""`map_leaves` by Hypothesis: the structure of any nested value is kept exactly."""

from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from inf_engine.tree import map_leaves

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Plain:
    a: Any
    b: Any = field(init=False, default=0)


@dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: Any


class Box(list[Any]):
    """A list of its own kind."""


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=3)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return strategies for every kind of container around `inner`."""
    some = st.lists(inner, max_size=3)
    table = st.dictionaries(st.text(max_size=2), inner, max_size=3)
    return st.one_of(
        some,
        some.map(tuple),
        some.map(Box),
        table,
        table.map(OrderedDict),
        table.map(lambda items: defaultdict(list, items)),
        st.builds(Pair, inner, inner),
        st.builds(Plain, inner),
        st.builds(Frozen, inner, inner),
        st.sets(LEAVES, max_size=3),
        st.frozensets(LEAVES, max_size=3),
        st.dictionaries(st.text(max_size=2), st.integers(), max_size=3).map(Counter),
        inner.map(lambda item: [item, item]),
    )


VALUES = st.recursive(LEAVES, containers, max_leaves=12)


def shape(value: Any) -> Any:
    """Return a value that tells all types and leaves, in order."""
    kind = type(value)
    if isinstance(value, dict):
        return kind, [(shape(k), shape(v)) for k, v in value.items()]
    if isinstance(value, (set, frozenset)):
        return kind, sorted(map(repr, value))
    if isinstance(value, (list, tuple)):
        return kind, [shape(item) for item in value]
    if isinstance(value, (Plain, Frozen)):
        return kind, shape(value.a), shape(value.b)
    return kind, value


class Mark:
    """Stands in the place of a leaf."""

    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf


@given(VALUES)
def test_mapping_the_identity_changes_nothing(value: Any) -> None:
    """The result is equal, and of the same types all the way down."""
    result = map_leaves(lambda leaf: leaf, value)
    assert shape(result) == shape(value)


@given(VALUES)
def test_a_map_and_its_inverse_give_the_value_back(value: Any) -> None:
    """Every leaf is mapped, exactly where it stands; the original is left alone."""
    before = shape(value)
    marked = map_leaves(Mark, value)
    assert shape(value) == before
    assert shape(map_leaves(lambda mark: mark.leaf, marked)) == before


@given(VALUES)
def test_leaves_come_in_the_same_order_each_time(value: Any) -> None:
    """Nothing but the value decides the order."""
    seen: list[list[Any]] = [[], []]
    for leaves in seen:
        map_leaves(leaves.append, value)
    assert list(map(repr, seen[0])) == list(map(repr, seen[1]))


@given(st.lists(VALUES, max_size=3))
def test_a_result_is_a_snapshot(values: list[Any]) -> None:
    """Changing lists and dicts of the original does not reach it."""
    value = {"items": values, "tuple": (values,)}
    result = map_leaves(lambda leaf: leaf, value)
    before = shape(result)
    for item in values:
        if isinstance(item, (list, dict, set)):
            item.clear()
    values.append("new")
    assert shape(result) == before
