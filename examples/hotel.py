"""What the training examples share: messages of hotel guests, and the comparison."""

import json
from pathlib import Path

from inf_engine.optimization import Evaluation, Gate

DATA = Path(__file__).parent / "data" / "hotel.jsonl"


def messages(split: str) -> list[tuple[str, str]]:
    """Return the messages of a split with their topics: train, val or test."""
    rows = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]
    return [(row["text"], row["topic"]) for row in rows if row["split"] == split]


def show(before: Evaluation, after: Evaluation) -> None:
    """Print how often the module is right on the test messages."""
    scores = [[row.score or 0.0 for row in e.rows] for e in (before, after)]
    verdict = Gate("significant").judge(*scores)
    print(f"Right on {before.score.n} messages that nothing was chosen by:\n")
    print(f"before      {before.score}\nafter       {after.score}")
    print(f"difference  {verdict.gain}")
    low = verdict.gain.low
    print(f"Better beyond its interval: {'yes' if low > 0 else 'no'}\n")
