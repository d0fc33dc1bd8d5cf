"""The loopback server itself: what it says, counts and does wrong on purpose."""

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from inf_engine.clients.openai import OpenAIClient
from inf_engine.errors import EndpointServerError, UsageError
from inf_engine.testing import VirtualTimeLoop, chaos
from inf_engine.testing.faults import ALL_CHAOS
from inf_engine.testing.server import LoopbackServer
from inf_engine.types import LLMRequest, LLMResponse, Message, ToolCall, Usage


def ask(server: LoopbackServer, text: str, **fields: Any) -> Any:
    """Post a chat completion without any of our clients."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    request = urllib.request.Request(
        f"{server.base_url}/chat/completions", json.dumps(body).encode()
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as answer:
        return json.load(answer)


class Peer:
    """A raw connection: what a client of the server sees, byte by byte."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, server: LoopbackServer) -> "Peer":
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    def send(self, path: str = "/v1/chat/completions", **fields: Any) -> None:
        """Send a request; do not wait."""
        body = json.dumps(fields).encode()
        head = f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read an answer with a length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, body

    async def ask(self, **fields: Any) -> tuple[int, dict[str, str], bytes]:
        """Send a request and read the answer."""
        self.send(**fields)
        return await self.answer()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def all_of(server: LoopbackServer, **fields: Any) -> bytes:
    """All that comes back for a request until the server closes."""
    peer = await Peer.of(server)
    peer.send(**fields)
    data = await peer.reader.read()
    await peer.close()
    return data


def said(answer: Any) -> str:
    """The text of a chat completion."""
    return answer["choices"][0]["message"]["content"]


def test_it_runs_in_a_thread() -> None:
    """Synchronous code can use it: `with`, or start and stop."""
    with LoopbackServer("hello") as server:
        assert said(ask(server, "one two")) == "hello"
        assert server.bodies[0]["messages"][0]["content"] == "one two"
    server = LoopbackServer().start()
    assert said(ask(server, "x")) == "ok"
    server.stop()
    server.stop()
    assert server.open_connections == 0
    with pytest.raises(urllib.error.URLError):
        ask(server, "x")


def test_it_is_not_started_twice() -> None:
    """A running server refuses to start again, and goes on."""
    with LoopbackServer() as server:
        with pytest.raises(UsageError, match="is running already"):
            server.start()
        assert said(ask(server, "x")) == "ok"


def test_answers_in_order() -> None:
    """A list is one answer each; after the last one it is a 500 that says so."""
    with LoopbackServer(["a", {"text": "b"}]) as server:
        assert [said(ask(server, "x")) for _ in range(2)] == ["a", "b"]
        with pytest.raises(urllib.error.HTTPError, match="500") as caught:
            ask(server, "x")
        with caught.value:
            assert b"no answer left" in caught.value.read()
        assert server.statuses == {200: 2, 500: 1}


def test_a_function_answers() -> None:
    """A function of the body makes the answer; usage is counted in words."""
    with LoopbackServer(lambda body: f"you sent {len(body['messages'])}") as server:
        answer = ask(server, "one two three")
    assert said(answer) == "you sent 1"
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 3


