"""Acceptance: what each rule lets through, and how often luck gets through with it."""

import math
import random
from collections.abc import Callable

import pytest

from inf_engine.errors import UsageError
from inf_engine.optimization.acceptance import (
    Gate,
    SequentialTest,
    accept,
    paired_differences,
    sign_flip_p,
)

Draw = Callable[[random.Random], float]


def wins(win: float, loss: float) -> Draw:
    """Return a draw of a difference of 0/1 scores."""

    def draw(r: random.Random) -> float:
        u = r.random()
        return 1.0 if u < win else -1.0 if u < win + loss else 0.0

    return draw


NO_BETTER: dict[str, Draw] = {
    "few differ": wins(0.1, 0.1),
    "many differ": wins(0.4, 0.4),
    "any size": lambda r: r.uniform(-1, 1),
    "rare large losses": lambda r: -1.0 if r.random() < 0.1 else 1 / 9,
    "rare large wins": lambda r: 1.0 if r.random() < 0.1 else -1 / 9,
}


def raced(draw: Draw, seed: str, most: int, alpha: float = 0.05) -> str:
    """Return the verdict of a race that is stopped as soon as there is one."""
    r = random.Random(seed)
    test = SequentialTest(alpha)
    for _ in range(most):
        if test.observe(draw(r)) != "undecided":
            break
    return test.verdict


@pytest.mark.parametrize("name", NO_BETTER)
def test_a_candidate_that_is_no_better_seldom_wins(name: str) -> None:
    """2,000 seeded races, looked at after every example: at most alpha each way."""
    draw = NO_BETTER[name]
    ends = [raced(draw, f"{name}{k}", 30) for k in range(2000)]
    assert ends.count("better") <= 0.05 * 2000
    assert ends.count("worse") <= 0.05 * 2000


def test_alpha_is_what_it_is_called() -> None:
    """Other levels hold too."""
    draw = wins(0.4, 0.4)
    ends = [raced(draw, f"alpha{k}", 40, alpha=0.2) for k in range(1000)]
    assert 0.02 * 1000 < ends.count("better") <= 0.2 * 1000


@pytest.mark.parametrize(
    ("win", "loss", "most", "power"),
    [(0.3, 0.1, 100, 0.65), (0.5, 0.0, 20, 0.9), (0.2, 0.0, 50, 0.85)],
)
def test_a_better_candidate_wins_and_a_worse_one_loses(
    win: float, loss: float, most: int, power: float
) -> None:
    """300 seeded races each; the other verdict is hardly ever given."""
    for better, draw in (("better", wins(win, loss)), ("worse", wins(loss, win))):
        ends = [raced(draw, f"{better}{k}", most) for k in range(300)]
        assert ends.count(better) >= power * 300
        assert len(ends) - ends.count(better) - ends.count("undecided") <= 3


def test_seven_wins_in_a_row_decide() -> None:
    """And the verdict stays, whatever comes after."""
    test = SequentialTest()
    assert [test.observe(1.0) for _ in range(7)] == ["undecided"] * 6 + ["better"]
    for _ in range(30):
        assert test.observe(-1.0) == "better"
    assert test.n == 37


def test_ties_count_as_examples_and_move_nothing() -> None:
    """The capital of both stays where it began."""
    test = SequentialTest()
    for _ in range(500):
        test.observe(0.0)
    assert (test.n, test.verdict) == (500, "undecided")
    assert test.evidence == pytest.approx((1.0, 1.0))


def test_the_evidence_is_the_capital_of_both_sides() -> None:
    """One win: (1 + b) and (1 - b), the mean of eight bets b around a half."""
    test = SequentialTest()
    test.observe(1.0)
    assert test.evidence == pytest.approx((1.5, 0.5))
    for _ in range(5000):
        test.observe(1.0)
    assert test.evidence[0] > 1e300


def test_a_loser_can_be_dropped_at_another_level() -> None:
    """A larger one drops it sooner."""
    strict, lax = SequentialTest(), SequentialTest(alpha_worse=0.3)
    for _ in range(4):
        strict.observe(-1.0)
        lax.observe(-1.0)
    assert (strict.verdict, lax.verdict) == ("undecided", "worse")


def test_what_cannot_be_observed_is_not_noted() -> None:
    """The test stays as it was."""
    test = SequentialTest()
    with pytest.raises(UsageError, match="difference 0 is 2.0, not a number from -1"):
        test.observe(2.0)
    assert test.n == 0


@pytest.mark.parametrize(("alpha", "name"), [(0.0, "alpha"), (1.0, "alpha_worse")])
def test_a_level_is_a_share(alpha: float, name: str) -> None:
    """Both ends left out."""
    with pytest.raises(UsageError, match=f"^{name}=.*: give a number between 0 and 1"):
        SequentialTest(**{name: alpha})


