"""The loss against a naive one in float64 over the whole vocabulary."""

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from claas.sdpo_loss import compute_sdpo_loss, sdpo_diagnostics  # noqa: E402

ROWS, TOKENS, WORDS = 2, 5, 11
ALPHAS = (0.0, 0.3, 0.5, 0.9, 1.0)


def batch(top_k: int = WORDS, seed: int = 0, dtype: Any = torch.float64) -> Any:
    """A batch of two answers, of three and five tokens; the teacher's best tokens."""
    chance = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=chance, dtype=dtype)

    teacher = (2 * normal(ROWS, TOKENS, WORDS)).log_softmax(-1)
    best = teacher.topk(top_k, dim=-1)
    ids = torch.randint(WORDS, (ROWS, TOKENS), generator=chance)
    logits = 2 * normal(ROWS, TOKENS, WORDS)
    sampled = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return {
        "student_logits": logits.requires_grad_(),
        "teacher_logprobs": best.values,
        "teacher_indices": best.indices,
        "response_mask": torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]]),
        "old_student_logprobs": sampled + 0.5 * normal(ROWS, TOKENS),
        "response_ids": ids,
        "base_logprobs": sampled + 0.5 * normal(ROWS, TOKENS),
    }


def plain(given: Any, alpha: float, clip: float, weight: float, cap: float) -> Any:
    """Loops over positions and tokens; the tail is everything that is not listed."""
    total, reg, count = 0.0, 0.0, 0
    for b, t in given["response_mask"].nonzero().tolist():
        s = given["student_logits"][b, t].double().softmax(-1)
        listed = given["teacher_indices"][b, t].tolist()
        q = given["teacher_logprobs"][b, t].double().exp()
        first = [listed.index(k) for k in dict.fromkeys(listed)]
        one = [q[i] for i in first]
        two = [s[listed[i]] for i in first]
        if len(first) < len(s):
            one.append((1 - sum(one)).clamp(min=1e-8))
            two.append((1 - sum(two)).clamp(min=1e-8))
        p, q = torch.stack(two), torch.stack(one)
        m = alpha * q + (1 - alpha) * p
        if alpha == 0:
            d = (q * (q / p).log()).sum()
        elif alpha == 1:
            d = (p * (p / q).log()).sum()
        else:
            d = alpha * (q * (q / m).log()).sum()
            d = d + (1 - alpha) * (p * (p / m).log()).sum()
        y = s[given["response_ids"][b, t]]
        w = min((y.detach() / given["old_student_logprobs"][b, t].exp()), clip)
        total = total + w * d * min(1.0, cap / float(d.detach()))
        r = given["base_logprobs"][b, t] - y.log()
        reg, count = reg + r.exp() - 1 - r, count + 1
    return total / count + weight * reg / count


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("top_k", [1, 4, WORDS])
def test_the_loss_and_its_gradient_are_the_plain_ones(top_k: int, alpha: float) -> None:
    """With every part on: weights, cap, penalty; listed tokens, tail or none."""
    given, same = batch(top_k), batch(top_k)
    settings = {"is_clip": 1.2, "kl_reg_weight": 0.7, "token_cap": 0.4}
    got = compute_sdpo_loss(**given, alpha=alpha, **settings)
    wanted = plain(same, alpha, clip=1.2, weight=0.7, cap=0.4)
    got["loss"].backward()
    wanted.backward()
    torch.testing.assert_close(got["loss"], wanted, rtol=1e-6, atol=2e-7)
    torch.testing.assert_close(
        *(x["student_logits"].grad for x in (given, same)), rtol=1e-5, atol=2e-7
    )
    both = got["distill_loss"] + 0.7 * got["kl_reg"]
    torch.testing.assert_close(both, got["loss"].detach())


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_gradient_is_right(alpha: float) -> None:
    """Finite differences agree; weights are constants, so they are left out."""
    given = batch(4)
    logits = given.pop("student_logits")

    def loss(logits: Any) -> Any:
        found = compute_sdpo_loss(
            logits,
            **given,
            alpha=alpha,
            is_clip=None,
            kl_reg_weight=0.3,
            token_cap=None,
        )
        return found["loss"]

    assert torch.autograd.gradcheck(loss, (logits,))


