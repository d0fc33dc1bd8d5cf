"""The loss of self-distillation policy optimisation (SDPO, arXiv 2601.20802).

The student answered ``y`` to ``x``. The teacher is the same model that also reads the
feedback ``f``; it scores the tokens that the student sampled. At each of them the
student's distribution S = π(· | x, y<t) is pulled to the teacher's
T = stopgrad π(· | x, f, y<t), on tokens that the student really sampled (eq. 1), which
is a policy gradient with the advantage log T/S for *every* token of the vocabulary,
not only for the sampled one (proposition 2.1).

**Buckets.** T is known for K tokens a position. All others are one more bucket, the
tail (eq. 11 in appendix A.3): the distributions are compared on K + 1 buckets and
nothing is renormalised away. Renormalising would never push mass down that the teacher
does not list. By the log-sum inequality the value is never above that of the whole
vocabulary, and equals it where K is the vocabulary. A bucket of the tail has a mass of
at least `TAIL_MASS`. Whose best K tokens they are is the caller's choice: eq. 11 takes
the student's, a server's ``prompt_logprobs`` are the teacher's.

**Divergence.** With M = α·T + (1−α)·S a token costs D = α·KL(T‖M) + (1−α)·KL(S‖M), the
generalised Jensen-Shannon divergence of GKD; α = 0.5 is the symmetric one that section
2.3 found most stable. D vanishes at both ends of α, but D/α → KL(T‖S) as α → 0 and
D/(1−α) → KL(S‖T) as α → 1: these limits stand for the ends.

**Off the policy.** Answers were sampled by an older policy, so each token is weighted
by min(S(y)/π_old(y), is_clip), without gradient (truncated importance sampling on
tokens, appendix A.4; with one step an answer all weights are 1).

**Cap.** A token above `token_cap` nats is scaled down to it: its gradient keeps the
direction and loses weight. Cutting it off would lose exactly the tokens where the
feedback says most. α = 0.5 never meets the cap: it is bounded by ln 2.

**Base.** k3 = B(y)/S(y) − 1 − ln(B(y)/S(y)) estimates KL(S‖B) on the sampled token with
low variance, never negative; its mean, times `kl_reg_weight`, is added.

**Memory.** Of the logits only response positions are read, in chunks of float32
(`_CHUNK` numbers), once forward and once backward. The backward is written out, so
autograd keeps no copy: the only other ``[B, T, V]`` is the gradient itself.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TAIL_MASS = 1e-8
"""The least mass that the tail of a distribution has."""

_CHUNK = 1 << 22
_LOWEST = -100.0  # stands for log 0, so that 0 * log 0 is 0
_HIGHEST_RATIO = 20.0  # of log probabilities: its exp is finite in float32

Places = tuple[Tensor, Tensor]


def compute_sdpo_loss(
    student_logits: Tensor,
    teacher_logprobs: Tensor,
    teacher_indices: Tensor,
    response_mask: Tensor,
    old_student_logprobs: Tensor,
    response_ids: Tensor,
    alpha: float = 0.5,
    base_logprobs: Tensor | None = None,
    is_clip: float | None = 2.0,
    kl_reg_weight: float = 0.0,
    token_cap: float | None = 5.0,
    top_k: int | None = None,
    top_k_from: Literal["teacher", "student"] = "teacher",
) -> dict[str, Tensor]:
    """Return the loss of a batch of answers (see the top of this file).

    What stands where `response_mask` is 0 is never read, be it NaN.

    Args:
        student_logits: ``[B, T, V]``; position t predicts the token t of the answer.
        teacher_logprobs: ``[B, T, K]``, natural, of the whole vocabulary's softmax.
        teacher_indices: ``[B, T, K]``, the tokens they belong to. A token that comes
            twice counts once, with its first log probability: fill up a short row by
            repeating one of its tokens.
        response_mask: ``[B, T]``, 1 on the tokens of the answer.
        old_student_logprobs: ``[B, T]``, of the sampled tokens, by the policy that
            sampled them at temperature 1 without truncation.
        response_ids: ``[B, T]``, the sampled tokens.
        alpha: 0 is KL(T‖S), which covers all that the teacher would say; 1 is KL(S‖T),
            which gives up what it would not; 0.5, the default, is between them.
        base_logprobs: ``[B, T]``, of the sampled tokens, by the base; without them
            there is no penalty.
        is_clip: The largest importance weight; None leaves all weights at 1.
        kl_reg_weight: The weight of the penalty for leaving the base.
        token_cap: The largest divergence of a token, in nats; None for no cap.
        top_k: Use only so many of the K tokens of a position, the best ones.
        top_k_from: Whose best tokens these are.

    Returns:
        ``loss``, which has a gradient, and without one ``distill_loss``, ``kl_reg``
        (the mean of k3, unweighted), ``mean_is_ratio`` (before clipping) and
        ``clip_fraction`` (of the tokens). Means are over the tokens of the answers.

    Raises:
        ValueError: If shapes do not fit, no token is in the mask, a number is out of
            its range, or something is NaN at a position that counts.
    """
    _check_numbers(alpha, is_clip, kl_reg_weight, token_cap, top_k)
    given = {
        **{"teacher_logprobs": teacher_logprobs, "teacher_indices": teacher_indices},
        "old_student_logprobs": old_student_logprobs,
        **{"response_ids": response_ids, "base_logprobs": base_logprobs},
    }
    places, at = _at_responses(student_logits, response_mask, given)
    buckets = _read_buckets(student_logits, places, at, top_k, top_k_from)
    sampled = buckets.sampled
    ratio = sampled.detach() - at["old_student_logprobs"]
    ratio = ratio.clamp(max=_HIGHEST_RATIO).exp()
    weight = torch.ones_like(ratio) if is_clip is None else ratio.clamp(max=is_clip)
    distill = (weight * _capped(_divergence(buckets, alpha), token_cap)).mean()
    kl_reg = torch.zeros_like(distill)
    if base_logprobs is not None:
        kl_reg = _k3(sampled, at["base_logprobs"]).mean()
    return {
        "loss": distill + kl_reg_weight * kl_reg,
        "distill_loss": distill.detach(),
        "kl_reg": kl_reg.detach(),
        "mean_is_ratio": ratio.mean(),
        "clip_fraction": (ratio > (is_clip or math.inf)).to(ratio.dtype).mean(),
    }


@torch.no_grad()
def sdpo_diagnostics(
    student_logits: Tensor,
    teacher_logprobs: Tensor,
    teacher_indices: Tensor,
    response_mask: Tensor,
    response_ids: Tensor,
) -> dict[str, Tensor]:
    """Return what the loss does not say of a batch; means over the answers' tokens.

    Args:
        student_logits: As in `compute_sdpo_loss`, like all others.
        teacher_logprobs: ``[B, T, K]``.
        teacher_indices: ``[B, T, K]``.
        response_mask: ``[B, T]``.
        response_ids: ``[B, T]``.

    Returns:
        ``entropy`` of the student, nats, whole vocabulary; ``teacher_entropy``, on the
        buckets; ``teacher_gap``, how much likelier the sampled token (its bucket) is
        to the teacher, nats: below 0 where the feedback speaks against the answer;
        ``teacher_mass`` and ``student_mass`` on the K tokens; ``agreement``, the share
        of tokens where both like the same bucket best.

    Raises:
        ValueError: As in `compute_sdpo_loss`.
    """
    given = {
        **{"teacher_logprobs": teacher_logprobs, "teacher_indices": teacher_indices},
        "response_ids": response_ids,
    }
    places, at = _at_responses(student_logits, response_mask, given)
    found = _read_buckets(student_logits, places, at)
    student, teacher, keep = found.student, found.teacher, found.keep
    hit = (found.tokens == at["response_ids"][:, None]) & keep[:, :-1]
    hit = torch.cat([hit, ~hit.any(-1, keepdim=True)], -1)
    best = [x.masked_fill(~keep, -torch.inf).argmax(-1) for x in (student, teacher)]
    entropies = [
        torch.distributions.Categorical(logits=chunk).entropy()
        for chunk, _ in _chunks(student_logits, places, student.dtype)
    ]
    return {
        "entropy": torch.cat(entropies).mean(),
        "teacher_entropy": -(keep * teacher.exp() * teacher).sum(-1).mean(),
        "teacher_gap": (hit * (teacher - student)).sum(-1).mean(),
        "teacher_mass": (keep * teacher.exp())[:, :-1].sum(-1).mean(),
        "student_mass": (keep * student.exp())[:, :-1].sum(-1).mean(),
        "agreement": (best[0] == best[1]).to(student.dtype).mean(),
    }


@dataclass(frozen=True, slots=True)
class _Buckets:
    """Both distributions at N positions, log probabilities; the tail is the last.

    ``keep`` is false where a token is there for the second time.
    """

    student: Tensor  # [N, K + 1]
    teacher: Tensor  # [N, K + 1]
    keep: Tensor  # [N, K + 1]
    tokens: Tensor  # [N, K]
    sampled: Tensor  # [N], the student's of the sampled tokens


def _read_buckets(
    logits: Tensor,
    places: Places,
    at: Mapping[str, Tensor],
    top_k: int | None = None,
    top_k_from: str = "teacher",
) -> _Buckets:
    """Return both distributions at the positions of the answers."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    ids = at["response_ids"]
    tokens, teacher, keep = _without_repeats(
        at["teacher_indices"], at["teacher_logprobs"].to(dtype)
    )
    if top_k is not None and top_k < tokens.shape[1]:
        is_student = top_k_from == "student"
        score = _logits_of(logits, places, tokens, dtype) if is_student else teacher
        best = score.masked_fill(~keep, -torch.inf).topk(top_k, dim=-1).indices
        tokens, teacher, keep = (x.gather(-1, best) for x in (tokens, teacher, keep))
    picked, tail, sampled = _Read.apply(logits, *places, tokens, ids, dtype)
    if bool(sampled.isnan().any()):
        raise ValueError("student_logits has NaN or infinity at a token of an answer.")
    rest = (1 - (keep * teacher.exp()).sum(-1, keepdim=True)).clamp(min=TAIL_MASS)
    tail = tail[:, None].clamp(min=math.log(TAIL_MASS))
    return _Buckets(
        student=torch.cat([picked.clamp(min=_LOWEST), tail], -1),
        teacher=torch.cat([teacher, rest.log()], -1),
        keep=torch.cat([keep, torch.ones_like(keep[:, :1])], -1),
        tokens=tokens,
        sampled=sampled,
    )


