"""What is forgotten is gone: words, answers, versions; what is left is as before."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.claas.api_helpers import FakeVllm, until
from tests.claas.service_helpers import Service, service_in
from tests.claas.test_worker import Bench
from tests.claas.worker_helpers import LORA, FakeTeaching

from claas import storage
from claas.errors import NotFoundError, ServingError, TeachingError
from claas.types import Candidate
from claas.updates import Update

SECRET, TOLD = "aunt-polly-1876", "polly-was-here"


@pytest.fixture
def service(tmp_path: Path, upstream_url: str) -> Iterator[Service]:
    """Claas with the adapter ``ann/bot``."""
    with service_in(tmp_path, upstream_url) as found:
        yield found


def test_nothing_on_the_disk_holds_what_was_forgotten(
    service: Service, upstream: FakeVllm
) -> None:
    """Neither words nor answers nor versions; what else was said is learnt again."""
    service.say("shorter", "1", wait=True)
    upstream.words = [TOLD]
    receipt = service.say(SECRET, "2", wait=True, check={"required": SECRET})
    upstream.words = ["well"]
    service.say("louder", "3", wait=True)
    explained = {"feedback": "2", "wait": True}
    service.ann.post("/v1/lora/ann/bot/explain", json=explained)
    assert service.holds(SECRET) and service.holds(TOLD)
    told = service.forget(feedback=["2"])
    assert (told["outcome"], told["version"], told["removed"]) == (
        "forgotten",
        4,
        [2, 3],
    )
    assert service.holds(SECRET) == service.holds(TOLD) == []
    assert service.teaching.judged[-1] == ["v0", "v4", "louder", "shorter"]
    one = service.one()
    assert one["aliases"] == {"latest": 4, "live": 4}
    assert [v["version"] for v in one["versions"]] == [0, 1, 4]
    assert one["versions"][2]["batches"] == [["ann/1"], ["ann/3"]]
    states = {f["id"]: f["state"] for f in one["feedback"]}
    assert states == {"ann/1": "promoted", "ann/2": "forgotten", "ann/3": "promoted"}
    (gone,) = [f for f in one["feedback"] if f["id"] == "ann/2"]
    assert (gone["content"], gone["check"], gone["score"]) == ("", None, None)
    until(lambda: "ann-bot@v2" not in upstream.adapters)
    assert "ann-bot@v4" in upstream.adapters and "ann-bot@v3" not in upstream.adapters
    again = {"receipt": receipt, "kind": "critique", "content": SECRET, "id": "2"}
    assert service.ann.post("/v1/feedback", json=again).status_code == 404
    assert service.ann.post("/v1/lora/ann/bot@v3/rebuild", json={}).status_code == 202


def test_what_the_gate_refuses_is_forgotten_all_the_same(service: Service) -> None:
    """The last version before it serves, and what came later waits."""
    service.say("shorter", "1", wait=True)
    service.say(SECRET, "2", wait=True)
    service.say("louder", "3", wait=True)
    service.teaching.is_strict = True
    told = service.forget(feedback=["2"])
    assert (told["version"], told["removed"]) == (1, [2, 3])
    assert told["verdict"]["reasons"] == ["too strict"]
    one = service.one()
    assert (one["aliases"]["live"], one["open"]) == (1, 1)
    assert [f["state"] for f in one["feedback"]] == [
        *("promoted", "forgotten", "rejected"),
    ]
    why = one["feedback"][2]["marks"][-1]["why"]
    assert why == "feedback was forgotten: too strict" and service.holds(SECRET) == []
    service.teaching.is_strict = False
    service.say("slower", "4", wait=True)
    assert [f["state"] for f in service.one()["feedback"]] == [
        *("promoted", "forgotten", "promoted", "promoted"),
    ]


def test_answers_are_forgotten_with_all_that_was_said_of_them(
    service: Service, upstream: FakeVllm
) -> None:
    """Nothing is trained where nothing was learnt of it; others' are not found."""
    upstream.words = [TOLD]
    receipt = service.say("shorter", "1", train=False)
    more = {"receipt": receipt, "kind": "praise", "train": False}
    assert service.ann.post("/v1/feedback", json=more).status_code == 200
    told = service.forget(feedback=["1"])
    assert (told["version"], told["removed"]) == (0, [])
    assert service.holds(TOLD), "other feedback is about it"
    service.forget(receipts=[receipt])
    assert service.holds(TOLD) == [] and service.one()["open"] == 0
    for given, status in (
        ({}, 400),
        ({"feedback": ["9"]}, 404),
        ({"receipts": [receipt]}, 404),
    ):
        told = service.ann.post("/v1/lora/ann/bot/forget", json=given)
        assert told.status_code == status, told.text


