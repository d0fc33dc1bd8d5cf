"""`LLMInference(demos=...)`: demonstrations as turns, seen where a request arrives."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from tests.integration.engine_helpers import engines, run

from inf_engine import (
    InferenceModule,
    LLMInference,
    ModuleError,
    Parameter,
    ParameterTypeError,
    trace,
)
from inf_engine.optimization import (
    BootstrapDemos,
    Demo,
    DemoParameter,
    Feedback,
    Trainer,
    VerifierLoss,
)
from inf_engine.testing import FunctionClient, assert_runs_alike
from inf_engine.types import LLMRequest, Message

Topic = Literal["room", "food"]
SUM, CAT = Demo("2 + 2?", "4"), Demo("cat", "cats")


class Ask(InferenceModule):
    """One call, of whatever `make` makes of the input."""

    def __init__(self, make: Any = str, /, *args: Any, **options: Any) -> None:
        super().__init__()
        self.rules = Parameter("Be brief.")
        self.llm: LLMInference[Any] = LLMInference("m", *args, **options)
        self.make = make

    def forward(self, text: str) -> Any:
        made = self.make(self, text) if self.make is not str else text
        return self.llm(**made) if type(made) is dict else self.llm(made)


def sent(module: InferenceModule, text: str = "3 + 3?", answer: Any = "6") -> Any:
    """Return role and text of each message that arrives."""
    client = FunctionClient(lambda r: answer)
    run(module, text, client=client)
    return [(m.role, m.content) for m in client.requests[0].messages]


@dataclass
class Person:
    """Typed, in and out."""

    name: str
    age: int = 7


# -- the request ------------------------------------------------------------------


def test_turns_stand_between_the_system_prompt_and_the_question() -> None:
    """As the user's words and the model's own, in the order given."""
    assert sent(Ask(str, "Add.", demos=[SUM, CAT])) == [
        ("system", "Add."),
        *[("user", "2 + 2?"), ("assistant", "4")],
        *[("user", "cat"), ("assistant", "cats")],
        ("user", "3 + 3?"),
    ]


def test_turns_stand_before_a_conversation_and_after_its_rules() -> None:
    """What the user and the model said before goes on undisturbed."""
    talk = [
        {"role": "system", "content": "Add."},
        Message("system", "Be brief."),
        *[Message("user", "hello"), Message("assistant", "hi")],
    ]

    def make(module: Any, text: str) -> Any:
        return [*talk, {"role": "user", "content": text}]

    assert sent(Ask(make, demos=[SUM])) == [
        *[("system", "Add."), ("system", "Be brief.")],
        *[("user", "2 + 2?"), ("assistant", "4")],
        *[("user", "hello"), ("assistant", "hi"), ("user", "3 + 3?")],
    ]


@pytest.mark.parametrize(
    ("kind", "output", "shown"),
    [
        (Topic, "food", '{"value": "food"}'),
        (Topic, {"value": "food"}, '{"value": "food"}'),
        (list[str], ["é"], '{"value": ["é"]}'),
        (Person, {"name": "Ann", "age": 3}, '{"name": "Ann", "age": 3}'),
        (None, "food", "food"),
        (None, {"a": 1}, '{"a": 1}'),
    ],
)
def test_a_typed_answer_is_shown_as_the_json_that_the_model_writes(
    kind: Any, output: Any, shown: str
) -> None:
    """With the same envelope; text is shown as text."""
    module = Ask(str, demos=[Demo("q", output)], response_format=kind)
    answers = {Topic: "room", Person: '{"name": "Bo", "age": 1}', None: "a"}
    answer = answers.get(kind, ["a"])
    envelope = json.dumps({"value": answer}) if kind in (Topic, list[str]) else answer
    assert sent(module, answer=envelope)[1] == ("assistant", shown)


def test_a_demonstration_fills_the_template_of_its_call() -> None:
    """By field, or the only one by text; what it does not say, the call says."""
    fields = Demo({"person": {"name": "Ann"}, "word": ["a"]}, "x")
    prompt = "{rules} {person.name} {word}"

    def make(module: Any, text: str) -> Any:
        return {"rules": module.rules, "person": Person("Bo"), "word": text}

    assert sent(Ask(make, prompt=prompt, demos=[fields]))[0] == (
        "user",
        "Be brief. Ann ['a']",
    )
    assert sent(Ask(str, prompt="Q: {q}", demos=[SUM]))[0] == ("user", "Q: 2 + 2?")
    assert sent(Ask(str, demos=[Demo({"a": 1, "b": "c"}, "x")]))[0][1] == "a: 1\nb: c"


@pytest.mark.parametrize("inputs", ["text", {"wrong": 1}])
def test_a_demonstration_that_does_not_fit_the_template_is_refused(inputs: Any) -> None:
    """The call fails before anything is sent, and its record tells why."""
    module = Ask(lambda m, t: {"a": t, "b": t}, prompt="{a} {b}")
    module.llm.demos = DemoParameter([Demo(inputs, "x")])
    client = FunctionClient(lambda r: "ok")

    async def body(engine: Any) -> Any:
        with pytest.raises(ModuleError, match=r"has the fields \['a', 'b'\]") as found:
            await engine.record(module, "t")
        return found.value

    error = engines(body, client)
    assert client.requests == []
    assert "text" in str(error) or "'wrong'" in str(error)


@pytest.mark.parametrize(
    "module",
    [
        Ask(str, demos=[SUM, CAT]),
        Ask(str, prompt="Q: {q}", demos=[SUM, CAT]),
        Ask(lambda m, t: f"{m.rules}\n{t}\n{m.rules}", demos=[SUM, CAT]),
        Ask(lambda m, t: [{"role": "user", "content": t}], demos=[SUM, CAT]),
    ],
)
def test_the_example_under_test_is_never_shown(module: InferenceModule) -> None:
    """It would tell the answer; all others are."""
    roles = [role for role, _ in sent(module, "2 + 2?")]
    assert roles == ["user", "assistant", "user"]
    assert len(sent(module, "2 + 3?")) == 5


def test_turns_fit_into_the_cap() -> None:
    """Counted as they are sent; a long one makes room for a later one."""
    demos = [SUM, Demo("q" * 40, "a"), CAT]
    module = Ask(str, demos=DemoParameter(demos, max_tokens=4))
    assert [text for _, text in sent(module)] == ["2 + 2?", "4", "cat", "cats"][:2] + [
        "cat",
        "cats",
        "3 + 3?",
    ]
    long = "Please answer the following question: {q}"
    assert len(sent(Ask(str, prompt=long, demos=module.llm.demos))) == 1


# -- the parameter ----------------------------------------------------------------


def test_it_is_a_parameter_of_the_leaf() -> None:
    """With a name, in the state, frozen if it was given as a list."""
    module = Ask(str, demos=DemoParameter([SUM]))
    assert dict(module.named_parameters())["llm.demos"] is module.llm.demos
    state = module.state_dict()
    assert state["llm.demos"] == [SUM.state]
    other = Ask(str, demos=[])
    assert other.llm.demos is not None and not other.llm.demos.requires_grad
    other.load_state_dict(json.loads(json.dumps(state)))
    assert len(sent(other)) == 3
    assert Ask(str).llm.demos is None
    assert trace(module, "a").content_hash() != trace(Ask(str), "a").content_hash()


@pytest.mark.parametrize("given", ["text", 3, Parameter("x"), [3]])
def test_what_is_no_demonstration_is_refused(given: Any) -> None:
    """With what to write."""
    with pytest.raises(ParameterTypeError, match="Demo"):
        LLMInference("m", demos=given)


def test_it_runs_alike_eagerly_and_traced() -> None:
    """The same requests, so the same answers."""
    clients = {"m": FunctionClient(lambda r: str([m.content for m in r.messages]))}
    module = Ask(str, "Add.", demos=[SUM, CAT])
    assert "cats" in assert_runs_alike(module, "3 + 3?", clients=clients)


# -- the record, and what learns from it ------------------------------------------


def recorded(module: InferenceModule, text: str = "3 + 3?") -> Any:
    """Return the record of a run."""
    return engines(
        lambda engine: engine.record(module, text), FunctionClient(lambda r: "6")
    )


@pytest.mark.parametrize(
    ("module", "asked"),
    [
        (Ask(str, demos=[SUM]), "user: 2 + 2?\nassistant: 4\nuser: 3 + 3?"),
        (
            Ask(str, prompt="Q: {q}", demos=[SUM]),
            "user: Q: 2 + 2?\nassistant: 4\nuser: Q: 3 + 3?",
        ),
        (
            Ask(
                lambda m, t: [Message("system", f"{m.rules}"), Message("user", t)],
                demos=[SUM],
            ),
            "system: Be brief.\nuser: 2 + 2?\nassistant: 4\nuser: 3 + 3?\n",
        ),
        (
            Ask(lambda m, t: {"messages": t}, prompt="{messages}", demos=[]),
            "3 + 3?",
        ),
    ],
)
def test_the_record_has_the_turns_where_they_stood(
    module: InferenceModule, asked: str
) -> None:
    """With their parameter as the origin, also where there are none."""
    prompt = recorded(module).nodes[-1].prompt
    assert "".join(piece.text for piece in prompt) == asked
    assert [p.source for p in prompt].count("llm.demos") == 1


def test_a_template_is_recorded_as_it_was_filled_in() -> None:
    """Also by position, with a format, or where a field reads an attribute."""

    class Chain(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.read: LLMInference[Person] = LLMInference("m", response_format=Person)
            self.tell = LLMInference("m", prompt="{p.name} {n:03d} {t!r}")
            self.more = LLMInference("m", prompt="More: {text}")

        def forward(self, text: str) -> Any:
            return self.more(self.tell(p=self.read(text), n=7, t=text))

    client = FunctionClient(lambda r: '{"name": "Ann", "age": 3}')
    record = engines(lambda engine: engine.record(Chain(), "hi"), client)
    tell, more = record.nodes[1:]
    assert "".join(piece.text for piece in tell.prompt) == "Ann 007 'hi'"
    assert "".join(piece.text for piece in more.prompt) == client.requests[-1].prompt
    assert [p.source for p in tell.prompt][0] == "read#1"


def test_backward_finds_them_in_the_evidence() -> None:
    """A text beside them gets the prompt as it was; they keep no words."""
    module = Ask(lambda m, t: f"{m.rules} {t}", demos=DemoParameter([SUM]))
    record = recorded(module)

    async def body(engine: Any) -> None:
        feedback = Feedback("Too long.", 0.0, record=record)
        await feedback.backward(engine=engine, critic="m")

    client = FunctionClient(lambda r: '{"parameters": [], "inputs": []}')
    engines(body, client)
    (note,) = module.rules.feedback
    assert note.evidence[0].asked.startswith("user: 2 + 2?\nassistant: 4\nuser: Be ")
    assert module.llm.demos is not None and module.llm.demos.feedback == []
    (request,) = client.requests
    assert "Parameter 'rules'" in request.prompt
    assert "Parameter 'llm.demos'" not in request.prompt


def test_a_critic_is_not_asked_about_demonstrations_alone() -> None:
    """They are chosen by scores, so no request is paid for words."""
    record = recorded(Ask(str, demos=DemoParameter([SUM])))
    client = FunctionClient(lambda r: "never")

    async def body(engine: Any) -> None:
        feedback = Feedback("Too long.", 0.0, record=record)
        await feedback.backward(engine=engine, critic="m")

    engines(body, client)
    assert client.requests == []


class Plural(InferenceModule):
    """Two calls with demonstrations of their own; the second is typed."""

    def __init__(self) -> None:
        super().__init__()
        self.clean = LLMInference("m", "Clean.", demos=DemoParameter())
        self.plural: LLMInference[list[str]] = LLMInference(
            "m", prompt="Word: {word}", demos=DemoParameter(), response_format=list[str]
        )

    def forward(self, word: str) -> Any:
        return self.plural(self.clean(word))


def grammarian(request: LLMRequest) -> str:
    """Knows the plural of short words, and of those that end as one that is shown."""
    if request.system == "Clean.":
        return request.prompt.lower()
    word = request.prompt.removeprefix("Word: ")
    asked = [m.text for m in request.messages if m.role == "user"][:-1]
    knows = len(word) == 3 or any(other[-1] == word[-1] for other in asked)
    return json.dumps({"value": [f"{word}s" if knows else word]})


def test_bootstrap_trains_the_demonstrations_of_two_leaves() -> None:
    """It knows which calls they are for, though there are none to begin with."""
    module = Plural()
    optimizer = BootstrapDemos(module.parameters(), candidates=4)
    loss = VerifierLoss(lambda output, target: output == target)
    client = FunctionClient(grammarian)
    train, val = "cat dog pen cup car map goat frog", "boat star lamp shop"
    data = [[(w.title(), [f"{w}s"]) for w in text.split()] for text in (train, val)]

    async def body(engine: Any) -> Any:
        trainer = Trainer(module, loss, optimizer, engine=engine, rollouts=100)
        return await trainer.fit(*data)

    result = engines(body, client)
    assert result.gain.gain.mean > 0
    clean, plural = module.clean.demos, module.plural.demos
    assert clean is not None and plural is not None
    assert plural.demos and len(plural.demos) == len(clean.demos)
    for one, two in zip(clean.demos, plural.demos, strict=True):
        word = str(one.inputs).lower()
        assert (one.output, two.inputs) == (word, {"word": word})
        assert two.output == {"value": [f"{word}s"]}
    first = [r.messages[1].text for r in client.requests if len(r.messages) > 2]
    assert json.dumps(plural.demos[0].output) in first


def test_an_object_in_a_template_is_shown_as_it_was_sent() -> None:
    """Not as the JSON of it: the model has to see what it will be asked."""

    class Chain(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.read: LLMInference[Person] = LLMInference("m", response_format=Person)
            self.tell = LLMInference("m", prompt="Who? {p}", demos=DemoParameter())

        def forward(self, text: str) -> Any:
            return self.tell(p=self.read(text))

    def answer(request: LLMRequest) -> str:
        named = request.prompt.title()
        return "yes" if "Who" in named else json.dumps({"name": named, "age": 1})

    module, client = Chain(), FunctionClient(answer)

    async def body(engine: Any) -> None:
        loss = VerifierLoss(lambda output, target: output == target)
        optimizer = BootstrapDemos(module.parameters(), candidates=1)
        trainer = Trainer(module, loss, optimizer, engine=engine, rollouts=20)
        await trainer.fit([("ann", "yes")], [("bo", "yes")])

    engines(body, client)
    shown = [r.messages[0].text for r in client.requests if len(r.messages) == 3]
    assert shown[0] == f"Who? {Person('Ann', 1)}"
