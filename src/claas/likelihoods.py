"""How likely answers are: under an adapter, and how far that is from the base."""

from collections.abc import Callable, Sequence

import torch

from claas.base import Base, Rows

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

    def divergence(rows: Rows) -> torch.Tensor:
        one, other = (base.logits(rows, who).float() for who in (None, name))
        one, other = torch.log_softmax(one, -1), torch.log_softmax(other, -1)
        return (one.exp() * (one - other)).sum(-1) * rows.mask

    return _means(base, prompts, answers, divergence)


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
    return _means(base, prompts, answers, lambda rows: base.logprobs(rows, name))


def _means(
    base: Base,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    measured: Callable[[Rows], torch.Tensor],
) -> list[float]:
    """Return the mean of a measure over the tokens of each answer."""
    found: list[float] = []
    for at in range(0, len(prompts), _CHUNK):
        part = slice(at, at + _CHUNK)
        rows = base.rows(prompts[part], answers[part])
        total = measured(rows).sum(-1)
        found += (total / rows.mask.sum(-1).clamp(min=1)).tolist()
    return found
