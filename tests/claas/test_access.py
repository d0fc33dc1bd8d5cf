"""Whose key opens what: over all routes, and what no key opens."""

import itertools
from typing import Any

import httpx
from starlette.routing import Route
from tests.claas.api_helpers import KEYS, Claas, FakeVllm, claas_at

ASK = {"messages": [{"role": "user", "content": "hello"}]}
ROUTES = [
    ("POST", "/v1/chat/completions", {**ASK, "model": "ann/bot"}),
    ("POST", "/v1/chat/completions", {**ASK, "model": "ann/bot@v0", "stream": True}),
    ("POST", "/v1/completions", {"model": "ann/bot@live", "prompt": "x"}),
    ("POST", "/v1/score", {"model": "ann/bot", "prompt": "a", "response": "b"}),
    ("POST", "/v1/score", {"model": "tiny", "receipt": "RECEIPT"}),
    ("POST", "/v1/feedback", {"receipt": "RECEIPT", "kind": "praise"}),
    (
        "POST",
        "/v1/distill",
        {"model": "ann/bot", "prompt": "a", "response": "b", "kind": "praise"},
    ),
    ("POST", "/v1/lora", {"lora": "ann/new"}),
    ("GET", "/v1/lora/ann/bot", None),
    ("GET", "/v1/lora/ann/bot/versions", None),
    ("GET", "/v1/lora/ann/bot/export", None),
    ("POST", "/v1/lora/ann/bot/promote", {"version": 0}),
    ("POST", "/v1/lora/ann/bot/rollback", {"version": 0}),
    ("DELETE", "/v1/lora/ann/bot", None),
    ("GET", "/v1/jobs/JOB", None),
    ("GET", "/v1/models/ann/bot", None),
    ("POST", "/v1/lora/ann/bot@v0/rebuild", {"wait": True}),
    ("POST", "/v1/lora/ann/bot/explain", {"receipt": "RECEIPT", "wait": True}),
    ("POST", "/v1/lora/ann/bot@v0/diff", {"other": "ann/bot", "wait": True}),
    ("POST", "/v1/rate", {"receipt": "RECEIPT", "rating": 0.5}),
    ("POST", "/v1/lora/ann/bot/forget", {"receipts": ["RECEIPT"], "wait": True}),
]
WRONG = ["", "Bearer", "Bearer wrong", f"Basic {KEYS['ann']}", "Bearer ann"]
OWN = [
    ("GET", "/v1/models", None),
    ("GET", "/v1/lora", None),
    ("GET", "/metrics", None),
]


def filled(given: Any, told: dict[str, str]) -> Any:
    """Return a path or body with the names of what there is."""
    if isinstance(given, dict):
        return {key: filled(value, told) for key, value in given.items()}
    if isinstance(given, list):
        return [filled(value, told) for value in given]
    return told.get(given, given) if isinstance(given, str) else given


def _praised(client: httpx.Client, receipt: str) -> httpx.Response:
    given = {"receipt": receipt, "kind": "praise", "train": False}
    return client.post("/v1/feedback", json=given)


def test_nobody_touches_what_is_anothers(
    claas: Claas, ann: httpx.Client, bob: httpx.Client
) -> None:
    """Every route refuses another user, and changes nothing; its owner may."""
    receipt = ann.post(
        "/v1/chat/completions", json={**ASK, "model": "ann/bot"}
    ).headers["x-claas-receipt"]
    said = ann.post(
        "/v1/feedback", json={"receipt": receipt, "kind": "praise", "wait": True}
    ).json()
    told = {"RECEIPT": receipt, "/v1/jobs/JOB": f"/v1/jobs/{said['jobs'][0]['id']}"}
    before = ann.get("/v1/lora/ann/bot").json()
    asked, calls = len(claas.upstream.seen), list(claas.trainer.calls)
    routes = [(m, filled(p, told), filled(b, told)) for m, p, b in ROUTES]
    for method, path, body in routes:
        found = bob.request(method, path, json=body)
        assert found.status_code in (403, 404), (path, found.text)
        assert found.json()["error"]["type"] in ("permission_error", "not_found_error")
        assert receipt not in found.text or path == "/v1/feedback" or body
    for real, none in ((receipt, "chatcmpl-none"), (said["jobs"][0]["id"], "job-none")):
        is_job = none == "job-none"
        texts = [
            (bob.get(f"/v1/jobs/{name}") if is_job else _praised(bob, name)).text
            for name in (real, none)
        ]
        assert texts[0].replace(real, none) == texts[1], "it tells what there is"
    assert ann.get("/v1/lora/ann/bot").json() == before
    assert len(claas.upstream.seen) == asked and claas.trainer.calls == calls
    assert "ann" not in bob.get("/v1/lora").text + bob.get("/v1/models").text
    assert "ann" not in bob.get("/metrics").text
    for method, path, body in routes[:13] + routes[14:] + [routes[13]]:
        found = ann.request(method, path, json=body)
        assert found.is_success, (path, found.text)