class _Read(torch.autograd.Function):
    """Log-softmax of some tokens, of all others together, and of the sampled one.

    With L over all tokens and R over those that are not listed (both log-sum-exp), the
    outputs are z_k − L, R − L and z_y − L. Their gradient for a logit is what falls on
    the token itself, minus softmax times the sum of all, plus the tail's times the
    softmax of the rest; so the backward needs L and R only.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        rows: Tensor,
        columns: Tensor,
        tokens: Tensor,
        ids: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``[N, K]``, ``[N]`` and ``[N]``."""
        alls, rests, picks, sampled = [], [], [], []
        lowest = torch.finfo(dtype).min
        for chunk, part in _chunks(logits, (rows, columns), dtype):
            alls.append(chunk.logsumexp(-1))
            picks.append(chunk.gather(-1, tokens[part]) - alls[-1][:, None])
            sampled.append(chunk.gather(-1, ids[part, None])[:, 0] - alls[-1])
            rests.append(chunk.scatter_(-1, tokens[part], lowest).logsumexp(-1))
        every, rest = torch.cat(alls), torch.cat(rests)
        ctx.save_for_backward(logits, rows, columns, tokens, ids, every, rest)
        tail = (rest - every).clamp(min=lowest)
        return torch.cat(picks), tail, torch.cat(sampled)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_picks: Tensor, of_tail: Tensor, of_sampled: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits."""
        logits, rows, columns, tokens, ids, every, rest = ctx.saved_tensors
        gradient = torch.zeros_like(logits)
        total = of_picks.sum(-1) + of_tail + of_sampled
        for chunk, part in _chunks(logits, (rows, columns), every.dtype):
            inside = chunk.gather(-1, tokens[part])
            # exp(z - R) = softmax * exp(L - R); under a clamped tail of_tail is 0
            to_rest = (every - rest)[part].clamp(max=-_LOWEST / 2).exp()
            scale = of_tail[part] * to_rest - total[part]
            chunk.sub_(every[part, None]).exp_().mul_(scale[:, None])
            inside = (inside - every[part, None]).exp_().mul_(-total[part, None])
            chunk.scatter_(-1, tokens[part], inside)
            chunk.scatter_add_(-1, tokens[part], of_picks[part])
            chunk.scatter_add_(-1, ids[part, None], of_sampled[part, None])
            gradient[rows[part], columns[part]] = chunk.to(gradient.dtype)
        return gradient, None, None, None, None, None


def _chunks(
    logits: Tensor, places: Places, dtype: torch.dtype
) -> Iterator[tuple[Tensor, slice]]:
    """Yield copies ``[n, V]`` of the logits at some positions, and which they are."""
    rows, columns = places
    size = max(1, _CHUNK // logits.shape[-1])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        yield logits.detach()[rows[part], columns[part]].to(dtype), part


def _logits_of(
    logits: Tensor, places: Places, tokens: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the student's logits of the listed tokens, ``[N, K]``: to rank them."""
    chunks = _chunks(logits, places, dtype)
    return torch.cat([chunk.gather(-1, tokens[part]) for chunk, part in chunks])


