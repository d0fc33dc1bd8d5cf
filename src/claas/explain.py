"""`explain`: what a feedback pushes, token by token of the answer it is about."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from claas.base import gathered
from claas.learner import Learner
from claas.teacher import hinted_prompt, prompt_of, recorded
from claas.types import Lesson, TokenRow


@torch.no_grad()
def explain(learner: Learner, adapter: Path | None, lesson: Lesson) -> list[TokenRow]:
    """Return what a feedback pushes, token by token of the answer it is about.

    Args:
        learner: Who would train on it.
        adapter: The student in PEFT's files, None for the base.
        lesson: The feedback and its answer.

    Raises:
        ConfigurationError: If the adapter does not fit.
    """
    answer = recorded(learner.base, lesson)
    if not answer:
        return []
    hinted = hinted_prompt(learner.base, learner.hints, lesson)
    with learner.base.adapter(adapter) as name:
        with learner.teacher_for(adapter, name) as teacher:
            tops = teacher.tops([hinted], [answer], 100)
        rows = learner.base.rows([prompt_of(learner.base, lesson)], [answer])
        logits = learner.base.logits(rows, name)
    student = gathered(logits, rows.answers)[0].tolist()
    best = logits[0].argmax(-1).tolist()
    decode = learner.base.tokenizer.decode
    found = []
    for at, token in enumerate(answer):
        indices = tops.indices[0, at].tolist()
        logprobs = tops.logprobs[0, at].tolist()
        said, favourite = _of_teacher(token, indices, logprobs)
        found.append(
            TokenRow(
                token=decode([token]),
                student=student[at],
                teacher=said,
                push=said - student[at],
                student_best=decode([best[at]]),
                teacher_best=decode([favourite]),
            )
        )
    return found


def _of_teacher(
    token: int, indices: Sequence[int], logprobs: Sequence[float]
) -> tuple[float, int]:
    """Return what a teacher says of a token at most, and what it likes best."""
    listed = dict(zip(indices, logprobs, strict=True))
    rest = 1 - sum(math.exp(logprob) for logprob in listed.values())
    favourite = max(listed, key=lambda one: listed[one])
    return listed.get(token, math.log(max(rest, 1e-8))), favourite
