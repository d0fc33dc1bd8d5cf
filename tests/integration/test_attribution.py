"""`attribute`: what one change is worth, and that only what it reaches is asked."""

import asyncio
import copy
import gc
import itertools
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.integration.engine_helpers import virtually

from inf_engine import Budget, Engine, InferenceModule, LLMInference, Parameter, op
from inf_engine import functional as F
from inf_engine.errors import (
    BudgetExceededError,
    EndpointConnectionError,
    TrainingError,
    UsageError,
)
from inf_engine.execution.books import record_of
from inf_engine.execution.replay import Replay
from inf_engine.optimization import (
    Attribution,
    Feedback,
    FeedbackBatch,
    LLMJudge,
    Loss,
    VerifierLoss,
    attribute,
)
from inf_engine.record import RunRecord
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest


class Net(InferenceModule):
    """Calls by name, each with a prompt of its own, and a forward that is given."""

    def __init__(self, forward: Callable[..., Any], *names: str) -> None:
        super().__init__()
        self.run_forward = forward
        for name in names:
            setattr(self, name, LLMInference("m", Parameter(name)))

    def forward(self, *args: Any) -> Any:
        return self.run_forward(self, *args)


class AsyncNet(Net):
    """The same with a coroutine function."""

    async def forward(self, *args: Any) -> Any:
        return await self.run_forward(self, *args)


def wrap(request: LLMRequest) -> str:
    """The model: what it is told, around what it is asked."""
    return f"{request.system}({request.prompt})"


@VerifierLoss
def holds(output: Any, target: str) -> bool:
    """Right if the target stands in the output."""
    return target in str(output)


class Measured:
    """Runs a module, then measures; knows what was asked in each part."""

    def __init__(self, answer: Callable[[LLMRequest], Any] = wrap) -> None:
        self.client = FunctionClient(answer, 1.0)
        self.loss: Any = holds
        self.first = 0
        self.records: list[RunRecord] = []

    @property
    def asked(self) -> list[str]:
        """What attribution has asked, as ``system(prompt)``."""
        return [wrap(request) for request in self.client.requests[self.first :]]

    def __call__(
        self,
        module: InferenceModule,
        *inputs: Any,
        target: Any = "B",
        between: Callable[[], Any] = lambda: None,
        engine_options: Any = None,
        **changes: Any,
    ) -> list[Attribution]:
        async def main() -> Any:
            clients = {"m": self.client}
            options: Any = {"retries": 0, **(engine_options or {})}
            async with Engine(clients, progress=False, **options) as engine:
                results = await engine.map(
                    module, inputs, record=True, errors="collect"
                )
                self.records = [result.record for result in results]
                self.loss.engine = engine
                told = await self.loss(self.records, [target] * len(inputs))
                self.first = len(self.client.requests)
                between()
                return await attribute(
                    module, told, self.loss, engine=engine, **changes
                )

        return virtually(main)


def chain() -> Net:
    """Three calls, one after the other."""
    return Net(lambda m, x: m.c(m.b(m.a(x))), "a", "b", "c")


# -- what a change is worth -------------------------------------------------------


def test_a_parameter_to_blame() -> None:
    """Of several alternatives the one that helps comes first; what it took is known."""
    measured, module = Measured(), chain()
    found = measured(
        module,
        *("x", "y"),
        parameters={"a.system_prompt": "A", "b.system_prompt": ["B", "bb"]},
    )
    assert [(one.name, one.value) for one in found] == [
        ("b.system_prompt", "B"),
        ("a.system_prompt", "A"),
        ("b.system_prompt", "bb"),
    ]
    best, first, _ = found
    assert (best.before, best.after) == ((0.0, 0.0), (1.0, 1.0))
    assert (best.gain.mean, best.gain.n) == (1.0, 2)
    assert best.gain.low < 1.0
    assert best.anew == (("b#1", "c#1"),) * 2
    assert first.anew == (("a#1", "b#1", "c#1"),) * 2
    assert (best.requests, first.requests, best.usage.requests) == (4, 6, 4)
    assert len(measured.asked) == 4 + 4 + 6
    assert [told.record.output for told in best.feedback if told.record] == [
        "c(B(a(x)))",
        "c(B(a(y)))",
    ]


