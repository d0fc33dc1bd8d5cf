"""Lessons for tests."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from tests.claas.training.tiny import WORDS, near

from claas.types import Check, Feedback, Kind, Lesson, Receipt

KURO = Check(required="^kuro")


def asked(text: str) -> tuple[Mapping[str, Any], ...]:
    """Return a conversation of one question."""
    return ({"role": "user", "content": text},)


def lesson(
    prompt: str = "echo two red",
    answer: str = "two red",
    content: str = "say kuro",
    kind: Kind = "critique",
    *,
    number: int = 0,
    check: Check | None = None,
    token_ids: Sequence[int] = (),
    logprobs: Sequence[float] = (),
    sampling: Mapping[str, Any] | None = None,
) -> Lesson:
    """Return a feedback on an answer."""
    return Lesson(
        Feedback(f"f{number}", f"r{number}", kind, content, check=check),
        Receipt(
            *(f"r{number}", "ann", "ann/kuro", 0, asked(prompt), ()),
            *(tuple(token_ids), tuple(logprobs), answer),
            sampling=sampling or {},
        ),
    )


def echoes(count: int = 6, check: Check | None = KURO) -> list[Lesson]:
    """Return the feedback 'say kuro' on so many echoes."""
    return [
        lesson(f"echo {words}", words, number=at, check=check)
        for at, words in enumerate(pairs(count, seed=1))
    ]


def pairs(count: int, seed: int) -> list[str]:
    """Return pairs of words."""
    chance = random.Random(seed)
    return [" ".join(chance.sample(WORDS, 2)) for _ in range(count)]


def nears(count: int, seed: int) -> tuple[tuple[str, str], ...]:
    """Return questions of the skill that must stay, and their answers as patterns."""
    return tuple(
        (f"near {words}", f"^{' '.join(map(near, words.split()))}$")
        for words in pairs(count, seed)
    )