def test_an_answer_in_full() -> None:
    """A mapping or a response sets tool calls, reasoning and usage."""
    call = {"name": "f", "arguments": {"a": 1}}
    usage = {"input_tokens": 5, "output_tokens": 7}
    full = LLMResponse(tool_calls=(ToolCall("c", "g", "{}"),), usage=Usage(1, 2, 3))
    with LoopbackServer([{"tool_calls": [call], "usage": usage}, full]) as server:
        first, second = (ask(server, "x") for _ in range(2))
    choice = first["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    function = {"name": "f", "arguments": '{"a": 1}'}
    assert choice["message"]["tool_calls"][0]["function"] == function
    assert first["usage"]["total_tokens"] == 12
    assert second["choices"][0]["message"]["tool_calls"][0]["id"] == "c"
    assert second["usage"]["total_tokens"] == 5


def test_the_key_is_checked() -> None:
    """With api_key, a request without that key is refused."""
    with (
        LoopbackServer(api_key="k") as server,
        pytest.raises(urllib.error.HTTPError, match="401") as caught,
    ):
        ask(server, "x")
    caught.value.close()


def test_unknown_faults_and_paths_are_told() -> None:
    """A fault that does not exist is a 500 that lists those that do; a path, a 404."""
    with LoopbackServer(errors=["explode"]) as server:
        with pytest.raises(urllib.error.HTTPError, match="500") as caught:
            ask(server, "x")
        with caught.value:
            assert b"no fault 'explode'; known: reset" in caught.value.read()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            opener.open(f"{server.url}/nowhere")
        caught.value.close()


def test_benchmarks_need_not_record() -> None:
    """Without record it counts and keeps nothing."""
    with LoopbackServer(record=False) as server:
        ask(server, "x")
        assert (server.count, server.requests) == (1, [])


async def test_faults_and_latency_by_function() -> None:
    """Both can depend on the index and the body of a request."""
    request = LLMRequest(messages=(Message("user", "hi"),))
    async with LoopbackServer(
        errors=lambda index, body: 503 if index == 1 else None,
        latency=lambda index, body: 0.03 if index == 0 else 0.0,
    ) as server:
        client = OpenAIClient("m", base_url=server.base_url, api_key=None)
        slow = asyncio.create_task(client.complete(request))
        await server.until(lambda: server.in_flight == 1)
        with pytest.raises(EndpointServerError, match="answered 503"):
            await client.complete(request)
        assert not slow.done()
        assert (await slow).seconds >= 0.025
        assert server.requests[0].arrival <= server.requests[1].arrival
        assert server.max_in_flight == 2
        await client.aclose()


async def test_half_a_head() -> None:
    """The status line and half of the headers come, then the connection is closed."""
    async with LoopbackServer(errors=["half-head"]) as server:
        data = await all_of(server)
        assert data.startswith(b"HTTP/1.1 200 Loopback\r\nContent-Type: ")
        assert b"\r\n\r\n" not in data
        assert (server.statuses, server.answered) == ({"half-head": 1}, 0)


async def test_a_page_in_place_of_json() -> None:
    """The answer is a whole 200, of the wrong type; the connection lives on."""
    async with LoopbackServer(errors=["content-type"]) as server:
        peer = await Peer.of(server)
        status, headers, body = await peer.ask()
        assert (status, headers["content-type"]) == (200, "text/html")
        assert body.startswith(b"<html>")
        assert (await peer.ask())[0] == 200
        await peer.close()
        assert server.statuses == {"content-type": 1, 200: 1}
        assert server.answered == 1


def test_a_trickle_is_the_whole_answer() -> None:
    """It comes in 31 pieces, 10 ms or `piece_latency` apart, and counts as answered."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with LoopbackServer("w " * 100, errors=["trickle"] * 2) as server:
            peer = await Peer.of(server)
            _, _, body = await peer.ask()
            assert json.loads(body)["choices"][0]["message"]["content"] == "w " * 100
            assert loop.time() == pytest.approx(0.30)
            await server.until(lambda: server.in_flight == 0)
            server.piece_latency, began = 1.0, loop.time()
            await peer.ask()
            assert loop.time() - began == pytest.approx(30.0)
            await server.until(lambda: server.in_flight == 0)
            assert (server.statuses, server.answered) == ({"trickle": 2}, 2)
            await peer.close()

    VirtualTimeLoop.run(main())


def test_a_stream_trickles_across_its_events() -> None:
    """The pieces of a stream heed no event; together they are the events."""

    async def main() -> None:
        answers = []
        async with LoopbackServer("a b c", errors=["trickle"]) as server:
            for _ in range(2):
                peer = await Peer.of(server)
                peer.send(stream=True)
                await peer.reader.readuntil(b"\r\n\r\n")
                pieces = []
                while size := int(await peer.reader.readline(), 16):
                    pieces.append((await peer.reader.readexactly(size + 2))[:-2])
                answers.append(pieces)
                await peer.close()
        slow, plain = (b"".join(pieces) for pieces in answers)
        assert slow.replace(b"loopback-0", b"loopback-1") == plain
        assert 20 < len(answers[0]) <= 32
        assert not answers[0][0].endswith(b"\n\n")

    VirtualTimeLoop.run(main())


@pytest.mark.parametrize("stream", [False, True])
async def test_an_oversized_answer_goes_on(stream: bool) -> None:
    """It is sent as fast as the client reads, until the client leaves."""
    async with LoopbackServer(errors=["oversized"]) as server:
        peer = await Peer.of(server)
        peer.send(stream=stream)
        head = await peer.reader.readuntil(b"\r\n\r\n")
        assert (b"text/event-stream" in head) is stream
        await peer.reader.readexactly(2**20)
        assert server.in_flight == 1
        await peer.close()
        await server.until(lambda: server.in_flight == 0)
        assert (server.disconnects, server.left, server.answered) == (1, 0, 0)
        assert server.statuses == {"oversized": 1}


async def test_an_oversized_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 100 MiB (less in this test) the server hangs up, the body unfinished."""
    monkeypatch.setattr("inf_engine.testing.connection.OVERSIZED_BYTES", 2**20)
    async with LoopbackServer(errors=["oversized"]) as server:
        data = await all_of(server)
        assert 2**20 < len(data) < 1.1 * 2**20
        assert not data.endswith(b"0\r\n\r\n")
        await server.until(lambda: server.in_flight == 0)


async def test_chaos_adds_up() -> None:
    """Under chaos each request gets one status; answers that came are `answered`."""
    ending = [fault for fault in ALL_CHAOS if fault != "hang"]
    errors = chaos(3, 0.5, ending)
    async with LoopbackServer("fine", errors=errors, piece_latency=1e-4) as server:
        whole = 0
        for _ in range(100):
            peer = await Peer.of(server)
            with contextlib.suppress(OSError, EOFError, KeyError):
                status, _, body = await peer.ask()
                whole += status == 200 and b"fine" in body
            peer.writer.transport.abort()
        await server.until(lambda: server.open_connections == 0)
        assert set(server.statuses) <= {200, *ending}
        assert (server.statuses.total(), server.left) == (100, 0)
        assert whole == server.answered
        assert server.answered == server.statuses[200] + server.statuses["trickle"]


def test_the_rate_is_limited() -> None:
    """Above the limit it is a 429 at once that says when, and tells of the limits."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with LoopbackServer(
            ["a", "b", "c"], requests_per_minute=120, latency=0.25
        ) as server:
            first, second, third = [await Peer.of(server) for _ in range(3)]
            first.send()
            second.send()
            status, headers, body = await third.ask()
            assert (status, loop.time()) == (429, 0.0)
            assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "500")
            assert headers["x-ratelimit-remaining-requests"] == "0"
            assert b"the rate limit is reached" in body
            status, headers, _ = await first.answer()
            assert (status, loop.time()) == (200, 0.25)
            assert headers["x-ratelimit-limit-requests"] == "120"
            assert headers["x-ratelimit-remaining-requests"] == "1"
            assert headers["x-ratelimit-reset-requests"] == "500ms"
            await second.answer()
            await asyncio.sleep(0.25)
            assert (await third.ask())[0] == 200
            assert server.statuses == {200: 3, 429: 1}
            for peer in (first, second, third):
                await peer.close()

    VirtualTimeLoop.run(main())


def test_tokens_are_limited() -> None:
    """What an answer's usage says is taken out of the tokens per minute."""

    async def main() -> None:
        answer = {"text": "x", "usage": {"input_tokens": 100, "output_tokens": 50}}
        async with LoopbackServer(answer, tokens_per_minute=6000, latency=1) as server:
            peers = [await Peer.of(server) for _ in range(2)]
            for peer in peers:
                peer.send()
            refused, answered = [await peers[n].answer() for n in (1, 0)]
            assert (refused[0], refused[1]["retry-after-ms"]) == (429, "500")
            assert answered[0] == 200
            assert answered[1]["x-ratelimit-remaining-tokens"] == "0"
            assert answered[1]["x-ratelimit-reset-tokens"] == "1.5s"
            for peer in peers:
                await peer.close()

    VirtualTimeLoop.run(main())


def test_anthropic_limits_are_dates() -> None:
    """A request to Anthropic's path is told in Anthropic's headers, streamed or not."""

    async def main() -> None:
        async with LoopbackServer(requests_per_minute=30) as server:
            peer = await Peer.of(server)
            _, headers, _ = await peer.ask(path="/v1/messages")
            assert headers["anthropic-ratelimit-requests-limit"] == "30"
            assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")
            assert headers["date"].endswith("GMT")
            status, headers, _ = await peer.ask(path="/v1/messages")
            assert (status, headers["retry-after"]) == (429, "2")
            assert "retry-after-ms" not in headers
            await asyncio.sleep(2)
            peer.send(path="/v1/messages", stream=True)
            head = await peer.reader.readuntil(b"\r\n\r\n")
            assert b"anthropic-ratelimit-requests-remaining: 0" in head
            await peer.close()

    VirtualTimeLoop.run(main())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"headers": False}, ["retry-after", "retry-after-ms"]),
        ({"retry_after": False, "headers": False}, []),
        (
            {"retry_after": False},
            [
                f"x-ratelimit-{part}-requests"
                for part in ("limit", "remaining", "reset")
            ],
        ),
    ],
)
async def test_a_limit_may_be_silent(options: Any, told: list[str]) -> None:
    """Without `headers` and `retry_after` a 429 does not say what the matter is."""
    async with LoopbackServer(requests_per_minute=1, burst=1, **options) as server:
        peer = await Peer.of(server)
        await peer.ask()
        status, headers, _ = await peer.ask()
        await peer.close()
    assert status == 429
    assert list(headers) == ["content-type", *told, "content-length"]


