"""Losses that ask no model: what they say, and whose fault it is when they cannot."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from inf_engine.errors import (
    BudgetExceededError,
    ExecutionError,
    JournalError,
    LossError,
    UnknownAliasError,
    UsageError,
)
from inf_engine.execution.batch import Result
from inf_engine.graph import InferenceGraph
from inf_engine.optimization.composite import CompositeLoss
from inf_engine.optimization.feedback import Feedback, FeedbackBatch
from inf_engine.optimization.human import HumanLoss
from inf_engine.optimization.loss import Loss, VerifierLoss
from inf_engine.record import RunRecord
from inf_engine.testing import VirtualTimeLoop
from inf_engine.types import Usage


def ran(output: Any = "yes", error: BaseException | None = None) -> RunRecord:
    """The record of a run without nodes."""
    return RunRecord(
        "M", ("in",), {}, output, error, InferenceGraph(), (), Usage(), 0.0
    )


def result(output: Any = "yes", error: BaseException | None = None) -> Result:
    """A result without a record."""
    return Result(0, ("in",), output, error, Usage(), 0.0)


class Scalar:
    """A number as NumPy and its like have it."""

    ndim = 0

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self.value


def said(loss: Loss, *args: Any) -> Any:
    """What a loss says, on a virtual clock."""

    async def main() -> Any:
        return await loss(*args)

    return VirtualTimeLoop.run(main())


def exact(output: Any, target: Any) -> Any:
    """Whether it is what it should be."""
    return output == target


def broken(at: str) -> Callable[[Any, Any], Any]:
    """A verifier that raises for one output."""

    def check(output: str, target: Any) -> Any:
        if output == at:
            raise ValueError("no such answer")
        return output == target, f"Wanted {target}."

    return check


# -- one output and a batch ------------------------------------------------------------


def test_one_output() -> None:
    """A record and a target give feedback that knows both."""
    record = ran("4")
    told = said(VerifierLoss(exact), record, "4")
    assert (told.score, told.kind, told.error) == (1.0, "verifier", None)
    assert told.content == "The output is right."
    assert told.record is record and told.target == "4"


def test_a_batch() -> None:
    """Records and targets give the feedback of each, in order."""
    told = said(VerifierLoss(exact), [ran("a"), ran("b")], ["a", "x"])
    assert isinstance(told, FeedbackBatch)
    assert told.scores == (1.0, 0.0) and told.score == 0.5
    assert [item.content for item in told][1] == "The output is wrong."
    assert [item.target for item in told] == ["a", "x"]


def test_a_batch_of_none() -> None:
    """Nothing gives nothing."""
    assert len(said(VerifierLoss(exact), [], [])) == 0


def test_a_list_is_the_target_of_one_output() -> None:
    """What is given with one record is its target, whatever it is."""
    assert said(VerifierLoss(exact), ran(["a"]), ["a"]).score == 1.0


def test_no_targets() -> None:
    """Where nothing is known of the targets, each is None."""
    loss = VerifierLoss(lambda output, target: target is None)
    assert said(loss, [ran(), ran()]).scores == (1.0, 1.0)
    assert said(loss, ran()).score == 1.0


def test_results_are_runs_too() -> None:
    """A result counts by its record, or by its output if it has none."""
    bare = said(VerifierLoss(exact), result("a"), "a")
    assert bare.score == 1.0 and bare.record is None
    record = ran("a")
    kept = Result(0, ("in",), "a", None, Usage(), 0.0, record)
    assert said(VerifierLoss(exact), [kept], ["a"])[0].record is record


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("yes",), "takes a RunRecord or a Result, or a list of them, not str"),
        (
            (7,),
            r"not int: run the module with engine\.map\(module, \.\.\., record=True",
        ),
        (({},), "not dict"),
        ((["yes"],), "example 0 of a loss is a str, not a RunRecord"),
        (([ran()], "yes"), "takes a list of targets, one for each, not str"),
        (([ran()], 4), "not int"),
        (([ran()], []), "given 1 runs and 0 targets. Give one for each"),
    ],
)
def test_what_is_no_run(args: Any, message: str) -> None:
    """Arguments that are no runs, or not one target for each, are refused."""
    with pytest.raises(UsageError, match=message):
        said(VerifierLoss(exact), *args)


# -- runs that failed ------------------------------------------------------------------


def test_a_failed_run_has_the_lowest_score() -> None:
    """It is told which node failed, and the verifier is not asked."""
    error = ExecutionError("'a#1' failed: ValueError: bad", node="a#1")
    told = said(VerifierLoss(broken("x"), low=-2.0), ran(None, error), "t")
    assert told.score == -2.0 and told.error is None and told.target == "t"
    assert "gave no output: 'a#1' failed: ValueError: bad" in told.content
    assert told.record.error is error


def test_a_failed_result_without_a_record() -> None:
    """Its own error is told."""
    told = said(VerifierLoss(exact), [result(None, ValueError("bad"))], ["t"])[0]
    assert told.score == 0.0 and told.record is None
    assert told.content == "The run failed and gave no output: ValueError: bad"


@pytest.mark.parametrize(
    "error",
    [
        BudgetExceededError("gone"),
        JournalError("torn"),
        UnknownAliasError("m", []),
        asyncio.CancelledError(),
    ],
)
def test_what_is_not_the_module_is_raised(error: BaseException) -> None:
    """A budget that is gone says nothing about an output."""
    with pytest.raises(type(error)):
        said(VerifierLoss(exact), [ran(), ran(None, error)], ["yes", "yes"])


# -- VerifierLoss ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "score", "content"),
    [
        (True, 5.0, "The output is right."),
        (False, 1.0, "The output is wrong."),
        (3, 3.0, "Score 3 on a scale from 1 to 5."),
        (1.5, 1.5, "Score 1.5 on a scale from 1 to 5."),
        ((2, "Half of it."), 2.0, "Half of it."),
        ((True, "All."), 5.0, "All."),
        ((False, ""), 1.0, "The output is wrong."),
        (Scalar(2.5), 2.5, "Score 2.5 on a scale from 1 to 5."),
        (Scalar(True), 5.0, "The output is right."),
    ],
)
def test_what_a_verifier_may_return(outcome: Any, score: float, content: str) -> None:
    """A bool, a number, or a pair with words."""
    told = said(VerifierLoss(lambda o, t: outcome, low=1.0, high=5.0), ran(), None)
    assert (told.score, told.content) == (score, content)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (None, r"returned None \(is a return missing\?\), which is no score"),
        ("good", "returned a str, which is no score. Return True or False"),
        ((1.0, 2.0), r"returned a tuple of \(float, float\)"),
        (math.nan, "gave the score nan, which is not a number from 0 to 1"),
        (math.inf, "gave the score inf"),
        (1.01, "gave the score 1.01, .* give the loss the scale that it has"),
        ((-1, "bad"), r"gave the score -1\.0"),
    ],
)
def test_what_is_no_score(outcome: Any, message: str) -> None:
    """It ends the call and names the example; it is not bent to fit."""
    loss = VerifierLoss(lambda o, t: outcome if o == "b" else 1.0)
    with pytest.raises(LossError, match=f"example 1: .*{message}"):
        said(loss, [ran("a"), ran("b")], [None, None])


def test_an_async_verifier_overlaps() -> None:
    """The calls of a batch take the time of one."""

    async def check(output: str, target: str) -> bool:
        await asyncio.sleep(5.0)
        return output == target

    async def main() -> Any:
        told = await VerifierLoss(check)([ran("a")] * 9, ["a"] * 9)
        return told.score, asyncio.get_running_loop().time()

    assert VirtualTimeLoop.run(main()) == (1.0, 5.0)


def test_a_verifier_of_records() -> None:
    """It gets the record if its first parameter is named or annotated so."""

    def by_name(record: Any, target: Any) -> bool:
        return record.module == "M"

    def by_type(run: RunRecord, target: Any) -> bool:
        return run.module == "M"

    def by_text(run: "RunRecord", target: Any) -> bool:
        return run.module == "M"

    for check in (by_name, by_type, by_text):
        assert said(VerifierLoss(check), ran(), None).score == 1.0


def test_an_exception_is_that_of_its_example() -> None:
    """The others are scored; the mean is over them."""
    told = said(VerifierLoss(broken("b")), [ran("a"), ran("b")], ["a", "b"])
    assert told.scores == (1.0, None) and told.score == 1.0
    (error,) = told.errors
    assert isinstance(error, ValueError) and told[1].error is error
    assert told[1].content == (
        "VerifierLoss(check) failed for this example: ValueError: no such answer"
    )


def test_a_loss_that_fails_everywhere() -> None:
    """Where nothing could be scored, that is an error, with its cause."""
    loss = VerifierLoss(broken("b"))
    with pytest.raises(LossError, match="failed for all 2 examples; the first: Value"):
        said(loss, [ran("b"), ran("b")], ["b", "b"])
    with pytest.raises(LossError, match="failed for the example: ValueError") as caught:
        said(loss, ran("b"), "b")
    assert isinstance(caught.value.__cause__, ValueError)
    told = said(loss, [ran("b"), ran(None, ValueError())], ["b", "b"])
    assert told.scores == (None, 0.0)


def test_a_verifier_that_stops_the_program() -> None:
    """What says nothing about an example is raised as it is, the others cancelled."""
    left = []

    async def check(output: str, target: Any) -> bool:
        if output == "b":
            raise BudgetExceededError("gone")
        try:
            await asyncio.sleep(9.0)
        except asyncio.CancelledError:
            left.append(output)
            raise
        return True

    with pytest.raises(BudgetExceededError, match="gone"):
        said(VerifierLoss(check), [ran("a"), ran("b")], [None, None])
    assert left == ["a"]


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (3, "the verifier must be a function, not int"),
        (lambda output: True, r"called with two arguments, .* and takes \(output\)"),
        (lambda: True, r"Write def check\(output, target\)"),
    ],
)
def test_what_is_no_verifier(fn: Any, message: str) -> None:
    """It is refused when the loss is built."""
    with pytest.raises(UsageError, match=message):
        VerifierLoss(fn)


@pytest.mark.parametrize(
    ("low", "high"),
    [(1.0, 0.0), (0.0, 0.0), (0.0, math.inf), (math.nan, 1.0), ("a", 1)],
)
def test_what_is_no_scale(low: Any, high: Any) -> None:
    """A scale is two finite numbers, the lower one first."""
    with pytest.raises(UsageError, match="must be two finite numbers, low < high"):
        VerifierLoss(exact, low=low, high=high)


def test_a_loss_of_your_own() -> None:
    """A subclass says `judge`, and has the rest."""

    class Brevity(Loss):
        async def judge(self, record: RunRecord, target: Any) -> Feedback:
            return Feedback("words", 1 / len(record.output.split()))

    told = said(Brevity(), [ran("a b"), ran("a")], None)
    assert told.scores == (0.5, 1.0)


# -- HumanLoss -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "score", "content", "kind"),
    [
        (Feedback("Fine.", 0.7), 0.7, "Fine.", "human"),
        (Feedback("Fine.", 0.7, "expert"), 0.7, "Fine.", "expert"),
        (0.5, 0.5, "Score 0.5 on a scale from 0 to 1.", "human"),
        (True, 1.0, "The output is right.", "human"),
        ((0.2, "Too long."), 0.2, "Too long.", "human"),
        ("Too long.", None, "Too long.", "human"),
    ],
)
def test_what_a_person_may_say(
    outcome: Any, score: float | None, content: str, kind: str
) -> None:
    """Feedback, a score, a pair with words, or words alone."""
    told = said(HumanLoss(lambda record, target: outcome), ran(), "t")
    assert (told.score, told.content, told.kind) == (score, content, kind)
    assert told.target == "t" and told.record is not None


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (None, "example 0: the callback of a HumanLoss returned a NoneType. Return"),
        ("", "returned an empty text"),
        (Feedback("x", 7.0), r"gave the score 7\.0, which is not a number from 0 to 1"),
    ],
)
def test_what_a_person_may_not_say(outcome: Any, message: str) -> None:
    """Nothing, or a score off the scale."""
    with pytest.raises(LossError, match=message):
        said(HumanLoss(lambda record, target: outcome), ran())


def test_a_person_is_asked_one_at_a_time() -> None:
    """In order, also by an async callback; an exception is that of its example."""
    open_now, seen = [0], []

    async def ask(record: RunRecord, target: int) -> float:
        open_now[0] += 1
        assert open_now == [1]
        await asyncio.sleep(2.0)
        open_now[0] -= 1
        seen.append(target)
        if target == 1:
            raise EOFError
        return 1.0

    told = said(HumanLoss(ask), [ran()] * 3, [0, 1, 2])
    assert seen == [0, 1, 2]
    assert told.scores == (1.0, None, 1.0) and isinstance(told[1].error, EOFError)


def test_no_callback() -> None:
    """What cannot be called with a record and a target is refused."""
    with pytest.raises(UsageError, match="callback of a HumanLoss must be a function"):
        HumanLoss(None)  # ty: ignore[invalid-argument-type]


# -- CompositeLoss ---------------------------------------------------------------------


def short(output: str, target: Any) -> tuple[float, str]:
    """A score from 1 to 5 for short outputs."""
    return max(1.0, 6.0 - len(output)), "As short as it can be."


def composite(**options: Any) -> CompositeLoss:
    """Two objectives on two scales."""
    parts = {
        "right": (VerifierLoss(exact), 3.0),
        "brief": (VerifierLoss(short, low=1.0, high=5.0), 1.0),
    }
    return CompositeLoss(parts, **options)


def test_objectives_are_weighed_and_kept_apart() -> None:
    """Each counts by its place on its own scale."""
    record = ran("abc")
    told = said(composite(high=10.0), record, "x")
    assert told.score == pytest.approx(10.0 * (0.25 * (3.0 - 1.0) / 4.0))
    assert told.metadata["scores"] == {"right": 0.0, "brief": 3.0}
    assert told.metadata["weights"] == {"right": 3.0, "brief": 1.0}
    assert told.content == (
        "right (score 0): The output is wrong.\nbrief (score 3): As short as it can be."
    )
    assert [part.metadata["name"] for part in told.parts] == ["right", "brief"]
    assert [part.score for part in told.parts] == [0.0, 3.0]
    assert all(part.record is record and part.target == "x" for part in told.parts)


def test_the_best_and_the_worst_are_exact() -> None:
    """Where all parts are at their ends, so is the whole."""
    loss = composite(low=-0.1, high=0.7)
    assert said(loss, [ran("a"), ran("abcdefgh")], ["a", "x"]).scores == (0.7, -0.1)


def test_parts_without_names() -> None:
    """A list is named by kinds, and a loss alone counts 1."""
    loss = CompositeLoss([VerifierLoss(exact), (VerifierLoss(exact), 2)])
    assert loss.weights == {"verifier": 1.0, "verifier_2": 2.0}
    assert repr(loss) == "CompositeLoss(verifier=1, verifier_2=2)"


def test_a_part_fails_for_one_example() -> None:
    """So does the whole, which says which part; what the others said is there."""
    loss = CompositeLoss(
        {"right": VerifierLoss(exact), "odd": VerifierLoss(broken("b"))}
    )
    told = said(loss, [ran("a"), ran("b")], ["a", "b"])
    assert told.scores == (1.0, None)
    assert isinstance(told[1].error, LossError)
    assert "part 'odd' failed: VerifierLoss(check) failed" in str(told[1].error)
    assert isinstance(told[1].error.__cause__, ValueError)
    assert told[1].metadata["scores"] == {"right": 1.0, "odd": None}
    assert told[1].parts[0].score == 1.0
    with pytest.raises(LossError, match="failed for all 2 examples.*part 'odd'"):
        said(loss, [ran("b"), ran("b")], ["b", "b"])


def test_a_part_that_is_wrong() -> None:
    """A score off a part's scale ends the call, and the part is named."""
    loss = CompositeLoss({"odd": VerifierLoss(lambda output, target: 7.0)})
    with pytest.raises(LossError, match="part 'odd' of a CompositeLoss: example 0: "):
        said(loss, [ran()], ["a"])


