"""How likely answers are: under an adapter, and how far that is from the base."""

from collections.abc import Sequence

import torch

from claas.base import Base

_CHUNK = 4  # answers whose whole distributions are in memory at once


@torch.no_grad()
def divergences(
    base: Base,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    name: str | None,
) -> list[float]:
    """Return KL(base ‖ adapter) on each answer, whole vocabulary, nats a token.

    Args:
        base: The model.
        prompts: Tokens.
        answers: Tokens that the base answered.
        name: The adapter; None is the base itself, and 0.
    """
    found: list[float] = []
    for at in range(0, len(prompts), _CHUNK):
        part = slice(at, at + _CHUNK)
        rows = base.rows(prompts[part], answers[part])
        one, other = (base.logits(rows, who).float() for who in (None, name))
        one, other = torch.log_softmax(one, -1), torch.log_softmax(other, -1)
        kl = (one.exp() * (one - other)).sum(-1) * rows.mask
        found += (kl.sum(-1) / rows.mask.sum(-1).clamp(min=1)).tolist()
    return found


def likelihoods(
    base: Base,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    name: str | None,
) -> list[float]:
    """Return the log probability of each answer, nats a token.

    Args:
        base: The model.
        prompts: Tokens.
        answers: Tokens.
        name: The adapter, None for the base.
    """
    found: list[float] = []
    for at in range(0, len(prompts), _CHUNK):
        part = slice(at, at + _CHUNK)
        rows = base.rows(prompts[part], answers[part])
        total = base.logprobs(rows, name).sum(-1)
        found += (total / rows.mask.sum(-1).clamp(min=1)).tolist()
    return found
