"""What the loss of claas is held against: other losses, other teachers.

A loss here takes what `claas.sdpo_loss.compute_sdpo_loss` takes, so that the training
around it (answers, AdamW, clipping, anchor) is the same for all:

    no-tail   the K tokens renormalised to 1, as trl's ``topk_logits`` by default
    sampled   only the sampled token, as trl's ``sampled_token``: log S/T · ∇ log S(y)
    sft       cross entropy of the recorded answers, which are corrected ones then
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from claas.base import Base, Rows
from claas.sdpo_loss import compute_sdpo_loss
from claas.teacher import SelfTeacher, Tops

Loss = Callable[..., Mapping[str, Tensor]]


def without_tail(
    *,
    student_logits: Tensor,
    teacher_logprobs: Tensor,
    teacher_indices: Tensor,
    response_mask: Tensor,
    old_student_logprobs: Tensor,
    response_ids: Tensor,
    alpha: float,
    is_clip: float,
    **_: Any,
) -> Mapping[str, Tensor]:
    """Compare both on the teacher's K tokens, each renormalised to 1."""
    student = student_logits.gather(-1, teacher_indices).log_softmax(-1)
    teacher = teacher_logprobs.log_softmax(-1)
    if alpha in (0.0, 1.0):
        one, other = (teacher, student) if alpha == 0 else (student, teacher)
        cost = _kl(one, other)
    else:
        middle = torch.log(alpha * teacher.exp() + (1 - alpha) * student.exp())
        cost = alpha * _kl(teacher, middle) + (1 - alpha) * _kl(student, middle)
    said = _of(student_logits, response_ids)
    weight = (said.detach() - old_student_logprobs).exp().clamp(max=is_clip)
    return _told((weight * cost * response_mask).sum() / response_mask.sum())


def sampled_token(
    *,
    student_logits: Tensor,
    teacher_logprobs: Tensor,
    response_mask: Tensor,
    response_ids: Tensor,
    old_student_logprobs: Tensor,
    is_clip: float,
    **_: Any,
) -> Mapping[str, Tensor]:
    """Push each sampled token up or down by how much likelier the teacher finds it.

    The first of the teacher's tokens must be the sampled one (`SampledTeacher`).
    """
    said = _of(student_logits, response_ids)
    weight = (said.detach() - old_student_logprobs).exp().clamp(max=is_clip)
    cost = weight * (said - teacher_logprobs[..., 0]).detach() * said
    return _told((cost * response_mask).sum() / response_mask.sum())


def cross_entropy(
    *, student_logits: Tensor, response_mask: Tensor, response_ids: Tensor, **_: Any
) -> Mapping[str, Tensor]:
    """Make the answers likelier: plain supervised fine-tuning."""
    said = _of(student_logits, response_ids)
    return _told(-(said * response_mask).sum() / response_mask.sum())


LOSSES: Mapping[str, Loss] = {
    "sdpo": compute_sdpo_loss,
    "no-tail": without_tail,
    "sampled": sampled_token,
    "sft": cross_entropy,
    "sft-written": cross_entropy,
}


class SampledTeacher(SelfTeacher):
    """The hinted base, asked about the tokens of the answers only.

    Args:
        base: The model.
        is_asked: Whether it is asked at all; else all are equally likely, for a loss
            that takes nothing from a teacher.
    """

    def __init__(self, base: Base, *, is_asked: bool = True) -> None:
        super().__init__(base)
        self._is_asked = is_asked

    def tops(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        top_k: int,
    ) -> Tops:
        """Return one token at each place, the answer's; `top_k` is not looked at."""
        rows = self._base.rows(prompts, answers)
        if not self._is_asked:
            told = torch.full_like(rows.mask, -1.0)
        else:
            told = self._base.logprobs(rows, None)
        return Tops(told[..., None], rows.answers[..., None])


class LiveTeacher(SelfTeacher):
    """The adapter in training, hinted, as it is at each step."""

    def _logits(self, rows: Rows) -> Tensor:
        """Return what the adapter that was loaded last says: the one in training."""
        return self._base.logits(rows, self._base.adapters[-1])


def _of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log probabilities of tokens, with gradients."""
    return logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def _kl(one: Tensor, other: Tensor) -> Tensor:
    return (one.exp() * (one - other)).sum(-1)


def _told(loss: Tensor) -> Mapping[str, Tensor]:
    return {"loss": loss, "distill_loss": loss.detach()}
