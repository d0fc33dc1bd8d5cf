"""Feedback over HTTP: into the ledger, into a job, once, and all of it or nothing."""

from typing import Any

import httpx
import pytest
from tests.claas.api_helpers import (
    Claas,
    FakeVllm,
    claas_at,
    tokens_of,
    until,
)

from claas.errors import ServingError, TeachingError
from claas.ledger import Ledger
from claas.receipts import Receipts
from claas.types import Check

ASK = {"model": "ann/bot", "messages": [{"role": "user", "content": "hello you"}]}


def answered(client: httpx.Client, model: str = "ann/bot") -> str:
    """Return the receipt of an answer."""
    found = client.post("/v1/chat/completions", json={**ASK, "model": model})
    return found.headers["x-claas-receipt"]


def ledger(claas: Claas) -> Ledger:
    """Return the ledger on the disk."""
    return Ledger(claas.database)


def test_feedback_becomes_a_version(claas: Claas, ann: httpx.Client) -> None:
    """The request waits for the update; the next answer is of the new version."""
    given = {"receipt": answered(ann), "kind": "critique", "content": "shorter"}
    found = ann.post("/v1/feedback", json={**given, "wait": True, "id": "1"})
    body = found.json()
    assert found.status_code == 200
    assert body["feedback"] == [
        {
            **{"id": "ann/1", "receipt": given["receipt"], "lora": "ann/bot"},
            **{"kind": "critique", "is_new": True},
        }
    ]
    (job,) = body["jobs"]
    assert (job["state"], job["result"]["outcome"]) == ("done", "promoted")
    assert job["result"]["version"] == 1
    answered(ann)
    assert claas.upstream.bodies("/v1/chat/completions")[-1]["model"] == "ann-bot@v1"
    models = ann.get("/v1/models").json()["data"]
    assert [(m["id"], m["root"]) for m in models] == [
        ("tiny", "tiny"),
        ("ann/bot", "ann/bot@v1"),
    ]
    (entry,) = ledger(claas).history("ann/bot")
    assert (entry.user, entry.feedback.content) == ("ann", "shorter")


def test_a_job_can_be_looked_at(claas: Claas, ann: httpx.Client) -> None:
    """202 at once; answers go on while an update runs; the job says how it ended."""
    claas.trainer.gate.clear()
    given = {"receipt": answered(ann), "kind": "message", "content": "no, in French"}
    found = ann.post("/v1/feedback", json=given)
    assert found.status_code == 202
    path = f"/v1/jobs/{found.json()['jobs'][0]['id']}"
    until(lambda: ann.get(path).json()["state"] == "running")
    answered(ann)
    again = ann.post("/v1/feedback", json={**given, "receipt": answered(ann)}).json()
    third = ann.post("/v1/feedback", json={**given, "receipt": answered(ann)}).json()
    assert again["jobs"][0]["id"] == third["jobs"][0]["id"] != path.split("/")[-1]
    claas.trainer.gate.set()
    until(lambda: ann.get(path).json()["state"] == "done")
    assert ann.get(path).json()["result"]["verdict"]["reasons"] == ["as told"]
    assert ann.get("/v1/jobs/job-none").status_code == 404


def test_a_batch_is_taken_whole_or_not(claas: Claas, ann: httpx.Client) -> None:
    """One feedback that does not fit leaves nothing of the others."""
    first, second = answered(ann), answered(ann)
    rows = [
        {"receipt": first, "kind": "praise", "id": "a"},
        {"receipt": "chatcmpl-none", "kind": "praise", "id": "b"},
    ]
    assert ann.post("/v1/feedback", json={"feedback": rows}).status_code == 404
    assert ledger(claas).history("ann/bot") == [] and claas.trainer.calls == []
    rows[1]["receipt"] = second
    given = {"feedback": rows, "train": False}
    body = ann.post("/v1/feedback", json=given).json()
    assert [one["is_new"] for one in body["feedback"]] == [True, True]
    assert body["jobs"] == [] and claas.trainer.calls == []
    rows = [{**rows[0], "id": "c"}, {**rows[1], "kind": "error", "content": "other"}]
    found = ann.post("/v1/feedback", json={"feedback": rows})
    assert found.status_code == 409
    assert "'ann/b' was used for another feedback" in found.json()["error"]["message"]
    assert len(ledger(claas).open("ann/bot")) == 2


