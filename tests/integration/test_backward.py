"""Feedback flows back to every parameter that shaped a result, and to no other."""

import asyncio
import gc
import json
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tests.integration.engine_helpers import echo, virtually

from inf_engine import Engine, InferenceModule, LLMInference, Parameter, op
from inf_engine import functional as F
from inf_engine.errors import CriticError, TrainingError, UsageError
from inf_engine.optimization.critic import Critic
from inf_engine.optimization.feedback import Feedback, FeedbackBatch
from inf_engine.optimization.notes import Note
from inf_engine.types import LLMRequest


def named(*names: str) -> dict[str, LLMInference[str]]:
    """Calls, each with a system prompt of its own that can be trained."""
    return {name: LLMInference("m", Parameter(f"Do {name}.")) for name in names}


class Net(InferenceModule):
    """Calls by name, and a forward that is given."""

    def __init__(self, forward: Callable[..., Any], *names: str) -> None:
        super().__init__()
        self.run_forward = forward
        for name, llm in named(*names).items():
            setattr(self, name, llm)

    def forward(self, *args: Any) -> Any:
        return self.run_forward(self, *args)


def trained(
    module: InferenceModule,
    *args: Any,
    client: Any = None,
    content: str = "Too long.",
    **options: Any,
) -> Any:
    """Run a module once, say something of it, and flow it back."""

    async def main() -> Any:
        clients = {"m": client or echo(1.0), **options.pop("clients", {})}
        async with Engine(clients, progress=False) as engine:
            results = await engine.map(
                module, *[[a] for a in args], record=True, errors="collect"
            )
            record = results[0].record
            told = Feedback(content, 0.25, record=record, target="short")
            notes = await told.backward(engine=engine, **options)
            return record, notes

    return virtually(main)


def notes_of(module: InferenceModule) -> dict[str, list[str]]:
    """The nodes in the evidence that each parameter now has, by its name."""
    found = {name: p.feedback for name, p in module.named_parameters()}
    return {
        name: [e.node for note in notes for e in note.evidence]
        for name, notes in found.items()
        if notes
    }


# -- where it goes ------------------------------------------------------------------


def test_a_chain() -> None:
    """Every call of a chain is reached, the last first."""
    net = Net(lambda m, x: m.c(m.b(m.a(x))), "a", "b", "c")
    _, notes = trained(net, "in")
    assert list(notes) == ["a#1", "b#1", "c#1"]
    assert notes_of(net) == {
        "a.system_prompt": ["a#1"],
        "b.system_prompt": ["b#1"],
        "c.system_prompt": ["c#1"],
    }


def test_evidence_is_exact() -> None:
    """Word for word what was asked, with origins, what came, and what was said."""
    net = Net(lambda m, x: m.b(f"<{m.a(x)}>"), "a", "b")
    trained(net, "in")
    (note,) = net.b.system_prompt.feedback
    assert (note.content, note.score, note.source) == ("Too long.", 0.25, "loss")
    (evidence,) = note.evidence
    assert evidence.asked == "<IN>"
    assert [p.source for p in evidence.prompt] == [None, "a#1", None]
    assert evidence.system[0].text == "Do b."
    assert evidence.system[0].source == "b.system_prompt"
    assert (evidence.output, evidence.final) == ("<IN>", "<IN>")
    assert (evidence.feedback, evidence.target) == ("Too long.", "short")
    assert (evidence.example, evidence.node, evidence.role) == (0, "b#1", "system")
    assert evidence.error is None


def test_what_does_not_reach_the_output_gets_nothing() -> None:
    """A call whose answer is not used shaped nothing."""
    net = Net(lambda m, x: [m.unused(x), m.used(x)][1], "unused", "used")
    trained(net, "in")
    assert notes_of(net) == {"used.system_prompt": ["used#1"]}


