"""A parameter is a described text: it checks its value and collects feedback."""

import copy
import gc
import json
import pickle
from enum import Enum

import pytest

from inf_engine import (
    InferenceModule,
    ModuleList,
    Parameter,
    ParameterError,
    ParameterList,
    ParameterTypeError,
    ParameterValueError,
)
from inf_engine.dispatch import dispatcher


class Block(InferenceModule):
    """A module with nothing of its own."""


class Color(str, Enum):  # noqa: UP042 - its str() is not its text
    RED = "red"


def test_a_parameter_is_a_described_text_that_may_be_trained() -> None:
    """Value, description and requires_grad are what was given; training is on."""
    style = Parameter("Be brief.", description="how answers are written")
    assert style.value == "Be brief."
    assert style.description == "how answers are written"
    assert Parameter("x", "short").description == "short"
    assert style.requires_grad
    assert not Parameter("x", requires_grad=False).requires_grad
    assert style.feedback == []


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["list"], Parameter("nested")])
def test_a_value_that_is_not_text_is_refused(value: object) -> None:
    """A non-string value is a ParameterTypeError, also a TypeError."""
    kind = type(value).__name__
    with pytest.raises(ParameterTypeError, match=f"must be a str, not {kind}") as info:
        Parameter(value)  # ty: ignore[invalid-argument-type]
    assert isinstance(info.value, (ParameterError, TypeError))


@pytest.mark.parametrize("value", ["", " ", "\n\t "])
def test_an_empty_value_is_refused(value: str) -> None:
    """An empty or blank value is a ParameterValueError, also a ValueError."""
    with pytest.raises(ParameterValueError, match="must not be empty") as info:
        Parameter(value)
    assert isinstance(info.value, (ParameterError, ValueError))


def test_a_description_that_is_not_text_is_refused() -> None:
    """The description has to be a str."""
    with pytest.raises(ParameterTypeError, match="description .* must be a str"):
        Parameter("x", description=3)  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize("bad", ["", None])
def test_setting_a_bad_value_keeps_the_old_one_and_names_the_parameter(
    bad: str,
) -> None:
    """Every way to set a value checks it; the message says which parameter."""
    block = Block()
    block.style = Parameter("old")
    block.style.accumulate_feedback("note")
    for change in (
        lambda: setattr(block.style, "value", bad),
        lambda: block.style.apply_update(bad),
    ):
        with pytest.raises(ParameterError, match="parameter 'style' must"):
            change()
    assert block.style.value == "old"
    assert block.style.feedback == ["note"]


def test_the_value_is_plain_text_whatever_str_it_came_as() -> None:
    """A str subclass or str Enum leaves its text, so that state is plain JSON."""
    value = Parameter(Color.RED).value
    assert type(value) is str
    assert value == "red"


def test_feedback_is_collected_in_order_and_cleared() -> None:
    """accumulate_feedback appends, zero_feedback empties, the value stays."""
    style = Parameter("x")
    style.accumulate_feedback("a")
    style.accumulate_feedback({"score": 1})
    assert style.feedback == ["a", {"score": 1}]
    style.feedback.clear()  # a copy
    assert len(style.feedback) == 2
    style.zero_feedback()
    assert style.feedback == []
    assert style.value == "x"


def test_an_update_replaces_the_value_and_clears_the_feedback() -> None:
    """apply_update is the optimizer's road to a new value."""
    style = Parameter("x")
    style.accumulate_feedback("a")
    style.apply_update("y")
    assert style.value == "y"
    assert style.feedback == []


def test_a_frozen_parameter_takes_neither_feedback_nor_updates() -> None:
    """Feedback is ignored, an update is refused; requires_grad_ thaws it."""
    style = Parameter("x", requires_grad=False)
    style.accumulate_feedback("a")
    assert style.feedback == []
    with pytest.raises(ParameterValueError, match=r"frozen .* requires_grad_\(\)"):
        style.apply_update("y")
    assert style.value == "x"
    style.requires_grad_().apply_update("y")
    assert style.value == "y"


