"""Modules hold calls and prompts; names, states and copies work as in PyTorch.

python examples/02_modules_and_parameters.py [resources.toml]
"""

import asyncio
import copy
import json

from endpoints import resources

from inf_engine import (
    Engine,
    InferenceModule,
    LLMInference,
    ModuleDict,
    Parameter,
    Sequential,
)


class Ask(InferenceModule):
    """One question about a text; all questions share one parameter."""

    def __init__(self, question: str, style: Parameter) -> None:
        super().__init__()
        self.question = Parameter(question, description="what is asked")
        self.llm = LLMInference("fast", style, temperature=0.0, max_tokens=30)

    def forward(self, text: str) -> str:
        return self.llm(f"{text}\n\n{self.question}")


class Interview(InferenceModule):
    """Asks several questions at the same time."""

    def __init__(self) -> None:
        super().__init__()
        style = Parameter("Answer in one short sentence.", description="how to answer")
        self.ask = ModuleDict(
            {
                "what": Ask("What is the text about?", style),
                "where": Ask("Where does it happen?", style),
            }
        )

    def forward(self, text: str) -> dict[str, str]:
        return {name: ask(text) for name, ask in self.ask.items()}


class Title(InferenceModule):
    """Makes one line of the answers."""

    def forward(self, answers: dict[str, str]) -> str:
        return f"{answers['what']} / {answers['where']}"


TEXT = "In spring the storks come back to the village and nest on the church tower."


async def main() -> None:
    module = Sequential(Interview(), Title())
    print(module, "\n")
    for name, parameter in module.named_parameters():
        print(f"{name:<29} {parameter.value}")

    async with Engine(resources()) as engine:
        print("\nas written: ", await engine.run(module, TEXT))

        state = json.loads(json.dumps(module.state_dict()))  # plain JSON
        other = copy.deepcopy(module)
        other.load_state_dict({**state, "0.ask.what.question": "Which animal is it?"})
        print("other prompt:", await engine.run(other, TEXT))
        print("\nthe original is untouched:", module.state_dict() == state)

        module.bind(engine)  # a bound module can be awaited itself
        print("bound:       ", await module(TEXT))


if __name__ == "__main__":
    asyncio.run(main())