def test_what_is_said_of_an_answer_meanwhile_is_forgotten_with_it(
    service: Service, upstream: FakeVllm
) -> None:
    """What was said since it was asked for, too; also where it is done twice."""
    upstream.words = [TOLD]
    receipt = service.say(SECRET, "1", wait=True)
    for removed in ([1], []):
        told = service.worker.forget("ann/bot", [], [receipt])
        assert (told["version"], told["removed"], told["kept"]) == (0, removed, [])
    assert service.one()["feedback"][0]["state"] == "forgotten"
    assert service.holds(SECRET) == service.holds(TOLD) == []


def test_an_answer_that_another_adapter_learns_from_stays(
    service: Service, upstream: FakeVllm
) -> None:
    """And it is said."""
    assert service.ann.post("/v1/lora", json={"lora": "ann/too"}).status_code == 201
    upstream.words = [TOLD]
    receipt, loras = service.answer("tiny"), ("ann/bot", "ann/too")
    said = [
        {"receipt": receipt, "lora": lora, "kind": "critique", "content": "shorter"}
        for lora in loras
    ]
    told = service.ann.post("/v1/feedback", json={"feedback": said, "train": False})
    assert told.status_code == 200, told.text
    for lora, kept in zip(loras, ([receipt], []), strict=True):
        given = {"receipts": [receipt], "wait": True}
        told = service.ann.post(f"/v1/lora/{lora}/forget", json=given).json()
        assert told["result"]["kept"] == kept
        assert bool(service.holds(TOLD)) is bool(kept)
    named = service.ann.post("/v1/lora/ann/bot@v0/forget", json={"feedback": ["1"]})
    assert named.status_code == 400 and "without a version" in named.text


def test_forgetting_that_was_interrupted_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was away, or the worker died: one version is made all the same."""
    bench = Bench(tmp_path)
    bench.update("be brief")
    bench.update("no emoji")
    bench.serving.is_down = True
    with pytest.raises(ServingError):
        bench.worker.forget(LORA, ["f2"], (), "one")
    assert bench.alias("live") == "ann/kuro@v2"
    bench.serving.is_down = False
    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete_lora", _dies)
        with pytest.raises(KeyboardInterrupt):
            bench.worker.forget(LORA, ["f2"], (), "one")
    told = bench.worker.forget(LORA, ["f2"], (), "one")
    assert (told["version"], told["removed"]) == (3, [2])
    trained = [row for row in bench.teaching.read() if row[0] == "train"]
    assert [row[2] for row in trained] == [["f1"], ["f2"], ["f1"]]
    assert bench.ledger.states() == {"f1": ("promoted", 1), "f2": ("forgotten", None)}
    with pytest.raises(NotFoundError, match="'f2' cannot be explained: it was forgot"):
        bench.worker.explain("ann/kuro@v3", "f2")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (TeachingError("it cannot follow this in context"), "in context"),
        (RuntimeError("a prompt is in here"), "it ended by RuntimeError"),
    ],
)
def test_what_cannot_be_made_again_goes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    """What was before serves; an update that was at its end promotes no more."""
    bench = Bench(tmp_path)
    bench.update("be brief", "no emoji")

    def train(*_: Any) -> Candidate:
        raise error

    monkeypatch.setattr(FakeTeaching, "train", train)
    told = bench.worker.forget(LORA, ["f2"], (), "one")
    assert told["error"].endswith(why) and told["version"] == 0
    assert bench.ledger.states()["f1"] == ("rejected", 0)
    bench.updates.add(Update("late", LORA, "promoted", parent=0, version=1))
    late = bench.worker.update(LORA, "late")
    assert late.outcome == "failed" and "was taken back" in late.error
    assert bench.alias("live") == "ann/kuro@v0"


def _dies(*_: Any) -> None:
    raise KeyboardInterrupt
