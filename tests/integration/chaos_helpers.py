"""What the tests of chaos share: a client that notes every try, and its bookkeeping.

Counting alone cannot tell a wrong book from a busy machine: a request may time out
before the server has read it, or while its answer waits to be read. So every try has a
number here, which the server sees; then each try of the engine is held against what
the server did with that very request.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from tests.integration.limit_helpers import endpoint

from inf_engine import Engine
from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.clients.transport import AiohttpTransport
from inf_engine.errors import EndpointError
from inf_engine.resources.manager import ResourceManager
from inf_engine.resources.retry import RetryPolicy
from inf_engine.resources.statistics import Statistics
from inf_engine.testing import LoopbackServer
from inf_engine.testing.faults import Fault
from inf_engine.types import LLMRequest, LLMResponse

FIRST = 1_000_000
"""The ``max_tokens`` of the first try, one more for each that follows."""

SOON = RetryPolicy(
    wait=lambda attempt, rng: 0.1 * rng.random(),
    stop=lambda attempt, rng: attempt > 12,
)

ANSWERED, REFUSED, LOST = "answered", "refused", "lost"

BUSY = ("EndpointTimeoutError", "CancelledError")
"""How a try may end that nothing was wrong with: the client did not wait for it."""

Tries = dict[int, tuple[str, Any]]
"""Of each try, by its ``max_tokens``: what is booked, and the status or error."""


def shout(body: dict[str, Any]) -> str:
    """Answer with the prompt in upper case."""
    return body["messages"][-1]["content"].upper()


class Watched:
    """A client that numbers its tries, and notes how each of them ended."""

    def __init__(self, client: Any, tries: Tries) -> None:
        self.client = client
        self.tries = tries

    async def complete(self, request: LLMRequest) -> LLMResponse:
        numbered = self._numbered(request)
        try:
            response = await self.client.complete(numbered)
        except BaseException as exc:
            self._note(numbered, exc)
            raise
        self._note(numbered, response)
        return response

    async def stream(self, request: LLMRequest) -> AsyncIterator[str | LLMResponse]:
        numbered = self._numbered(request)
        try:
            async with aclosing(self.client.stream(numbered)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, LLMResponse):
                        self._note(numbered, piece)
                    yield piece
        except BaseException as exc:
            self._note(numbered, exc)
            raise

    async def aclose(self) -> None:
        await self.client.aclose()

    def _numbered(self, request: LLMRequest) -> LLMRequest:
        number = FIRST + len(self.tries)
        self.tries[number] = (LOST, "nothing")
        return replace(request, max_tokens=number)

    def _note(self, request: LLMRequest, outcome: Any) -> None:
        assert request.max_tokens is not None
        noted: tuple[str, Any] = (LOST, type(outcome).__name__)
        if isinstance(outcome, LLMResponse):
            noted = (ANSWERED, 200)
        elif isinstance(outcome, EndpointError) and not outcome.begun:
            if outcome.status not in (None, 200):
                noted = (REFUSED, outcome.status)
        self.tries[request.max_tokens] = noted


def on_sockets(
    server: LoopbackServer,
    timeout: float,
    tries: Tries | None = None,
    provider: str = "openai-compatible",
    **options: Any,
) -> ResourceManager:
    """A manager of one endpoint; an answer of more than 256 KiB is too large for it."""
    anthropic = provider == "anthropic"
    url = server.anthropic_url if anthropic else server.base_url
    table = {**endpoint(**options), "base_url": url}
    manager = ResourceManager({"endpoints": {"m": table}}, environ={})
    noted: Tries = {} if tries is None else tries
    for deployment in manager._deployments:
        given: Any = {"base_url": url, "api_key": None, "timeout": timeout}
        given["transport"] = AiohttpTransport(largest=2**18)
        if anthropic:
            client: Any = AnthropicClient("some-model", **given)
        else:
            client = OpenAIClient("some-model", compatible=True, **given)
        deployment.client = Watched(client, noted)
    return manager


@asynccontextmanager
async def left_clean(
    manager: ResourceManager, server: LoopbackServer
) -> AsyncGenerator[Engine]:
    """An engine that leaves no task, slot, line or connection behind."""
    before = asyncio.all_tasks()
    async with Engine(manager, progress=False) as engine:
        yield engine
        assert asyncio.all_tasks() - before == set()
        for deployment in manager._deployments:
            assert (deployment.in_use, len(deployment.gate)) == (0, 0)
        assert engine.statistics().total.in_flight == 0
        await asyncio.wait_for(server.until(lambda: server.in_flight == 0), 20)
    await asyncio.wait_for(server.until(lambda: server.open_connections == 0), 20)


def expect_same_books(
    server: LoopbackServer, errors: Any, tries: Tries, books: Statistics
) -> None:
    """The books are what each try came to, and that is what the server did with it.

    Args:
        server: It has recorded its requests, and serves none now.
        errors: Its faults, by the index of a request.
        tries: All tries that were made to it.
        books: The books of them.
    """
    booked = Counter(kind for kind, _ in tries.values())
    assert books.tries == len(tries)
    assert books.requests == booked[ANSWERED]
    assert books.failures == booked[REFUSED]
    assert books.unknown == booked[LOST]
    came = [body["max_tokens"] for body in server.bodies]
    assert len(set(came)) == len(came) == server.count  # no try came twice
    for index, body in enumerate(server.bodies):
        tried, fault = tries[body["max_tokens"]], errors(index, {})
        due = due_of(fault, streamed=bool(body.get("stream")))
        assert tried[0] == due or tried[1] in BUSY, (tried, fault)
        assert tried[0] != REFUSED or fault in (tried[1], "error-event")
    unread = [tries[number] for number in tries.keys() - set(came)]
    assert [tried for tried in unread if tried[1] not in BUSY] == []
    expect_own_count(server, errors)


def expect_own_count(server: LoopbackServer, errors: Any) -> None:
    """The counters of the server are of its requests, but those that left at once."""
    told = Counter(errors(index, {}) or 200 for index in range(server.count))
    statuses = server.statuses
    assert server.count == statuses.total() + server.left
    assert all(statuses[status] <= told[status] for status in statuses)
    assert server.answered <= statuses[200] + statuses["trickle"]


def due_of(fault: Fault, *, streamed: bool) -> str:
    """What is to be booked for a fault, if the client waits for all that comes."""
    if fault is None or fault == "trickle":
        return ANSWERED
    if isinstance(fault, int) or (fault == "error-event" and not streamed):
        return REFUSED
    return LOST
