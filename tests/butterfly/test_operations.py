"""What those who run a server ask for, and what happens when things end."""

import json
import os
import signal
import socket
import threading
import time
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.butterfly.server_helpers import KEY, Server, until

from butterfly.monitoring.metrics import Metrics, StageState, State

MESSAGES: list[Any] = [{"role": "user", "content": "The fox"}]
LONG: dict[str, Any] = {
    "model": "tiny",
    "prompt": "Once upon a time",
    "max_tokens": 200,
    "temperature": 0.8,
    "seed": 5,
    "presence_penalty": 0.2,
    "extra_body": {
        **{"ignore_eos": True, "return_token_ids": True},
        **{"repetition_penalty": 1.05, "logit_bias": {"9": -1}},
    },
}


def samples(http: httpx.Client) -> dict[tuple[str, ...], float]:
    """Return the metrics by name and labels, these in the order of their names."""
    return {
        (sample.name, *[v for _, v in sorted(sample.labels.items())]): sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
    }


def metrics(http: httpx.Client) -> dict[str, float]:
    """Return the metrics of the server by name, those with labels added up."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_tokenize_and_detokenize(http: httpx.Client, client: openai.OpenAI) -> None:
    """Texts and messages become the tokens that are generated from, and texts again."""
    text = "The quick brown fox — ü 🦊"
    found = http.post("/tokenize", json={"prompt": text, "return_token_strs": True})
    told = found.json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["max_model_len"] == 512
    back = http.post("/detokenize", json={"tokens": told["tokens"]}).json()
    assert back == {"prompt": text}
    messages = http.post("/tokenize", json={"messages": MESSAGES}).json()["tokens"]
    answer: Any = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=1,
        extra_body={"return_token_ids": True},
    )
    assert answer.prompt_token_ids == messages
    assert http.post("/tokenize", json={}).status_code == 400
    assert http.post("/detokenize", json={"tokens": [999]}).status_code == 400
    assert http.post("/tokenize", content=b"{").status_code == 400
    assert http.get("/tokenize").json()["error"]["message"].startswith("GET /tokenize")


def test_metrics_count_what_happened(http: httpx.Client, client: openai.OpenAI) -> None:
    """Tokens, times, answers; what the stages and the links did."""
    before = metrics(http)
    client.completions.create(model="tiny", prompt="The fox", max_tokens=20, n=2)
    time.sleep(1.1)  # two heartbeats
    after = metrics(http)
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    drawn = grown["butterfly_generated_tokens_total"]
    assert 2 <= drawn <= 40
    assert grown["butterfly_first_token_seconds_count"] == 2
    assert grown["butterfly_inter_token_seconds_count"] == drawn - 2
    assert grown["butterfly_answers_total"] == 2
    assert grown["butterfly_prompt_tokens_total"] == 4
    assert grown["butterfly_stage_busy_seconds_total"] > 0
    assert grown["butterfly_link_bytes_total"] > 32 * 4 * drawn
    assert after["butterfly_nodes"] >= 2 and after["butterfly_serving"] == 1
    assert after["butterfly_requests_running"] == 0
    state = http.get("/state").json()
    assert [s["first"] for s in state["stages"]] == [0, state["stages"][0]["last"]]


def test_metrics_are_what_the_stages_did(http: httpx.Client) -> None:
    """Busy time, bytes and waits of each hop are those that the answer reports."""

    def grown(*name: str) -> float:
        return samples(http).get(name, 0.0) - before.get(name, 0.0)

    time.sleep(1.1)  # two heartbeats: nothing of others is on its way
    before = samples(http)
    body = {"prompt": "The fox", "max_tokens": 30, "butterfly": True}
    body |= {"ignore_eos": True}
    found = http.post("/v1/completions", json=body).json()
    told = found["butterfly"]["answers"][0]
    first, second = told["hops"]
    state = http.get("/state").json()
    source, target = [stage["node"] for stage in state["stages"]]
    size = "butterfly_link_bytes_total"
    until(lambda: grown(size, "head", source) >= first["bytes"])
    until(lambda: grown(size, source, target) >= second["bytes"])
    until(lambda: grown(size, target, "head") >= 8 * 30)
    assert grown(size, "head", source) == first["bytes"]
    assert grown(size, source, target) == second["bytes"]
    waits = "butterfly_link_waited_seconds_total"
    for hop, place in ((first, ("head", source)), (second, (source, target))):
        waited = grown(waits, "target", *place)
        assert waited > hop["waited_ms"] / 1e3 - 1e-3  # and without work, too
        assert 0 < hop["waited_ms"] <= told["total_ms"]
    busy = "butterfly_stage_busy_seconds_total"
    for hop, stage in zip((first, second), state["stages"], strict=True):
        layers = f"{stage['first']}-{stage['last'] - 1}"
        computed = grown(busy, layers, stage["node"], str(stage["stage"]))
        assert computed == pytest.approx(hop["computed_ms"] / 1e3, rel=0.01)


def test_queue_and_lanes_are_seen(http: httpx.Client, client: openai.OpenAI) -> None:
    """Who runs, who waits, and how much of the lanes is in use, while they are."""

    def ask() -> None:
        given: dict[str, Any] = {**LONG, "n": 6, "max_tokens": 60}
        client.completions.create(**given)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: metrics(http)["butterfly_requests_waiting"] == 2)
    told = metrics(http)
    assert told["butterfly_requests_running"] == 4
    assert 0 < told["butterfly_kv_used_ratio"] <= 1
    assert told["butterfly_frames_in_flight"] <= 2
    thread.join(60)
    told = metrics(http)
    assert told["butterfly_requests_running"] == told["butterfly_kv_used_ratio"] == 0


def test_nodes_of_one_name_are_told_apart() -> None:
    """Prometheus refuses a page with two links of the same names."""
    stages = tuple([StageState(n, "pc", n, n, n + 1) for n in (1, 2, 3)])
    state = State(1, True, False, 3, 0, 0, 0, 0, 1, 0, stages=stages)
    text = Metrics(lambda: state).text().decode()
    lines = [line for line in text.splitlines() if line.startswith("butterfly_link")]
    names = [line.rsplit(" ", 1)[0] for line in lines]
    assert len(names) == len(set(names)) == 4 + 6
    assert 'butterfly_link_bytes_total{source="pc/1",target="pc/2"}' in names


def test_answers_to_one_prompt_send_its_rows_once(
    http: httpx.Client, client: openai.OpenAI
) -> None:
    """And say what separate requests with their seeds say."""
    given: dict[str, Any] = {**LONG, "prompt": "a river in the hills " * 9, "n": 4}
    given["max_tokens"] = 12
    before = metrics(http)
    found: Any = client.completions.create(**given)
    after = metrics(http)
    rows, prompt = after["butterfly_rows_total"], found.usage.prompt_tokens
    assert prompt > 40
    assert rows - before["butterfly_rows_total"] == prompt + 3 + 4 * 11
    key = "butterfly_reused_tokens_total"
    assert after[key] - before[key] == 3 * (prompt - 1)
    for number, choice in enumerate(found.choices):
        given |= {"seed": 5 + number, "n": 1}
        alone: Any = client.completions.create(**given)
        assert alone.choices[0].token_ids == choice.token_ids


def test_answers_to_one_prompt_score_it_once(
    http: httpx.Client, client: openai.OpenAI
) -> None:
    """All tell what the first one's frames brought, though their own go their way."""
    given: dict[str, Any] = {**LONG, "prompt": "a river, a fox, the hills " * 9, "n": 4}
    given |= {"max_tokens": 5, "logprobs": 1}
    given["extra_body"] = {**LONG["extra_body"], "prompt_logprobs": 2}
    before = metrics(http)
    found: Any = client.completions.create(**given)
    after, prompt = metrics(http), found.usage.prompt_tokens
    sent = after["butterfly_rows_total"] - before["butterfly_rows_total"]
    assert sent == prompt + 3 + 4 * 4
    one, *others = found.choices
    assert len(one.prompt_logprobs) == prompt and all(one.prompt_logprobs[1:])
    assert all(other.prompt_logprobs == one.prompt_logprobs for other in others)
    assert len({tuple(choice.token_ids) for choice in found.choices}) > 1
    given |= {"echo": True, "stream": True, "extra_body": LONG["extra_body"]}
    values: dict[int, list[Any]] = {}
    for choice in [
        c for chunk in client.completions.create(**given) for c in chunk.choices
    ]:
        values.setdefault(choice.index, []).extend(choice.logprobs.token_logprobs)
    for number, choice in enumerate(found.choices):
        assert values[number][0] is None and None not in values[number][1:]
        assert values[number][:prompt] == values[0][:prompt]
        own = choice.logprobs.token_logprobs
        assert values[number][prompt:] == pytest.approx(own, abs=1e-4)


