"""Train with DSPy: GEPA and MIPROv2, on a module of `dspy.Predict`.

GEPA, tuned as in ``train_gepa.py``; its proposer and its prompts are DSPy's own.

MIPROv2 draws instructions without looking at what went wrong, so worked examples carry
most of what it can learn here; they count for the score as they stand in the prompt.
Tuned: their number, that of the candidates, and the sizes of validation. (Mean of one
and pipeline at 400, 3 other seeds: as below 0.69; 6 candidates and 25 of 30 validation
examples 0.63, with 8 and 24 worked examples 0.64; without any 0.49.)

No call is cached. One thread: order and concurrency change nothing but the time.
"""

import logging
from collections.abc import Sequence
from typing import Any

import dspy  # ty: ignore[import-not-found]
from work import KEY, Order, Prompts, Work, main

GEPA: dict[str, Any] = {
    "component_selector": "all",
    "reflection_minibatch_size": 12,
    "acceptance_criterion": "improvement_or_equal",
    "use_merge": True,
    "val": 15,
}
MIPRO: dict[str, Any] = {
    "max_bootstrapped_demos": 4,
    "max_labeled_demos": 16,
    "num_candidates": 12,
    "minibatch_size": 15,
    "minibatch_full_eval_steps": 5,
    "val": 20,
}


class Program(dspy.Module):
    """The program: each stage gets the order and what the stage before gave."""

    def __init__(self, start: Prompts) -> None:
        super().__init__()
        self.stages = list(start)
        before = ""
        for number, (stage, prompt) in enumerate(start.items()):
            gives = "result" if number == len(start) - 1 else f"{stage}_slip"
            signature = dspy.Signature(f"order{before} -> {gives}", prompt)
            setattr(self, stage, dspy.Predict(signature))
            before = f", {gives}"

    def forward(self, order: str) -> dspy.Prediction:
        """Run it on the text of an order."""
        given: dict[str, str] = {}
        for stage in self.stages:
            answer = getattr(self, stage)(order=order, **given)
            given = dict(answer.items())
        return dspy.Prediction(result=given["result"])


def examples(orders: Sequence[Order]) -> list[dspy.Example]:
    """Return orders as examples."""
    rows = [{"id": o.id, "order": o.text, "result": o.expected} for o in orders]
    return [dspy.Example(**row).with_inputs("order") for row in rows]


def prompts_of(program: Program) -> Prompts:
    """Return each stage's instruction, and its worked examples after it."""
    prompts = {}
    for stage in program.stages:
        predict = getattr(program, stage)
        fields = predict.signature.fields
        demos = ["\n".join(str(d[f]) for f in fields if f in d) for d in predict.demos]
        prompts[stage] = "\n\n".join([predict.signature.instructions, *demos])
    return prompts


def by_gepa(work: Work, settings: dict[str, Any], reflector: dspy.LM) -> Program:
    """Return the program that GEPA finds."""
    said: dict[tuple[str, str], tuple[float, str]] = {}

    def metric(
        gold: Any, pred: Any, trace: Any = None, name: Any = None, part: Any = None
    ) -> dspy.Prediction:
        """Give score and message; asked about one stage, the same as of that run."""
        key = gold.id, str(pred.result)
        if name is None or key not in said:
            said[key] = work.score(*key)
        score, message = said[key]
        return dspy.Prediction(score=score, feedback=message)

    optimizer = dspy.GEPA(
        metric=metric,
        max_metric_calls=work.rollouts,
        reflection_lm=reflector,
        reflection_minibatch_size=settings["reflection_minibatch_size"],
        component_selector=settings["component_selector"],
        use_merge=settings["use_merge"],
        gepa_kwargs={"acceptance_criterion": settings["acceptance_criterion"]},
        num_threads=1,
        seed=work.seed,
    )
    val = examples(work.val[: settings["val"]])
    return optimizer.compile(
        Program(work.start), trainset=examples(work.train), valset=val
    )


def by_mipro(work: Work, settings: dict[str, Any], reflector: dspy.LM) -> Program:
    """Return the program that MIPROv2 finds."""

    def metric(gold: Any, pred: Any, trace: Any = None) -> float:
        return work.score(gold.id, str(pred.result))[0]

    optimizer = dspy.MIPROv2(
        metric=metric,
        prompt_model=reflector,
        auto=None,
        num_candidates=settings["num_candidates"],
        max_bootstrapped_demos=settings["max_bootstrapped_demos"],
        max_labeled_demos=settings["max_labeled_demos"],
        num_threads=1,
        seed=work.seed + 1,
    )
    size, every = settings["minibatch_size"], settings["minibatch_full_eval_steps"]
    val = examples(work.val[: settings["val"]])
    # The first program is run on all of `val`, and so is the best one every few
    # trials; bootstrapping takes some runs, too.
    left = work.rollouts - len(val) - settings.get("bootstrap", 60)
    trials = max(1, left * every // (size * every + len(val)))
    return optimizer.compile(
        Program(work.start),
        trainset=examples(work.train),
        valset=val,
        num_trials=trials,
        minibatch=True,
        minibatch_size=size,
        minibatch_full_eval_steps=every,
    )


def train(work: Work) -> tuple[Prompts, dict[str, Any]]:
    """Return what the optimizer named in the settings finds."""
    logging.disable(logging.WARNING)
    name = work.settings.pop("optimizer")
    settings = {**(GEPA if name == "gepa" else MIPRO), **work.settings}
    there = {"api_base": work.url, "api_key": KEY, "cache": False, "num_retries": 0}
    dspy.configure(lm=dspy.LM("openai/task", **there))
    reflector = dspy.LM("openai/reflector", temperature=1.0, **there)
    find = by_gepa if name == "gepa" else by_mipro
    return prompts_of(find(work, settings, reflector)), settings


if __name__ == "__main__":
    main(train, "dspy")
