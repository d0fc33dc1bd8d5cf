"""`stream` over 200,000 inputs with an in-process client: does memory stay flat?"""

import gc
from collections.abc import Iterator

from benchmarks.measure import Figure, resident_mb
from inf_engine import Engine, InferenceModule, LLMInference, LLMResponse
from inf_engine.types import LLMRequest

INPUTS, WARM = 200_000, 5_000
LIMIT = 20.0


class Constant:
    """A client that answers at once and remembers nothing."""

    async def complete(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse(text="fine")


class Two(InferenceModule):
    def __init__(self) -> None:
        super().__init__()
        self.first = LLMInference("fast")
        self.second = LLMInference("fast")

    def forward(self, text: str) -> str:
        return self.second(f"again: {self.first(text)}")


def texts() -> Iterator[str]:
    return (f"text {number}" for number in range(INPUTS))


async def measure() -> list[Figure]:
    """Return the figures."""
    warm = most = 0.0
    async with Engine({"fast": Constant()}, progress=False) as engine:
        done = 0
        async for result in engine.stream(Two(), texts()):
            result.unwrap()
            done += 1
            if done == WARM:
                gc.collect()
                warm = resident_mb()
            elif done % 5_000 == 0:
                most = max(most, resident_mb())
    note = f"after the first {WARM:,}; {warm:.0f} MB there"
    return [
        Figure(f"stream of {done:,} inputs, growth", most - warm, "MB", LIMIT, note)
    ]
