"""Demonstrations are a parameter: JSON in a state, text in a prompt, capped."""

import copy
import json
import pickle
from typing import Any

import pytest
from tests.integration.engine_helpers import run

from inf_engine import (
    InferenceModule,
    LLMInference,
    ModuleError,
    Parameter,
    ParameterTypeError,
    ParameterValueError,
)
from inf_engine.demos import Demo, DemoParameter
from inf_engine.testing import FunctionClient

SUM = Demo("2 + 2?", "4")
FIELDS = Demo({"word": "cat", "count": 2}, {"plural": "cats"}, source="abc")


class Desk(InferenceModule):
    """Demonstrations after the rules of a system prompt, or in an f-string."""

    def __init__(self, demos: Any = (), where: str = "system") -> None:
        super().__init__()
        self.rules = Parameter("Be brief.")
        self.demos = DemoParameter(demos)
        self.llm = LLMInference("m")
        self.where = where

    def forward(self, question: str) -> Any:
        if self.where == "text":
            return self.llm(f"{self.demos}\nQ: {question}")
        system = {"role": "system", "content": f"{self.rules}\n\n{self.demos}"}
        return self.llm([system, {"role": "user", "content": question}])


class Alone(InferenceModule):
    """Demonstrations as the system prompt."""

    def __init__(self, demos: Any = ()) -> None:
        super().__init__()
        self.llm = LLMInference("m", DemoParameter(demos))

    def forward(self, question: str) -> Any:
        return self.llm(question)


def test_its_value_is_text_and_its_state_is_json() -> None:
    """The value is what a model reads, the state what a file keeps."""
    demos = DemoParameter([SUM, FIELDS], "sums", heading="Like so:")
    assert demos.value == str(demos) == f"{demos}"
    assert demos.value == (
        "Like so:\n\nInput: 2 + 2?\nOutput: 4\n\n"
        'word: cat\ncount: 2\nOutput: {"plural": "cats"}'
    )
    assert demos.state == [SUM.state, FIELDS.state]
    assert demos.state[1]["source"] == "abc"
    assert demos.demos == demos.shown == (SUM, FIELDS)
    assert demos.description == "sums"
    assert repr(demos) == "DemoParameter(2 demos)"
    assert repr(DemoParameter([SUM], requires_grad=False)).endswith(
        "(1 demo, requires_grad=False)"
    )


def test_a_text_of_several_lines_stands_on_its_own() -> None:
    """Otherwise its second line would look like a field."""
    assert "Input:\na\nb\nOutput: c" in DemoParameter([Demo("a\nb", "c")]).value


def test_no_demonstrations_are_allowed_and_render_as_nothing() -> None:
    """Neither a heading nor an empty system message is sent."""
    client = FunctionClient(lambda r: "4")
    assert DemoParameter().value == ""
    assert DemoParameter().state == []
    run(Alone(), "2 + 2?", client=client)
    run(Desk(where="text"), "2 + 2?", client=client)
    assert [[m.role for m in r.messages] for r in client.requests] == [["user"]] * 2
    assert client.requests[1].prompt == "\nQ: 2 + 2?"


def test_it_is_sent_where_it_stands() -> None:
    """After a system prompt, as one, and in an f-string."""
    client = FunctionClient(lambda r: "ok")
    for module in (Desk([SUM]), Alone([SUM]), Desk([SUM], where="text")):
        run(module, "3 + 3?", client=client)
    text = DemoParameter([SUM]).value
    first, second, third = client.requests
    assert (first.system, first.prompt) == (f"Be brief.\n\n{text}", "3 + 3?")
    assert (second.system, second.prompt) == (text, "3 + 3?")
    assert (third.system, third.prompt) == ("", f"{text}\nQ: 3 + 3?")


def test_a_state_dict_goes_round_through_json() -> None:
    """So do copies and pickles; a damaged state changes nothing."""
    desk, other = Desk([SUM, FIELDS]), Desk()
    state = json.loads(json.dumps(desk.state_dict()))
    other.load_state_dict(state)
    assert other.demos.demos == (SUM, FIELDS)
    assert other.state_dict() == desk.state_dict()
    for twin in (copy.deepcopy(desk), pickle.loads(pickle.dumps(desk))):
        assert twin.state_dict() == state
        assert twin.demos.value == desk.demos.value
    with pytest.raises(ParameterTypeError, match="must be a list of demonstrations"):
        other.load_state_dict({**state, "demos": "text", "rules": "new"})
    assert other.state_dict() == state