def test_the_ends_of_alpha_are_the_limits_of_what_is_between() -> None:
    """D/α → KL(T‖S) as α → 0, D/(1−α) → KL(S‖T) as α → 1."""
    given = batch(4)
    options = {"is_clip": None, "token_cap": None}

    def at(alpha: float) -> float:
        return float(
            compute_sdpo_loss(**given, alpha=alpha, **options)["loss"].detach()
        )

    assert at(1e-6) / 1e-6 == pytest.approx(at(0.0), rel=1e-4)
    assert at(1 - 1e-6) / 1e-6 == pytest.approx(at(1.0), rel=1e-4)
    assert at(0.5) < math.log(2)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 999),
    shift=st.floats(-50, 50),
    padding=st.integers(0, 3),
    alpha=st.sampled_from(ALPHAS),
)
def test_a_shift_of_logits_and_padding_change_nothing(
    seed: int, shift: float, padding: int, alpha: float
) -> None:
    """Nor do repeated tokens of the list; and a divergence is never negative."""
    given = batch(4, seed)
    wanted = compute_sdpo_loss(**given, alpha=alpha, kl_reg_weight=0.1)
    other = batch(4, seed)
    other["student_logits"] = other["student_logits"].detach() + shift
    for name, values in other.items():
        if padding:
            rest = values[:, :padding] * 0 + (values.is_floating_point() and torch.nan)
            rest = rest.to(values.dtype)
            other[name] = torch.cat([values, rest], dim=1)
    for name in ("teacher_logprobs", "teacher_indices"):
        other[name] = torch.cat([other[name], other[name][..., :2]], dim=-1)
    got = compute_sdpo_loss(**other, alpha=alpha, kl_reg_weight=0.1)
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name].detach(), msg=name)
    assert got["distill_loss"] >= 0 and got["kl_reg"] >= 0


@settings(max_examples=10)
@given(seed=st.integers(0, 999), alpha=st.sampled_from(ALPHAS))
def test_more_listed_tokens_come_nearer_to_the_whole(seed: int, alpha: float) -> None:
    """From below: buckets can only hide a divergence."""
    options: Any = {"alpha": alpha, "is_clip": None, "token_cap": None}
    losses = [
        float(compute_sdpo_loss(**batch(k, seed), **options)["loss"].detach())
        for k in (1, 3, 6, WORDS)
    ]
    assert losses == sorted(losses)


def test_tokens_that_the_teacher_does_not_list_get_a_gradient() -> None:
    """They are pushed down where the teacher gives its mass to others."""
    given = batch(2)
    compute_sdpo_loss(**given)["loss"].backward()
    listed = torch.zeros(ROWS, TOKENS, WORDS, dtype=torch.bool)
    listed.scatter_(-1, given["teacher_indices"], True)
    inside = given["response_mask"].bool()[..., None] & ~listed
    assert (given["student_logits"].grad[inside] != 0).all()


def test_what_is_masked_is_never_read() -> None:
    """NaN and tokens that are none, outside of the answer, reach neither loss nor
    gradient."""
    given, clean = batch(4), batch(4)
    outside = ~given["response_mask"].bool()
    with torch.no_grad():
        for name, values in given.items():
            if name != "response_mask":
                values[outside] = torch.nan if values.is_floating_point() else -7
    got, wanted = compute_sdpo_loss(**given), compute_sdpo_loss(**clean)
    got["loss"].backward()
    assert torch.equal(got["loss"], wanted["loss"])
    assert (given["student_logits"].grad[outside] == 0).all()
    figures = (sdpo_diagnostics(**of_diagnostics(x)) for x in (given, clean))
    torch.testing.assert_close(*figures)


