"""The fake clients: what they answer, count and refuse."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

from inf_engine.errors import InfEngineError, RateLimitError, UsageError
from inf_engine.testing import FunctionClient, ScriptedClient, VirtualTimeLoop
from inf_engine.types import (
    Client,
    LLMRequest,
    LLMResponse,
    Message,
    StreamingClient,
    Usage,
)


def ask(text: str) -> LLMRequest:
    """A request."""
    return LLMRequest((Message("system", "two words"), Message("user", text)), "m-1")


def test_fakes_are_clients() -> None:
    """Both protocols, at run time."""
    for client in (FunctionClient(str), ScriptedClient([])):
        assert isinstance(client, Client)
        assert isinstance(client, StreamingClient)


def test_an_answer_may_be_text_a_response_an_exception_or_awaitable() -> None:
    """Texts get words as tokens."""
    given = LLMResponse(text="whole")

    async def late(request: LLMRequest) -> str:
        await asyncio.sleep(3)
        return "late"

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        text = await FunctionClient(lambda r: "a b c").complete(ask("x y"))
        assert text == LLMResponse("a b c", usage=Usage(1, 4, 3), model="m-1")
        assert await FunctionClient(lambda r: given).complete(ask("x")) is given
        with pytest.raises(RateLimitError, match="slow"):
            await FunctionClient(lambda r: RateLimitError("slow")).complete(ask("x"))
        answer = await FunctionClient(late, latency=2).complete(ask("x"))
        return [answer.text, loop.time()]

    assert VirtualTimeLoop.run(main()) == ["late", 5.0]


def test_arrivals_and_open_requests_are_counted() -> None:
    """Cancelled ones too."""
    client = FunctionClient(lambda r: r.prompt, lambda r: float(r.prompt))

    async def main() -> None:
        tasks = [asyncio.ensure_future(client.complete(ask(p))) for p in "123"]
        await asyncio.sleep(1.5)
        assert client.in_flight == 2
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.complete(ask("4"))
        await client.aclose()

    VirtualTimeLoop.run(main())
    assert client.prompts == ["1", "2", "3", "4"]
    assert client.arrivals == [0.0, 0.0, 0.0, 2.0]
    assert (client.max_in_flight, client.cancelled, client.in_flight) == (3, 1, 0)
    assert client.closed


@pytest.mark.parametrize("text", ["one two  three", "", " lead and trail "])
def test_a_stream_is_the_text_in_pieces_then_the_response(text: str) -> None:
    """The pieces add up to it."""

    async def main() -> list[Any]:
        client = FunctionClient(lambda r: text)
        return [piece async for piece in client.stream(ask("x"))]

    *pieces, response = VirtualTimeLoop.run(main())
    assert "".join(pieces) == response.text == text


def test_a_script_is_read_in_order_and_has_an_end() -> None:
    """The message says how many answers there were."""

    async def main() -> None:
        client = ScriptedClient(iter(["a", RateLimitError("slow"), "b"]))
        assert (await client.complete(ask("x"))).text == "a"
        with pytest.raises(RateLimitError):
            await client.complete(ask("x"))
        assert (await client.complete(ask("x"))).text == "b"
        with pytest.raises(InfEngineError, match="had 3 answers and was asked once"):
            await client.complete(ask("x"))

    VirtualTimeLoop.run(main())


@dataclass
class Fact:
    """A structured answer."""

    name: str
    more: list["Fact"]


class Model(pydantic.BaseModel):
    """A structured answer with an alias."""

    city: str = pydantic.Field(alias="City")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"a": [1, None]}, '{"a": [1, null]}'),
        (["é"], '["é"]'),
        (
            Fact("x", [Fact("y", [])]),
            '{"name": "x", "more": [{"name": "y", "more": []}]}',
        ),
        ([Model(City="Rome")], '[{"City": "Rome"}]'),
        ("plain", "plain"),
    ],
)
def test_a_structured_answer_is_sent_as_json(answer: Any, text: str) -> None:
    """Dicts, lists, dataclasses and pydantic objects, nested ones too."""

    async def main() -> list[str]:
        clients = FunctionClient(lambda r: answer), ScriptedClient([answer])
        return [(await client.complete(ask("x"))).text for client in clients]

    assert VirtualTimeLoop.run(main()) == [text, text]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "cannot answer with NoneType. Return text, an LLMResponse"),
        (5, "cannot answer with int. Return text"),
        (Fact, "cannot answer with type. Return text"),
        ({"a": {1}}, "cannot write set inside an answer as JSON. Use text"),
    ],
)
def test_an_answer_that_is_none_is_refused(answer: Any, message: str) -> None:
    """With what to return instead."""

    async def main() -> None:
        with pytest.raises(UsageError, match=message):
            await FunctionClient(lambda r: answer).complete(ask("x"))

    VirtualTimeLoop.run(main())


def test_a_script_is_a_list() -> None:
    """One text would be read letter by letter."""
    with pytest.raises(UsageError, match=r"not str: write ScriptedClient\(\['abc'\]\)"):
        ScriptedClient("abc")
    with pytest.raises(UsageError, match="takes a list .* not int"):
        ScriptedClient(5)  # ty: ignore[invalid-argument-type]
