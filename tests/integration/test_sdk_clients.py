"""Clients of the official SDKs, handed in, against our own: they do the same."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from tests.integration.http_helpers import (
    CLOSED,
    HELLO,
    KEY,
    OPEN,
    RICH,
    TOOLS,
    client_of,
    pieces_of,
)
from tests.integration.test_http_clients import IMAGES

from inf_engine.clients import from_sdk, is_sdk
from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.clients.sdk import SDKTransport
from inf_engine.errors import (
    AuthenticationError,
    ConfigurationError,
    EndpointConnectionError,
    EndpointError,
    EndpointServerError,
    EndpointTimeoutError,
    EngineStateError,
    MalformedResponseError,
    RateLimitError,
)
from inf_engine.testing.replies import anthropic_body, openai_body
from inf_engine.testing.server import LoopbackServer
from inf_engine.types import LLMRequest, ResponseSchema

Both = pytest.mark.parametrize("kind", [OpenAIClient, AnthropicClient])

SAMPLED = replace(HELLO, temperature=0.5, top_p=0.9, max_tokens=7, stop=("x",), seed=3)
REQUESTS = {
    "plain": HELLO,
    "sampled": SAMPLED,
    "closed": replace(HELLO, response_schema=ResponseSchema("A", CLOSED)),
    "open": replace(HELLO, response_schema=ResponseSchema("A", OPEN)),
    "tools": TOOLS,
    "images": IMAGES,
}


def sdk_of(kind: Any, server: LoopbackServer, **options: Any) -> Any:
    """The SDK's own client of `server`, which would try twice more.

    It gets an HTTP client that loads no certificates, which takes 20 ms each time.
    """
    options["http_client"] = httpx2.AsyncClient(verify=False)
    if kind is OpenAIClient:
        return openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY, **options)
    url = server.anthropic_url
    return anthropic.AsyncAnthropic(base_url=url, api_key=KEY, **options)


async def outcome(client: Any, request: LLMRequest, *, streamed: bool) -> Any:
    """What a client gives or raises, comparable."""
    try:
        if not streamed:
            return replace(await client.complete(request), seconds=0.0)
        *pieces, answer = await pieces_of(client, request)
        return "".join(pieces), replace(answer, seconds=0.0)
    except EndpointError as exc:
        return type(exc), str(exc), exc.status, exc.retry_after, exc.limits


async def both(
    kind: Any, request: LLMRequest, *, streamed: bool = False, **server_options: Any
) -> tuple[Any, Any, list[Any]]:
    """The outcomes through our client and through the SDK, and what arrived."""
    async with (
        LoopbackServer(RICH, **server_options) as server,
        client_of(kind, server) as ours,
        sdk_of(kind, server) as sdk,
    ):
        first = await outcome(ours, request, streamed=streamed)
        second = await outcome(from_sdk(sdk, "m"), request, streamed=streamed)
        return first, second, server.requests


@Both
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
async def test_the_same_is_sent_and_read(kind: Any, name: str, streamed: bool) -> None:
    """Bodies and versions at the server are equal, and so are the answers."""
    ours, theirs, (first, second) = await both(kind, REQUESTS[name], streamed=streamed)
    assert first.path == second.path
    assert first.body == second.body
    version = "anthropic-version"
    assert first.headers.get(version) == second.headers.get(version)
    assert ours == theirs
    assert RICH in (ours, ours[1] if streamed else None)


FAULTS: list[Any] = [
    400,
    401,
    404,
    (429, {"Retry-After": "2", "x-ratelimit-limit-requests": "9"}, "slow down"),
    (429, {}, {"error": {"message": "pay", "code": "insufficient_quota"}}),
    529,
    (200, {}, {"error": {"message": KEY, "code": 401}}),
    (200, {}, "<h1>Log in</h1>"),
    (200, {"Content-Type": "text/html"}, "<h1>Log in</h1>"),
    "malformed",
]


@Both
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_same_is_raised(kind: Any, fault: Any, streamed: bool) -> None:
    """A failure is the same error, word for word, after one request."""
    ours, theirs, requests = await both(
        kind, HELLO, streamed=streamed, errors=[fault, fault]
    )
    assert ours == theirs
    assert issubclass(ours[0], EndpointError)
    assert KEY not in ours[1]
    assert len(requests) == 2


@Both
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", ["reset", "truncate", "short"])
async def test_a_cut_connection(kind: Any, fault: str, streamed: bool) -> None:
    """What the SDK's HTTP library raises is converted, and not tried again."""
    ours, theirs, requests = await both(
        kind, HELLO, streamed=streamed, errors=[fault, fault]
    )
    assert ours[0] is theirs[0] is EndpointConnectionError
    assert len(requests) == 2