def of_diagnostics(given: Any) -> Any:
    """What the diagnostics take."""
    other = ("old_student_logprobs", "base_logprobs")
    return {name: values for name, values in given.items() if name not in other}


def test_equal_distributions_cost_nothing() -> None:
    """Neither at the ends nor between; the weight is 1 for the policy itself."""
    given = batch()
    given["teacher_logprobs"] = given["student_logits"].detach().log_softmax(-1)
    given["teacher_indices"] = torch.arange(WORDS).expand(ROWS, TOKENS, WORDS)
    sampled = given["teacher_logprobs"].gather(-1, given["response_ids"][..., None])
    given["old_student_logprobs"] = given["base_logprobs"] = sampled[..., 0]
    for alpha in ALPHAS:
        found = compute_sdpo_loss(**given, alpha=alpha, kl_reg_weight=1.0)
        assert float(found["loss"].detach()) == pytest.approx(0, abs=1e-12)
        assert float(found["mean_is_ratio"]) == pytest.approx(1)
        assert found["clip_fraction"] == 0


def test_weights_are_clipped_and_counted() -> None:
    given = batch()
    sampled = given["student_logits"].detach().log_softmax(-1)
    sampled = sampled.gather(-1, given["response_ids"][..., None])[..., 0]
    given["old_student_logprobs"] = sampled - math.log(8)
    found = [compute_sdpo_loss(**given, is_clip=clip) for clip in (None, 2.0, 100.0)]
    losses = [float(x["distill_loss"]) for x in found]
    assert [x / losses[0] for x in losses] == pytest.approx([1, 2, 8])
    assert [float(x["mean_is_ratio"]) for x in found] == pytest.approx([8, 8, 8])
    assert [float(x["clip_fraction"]) for x in found] == [0, 1, 0]


@pytest.mark.parametrize("by", ["teacher", "student"])
def test_the_best_tokens_may_be_the_students_or_the_teachers(by: Any) -> None:
    """Choosing k of the whole list is the same as giving only these k."""
    given, fewer = batch(), batch()
    score = given["teacher_logprobs"]
    if by == "student":
        score = given["student_logits"].detach().gather(-1, given["teacher_indices"])
    best = score.topk(3, dim=-1).indices
    for name in ("teacher_logprobs", "teacher_indices"):
        fewer[name] = fewer[name].gather(-1, best)
    got = compute_sdpo_loss(**given, top_k=3, top_k_from=by)
    assert torch.allclose(got["loss"], compute_sdpo_loss(**fewer)["loss"])
    other = compute_sdpo_loss(**given)["loss"]
    assert not torch.allclose(got["loss"], other)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_extreme_logits_stay_finite(alpha: float) -> None:
    """A student that is certain, tokens forbidden with -inf, a teacher that is 0."""
    given = batch(4, dtype=torch.float32)
    with torch.no_grad():
        given["student_logits"] *= 200
        given["student_logits"][:, :, given["response_ids"].max()] = 0
        given["student_logits"][1, 2, (given["response_ids"][1, 2] + 1) % WORDS] = -1e38
        given["teacher_logprobs"][1, 1, 3] = -torch.inf
    found = compute_sdpo_loss(**given, alpha=alpha, kl_reg_weight=0.1)
    found["loss"].backward()
    assert all(torch.isfinite(value) for value in found.values())
    assert torch.isfinite(given["student_logits"].grad).all()


def test_a_narrow_dtype_is_summed_in_float32() -> None:
    given, exact = batch(4), batch(4)
    given["student_logits"] = given["student_logits"].detach().bfloat16()
    exact["student_logits"] = given["student_logits"].double()
    given["student_logits"].requires_grad_()
    found = compute_sdpo_loss(**given)
    found["loss"].backward()
    assert given["student_logits"].grad.dtype == torch.bfloat16
    torch.testing.assert_close(
        found["loss"].double(), compute_sdpo_loss(**exact)["loss"], rtol=1e-5, atol=1e-6
    )


