"""`map_leaves` by example: what is a container, what is a leaf, what is shared."""

import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from enum import Enum
from typing import Any, ClassVar, NamedTuple

import pytest
from pydantic import BaseModel, ConfigDict

from inf_engine import LLMInference, Parameter
from inf_engine.tree import map_leaves


class Hole:
    """A leaf that is replaced."""

    def __repr__(self) -> str:
        return "hole"


def fill(leaf: Any) -> Any:
    """Replace holes, leave everything else."""
    return "filled" if isinstance(leaf, Hole) else leaf


class Point(NamedTuple):
    x: Any
    y: Any = 0


class Tagged(tuple[Any, ...]):
    """A tuple with an attribute."""

    tag: str = ""


class Named(list[Any]):
    """A list with an attribute."""

    name: str = ""


class Color(str, Enum):  # noqa: UP042 - its str() is not its text
    RED = "red"


class Text(str):
    """A str of its own kind."""


@dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: Any = None


@dataclass
class Late:
    a: Any
    start: InitVar[int] = 0
    calls: ClassVar[int] = 0
    b: Any = field(init=False)
    c: Any = field(init=False)

    def __post_init__(self, start: int) -> None:
        self.b = [self.a, start]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True)
    a: Any
    b: str = "b"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Hole(), "filled"),
        ([Hole(), 1], ["filled", 1]),
        ((Hole(), (1, Hole())), ("filled", (1, "filled"))),
        ({"k": Hole(), 2: [Hole()]}, {"k": "filled", 2: ["filled"]}),
        ({Color.RED: 1}, {Color.RED: 1}),
        (Point(Hole()), Point("filled")),
        (OrderedDict(b=1, a=Hole()), OrderedDict(b=1, a="filled")),
        (Counter("aab"), Counter("aab")),
        (Frozen(Hole(), b=[Hole()]), Frozen("filled", b=["filled"])),
        (frozenset([1, 2]), frozenset([1, 2])),
        ({1, 2}, {1, 2}),
        (Model.model_construct(a=Hole()), Model(a="filled")),
        (Model(a=[Hole()]), Model(a=["filled"])),
    ],
)
def test_leaves_are_replaced_and_the_structure_kept(value: Any, expected: Any) -> None:
    """Equal to what was expected, and of the same type."""
    result = map_leaves(fill, value)
    assert result == expected
    assert type(result) is type(expected)


def test_keys_of_a_dict_are_leaves_too() -> None:
    """In order: the key, then its value."""
    hole = Hole()
    assert map_leaves(fill, {hole: 1, (hole,): 2}) == {"filled": 1, ("filled",): 2}


def test_items_of_a_set_are_leaves_too() -> None:
    """The result is a set of the same kind."""
    assert map_leaves(fill, {Hole(), 1}) == {"filled", 1}
    assert map_leaves(fill, frozenset([Hole()])) == frozenset(["filled"])


def test_subclasses_keep_what_they_carry() -> None:
    """The factory of a defaultdict, the attributes of lists and tuples."""
    held: defaultdict[str, Any] = defaultdict(list, a=Hole())
    table = map_leaves(fill, held)
    assert table.default_factory is list
    assert table == {"a": "filled"}
    named, tagged = Named([Hole()]), Tagged([Hole()])
    named.name = tagged.tag = "n"
    assert (map_leaves(fill, named), map_leaves(fill, named).name) == (["filled"], "n")
    result = map_leaves(fill, tagged)
    assert (type(result), result, result.tag) == (Tagged, ("filled",), "n")


def test_a_dataclass_is_copied_without_its_constructor() -> None:
    """Fields that init leaves out are walked, unset ones left unset."""
    late = Late(Hole(), 7)
    result = map_leaves(fill, late)
    assert (result.a, result.b) == ("filled", ["filled", 7])
    assert not hasattr(result, "c")
    assert isinstance(late.a, Hole)


@pytest.mark.parametrize("value", [Frozen(1, [2, {3}]), Late(1), Model(a=[(1,)])])
def test_an_object_without_a_change_is_itself(value: Any) -> None:
    """Its identity is kept when nothing in it was replaced."""
    assert map_leaves(fill, value) is value


@pytest.mark.parametrize(
    "leaf",
    [
        "text",
        Text("text"),
        Color.RED,
        3.5,
        b"bytes",
        None,
        deque([1]),
        range(3),
        object(),
        Frozen,
        Parameter("x"),
        LLMInference(alias="a"),
    ],
)
def test_everything_else_is_a_leaf(leaf: Any) -> None:
    """It is passed to the function as it is, and stays itself."""
    seen: list[Any] = []
    map_leaves(seen.append, leaf)
    assert len(seen) == 1
    assert seen[0] is leaf
    assert map_leaves(fill, [leaf])[0] is leaf


def test_a_tuple_of_the_interpreter_stays_itself() -> None:
    """Struct sequences cannot be built anew, and need not be."""
    now = time.gmtime(0)
    assert map_leaves(fill, now) is now


def test_lists_dicts_and_sets_are_new() -> None:
    """So the result is a snapshot."""
    value: dict[str, Any] = {"list": [1], "set": {1}, "tuple": ([1],)}
    result = map_leaves(fill, value)
    value["list"].append(2)
    value["set"].add(2)
    value["tuple"][0].append(2)
    value["new"] = 1
    assert result == {"list": [1], "set": {1}, "tuple": ([1],)}


def test_what_is_shared_stays_shared() -> None:
    """One list at two places is one new list at both; so are dicts and objects."""
    shared, thing = [Hole()], Frozen(Hole())
    table = {"k": shared}
    a, b, c, d, e = map_leaves(fill, [shared, shared, table, thing, thing])
    assert a is b is c["k"] is not shared
    assert d is e is not thing


def test_equal_things_are_not_taken_for_shared() -> None:
    """Only identity counts, also for values made while they are walked."""

    class Fresh(Named):
        def __iter__(self) -> Iterator[Any]:
            return iter([[number] for number in range(3)])

    assert map_leaves(fill, Fresh([0, 0, 0])) == Named([[0], [1], [2]])[:]
    a, b = map_leaves(fill, [[1], [1]])
    assert a is not b


def test_a_value_that_holds_itself_ends() -> None:
    """Lists, dicts and objects may be in themselves."""
    loop: list[Any] = [1]
    loop.append({"again": loop})
    result = map_leaves(fill, loop)
    assert result is not loop
    assert result[1]["again"] is result
    node = Late([])
    node.a.append(node)
    assert map_leaves(fill, node) is node