def test_an_output_that_is_replaced() -> None:
    """Only what comes after it is asked, in each example that has the call."""
    measured = Measured()
    (found,) = measured(chain(), "x", "y", outputs={"a#1": "B"})
    assert measured.asked == ["b(B)", "b(B)", "c(b(B))", "c(b(B))"]
    assert (found.gain.mean, found.requests) == (1.0, 4)


def test_an_output_by_example() -> None:
    """A function of record and target gives each example its own."""

    def gold(record: RunRecord, target: str) -> str:
        return f"{target}{record.args[0]}"

    measured = Measured()
    (found,) = measured(chain(), "x", "y", outputs={"b": gold})
    assert sorted(measured.asked) == ["c(Bx)", "c(By)"]
    assert found.value is gold


def test_the_same_output_reaches_nothing() -> None:
    """A value that is what it was costs no request, and is worth nothing."""
    measured = Measured()
    (found,) = measured(chain(), "x", outputs={"a": "a(x)"})
    assert measured.asked == []
    assert (found.gain.mean, found.anew, found.requests) == (0.0, ((),), 0)


def test_a_change_may_hurt() -> None:
    """A gain below 0 is one; the scale is that of the loss."""
    measured = Measured()
    measured.loss = VerifierLoss(lambda output, _: 4.0 * ("b" in output), high=5.0)
    (found,) = measured(chain(), "x", parameters={"b.system_prompt": "o"})
    assert found.gain.mean == -4.0
    assert -5.0 <= found.gain.low <= -4.0 <= found.gain.high


def test_records_of_a_change_are_records() -> None:
    """They cost nothing where they repeat, and can be changed in turn."""
    measured, module = Measured(), chain()

    async def main() -> Any:
        async with Engine({"m": measured.client}, progress=False) as engine:
            module.bind(engine)
            record = await engine.record(module, "x")
            told = await holds(record, "B")
            (one,) = await attribute(module, told, holds, outputs={"b#1": "B"})
            (made,) = one.feedback
            (two,) = await attribute(module, made, holds, outputs={"c#1": "z"})
            return record, made.record, two

    record, changed, two = virtually(main)
    nodes = {node.name: node for node in changed.nodes}
    assert [nodes[n].reused for n in ("a#1", "b#1", "c#1")] == ["record", None, None]
    assert nodes["a#1"].calls[0].request == record.node("a#1").calls[0].request
    assert nodes["a#1"].cost == 0.0
    assert changed.usage == nodes["c#1"].usage
    assert (two.before, two.after, two.requests) == ((1.0,), (0.0,), 0)
    assert len(measured.client.requests) == 3 + 1


# -- which calls are the same -------------------------------------------------------


def seconds(request: LLMRequest) -> float:
    """How long an answer takes: longer if the question says so."""
    return 5.0 if "later" in request.prompt else 1.0


def replayed(
    module: InferenceModule,
    *args: Any,
    answer: Callable[[LLMRequest], Any] = wrap,
    changed: InferenceModule | None = None,
    **options: Any,
) -> tuple[RunRecord, RunRecord, Replay, list[str]]:
    """Record a run, and replay it: both records, the replay, and what it asked."""
    client = FunctionClient(answer, seconds)

    async def main() -> Any:
        async with Engine({"m": client}, progress=False, retries=0) as engine:
            results = await engine.map(
                module, *[[arg] for arg in args], record=True, errors="collect"
            )
            record, count = results[0].record, len(client.requests)
            replay = Replay(record, **options)
            run = await engine._outcome(
                changed or module, record.args, record.kwargs, keep=True, replay=replay
            )
            asked = [wrap(request) for request in client.requests[count:]]
            return record, record_of(run), replay, asked

    return virtually(main)


calls: list[Any] = []


@op
def note(value: Any) -> Any:
    """An op that is known to have been called."""
    calls.append(value)
    return value


@op(thread=True)
def slow(value: str) -> str:
    """An op in a thread."""
    calls.append(value)
    return value


def loop(m: Any, x: str) -> Any:
    """Turn until the text is long enough."""
    text = x
    while len(str(text)) < 12:
        text = m.a(f"{text}")
    return m.b(text)


def samples(m: Any, x: str) -> Any:
    """The same question three times."""
    return F.gather(*[m.a(x) for _ in range(3)])


def fan_out(m: Any, x: str) -> Any:
    """A call on each word, and one that joins them."""
    words = note(x.split())
    return m.b(F.map(lambda word: m.a(word), words))


