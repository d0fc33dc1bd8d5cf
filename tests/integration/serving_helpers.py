"""What the tests of the service share: modules, a client that waits, a server."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai

from inf_engine import Engine, InferenceModule, LLMInference
from inf_engine.serving.access import Access
from inf_engine.serving.http import HttpServer
from inf_engine.serving.reports import ReportFolder
from inf_engine.serving.service import Service
from inf_engine.serving.site import Site
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest


class Ask(InferenceModule):
    """One call, whose text is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.llm = LLMInference("m", system_prompt="Be brief.")

    def forward(self, text: str) -> str:
        return self.llm(f"Say {text}")


class Steps(InferenceModule):
    """Two calls, one after the other, and an output that is no text."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LLMInference("m")
        self.second = LLMInference("m")

    def forward(self, left: str, right: str = "nothing") -> dict[str, str]:
        return {"answer": self.second(f"{self.first(left)} and {right}")}


class Talk(InferenceModule):
    """Takes a whole conversation."""

    def __init__(self) -> None:
        super().__init__()
        self.llm = LLMInference("m")

    def forward(self, messages: list[dict[str, str]]) -> str:
        return self.llm(messages)


class Odd(InferenceModule):
    """Fails in its own code, with what it was given in the message."""

    def forward(self, text: str) -> Any:
        if text == "object":
            return object()
        raise ValueError(f"secret {text}")


class Gate(FunctionClient):
    """A client that answers in upper case once its gate is open."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.open = asyncio.Event()
        self.came = asyncio.Event()

    async def _wait(self, request: LLMRequest) -> str:
        self.came.set()
        await self.open.wait()
        return request.prompt.upper()


@dataclass
class Server:
    """A service on a port."""

    service: Service
    site: Site
    http: HttpServer
    session: aiohttp.ClientSession
    client: Any

    async def get(self, path: str, **headers: str) -> tuple[int, str, Any]:
        """Return status, text and headers."""
        url = self.http.url + path
        async with self.session.get(url, headers=headers) as reply:
            return reply.status, await reply.text(), reply.headers

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        url = self.http.url + path
        async with self.session.post(url, json=body, headers=headers) as reply:
            return reply.status, await reply.json()

    async def run(self, inputs: Any) -> tuple[int, Any]:
        """Run one input."""
        return await self.post("/v1/run", {"inputs": inputs})

    def openai(self, key: str = "none", **options: Any) -> openai.AsyncOpenAI:
        """Return OpenAI's own client of this server."""
        return openai.AsyncOpenAI(
            api_key=key, base_url=f"{self.http.url}/v1", **options
        )


def shout(request: LLMRequest) -> str:
    """Answer with the prompt in upper case."""
    return request.prompt.upper()


@contextlib.asynccontextmanager
async def serving(
    module: Any,
    answer: Any = shout,
    *,
    key: str | None = None,
    reports: ReportFolder | None = None,
    most_bytes: int = 100_000,
    engine: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncGenerator[Server, None]:
    """Serve a module whose one alias is a fake client."""
    client = answer if isinstance(answer, FunctionClient) else FunctionClient(answer)
    async with Engine({"m": client}, **(engine or {})) as running:
        service = Service(running, module, **options)
        site = Site(service, Access(key), reports)
        http = HttpServer(site.answer, most_bytes=most_bytes)
        await http.start()
        try:
            async with aiohttp.ClientSession() as session:
                yield Server(service, site, http, session, client)
        finally:
            await http.close()


def served(
    module: Any, check: Callable[[Server], Awaitable[None]], *args: Any, **options: Any
) -> None:
    """Serve a module on a real loop, and check something of it, within a minute."""

    async def main() -> None:
        async with asyncio.timeout(60), serving(module, *args, **options) as server:
            await check(server)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds, a turn of the loop at a time."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)
