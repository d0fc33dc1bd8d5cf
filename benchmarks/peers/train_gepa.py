"""Train with gepa, by its GEPAAdapter.

Tuned, on other seeds than are reported: all prompts in a candidate, ties accepted, 12
examples a step, merges, and 15 validation examples (its defaults: one prompt after the
other, strictly better, 3, none, as many as there are: 60 of them are a seventh of 400
rollouts for each accepted candidate). Mean of the six families at 400, 14 seeds: 0.93;
8 examples a step and no merges 0.91. With these, 5 seeds: 20 validation examples 0.92,
30 0.89, 60 0.81, 10 0.87; always the current best as the parent 0.05 less.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gepa  # ty: ignore[import-not-found]
from gepa.core.adapter import EvaluationBatch  # ty: ignore[import-not-found]
from work import Order, Prompts, Run, Work, main

SETTINGS: dict[str, Any] = {
    "module_selector": "all",
    "reflection_minibatch_size": 12,
    "use_merge": True,
    "acceptance_criterion": "improvement_or_equal",
    "val": 15,
}


class Adapter:
    """The program as gepa runs it, and what its reflection is shown."""

    propose_new_texts = None

    def __init__(self, work: Work) -> None:
        self._work = work

    def evaluate(
        self, batch: list[Order], candidate: Prompts, capture_traces: bool = False
    ) -> EvaluationBatch[Run, str]:
        """Run a candidate on some orders."""
        runs = [self._work.run(candidate, order) for order in batch]
        return EvaluationBatch(
            outputs=[run.answer for run in runs],
            scores=[run.score for run in runs],
            trajectories=runs if capture_traces else None,
        )

    def make_reflective_dataset(
        self,
        candidate: Prompts,
        eval_batch: EvaluationBatch[Run, str],
        components_to_update: list[str],
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Show each stage its own inputs and outputs, and the message."""
        return {
            stage: [
                {
                    "Inputs": run.calls[stage][0],
                    "Generated Outputs": run.calls[stage][1],
                    "Feedback": run.message,
                }
                for run in eval_batch.trajectories or ()
            ]
            for stage in components_to_update
        }


class Quiet:
    """A logger that says nothing."""

    def log(self, message: str) -> None:
        """Say nothing."""


def train(work: Work) -> tuple[Prompts, dict[str, Any]]:
    """Return the best candidate."""
    settings = {**SETTINGS, **work.settings}
    options = {name: value for name, value in settings.items() if name != "val"}

    def reflector(prompt: str | list[dict[str, Any]]) -> str:
        told = [{"role": "user", "content": prompt}]
        return work.chat("reflector", told if isinstance(prompt, str) else prompt)

    result = gepa.optimize(
        seed_candidate=work.start,
        trainset=work.train,
        valset=work.val[: settings["val"]],
        adapter=Adapter(work),
        reflection_lm=reflector,
        max_metric_calls=work.rollouts,
        seed=work.seed,
        logger=Quiet(),
        **options,
    )
    return dict(result.best_candidate), settings


if __name__ == "__main__":
    main(train, "gepa")
