"""Typed answers on the model of the examples; tools on a scripted one.

    python examples/04_structured_output_and_tools.py [resources.toml]

The embedded model is too small to call tools, so that part plays the model's turns from
a script; with a real endpoint the same module works as it is.
"""

import asyncio
from typing import Annotated, Literal

from endpoints import resources
from pydantic import BaseModel, Field

from inf_engine import Engine, InferenceModule, LLMInference, LLMResponse
from inf_engine.testing import ScriptedClient
from inf_engine.types import ToolCall


class City(BaseModel):
    name: Annotated[str, Field(max_length=20)]
    country: Annotated[str, Field(max_length=20)]


class Facts(InferenceModule):
    """Three answers of three types, at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.city = LLMInference(
            "fast",
            prompt="Which city, in which country, is this about? {text}",
            response_format=City,
            temperature=0.0,
            max_tokens=60,
        )
        self.size = LLMInference(
            "fast",
            prompt="Is it a big or a small city? {text}",
            response_format=Literal["big", "small"],
            temperature=0.0,
            max_tokens=60,
        )

    def forward(self, text: str) -> str:
        city, size = self.city(text=text), self.size(text=text)
        return f"{city.name} in {city.country} is {size}"


async def temperature(city: str, unit: Literal["C", "F"] = "C") -> float:
    """Measure the temperature outside.

    Args:
        city: Where.
        unit: Celsius or Fahrenheit.
    """
    celsius = {"Lima": 19.0, "Oslo": 3.0}[city]
    return celsius if unit == "C" else celsius * 1.8 + 32


class Weather(InferenceModule):
    """A model that may call a function."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = LLMInference("tools", "Use the tools.", tools=[temperature])

    def forward(self, question: str) -> str:
        return self.answer(question)


SCRIPT = [
    LLMResponse(
        tool_calls=(
            ToolCall("1", "temperature", '{"city": "Lima"}'),
            ToolCall("2", "temperature", '{"city": "Oslo", "unit": "F"}'),
            ToolCall("3", "temperature", '{"city": "Atlantis"}'),
        )
    ),
    "19 °C in Lima, 37.4 °F in Oslo; Atlantis has no thermometer.",
]


async def main() -> None:
    async with Engine(resources()) as engine:
        print(await engine.run(Facts(), "Millions of people live in Paris in France."))

    model = ScriptedClient(SCRIPT)
    async with Engine({"tools": model}) as engine:
        print(await engine.run(Weather(), "How warm is it in Lima and in Oslo?"))
    print("\nWhat the tools answered, as the model saw it:")
    for message in model.requests[-1].messages:
        if message.role == "tool":
            print(f"  {message.tool_call_id}: {message.text}")
    print("\nThe tool as the model sees it:")
    print(" ", model.requests[0].tools[0])


if __name__ == "__main__":
    asyncio.run(main())
