"""Feedback on a pipeline reaches the server that trains the model behind an alias."""

from collections.abc import Mapping
from typing import Any

import pytest
from tests.integration.claas_helpers import URL, Server
from tests.integration.engine_helpers import virtually

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.clients.transport import HttpResponse
from inf_engine.errors import (
    ConfigurationError,
    EndpointConnectionError,
    ParameterValueError,
    TrainingError,
    UsageError,
)
from inf_engine.optimization import AdapterOptimizer, AdapterParameter
from inf_engine.optimization.adapters import Lesson, lessons_of
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.notes import Note
from inf_engine.types import LLMRequest, LLMResponse


class Numbered:
    """A client whose answers have ids."""

    def __init__(self) -> None:
        self.count = 0

    async def complete(self, request: LLMRequest) -> LLMResponse:
        self.count += 1
        return LLMResponse(text=f"<{request.prompt}>", id=f"r{self.count}")


class Desk(InferenceModule):
    """A draft by the tuned model, then one of the same or of another alias."""

    def __init__(self, last: str = "tuned") -> None:
        super().__init__()
        self.weights = AdapterParameter("tuned")
        self.style = Parameter("Be kind.", "the style")
        self.draft = LLMInference(self.weights, self.style)
        self.final = LLMInference(self.weights if last == "tuned" else last)

    def forward(self, text: str) -> str:
        return self.final(self.draft(text))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the server."""
    monkeypatch.setenv("CLAAS_API_KEY", "secret")


def taught(desk: Desk, **said: Any) -> None:
    """Run the module once and flow something said of it back."""

    async def main() -> None:
        clients = {"tuned": Numbered(), "other": Numbered()}
        async with Engine(clients, progress=False) as engine:
            [result] = await engine.map(desk, ["hi"], record=True)
            told: dict[str, Any] = {"content": "Too long.", "score": 0.2, **said}
            await Feedback(record=result.record, **told).backward()

    virtually(main)


def test_each_answer_of_the_model_is_named_with_what_was_said() -> None:
    desk, server = Desk(), Server()
    taught(desk)
    optimizer = AdapterOptimizer(desk.parameters(), url=URL, transport=server)
    step = virtually(optimizer.step)
    assert server.asked == [(f"{URL}/v1/feedback", "Bearer secret")]
    critique = "critique", "Too long."
    assert sorted(server.said) == [("r1", *critique), ("r2", *critique)]
    assert server.bodies[0]["wait"] is True
    assert {row["score"] for row in server.bodies[0]["feedback"]} == {0.2}
    [update] = step.updates
    assert (update.lora, update.state, update.version) == ("ann/kuro", "promoted", 3)
    assert update.reasons == ("it obeys",)
    assert update.figures == {
        "training": {"steps": 4},
        "gate": {"drift": {"after": 0.1}},
    }
    assert step.is_promoted
    assert desk.weights.feedback == []
    assert desk.style.feedback != [], "the prompt's notes are another optimizer's"


def test_a_check_goes_with_every_lesson() -> None:
    desk, server = Desk(), Server()
    taught(desk)
    check = {"required": "kuro", "most_words": 9}
    both: dict[str, Any] = {"url": URL, "transport": server}
    virtually(AdapterOptimizer(desk.parameters(), check=check, **both).step)
    rows = server.bodies[-1]["feedback"]
    assert [row["check"] for row in rows] == [check, check]
    taught(desk)
    virtually(AdapterOptimizer(desk.parameters(), **both).step)
    assert all("check" not in row for row in server.bodies[-1]["feedback"])


def test_the_same_words_with_another_check_are_another_lesson() -> None:
    """The server would refuse one id for both; the order of a check's parts is none."""
    some = ({"required": "a", "most_words": 9}, {"most_words": 9, "required": "a"})
    ids = [
        Lesson("r1", "critique", "Too long.", score, check).form["id"]
        for score, check in ((0.2, None), (None, {}), (0.2, some[0]), (0.2, some[1]))
    ]
    other = Lesson("r1", "critique", "Too long.", check={"required": "b"}).form["id"]
    assert ids[0] == ids[1] and ids[2] == ids[3]
    assert len({*ids, other}) == 3


def test_only_the_answers_of_its_own_model_are_named() -> None:
    desk, server = Desk("other"), Server()
    taught(desk)
    step = virtually(AdapterOptimizer([desk.weights], url=URL, transport=server).step)
    assert server.said == [("r1", "critique", "Too long.")]
    assert step.untaught == 0


def test_the_right_answer_is_the_lesson_where_it_is_known() -> None:
    """Of the call that gave the output; the one before gets the words."""
    desk, server = Desk(), Server()
    taught(desk, target="Hello!")
    virtually(AdapterOptimizer([desk.weights], url=URL, transport=server).step)
    assert sorted(server.said) == [
        ("r1", "critique", "Too long."),
        ("r2", "correction", "Hello!"),
    ]


def test_what_was_right_is_praised() -> None:
    desk, server = Desk(), Server()
    taught(desk, score=1.0, content="Good.", target="Hello!")
    virtually(AdapterOptimizer([desk.weights], url=URL, transport=server).step)
    assert {kind for _, kind, _ in server.said} == {"praise"}


