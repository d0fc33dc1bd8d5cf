"""A loopback server without sockets, so that its limits are met in virtual time.

Sockets and a jumping clock do not go together: whether a byte has crossed the kernel
when the clock is about to jump is chance. So here the bytes that our client hands to
its `Transport` go straight to the `Desk` of a `LoopbackServer` that never listens, and
what the desk replies goes straight back. All else is the real thing: JSON, headers,
limits, counters, times of arrival; only the times are exact.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from tests.integration.engine_helpers import virtually

from inf_engine import Engine
from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.clients.transport import HttpResponse
from inf_engine.errors import EndpointConnectionError, EndpointTimeoutError
from inf_engine.resources.manager import ResourceManager
from inf_engine.testing import LoopbackServer
from inf_engine.testing.exchange import Reply, ServerRequest
from inf_engine.types import LLMRequest, Message

EPOCH = 1_767_225_600.0  # 2026-01-01, where the virtual clocks of servers begin


class Wireless:
    """A `Transport` that reaches one server, without sockets.

    Args:
        server: The server; it does not listen.
        way: Seconds that each request needs to get there.
    """

    def __init__(
        self, server: LoopbackServer, way: Callable[[], float] | None = None
    ) -> None:
        self.server = server
        self._way = way
        server._desk.epoch = EPOCH

    async def send(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> HttpResponse:
        """Hand a request in and return the reply."""
        try:
            async with asyncio.timeout(seconds):
                if self._way is not None:
                    await asyncio.sleep(self._way())
                reply = await self._served(url, headers, body)
        except TimeoutError as exc:
            raise EndpointTimeoutError(f"no answer within {seconds:g} s") from exc
        given = {name.lower(): value for name, value in reply.headers.items()}
        return HttpResponse(reply.status, given, b"".join(reply.parts))

    def stream(self, *args: Any) -> AsyncIterator[bytes | HttpResponse]:
        """Say that there is none: nothing here streams."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""

    async def _served(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """The reply; the server counts as it does for one of its connections."""
        server, desk, now = self.server, self.server._desk, asyncio.get_running_loop()
        sent = {name.lower(): value for name, value in headers.items()}
        path, parsed = urlsplit(url).path, json.loads(body)
        request = ServerRequest(server.count, path, sent, parsed, now.time())
        server.on_request(request)
        try:
            reply = desk.refusal(request, server.in_flight)
            if reply is None:
                reply = desk.reply(request)
                await asyncio.sleep(desk.wait(request))
            server.on_reply(reply)
            if reply.fault == "hang":
                await asyncio.sleep(1e9)
            if reply.fault is not None:
                raise EndpointConnectionError(f"{url} hung up")
            if reply.status == 200:
                server.on_flush()
            return reply
        finally:
            server.on_end()


def endpoint(host: str = "one", /, **options: Any) -> dict[str, Any]:
    """The table of an endpoint; `reached` finds its server by the host."""
    return {
        "provider": "openai-compatible",
        "model": "some-model",
        "base_url": f"http://{host}.test/v1",
        **options,
    }


def reached(
    endpoints: dict[str, Any],
    way: Callable[[], float] | None = None,
    **servers: LoopbackServer,
) -> ResourceManager:
    """A manager whose clients reach servers by the names of their hosts."""
    manager = ResourceManager(
        {"endpoints": endpoints}, environ={"ANTHROPIC_API_KEY": "k"}
    )
    for deployment in manager._deployments:
        config: Any = deployment.config
        host = (urlsplit(config.base_url).hostname or "").removesuffix(".test")
        wireless = Wireless(servers[host], way)
        options: Any = {"timeout": config.timeout, "transport": wireless}
        if config.provider == "anthropic":
            client: Any = AnthropicClient(
                config.model, base_url=config.base_url, api_key="k", **options
            )
        else:
            client = OpenAIClient(
                config.model,
                base_url=config.base_url,
                api_key=None,
                compatible=True,
                **options,
            )
        deployment.client = client
    return manager


def arrivals(server: LoopbackServer) -> list[float]:
    """When each request came, to the microsecond."""
    return [round(request.arrival, 6) for request in server.requests]


def prompts(server: LoopbackServer) -> list[str]:
    """The last message of each request, in order of arrival."""
    return [body["messages"][-1]["content"] for body in server.bodies]


def hello(text: str = "hello", **options: Any) -> LLMRequest:
    """A request."""
    return LLMRequest((Message("user", text),), **options)


def engine_on(
    manager: ResourceManager, body: Callable[[Engine], Awaitable[Any]], **options: Any
) -> Any:
    """Run `body(engine)` on a virtual clock, pauses between tries being their longest.

    Nothing may be left running, and no slot in use.
    """

    async def main() -> Any:
        async with Engine(manager, progress=False, **options) as engine:
            result = await body(engine)
            assert [d.in_use for d in manager._deployments] == [0] * len(
                manager._deployments
            )
            return result

    manager._random.random = lambda: 0.999
    return virtually(main)