def test_fan_out_and_a_join_of_joins() -> None:
    """Positional, keyword and nested arguments all lead back, each node once."""

    @op
    def join(*parts: Any, extra: Any = None) -> str:
        return f"{parts} {extra}"

    def forward(m: Any, x: Any) -> Any:
        a, b, c = m.a(x), m.b(x), m.c(x)
        inner = join(a, {"b": [b]})
        return m.last(join(inner, extra=(c, a)))

    net = Net(forward, "a", "b", "c", "last")
    _, notes = trained(net, "in")
    assert {name: len(n) for name, n in notes_of(net).items()} == {
        "a.system_prompt": 1,
        "b.system_prompt": 1,
        "c.system_prompt": 1,
        "last.system_prompt": 1,
    }
    assert all(len(told) == 1 for told in notes.values())


def test_a_loop_by_graph_break() -> None:
    """Every turn is evidence, and so is the judge who steered it."""

    def forward(m: Any, x: Any) -> Any:
        draft = m.write(x)
        while m.judge(draft) != "GOOD":
            draft = m.write(f"better: {draft}")
        return draft

    answers = iter(["one", "bad", "two", "bad", "three", "GOOD"])
    net = Net(forward, "write", "judge")
    trained(net, "in", client=echo(1.0, lambda r: next(answers)))
    assert notes_of(net) == {
        "write.system_prompt": ["write#3", "write#2", "write#1"],
        "judge.system_prompt": ["judge#3", "judge#2", "judge#1"],
    }


def test_a_branch_that_was_not_taken() -> None:
    """The other side of a condition is told nothing; the question is."""

    def forward(m: Any, x: Any) -> Any:
        return F.cond(m.ask(x) == "YES", lambda: m.yes(x), lambda: m.no(x))

    net = Net(forward, "ask", "yes", "no")
    trained(net, "yes")
    assert notes_of(net) == {
        "ask.system_prompt": ["ask#1"],
        "yes.system_prompt": ["yes#1"],
    }


def test_branches_of_a_map() -> None:
    """What forwards of their own returned leads back into them."""
    net = Net(lambda m, x: F.map(lambda y: m.b(m.a(y)), x), "a", "b")
    trained(net, ["one", "two"])
    assert sorted(notes_of(net)["a.system_prompt"]) == ["a#1", "a#2"]
    assert sorted(notes_of(net)["b.system_prompt"]) == ["b#1", "b#2"]


def test_a_choice_tells_only_the_chosen() -> None:
    """`first` passes on to the candidate that it gave."""

    def forward(m: Any, x: Any) -> Any:
        return F.first([m.a(x), m.b(x)], good=lambda text: text == "B")

    net = Net(forward, "a", "b")

    def answer(request: LLMRequest) -> str:
        return "A" if "Do a" in str(request.messages[0].content) else "B"

    trained(net, "in", client=echo(1.0, answer))
    assert notes_of(net) == {"b.system_prompt": ["b#1"]}


class Shared(InferenceModule):
    """One call used twice, one parameter in two calls, one in an f-string."""

    def __init__(self) -> None:
        super().__init__()
        self.style = Parameter("Be brief.")
        self.tone = Parameter("Be kind.")
        self.one = LLMInference("m", self.style)
        self.two = LLMInference("m", self.style)

    def forward(self, x: str) -> Any:
        return self.two(f"{self.tone} {self.one(self.one(x))}")


def test_shared_modules_and_parameters() -> None:
    """Each use is evidence of its own, with the place of the parameter."""
    module = Shared()
    trained(module, "in")
    found = notes_of(module)
    assert found == {"style": ["two#1", "one#2", "one#1"], "tone": ["two#1"]}
    (note,) = module.tone.feedback
    assert note.evidence[0].role == "text"
    assert [p.source for p in note.evidence[0].prompt] == ["tone", None, "one#2"]


