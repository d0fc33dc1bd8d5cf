"""How well a plain hill climber does in each family: the check of the figures.

    python -m benchmarks.simworld.check [seeds] [rollouts]

It is no optimizer to be compared with, only the yardstick by which the figures of
`families` were set. It asks the models without HTTP. A rollout is one run of the
program on one example, whatever for; reflections are not counted.
"""

import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.simworld.examples import Example
from benchmarks.simworld.families import FAMILIES
from benchmarks.simworld.world import World

Prompts = dict[str, str]


@dataclass(frozen=True, slots=True)
class Style:
    """How the climber climbs.

    Args:
        batch: Training examples for a step.
        chosen_by: Validation examples for a kept candidate.
        together: Whether a step rewrites all prompts, or one after the other.
        ties: Whether a candidate is kept that is as good on the batch.
    """

    batch: int
    chosen_by: int
    together: bool
    ties: bool


PLAIN = Style(3, 60, together=False, ties=False)
TUNED = Style(8, 30, together=True, ties=True)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the program: what each stage got and gave, score and message."""

    calls: dict[str, tuple[str, str]]
    score: float
    message: str


def asked(world: World, model: str, *texts: str) -> str:
    """Return what a model answers to a user message, after a system message or none."""
    roles = ("system", "user")[-len(texts) :]
    told = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    return world.reply({"model": model, "messages": told})


def run(world: World, prompts: Prompts, example: Example) -> Run:
    """Run the program of a world on one example."""
    calls: dict[str, tuple[str, str]] = {}
    given, output = example.text, ""
    for stage, prompt in prompts.items():
        output = asked(world, "task", prompt, given)
        calls[stage] = (given, output)
        given = f"{example.text}\n{output}"
    return Run(calls, *world.metric(example, output))


def rewritten(world: World, stage: str, prompt: str, runs: Sequence[Run]) -> str:
    """Return the prompt that the reflector makes of one and some runs of its stage."""
    shown = [
        f"Input: {run.calls[stage][0]}\nOutput: {run.calls[stage][1]}\n"
        f"Feedback: {run.message}"
        for run in runs
    ]
    request = "\n\n".join(
        [
            f"The current instruction:\n```\n{prompt}\n```\nHow it did:",
            *shown,
            "Write a better instruction within ``` marks.",
        ]
    )
    return asked(world, "reflector", request).split("```")[1].strip()


def climbed(world: World, style: Style, rollouts: int) -> Prompts:
    """Return the best prompts, by validation examples, that a climber finds."""
    draw = random.Random(world.seed)
    chosen_by = world.val[: style.chosen_by]

    def scored(prompts: Prompts, examples: Sequence[Example]) -> list[Run]:
        nonlocal rollouts
        rollouts -= len(examples)
        return [run(world, prompts, example) for example in examples]

    def total(runs: Sequence[Run]) -> float:
        return sum(run.score for run in runs)

    kept = [world.start_prompts()]
    totals = [total(scored(kept[0], chosen_by))]
    step = 0
    while rollouts >= 2 * style.batch + style.chosen_by:
        (now,) = draw.choices(kept, [(score + 0.1) ** 4 for score in totals])
        batch = draw.sample(world.train, style.batch)
        runs = scored(now, batch)
        if total(runs) == len(runs):
            continue
        stages = list(now) if style.together else [list(now)[step % len(now)]]
        step += 1
        new = now | {s: rewritten(world, s, now[s], runs) for s in stages}
        gain = total(scored(new, batch)) - total(runs)
        if gain > 0 or (style.ties and gain == 0):
            kept.append(new)
            totals.append(total(scored(new, chosen_by)))
    return max(zip(totals, range(len(kept)), kept, strict=True))[2]


def main(words: Sequence[str]) -> None:
    """Print the true scores of both styles, family by family.

    Args:
        words: How many seeds (10), and how many rollouts (400).
    """
    seeds, rollouts = (*map(int, words), *(10, 400)[len(words) :])
    print(f"{'family':<16}{'start':>8}{'plain':>8}{'tuned':>8}{'oracle':>8}")
    for family in FAMILIES:
        worlds = [World(family, seed) for seed in range(seeds)]
        rows = [
            [w.true_score(w.start_prompts()) for w in worlds],
            [w.true_score(climbed(w, PLAIN, rollouts)) for w in worlds],
            [w.true_score(climbed(w, TUNED, rollouts)) for w in worlds],
            [w.true_score(w.oracle_prompts()) for w in worlds],
        ]
        told = "".join(f"{statistics.mean(row):>8.2f}" for row in rows)
        print(f"{family:<16}{told}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
