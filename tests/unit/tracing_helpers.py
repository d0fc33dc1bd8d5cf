"""Runs a small forward on a virtual clock and tells what the client received."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inf_engine import Engine, InferenceModule, LLMInference
from inf_engine.testing import FunctionClient, VirtualTimeLoop
from inf_engine.types import LLMRequest


@dataclass(frozen=True)
class Ran:
    """A run: what it returned, what the client got and when (virtual seconds)."""

    output: Any
    seconds: float
    client: FunctionClient

    @property
    def prompts(self) -> list[str]:
        """What was sent, in order of arrival."""
        return self.client.prompts

    @property
    def arrivals(self) -> list[float]:
        """When each request arrived."""
        return self.client.arrivals


def echo(request: LLMRequest) -> str:
    """The default answer: the prompt in brackets."""
    return f"[{request.prompt}]"


def same(request: LLMRequest) -> str:
    """An answer that is the prompt itself, for typed outputs."""
    return request.prompt


def seconds(request: LLMRequest) -> float:
    """Five seconds for a slow prompt, one for others."""
    return 5.0 if "slow" in request.prompt else 1.0


def module(forward: Callable[..., Any], **held: Any) -> InferenceModule:
    """A module with that forward, `llm`, typed leaves, and what else is given."""
    made: Any = type("Made", (InferenceModule,), {"forward": forward})()
    made.llm = LLMInference(alias="a")
    made.number = LLMInference(alias="a", response_format=int)
    made.numbers = LLMInference(alias="a", response_format=list[int])
    made.fields = LLMInference(alias="a", response_format=dict[str, Any])
    for name, value in held.items():
        setattr(made, name, value)
    return made


def clients_for(answer: Callable[[LLMRequest], Any]) -> Callable[[], dict[str, Any]]:
    """Fresh clients for each run of `assert_runs_alike`."""
    return lambda: {"a": FunctionClient(answer)}


def run(
    made: InferenceModule,
    *args: Any,
    answer: Callable[[LLMRequest], Any] = echo,
    client: FunctionClient | None = None,
    **kwargs: Any,
) -> Ran:
    """Run a module once and return what happened; errors come out as they are."""
    used = client or FunctionClient(answer, latency=seconds)

    async def main() -> Ran:
        async with Engine({"a": used}, progress=False, retries=0) as engine:
            output = await engine.run(made, *args, **kwargs)
            return Ran(output, asyncio.get_running_loop().time(), used)

    return VirtualTimeLoop.run(main())


def ran(forward: Callable[..., Any], *args: Any, **options: Any) -> Ran:
    """Run a forward as that of a module."""
    return run(module(forward), *args, **options)


def silent() -> FunctionClient:
    """A client for runs that must send nothing; look at its `requests`."""
    return FunctionClient(echo)