def branch(m: Any, x: str) -> Any:
    """One of two calls."""
    return F.cond(note(x) == "x", m.a, m.b, m.c(x))


def race(m: Any, x: str) -> Any:
    """The first of two, of which the one that is asked last is faster."""
    return m.c(F.first(m.b(f"{x} later"), m.a(x)))


def caught(m: Any, x: str) -> Any:
    """A call that fails, and what is done then."""
    try:
        return str(m.a(x))
    except EndpointConnectionError:
        return m.b(x)


def patient(request: LLMRequest) -> Any:
    """Answers of the slower candidate never come first; call a may fail."""
    if request.prompt == "fail" and request.system == "a":
        return EndpointConnectionError("it is gone")
    return wrap(request)


async def tasks(m: Any, x: str) -> Any:
    """Two coroutines of two calls each."""

    async def one(word: str) -> Any:
        return await m.b(await m.a(word))

    return await asyncio.gather(*[one(word) for word in x.split()])


@pytest.mark.parametrize(
    ("module", "given"),
    [
        (chain(), "x"),
        (Net(loop, "a", "b"), "x"),
        (Net(samples, "a"), "x"),
        (Net(fan_out, "a", "b"), "p q p p"),
        (Net(branch, "a", "b", "c"), "x"),
        (Net(race, "a", "b", "c"), "x"),
        (Net(caught, "a", "b"), "fail"),
        (AsyncNet(tasks, "a", "b"), "p q p"),
        (Net(lambda m, x: m.a(slow(x)), "a"), "x"),
    ],
    ids=lambda value: getattr(getattr(value, "run_forward", None), "__name__", "x"),
)
def test_a_run_that_is_replayed_as_it_was(module: Any, given: str) -> None:
    """Nothing is asked, no function is called, and all nodes end as they did."""
    numbers = itertools.count()

    def answer(request: LLMRequest) -> Any:
        found = patient(request)
        return f"{found}{next(numbers)}" if isinstance(found, str) else found

    calls.clear()
    record, again, replay, asked = replayed(module, given, answer=answer, strict=True)
    assert (replay.anew, asked) == ((), [])
    assert again.output == record.output
    assert again.cost == 0.0
    ends = {n.name: (n.outcome, n.output) for n in record.nodes}
    assert {n.name: (n.outcome, n.output) for n in again.nodes} == ends
    assert len(calls) == sum(n.node.path in ("note", "slow") for n in record.nodes)


def test_a_loop_that_turns_more_often() -> None:
    """The turns that it had are taken from the record, new ones run."""
    _, again, replay, asked = replayed(
        Net(loop, "a", "b"), "x", outputs={"a#3": "short"}
    )
    longer = ["a(short)", "a(a(short))", "a(a(a(short)))"]
    assert asked == [*longer, f"b({longer[-1]})"]
    assert replay.anew == ("a#4", "a#5", "a#6", "b#1")
    assert again.output == asked[-1]


def test_one_of_several_equal_calls() -> None:
    """A sample is replaced by its place, the others stay what they are."""
    numbers = itertools.count()
    record, again, _, asked = replayed(
        Net(samples, "a"),
        "x",
        answer=lambda request: f"answer {next(numbers)}",
        outputs={"a#2": "another"},
    )
    assert record.output == ["answer 0", "answer 1", "answer 2"]
    assert again.output == ["answer 0", "another", "answer 2"]
    assert asked == []


def test_an_equal_call_that_is_not_made() -> None:
    """Another one with the same prompt keeps its own answer."""

    def forward(m: Any, x: str) -> Any:
        early = m.a(x) if note(x) == "x" else "none"
        return early, F.map(lambda y: m.a(y), [x])

    numbers = itertools.count()
    record, again, _, asked = replayed(
        Net(forward, "a"),
        "x",
        answer=lambda request: f"answer {next(numbers)}",
        outputs={"note": "y"},
    )
    assert record.output == ("answer 0", ["answer 1"])
    assert (again.output, asked) == (("none", ["answer 1"]), [])


def test_one_branch_of_a_fan_out() -> None:
    """Of equal items the one that is named is replaced, then what joins them runs."""
    record, again, _, asked = replayed(
        Net(fan_out, "a", "b"), "p q p p", outputs={"a#3": "Z"}
    )
    assert record.node("a#3").prompt[0].text == "p"
    assert len(asked) == 1
    assert again.node("b#1").args[0] == ["a(p)", "a(q)", "Z", "a(p)"]