def test_a_part_of_words_alone() -> None:
    """It may be there without weight, and not with one."""
    words = HumanLoss(lambda record, target: "Kind.")
    told = said(CompositeLoss({"a": VerifierLoss(exact), "b": (words, 0)}), ran(), "no")
    assert told.score == 0.0 and told.content.endswith("b: Kind.")
    with pytest.raises(LossError, match="part 'b' gave no score, and counts 1. Give"):
        said(CompositeLoss({"b": words}), ran(), None)


def test_a_failed_run_is_the_worst_for_every_part() -> None:
    """It is said once, and the parts have their own lowest scores."""
    told = said(composite(), ran(None, ValueError("bad")), "x")
    assert told.score == 0.0 and told.content.count("bad") == 1
    assert [part.score for part in told.parts] == [0.0, 1.0]
    assert told.metadata["scores"] == {"right": 0.0, "brief": 1.0}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "needs at least one part with a weight above 0"),
        ({"a": (VerifierLoss(exact), 0)}, "needs at least one part with a weight"),
        ({"a": exact}, r"not a function. Wrap a function: VerifierLoss\(fn\)"),
        ({"a": (VerifierLoss(exact), "1")}, "a weight must be a number, not '1'"),
        ({"a": (VerifierLoss(exact), -1)}, "must be 0 or more, and finite, not -1"),
        ({"a": (VerifierLoss(exact), math.nan)}, "and finite, not nan"),
    ],
)
def test_what_is_no_part(parts: Any, message: str) -> None:
    """Parts and weights are checked when the loss is built."""
    with pytest.raises(UsageError, match=message):
        CompositeLoss(parts)


def test_an_engine_reaches_the_parts() -> None:
    """Those that have none get that of the whole, now or later."""
    own, none = VerifierLoss(exact), VerifierLoss(exact)
    own.engine = "own"
    loss = CompositeLoss([own, none])
    assert loss.engine is None
    loss.engine = "given"
    assert (own.engine, none.engine, loss.engine) == ("own", "given", "given")
