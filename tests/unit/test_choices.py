"""A choice is one of a few values; a model call uses the one that is chosen."""

import copy
import json
import pickle
from typing import Any

import pytest
from tests.integration.engine_helpers import virtually

from inf_engine import (
    Engine,
    InferenceModule,
    LLMInference,
    ModuleError,
    Parameter,
    ParameterTypeError,
    ParameterValueError,
)
from inf_engine.optimization.choices import ChoiceParameter
from inf_engine.testing import FunctionClient


class Desk(InferenceModule):
    """Each argument that may be a choice, and one that forward reads itself."""

    def __init__(self) -> None:
        super().__init__()
        self.samples = ChoiceParameter(1, [1, 3])
        self.tone = ChoiceParameter("kindly", ["kindly", "briefly"])
        self.llm = LLMInference(
            ChoiceParameter("fast", ["fast", "smart"]),
            ChoiceParameter("Be brief.", ["Be brief.", "Be kind."]),
            temperature=ChoiceParameter(0.0, [None, 0.0, 0.7]),
            top_p=ChoiceParameter(1.0, [1.0, 0.5]),
            max_tokens=ChoiceParameter(10, [10, 20]),
            seed=ChoiceParameter(1, [1, 2]),
        )

    def forward(self, text: str) -> Any:
        return [self.llm(f"{text} {self.tone}") for _ in range(self.samples.value)]


OTHERS: dict[str, Any] = {
    "samples": 3,
    "tone": "briefly",
    "llm.alias": "smart",
    "llm.system_prompt": "Be kind.",
    "llm.temperature": None,
    "llm.top_p": 0.5,
    "llm.max_tokens": 20,
    "llm.seed": 2,
}


def asked(module: InferenceModule) -> list[tuple[Any, ...]]:
    """Return what each client was sent."""
    clients = {alias: FunctionClient(lambda r: "ok") for alias in ("fast", "smart")}

    async def main() -> None:
        async with Engine(clients, progress=False) as engine:
            await engine.run(module, "Hi")

    virtually(main)
    return [
        (alias, r.system, r.prompt, r.temperature, r.top_p, r.max_tokens, r.seed)
        for alias, client in clients.items()
        for r in client.requests
    ]


FIRST = [("fast", "Be brief.", "Hi kindly", 0.0, 1.0, 10, 1)]
SECOND = [("smart", "Be kind.", "Hi briefly", None, 0.5, 20, 2)] * 3


def test_a_call_uses_what_is_chosen() -> None:
    """The model is sent the values of now, by the alias of now."""
    desk = Desk()
    assert asked(desk) == FIRST
    desk.load_state_dict(OTHERS)
    assert asked(desk) == SECOND
    assert desk.llm.alias == "smart"
    assert desk.llm.temperature is None


