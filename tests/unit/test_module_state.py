"""What a module saves, loads, and gives to its copies."""

import copy
import gc
import pickle
from typing import Any

import pytest

from inf_engine import (
    InferenceModule,
    LLMInference,
    Parameter,
    ParameterError,
    ParameterList,
    StateDictError,
)


class Block(InferenceModule):
    """A module with nothing of its own."""

    def forward(self, text: str) -> str:
        return text.upper()


class Pair(InferenceModule):
    """Two children and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.style = Parameter("Be brief.")
        self.left = Block()
        self.right = Block()


def test_state_goes_into_another_instance() -> None:
    """What one module saved, another one of the class loads; keys tell what not."""
    source, target = Pair(), Pair()
    source.style.value = "new"
    assert target.load_state_dict(source.state_dict()) == ([], [])
    assert target.style.value == "new"


def test_strict_loading_names_what_does_not_fit() -> None:
    """Missing and unexpected names are listed, and nothing is written."""
    pair = Pair()
    pair.more = Parameter("more")
    with pytest.raises(StateDictError, match=r"missing \['more'\], unexpected \['x'\]"):
        pair.load_state_dict({"style": "new", "x": "y"})
    assert pair.style.value == "Be brief."
    with pytest.raises(StateDictError, match=r"unexpected \['x'\]"):
        pair.load_state_dict({**pair.state_dict(), "x": "y"})


def test_loading_without_strict_returns_what_did_not_fit() -> None:
    """What fits is written."""
    pair = Pair()
    pair.more = Parameter("more")
    keys = pair.load_state_dict({"style": "new", "x": "y"}, strict=False)
    assert keys.missing_keys == ["more"]
    assert keys.unexpected_keys == ["x"]
    assert pair.style.value == "new"


@pytest.mark.parametrize("bad", ["", 3, None])
def test_nothing_is_written_when_one_value_is_bad(bad: Any) -> None:
    """The message names the parameter; the good values are not written either."""
    pair = Pair()
    pair.more = Parameter("more")
    with pytest.raises(ParameterError, match="parameter 'more' must"):
        pair.load_state_dict({"style": "new", "more": bad})
    assert pair.style.value == "Be brief."


@pytest.mark.parametrize("state", [None, ["style"], "style"])
def test_a_state_that_is_no_dict_is_refused(state: Any) -> None:
    """With the fix."""
    with pytest.raises(StateDictError, match="a state is a dict of dotted names"):
        Pair().load_state_dict(state)


def test_a_class_defined_again_keeps_its_names() -> None:
    """Names hold no class names: a cell that runs twice loads its old state."""

    def define() -> type[InferenceModule]:
        class Cell(InferenceModule):
            def __init__(self) -> None:
                super().__init__()
                self.llm = LLMInference(alias="fast", system_prompt="List facts.")
                self.rules = ParameterList([Parameter("a")])

        return Cell

    first, again = define()(), define()()
    assert type(first) is not type(again)
    assert list(first.state_dict()) == ["llm.system_prompt", "rules.0"]
    assert again.load_state_dict(first.state_dict()) == ([], [])


# -- copies ---------------------------------------------------------------------------

COPIES = [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))]


@pytest.mark.parametrize("copied", COPIES)
def test_copies_keep_sharing_and_drop_the_binding(copied: Any) -> None:
    """One parameter at two places stays one; the engine stays with the original."""
    outer = Block()
    outer.a, outer.b = Pair(), Pair()
    outer.b.style = outer.a.style
    outer.eval().bind(object())
    twin = copied(outer)
    assert twin.a.style is twin.b.style is not outer.a.style
    assert twin._engine is None
    assert not twin.training
    assert twin("x") == "X"
    twin.a.style.value = "new"
    assert outer.a.style.value == "Be brief."
    assert twin.a.style.name == "a.style"


def test_a_copy_of_a_part_is_named_on_its_own() -> None:
    """A copied child knows nothing of the parent of the original."""
    outer = Block()
    outer.inner = Pair()
    assert copy.deepcopy(outer.inner).style.name == "style"
    assert outer.inner.style.name == "inner.style"


def test_a_shallow_copy_registers_for_itself() -> None:
    """It shares the children, and neither their table nor the binding."""
    pair = Pair()
    twin = copy.copy(pair)
    assert twin.left is pair.left
    twin.left = Block()
    twin.extra = Parameter("x")
    assert twin.left is not pair.left
    assert list(pair.state_dict()) == ["style"]


def test_modules_die_with_their_last_reference() -> None:
    """A name never keeps a holder alive."""
    style = Parameter("x")
    pair = Pair()
    pair.style = style
    del pair
    gc.collect()
    assert style.name == ""