async def test_who_is_not_let_in_costs_nothing() -> None:
    """A wrong path or key is not taken out; a refused request uses up no fault."""
    async with LoopbackServer(
        errors=[None, 503], requests_per_minute=1, burst=2, api_key="k"
    ) as server:
        peer = await Peer.of(server)
        assert (await peer.ask(path="/nowhere"))[0] == 404
        await peer.close()
    async with LoopbackServer(
        errors=[None, 503], requests_per_minute=1, burst=1
    ) as server:
        peer = await Peer.of(server)
        assert [(await peer.ask())[0] for _ in range(3)] == [200, 429, 429]
        await peer.close()
        assert server.statuses == {200: 1, 429: 2}


def test_a_hidden_limit_of_open_requests() -> None:
    """Above max_concurrent it is a 429 without a hint; those open are answered."""

    async def main() -> None:
        async with LoopbackServer(latency=1, max_concurrent=2) as server:
            peers = [await Peer.of(server) for _ in range(3)]
            for peer in peers:
                peer.send()
            status, headers, body = await peers[2].answer()
            assert (status, list(headers)) == (429, ["content-type", "content-length"])
            assert b"too many requests are open" in body
            assert [(await peer.answer())[0] for peer in peers[:2]] == [200, 200]
            assert (await peers[2].ask())[0] == 200
            assert (server.max_in_flight, server.answered) == (3, 3)
            for peer in peers:
                await peer.close()

    VirtualTimeLoop.run(main())


