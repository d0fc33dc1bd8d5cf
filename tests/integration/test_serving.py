"""A module as a service: runs, batches, keys, sizes, metrics, the end of a client."""

import asyncio
import base64
import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.serving_helpers import (
    Ask,
    Gate,
    Odd,
    Server,
    Steps,
    served,
    until,
)

from inf_engine import Budget
from inf_engine.errors import EndpointServerError
from inf_engine.serving import Access
from inf_engine.serving.exchange import Refused, Request


def test_a_run_gives_output_usage_and_cost() -> None:
    """``POST /v1/run`` takes inputs by position or name, and tells what they took."""

    async def check(server: Server) -> None:
        status, found = await server.run({"left": "a", "right": "b"})
        assert (status, found["output"]) == (200, {"answer": "A AND B"})
        assert found["usage"]["requests"] == 2
        assert (found["run"], found["cost"]) == ("1", None)
        assert (await server.run(["c"]))[1]["output"] == {"answer": "C AND NOTHING"}
        assert (await server.run("d"))[1]["output"] == {"answer": "D AND NOTHING"}

    served(Steps(), check)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": {"wrong": 1}}, "is no parameter that forward takes"),
        ({"inputs": ["a", "b", "c"]}, "too many positional arguments"),
        ({"input": "a"}, "a field is not known; known: inputs"),
        ({}, "inputs is missing"),
        ([1], "no JSON object"),
    ],
)
def test_what_gives_no_input_is_refused(body: Any, message: str) -> None:
    """The error is written as OpenAI does, and nothing is sent."""

    async def check(server: Server) -> None:
        status, found = await server.post("/v1/run", body)
        assert status == 400
        assert found["error"]["type"] == "invalid_request_error"
        assert message in found["error"]["message"]
        assert server.client.requests == []

    served(Steps(), check)


@pytest.mark.parametrize(
    ("sent", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"inputs": "a"}', "text/plain", 415),
        (b"x" * 2000, "application/json", 413),
    ],
)
def test_a_body_is_small_json(sent: bytes, kind: str, status: int) -> None:
    """Broken, foreign and large bodies have a status each; chunked ones count, too."""

    async def pieces() -> Any:
        yield sent

    async def check(server: Server) -> None:
        for data in (sent, pieces()):
            reply = await server.session.post(
                f"{server.http.url}/v1/run", data=data, headers={"Content-Type": kind}
            )
            async with reply:
                assert reply.status == status
                assert "message" in (await reply.json())["error"]

    served(Ask(), check, most_bytes=1000)


def test_a_failure_has_a_status_and_is_not_tried_again() -> None:
    """Endpoint, budget and timeout are told apart; the record stays to look at."""

    async def check(server: Server) -> None:
        url = f"{server.http.url}/v1/run"
        async with server.session.post(url, json={"inputs": "a"}) as reply:
            assert reply.status == 502
            assert reply.headers["x-should-retry"] == "false"
            assert reply.headers["x-run"] == "1"
            found = (await reply.json())["error"]
        assert found["code"] == "endpoint_failed"
        assert "(alias 'm') failed" in found["message"]
        status, page, _ = await server.get("/runs/1")
        assert status == 200
        assert "The run failed" in page

    served(Ask(), check, lambda _: EndpointServerError("down"), engine={"retries": 0})


def test_an_exhausted_budget_is_a_quota() -> None:
    """OpenAI's word for it is ``insufficient_quota``, status 429."""

    async def check(server: Server) -> None:
        assert (await server.run("a"))[0] == 200
        status, found = await server.run("b")
        assert (status, found["error"]["code"]) == (429, "insufficient_quota")

    served(Ask(), check, engine={"budget": Budget(requests=1)})


def test_a_timeout_is_one() -> None:
    """A run that takes too long gives 504."""

    async def check(server: Server) -> None:
        status, found = await server.run("a")
        assert (status, found["error"]["code"]) == (504, "timeout")

    served(Ask(), check, Gate(), engine={"timeout": 0.01})


def test_what_forward_raised_stays_inside() -> None:
    """Its kind is told and not its words, which may be a prompt; the page has them."""

    async def check(server: Server) -> None:
        status, found = await server.run("word")
        assert status == 500
        assert found["error"]["message"] == (
            "the pipeline failed with ValueError; see the page of run 1."
        )
        assert "secret word" in (await server.get("/runs/1"))[1]
        status, found = await server.run("object")
        assert (status, found["error"]["code"]) == (500, "output_not_json")

    served(Odd(), check)


