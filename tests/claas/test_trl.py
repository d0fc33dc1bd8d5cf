"""The losses against trl's: skipped where it is not installed.

`pip install trl` brings what these need; nothing else of the project uses it.
"""

import importlib
import warnings
from typing import Any

import pytest

pytest.importorskip("trl", reason="trl is an oracle only: pip install trl")
torch = pytest.importorskip("torch")

from benchmarks.claas.contrasts import sampled_token, without_tail  # noqa: E402

from claas.sdpo_loss import compute_sdpo_loss  # noqa: E402

ROWS, TOKENS, WORDS = 3, 6, 50
ALPHAS = (0.0, 0.1, 0.5, 0.9, 1.0)


def trls(name: str) -> Any:
    """A module of trl; it warns that it may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"trl.experimental.{name}")


def batch() -> tuple[Any, Any, dict[str, Any]]:
    """Logits of student and teacher, and what our losses take; a mask with holes."""
    chance = torch.Generator().manual_seed(3)
    shape = (ROWS, TOKENS, WORDS)
    student, teacher = (3 * torch.randn(shape, generator=chance) for _ in range(2))
    best = teacher.log_softmax(-1).topk(WORDS, dim=-1)
    ids = torch.randint(WORDS, shape[:2], generator=chance)
    sampled = student.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    mask = torch.ones(shape[:2])
    mask[0, 4:] = mask[2, 1:] = 0
    given = {
        "student_logits": student.clone().requires_grad_(),
        "teacher_logprobs": best.values,
        "teacher_indices": best.indices,
        "response_mask": mask,
        "old_student_logprobs": sampled + torch.randn(shape[:2], generator=chance),
        "response_ids": ids,
    }
    return student.requires_grad_(), teacher, given


def assert_same(given: dict[str, Any], ours: Any, student: Any, theirs: Any) -> None:
    """Values and gradients agree to 1e-5."""
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    got = given["student_logits"].grad
    torch.testing.assert_close(got, student.grad, rtol=1e-5, atol=1e-5)
    assert float(got.abs().max()) > 1e-3


@pytest.mark.parametrize("alpha", ALPHAS)
def test_on_the_whole_vocabulary_it_is_the_loss_of_gkd(alpha: float) -> None:
    """Our α is its β, at both ends too."""
    student, teacher, given = batch()
    labels = given["response_ids"].masked_fill(given["response_mask"] == 0, -100)
    trainer = trls("gkd.gkd_trainer").GKDTrainer
    theirs = trainer.generalized_jsd_loss(student, teacher, labels, beta=alpha)
    ours = compute_sdpo_loss(**given, alpha=alpha, is_clip=None, token_cap=None)
    assert_same(given, ours["loss"], student, theirs)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_on_the_students_best_tokens_it_is_that_of_sdpo_with_a_tail(
    alpha: float,
) -> None:
    """With the clipped importance ratio; the mean is over all tokens."""
    student, teacher, given = batch()
    utils = trls("sdpo.loss_utils")
    costs = utils.compute_topk_self_distillation_loss(
        student,
        teacher,
        distillation_topk=7,
        distillation_alpha=alpha,
        distillation_add_tail=True,
    )
    ours = compute_sdpo_loss(
        **given, alpha=alpha, token_cap=None, top_k=7, top_k_from="student"
    )
    assert_same(given, ours["loss"], student, weighed(costs, student, given))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_contrast_without_a_tail_is_that_of_sdpo_by_default(alpha: float) -> None:
    """Given the same tokens, the student's best."""
    student, teacher, given = batch()
    best = student.detach().topk(7, dim=-1).indices
    told = teacher.log_softmax(-1).gather(-1, best)
    costs = trls("sdpo.loss_utils").compute_topk_self_distillation_loss(
        student,
        teacher,
        distillation_topk=7,
        distillation_alpha=alpha,
        distillation_add_tail=False,
    )
    listed = {"teacher_logprobs": told, "teacher_indices": best}
    ours = without_tail(**{**given, **listed}, alpha=alpha, is_clip=2.0)
    assert_same(given, ours["loss"], student, weighed(costs, student, given))


def test_the_contrast_on_sampled_tokens_is_that_of_sdpo() -> None:
    student, teacher, given = batch()
    ids = given["response_ids"]
    costs = trls("sdpo.loss_utils").compute_sampled_token_self_distillation_loss(
        student, teacher, ids, distillation_alpha=1.0
    )
    told = teacher.log_softmax(-1).gather(-1, ids[..., None])
    ours = sampled_token(**{**given, "teacher_logprobs": told}, is_clip=2.0)
    assert_same(given, ours["loss"], student, weighed(costs, student, given))


def weighed(costs: Any, student: Any, given: dict[str, Any]) -> Any:
    """The mean of trl's costs over the answers' tokens, with its importance ratio."""
    ids, mask = given["response_ids"], given["response_mask"]
    said = student.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    costs = trls("sdpo.loss_utils").apply_importance_sampling_clipping(
        costs, said, given["old_student_logprobs"], 2.0
    )
    return (costs * mask).sum() / mask.sum()