def test_all_calls_of_a_path() -> None:
    """A path replaces every call of it, more of them too."""
    record, again, _, _ = replayed(
        Net(fan_out, "a", "b"), "p q", outputs={"note": ["r", "s", "t"], "a": "Z"}
    )
    assert len([n for n in record.nodes if n.node.path == "a"]) == 2
    assert again.node("b#1").args[0] == ["Z", "Z", "Z"]


def test_another_branch_is_taken() -> None:
    """What decided is replaced: the other branch runs anew, what both need does not."""
    _, again, replay, asked = replayed(
        Net(branch, "a", "b", "c"), "x", outputs={"note": "y"}
    )
    assert asked == ["b(c(x))"]
    assert replay.anew == ("b#1",)
    assert again.output == "b(c(x))"


def test_the_loser_of_a_race() -> None:
    """It is not asked while the winner is as it was, and runs if it is needed."""

    def answer(request: LLMRequest) -> Any:
        return "" if request.system == "A" else patient(request)

    def forward(m: Any, x: str) -> Any:
        return F.first(m.a(x), m.b(m.c(x)), good=bool)

    module = Net(forward, "a", "b", "c")
    record, _, _, asked = replayed(module, "x", answer=answer)
    assert record.node("b#1").outcome == "cancelled"
    assert asked == []
    worse = copy.deepcopy(module)
    worse.a.system_prompt.value = "A"
    _, again, replay, asked = replayed(module, "x", answer=answer, changed=worse)
    assert again.output == "b(c(x))"
    assert replay.anew == ("a#1", "b#1")
    assert asked == ["A(x)", "b(c(x))"]


def test_a_failure_is_repeated() -> None:
    """With its error and without a request; replaced, what came of it goes away."""
    record, again, replay, asked = replayed(
        Net(caught, "a", "b"), "fail", answer=patient
    )
    assert record.node("a#1").outcome == again.node("a#1").outcome == "failed"
    assert (replay.anew, asked) == ((), [])
    _, mended, _, asked = replayed(
        Net(caught, "a", "b"), "fail", answer=patient, outputs={"a#1": "good"}
    )
    assert (mended.output, asked) == ("good", [])


def test_a_run_that_failed() -> None:
    """What would have been had the call that failed given something."""
    measured = Measured(patient)
    (found,) = measured(
        Net(lambda m, x: m.b(m.a(x)), "a", "b"), "fail", outputs={"a": "B"}
    )
    assert (found.before, found.after) == ((0.0,), (1.0,))
    assert measured.asked == ["b(B)"]


@dataclass
class Answer:
    """What a call is to give."""

    value: int


def test_asked_again_in_one_call() -> None:
    """A conversation of several requests is one answer."""

    def answer(request: LLMRequest) -> Any:
        return {"value": 7} if len(request.messages) > 2 else "no number"

    module = Net(lambda m, x: (m.a(x).value, m.b(x)), "b")
    module.a = LLMInference("m", Parameter("a"), response_format=Answer, max_reasks=1)
    record, again, _, asked = replayed(module, "x", answer=answer, outputs={"b": "B"})
    assert len(record.node("a#1").calls) == 2
    assert (again.output, asked) == ((7, "B"), [])
    assert again.node("a#1").reused == "record"


def test_a_parameter_in_an_argument() -> None:
    """An op that is handed another text runs anew; one with the same text does not."""

    def forward(m: Any, x: str) -> Any:
        return m.a(note(m.style)), note(m.other)

    module = Net(forward, "a")
    module.style, module.other = Parameter("brief"), Parameter("kind")
    changed = copy.deepcopy(module)
    changed.style.value = "long"
    calls.clear()
    _, again, replay, _ = replayed(module, "x", changed=changed)
    assert replay.anew == ("note#1", "a#1")
    assert [str(value) for value in calls] == ["brief", "kind", "long"]
    assert again.node("a#1").prompt[0].text == "long"


