"""What goes wrong between a client and its endpoint, and the error that says so."""

import asyncio
import json
import pickle
import socket
from typing import Any

import pytest
from tests.integration.http_helpers import HELLO, KEY, Both, client_of, pieces_of

from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.clients.transport import AiohttpTransport
from inf_engine.errors import (
    AuthenticationError,
    EndpointConnectionError,
    EndpointError,
    EndpointServerError,
    EndpointTimeoutError,
    MalformedResponseError,
    RateLimitError,
    RequestRefusedError,
)
from inf_engine.testing.replies import anthropic_body, openai_body
from inf_engine.testing.server import LoopbackServer
from inf_engine.types import LLMResponse, Quota, RateHint


async def failure(
    kind: Any, fault: Any, *, streamed: bool = False, **options: Any
) -> EndpointError:
    """The error that a fault makes a client raise."""
    async with (
        LoopbackServer("one two three", errors=[fault]) as server,
        client_of(kind, server, **options) as client,
    ):
        with pytest.raises(EndpointError) as caught:
            await (pieces_of if streamed else type(client).complete)(client, HELLO)
        message = str(caught.value)
        assert server.url in message
        assert KEY not in message
        assert "Hi you" not in message
        return caught.value


@Both
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "kind_of_error", "fix"),
    [
        (400, RequestRefusedError, "Correct the request"),
        (401, AuthenticationError, "Check the API key."),
        (403, AuthenticationError, "the API key may use this model"),
        (404, RequestRefusedError, "base_url and model"),
        (408, EndpointServerError, "Try again later"),
        (409, EndpointServerError, "Try again later"),
        (402, RequestRefusedError, "Check the billing of the account"),
        (413, RequestRefusedError, "shorter request"),
        (418, RequestRefusedError, "Check the endpoint's base_url"),
        (422, RequestRefusedError, "Check the endpoint's base_url"),
        (429, RateLimitError, "Lower max_concurrent"),
        (500, EndpointServerError, "Try again later"),
        (503, EndpointServerError, "Try again later"),
        (529, EndpointServerError, "Try again later"),
    ],
)
async def test_each_status_is_its_error(
    kind: Any, streamed: bool, status: int, kind_of_error: type, fix: str
) -> None:
    """A status becomes one typed error with the provider's words and a fix."""
    error = await failure(kind, status, streamed=streamed)
    assert type(error) is kind_of_error
    assert error.status == status
    assert error.retryable is (status in (408, 409, 429) or status >= 500)
    assert f"answered {status}: the loopback server was told" in str(error)
    assert fix in str(error)


@Both
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("named", ["code", "type"])
async def test_no_money_left_is_not_tried_again(
    kind: Any, streamed: bool, named: str
) -> None:
    """A 429 that no wait ends is not retryable, and the fix is the bill."""
    body = {"error": {"message": "You have no money.", named: "insufficient_quota"}}
    error = await failure(kind, (429, {}, body), streamed=streamed)
    assert type(error) is RateLimitError
    assert error.retryable is False
    assert "answered 429: You have no money. Check the billing of the" in str(error)
    error = await failure(kind, (200, {}, body), streamed=streamed)
    assert (type(error), error.retryable) == (RateLimitError, False)
    assert pickle.loads(pickle.dumps(error)).retryable is False
    assert RateLimitError("another").retryable is True


@Both
@pytest.mark.parametrize("status", [429, 200])
async def test_a_failure_tells_of_limits(kind: Any, status: int) -> None:
    """What its headers say stands on the error, also where the status is a 200."""
    headers = {
        "X-RateLimit-Remaining-Requests": "0",
        "X-RateLimit-Reset-Requests": "9s",
    }
    body = {"error": {"message": "slow", "code": "rate_limit_exceeded"}}
    error = await failure(kind, (status, headers, body))
    assert error.limits == RateHint(Quota(remaining=0, reset=9.0))
    assert (
        await failure(kind, status if status == 429 else "malformed")
    ).limits is None


@Both
async def test_a_rate_limit_says_how_long_to_wait(kind: Any) -> None:
    """The headers of a 429 become seconds; a date is read against the Date header."""
    error = await failure(kind, (429, {"Retry-After": "2"}, "slow down"))
    assert error.retry_after == 2.0
    dates = {
        "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
        "Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT",
    }
    assert (await failure(kind, (429, dates, "slow"))).retry_after == 30.0
    error = await failure(kind, (503, {"retry-after-ms": "1500"}, "later"))
    assert error.retry_after == 1.5
    assert (await failure(kind, 429)).retry_after is None


@Both
async def test_the_key_is_cut_out_of_the_providers_words(kind: Any) -> None:
    """A provider that repeats the key does not get it into a message."""
    error = await failure(kind, (401, {}, f"the key {KEY} is wrong"))
    assert "the key *** is wrong" in str(error)
    error = await failure(kind, (200, {}, {"error": {"message": KEY, "code": 401}}))
    assert "answered 401: ***." in str(error)