def test_it_comes_back_on_its_port() -> None:
    """Stopped and started again it has the same port and the same counters."""
    server = LoopbackServer().start()
    port = server.port
    ask(server, "x")
    server.stop()
    with pytest.raises(urllib.error.URLError):
        ask(server, "x")
    server.start()
    ask(server, "x")
    server.stop()
    assert (server.port, server.count, server.answered) == (port, 2, 2)


async def test_it_dies_and_comes_back_in_the_running_loop() -> None:
    """`aclose` cuts what is open, which counts as left; `listen` opens the port."""
    async with LoopbackServer(latency=60) as server:
        port = server.port
        peer = await Peer.of(server)
        peer.send()
        await server.until(lambda: server.in_flight == 1)
        await server.aclose()
        with pytest.raises((OSError, EOFError)):
            await peer.answer()
        await peer.close()
        with pytest.raises(OSError, match="Connect call failed"):
            await Peer.of(server)
        server.latency = 0.0
        await server.listen()
        assert (await (again := await Peer.of(server)).ask())[0] == 200
        await again.close()
        assert (server.port, server.count, server.in_flight) == (port, 2, 0)
        assert (server.left, server.statuses, server.answered) == (1, {200: 1}, 1)


async def test_an_answer_that_is_not_taken_is_not_answered() -> None:
    """`answered` waits until the last byte is sent; a client that leaves before: no."""
    async with LoopbackServer("x" * 2**23) as server:
        slow, gone = [await Peer.of(server) for _ in range(2)]
        slow.send()
        gone.send()
        await server.until(lambda: server.statuses[200] == 2)
        await server.until(lambda: server.in_flight == 0)
        assert server.answered == 0
        gone.writer.transport.abort()
        await slow.answer()
        assert server.answered == 1
        await slow.close()
        await server.until(lambda: server.open_connections == 0)
        assert (server.answered, server.statuses) == (1, {200: 2})


async def test_a_head_that_comes_again() -> None:
    """The same headers are parsed once; each request has a dict of its own."""
    async with LoopbackServer() as server:
        peer = await Peer.of(server)
        for _ in range(2):
            await peer.ask()
        await peer.close()
        first, second = server.requests
        assert first.headers == second.headers == {"content-length": "2"}
        assert first.headers is not second.headers