@Both
async def test_an_error_in_the_middle_of_a_stream(kind: Any) -> None:
    """An error event is the same typed error."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    event = f"event: error\ndata: {json.dumps(error)}\n\n"
    fault = (200, {"Content-Type": "text/event-stream"}, event)
    ours, theirs, _ = await both(kind, HELLO, streamed=True, errors=[fault, fault])
    assert ours == theirs
    assert ours[0] is EndpointServerError


@Both
async def test_limits_come_with_answers(kind: Any) -> None:
    """The headers of an answer are read as our own client reads them."""
    make = openai_body if kind is OpenAIClient else anthropic_body
    fault = (200, {"x-ratelimit-remaining-requests": "3"}, make(RICH))
    async with (
        LoopbackServer(errors=[fault]) as server,
        sdk_of(kind, server) as sdk,
    ):
        limits = (await from_sdk(sdk, "m").complete(HELLO)).limits
    assert limits is not None
    assert limits.requests is not None
    assert limits.requests.remaining == 3


@Both
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_late_answer(kind: Any, streamed: bool) -> None:
    """The deadline is by the wall clock, and the connection is cut."""
    async with (
        LoopbackServer(errors=["hang"]) as server,
        sdk_of(kind, server) as sdk,
    ):
        client: Any = from_sdk(sdk, "m", timeout=0.1)
        with pytest.raises(EndpointTimeoutError, match=r"within 0\.1 s\. Raise"):
            await (pieces_of(client, HELLO) if streamed else client.complete(HELLO))
        await server.until(lambda: server.disconnects)


@Both
async def test_the_deadline_covers_the_whole_stream(kind: Any) -> None:
    """A stream that trickles past its deadline is cut; the SDK alone would wait."""
    async with (
        LoopbackServer("a " * 100, piece_latency=0.01) as server,
        sdk_of(kind, server) as sdk,
    ):
        with pytest.raises(EndpointTimeoutError, match=r"within 0\.15 s"):
            await pieces_of(from_sdk(sdk, "m", timeout=0.15), HELLO)
        await server.until(lambda: server.disconnects)


@Both
async def test_pieces_come_as_they_are_written(kind: Any) -> None:
    """A stream is passed on, not gathered; leaving it hangs up."""
    async with (
        LoopbackServer("a b c", piece_latency=0.005) as server,
        sdk_of(kind, server) as sdk,
    ):
        stream: Any = from_sdk(sdk, "m").stream(HELLO)
        assert await anext(stream) == "a"
        assert server.in_flight == 1
        await stream.aclose()
        await server.until(lambda: server.disconnects)


@Both
async def test_cancelling_hangs_up(kind: Any) -> None:
    """A cancelled call cuts its connection and is no timeout."""
    async with (
        LoopbackServer(errors=["hang"]) as server,
        sdk_of(kind, server) as sdk,
    ):
        task = asyncio.create_task(from_sdk(sdk, "m").complete(HELLO))
        await server.until(lambda: server.in_flight)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: server.disconnects)


@Both
async def test_the_client_stays_its_owners(kind: Any) -> None:
    """Closing ours leaves the SDK's open; using one that is closed is an error."""
    async with LoopbackServer("hi") as server:
        sdk = sdk_of(kind, server)
        client = from_sdk(sdk, "m")
        await client.aclose()
        assert (await client.complete(HELLO)).text == "hi"
        assert not sdk.is_closed()
        await sdk.close()
        with pytest.raises(EngineStateError, match=r"SDK client .* is closed\. Close"):
            await client.complete(HELLO)


@Both
async def test_the_timeout_of_the_sdk_client_is_the_default(kind: Any) -> None:
    """The SDK client's own timeout, a number or one per step, is the deadline."""
    given: list[tuple[Any, float]] = [
        (7.0, 7.0),
        (None, 600.0),
        (httpx2.Timeout(9.0, connect=1.0), 9.0),
    ]
    async with LoopbackServer() as server:
        for timeout, seconds in given:
            async with sdk_of(kind, server, timeout=timeout) as sdk:
                assert from_sdk(sdk, "m")._wire._timeout == seconds


