"""A version that is surely rated worse than the one before is taken back, by itself."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.claas.api_helpers import Claas, FakeVllm
from tests.claas.service_helpers import Service, service_in

from claas.errors import StorageError
from claas.intervals import evidence
from claas.jobs import Jobs
from claas.ratings import Ratings
from claas.types import Receipt
from claas.updates import Update

QUICK = {"least": 4, "confidence": 0.8}


@pytest.fixture
def service(tmp_path: Path, upstream_url: str) -> Iterator[Service]:
    """Claas with the adapter ``ann/bot``, quick to judge."""
    with service_in(tmp_path, upstream_url, ratings=QUICK) as found:
        yield found


def rate(service: Service, *ratings: float, model: str = "ann/bot") -> Any:
    """Rate as many new answers; return what was said of the last one."""
    for rating in ratings:
        given = {"receipt": service.answer(model), "rating": rating}
        told = service.ann.post("/v1/rate", json=given)
        assert told.status_code == 200, told.text
    return told.json()


def test_a_version_that_is_worse_is_taken_back(
    service: Service, upstream: FakeVllm
) -> None:
    """It is said everywhere, and nothing but a person promotes it again."""
    rate(service, *[1.0] * 8)
    service.say("shorter", "1", wait=True)
    told = [rate(service, 0.0)["rollback"] for _ in range(4)]
    assert told[:3] == [None] * 3
    why = "ratings fell from 1.00 (version 0) to 0.00 (version 1) over 4 answers each"
    assert (told[3]["from"], told[3]["to"]) == (1, 0)
    assert told[3]["why"].startswith(why)
    one = service.one()
    assert one["aliases"]["live"] == 0 and one["open"] == 0
    assert [v["ratings"]["count"] for v in one["versions"]] == [8, 4]
    assert [v["ratings"]["mean"] for v in one["versions"]] == [1.0, 0.0]
    job = one["updates"][-1]
    assert (job["kind"], job["result"]["outcome"]) == ("rollback", "rolled_back")
    (said,) = one["feedback"]
    assert said["state"] == "dropped" and said["marks"][-1]["why"].startswith(why)
    given = {"feedback": "1", "wait": True}
    explained = service.ann.post("/v1/lora/ann/bot/explain", json=given).json()
    assert explained["marks"][-1]["why"].startswith(why)
    assert "claas_rollbacks_total 1" in service.ann.get("/metrics").text
    late = Update("late", "ann/bot", "promoted", parent=0, version=1)
    service.worker.updates.add(late)
    assert service.worker.update("ann/bot", "late").outcome == "failed"
    assert service.one()["aliases"]["live"] == 0
    ahead = service.ann.post("/v1/lora/ann/bot/promote", json={"version": 1})
    assert ahead.json()["aliases"]["live"] == 1
    assert rate(service, 0.0)["rollback"] is None, "a person has decided"


def test_what_cannot_be_noted_is_told_all_the_same(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version was taken back, though the disk had no room to say so."""

    def note(*_: Any) -> None:
        raise StorageError("the disk is full")

    rate(service, *[1.0] * 4)
    service.say("shorter", "1", wait=True)
    monkeypatch.setattr(Jobs, "note", note)
    assert rate(service, *[0.0] * 4)["rollback"]["to"] == 0
    assert service.one()["aliases"]["live"] == 0


def test_a_version_that_is_as_good_stays(service: Service) -> None:
    """Nor is anything done without a version before, or with too few ratings."""
    rate(service, *[0.0] * 6)
    rate(service, *[0.5, 1.0] * 4)
    service.say("shorter", "1", wait=True)
    rate(service, *[1.0, 0.5] * 8)
    assert service.one()["aliases"]["live"] == 1


@pytest.mark.parametrize(
    ("ratings", "is_back"),
    [
        (QUICK, True),
        ({**QUICK, "least": 7}, False),
        ({**QUICK, "confidence": 0.999}, False),
        ({**QUICK, "least": 0}, False),
    ],
)
def test_how_sure_it_must_be_is_a_setting(
    tmp_path: Path, upstream_url: str, ratings: dict, is_back: bool
) -> None:
    """Scores of feedback are ratings, too; the first of an answer counts."""
    with service_in(tmp_path, upstream_url, ratings=ratings) as service:
        for number in range(6):
            judged = {"kind": "judge", "score": 1.0, "train": False}
            service.say("good", f"a{number}", **judged)
        service.say("shorter", "1", wait=True)
        assert service.one()["aliases"]["live"] == 1
        for number in range(6):
            judged = {"kind": "judge", "score": 0.0, "train": False}
            receipt = service.say("bad", f"b{number}", **judged)
        said = {"receipt": receipt, "content": "no", **judged, "score": 0.1}
        assert service.ann.post("/v1/feedback", json=said).status_code == 200
        told = {"count": 4 if is_back else 6, "mean": 0.0}
        assert service.one()["versions"][1]["ratings"] == told
        assert service.one()["aliases"]["live"] == (0 if is_back else 1)