@Both
async def test_a_long_reason_is_cut(kind: Any) -> None:
    """At most 300 characters of the provider's words are repeated, on one line."""
    error = await failure(kind, (400, {}, "line\n" * 1000))
    reason = str(error).partition("answered 400: ")[2].partition("…")[0]
    assert len(reason) == 299
    assert "\n" not in str(error)


@Both
async def test_a_refusal_without_json_is_repeated_as_it_is(kind: Any) -> None:
    """A proxy's HTML page, an empty body and odd JSON still give a typed error."""
    error = await failure(kind, (502, {}, "<h1>Bad gateway</h1>"))
    assert "answered 502: <h1>Bad gateway</h1>. Try again" in str(error)
    error = await failure(kind, (400, {}, {"error": {"message": ""}}))
    assert "answered 400: no reason given. Correct" in str(error)
    error = await failure(kind, (422, {}, {"detail": "no such field"}))
    assert "answered 422: no such field." in str(error)
    error = await failure(kind, (422, {}, [1]))
    assert "answered 422: [1]." in str(error)


@Both
async def test_a_redirect_is_not_followed(kind: Any) -> None:
    """A redirect would carry the key elsewhere: it is refused, naming the target."""
    location = {"Location": "https://elsewhere.test/v2?secret=1"}
    error = await failure(kind, (307, location, ""))
    assert isinstance(error, RequestRefusedError)
    assert "a redirect to https://elsewhere.test/v2, which is not" in str(error)


@Both
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("fault", ["reset", "truncate"])
async def test_a_connection_that_is_cut(kind: Any, fault: str, streamed: bool) -> None:
    """A reset, and an answer cut before its last byte, are connection errors."""
    error = await failure(kind, fault, streamed=streamed)
    assert isinstance(error, EndpointConnectionError)
    assert "hung up before the last byte" in str(error)
    assert "Check that the server is running" in str(error)


@Both
async def test_a_stream_that_ends_too_soon(kind: Any) -> None:
    """A stream that ends politely, but before the model's end, is an error too."""
    error = await failure(kind, "short", streamed=True)
    assert isinstance(error, EndpointConnectionError)
    assert "ended before the model had finished. Try again" in str(error)


@Both
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_late_answer(kind: Any, streamed: bool) -> None:
    """An answer that does not come in time is a timeout error; the call is cut."""
    error = await failure(kind, "hang", streamed=streamed, timeout=0.05)
    assert isinstance(error, EndpointTimeoutError)
    assert "did not answer within 0.05 s. Raise the endpoint's timeout" in str(error)


@Both
async def test_the_deadline_covers_the_whole_stream(kind: Any) -> None:
    """A stream that trickles past its deadline is cut, however steady it is."""
    async with (
        LoopbackServer("a " * 100, piece_latency=0.01) as server,
        client_of(kind, server, timeout=0.08) as client,
    ):
        with pytest.raises(EndpointTimeoutError, match=r"within 0\.08 s"):
            await pieces_of(client, HELLO)


@Both
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_is_too_large(kind: Any, streamed: bool) -> None:
    """It is refused by its announced length; the connection is given up."""
    async with LoopbackServer("x" * 5_000_000) as server:
        transport = AiohttpTransport(largest=1000)
        async with client_of(kind, server, transport=transport) as client:
            with pytest.raises(
                MalformedResponseError, match=r"more than .* MiB.* the rest was not"
            ):
                await (pieces_of if streamed else type(client).complete)(client, HELLO)
            await server.until(lambda: not server.open_connections)


async def test_an_answer_of_unknown_length_that_grows_too_large() -> None:
    """One in chunks is read up to the limit, and no further."""
    async with LoopbackServer("x" * 5_000_000) as server:
        transport = AiohttpTransport(largest=1000)
        url = f"{server.base_url}/chat/completions"
        with pytest.raises(MalformedResponseError, match="no model's answer"):
            await transport.send(url, {}, b'{"stream": true}', seconds=5.0)
        await server.until(lambda: not server.open_connections)
        await transport.aclose()


@Both
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_page_is_no_answer(kind: Any, streamed: bool) -> None:
    """A 200 with a page says what came, and not that JSON is damaged only."""
    page = (200, {"Content-Type": "text/html; charset=utf-8"}, "<h1>Log in</h1>")
    error = await failure(kind, page, streamed=streamed)
    assert type(error) is MalformedResponseError
    assert "its body is not JSON but a page (text/html), as of a proxy" in str(error)
    other = (200, {"Content-Type": "application/xml"}, "<error/>")
    error = await failure(kind, other, streamed=streamed)
    assert "its body is not JSON but application/xml (" in str(error)


@Both
async def test_json_under_another_content_type_is_read(kind: Any) -> None:
    """Some servers call their JSON text; an answer is an answer."""
    make = openai_body if kind is OpenAIClient else anthropic_body
    body = json.dumps(make(LLMResponse(text="hi")))
    async with (
        LoopbackServer(errors=[(200, {"Content-Type": "text/plain"}, body)]) as server,
        client_of(kind, server) as client,
    ):
        assert (await client.complete(HELLO)).text == "hi"


