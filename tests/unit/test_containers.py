"""Containers register what they hold and otherwise behave as list and dict do."""

import copy
import pickle
from typing import Any

import pytest

from inf_engine import (
    InferenceModule,
    LLMInference,
    ModuleDict,
    ModuleError,
    ModuleList,
    Parameter,
    ParameterDict,
    ParameterList,
    ParameterValueError,
    Sequential,
)


class Say(InferenceModule):
    """Adds a word."""

    def __init__(self, word: str = "") -> None:
        super().__init__()
        self.word = Parameter(word or "x")

    def forward(self, text: str) -> str:
        return f"{text} {self.word}".strip()


def items(kind: type, count: int = 3) -> list[Any]:
    """Return fresh things that a container of a kind may hold."""
    make = Parameter if kind in (ParameterList, ParameterDict) else Say
    return [make(str(number)) for number in range(count)]


def build(kind: Any, held: Any) -> Any:
    """Return a list container of a kind."""
    return kind(*held) if kind is Sequential else kind(held)


def keys(container: Any) -> list[str]:
    """Return the keys under which everything in a container is registered."""
    return [*container._modules, *container._parameters]


LISTS = [ModuleList, ParameterList, Sequential]
DICTS = [ModuleDict, ParameterDict]


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_reads_as_a_list(kind: Any) -> None:
    """Length, order, indices from both ends, membership and truth."""
    a, b, c = held = items(kind)
    box = build(kind, held)
    assert len(box) == 3
    assert list(box) == held
    assert box[0] is a
    assert box[-1] is c
    assert b in box
    assert Parameter("0") not in box
    assert list(reversed(box)) == [c, b, a]
    assert keys(box) == ["0", "1", "2"]
    assert not build(kind, [])
    assert bool(box)


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize(
    "change",
    [
        lambda box, x: box.append(x),
        lambda box, x: box.extend([x, x]),
        lambda box, x: box.insert(1, x),
        lambda box, x: box.insert(-1, x),
        lambda box, x: box.insert(99, x),
        lambda box, x: box.pop(),
        lambda box, x: box.pop(0),
        lambda box, x: box.__setitem__(1, x),
        lambda box, x: box.__setitem__(-1, x),
        lambda box, x: box.__setitem__(slice(0, 2), [x]),
        lambda box, x: box.__delitem__(0),
        lambda box, x: box.__delitem__(slice(1, None)),
        lambda box, x: box.__iadd__([x]),
        lambda box, x: box.clear(),
    ],
)
def test_a_list_changes_as_a_list(kind: Any, change: Any) -> None:
    """After each change items and keys are those of a plain list."""
    held, new = items(kind), items(kind, 1)[0]
    box = build(kind, held)
    change(box, new)
    change(held, new)
    assert list(box) == held
    assert keys(box) == [str(place) for place in range(len(held))]


@pytest.mark.parametrize("kind", LISTS)
def test_slices_and_sums_are_containers_of_the_same_kind(kind: Any) -> None:
    """They hold the same items; the original stays as it was."""
    a, b, c = held = items(kind)
    box = build(kind, held)
    part, both = box[:2], box + [a]
    assert type(part) is type(both) is kind
    assert list(part) == [a, b]
    assert list(both) == [a, b, c, a]
    assert list(box) == held
    assert build(kind, [a]).append(b)[1] is b


def test_a_slice_of_a_subclass_keeps_what_its_forward_needs() -> None:
    """It is a copy with fewer items, its constructor is not called."""

    class Loud(Sequential):
        def __init__(self, mark: str, *steps: InferenceModule) -> None:
            super().__init__(*steps)
            self.mark = mark

        def forward(self, text: str) -> str:
            return super().forward(text) + self.mark

    assert Loud("!", Say("a"), Say("b"))[:1]("x") == "x a!"


@pytest.mark.parametrize("kind", LISTS)
def test_an_index_out_of_range_is_an_index_error(kind: Any) -> None:
    """And the list stays as it was."""
    box = build(kind, items(kind, 1))
    for change in (
        lambda: box[1],
        lambda: box.__setitem__(5, items(kind, 1)[0]),
        lambda: box.pop(3),
        lambda: box.__delitem__(3),
    ):
        with pytest.raises(IndexError, match="out of range"):
            change()
    assert len(box) == 1


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("bad", ["text", None, [], "other kind"])
def test_a_list_refuses_what_it_does_not_hold(kind: Any, bad: Any) -> None:
    """Whatever the operation, nothing has changed after it."""
    held = items(kind)
    if bad == "other kind":
        bad = Say() if kind is ParameterList else Parameter("x")
    if kind is ParameterList and bad == "text":
        bad = b"text"  # a str would become a parameter
    box = build(kind, held)
    message = f"{kind.__name__} holds \\w+ objects, not {type(bad).__name__}"
    for change in (
        lambda: build(kind, [bad]),
        lambda: box.append(bad),
        lambda: box.extend([held[0], bad]),
        lambda: box.insert(0, bad),
        lambda: box.__setitem__(0, bad),
        lambda: box.__iadd__([bad]),
    ):
        with pytest.raises(ModuleError, match=message):
            change()
    assert list(box) == held