def test_rules_are_more_and_less_easily_content() -> None:
    """One win, a tie, a loss, and many wins, through each of the rules."""
    none = [0.0] * 80

    def through(after: list[float], rule: str) -> bool:
        before = none[: len(after)] if after[0] >= 0 else [1.0] * len(after)
        shifted = [b + a if a < 0 else a for b, a in zip(before, after, strict=True)]
        return accept(before, shifted, rule=rule, margin=0.1).accepted  # ty: ignore[invalid-argument-type]

    win, tie, loss = [1.0] + [0.0] * 7, [0.0] * 8, [-1.0] + [0.0] * 7
    long_tie, sure = [0.0] * 80, [1.0] * 5 + [0.0] * 3
    cases = {"win": win, "tie": tie, "loss": loss, "long tie": long_tie, "sure": sure}
    passed = {
        rule: [name for name, after in cases.items() if through(after, rule)]
        for rule in ("improves", "not worse", "significant", "no significant harm")
    }
    assert passed == {
        "improves": ["win", "sure"],
        "not worse": ["win", "tie", "long tie", "sure"],
        "significant": ["sure"],
        "no significant harm": ["long tie", "sure"],
    }


def test_the_reason_says_what_was_compared() -> None:
    """In words, each rule its own."""
    before, after = [0, 0, 1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 1, 1, 0, 0]
    reasons = {
        "improves": "accepted: the mean score changed by +0.25; 3 better, 1 worse, "
        "4 equal",
        "significant": "refused: the mean score changed by +0.25, p = 0.31 > 0.05; "
        "3 better, 1 worse, 4 equal",
        "no significant harm": "refused: the mean score changed by +0.25, at least "
        "-0.19 at 90%: a loss of more than 0.05 is not excluded; 3 better, 1 worse, "
        "4 equal",
    }
    assert accept(before, after).reason == reasons["improves"]
    found = Gate("significant").judge(before, after)
    assert found.reason == reasons["significant"]
    assert (found.gain.mean, found.n) == (0.25, 8)
    found = Gate("no significant harm", level=0.1).judge(before, after)
    assert found.reason == reasons["no significant harm"]
    assert found.gain.confidence == 0.9


def test_rounding_is_no_gain() -> None:
    """0.1 + 0.2 against 0.3."""
    assert not accept([0.3], [0.1 + 0.2]).accepted
    assert accept([0.1 + 0.2], [0.3], rule="not worse").accepted
    assert accept([0.3], [0.1 + 0.2]).reason.endswith("0 better, 0 worse, 1 equal")


def test_without_a_common_example_nothing_is_accepted() -> None:
    """By no rule."""
    for rule in ("improves", "not worse", "significant", "no significant harm"):
        found = Gate(rule).judge({"a": 1.0}, {"b": 1.0})
        assert (found.accepted, found.n, found.gain.n) == (False, 0, 0)
        assert found.reason == "refused: no example has both scores"


def test_mappings_are_paired_by_example() -> None:
    """In the order of before; what only one has is left out."""
    before = {"a": 0.0, "b": 1.0, "c": 0.5}
    assert paired_differences(before, {"c": 0.75, "x": 1.0, "a": 1.0}) == [1.0, 0.25]


def test_what_cannot_be_paired_is_refused() -> None:
    """Other lengths, and a mapping with a sequence."""
    with pytest.raises(UsageError, match="1 scores before and 2 after cannot be pair"):
        paired_differences([1.0], [1.0, 0.0])
    with pytest.raises(UsageError, match="give both as mappings, or both as sequences"):
        paired_differences([1.0], {0: 1.0})
    with pytest.raises(UsageError, match="score 0 is 7"):
        accept([7], [1])


def test_a_gate_checks_its_settings() -> None:
    """Rule, level and margin."""
    with pytest.raises(UsageError, match=r"unknown rule 'improve'.*mean 'improves'"):
        Gate("improve")  # ty: ignore[invalid-argument-type]
    with pytest.raises(UsageError, match="level=0: give a number between"):
        Gate(level=0)
    with pytest.raises(UsageError, match="margin=-0.1: give the loss per example"):
        Gate(margin=-0.1)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([], 1.0),
        ([0.0] * 9, 1.0),
        ([1.0], 0.5),
        ([1.0] * 5, 1 / 32),
        ([0.25] * 5 + [0.0], 1 / 32),
        ([1.0] * 4 + [-1.0], 6 / 32),
        ([1.0, 0.5], 1 / 4),
        ([-1.0, -1.0], 1.0),
    ],
)
def test_signs_are_flipped_exactly(differences: list[float], p: float) -> None:
    """Small cases counted by hand; ties do not matter."""
    assert sign_flip_p(differences) == pytest.approx(p)


def test_many_signs_are_flipped_nearly_exactly() -> None:
    """Where the normal distribution takes over, it says the same."""
    r = random.Random(3)
    for n, size in ((1400, 1.0), (1450, 1.0), (250, 0.0), (320, 0.0)):
        ds = [size * r.choice([-1, 1]) or r.uniform(-1, 1) for _ in range(n)]
        shift = sum(ds) / n
        z = sum(ds) / sum(d * d for d in ds) ** 0.5
        expected = 0.5 - 0.5 * math.erf(z / 2**0.5)
        assert sign_flip_p(ds) == pytest.approx(expected, abs=0.02), (n, shift)


@pytest.mark.parametrize("n", [8, 30])
def test_a_change_that_does_nothing_is_seldom_significant(n: int) -> None:
    """2,000 seeded minibatches of noise."""
    r = random.Random(n)
    gate = Gate("significant", level=0.1)
    found = 0
    for _ in range(2000):
        before = [float(r.random() < 0.6) for _ in range(n)]
        after = [float(r.random() < 0.6) for _ in range(n)]
        found += gate.judge(before, after).accepted
    assert 0.01 * 2000 < found <= 0.1 * 2000