def test_what_a_compatible_server_takes_can_be_said() -> None:
    """The token limit goes under the name that such servers know."""
    sdk = openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key=KEY)
    client: Any = from_sdk(sdk, "m", compatible=True)
    assert client._payload(SAMPLED)["max_tokens"] == 7


class Recorder(httpx2.AsyncBaseTransport):
    """Answers from memory, at whatever address an SDK makes up."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self.requests: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self.answer


def recorded(body: Any, **headers: str) -> tuple[Recorder, httpx2.AsyncClient]:
    """An HTTP client that answers with a body, and what it sends to."""
    recorder = Recorder(httpx2.Response(200, json=body, headers=headers))
    return recorder, httpx2.AsyncClient(transport=recorder)


async def test_azure() -> None:
    """The model is the deployment, and stands in the address."""
    recorder, http = recorded(openai_body(RICH))
    async with openai.AsyncAzureOpenAI(
        azure_endpoint="https://a.test", api_version="v", api_key=KEY, http_client=http
    ) as sdk:
        answer = await from_sdk(sdk, "dep").complete(HELLO)
    assert replace(answer, seconds=0.0) == RICH
    url = str(recorder.requests[0].url)
    assert url == "https://a.test/openai/deployments/dep/chat/completions?api-version=v"
    assert recorder.requests[0].headers["api-key"] == KEY


async def test_bedrock() -> None:
    """The model goes into the address, and the key of Amazon is sent."""
    recorder, http = recorded(anthropic_body(RICH))
    async with anthropic.AsyncAnthropicBedrock(
        aws_region="r", api_key=KEY, http_client=http
    ) as sdk:
        answer = await from_sdk(sdk, "m").complete(HELLO)
    assert replace(answer, seconds=0.0) == RICH
    (request,) = recorder.requests
    assert str(request.url) == "https://bedrock-runtime.r.amazonaws.com/model/m/invoke"
    body = json.loads(request.content)
    assert body["system"] == "Be brief."
    assert "model" not in body


async def test_vertex() -> None:
    """Project, region and model go into the address."""
    recorder, http = recorded(anthropic_body(RICH))
    async with anthropic.AsyncAnthropicVertex(
        region="r", project_id="p", access_token=KEY, http_client=http
    ) as sdk:
        answer = await from_sdk(sdk, "m").complete(HELLO)
    assert replace(answer, seconds=0.0) == RICH
    (request,) = recorder.requests
    assert "/projects/p/locations/r/" in str(request.url)
    assert request.headers["authorization"] == f"Bearer {KEY}"


class AmazonReply:
    """A streamed answer that only the SDK can decode."""

    status_code = 200
    headers = {"content-type": "application/vnd.amazon.eventstream"}

    def __init__(self, events: list[Any]) -> None:
        self._events = events

    async def parse(self, *, to: Any) -> AsyncIterator[Any]:
        assert to == anthropic.AsyncStream[object]
        return self._decoded()

    async def _decoded(self) -> AsyncIterator[Any]:
        for event in self._events:
            if isinstance(event, Exception):
                raise event
            yield event

    async def __aenter__(self) -> "AmazonReply":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


def amazon_client(*events: Any) -> AnthropicClient:
    """A client whose SDK answers with Amazon's event stream."""
    sdk = anthropic.AsyncAnthropicBedrock(aws_region="r", api_key=KEY)
    transport = SDKTransport(sdk, "anthropic")
    transport._create = lambda **_: AmazonReply(list(events))
    return AnthropicClient("m", api_key=None, transport=transport)


async def test_amazons_stream_is_decoded_by_the_sdk() -> None:
    """Its events are those of Anthropic's own stream."""
    text = {"type": "text_delta", "text": "hi"}
    *pieces, answer = await pieces_of(
        amazon_client(
            {"type": "content_block_delta", "index": 0, "delta": text},
            {"type": "message_stop"},
        ),
        HELLO,
    )
    assert (pieces, answer.text) == (["hi"], "hi")


async def test_an_error_in_amazons_stream() -> None:
    """What the SDK raises for an error event is named by our own code."""
    body = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    response = httpx2.Response(200, request=httpx2.Request("POST", "https://a.test"))
    error = anthropic.APIStatusError("busy", response=response, body=body)
    with pytest.raises(EndpointServerError, match="answered 529: busy"):
        await pieces_of(amazon_client(error), HELLO)