def test_a_batch_gives_a_line_for_each() -> None:
    """Lines come as runs end, each with its index; a failure costs only itself."""

    async def check(server: Server) -> None:
        url = f"{server.http.url}/v1/batch"
        async with server.session.post(url, json={"inputs": ["a", "b", "c"]}) as reply:
            assert reply.headers["Content-Type"] == "application/x-ndjson"
            lines = [json.loads(line) async for line in reply.content]
        lines.sort(key=lambda line: line["index"])
        assert [line.get("output") for line in lines] == ["SAY A", None, "SAY C"]
        assert lines[1]["error"]["code"] == "endpoint_failed"
        assert lines[0]["usage"]["requests"] == 1
        assert [line["run"] for line in lines] == ["1", "2", "3"]

    def answer(request: Any) -> Any:
        is_b = request.prompt == "Say b"
        return EndpointServerError("down") if is_b else request.prompt.upper()

    served(Ask(), check, answer, engine={"retries": 0})


@pytest.mark.parametrize(("ordered", "indexes"), [(True, [0, 1]), (False, [1, 0])])
def test_a_batch_comes_in_order_if_asked(ordered: bool, indexes: list[int]) -> None:
    """With ``ordered`` the first input's line comes first, however long it takes."""

    async def check(server: Server) -> None:
        free, book = asyncio.Event(), server.service.runs

        async def answer(request: Any) -> str:
            if request.prompt == "Say a":
                await free.wait()
            return request.prompt

        async def let_go() -> None:
            await until(lambda: book.outcomes["done"] == 1)
            free.set()

        server.client._answer = answer
        url = f"{server.http.url}/v1/batch"
        body = {"inputs": ["a", "b"], "ordered": ordered}
        letting = asyncio.create_task(let_go()) if ordered else None
        found = []
        async with server.session.post(url, json=body) as reply:
            async for line in reply.content:
                found.append(json.loads(line)["index"])
                free.set()
        assert found == indexes
        if letting is not None:
            await letting

    served(Ask(), check)


def test_a_batch_with_a_bad_input_is_refused_whole() -> None:
    """Nothing is run, and the place is named."""

    async def check(server: Server) -> None:
        status, found = await server.post("/v1/batch", {"inputs": ["a", ["b", "c"]]})
        assert (status, found["error"]["param"]) == (400, "inputs.1")
        assert server.client.requests == []

    served(Ask(), check)


def test_no_more_runs_than_may_be() -> None:
    """A single run beyond is refused; a batch waits, and leaves a quarter of room."""

    async def check(server: Server) -> None:
        gate = server.client
        body = {"inputs": list("abcdef")}
        batch = asyncio.create_task(
            server.session.post(f"{server.http.url}/v1/batch", json=body)
        )
        await until(lambda: len(gate.requests) == 3)
        single = asyncio.create_task(server.run("g"))
        await until(lambda: len(gate.requests) == 4)
        status, found = await server.run("h")
        assert (status, found["error"]["code"]) == (429, "too_many_runs")
        gate.open.set()
        assert (await single)[0] == 200
        async with await batch as reply:
            assert len((await reply.text()).splitlines()) == 6
        assert gate.max_in_flight == 4

    served(Ask(), check, Gate(), most_runs=4)


@pytest.mark.parametrize("path", ["/v1/run", "/v1/batch", "/v1/chat/completions"])
def test_a_client_that_leaves_cancels_its_run(path: str) -> None:
    """What nobody waits for is not paid further."""

    async def check(server: Server) -> None:
        gate = server.client
        messages = [{"role": "user", "content": "a"}]
        chat = {"model": "Ask", "messages": messages, "stream": True}
        body = chat if "chat" in path else {"inputs": ["a"]}

        async def ask() -> None:
            async with server.session.post(server.http.url + path, json=body) as reply:
                await reply.read()

        asking = asyncio.create_task(ask())
        await gate.came.wait()
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: gate.cancelled == 1)
        await until(lambda: not server.service.runs.alive)
        assert server.service.runs.outcomes["cancelled"] == 1
        assert "cancelled" in (await server.get("/"))[1]

    served(Ask(), check, Gate())