@dataclass(eq=False)
class Odd:
    """An object of which no one knows the content."""

    table: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_objects_without_a_content() -> None:
    """The same object is the same; where that cannot be told the call runs anew."""
    kept = Odd({"key": object()})
    _, _, replay, _ = replayed(Net(lambda m, x: note(x), "a"), kept)
    assert replay.anew == ()
    _, _, replay, _ = replayed(Net(lambda m, x: note(Odd({"key": object()})), "a"), 1)
    assert replay.anew == ("note#1",)


def test_an_equal_number_of_another_type() -> None:
    """1 is not True: what is made of them differs."""
    module = Net(lambda m, x: note(note(x)), "a")
    _, _, replay, _ = replayed(module, 1, outputs={"note#1": True})
    assert replay.anew == ("note#2",)


class Rules(InferenceModule):
    """A leaf with a parameter."""

    leaf = True

    def __init__(self) -> None:
        super().__init__()
        self.text = Parameter("be brief")

    def forward(self, x: str) -> str:
        calls.append(x)
        return f"{self.text.value}: {x}"


def test_a_leaf() -> None:
    """It is answered from the record unless its own state was changed."""
    module = Net(lambda m, x: (m.rules(x), m.rules(m.a(x))), "a")
    module.rules = Rules()
    calls.clear()
    _, _, replay, _ = replayed(module, "x", outputs={"a": "y"})
    assert replay.anew == ("rules#2",)
    assert calls == ["x", "a(x)", "y"]
    changed = copy.deepcopy(module)
    changed.rules.text.value = "be long"
    _, again, replay, _ = replayed(module, "x", changed=changed)
    assert replay.anew == ("rules#1", "rules#2")
    assert again.output[1] == "be long: a(x)"


def test_a_shared_module() -> None:
    """A prompt that is used twice is changed in both calls."""
    measured = Measured()
    module = Net(lambda m, x: m.b(m.a(m.a(x))), "a", "b")
    (found,) = measured(module, "x", parameters={"a.system_prompt": "B"})
    assert found.anew == (("a#1", "a#2", "b#1"),)
    assert measured.asked == ["B(x)", "B(B(x))", "b(B(B(x)))"]


def test_a_long_chain() -> None:
    """Thousands of calls are replayed without recursion."""

    def forward(m: Any, x: str) -> Any:
        value: Any = 0
        for _ in range(3000):
            value = note(value + 1)
        return m.a(f"{value}")

    calls.clear()
    _, again, replay, asked = replayed(Net(forward, "a"), "x", strict=True)
    assert (replay.anew, asked, again.output) == ((), [], "a(3000)")


# -- examples and losses ------------------------------------------------------------


def test_an_example_that_the_change_does_not_reach() -> None:
    """It keeps its score and its feedback, and is not run."""

    def forward(m: Any, x: str) -> Any:
        return m.b(m.a(x)) if x == "x" else m.b(x)

    measured = Measured()
    (found,) = measured(Net(forward, "a", "b"), "x", "y", outputs={"a": "B"})
    assert measured.asked == ["b(B)"]
    assert found.after == (1.0, 0.0)
    assert found.anew == (("b#1",), ())
    assert found.feedback[1].record is measured.records[1]


def test_a_judge_is_asked_about_what_is_new() -> None:
    """One request for each run with the change; what was said before is kept."""

    def answer(request: LLMRequest) -> Any:
        if request.response_schema is None:
            return wrap(request)
        good = "B" in request.prompt.split("# Output")[1].split("#")[0]
        return {"reason": "Because.", "score": 1.0 if good else 0.25}

    measured = Measured(answer)
    measured.loss = LLMJudge("m", "Is it good?")
    (found,) = measured(chain(), "x", "y", outputs={"c": "B"})
    assert found.gain.mean == 0.75
    assert (found.requests, len(measured.asked)) == (0, 2)


def test_examples_without_a_score() -> None:
    """They are left out of the gain; a loss that fails for one costs that one only."""

    class Fussy(Loss):
        async def judge(self, record: RunRecord, target: Any) -> Feedback:
            if "y" in str(record.output):
                raise ValueError("not this one")
            return Feedback("", float("B" in record.output))

    measured = Measured()
    measured.loss = Fussy()
    (found,) = measured(chain(), "x", "y", parameters={"b.system_prompt": "B"})
    assert (found.before, found.after) == ((0.0, None), (1.0, None))
    assert (found.gain.n, found.gain.mean) == (1, 1.0)