def test_setting_the_value_keeps_the_feedback() -> None:
    """Only apply_update and zero_feedback clear the buffer."""
    style = Parameter("x")
    style.accumulate_feedback("a")
    style.value = "y"
    assert style.feedback == ["a"]


# -- names ----------------------------------------------------------------------------


def test_the_name_is_the_path_in_the_outermost_module() -> None:
    """A name grows as modules are put into each other."""
    style = Parameter("x")
    assert style.name == ""
    inner, middle, outer = Block(), Block(), Block()
    inner.style = style
    assert style.name == "style"
    middle.steps = ModuleList([inner])
    assert style.name == "steps.0.style"
    outer.main = middle
    assert style.name == "main.steps.0.style"


def test_a_shared_parameter_has_one_name_and_is_yielded_once() -> None:
    """The first path in order names it; both modules see the same object."""
    outer = Block()
    outer.a, outer.b = Block(), Block()
    outer.a.style = outer.b.style = style = Parameter("x")
    assert list(outer.named_parameters()) == [("a.style", style)]
    assert style.name == "a.style"


def test_a_parameter_that_leaves_one_holder_is_named_by_the_other() -> None:
    """Delete, overwrite and the death of a holder pass the name on."""
    block, other = Block(), Block()
    block.first = block.second = other.third = style = Parameter("x")
    del block.first
    assert style.name == "second"
    block.second = "a plain value"
    assert style.name == "third"
    del other
    gc.collect()
    assert style.name == ""


def test_the_name_survives_when_its_first_holder_dies() -> None:
    """A name never keeps a module alive, and never gets stuck on a dead one."""
    style = Parameter("x")
    lasting = Block()
    for _ in range(3):
        Block().temporary = style
    lasting.style = style
    gc.collect()
    assert style.name == "style"
    assert len(style._holders_left()) == 1


def test_names_end_in_cycles_of_modules() -> None:
    """A child that knows its parent does not make the name endless."""
    parent, child = Block(), Block()
    parent.child = child
    child.parent = parent
    child.style = Parameter("x")
    assert child.style.name == "child.style"


def test_a_parameter_list_names_by_index() -> None:
    """Names follow the keys of containers."""
    block = Block()
    block.rules = ParameterList([Parameter("a"), Parameter("b")])
    assert [rule.name for rule in block.rules] == ["rules.0", "rules.1"]


# -- text and copies ------------------------------------------------------------------


def test_outside_of_a_forward_it_formats_as_its_value() -> None:
    """str, f-strings and format specs see the text."""
    style = Parameter("Be brief.")
    assert dispatcher.get() is None
    assert f"{style} {style:>10}" == "Be brief.  Be brief."
    assert str(style) == "Be brief."


def test_the_repr_is_short_and_says_when_it_is_frozen() -> None:
    """Long values are cut; requires_grad=False is shown."""
    assert repr(Parameter("x")) == "Parameter('x')"
    frozen = Parameter("x" * 100, requires_grad=False)
    assert repr(frozen) == f"Parameter('{'x' * 57}...', requires_grad=False)"


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_a_copy_has_its_own_value_and_feedback_and_no_holder(copied) -> None:
    """Copies share nothing that changes, and belong to no module."""
    block = Block()
    block.style = Parameter("x", description="d", requires_grad=True)
    block.style.accumulate_feedback("a")
    twin = copied(block.style)
    assert (twin.value, twin.description, twin.feedback) == ("x", "d", ["a"])
    assert twin.name == ""
    twin.apply_update("y")
    assert block.style.value == "x"
    assert block.style.feedback == ["a"]


def test_parameters_compare_by_identity() -> None:
    """Two parameters of the same text are two parameters."""
    assert Parameter("x") != Parameter("x")
    assert len({Parameter("x"), Parameter("x")}) == 2


def test_the_state_of_a_parameter_is_json() -> None:
    """What a state dict holds of it goes through JSON unchanged."""
    block = Block()
    block.style = Parameter("naïve ✓\n")
    assert json.loads(json.dumps(block.state_dict())) == {"style": "naïve ✓\n"}