def test_the_key_is_asked_for() -> None:
    """All but the health needs it; a browser is asked, and may only read with it."""

    async def check(server: Server) -> None:
        basic = "Basic " + base64.b64encode(b"me:s3cret").decode()
        assert (await server.get("/health"))[0] == 200
        for path in ("/", "/metrics", "/v1/models", "/runs/1"):
            assert (await server.get(path))[0] == 401
        _, _, headers = await server.get("/", Accept="text/html")
        assert headers["WWW-Authenticate"].startswith("Basic ")
        assert (await server.get("/", Authorization=basic))[0] == 200
        assert (await server.get("/", Authorization="Bearer s3cret"))[0] == 200
        assert (await server.get("/", Authorization="Bearer s3cre"))[0] == 401
        assert (await server.get("/", Authorization="Basic %%"))[0] == 401
        for given, wanted in ((basic, 401), ("Bearer s3cret", 200)):
            body = {"inputs": "a"}
            status, found = await server.post("/v1/run", body, Authorization=given)
            assert status == wanted
        assert found["output"] == "SAY A"

    served(Ask(), check, key="s3cret")


@pytest.mark.parametrize("given", ["Bearer \udcff", "Basic /w==", "Bearer", ""])
def test_strange_keys_are_wrong_keys(given: str) -> None:
    """Bytes that are no text, and nothing at all."""
    with pytest.raises(Refused, match="missing or wrong") as caught:
        Access("key").check(Request("GET", "/", headers={"authorization": given}))
    assert caught.value.status == 401


def test_without_a_key_a_foreign_name_is_refused() -> None:
    """A page whose name was made to lead to this machine gets nothing."""

    async def check(server: Server) -> None:
        assert (await server.get("/", Host="evil.example"))[0] == 403
        assert (await server.get("/", Host="evil.example:80"))[0] == 403
        for name in ("localhost", "localhost:1", "[::1]:1", "[::1]"):
            assert (await server.get("/", Host=name))[0] == 200

    served(Ask(), check)


def test_paths_and_methods() -> None:
    """A wrong one says so."""

    async def check(server: Server) -> None:
        assert (await server.get("/nothing"))[0] == 404
        status, _, headers = await server.get("/v1/run")
        assert (status, headers["Allow"]) == (405, "POST")
        assert (await server.get("/v1/models/nobody"))[0] == 404
        assert (await server.get("/reports"))[0] == 404
        async with server.session.head(f"{server.http.url}/health") as reply:
            assert reply.status == 200

    served(Ask(), check)


def test_metrics_are_prometheus_text() -> None:
    """Runs by outcome, and the engine's books by alias."""

    async def check(server: Server) -> None:
        await server.run("a")
        _, text, headers = await server.get("/metrics")
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert found[("inf_engine_runs_total", "done")] == 1
        assert found[("inf_engine_requests_total", "m")] == 1
        assert found[("inf_engine_output_tokens_total", "m")] == 2
        assert found[("inf_engine_runs_alive",)] == 0

    served(Ask(), check)


def test_while_it_stops_everything_new_is_refused() -> None:
    """What is under way is answered, what comes on an open connection is not."""

    async def check(server: Server) -> None:
        run = asyncio.create_task(server.run("a"))
        await server.client.came.wait()
        assert (await server.get("/health"))[0] == 200  # this connection stays open
        server.site.is_stopping = True
        ended = asyncio.create_task(server.http.finish())
        assert (await server.get("/health"))[0] == 503
        assert not ended.done()
        server.client.open.set()
        assert (await run)[1]["output"] == "SAY A"
        await ended

    served(Ask(), check, Gate())


def test_cancelled_runs_tell_their_clients() -> None:
    """When the time is over, a client gets 503 and not a broken connection."""

    async def check(server: Server) -> None:
        run = asyncio.create_task(server.run("a"))
        await server.client.came.wait()
        server.service.stop()
        status, found = await run
        assert (status, found["error"]["code"]) == (503, "stopping")

    served(Ask(), check, Gate())


def test_a_batch_begins_no_run_after_the_end() -> None:
    """Inputs that were not begun get an error each, and cost nothing."""

    async def check(server: Server) -> None:
        body = {"inputs": list("abc")}
        url = f"{server.http.url}/v1/batch"
        batch = asyncio.create_task(server.session.post(url, json=body))
        await server.client.came.wait()
        server.service.stop()
        async with await batch as reply:
            lines = [json.loads(line) async for line in reply.content]
        assert {line["error"]["code"] for line in lines} == {"stopping"}
        assert len(lines) == 3
        assert len(server.client.requests) == 1

    served(Ask(), check, Gate(), most_runs=1)