def test_no_further_copy_of_the_logits_is_made() -> None:
    """Autograd keeps nothing of that size, and no operation makes more than the one
    gradient and a chunk."""
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    tokens, words, k = 300, 60_000, 8
    logits = torch.zeros(1, tokens, words, requires_grad=True)
    whole = logits.numel() * 4
    kept: list[int] = []
    ids = torch.zeros(1, tokens, dtype=torch.long)
    old = torch.zeros(1, tokens)
    listed = torch.arange(k).expand(1, tokens, k)

    def pack(tensor: Any) -> Any:
        if tensor is not logits and tensor.data_ptr() != logits.data_ptr():
            kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            found = compute_sdpo_loss(
                logits,
                old[..., None] + listed * 0.0 - 5,
                listed,
                torch.ones(1, tokens),
                old,
                ids,
            )
        found["loss"].backward()
    assert sum(kept) < whole / 20
    level = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    assert whole < peak < whole * 2.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response_mask": torch.zeros(ROWS, TOKENS)}, "has no token at all"),
        ({"alpha": 1.5}, "alpha is 1.5: it must lie in 0 to 1"),
        ({"is_clip": 0.0}, "is_clip is 0.0: it must be above 0, or None"),
        ({"token_cap": -1.0}, "token_cap is -1.0: it must be above 0"),
        ({"top_k": 0}, "top_k is 0: it must be above 0"),
        ({"kl_reg_weight": -0.1}, "kl_reg_weight is -0.1: it must be 0 or more"),
        ({"response_mask": torch.ones(ROWS, 3)}, r"response_mask \[2, 3\] \[B, T\]"),
        ({"response_ids": torch.zeros(ROWS, 3, dtype=torch.long)}, "response_ids"),
        ({"base_logprobs": torch.zeros(ROWS)}, r"base_logprobs \[2\] must be \[B, T\]"),
        (
            {"teacher_indices": torch.zeros(ROWS, TOKENS, 2, dtype=torch.long)},
            r"teacher_logprobs \[2, 5, 4\] must be \[B, T, K\]",
        ),
        (
            {"response_ids": torch.full((ROWS, TOKENS), WORDS)},
            "response_ids names a token outside of the vocabulary of 11 tokens",
        ),
        (
            {"teacher_indices": torch.full((ROWS, TOKENS, 4), -1)},
            "teacher_indices names a token outside",
        ),
        (
            {"old_student_logprobs": torch.full((ROWS, TOKENS), torch.nan)},
            "old_student_logprobs has NaN at a token of an answer",
        ),
        (
            {"student_logits": torch.full((ROWS, TOKENS, WORDS), torch.nan)},
            "student_logits has NaN or infinity",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_sdpo_loss(**{**batch(4), **change})


def test_the_diagnostics_are_the_plain_ones() -> None:
    """Entropies, gap and masses, by hand in a loop."""
    given = batch(3)
    found = sdpo_diagnostics(**of_diagnostics(given))
    rows: dict[str, list[float]] = {name: [] for name in found}
    for b, t in given["response_mask"].nonzero().tolist():
        s = given["student_logits"][b, t].detach().softmax(-1)
        listed = given["teacher_indices"][b, t].tolist()
        q = given["teacher_logprobs"][b, t].exp()
        p = s[listed]
        q, p = (torch.cat([x, (1 - x.sum())[None]]) for x in (q, p))
        y = int(given["response_ids"][b, t])
        at = listed.index(y) if y in listed else -1
        rows["entropy"].append(float(-(s * s.log()).sum()))
        rows["teacher_entropy"].append(float(-(q * q.log()).sum()))
        rows["teacher_gap"].append(float(q[at].log() - p[at].log()))
        rows["teacher_mass"].append(float(q[:-1].sum()))
        rows["student_mass"].append(float(p[:-1].sum()))
        rows["agreement"].append(float(q.argmax() == p.argmax()))
    wanted = {name: sum(values) / len(values) for name, values in rows.items()}
    assert {name: float(x) for name, x in found.items()} == pytest.approx(wanted)
