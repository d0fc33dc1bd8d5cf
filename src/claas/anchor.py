"""The anchor: the adapter must stay near the base where no feedback asks for change.

The base answers a small set of prompts once, before training; each step adds KL(base ‖
student) on a few of these answers to the loss. The right weight differs by model and
learning rate (1.0 stalled what 0.3 let through), so it is not fixed: while the measured
KL is above the budget the weight grows, while it is below it shrinks, as the penalty
of PPO does.
"""

from collections.abc import Sequence

import torch

from claas.base import Base
from claas.sdpo_loss import compute_sdpo_loss
from claas.teacher import Tops, tops_of

_FASTER = 1.5
_BAND = 1.5  # within a factor of the budget the weight stays
_RANGE = (0.1, 100.0)  # of the first weight
_MEMORY = 0.5


class Anchor:
    """The answers of the base, and the weight that they have.

    Args:
        base: The model.
        prompts: The users' words.
        weight: The weight at first; 0 switches the anchor off.
        budget: The KL that the weight is to hold, nats a token.
        tokens: The most tokens of an answer.
        top_k: How many of the base's likeliest tokens are kept at each place.
        rows: How many answers a step looks at.
        seed: Of the base's answers.
    """

    def __init__(
        self,
        base: Base,
        prompts: Sequence[str],
        *,
        weight: float,
        budget: float,
        tokens: int,
        top_k: int,
        rows: int,
        seed: int,
    ) -> None:
        self.weight = weight if prompts else 0.0
        self.drift = 0.0
        self._base = base
        self._first = self.weight
        self._budget = budget
        self._rows = min(rows, len(prompts))
        self._next = 0
        self._prompts: list[tuple[int, ...]] = []
        self._answers: list[tuple[int, ...]] = []
        self._tops: list[Tops] = []
        if self.weight:
            self._prompts = [
                base.prompt([{"role": "user", "content": prompt}]) for prompt in prompts
            ]
            said = base.sample(self._prompts, None, most=tokens, seed=seed)
            self._answers = [answer.token_ids for answer in said]
            self._tops = [self._scored(at, top_k) for at in range(len(prompts))]

    @torch.no_grad()
    def _scored(self, at: int, top_k: int) -> Tops:
        """Return what the base thought at each token of one of its answers."""
        rows = self._base.rows([self._prompts[at]], [self._answers[at]])
        return tops_of(self._base.logits(rows, None), top_k)

    def loss(self, adapter: str) -> torch.Tensor | None:
        """Return the weighted KL to the base on the next few answers.

        Args:
            adapter: The student.

        Returns:
            A number with a gradient; None if the anchor is off.
        """
        if not self.weight:
            return None
        some = [(self._next + i) % len(self._prompts) for i in range(self._rows)]
        self._next += self._rows
        rows = self._base.rows(
            [self._prompts[at] for at in some], [self._answers[at] for at in some]
        )
        tops = _stacked([self._tops[at] for at in some], rows.answers.shape[1])
        found = compute_sdpo_loss(
            student_logits=self._base.logits(rows, adapter),
            teacher_logprobs=tops.logprobs,
            teacher_indices=tops.indices,
            response_mask=rows.mask,
            old_student_logprobs=torch.zeros_like(rows.mask),
            response_ids=rows.answers,
            alpha=0.0,
            is_clip=None,
        )
        loss = self.weight * found["loss"]
        self._adapt(float(found["distill_loss"]))
        return loss

    def _adapt(self, drift: float) -> None:
        """Take note of a measured KL, and mend the weight."""
        self.drift = max(_MEMORY * self.drift + (1 - _MEMORY) * drift, 0.0)
        if self.drift > self._budget * _BAND:
            self.weight *= _FASTER
        elif self.drift < self._budget / _BAND:
            self.weight /= _FASTER
        least, most = (self._first * end for end in _RANGE)
        self.weight = min(max(self.weight, least), most)


def _stacked(tops: Sequence[Tops], length: int) -> Tops:
    """Return several answers' tokens as one batch, filled up to a length."""
    pads = [length - some.logprobs.shape[1] for some in tops]
    pairs = list(zip(tops, pads, strict=True))
    pad = torch.nn.functional.pad
    return Tops(
        torch.cat([pad(some.logprobs, (0, 0, 0, more)) for some, more in pairs]),
        torch.cat([pad(some.indices, (0, 0, 0, more)) for some, more in pairs]),
    )