@pytest.mark.parametrize(
    "twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_choose_for_themselves(twin_of: Any) -> None:
    """A candidate's copy is not the module."""
    desk = Desk()
    twin = twin_of(desk)
    twin.load_state_dict(json.loads(json.dumps(OTHERS)))
    assert asked(twin) == SECOND
    assert asked(desk) == FIRST
    assert twin.state_dict() == OTHERS


def test_one_choice_for_several_calls() -> None:
    """What holds it takes over another choice, however it is made."""
    alias = ChoiceParameter("fast", ["fast", "smart"])
    one, two = LLMInference(alias), LLMInference(alias)
    alias.value = "smart"
    assert (one.alias, two.alias) == ("smart", "smart")
    alias.apply_update("fast")
    assert (one.alias, two.alias) == ("fast", "fast")
    two.alias = "other"
    alias.value = "smart"
    assert (one.alias, two.alias) == ("smart", "other")
    assert dict(two.named_parameters()) == {}
    two.alias = alias  # ty: ignore[invalid-assignment]
    assert two.alias == "smart"


def test_a_choice_is_a_parameter() -> None:
    """With a name, a state, a description, and a way to freeze it; without feedback."""
    desk = Desk()
    assert desk.samples.name == "samples"
    assert desk.samples.choices == (1, 3)
    assert not desk.samples.is_text
    assert ChoiceParameter("a", ["a"], "which").description == "which"
    desk.samples.accumulate_feedback("note")
    assert desk.samples.feedback == []
    desk.samples.requires_grad_(False)
    with pytest.raises(ParameterValueError, match="'samples' is frozen"):
        desk.samples.apply_update(3)
    assert repr(desk.samples) == "ChoiceParameter(1, [1, 3], requires_grad=False)"
    assert Parameter("text").choices is None


@pytest.mark.parametrize("value", [0.7, None, True, "0.7"])
def test_it_is_text_in_an_f_string(value: Any) -> None:
    """Also None, which stands for the default."""
    choice = ChoiceParameter(value, [value])
    assert f"{choice}" == str(choice) == str(value)


@pytest.mark.parametrize("bad", ["slow", 1, None])
def test_another_value_is_refused(bad: Any) -> None:
    """The message names the parameter and the choices; the value stays."""
    desk = Desk()
    said = r"parameter 'tone' must be one of \['kindly', 'briefly'\], not"
    with pytest.raises(ParameterValueError, match=said):
        desk.tone.value = bad
    with pytest.raises(ParameterValueError, match=said):
        desk.load_state_dict({**desk.state_dict(), "samples": 3, "tone": bad})
    assert (desk.tone.value, desk.samples.value) == ("kindly", 1)


def test_true_is_not_one() -> None:
    """Though Python says so; 1.0 is 1, as it is in JSON."""
    with pytest.raises(ParameterValueError, match="value of a ChoiceParameter must be"):
        ChoiceParameter(True, [1, 2])
    assert type(ChoiceParameter(1.0, [1, True]).value) is int


@pytest.mark.parametrize(
    ("choices", "error", "said"),
    [
        ([], ParameterTypeError, "must be a list with at least one value"),
        ("ab", ParameterTypeError, "must be a list .* not str"),
        ({1, 2}, ParameterTypeError, "must be a list .* not set"),
        ([1, [2]], ParameterTypeError, "choice 1 .* is of type list"),
        ([1, float("nan")], ParameterValueError, "choice 1 .* is nan: use finite"),
        ([1, 2, 1.0], ParameterValueError, "choice 2 .* is given twice"),
    ],
)
def test_bad_choices_are_refused(
    choices: Any, error: type[Exception], said: str
) -> None:
    """When the parameter is made."""
    with pytest.raises(error, match=said):
        ChoiceParameter(1, choices)


@pytest.mark.parametrize(
    ("argument", "choices", "said"),
    [
        ("alias", ["fast", ""], "alias of an LLMInference must be a non-empty str"),
        ("temperature", [0.0, -1.0], "temperature is out of range: -1.0"),
        ("temperature", [0.0, "hot"], "temperature must be a number"),
        ("top_p", [1.0, 2.0], "top_p is out of range"),
        ("max_tokens", [1, 0], "max_tokens is out of range"),
        ("seed", [1, 1.5], "seed must be an int"),
        ("max_reasks", [1, 2], "max_reasks must be an int"),
        ("tool_errors", ["return", "raise"], "tool_errors must be"),
        ("prompt", ["{a}", "{"], "broken prompt template"),
    ],
)
def test_an_argument_checks_every_choice(
    argument: str, choices: list[Any], said: str
) -> None:
    """Not the one of now only; and not every argument can be a choice."""
    options: dict[str, Any] = {
        "alias": "m",
        argument: ChoiceParameter(choices[0], choices),
    }
    with pytest.raises(ModuleError, match=said):
        LLMInference(**options)


def test_a_text_parameter_is_no_choice_and_a_number_is_no_prompt() -> None:
    """An alias is never rewritten, and a prompt is text."""
    with pytest.raises(ModuleError, match="alias must be a plain value or a Choice"):
        LLMInference(Parameter("fast"))
    with pytest.raises(ParameterTypeError, match="one of the choices is of type int"):
        LLMInference("m", ChoiceParameter("a", ["a", 1]))