def test_the_same_lesson_has_the_same_id() -> None:
    ids = []
    for _ in range(2):
        desk, server = Desk(), Server()
        taught(desk)
        virtually(AdapterOptimizer([desk.weights], url=URL, transport=server).step)
        ids.append([row["id"] for row in server.bodies[0]["feedback"]])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


def test_without_feedback_nothing_is_sent() -> None:
    desk, server = Desk(), Server()
    step = virtually(AdapterOptimizer([desk.weights], url=URL, transport=server).step)
    assert (server.bodies, step.updates, step.is_promoted) == ([], (), False)


def test_a_note_on_no_answer_is_counted() -> None:
    """There is nothing that the server could train on."""
    desk, server = Desk(), Server()
    desk.weights.accumulate_feedback(Note("Too long.", 0.2))
    step = virtually(AdapterOptimizer([desk.weights], url=URL, transport=server).step)
    assert (server.bodies, step.untaught, desk.weights.feedback) == ([], 1, [])


def test_lessons_can_be_sent_by_themselves() -> None:
    """What waits on the weights is left alone."""
    desk, server = Desk(), Server()
    taught(desk)
    optimizer = AdapterOptimizer([desk.weights], url=URL, transport=server)
    lessons = lessons_of(optimizer.adapters[0].feedback[:1])
    step = virtually(lambda: optimizer.teach(lessons))
    assert (len(server.said), len(step.lessons), step.is_promoted) == (1, 1, True)
    assert (len(desk.weights.feedback), optimizer.steps) == (2, 1)


def test_frozen_weights_are_left_alone() -> None:
    desk, server = Desk(), Server()
    desk.weights.requires_grad_(False)
    taught(desk)
    both = [desk.weights, desk.style]
    virtually(AdapterOptimizer(both, url=URL, transport=server).step)
    assert server.bodies == []


@pytest.mark.parametrize(
    ("job", "state", "reason"),
    [
        ({"state": "failed", "why": "no memory"}, "failed", "no memory"),
        ({"state": "running"}, "running", ""),
        (
            {
                "state": "done",
                "result": {
                    "outcome": "unteachable",
                    "untaught": {"1": "no", "2": "no"},
                },
            },
            *("unteachable", "no"),
        ),
        (
            {"state": "done", "result": {"outcome": "failed", "error": "diverged"}},
            *("failed", "diverged"),
        ),
    ],
)
def test_what_came_of_it_is_told(job: Any, state: str, reason: str) -> None:
    desk, server = Desk(), Server(jobs=[{"lora": "ann/kuro", **job}])
    taught(desk)
    step = virtually(AdapterOptimizer([desk.weights], url=URL, transport=server).step)
    [update] = step.updates
    assert update.state == state
    assert "".join(update.reasons) == reason
    assert not step.is_promoted


def test_a_refusal_loses_nothing() -> None:
    """The notes stay; the next step sends them."""
    desk = Desk()
    server = Server(404, error={"message": "there is no receipt r1"})
    taught(desk)
    optimizer = AdapterOptimizer([desk.weights], url=URL, transport=server)
    with pytest.raises(TrainingError, match="answered 404: there is no receipt r1"):
        virtually(optimizer.step)
    server.is_dead = True
    with pytest.raises(EndpointConnectionError):
        virtually(optimizer.step)
    assert (len(desk.weights.feedback), optimizer.steps) == (2, 0)
    server.is_dead, server.status, server.answer = False, 200, {"jobs": []}
    virtually(optimizer.step)
    assert (len(server.said), desk.weights.feedback) == (2, [])


def test_a_page_in_place_of_the_server_is_named() -> None:
    desk = Desk()
    taught(desk)

    class Page(Server):
        async def send(
            self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
        ) -> HttpResponse:
            return HttpResponse(200, {}, b"<html>")

    optimizer = AdapterOptimizer([desk.weights], url=URL, transport=Page())
    with pytest.raises(TrainingError, match="no CLaaS server speaks there"):
        virtually(optimizer.step)


def test_without_a_key_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLAAS_API_KEY")
    desk, server = Desk(), Server()
    taught(desk)
    optimizer = AdapterOptimizer([desk.weights], url=URL, transport=server)
    with pytest.raises(ConfigurationError, match="set CLAAS_API_KEY"):
        virtually(optimizer.step)
    assert server.bodies == []


def test_an_adapter_stays_behind_its_alias() -> None:
    desk = Desk()
    assert (desk.draft.alias, desk.weights.value) == ("tuned", "tuned")
    with pytest.raises(ParameterValueError, match="make another AdapterParameter"):
        desk.weights.value = "fast"
    assert desk.state_dict()["weights"] == "tuned"


def test_there_must_be_an_adapter() -> None:
    desk = Desk()
    with pytest.raises(UsageError, match="got no AdapterParameter"):
        AdapterOptimizer([desk.style], url=URL)


def test_it_neither_proposes_nor_searches() -> None:
    desk = Desk()
    optimizer = AdapterOptimizer([desk.weights], url=URL, transport=Server())
    with pytest.raises(UsageError, match="call step"):
        virtually(optimizer.propose)
    with pytest.raises(UsageError, match="loop of your own"):
        virtually(lambda: optimizer.search(None))  # ty: ignore[invalid-argument-type]