async def test_an_sdk_that_cannot_make_a_request() -> None:
    """Credentials that cannot be had are a matter of configuration; no key is shown."""

    async def token() -> str:
        raise openai.OpenAIError(f"no token for {KEY}")

    sdk = openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key=token)
    with pytest.raises(ConfigurationError, match=r"\(OpenAIError\)\. Check") as caught:
        await from_sdk(sdk, "m").complete(HELLO)
    assert KEY not in str(caught.value)
    await sdk.close()


async def test_what_is_no_failure_of_the_sdk_goes_through() -> None:
    """A mistake in the user's own hook is not called a connection that broke."""

    async def token() -> str:
        raise ZeroDivisionError

    sdk = openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key=token)
    for call in (
        from_sdk(sdk, "m").complete(HELLO),
        pieces_of(from_sdk(sdk, "m"), HELLO),
    ):
        with pytest.raises(ZeroDivisionError):
            await call
    await sdk.close()


async def test_nobody_listens() -> None:
    """A refused connection names the address."""
    sdk = openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key=KEY)
    with pytest.raises(EndpointConnectionError, match=r"127\.0\.0\.1:9/v1/chat"):
        await from_sdk(sdk, "m").complete(HELLO)
    await sdk.close()


ASYNC = [
    openai.AsyncOpenAI(api_key=KEY),
    openai.AsyncAzureOpenAI(azure_endpoint="https://a", api_version="v", api_key=KEY),
    anthropic.AsyncAnthropic(api_key=KEY),
    anthropic.AsyncAnthropicBedrock(aws_region="r", api_key=KEY),
    anthropic.AsyncAnthropicVertex(region="r", project_id="p", access_token=KEY),
]
SYNC = [
    openai.OpenAI(api_key=KEY),
    anthropic.Anthropic(api_key=KEY),
]


@pytest.mark.parametrize("sdk", ASYNC, ids=lambda sdk: type(sdk).__name__)
def test_each_kind_of_client_is_taken(sdk: Any) -> None:
    """It is known for an SDK's, and shows no key; without a model it is refused."""
    assert is_sdk(sdk)
    client: Any = from_sdk(sdk, "m")
    assert KEY not in repr(client) + repr(client._wire._transport)
    with pytest.raises(ConfigurationError, match=r'from_sdk\(client, model="\.\.\."\)'):
        from_sdk(sdk)


@pytest.mark.parametrize("sdk", SYNC, ids=lambda sdk: type(sdk).__name__)
def test_a_synchronous_client_is_refused(sdk: Any) -> None:
    """The message names the asynchronous one."""
    assert is_sdk(sdk)
    name = type(sdk).__name__
    with pytest.raises(ConfigurationError, match=rf"Give \w+\.Async{name}, made with"):
        from_sdk(sdk, "m")


@pytest.mark.parametrize("value", [None, "gpt", object(), OpenAIClient, openai, {}])
def test_anything_else_is_refused(value: Any) -> None:
    """Neither our own clients, nor classes, nor modules are clients of an SDK."""
    assert not is_sdk(value)
    with pytest.raises(ConfigurationError, match="takes a client of an official SDK"):
        from_sdk(value, "m")


async def test_an_answer_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read to its end here either."""
    monkeypatch.setattr("inf_engine.clients.sdk.LARGEST_ANSWER", 100)
    async with (
        LoopbackServer("x" * 1000) as server,
        sdk_of(OpenAIClient, server) as sdk,
    ):
        client = from_sdk(sdk, "m")
        with pytest.raises(MalformedResponseError, match="the rest was not read"):
            await client.complete(HELLO)
        with pytest.raises(MalformedResponseError, match="the rest was not read"):
            await pieces_of(client, HELLO)


def test_no_sdk_is_loaded_to_look_at_a_value() -> None:
    """Asking whether something is a client of an SDK imports none."""
    code = (
        "import sys; from inf_engine.clients import is_sdk; assert not is_sdk(1); "
        "assert not {'openai', 'anthropic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@Both
async def test_errors_of_the_key_and_of_money(kind: Any) -> None:
    """What decides over a retry arrives: the class, and whether money is the matter."""
    broke = (429, {}, {"error": {"message": "pay", "code": "insufficient_quota"}})
    async with (
        LoopbackServer(errors=[401, broke]) as server,
        sdk_of(kind, server) as sdk,
    ):
        client = from_sdk(sdk, "m")
        with pytest.raises(AuthenticationError):
            await client.complete(HELLO)
        with pytest.raises(RateLimitError, match="billing") as caught:
            await client.complete(HELLO)
        assert caught.value.retryable is False
