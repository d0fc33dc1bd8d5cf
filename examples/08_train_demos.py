"""Train demonstrations: which answered messages to show to a small model.

    python examples/08_train_demos.py [resources.toml]

Messages of hotel guests are sorted by what they are about: the room, the food, money or
travel. Asked without examples, the embedded model does little better than guessing.
`BootstrapDemos` runs it on 40 training messages, takes those that it got right as
demonstrations, and keeps the set of them that does best on 40 held-out messages. What
it is worth is measured on 80 others, which nothing was chosen by. The report of the
training is written to build/train_demos/report.html.

SEED=1 tries other sets, ROLLOUTS=200 trains for a shorter time.
"""

import asyncio
import json
import os
import time
from typing import Literal

from endpoints import resources
from hotel import messages, show

from inf_engine import Engine, InferenceModule, LLMInference
from inf_engine.optimization import (
    BootstrapDemos,
    DemoParameter,
    Trainer,
    VerifierLoss,
    evaluate,
)

SEED = int(os.environ.get("SEED", "0"))
ROLLOUTS = int(os.environ.get("ROLLOUTS", "500"))
Topic = Literal["room", "food", "money", "travel"]


class Sorter(InferenceModule):
    """Message in, topic out."""

    def __init__(self) -> None:
        super().__init__()
        self.demos = DemoParameter()
        self.topic: LLMInference[Topic] = LLMInference(
            "fast",
            "What is the message about?",
            demos=self.demos,
            response_format=Topic,
            temperature=0.0,
            max_tokens=16,
        )

    def forward(self, text: str) -> Topic:
        return self.topic(text)


async def main() -> None:
    train, val, test = map(messages, ("train", "val", "test"))
    module = Sorter()
    loss = VerifierLoss(lambda output, target: output == target)
    optimizer = BootstrapDemos(
        module.parameters(), max_demos=8, candidates=10, pool=len(train)
    )
    began = time.monotonic()
    async with Engine(resources(), progress=False) as engine:
        before = await evaluate(module, test, loss, engine=engine)
        trainer = Trainer(
            *(engine, module, loss, optimizer),
            rollouts=ROLLOUTS,
            seed=SEED,
            out="build/train_demos",
        )
        result = await trainer.fit(train, val)
        after = await evaluate(module, test, loss, engine=engine)
    print(f"What was changed, out of {optimizer.harvested} good runs:\n")
    for demo in module.demos.demos:
        print(f"+ {demo.inputs} {json.dumps(demo.output)}")
    print(f"\nThe training, on its {len(val)} held-out messages:\n\n{result}\n")
    show(before, after)
    print(f"{time.monotonic() - began:.0f} seconds; see build/train_demos/report.html")


if __name__ == "__main__":
    asyncio.run(main())
