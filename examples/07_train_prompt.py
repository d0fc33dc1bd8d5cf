"""Train a prompt: the embedded model rewrites the question that it is asked.

    python examples/07_train_prompt.py [resources.toml]

Messages of hotel guests are sorted by what they are about: the room, the food, money or
travel. `TextGradientDescent` looks for a better question than "What is the message
about?": it runs the module on 12 of 40 training messages, has a model write a new
question from them, and keeps it if it is not worse on the 12 and better on 40 held-out
messages. What it is worth is measured on 80 others, which nothing was chosen by. The
report of the training is written to build/train_prompt/report.html.

The embedded model is too small to read the usual request of a rewriter, with its long
evidence and its rules, so `QuestionWriter` shows it how questions come out of answered
messages on four other tasks. Leave it out with a large model.

SEED=1 takes other minibatches and samples, ROLLOUTS=200 trains for a shorter time.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Any, Literal

from endpoints import resources
from hotel import messages, show

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.optimization import (
    Gate,
    MaxLength,
    TextGradientDescent,
    Trainer,
    VerifierLoss,
    evaluate,
)
from inf_engine.optimization.rewriter import Job, Rewriter

SEED = int(os.environ.get("SEED", "0"))
ROLLOUTS = int(os.environ.get("ROLLOUTS", "500"))
Topic = Literal["room", "food", "money", "travel"]

QUESTIONS = [
    (
        "The film was dull: bad\nI laughed all the time: good\nAnswers: bad, good",
        "Is the film bad or good?",
    ),
    (
        "We won the match: sport\nThe opera was long: music\nA fine novel: books\n"
        "Answers: sport, music, books",
        "Is the news about sport, music or books?",
    ),
    (
        "Shut the door!: order\nWhere is the key?: question\nAnswers: order, question",
        "Is the sentence an order or a question?",
    ),
    (
        "The cow is ill: animal\nRoses need water: plant\nIron rusts: metal\n"
        "It rains: weather\nAnswers: animal, plant, metal, weather",
        "Is it about an animal, a plant, a metal or the weather?",
    ),
]


class Sorter(InferenceModule):
    """Message in, topic out."""

    def __init__(self) -> None:
        super().__init__()
        self.question = Parameter("What is the message about?")
        self.topic: LLMInference[Topic] = LLMInference(
            "fast", response_format=Topic, temperature=0.0, max_tokens=16
        )

    def forward(self, text: str) -> Topic:
        return self.topic(f"{self.question}\n\n{text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionWriter(Rewriter):
    """Asks for a question, from one message for each answer, wrong ones first."""

    seed: int = 0

    def module(self, job: Job) -> LLMInference[Any]:
        return LLMInference(
            job.alias, temperature=0.8, max_tokens=40, seed=self.seed, max_reasks=0
        )

    def prompt(self, job: Job) -> Any:
        (target,) = job.targets
        calls = [call for note in target.notes for call in note.evidence]
        worst = sorted(calls, key=lambda call: call.score or 0.0, reverse=True)
        shown = {call.target: call for call in worst}
        lines = [
            "".join(p.text for p in shown[answer].prompt if p.source != target.name)
            + f": {answer}"
            for answer in sorted(shown)
        ]
        asked = "\n".join(
            [*map(str.strip, lines), f"Answers: {', '.join(sorted(shown))}"]
        )
        turns = [turn for pair in QUESTIONS for turn in pair]
        roles = ["user", "assistant"] * len(QUESTIONS)
        return [
            *({"role": r, "content": t} for r, t in zip(roles, turns, strict=True)),
            {"role": "user", "content": asked},
        ]


async def main() -> None:
    train, val, test = map(messages, ("train", "val", "test"))
    module = Sorter()
    old = module.question.value
    loss = VerifierLoss(lambda output, target: output == target)
    optimizer = TextGradientDescent(
        module.parameters(),
        alias="fast",
        mode="rewrite",
        rewriter=QuestionWriter(seed=SEED),
        constraints=[MaxLength(words=40)],
        held_out=Gate("improves"),
    )
    began = time.monotonic()
    async with Engine(resources(), progress=False) as engine:
        before = await evaluate(module, test, loss, engine=engine)
        trainer = Trainer(
            *(engine, module, loss, optimizer),
            rollouts=ROLLOUTS,
            batch_size=12,
            seed=SEED,
            out="build/train_prompt",
        )
        result = await trainer.fit(train, val)
        after = await evaluate(module, test, loss, engine=engine)
    print(f"What was changed:\n\n- {old}\n+ {module.question.value}\n")
    print(f"The training, on its {len(val)} held-out messages:\n\n{result}\n")
    show(before, after)
    print(f"{time.monotonic() - began:.0f} seconds; see build/train_prompt/report.html")


if __name__ == "__main__":
    asyncio.run(main())
