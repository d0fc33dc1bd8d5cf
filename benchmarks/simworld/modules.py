"""The programs of the worlds as modules of this library; how to reach the server."""

from typing import Any

from benchmarks.simworld.families import FAMILIES, STAGES
from benchmarks.simworld.world import World
from inf_engine import InferenceModule, LLMInference, Parameter


class OnePrompt(InferenceModule):
    """Order in, answer out: one call.

    Args:
        prompts: The prompt by the name "desk".
    """

    def __init__(self, prompts: dict[str, str]) -> None:
        super().__init__()
        self.desk = Parameter(prompts["desk"], description="how orders are answered")
        self.answer = LLMInference("task", self.desk, temperature=0.0)

    def forward(self, order: str) -> str:
        return self.answer(order)


class ThreeStages(InferenceModule):
    """Order in, answer out: three calls, each sees the order and the slip before it.

    Args:
        prompts: The prompts by the names "pack", "bill" and "ship".
    """

    def __init__(self, prompts: dict[str, str]) -> None:
        super().__init__()
        self.pack, self.bill, self.ship = (
            Parameter(prompts[stage], description=f"how to {stage} an order")
            for stage in STAGES
        )
        self.packing = LLMInference("task", self.pack, temperature=0.0)
        self.billing = LLMInference("task", self.bill, temperature=0.0)
        self.shipping = LLMInference("task", self.ship, temperature=0.0)

    def forward(self, order: str) -> str:
        slip = self.packing(order)
        slip = self.billing(f"{order}\n{slip}")
        return self.shipping(f"{order}\n{slip}")


MODULES: dict[str, type[OnePrompt] | type[ThreeStages]] = {
    name: OnePrompt if len(family.stages) == 1 else ThreeStages
    for name, family in FAMILIES.items()
}
"""The class of each family's program."""


def module(world: World) -> OnePrompt | ThreeStages:
    """Return the program of a world, with its start prompts.

    Args:
        world: The world; ``world.true_score(module.state_dict())`` is its score.
    """
    return MODULES[world.family.name](world.start_prompts())


def resources(url: str, max_concurrent: int = 16) -> dict[str, Any]:
    """Return resources for an `Engine`, with the aliases "task" and "reflector".

    Args:
        url: That of the world's `Service`.
        max_concurrent: The most requests in flight to each.
    """
    shared = {
        "provider": "openai-compatible",
        "base_url": url,
        "max_concurrent": max_concurrent,
    }
    roles = ("task", "reflector")
    return {"endpoints": {role: {**shared, "model": role} for role in roles}}
