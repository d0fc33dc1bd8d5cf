"""What the tests of the engine share: small modules, clients, and a run of them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from inf_engine import Engine, InferenceModule, LLMInference
from inf_engine.resources.config import EndpointConfig
from inf_engine.resources.manager import ResourceManager
from inf_engine.testing import FunctionClient, VirtualTimeLoop
from inf_engine.types import LLMRequest


class Ask(InferenceModule):
    """One call."""

    def __init__(self, alias: str = "m", **options: Any) -> None:
        super().__init__()
        self.llm = LLMInference(alias, **options)

    def forward(self, text: str) -> Any:
        return self.llm(text)


class Compare(InferenceModule):
    """Two calls at once, and one that joins them."""

    def __init__(self) -> None:
        super().__init__()
        self.extract = LLMInference("m")
        self.join = LLMInference("m")

    def forward(self, left: str, right: str) -> str:
        return self.join(f"{self.extract(left)}+{self.extract(right)}")


class Flow(InferenceModule):
    """A forward given as a function of one LLM (and further ones by alias)."""

    def __init__(self, body: Callable[..., Any], **aliases: str) -> None:
        super().__init__()
        self.llm = LLMInference("m")
        self.body = body
        for name, alias in aliases.items():
            setattr(self, name, LLMInference(alias))

    def forward(self, *args: Any) -> Any:
        return self.body(self, *args)


def echo(latency: Any = 1.0, answer: Callable[[LLMRequest], Any] | None = None) -> Any:
    """A client that answers with the prompt in upper case."""
    return FunctionClient(answer or (lambda r: r.prompt.upper()), latency)


def limited(client: Any, slots: int = 1) -> ResourceManager:
    """A manager with one alias, so many slots, and a fake client."""
    config = EndpointConfig("openai", model="x", max_concurrent=slots)
    manager = ResourceManager({"m": config}, environ={})
    manager._routes["m"].deployments[0].client = client
    return manager


def virtually(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run on a virtual clock; nothing may be left running."""

    async def checked() -> Any:
        result = await main()
        for _ in range(5):  # an async generator left by `break` closes itself
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    return VirtualTimeLoop.run(checked())


def run(
    module: InferenceModule, *args: Any, client: Any, using: Any = None, **options: Any
) -> Any:
    """Run a module once on a virtual clock, against one client."""

    async def main() -> Any:
        async with Engine({"m": client}, progress=False, **options) as engine:
            return await engine.using(**(using or {})).run(module, *args)

    return virtually(main)


def engines(body: Any, client: Any = None, **options: Any) -> Any:
    """Run `body(engine)` on a virtual clock."""

    async def main() -> Any:
        async with Engine({"m": client or echo()}, progress=False, **options) as engine:
            return await body(engine)

    return virtually(main)