def test_the_page_is_whole_and_asks_for_the_key(server: Server) -> None:
    """It loads nothing from elsewhere, and what it shows needs the key."""
    found = httpx.get(server.url)
    assert found.status_code == 200 and "<title>butterfly</title>" in found.text
    assert "://" not in found.text and "src=" not in found.text
    assert "default-src 'none'" in found.headers["content-security-policy"]
    assert httpx.get(f"{server.url}/state").status_code == 401


def test_asleep_it_refuses_and_awake_it_goes_on(
    http: httpx.Client, client: openai.OpenAI
) -> None:
    """Asleep it refuses; awake it says the same as before; what was open goes on."""

    def ask() -> list[int]:
        found: Any = client.completions.create(**LONG)
        tokens: list[int] = found.choices[0].token_ids
        return tokens

    expected = ask()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(ask()))
    thread.start()
    until(lambda: http.get("/state").json()["running"] > 0)
    assert http.get("/is_sleeping").json() == {"is_sleeping": False}
    assert http.post("/sleep", params={"level": 1}).status_code == 200
    assert http.get("/is_sleeping").json() == {"is_sleeping": True}
    assert http.get("/health").json()["status"] == "asleep"
    with pytest.raises(openai.InternalServerError, match="POST /wake_up") as caught:
        client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert caught.value.status_code == 503
    assert thread.is_alive()
    assert http.post("/sleep").status_code == 200
    assert http.post("/wake_up").status_code == 200
    assert http.get("/is_sleeping").json() == {"is_sleeping": False}
    thread.join(60)
    assert found == expected == ask()
    assert http.post("/sleep", params={"level": 3}).status_code == 400