def test_a_server_that_is_away_loses_no_rating(
    service: Service, upstream: FakeVllm
) -> None:
    """The old version cannot be loaded: it is tried again with the next rating."""
    rate(service, *[1.0] * 9)
    service.say("shorter", "1", wait=True)
    del upstream.adapters["ann-bot@v0"]
    live = service.folder / "ann" / "bot" / "v0" / "adapter_config.json"
    text = live.read_bytes()
    live.write_bytes(b"{}")
    assert rate(service, *[0.0] * 5)["rollback"] is None
    assert service.one()["aliases"]["live"] == 1
    live.write_bytes(text)
    assert rate(service, 0.0)["rollback"]["to"] == 0


def test_an_answer_is_rated_once(claas: Claas, ann: httpx.Client) -> None:
    """By whoever got it, of an adapter, from 0 to 1."""

    def asked(model: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        told = ann.post("/v1/chat/completions", json=body)
        return told.headers["x-claas-receipt"]

    receipt = asked("ann/bot")
    for rating, status in ((0.5, 200), (0.5, 200), (0.6, 409), (1.5, 400)):
        told = ann.post("/v1/rate", json={"receipt": receipt, "rating": rating})
        assert told.status_code == status, told.text
    said: dict[str, Any] = {
        "model": "ann/bot",
        "prompt": "hello",
        "response": "well",
        "train": False,
    }
    said |= {"kind": "judge", "score": 1.0}
    other = ann.post("/v1/distill", json=said).json()["feedback"][0]["receipt"]
    for strange in (asked("tiny"), other):
        told = ann.post("/v1/rate", json={"receipt": strange, "rating": 1})
        assert told.status_code == 400 and "no adapter gave" in json.dumps(told.json())
    assert Ratings(claas.database).of("ann/bot", 0) == [0.5]
    with claas.client("bob") as bob:
        told = bob.post("/v1/rate", json={"receipt": receipt, "rating": 0.5})
        assert told.status_code == 404
    assert claas.trainer.calls.count(("watch", "ann/bot")) == 1
    assert ann.delete("/v1/lora/ann/bot").status_code == 200
    assert Ratings(claas.database).means("ann/bot") == {}


def test_looking_after_every_rating_makes_nothing_up() -> None:
    """Of 400 versions as good as the one before, at most 5 % are ever taken back; of
    those that are worse nearly all, within a hundred ratings."""
    chance = random.Random(0)

    def falls(old: float, new: float) -> bool:
        before, after = (
            [float(chance.random() < share) for _ in range(150)] for share in (old, new)
        )
        return evidence(before, after, 10) >= 20

    assert sum(falls(0.7, 0.7) for _ in range(400)) <= 20
    steady = [0.7] * 150  # the same mean, another variance
    for known in (True, False):
        draws = ([float(chance.random() < 0.7) for _ in steady] for _ in range(100))
        pairs = ((steady, some) if known else (some, steady) for some in draws)
        assert sum(evidence(*pair, 10) >= 20 for pair in pairs) <= 7
    assert sum(falls(0.8, 0.5) for _ in range(100)) >= 95


def test_ratings_are_paired_away_from_the_switch(claas: Claas) -> None:
    """The last of the version before first; what is rated late comes last, so that no
    rating changes its place."""
    ratings = Ratings(claas.database)
    given = ((0, 0.1), (0, 0.2), (1, 0.3), (0, 0.4), (1, 0.5), (0, 0.6))
    for number, (version, rating) in enumerate(given):
        if number == 2:
            assert ratings.pair("ann/bot", 0, 1) == ([0.2, 0.1], [])
        receipt = Receipt(f"r{number}", "ann", "ann/bot", version, (), (), (), (), "")
        ratings.add(receipt, rating)
    assert ratings.pair("ann/bot", 0, 1) == ([0.2, 0.1, 0.4, 0.6], [0.3, 0.5])


def test_the_evidence_is_what_a_bettor_has() -> None:
    """Of two pairs, by hand; what came before the least number does not count."""
    bets = [share / 10 for share in range(1, 10)]
    one = sum(1 + bet for bet in bets) / 9
    two = sum((1 + bet) * (1 - bet / 2) for bet in bets) / 9
    assert evidence([1, 0.5], [0, 1.0, 1.0], 1) == pytest.approx(max(one, two))
    assert evidence([1, 0.5], [0, 1.0], 2) == pytest.approx(two)
    assert evidence([1.0] * 9, [0.0] * 9, 10) == 0