@pytest.mark.parametrize("cap", [1, 8, 12, 20, 40, None])
def test_the_text_never_exceeds_the_cap(cap: int | None) -> None:
    """Four characters a token; what does not fit is left out as a whole."""
    demos = [Demo("q" * n, "a") for n in (9, 200, 3, 30, 1)]
    held = DemoParameter(demos, max_tokens=cap)
    assert held.demos == tuple(demos)
    assert len(held.state) == 5
    whole = [held.render(demo) for demo in held.shown]
    assert held.value == ("\n\n".join(["Examples:", *whole]) if whole else "")
    if cap is not None:
        assert len(held.value) <= 4 * cap


def test_a_demonstration_that_does_not_fit_makes_room_for_a_later_one() -> None:
    """In the order given, the same each time."""
    long, short = Demo("q" * 400, "a"), Demo("q", "a")
    held = DemoParameter([SUM, long, short], max_tokens=20)
    assert held.shown == (SUM, short)
    assert DemoParameter(held.state, max_tokens=20).value == held.value


def test_updates_and_frozen_demonstrations() -> None:
    """An update takes demonstrations; a frozen parameter refuses it."""
    desk = Desk()
    desk.demos.apply_update([SUM.state])
    assert desk.demos.demos == (SUM,)
    desk.demos.requires_grad_(False)
    with pytest.raises(ParameterValueError, match="'demos' is frozen"):
        desk.demos.apply_update([])
    assert desk.demos.demos == (SUM,)


def test_it_keeps_no_feedback_in_words() -> None:
    """Words are for texts; so optimizers of texts have nothing to do here."""
    desk = Desk([SUM])
    desk.demos.accumulate_feedback("note")
    desk.rules.accumulate_feedback("note")
    assert desk.demos.feedback == []
    assert desk.rules.feedback == ["note"]
    assert (desk.rules.is_text, desk.demos.is_text) == (True, False)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Demo(3, "a"), "inputs of a Demo must be a str or a dict"),  # ty: ignore
        (lambda: Demo("q", object()), "output of a Demo cannot be written as JSON"),
        (lambda: Demo("q", float("nan")), "output of a Demo cannot be written"),
        (lambda: Demo("q", "a", source=3), "source of a Demo must be a str"),  # ty: ignore
        (lambda: DemoParameter("text"), "must be a list of demonstrations, not str"),
        (lambda: DemoParameter(3), "must be a list of demonstrations"),  # ty: ignore
        (lambda: DemoParameter([3]), "must be a Demo or a dict"),
        (lambda: DemoParameter([{"inputs": "q"}]), r"this one has \['inputs'\]"),
        (lambda: DemoParameter(heading=3), "heading of a DemoParameter"),  # ty: ignore
    ],
)
def test_what_is_no_demonstration_is_refused(make: Any, said: str) -> None:
    """With what is wrong, and without the texts in it."""
    with pytest.raises(ParameterTypeError, match=said):
        make()


@pytest.mark.parametrize("cap", [0, -1, True, 2.5])
def test_a_cap_is_a_positive_number(cap: Any) -> None:
    """Or None."""
    with pytest.raises(ParameterValueError, match="max_tokens=.* give a whole number"):
        DemoParameter(max_tokens=cap)


def test_it_is_no_template() -> None:
    """Braces in demonstrations are no fields; as a field of a template it works."""
    with pytest.raises(ModuleError, match="DemoParameter is no template with fields"):
        LLMInference("m", prompt=DemoParameter([SUM]))


def test_what_is_shown_is_a_copy() -> None:
    """Neither the caller's dict nor the state is the demonstration itself."""
    fields = {"word": "cat"}
    held = DemoParameter([Demo(fields, ["a"])])
    fields["word"] = "dog"
    held.state[0]["inputs"]["word"] = "cow"
    held.state[0]["output"].append("b")
    assert held.state == [{"inputs": {"word": "cat"}, "output": ["a"]}]