def _without_repeats(tokens: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens in order, their log probabilities, and which are there first."""
    tokens, order = tokens.sort(dim=-1, stable=True)
    keep = torch.ones_like(tokens, dtype=torch.bool)
    keep[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
    return tokens, logprobs.gather(-1, order).clamp(min=_LOWEST), keep


def _divergence(buckets: _Buckets, alpha: float) -> Tensor:
    """Return the divergence at each position, ``[N]``, nats."""
    student, teacher, keep = buckets.student, buckets.teacher, buckets.keep
    if alpha == 0.0:
        return _kl(teacher, student, keep)
    if alpha == 1.0:
        return _kl(student, teacher, keep)
    middle = torch.logaddexp(teacher + math.log(alpha), student + math.log1p(-alpha))
    return alpha * _kl(teacher, middle, keep) + (1 - alpha) * _kl(student, middle, keep)


def _kl(one: Tensor, other: Tensor, keep: Tensor) -> Tensor:
    """Return KL(one‖other) over the buckets that count."""
    return (keep * one.exp() * (one - other)).sum(-1)


def _capped(values: Tensor, cap: float | None) -> Tensor:
    """Scale what is above the cap down to it; the gradient keeps its direction."""
    if cap is None:
        return values
    return values * (cap / values.detach().clamp(min=cap))


def _k3(sampled: Tensor, base: Tensor) -> Tensor:
    """Return the estimate of KL(student‖base) from each sampled token, nats."""
    ratio = (base - sampled).clamp(max=_HIGHEST_RATIO)
    return ratio.exp() - 1 - ratio


def _at_responses(
    logits: Tensor, mask: Tensor, given: Mapping[str, Tensor | None]
) -> tuple[Places, dict[str, Tensor]]:
    """Return rows and columns of the answers' tokens, and what is given there."""
    if logits.dim() != 3 or mask.shape != logits.shape[:2]:
        raise ValueError(
            f"student_logits {list(logits.shape)} must be [B, T, V] and response_mask "
            f"{list(mask.shape)} [B, T]."
        )
    rows, columns = mask.detach().to(torch.bool).nonzero(as_tuple=True)
    if not len(rows):
        raise ValueError(
            "response_mask has no token at all: an empty answer teaches nothing; "
            "leave it out of the batch."
        )
    at = {}
    for name, values in given.items():
        if values is not None:
            _check_shape(name, values, given, mask)
            at[name] = values.detach()[rows, columns]
            _check_values(name, at[name], logits.shape[-1])
    return (rows, columns), at


def _check_shape(
    name: str, values: Tensor, given: Mapping[str, Tensor | None], mask: Tensor
) -> None:
    """Refuse a shape that does not fit to the mask."""
    is_list = name.startswith("teacher")
    pair = given["teacher_indices"]
    fits = values.shape[:2] == mask.shape and values.dim() == 2 + is_list
    if not fits or is_list and not values.shape == getattr(pair, "shape", None):
        sizes = "[B, T, K]" if is_list else "[B, T]"
        raise ValueError(
            f"{name} {list(values.shape)} must be {sizes} "
            f"with [B, T] = {list(mask.shape)} and one K of 1 or more."
        )


def _check_values(name: str, values: Tensor, vocabulary: int) -> None:
    """Refuse NaN, and tokens that are none."""
    if values.is_floating_point():
        if bool(values.isnan().any()):
            raise ValueError(f"{name} has NaN at a token of an answer.")
    elif bool(((values < 0) | (values >= vocabulary)).any()):
        raise ValueError(
            f"{name} names a token outside of the vocabulary of {vocabulary} tokens: "
            "is it of another tokenizer?"
        )


def _check_numbers(
    alpha: float,
    is_clip: float | None,
    kl_reg_weight: float,
    token_cap: float | None,
    top_k: int | None,
) -> None:
    """Refuse settings that mean nothing."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: it must lie in 0 to 1.")
    if not kl_reg_weight >= 0:
        raise ValueError(f"kl_reg_weight is {kl_reg_weight}: it must be 0 or more.")
    limits = {"is_clip": is_clip, "token_cap": token_cap, "top_k": top_k}
    for name, value in limits.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}: it must be above 0, or None.")