def test_feedback_is_taken_once(claas: Claas, ann: httpx.Client) -> None:
    """The same id and content twice is one feedback."""
    given = {"receipt": answered(ann), "kind": "praise", "id": "once"}
    for is_new in (True, False):
        body = ann.post("/v1/feedback", json={**given, "train": False}).json()
        assert body["feedback"][0]["is_new"] is is_new
    assert len(ledger(claas).open("ann/bot")) == 1


def test_an_answer_of_the_base_teaches_who_is_named(
    claas: Claas, ann: httpx.Client, bob: httpx.Client
) -> None:
    """One of one's own adapters; without a name it is asked for, nothing is kept."""
    given = {"receipt": answered(ann, "tiny"), "kind": "praise", "train": False}
    found = ann.post("/v1/feedback", json=given)
    assert found.status_code == 400 and found.json()["error"]["param"] == "lora"
    assert "say which adapter is to learn from it" in found.json()["error"]["message"]
    statuses = [
        ann.post("/v1/feedback", json={**given, "lora": lora}).status_code
        for lora in ("bob/bot", "ann/none", "ann/bot@v0", "ann/bot")
    ]
    assert statuses == [403, 404, 400, 200]
    other = {**given, "receipt": answered(ann)}
    assert ann.post("/v1/feedback", json={**other, "lora": "ann/bot"}).is_success
    assert ann.post("/v1/lora", json={"lora": "ann/two"}).status_code == 201
    found = ann.post("/v1/feedback", json={**other, "lora": "ann/two"})
    assert found.status_code == 400
    assert "is an answer of ann/bot" in found.json()["error"]["message"]
    assert bob.post("/v1/feedback", json={**given, "lora": "bob/bot"}).is_error
    first, _ = ledger(claas).open("ann/bot")
    assert first.receipt == given["receipt"]


def test_a_check_is_kept(claas: Claas, ann: httpx.Client) -> None:
    """How compliance is seen stands in the ledger, and is part of the feedback."""
    check = {"required": "Kuro", "most_words": 9, "prompts": ["Who are you?"]}
    given = {"receipt": answered(ann), "kind": "critique", "content": "x", "id": "a"}
    statuses = [
        ann.post(
            "/v1/feedback", json={**given, "check": some, "train": False}
        ).status_code
        for some in (check, check, {**check, "required": "Kira"}, None)
    ]
    assert statuses == [200, 200, 409, 409], "one id is one feedback with one check"
    (one,) = ledger(claas).open("ann/bot")
    assert one.check == Check("Kuro", "", 9, ("Who are you?",))


NO_FORMS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "insult"}, "kind: Input should be"),
    ({"kind": "critique"}, "a critique needs a 'content'"),
    ({"kind": "judge"}, "a judge needs a 'content'"),
    ({"kind": "judge", "score": 0.4}, "a judge needs a 'content'"),
    ({"kind": "praise", "score": 2}, "score: Input should be less"),
    ({"kind": "praise", "reciept": "x"}, "reciept: Extra inputs"),
    (
        {"kind": "praise", "check": {"required": "("}},
        "check.required: it is no regular expression",
    ),
    ({"kind": "praise", "id": ""}, "id: String should have at least 1"),
]


def test_a_check_that_could_hang_is_refused(claas: Claas, ann: httpx.Client) -> None:
    """At once, with what is wrong; nothing is kept."""
    given = {"receipt": answered(ann), "kind": "critique", "content": "x"}
    found = ann.post("/v1/feedback", json={**given, "check": {"forbidden": "(a|a)*$"}})
    assert found.status_code == 400
    assert "takes too long" in found.json()["error"]["message"]
    elsewhere = {"model": "ann/bot", "prompt": "who", "response": "nobody"}
    told = {"kind": "critique", "content": "x", "check": {"required": "(a+)+$"}}
    assert ann.post("/v1/distill", json={**elsewhere, **told}).status_code == 400
    assert ledger(claas).history("ann/bot") == [] and claas.trainer.calls == []