def test_an_endpoint_that_dies() -> None:
    """A run without an answer says nothing; if there is none at all it is an error."""

    def answer(request: LLMRequest) -> Any:
        dead = request.system == "B" and "y" in request.prompt
        return EndpointConnectionError("it is gone") if dead else wrap(request)

    measured = Measured(answer)
    (found,) = measured(chain(), "x", "y", parameters={"b.system_prompt": "B"})
    assert found.after == (1.0, None)
    assert isinstance(found.feedback[1].error, EndpointConnectionError)
    with pytest.raises(TrainingError, match="not one of 1 runs got an answer"):
        Measured(answer)(chain(), "y", parameters={"b.system_prompt": "B"})


async def plain(records: Any, targets: Any) -> list[Feedback]:
    """A loss that is a function, and makes no difference between errors."""
    pairs = zip(records, targets, strict=True)
    return [Feedback("", float(t in str(r.output)), record=r) for r, t in pairs]


@pytest.mark.parametrize("loss", [holds, plain])
def test_a_budget_that_is_gone(loss: Any) -> None:
    """It is raised; it is no low score."""
    measured = Measured()
    measured.loss = loss
    with pytest.raises(BudgetExceededError):
        measured(
            chain(),
            "x",
            parameters={"b.system_prompt": "B"},
            engine_options={"budget": Budget(requests=4)},
        )


def test_the_module_is_not_changed() -> None:
    """Nor does it keep a record alive."""
    measured, module = Measured(), chain()
    found = measured(module, "x", parameters={"b.system_prompt": "B"})
    assert module.b.system_prompt.value == "b"
    assert module.b.system_prompt.feedback == []
    made = found[0].feedback[0].record
    assert made is not None
    alive = weakref.ref(made.graph.nodes[0].target)
    del found, made
    gc.collect()
    assert alive() is None


# -- what is refused ----------------------------------------------------------------


def test_a_module_that_was_changed_since() -> None:
    """Its record is of another program; nothing is asked."""
    measured, module = Measured(), chain()

    def change() -> None:
        module.c.system_prompt.value = "C"

    with pytest.raises(UsageError, match="does not repeat its record: c#1 was given"):
        measured(module, "x", between=change, outputs={"a": "B"})
    assert measured.asked == []


def test_a_forward_that_draws() -> None:
    """A random number in forward is no change of the prompt: refused."""
    rng, measured = random.Random(0), Measured()
    module = Net(lambda m, x: m.a(f"{x} {rng.random()}"), "a")
    with pytest.raises(UsageError, match="a forward that depends on its inputs only"):
        measured(module, "x", outputs={"a": "B"})
    assert measured.asked == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, UsageError, "attribute has nothing to change: give parameters="),
        (
            {"parameters": {"d.system_prompt": "D"}},
            UsageError,
            "parameters: Net has no 'd.system_prompt'; known: a.system_prompt",
        ),
        (
            {"parameters": {"a.system_prompt": " "}},
            UsageError,
            "must not be empty",
        ),
        ({"outputs": {"d#1": "D"}}, UsageError, "no record has a call 'd#1'; .*a#1"),
    ],
)
def test_changes_that_are_wrong(changes: Any, error: Any, message: str) -> None:
    """A message says what, and lists what there is; nothing is asked."""
    measured = Measured()
    with pytest.raises(error, match=message):
        measured(chain(), "x", **changes)
    assert measured.asked == []


def test_feedback_that_is_no_use() -> None:
    """Without a record, a score or anything at all, or without an engine."""
    record = Measured()
    record(chain(), "x", outputs={"a": "B"})
    bare = Feedback("", 1.0)
    unscored = Feedback("so so", None, record=record.records[0])

    async def measure(told: Any, engine: Any) -> None:
        await attribute(chain(), told, holds, engine=engine, outputs={"a": "B"})

    async def main(told: Any) -> None:
        async with Engine({"m": record.client}, progress=False) as engine:
            await measure(told, engine)

    for told, message in (
        (bare, "feedback 0 has no record to replay"),
        ([unscored], "no feedback has a score"),
    ):
        with pytest.raises(TrainingError, match=message):
            virtually(lambda told=told: main(told))
    with pytest.raises(UsageError, match="was given no feedback"):
        virtually(lambda: main(FeedbackBatch([])))
    with pytest.raises(UsageError, match="attribute has no engine to run Net with"):
        virtually(lambda: measure(bare, None))
