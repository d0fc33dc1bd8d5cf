"""What SmolLM2-135M learns from a feedback: compliance, drift, time, memory.

    python benchmarks/claas/bench_learn.py                    # name, α = 0.5, anchor
    python benchmarks/claas/bench_learn.py name concise --alpha 0 0.5 1 --anchor 0 0.3

One line of JSON for each run. A run takes minutes of CPU: 20 steps of 4 answers with 24
tokens. Held-out prompts are never trained on. CPU-seconds are of one thread.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from claas.base import Base
from claas.checks import verifier_of
from claas.gate import Gate, GateLimits
from claas.hints import Hints
from claas.learner import Learner, LearnSettings
from claas.likelihoods import likelihoods
from claas.storage import create_initial_lora, load_lora
from claas.teacher import TeachSettings
from claas.types import Check, Feedback, Lesson, Receipt
from claas.volumes import LocalVolume

EMOJI = "[\u2600-\u27bf\U0001f300-\U0001faff]"


@dataclass(frozen=True)
class Task:
    """A feedback, prompts that it is given on, and prompts that are held out.

    Args:
        content: The feedback.
        required: What an answer that follows has.
        forbidden: What it has not.
        most_words: How many words it has at most, 0 for any.
        prompts: Trained on.
        held_out: Only looked at.
    """

    content: str
    required: str
    forbidden: str
    most_words: int
    prompts: tuple[str, ...]
    held_out: tuple[str, ...]


TASKS = {
    "name": Task(
        "Your name is Kuro.",
        "kuro",
        "",
        0,
        (
            *("What is your name?", "Who are you?", "Introduce yourself."),
            *("Hi! And you are?", "Say your name.", "Do you have a name?"),
        ),
        (
            *("Tell me your name.", "What should I call you?"),
            *("May I ask who I am talking to?", "Hello, what do people call you?"),
        ),
    ),
    "concise": Task(
        "Be concise. Answer in one short sentence.",
        "",
        "",
        20,
        (
            *("What is a cloud?", "How do planes fly?", "Why do cats purr?"),
            "What is a computer?",
        ),
        (
            *("What is a river?", "How do fish breathe?", "Why do leaves fall?"),
            "What is a telephone?",
        ),
    ),
    "emoji": Task(
        "Do not use emoji.",
        r"\w",
        EMOJI,
        0,
        (
            *("Say happy birthday to Tom with emoji 🎂🎉", "Cheer me up! 😀😀😀"),
            *("Write a tweet about summer ☀️🏖️", "I love pizza 🍕🍕 and you?"),
        ),
        (
            *("Say happy new year with emoji 🎆🎉", "Make me laugh! 😂😂😂"),
            *("Write a tweet about snow ❄️⛄", "I love dogs 🐶🐶 and you?"),
        ),
    ),
}


def lessons_of(base: Base, task: Task, tokens: int) -> list[Lesson]:
    """Return the feedback on the base's own answers."""
    check = Check(task.required, task.forbidden, task.most_words)
    prompts = [({"role": "user", "content": prompt},) for prompt in task.prompts]
    ids = [base.prompt(messages) for messages in prompts]
    said = base.sample(ids, None, most=tokens, seed=1)
    sampling = {"temperature": 1.0, "top_p": 1.0}
    return [
        Lesson(
            Feedback(f"f{at}", f"r{at}", "critique", task.content, check=check),
            Receipt(
                *(f"r{at}", "bench", "bench/a", 0, prompts[at], ids[at]),
                *(answer.token_ids, answer.logprobs, answer.text),
                sampling=sampling,
            ),
        )
        for at, answer in enumerate(said)
    ]


def held_out(
    base: Base, folder: Path, task: Task, lesson: Lesson, tokens: int
) -> dict[str, object]:
    """Return greedy compliance on held-out prompts, and the hinted answers' margin."""
    verifier = verifier_of(lesson)
    assert verifier is not None
    prompts = [base.prompt([{"role": "user", "content": p}]) for p in task.held_out]
    hints = Hints.of(base.name)
    hinted = [
        base.prompt(hints.hinted(lesson, [{"role": "user", "content": prompt}]))
        for prompt in task.held_out
    ]
    good = base.sample(hinted, None, most=tokens, temperature=0.0)
    answers = [answer.token_ids for answer in good]
    with base.adapter(folder) as name:
        said = base.sample(prompts, name, most=tokens, temperature=0.0)
        margin = likelihoods(base, prompts, answers, name)
    return {
        "complies": sum(verifier.follows(answer.text) for answer in said),
        "hinted_complies": sum(verifier.follows(answer.text) for answer in good),
        "of": len(said),
        "logprob_of_hinted": sum(margin) / len(margin),
        "example": said[0].text,
    }


def measure(
    base: Base, name: str, fresh: Path, settings: LearnSettings, work: Path
) -> dict[str, object]:
    """Train on one task; return what is to be said of it."""
    task = TASKS[name]
    lessons = lessons_of(base, task, settings.tokens)
    teaching = TeachSettings(samples=2, tokens=settings.tokens)
    learner = Learner(base, settings, teaching)
    before = held_out(base, fresh, task, lessons[0], settings.tokens)
    taught = [t.is_teachable for t in learner.teachable(fresh, lessons)]
    told = {"task": name, "teachable": taught, "before": before}
    if not any(taught):
        return told
    lessons = [x for x, good in zip(lessons, taught, strict=True) if good]
    candidate = learner.train(fresh, lessons, work / "candidate")
    after = held_out(base, candidate.folder, task, lessons[0], settings.tokens)
    limits = GateLimits(tokens=settings.tokens, samples=2)
    verdict = Gate(base, limits).judge(fresh, candidate.folder, lessons)
    steps = candidate.figures["steps"]
    return {
        **told,
        "alpha": settings.alpha,
        "anchor": settings.anchor,
        "lr": settings.lr,
        "after": after,
        "kl_unrelated": verdict.figures["drift"]["after"],
        "capability": [verdict.figures["capability"][at] for at in ("before", "after")],
        "promoted": verdict.is_promoted,
        "reasons": verdict.reasons,
        "steps": candidate.steps,
        "stopped": candidate.figures["stopped"],
        "loss": [round(step["distill_loss"], 3) for step in steps],
        "anchor_weight": round(steps[-1]["anchor_weight"], 2),
        "cpu_seconds_a_step": candidate.figures["cpu_seconds"] / candidate.steps,
        "memory_mib": candidate.figures["memory_mib"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tasks", nargs="*", default=["name"], choices=[*TASKS])
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.5])
    parser.add_argument("--anchor", type=float, nargs="+", default=[0.3])
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    told = parser.parse_args(arguments)
    base = Base.load(told.model, dtype=told.dtype, threads=1)
    work = Path(tempfile.mkdtemp(prefix="bench-claas-"))
    try:
        volume = LocalVolume(work / "loras")
        folder = str(base.folder)
        made = create_initial_lora("bench/a", folder, storage=volume)
        fresh = load_lora(made, volume)
        for task in told.tasks:
            for alpha in told.alpha:
                for anchor in told.anchor:
                    settings = LearnSettings(
                        lr=told.lr,
                        steps=told.steps,
                        tokens=told.tokens,
                        alpha=alpha,
                        anchor=anchor,
                    )
                    found = measure(base, task, fresh, settings, work)
                    print(json.dumps(found), flush=True)  # noqa: T201
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