@pytest.mark.parametrize("kind", DICTS)
def test_a_dict_reads_as_a_dict(kind: Any) -> None:
    """Keys, values, items, membership, get, and a KeyError that lists the keys."""
    a, b, c = items(kind)
    plain = {"fast": a, "slow": b, "train": c}
    box = kind(plain)
    assert list(box) == box.keys() == list(plain) == keys(box)
    assert box.values() == [a, b, c]
    assert box.items() == list(plain.items())
    assert dict(box.items()) == {**box} == plain
    assert len(box) == 3
    assert "slow" in box
    assert "gone" not in box
    assert box["train"] is c
    assert box.fast is a
    assert box.get("slow") is b
    assert box.get("gone") is None
    assert box.get("gone", 1) == 1
    with pytest.raises(KeyError, match=r"no 'fats' .*known: fast, slow, train .*fast"):
        box["fats"]
    assert not kind()


@pytest.mark.parametrize("kind", DICTS)
@pytest.mark.parametrize(
    "change",
    [
        lambda box, x: box.__setitem__("new", x),
        lambda box, x: box.__setitem__("a", x),
        lambda box, x: box.__delitem__("a"),
        lambda box, x: box.update({"b": x, "c": x}),
        lambda box, x: box.update([("b", x)]),
        lambda box, x: box.update(b=x, d=x),
        lambda box, x: box.setdefault("a", x),
        lambda box, x: box.setdefault("new", x),
        lambda box, x: box.pop("a"),
        lambda box, x: box.pop("gone", None),
        lambda box, x: box.clear(),
    ],
)
def test_a_dict_changes_as_a_dict(kind: Any, change: Any) -> None:
    """After each change keys, order and answer are those of a plain dict."""
    plain = dict(zip("abc", items(kind), strict=True))
    box, new = kind(plain), items(kind, 1)[0]
    assert change(box, new) is change(plain, new)
    assert box.items() == list(plain.items())
    assert keys(box) == list(plain)


@pytest.mark.parametrize("kind", DICTS)
@pytest.mark.parametrize("key", ["", "a.b", 3, None])
def test_a_dict_refuses_keys_that_cannot_be_in_a_name(kind: Any, key: Any) -> None:
    """Nothing is put when one key is bad."""
    good, bad = items(kind, 2)
    box = kind()
    with pytest.raises(ModuleError, match="a key is a str, not empty and without dots"):
        box.update({"good": good, key: bad})
    with pytest.raises(ModuleError, match="a key is a str, not empty and without dots"):
        box[key] = bad
    assert not box


@pytest.mark.parametrize("kind", DICTS)
def test_a_dict_refuses_what_it_does_not_hold(kind: Any) -> None:
    """Nothing is put when one value is bad."""
    box = kind()
    with pytest.raises(ModuleError, match=f"{kind.__name__} holds .* not int"):
        box.update({"good": items(kind, 1)[0], "bad": 5})
    assert not box
    for gone in (lambda: box.pop("gone"), lambda: box.__delitem__("gone")):
        with pytest.raises(KeyError, match="no 'gone'"):
            gone()


@pytest.mark.parametrize("kind", DICTS)
def test_a_key_may_be_the_name_of_a_method(kind: Any) -> None:
    """Keys are data: the method stays, and the item is there by its key."""
    held = items(kind, 2)
    box = kind({"items": held[0], "_modules": held[1]})
    assert box["items"] is held[0]
    assert box.items() == [("items", held[0]), ("_modules", held[1])]


def test_everything_in_containers_is_found_and_named() -> None:
    """Walks and state see through containers, nested ones too."""
    top = Say("top")
    top.steps = ModuleList([Say("a"), ModuleDict({"in": Say("b")})])
    top.rules = ParameterDict({"r": Parameter("c")})
    top.notes = ParameterList([Parameter("d")])
    assert top.state_dict() == {
        "word": "top",
        "steps.0.word": "a",
        "steps.1.in.word": "b",
        "rules.r": "c",
        "notes.0": "d",
    }
    assert top.get_submodule("steps.1.in").word.name == "steps.1.in.word"


