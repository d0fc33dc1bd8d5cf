"""Read reviews, answer each one: two calls in parallel, a join, and a branch.

    python examples/01_quickstart.py [resources.toml]

For each of 16 reviews the pipeline asks at the same time whether the customer is happy
(a structured answer: one of two words) and which product it is about (an object), then
branches in plain Python and writes an apology or a thank-you. The report of the first
run is written to quickstart.html. REVIEWS=4 reads the first four only.
"""

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from endpoints import resources
from pydantic import BaseModel, Field

from inf_engine import Engine, InferenceModule, LLMInference, Parameter, Result

DATA = Path(__file__).parent / "data" / "reviews.jsonl"
Mood = Literal["good", "bad"]


class About(BaseModel):
    product: Annotated[str, Field(max_length=20)]


@dataclass
class Reply:
    mood: Mood
    product: str
    answer: str


def shots(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    """Return examples as the turns of a conversation."""
    turns = [(("user", asked), ("assistant", said)) for asked, said in pairs]
    return [{"role": role, "content": text} for turn in turns for role, text in turn]


MOODS = shots(
    ("The soup was cold and the waiter was rude.", '{"value": "bad"}'),
    ("A wonderful film, I enjoyed every minute.", '{"value": "good"}'),
    ("The phone died after a week.", '{"value": "bad"}'),
)
PRODUCTS = shots(
    ("The handle of the cup broke at once.", '{"product": "cup"}'),
    ("My phone came two weeks late.", '{"product": "phone"}'),
    ("Only five dollars for such a good towel!", '{"product": "towel"}'),
    ("I adore this guitar, it sounds lovely.", '{"product": "guitar"}'),
)
APOLOGIES = shots(
    (
        "Review of the cup: The handle broke at once.",
        "We are sorry that the handle of your cup broke, and we will send you another.",
    ),
    (
        "Review of the phone: It came two weeks late.",
        "We are sorry that your phone came so late, and we will do better next time.",
    ),
)
THANKS = shots(
    (
        "Review of the towel: Only five dollars, and so soft!",
        "Thank you! We are glad that you like your towel.",
    ),
    (
        "Review of the guitar: I adore its sound.",
        "Thank you! We are happy that you enjoy your guitar.",
    ),
)


class ReplyToReview(InferenceModule):
    """Review in, `Reply` out."""

    def __init__(self) -> None:
        super().__init__()
        self.mood: LLMInference[Mood] = LLMInference(
            "fast", response_format=Mood, temperature=0.0, max_tokens=16
        )
        self.about = LLMInference(
            "fast",
            "Which product is the review about?",
            response_format=About,
            temperature=0.0,
            max_tokens=32,
        )
        self.tone = Parameter(
            "Thank the customer in one sentence.",
            description="how a happy customer is answered",
        )
        self.apologise = LLMInference("fast", temperature=0.0, max_tokens=40)
        self.thank = LLMInference("fast", self.tone, temperature=0.0, max_tokens=40)

    def forward(self, review: str) -> Reply:
        turn = {"role": "user", "content": review}
        mood = self.mood([*MOODS, turn])  # these two ...
        about = self.about([*PRODUCTS, turn])  # ... run at the same time
        note = {"role": "user", "content": f"Review of the {about.product}: {review}"}
        if mood == "bad":  # a graph break: waits for the mood, not for the product
            answer = self.apologise([*APOLOGIES, note])
        else:
            answer = self.thank([*THANKS, note])
        return Reply(mood, about.product, answer)


async def main() -> None:
    reviews = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]
    reviews = reviews[: int(os.environ.get("REVIEWS", len(reviews)))]
    texts = [review["text"] for review in reviews]
    async with Engine(resources(), progress=True) as engine:
        results = await engine.map(ReplyToReview(), texts, record=True)
    records = [result.record for result in results]
    print("\nThe graph of the first run:\n")
    print(records[0].graph)
    print("\nReviews and answers:\n")
    for review, result in zip(reviews, results, strict=True):
        reply = result.unwrap()
        print(f"{review['text']}\n  {reply.mood:<4} {reply.product}: {reply.answer}\n")
    right = sum(
        (review["sentiment"] == "positive") == (result.output.mood == "good")
        for review, result in zip(reviews, results, strict=True)
    )
    print(f"The mood is right for {right} of {len(reviews)} reviews.\n")
    show_time(results)
    print(f"\nThe report of the first run: {records[0].report('quickstart.html')}")


def show_time(results: list[Result]) -> None:
    """Print calls, tokens and seconds of each call of the module."""
    spent: dict[str, list[float]] = {}
    for result in results:
        for node in result.record.nodes if result.record else ():
            if node.alias:
                row = spent.setdefault(node.node.path, [0, 0, 0])
                row[0] += node.usage.requests
                row[1] += node.usage.total_tokens
                row[2] += node.seconds
    print("Where the time went:\n\n  call          requests   tokens   seconds")
    for path, (requests, tokens, seconds) in spent.items():
        print(f"  {path:<14}{requests:>8}{tokens:>9}{seconds:>10.1f}")


if __name__ == "__main__":
    asyncio.run(main())
