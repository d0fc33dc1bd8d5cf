"""Training examples with their targets as demonstrations, beside good runs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from tests.integration.engine_helpers import engines

from inf_engine import InferenceModule, LLMInference, UsageError
from inf_engine.optimization import (
    BootstrapDemos,
    CompositeLoss,
    DemoParameter,
    Trainer,
    VerifierLoss,
)
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest

Topic = Literal["room", "food", "money"]


@dataclass
class Sorted:
    """A typed answer of two fields."""

    topic: Topic
    sure: bool = True


class Sorter(InferenceModule):
    """Message in, topic out."""

    def __init__(self, kind: Any = Topic, after: Callable[[Any], Any] = list) -> None:
        super().__init__()
        self.llm: LLMInference[Any] = LLMInference(
            "m",
            response_format=kind,
            demos=DemoParameter(max_tokens=None),
            max_reasks=0,
        )
        self.after = after

    def forward(self, text: str) -> Any:
        answer = self.llm(text)
        return answer if self.after is list else self.after(answer)


class Twice(InferenceModule):
    """The same demonstrations in two calls: nobody knows whose answer a target is."""

    def __init__(self) -> None:
        super().__init__()
        self.llm: LLMInference[str] = LLMInference("m", demos=DemoParameter())

    def forward(self, text: str) -> Any:
        return self.llm(f"again {self.llm(text)}")


def sorter(request: LLMRequest) -> str:
    """Knows the topics of the messages that it is shown, and that of rooms."""
    topics = [m.text for m in request.messages if m.role == "assistant"]
    wanted = request.prompt.split()[0]
    knows = wanted == "room" or any(wanted in topic for topic in topics)
    return json.dumps({"value": wanted if knows else "room"})


def pairs(*numbers: int) -> list[tuple[str, str]]:
    """Messages with their topics, of which every third is about a room."""
    topics = ("room", "food", "money")
    return [(f"{topics[k % 3]} message {k}", topics[k % 3]) for k in numbers]


TRAIN, VAL = pairs(*range(9)), pairs(*range(20, 32))


def trained(
    module: InferenceModule | None = None,
    client: Any = sorter,
    data: Any = (TRAIN, VAL),
    loss: Any = None,
    **options: Any,
) -> tuple[Any, Any, FunctionClient]:
    """Train demonstrations; return the module, the result and the client."""
    module = Sorter() if module is None else module
    optimizer = BootstrapDemos(module.parameters(), **options)
    judge = VerifierLoss(lambda output, target: output == target)
    asked = FunctionClient(client)

    async def body(engine: Any) -> Any:
        parts = (module, judge if loss is None else loss(judge), optimizer)
        trainer = Trainer(*parts, engine=engine, rollouts=200, batch_size=4)
        return await trainer.fit(*data)

    return module, engines(body, asked), asked


def shown(client: FunctionClient) -> list[list[tuple[str, str]]]:
    """Return the turns of each request that shows some."""
    found = []
    for request in client.requests:
        texts = [m.text for m in request.messages[:-1]]
        found += [list(zip(texts[::2], texts[1::2], strict=True))] if texts else []
    return found


def labels(turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the turns that no run can have given: the model knows rooms only."""
    return [turn for turn in turns if not turn[0].startswith("room")]


def test_targets_teach_what_the_module_never_got_right() -> None:
    """Without them the model is shown rooms only, and learns nothing."""
    module, result, client = trained(labelled=2)
    assert result.baseline.mean == pytest.approx(1 / 3)
    assert result.score.mean == 1.0
    best = module.llm.demos.demos
    assert {str(d.output["value"]) for d in best} >= {"food", "money"}
    for turns in shown(client):
        assert len(labels(turns)) <= 2
        assert len(turns) <= 4
        assert all(answer == json.dumps({"value": q.split()[0]}) for q, answer in turns)
    alone, none, asked = trained()
    assert none.gain.gain.mean == 0
    assert not any(labels(turns) for turns in shown(asked))
    assert alone.llm.demos.demos == ()