def test_nested_composites_and_templates() -> None:
    """A parameter deep inside is told under its own name; a template is a prompt."""

    class Inner(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.ask = LLMInference("m", prompt=Parameter("About {x}?"))

        def forward(self, x: Any) -> Any:
            return self.ask(x=x)

    class Outer(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Any) -> Any:
            return self.inner(x)

    module: Any = Outer()
    trained(module, "cats")
    assert notes_of(module) == {"inner.ask.prompt": ["inner.ask#1"]}
    (note,) = module.inner.ask.prompt.feedback
    assert note.evidence[0].role == "prompt"
    assert note.evidence[0].asked == "About cats?"


def test_a_failed_node() -> None:
    """Where a run failed, what is said goes to the node that failed and above it."""
    net = Net(lambda m, x: m.c(m.b(m.a(x))), "a", "b", "c")

    def answer(request: LLMRequest) -> Any:
        if "Do b" in str(request.messages[0].content):
            return ValueError("no")
        return "fine"

    trained(net, "in", client=echo(1.0, answer))
    assert notes_of(net) == {"a.system_prompt": ["a#1"], "b.system_prompt": ["b#1"]}
    (note,) = net.b.system_prompt.feedback
    assert "no" in note.evidence[0].error
    assert note.evidence[0].output == ""


def test_an_async_forward_knows_what_went_where() -> None:
    """Python hides where awaited texts go; they are found in the later prompts."""

    class Async(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            for name, llm in named("a", "b", "c", "route").items():
                setattr(self, name, llm)

        async def forward(self, x: str) -> Any:
            one: Any = self
            await one.route(x)
            a, b = await asyncio.gather(one.a("alpha"), one.b("beta"))
            assert b
            return await one.c(f"Read: {a}.")

    module = Async()
    record, notes = trained(module, "in")
    assert record.output == "READ: ALPHA."
    assert set(notes) == {"a#1", "b#1", "c#1", "route#1"}
    assert notes_of(module)["a.system_prompt"] == ["a#1"]


def test_frozen_parameters_are_told_nothing() -> None:
    """A text that may not be changed collects no feedback."""
    net = Net(lambda m, x: m.a(x), "a")
    net.a.system_prompt.requires_grad_(False)
    trained(net, "in")
    assert net.a.system_prompt.feedback == []


def test_a_chain_of_thousands() -> None:
    """The walk does not recurse, and its time grows with the nodes only."""

    @op
    def plus(x: Any) -> Any:
        return x

    def forward(m: Any, x: Any) -> Any:
        x = m.a(x)
        for _ in range(3000):
            x = plus(x)
        return x

    net = Net(forward, "a")
    _, notes = trained(net, "in")
    assert len(notes) == 3001
    assert notes_of(net) == {"a.system_prompt": ["a#1"]}


# -- a module's own rule --------------------------------------------------------------


class Own(InferenceModule):
    """Tells its parameter half, and the first input only."""

    def __init__(self) -> None:
        super().__init__()
        self.llm = LLMInference("m", Parameter("Join."))

    def forward(self, a: Any, b: Any) -> Any:
        return self.llm(f"{a} {b}")

    def backward(self, context: Any) -> Any:
        assert context.record.output == "X Y"
        context.note(context.parameters[0], f"half of: {context.notes[0].content}")
        context.pass_on("you were wrong", to=context.inputs[0])


def test_a_module_may_have_a_rule_of_its_own() -> None:
    """Its ``backward`` decides what goes on, and to whom."""

    class Outer(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = named("a", "b").values()
            self.own = Own()

        def forward(self, x: Any, y: Any) -> Any:
            return self.own(self.a(x), self.b(y))

    module: Any = Outer()
    trained(module, "x", "y")
    assert notes_of(module) == {
        "a.system_prompt": ["a#1"],
        "own.llm.system_prompt": ["own.llm#1"],
    }
    (told,) = module.own.llm.system_prompt.feedback
    assert (told.content, told.source) == ("half of: Too long.", "own.llm#1")
    (passed,) = module.a.system_prompt.feedback
    assert (passed.content, passed.score) == ("you were wrong", 0.25)


def test_a_rule_may_be_async_and_fall_back() -> None:
    """It may ask for more, and for what is done without one."""

    class Asks(Own):
        async def backward(self, context: Any) -> None:
            await asyncio.sleep(1.0)
            context.default()

    module: Any = Asks()
    trained(module, "x", "y")
    (note,) = module.llm.system_prompt.feedback
    assert note.content == "Too long."


# -- with a critic -----------------------------------------------------------------


def reviewer(review: Callable[[LLMRequest], Any]) -> Any:
    """A critic that takes a second for each review."""
    return echo(1.0, lambda request: json.dumps(review(request)))


def batched(
    module: InferenceModule, inputs: list[str], critic: Any, **options: Any
) -> tuple[float, Any]:
    """Run a module on inputs, flow feedback back with a critic; give its seconds."""

    async def main() -> Any:
        clients = {"m": echo(1.0), "critic": critic}
        async with Engine(clients, progress=False) as engine:
            results = await engine.map(module, inputs, record=True)
            batch = FeedbackBatch(
                [
                    Feedback(f"about {x}", n / 4, record=r.record)
                    for n, (x, r) in enumerate(zip(inputs, results, strict=True))
                ]
            )
            loop = asyncio.get_running_loop()
            began = loop.time()
            notes = await batch.backward(engine=engine, critic="critic", **options)
            return loop.time() - began, notes

    return virtually(main)


def test_a_critic_is_asked_once_a_node_and_batch() -> None:
    """Its notes go to the parameters, with all calls of the batch as evidence."""
    net = Net(lambda m, x: m.join(f"{m.a(x)} {m.b(x)}"), "a", "b", "join")

    def review(request: LLMRequest) -> Any:
        step = request.prompt.splitlines()[0].split()[-1].partition("#")[0]
        inputs = []
        if step == "join":
            inputs = [{"example": 1, "input": "a#1", "note": "shout less"}]
        parameter = f"{step}.system_prompt"
        return {
            "parameters": [{"parameter": parameter, "note": f"fix {step}"}],
            "inputs": inputs,
        }

    critic = reviewer(review)
    seconds, notes = batched(net, ["one", "two", "three"], critic)
    assert [r.prompt.splitlines()[0] for r in critic.requests] == [
        "# The step: join#1",
        "# The step: a#1",
    ]
    assert seconds == 2.0
    (told,) = net.join.system_prompt.feedback
    assert (told.content, told.source) == ("fix join", "critic")
    assert told.score == pytest.approx(0.25)
    assert [e.example for e in told.evidence] == [0, 1, 2]
    (passed,) = net.a.system_prompt.feedback
    assert [e.example for e in passed.evidence] == [1]
    assert net.b.system_prompt.feedback == []
    assert [tuple(n) for n in notes] == [("join#1",), ("a#1", "join#1"), ("join#1",)]


def test_all_nodes_of_a_depth_are_reviewed_at_once() -> None:
    """Ten calls side by side take the critic as long as one."""
    names = [f"n{i}" for i in range(10)]
    net = Net(lambda m, x: [getattr(m, name)(x) for name in names], *names)
    critic = reviewer(lambda r: {"parameters": [], "inputs": []})
    seconds, _ = batched(net, ["one", "two"], critic)
    assert len(critic.requests) == 10
    assert seconds == 1.0
    (told,) = net.n3.system_prompt.feedback
    assert (told.content, told.source) == ("about one\nabout two", "loss")


def test_what_a_critic_is_shown() -> None:
    """Instructions, the parameter, each call and what was said; fenced."""
    net = Net(lambda m, x: m.a(x), "a")
    critic = reviewer(lambda r: {"parameters": [], "inputs": []})
    batched(net, ["one ``` two"], critic)
    system, user = critic.requests[0].messages
    assert "You review one step" in system.content
    for text in ("Parameter 'a.system_prompt'", "Do a.", "about one ``` two"):
        assert text in user.content
    assert "````\nONE ``` TWO\n````" in user.content


@pytest.mark.parametrize(
    ("review", "said"),
    [
        (
            {"parameters": [{"parameter": "x", "note": "n"}], "inputs": []},
            "could not review 'b#1': .*'b.system_prompt'.* Look at alias 'critic'",
        ),
        (
            {"parameters": [], "inputs": [{"example": 9, "input": "a#1", "note": ""}]},
            "could not review 'b#1': .*inputs.0..example: Input should be",
        ),
        (
            {"parameters": [], "inputs": [{"example": 0, "input": "z", "note": ""}]},
            "could not review 'b#1': .*'a#1'",
        ),
        (
            {"parameters": [], "inputs": [{"example": 1, "input": "a#1", "note": ""}]},
            "example 1 has no input 'a#1', it has none",
        ),
        ("nothing", "could not review 'b#1': .* or pass critic=None"),
    ],
)
def test_a_critic_that_is_of_no_use(review: Any, said: str) -> None:
    """It is an error that says what is wrong, and not a silent nothing."""
    net = Net(lambda m, x: m.b(m.a(x) if x == "one" else x), "a", "b")
    critic = reviewer(lambda r: review)
    with pytest.raises(CriticError, match=said):
        batched(net, ["one", "two"], critic)
    assert len(critic.requests) == 3
    assert net.b.system_prompt.feedback == []


def test_notes_of_nobody_are_asked_for_again() -> None:
    """The schema names what there is; the critic is told what is wrong."""
    net = Net(lambda m, x: m.a(x), "a")

    def review(request: LLMRequest) -> Any:
        name = "a.system_prompt" if len(request.messages) > 2 else "system"
        return {"parameters": [{"parameter": name, "note": "fix it"}]}

    critic = reviewer(review)
    batched(net, ["one"], critic)
    first, second = critic.requests
    schema = json.dumps(first.response_schema.schema)
    assert '"const": "a.system_prompt"' in schema or '["a.system_prompt"]' in schema
    assert "inputs" not in schema
    assert "a.system_prompt" in second.messages[-1].content
    (told,) = net.a.system_prompt.feedback
    assert told.content == "fix it"


def test_a_critic_that_is_dead() -> None:
    """The endpoint's failure is the cause."""
    net = Net(lambda m, x: m.a(x), "a")

    def fail(request: LLMRequest) -> Any:
        return ValueError("gone")

    with pytest.raises(CriticError, match="could not review 'a#1'") as caught:
        batched(net, ["one"], echo(1.0, fail))
    assert caught.value.__cause__ is not None
    assert net.a.system_prompt.feedback == []


def test_a_critic_needs_an_engine() -> None:
    """There is nothing to ask it with."""
    told = Feedback("bad")
    with pytest.raises(UsageError, match="no engine to run it: write backward.engine"):
        asyncio.run(told.backward(critic=Critic("m")))


# -- batches, and what is left -----------------------------------------------------


def test_feedback_without_a_record_cannot_flow_back() -> None:
    """It says which, and what to do."""
    batch = FeedbackBatch([Feedback("bad", 0.0)])
    with pytest.raises(TrainingError, match="feedback 0 has no record to flow back"):
        asyncio.run(batch.backward())


def test_examples_for_which_the_loss_failed_are_left_out() -> None:
    """As is feedback that says nothing; neither needs a record."""
    batch = FeedbackBatch([Feedback("", error=ValueError("x")), Feedback("")])
    assert asyncio.run(batch.backward()) == ({}, {})
    assert batch.score is None
    assert [str(error) for error in batch.errors] == ["x"]


def test_a_batch_is_a_sequence() -> None:
    """Its score is the mean of those that there are."""
    batch = FeedbackBatch([Feedback("a", 1.0), Feedback("b"), Feedback("c", 0.0)])
    assert batch.score == 0.5
    assert batch.scores == (1.0, None, 0.0)
    assert [f.content for f in batch] == ["a", "b", "c"]
    assert batch[:2].score == 1.0
    assert repr(batch) == "FeedbackBatch(3 examples, score=0.5)"


class Text(str):
    """A text that can be watched."""


def test_nothing_is_left_when_a_result_is_dropped() -> None:
    """Notes that wait on a parameter keep no record alive."""
    net = Net(lambda m, x: m.a(f"{x}"), "a")
    given = Text("in")
    watched = weakref.ref(given)
    record, notes = trained(net, given)
    assert record.args[0] is given
    del record, notes, given
    gc.collect()
    assert watched() is None
    assert isinstance(net.a.system_prompt.feedback[0], Note)