def test_removing_from_a_list_renames_what_follows() -> None:
    """Names follow the index."""
    box = ModuleList([Say("a"), Say("b")])
    last = box[1]
    del box[0]
    assert last.word.name == "0.word"


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
@pytest.mark.parametrize("kind", [*LISTS, *DICTS])
def test_containers_copy_with_sharing(kind: Any, copied: Any) -> None:
    """One item at two places stays one item."""
    item = items(kind, 1)[0]
    is_dict = kind in DICTS
    box = kind({"0": item, "1": item}) if is_dict else build(kind, [item, item])
    twin = copied(box)
    first, second = twin.values() if is_dict else list(twin)
    assert first is second is not item


@pytest.mark.parametrize("kind", [ModuleList, ParameterList, ModuleDict, ParameterDict])
def test_a_container_is_not_a_step(kind: Any) -> None:
    """Calling it says what to do instead."""
    with pytest.raises(
        ModuleError, match=f"{kind.__name__} is not callable: loop over"
    ):
        kind()("text")


def test_a_subclass_that_forgets_its_base_says_so() -> None:
    """As every module does."""

    class Forgot(ModuleList):
        def __init__(self) -> None:
            pass

    with pytest.raises(ModuleError, match=r"Forgot was used before super\(\)"):
        Forgot().append(Say())


def test_sequential_feeds_each_step_with_the_one_before() -> None:
    """The first step takes all arguments of the call."""

    class Join(InferenceModule):
        def forward(self, left: str, *, right: str) -> str:
            return f"{left}+{right}"

    assert Sequential(Join(), Say("a"), Say("b"))("x", right="y") == "x+y a b"
    nested = Sequential(Sequential(Say("a")), Say("b"))
    assert nested("x") == "x a b"


def test_an_empty_sequential_gives_its_argument_back() -> None:
    """It takes exactly one."""
    assert Sequential()("x") == "x"
    with pytest.raises(ModuleError, match=r"called with 0 and the keywords \['text'\]"):
        Sequential()(text="x")
    with pytest.raises(ModuleError, match="called with 2"):
        Sequential()("x", "y")


def test_sequential_refuses_a_list() -> None:
    """Steps are arguments, not a list."""
    with pytest.raises(ModuleError, match="Sequential holds .* not list"):
        Sequential([Say()])  # ty: ignore[invalid-argument-type]


def test_sequential_takes_named_steps() -> None:
    """A dict gives the names, which stay with the steps, and are attributes."""
    a, b, c = Say("a"), Say("b"), Say("c")
    steps = Sequential({"first": a, "then": b, "2": c})
    assert steps("x") == "x a b c"
    assert keys(steps) == ["first", "then", "2"]
    assert steps.then is b
    assert steps.get_submodule("first") is a
    assert keys(steps[1:]) == ["then", "1"]
    steps.insert(0, Say("new"))
    assert keys(steps) == ["0", "first", "then", "3"]
    steps[1] = c
    assert steps.first is c
    assert keys(steps.append(a)) == ["0", "first", "then", "3", "4"]
    del steps[1]
    assert not hasattr(steps, "first")
    with pytest.raises(ModuleError, match="Sequential holds .* not str"):
        Sequential({"a": "text"})  # ty: ignore[invalid-argument-type]
    with pytest.raises(ModuleError, match="forward"):
        Sequential({"forward": a})


def test_text_becomes_a_parameter_where_parameters_are_held() -> None:
    """Wherever it is put; nothing is put when one text is empty."""
    texts = ParameterList(["a", Parameter("b")])
    texts.append("c")  # ty: ignore[invalid-argument-type]
    texts[0] = "A"
    texts.insert(1, "new")  # ty: ignore[invalid-argument-type]
    assert [p.value for p in texts] == ["A", "new", "b", "c"]
    named = ParameterDict({"k": "text"})
    named["l"] = "more"  # ty: ignore[invalid-assignment]
    assert {k: p.value for k, p in named.items()} == {"k": "text", "l": "more"}
    with pytest.raises(ParameterValueError, match="must not be empty"):
        named.update({"m": "fine", "n": " "})  # ty: ignore[invalid-argument-type]
    assert "m" not in named
    with pytest.raises(ModuleError, match="ModuleList holds .* not str"):
        ModuleList(["text"])  # ty: ignore[invalid-argument-type]


def test_the_repr_shows_the_keys() -> None:
    """Containers are lines of the tree as all modules are."""
    box = ModuleDict({"fast": LLMInference(alias="a")})
    assert repr(box) == "ModuleDict(\n  (fast): LLMInference(alias='a')\n)"