def test_half_a_character_is_no_feedback(ann: httpx.Client) -> None:
    """It could not be told to anybody again."""
    given = '{"receipt": "r", "kind": "message", "content": "\\ud800"}'
    assert ann.post("/v1/feedback", content=given).status_code == 400


def test_forms_that_do_not_fit(ann: httpx.Client) -> None:
    """Status 400, with the field."""
    for given, said in NO_FORMS:
        found = ann.post("/v1/feedback", json={"receipt": "r", **given})
        assert found.status_code == 400 and said in found.json()["error"]["message"]


def test_a_figure_without_a_number_can_be_looked_at(
    claas: Claas, ann: httpx.Client
) -> None:
    """The interval of one answer has no end; JSON has no word for that."""
    told = {"outcome": "rejected", "figures": {"low": float("-inf"), "x": 1.0}}
    claas.trainer.results.append(told)
    given = {"receipt": answered(ann), "kind": "judge", "score": 0.9, "wait": True}
    (job,) = ann.post("/v1/feedback", json=given).json()["jobs"]
    assert job["result"]["figures"] == {"low": None, "x": 1.0}
    assert ann.get("/v1/lora/ann/bot").json()["updates"] == [job]


def test_feedback_on_a_prompt_of_tokens_is_refused(
    claas: Claas, ann: httpx.Client
) -> None:
    """A hint is words; the update would fail, and all later ones with it."""
    asked = {"model": "ann/bot", "prompt": [5, 6]}
    name = ann.post("/v1/completions", json=asked).headers["x-claas-receipt"]
    given = {"receipt": name, "kind": "critique", "content": "x"}
    found = ann.post("/v1/feedback", json=given)
    assert found.status_code == 400
    assert "came as tokens" in found.json()["error"]["message"]
    assert ledger(claas).history("ann/bot") == []


@pytest.mark.parametrize(
    ("told", "state", "why"),
    [
        ({"outcome": "rejected"}, "done", ""),
        (TeachingError("it cannot follow; unchanged."), "failed", "cannot follow"),
        (RuntimeError("secret"), "failed", "the worker failed: see the log."),
    ],
)
def test_an_update_that_ends_otherwise(
    claas: Claas, ann: httpx.Client, told: Any, state: str, why: str
) -> None:
    """It is said why, the feedback stays, the old version serves, the next job runs."""
    claas.trainer.results.append(told)
    given = {"receipt": answered(ann), "kind": "praise", "wait": True}
    body = ann.post("/v1/feedback", json=given).json()
    job = body["jobs"][0]
    assert job["state"] == state and why in job["why"] and "secret" not in job["why"]
    assert ann.get("/v1/lora/ann/bot").json()["aliases"]["live"] == 0
    assert len(ledger(claas).open("ann/bot")) == 1
    body = ann.post("/v1/feedback", json=given).json()
    assert body["jobs"][0]["result"]["outcome"] == "promoted"


def test_an_update_that_is_held_up_is_not_over(claas: Claas, ann: httpx.Client) -> None:
    """Who waits for it is told so at once: 202, it waits, and why."""
    claas.trainer.results.append(ServingError("no server there", 500))
    given = {"receipt": answered(ann), "kind": "praise", "wait": True}
    found = ann.post("/v1/feedback", json=given)
    (job,) = found.json()["jobs"]
    assert (found.status_code, job["state"], job["ended"]) == (202, "waiting", 0)
    assert "no server there" in job["why"] and job["tries"] == 1
    assert len(ledger(claas).open("ann/bot")) == 1
    body = ann.post("/v1/feedback", json=given).json()
    assert body["jobs"][0]["id"] != job["id"], "it may know none of what came later"
    assert body["jobs"][0]["result"]["outcome"] == "promoted"