def test_the_reason_in_the_lineage_tells_of_targets() -> None:
    """What was not learned from a run is not said to be."""
    _, result, _ = trained(labelled=2)
    reasons = {c.reason for d in result.history.decisions for c in d.changes}
    assert reasons == {"calls of training runs that scored well, and targets of others"}


def test_no_target_of_an_example_under_test_is_shown() -> None:
    """Held-out examples that are training examples too give none."""
    _, _, client = trained(data=(TRAIN, [*VAL, *pairs(1, 2, 4)]), labelled=4)
    both = {text for text, _ in pairs(1, 2, 4)}
    labelled = [turn[0] for turns in shown(client) for turn in labels(turns)]
    assert labelled
    assert not both & set(labelled)


def test_targets_reach_it_through_a_composite_loss() -> None:
    """And where the run failed, as it does where the answer has a wrong form."""

    def broken(request: LLMRequest) -> str:
        return sorter(request) if len(request.messages) > 1 else "I think room"

    both = lambda judge: CompositeLoss({"right": judge})  # noqa: E731
    module, result, _ = trained(client=broken, loss=both, labelled=4)
    assert result.baseline.mean == 0.0
    assert result.score.mean > 0.5
    assert all(demo.source for demo in module.llm.demos.demos)


TYPED = [(text, Sorted(topic, False)) for text, topic in TRAIN]  # ty: ignore


@pytest.mark.parametrize(
    ("module", "data", "answer"),
    [
        (Sorter(None), TRAIN, "food"),
        (Sorter(Sorted), TYPED, '{"topic": "food", "sure": false}'),
        (
            Sorter(Sorted),
            [(text, {"topic": topic, "sure": False}) for text, topic in TRAIN],
            '{"topic": "food", "sure": false}',
        ),
        (
            Sorter(list[str]),
            [(t, [topic]) for t, topic in TRAIN],
            '{"value": ["food"]}',
        ),
    ],
)
def test_a_target_is_shown_in_the_form_of_the_answer(
    module: Any, data: Any, answer: str
) -> None:
    """Text as text, all else as the JSON that the model writes."""
    wrong = {Topic: "{}"}.get(module.llm.response_format, "[]")
    _, _, client = trained(
        module, lambda r: wrong, (data, VAL), labelled=1, candidates=1
    )
    answers = {a for turns in shown(client) for q, a in turns if q[:4] == "food"}
    assert answers == {answer}


@pytest.mark.parametrize(
    ("module", "data"),
    [
        (Sorter(), [(text, "weather") for text, _ in TRAIN]),
        (Sorter(), [(text, None) for text, _ in TRAIN]),
        (Sorter(None), [(text, 3) for text, _ in TRAIN]),
        (Sorter(None), [(text, " ") for text, _ in TRAIN]),
        (Sorter(Sorted), [(text, {"topic": topic}) for text, topic in TRAIN]),
        (Sorter(None, lambda answer: f"topic: {answer}"), TRAIN),
        (Twice(), TRAIN),
    ],
)
def test_what_is_no_answer_of_the_call_is_not_shown(module: Any, data: Any) -> None:
    """A wrong form, a missing field, an answer that is worked on, two calls."""
    answer = '{"topic": "room"}' if module.llm.response_format is Sorted else "{}"
    client = lambda r: answer if module.llm.response_format else "a room"  # noqa: E731
    _, _, asked = trained(module, client, (data, VAL), labelled=4, candidates=2)
    assert shown(asked) == []


@pytest.mark.parametrize(
    ("labelled", "said"),
    [(-1, "labelled=-1: give a whole"), (5, "labelled=5 is more than max_demos=4")],
)
def test_a_wrong_number_is_refused(labelled: int, said: str) -> None:
    """With what to give instead."""
    module = Sorter()
    with pytest.raises(UsageError, match=said):
        BootstrapDemos(module.parameters(), labelled=labelled)