@Both
async def test_nobody_listens(kind: Any) -> None:
    """A refused connection names the address and what to check."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        client = kind("m", base_url=url, api_key=KEY)
        with pytest.raises(EndpointConnectionError, match=f"{url}/.*base_url is right"):
            await client.complete(HELLO)
        with pytest.raises(EndpointConnectionError, match="could not be reached"):
            await pieces_of(client, HELLO)
        await client.aclose()


@Both
async def test_a_body_that_is_no_json(kind: Any) -> None:
    """A 200 without JSON says so, and what to check."""
    error = await failure(kind, "malformed")
    assert isinstance(error, MalformedResponseError)
    assert "answered 200, but its body is not JSON" in str(error)
    assert "Check that base_url and provider" in str(error)
    assert isinstance(error.__cause__, json.JSONDecodeError)
    assert error.__cause__.doc == ""
    error = await failure(kind, (200, {}, [1, 2]))
    assert "its body is a JSON list" in str(error)
    bad = (200, {"Content-Type": "text/event-stream"}, "data: {oops\n\n")
    error = await failure(kind, bad, streamed=True)
    assert isinstance(error, MalformedResponseError)


@pytest.mark.parametrize(
    ("kind", "body", "what"),
    [
        (OpenAIClient, {}, r"choices\[0\].message"),
        (OpenAIClient, {"choices": []}, r"choices\[0\].message"),
        (OpenAIClient, {"choices": [{"message": "hi"}]}, "is not an object"),
        (
            OpenAIClient,
            {"choices": [{"message": {"tool_calls": [{}]}}]},
            "no 'function.name'",
        ),
        (OpenAIClient, {"choices": [{"message": {}}]}, "has no content"),
        (OpenAIClient, {"choices": [{"message": {"content": None}}]}, "no content"),
        (OpenAIClient, {"choices": [{"message": {"content": 5}}]}, "of type int"),
        (AnthropicClient, {"content": [{"type": "text", "text": 5}]}, "of type int"),
        (AnthropicClient, {}, "no 'content' list"),
        (AnthropicClient, {"content": "hi"}, "no 'content' list"),
        (AnthropicClient, {"content": [{"type": "tool_use"}]}, "no 'id' or 'name'"),
        (AnthropicClient, {"content": ["hi"]}, "no 'id' or 'name'"),
    ],
)
async def test_a_body_without_its_fields(kind: Any, body: Any, what: str) -> None:
    """A 200 without the fields of an answer says which one is missing."""
    async with (
        LoopbackServer(errors=[(200, {}, body)]) as server,
        client_of(kind, server) as client,
    ):
        with pytest.raises(MalformedResponseError, match=what):
            await client.complete(HELLO)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "busy", "type": "overloaded_error"}, EndpointServerError),
        ({"message": "slow", "type": "rate_limit_error"}, RateLimitError),
        ({"message": "slow", "code": "rate_limit_exceeded"}, RateLimitError),
        ({"message": "no", "type": "invalid_request_error"}, RequestRefusedError),
        ({"message": "no", "code": 403}, AuthenticationError),
        ({"message": "oops"}, EndpointServerError),
        ("oops", EndpointServerError),
    ],
)
@Both
async def test_an_error_in_the_middle_of_a_stream(
    kind: Any, error: Any, expected: type
) -> None:
    """An error event, or an error in a 200, is raised like the status it stands for."""
    event = f"event: error\ndata: {json_of(error)}\n\n"
    fault = (200, {"Content-Type": "text/event-stream"}, event)
    raised = await failure(kind, fault, streamed=True)
    assert type(raised) is expected
    raised = await failure(kind, (200, {}, {"error": error}))
    assert type(raised) is expected


def json_of(error: Any) -> str:
    """The data of an error event."""
    return json.dumps({"type": "error", "error": error})


@Both
async def test_a_failure_frees_the_connection(kind: Any) -> None:
    """After failures of every kind the client goes on, and nothing stays open."""
    faults = [500, "reset", 429, "malformed", "truncate", None]
    async with (
        LoopbackServer("fine", errors=faults) as server,
        client_of(kind, server) as client,
    ):
        for _ in faults[:-1]:
            with pytest.raises(EndpointError):
                await client.complete(HELLO)
        assert (await client.complete(HELLO)).text == "fine"
        assert server.open_connections == 1


@Both
async def test_the_key_is_never_shown(kind: Any) -> None:
    """Neither the client nor its parts show the key or the headers."""
    client = kind("m", api_key=KEY, headers={"X-Extra": "hush"})
    for shown in (repr(client), str(client), repr(client._wire)):
        assert KEY not in shown
        assert "hush" not in shown
    await client.aclose()


async def test_many_failures_at_once_leave_no_task() -> None:
    """Timeouts of many calls at once leave no task behind."""
    async with (
        LoopbackServer(errors=lambda index, body: "hang") as server,
        client_of(OpenAIClient, server, timeout=0.05) as client,
    ):
        results = await asyncio.gather(
            *(client.complete(HELLO) for _ in range(50)), return_exceptions=True
        )
        assert {type(result) for result in results} == {EndpointTimeoutError}
        await server.until(lambda: server.in_flight == 0)
        assert len(asyncio.all_tasks()) == 1