def test_a_client_that_leaves_frees_its_lane(
    http: httpx.Client, server: Server, client: openai.OpenAI
) -> None:
    """Streamed or not, nothing is generated for nobody."""
    with client.completions.create(**LONG, stream=True) as stream:
        next(iter(stream))
        assert http.get("/state").json()["running"] == 1
    until(lambda: http.get("/state").json()["running"] == 0, 2.0)
    body = {**LONG, **LONG["extra_body"], "n": 4}
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(headers=headers, timeout=0.3) as leaving:
        with pytest.raises(httpx.ReadTimeout):
            leaving.post(f"{server.url}/v1/completions", json=body)
    until(lambda: http.get("/state").json()["running"] == 0, 2.0)


@pytest.mark.parametrize("is_stream", [True, False])
def test_clients_that_leave_the_queue_leave_nothing(
    http: httpx.Client, server: Server, is_stream: bool
) -> None:
    """Neither lanes nor tasks, before their first token, too; metrics count them."""
    aborts = "butterfly_answers_total", "abort"
    before, tasks = samples(http).get(aborts, 0), metrics(http)["butterfly_tasks"]
    given = {**LONG, **LONG["extra_body"], "n": 9, "stream": is_stream}
    body = json.dumps({**given, "max_tokens": 450}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}"
    head += f"\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 80)) as leaving:
        leaving.sendall(f"{head}\r\n\r\n".encode() + body)
        until(lambda: metrics(http)["butterfly_requests_waiting"] == 5)
    until(lambda: metrics(http)["butterfly_requests_waiting"] == 0)
    until(lambda: metrics(http)["butterfly_requests_running"] == 0)
    assert samples(http)[aborts] - before == 9
    until(lambda: metrics(http)["butterfly_tasks"] <= tasks)


@pytest.mark.parametrize("place", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_dead_stage_is_noticed_as_a_pause_only(
    http: httpx.Client, client: openai.OpenAI, server: Server, place: int
) -> None:
    """Killed in mid-stream: the same tokens; the next one gets layers again."""
    found: Any = client.completions.create(**LONG)
    expected = found.choices[0].token_ids
    state = http.get("/state").json()
    assert len(state["stages"]) == 2
    tokens: list[int] = []
    text = ""
    for number, chunk in enumerate(client.completions.create(**LONG, stream=True)):
        choice: Any = chunk.choices[0]
        tokens += choice.token_ids
        text += choice.text
        if number == 10:
            os.kill(state["stages"][place]["pid"], signal.SIGKILL)
    assert tokens == expected
    assert text == found.choices[0].text
    assert http.get("/state").json()["epoch"] > state["epoch"]
    server.join()
    until(lambda: len(http.get("/state").json()["stages"]) == 2)
    again: Any = client.completions.create(**LONG)
    assert again.choices[0].token_ids == expected


def test_the_lower_priority_number_goes_first(
    http: httpx.Client, client: openai.OpenAI
) -> None:
    """As in vLLM; while all lanes are taken it overtakes what came before."""
    order: list[int] = []

    def ask(priority: int, tokens: int, n: int = 1) -> None:
        body = {**LONG["extra_body"], "priority": priority}
        given: Any = {**LONG, "max_tokens": tokens, "n": n, "extra_body": body}
        client.completions.create(**given)
        order.append(priority)

    def start(*given: int) -> threading.Thread:
        thread = threading.Thread(target=ask, args=given)
        thread.start()
        return thread

    threads = [start(0, 300, 3), start(1, 150)]
    until(lambda: http.get("/state").json()["running"] == 4)
    for waiting, priority in enumerate((5, -5), 1):
        threads.append(start(priority, 10))
        until(lambda count=waiting: http.get("/state").json()["waiting"] == count)
    for thread in threads:
        thread.join(60)
    assert order == [1, -5, 5, 0]


def test_events_are_written_as_openai_writes_them(http: httpx.Client) -> None:
    """`data: {...}`, a blank line, and `data: [DONE]` at the end."""
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 3, "stream": True}
    found = http.post("/v1/chat/completions", json=body)
    assert found.headers["content-type"].startswith("text/event-stream")
    *events, rest = found.text.split("\n\n")
    assert rest == "" and events[-1] == "data: [DONE]"
    for event in events[:-1]:
        told = json.loads(event.removeprefix("data: "))
        assert told["object"] == "chat.completion.chunk" and "usage" not in told