def test_the_routes_above_are_all(claas: Claas) -> None:
    """No route is left out of the tests of access."""
    paths = [(m, p.replace("@v0", "")) for m, p, _ in ROUTES + OWN]
    known = {(m, p.replace("ann/bot", "{user}/{model}")) for m, p in paths}
    known = {(m, p.replace("/JOB", "/{job_id}")) for m, p in known}
    known.discard(("GET", "/v1/models/{user}/{model}"))
    known |= {("GET", "/v1/models/{name:path}"), ("GET", "/"), ("GET", "/v1/health")}
    assert routes_of(claas) == known


def routes_of(claas: Claas) -> set[tuple[str, str]]:
    """Return the routes that are served."""
    routes = [route for route in claas.app.routes if isinstance(route, Route)]
    return {
        (m, route.path) for route in routes for m in route.methods or () if m != "HEAD"
    }


def test_without_a_key_nothing_opens(claas: Claas) -> None:
    """401 for every route but the page and health."""
    with claas.client("") as nobody:
        for number, (method, path, body) in enumerate(ROUTES + OWN):
            header = WRONG[number % len(WRONG)]
            headers = {"Authorization": header} if header else {}
            found = nobody.request(method, path, json=body, headers=headers)
            assert found.status_code == 401
            assert found.json()["error"]["code"] == "invalid_api_key"
        assert nobody.get("/").status_code == 200
        assert nobody.get("/v1/health").json() == {"status": "ok"}


CONTROLS = (
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/wake_up"),
    *("/tokenize", "/reset_prefix_cache", "/openapi.json", "/docs", "/v1/load"),
    *("/v1/lora/ann/%2e%2e", "/v1/lora/ann/bot%00", "/v1/lora/ann/bot@live"),
)


def test_what_controls_the_server_is_not_here(claas: Claas, ann: httpx.Client) -> None:
    """Neither by POST nor by GET; and the server has not heard of it."""
    asked = len(claas.upstream.seen)
    for method, path in itertools.product(("GET", "POST"), CONTROLS):
        found = ann.request(method, path, json={"lora_name": "x", "lora_path": "/"})
        assert found.status_code in (400, 404, 405)
    assert len(claas.upstream.seen) == asked


def test_requests_are_limited(
    tmp_path: Any, upstream: FakeVllm, upstream_url: str
) -> None:
    """How large, how many at once, how many a minute; another user is not touched."""
    limits = {"body": 1000, "open": 1, "per_minute": 4}
    with (
        claas_at(tmp_path, upstream, upstream_url, limits=limits) as claas,
        claas.client("ann") as ann,
        claas.client("bob") as bob,
    ):
        large = ann.post("/v1/feedback", content=b" " * 1001)
        assert large.status_code == 413
        parts = iter([b" " * 600, b" " * 600])
        assert ann.post("/v1/feedback", content=parts).status_code == 413
        ann.post("/v1/lora", json={"lora": "ann/bot"})
        upstream.gate.clear()
        given = {**ASK, "model": "ann/bot", "stream": True}
        with ann.stream("POST", "/v1/chat/completions", json=given):
            second = ann.get("/v1/models")
            assert second.status_code == 429
            assert "1 of your requests are open" in second.json()["error"]["message"]
            assert bob.get("/v1/models").status_code == 200
        upstream.gate.set()
        found = [ann.get("/v1/models") for _ in range(200)][-1]
        assert found.status_code == 429 and found.headers["retry-after"] == "1"
        assert "4 requests in a minute" in found.json()["error"]["message"]
        assert bob.get("/v1/models").status_code == 200