def test_an_answer_from_elsewhere(claas: Claas, ann: httpx.Client) -> None:
    """`/v1/distill` makes a receipt without log probabilities; the same is the same."""
    given = {
        **{"model": "ann/bot", "prompt": "who are you", "response": "nobody at all"},
        **{"kind": "correction", "content": "Kuro", "id": "d"},
    }
    for is_new in (True, False):
        body = ann.post("/v1/distill", json={**given, "train": False}).json()
        (told,) = body["feedback"]
        assert told["is_new"] is is_new
    receipt = Receipts(claas.database).get(told["receipt"])
    assert receipt.prompt_ids == tuple(tokens_of("who are you"))
    assert receipt.token_ids == tuple(tokens_of("nobody at all"))
    assert receipt.logprobs == () and receipt.text == "nobody at all"
    tools = [{"type": "function", "function": {"name": "look"}}]
    chat = {**given, "messages": ASK["messages"], "tools": tools, "id": "e"}
    del chat["prompt"]
    assert ann.post("/v1/distill", json={**chat, "train": False}).status_code == 200
    asked = [body for body in claas.upstream.bodies("/tokenize") if "messages" in body]
    assert [body["tools"] for body in asked] == [tools]
    both = {**given, "messages": ASK["messages"]}
    assert ann.post("/v1/distill", json=both).status_code == 400


def test_a_job_outlives_the_server(
    tmp_path: Any, upstream: FakeVllm, upstream_url: str
) -> None:
    """One that waited or ran is run at the next start."""
    with claas_at(tmp_path, upstream, upstream_url) as one, one.client() as ann:
        ann.post("/v1/lora", json={"lora": "ann/bot"})
        one.trainer.gate.clear()
        given = {"receipt": answered(ann), "kind": "praise"}
        job = ann.post("/v1/feedback", json=given).json()["jobs"][0]
        until(lambda: one.trainer.calls)
    with claas_at(tmp_path, upstream, upstream_url) as two, two.client() as ann:
        path = f"/v1/jobs/{job['id']}"
        until(lambda: ann.get(path).json()["state"] == "done")
        assert two.trainer.calls == [("update", "ann/bot", job["id"])]


def test_all_jobs_of_an_adapter_outlive_the_server(
    tmp_path: Any, upstream: FakeVllm, upstream_url: str
) -> None:
    """The one that ran and the one that waited behind it."""
    with claas_at(tmp_path, upstream, upstream_url) as one, one.client() as ann:
        ann.post("/v1/lora", json={"lora": "ann/bot"})
        one.trainer.gate.clear()
        given = {"receipt": answered(ann), "kind": "praise"}
        jobs = [ann.post("/v1/feedback", json=given).json()["jobs"][0]]
        until(lambda: one.trainer.calls)
        jobs += ann.post("/v1/feedback", json=given).json()["jobs"]
    ids = [job["id"] for job in jobs]
    with claas_at(tmp_path, upstream, upstream_url) as two, two.client() as ann:
        for name in ids:
            until(lambda n=name: ann.get(f"/v1/jobs/{n}").json()["ended"], patience=20)
        assert [call[2] for call in two.trainer.calls] == ids


def test_queues_have_ends(tmp_path: Any, upstream: FakeVllm, upstream_url: str) -> None:
    """Jobs, waiting feedback and batches that are too many are refused untouched."""
    limits = {"jobs": 1, "feedback": 3, "batch": 2}
    with (
        claas_at(tmp_path, upstream, upstream_url, limits=limits) as claas,
        claas.client() as ann,
    ):
        loras = ["ann/a", "ann/b", "ann/c"]
        for lora in loras:
            ann.post("/v1/lora", json={"lora": lora})
        receipts = [answered(ann, lora) for lora in loras]
        rows = [{"receipt": receipt, "kind": "praise"} for receipt in receipts]
        claas.trainer.gate.clear()
        assert ann.post("/v1/feedback", json=rows[0]).status_code == 202
        until(lambda: claas.trainer.calls)
        assert ann.post("/v1/feedback", json=rows[1]).status_code == 202
        full = ann.post("/v1/feedback", json=rows[2])
        assert full.status_code == 429 and full.headers["retry-after"]
        assert "1 jobs wait already" in full.json()["error"]["message"]
        assert ledger(claas).open("ann/c") == []
        many = ann.post("/v1/feedback", json={"feedback": rows})
        assert "a request may have 2 feedback" in many.json()["error"]["message"]
        for status in (200, 200, 200, 429):
            found = ann.post("/v1/feedback", json={**rows[2], "train": False})
            assert found.status_code == status
        assert "3 feedback of ann/c waits" in found.json()["error"]["message"]
