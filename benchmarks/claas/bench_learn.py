"""What SmolLM2-135M learns from a feedback: compliance, drift, time, memory.

    python benchmarks/claas/bench_learn.py                       # name, α = 0, anchor
    python benchmarks/claas/bench_learn.py name concise --alpha 0 0.5 1 --anchor 0 0.3
    python benchmarks/claas/bench_learn.py --loss sampled no-tail sft sft-written
    python benchmarks/claas/bench_learn.py --look                # what can be taught

All combinations are run, one after the other. A run prints a row of a table, and adds a
line of JSON to ``--out``. It takes minutes of CPU: 20 steps of 4 answers. Held-out
prompts are never trained on. CPU-seconds are of one thread.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import claas.learner  # noqa: E402
from benchmarks.claas.contrasts import (  # noqa: E402
    LOSSES,
    LiveTeacher,
    Loss,
    SampledTeacher,
)
from benchmarks.claas.ruler import Ruler  # noqa: E402
from benchmarks.claas.tasks import TASKS, lesson_of, lessons_of  # noqa: E402
from claas.base import Base, Sampled  # noqa: E402
from claas.gate import Gate, GateLimits  # noqa: E402
from claas.learner import Learner, LearnSettings  # noqa: E402
from claas.storage import create_initial_lora, load_lora  # noqa: E402
from claas.teacher import SelfTeacher, Teacher, TeachSettings  # noqa: E402
from claas.tuning import Kind, SelfTeaching  # noqa: E402
from claas.types import Candidate, Lesson  # noqa: E402
from claas.volumes import LocalVolume  # noqa: E402

TEACHERS = ("base", "refreshed", "live", "ema", "region")


@dataclass(frozen=True, slots=True)
class Setting:
    """A run.

    Args:
        task: What to learn.
        loss: One of `LOSSES`.
        teacher: The base, the base and after half of the steps what they made
            (a promotion), the adapter itself at each step, the average of its
            weights, or it held near the base.
        alpha: See `LearnSettings`, as the others.
        anchor: The anchor's weight at first.
        drift: The KL that it holds.
        lr: The learning rate.
        top_k: The teacher's tokens.
        seed: Of all chance.
        steps: Inner steps.
    """

    task: str
    loss: str
    teacher: str
    alpha: float
    anchor: float
    drift: float
    lr: float
    top_k: int
    seed: int
    steps: int

    def learning(self) -> LearnSettings:
        """Return how claas calls it."""
        own = {k: v for k, v in asdict(self).items() if k not in _OURS}
        return LearnSettings(**own, tokens=TASKS[self.task].tokens)

    def words(self) -> str:
        """Return what is not as by default."""
        told = [f"α {self.alpha:g}"] if self.loss in ("sdpo", "no-tail") else []
        told += [self.loss] if self.loss != "sdpo" else []
        told += [f"teacher {self.teacher}"] if self.teacher != "base" else []
        told += [f"K {self.top_k}"] if self.top_k != 100 else []
        told += [f"anchor {self.anchor:g}"] if self.anchor != 0.3 else []
        told += [f"budget {self.drift:g}"] if self.drift != 0.05 else []
        told += [f"rate {self.lr:g}"] if self.lr != 1e-3 else []
        told += [f"{self.steps} steps"] if self.steps != 20 else []
        told += [f"seed {self.seed}"] if self.seed else []
        return ", ".join([self.task, *told])


_OURS = ("task", "loss", "teacher")
HEAD = (
    "| run | held out, greedy | sampled | margin | KL | small questions | anchor "
    "| gate | CPU-s a step |\n|---|---|---|---|---|---|---|---|---|"
)


class Bench:
    """Runs settings on a model that stays loaded.

    Args:
        base: The model.
        fresh: An adapter that was never trained.
        work: A folder for what is made.
        is_gated: Whether the gate is asked, too.
    """

    def __init__(self, base: Base, fresh: Path, work: Path, is_gated: bool) -> None:
        self._base = base
        self._fresh = fresh
        self._work = work
        self._is_gated = is_gated
        self._rulers: dict[str, Ruler] = {}
        self._taught: dict[tuple[str, int], list[Lesson]] = {}

    def ruler(self, task: str) -> Ruler:
        """Return what measures a task's adapters."""
        if task not in self._rulers:
            self._rulers[task] = Ruler(self._base, TASKS[task])
        return self._rulers[task]

    def run(self, setting: Setting) -> dict[str, Any]:
        """Train, and return what is to be said of it."""
        ruler, lessons = self.ruler(setting.task), self.taught(setting)
        told = {**asdict(setting), "taught": len(lessons), "of": ruler.of}
        told |= {"before": asdict(ruler.before)}
        told |= {"hinted": sum(ruler.follows(ruler.hinted))}
        if not lessons:
            return told
        candidate = self.train(setting, lessons)
        steps = candidate.figures["steps"]
        told |= {
            "after": asdict(ruler.look(candidate.folder)),
            "stopped": candidate.figures["stopped"],
            "losses": [round(step["distill_loss"], 4) for step in steps],
            "anchor_kl": [round(step["anchor_kl"], 4) for step in steps],
            "anchor_weights": [round(step["anchor_weight"], 3) for step in steps],
            "cpu_seconds": round(candidate.figures["cpu_seconds"], 1),
            "memory_mib": round(candidate.figures["memory_mib"]),
        }
        if self._is_gated:
            limits = GateLimits(tokens=TASKS[setting.task].tokens, samples=4)
            gate = Gate(self._base, limits)
            verdict = gate.judge(self._fresh, candidate.folder, lessons)
            told |= {"promoted": verdict.is_promoted, "reasons": verdict.reasons}
        return told

    def taught(self, setting: Setting) -> list[Lesson]:
        """Return the feedback that the hinted model can follow itself."""
        key = (setting.task, setting.seed)
        if key not in self._taught:
            task = TASKS[setting.task]
            lessons = lessons_of(self._base, task, seed=setting.seed + 1)
            learner = Learner(self._base, teaching=TeachSettings(tokens=task.tokens))
            untaught = learner.untaught(self._fresh, lessons)
            self._taught[key] = [x for x in lessons if x.feedback.id not in untaught]
        return self._taught[key]

    def train(self, setting: Setting, lessons: list[Lesson]) -> Candidate:
        """Return the candidate of a setting."""
        if setting.teacher == "refreshed":
            return self._in_two(setting, lessons)
        if setting.loss.startswith("sft"):
            right = self.corrected(setting, lessons)
            lessons = [right[at % len(right)] for at in range(4 * setting.steps)]
        teacher = self._teacher(setting)
        kinds: dict[str, Kind] = {"ema": "ema", "region": "region"}
        kind = kinds.get(setting.teacher, "base")
        how = SelfTeaching(kind=kind if teacher is None else "base")
        learner = Learner(
            self._base, setting.learning(), teacher=teacher, self_teaching=how
        )
        with trained_by(LOSSES[setting.loss]):
            return learner.train(self._fresh, lessons, self._work / "candidate")

    def corrected(self, setting: Setting, lessons: list[Lesson]) -> list[Lesson]:
        """Return the lessons with right answers: the hinted model's, or written ones.

        Of the hinted model's the greedy one is taken, or the first sample that follows.
        """
        task, ruler = TASKS[setting.task], self.ruler(setting.task)
        found = []
        for lesson in lessons:
            at = int(lesson.feedback.id[1:])
            text = task.written[at]
            ids = (*self._base.encode(text), self._base.end)
            right = [Sampled(ids, (), text)]
            if setting.loss == "sft":
                hinted = ruler.read(task.prompts[at : at + 1])
                right = ruler.say(hinted, None, 0.0) + ruler.say(hinted * 8, None, 0.7)
            good = zip(right, ruler.follows(right), strict=True)
            said = next(answer for answer, follows in good if follows)
            found.append(lesson_of(task, at, lesson.receipt.prompt_ids, said))
        return found

    def _teacher(self, setting: Setting) -> Teacher | None:
        """Return who teaches; None for the base."""
        if setting.loss == "sampled":
            return SampledTeacher(self._base)
        if setting.loss.startswith("sft"):
            return SampledTeacher(self._base, is_asked=False)
        return LiveTeacher(self._base) if setting.teacher == "live" else None

    def _in_two(self, setting: Setting, lessons: list[Lesson]) -> Candidate:
        """Train twice; the second time on new answers, taught by the first adapter."""
        half = replace(setting.learning(), steps=setting.steps // 2)
        first = Learner(self._base, half).train(
            self._fresh, lessons, self._work / "first"
        )
        kept = {lesson.feedback.id for lesson in lessons}
        task = TASKS[setting.task]
        again = lessons_of(self._base, task, setting.seed + 2, first.folder)
        again = [lesson for lesson in again if lesson.feedback.id in kept]
        with self._base.adapter(first.folder) as pinned:
            teacher = SelfTeacher(self._base, pinned)
            learner = Learner(
                self._base, replace(half, seed=setting.seed + 1), teacher=teacher
            )
            second = learner.train(first.folder, again, self._work / "second")
        figures = dict(second.figures)
        for name in ("steps", "cpu_seconds"):
            figures[name] = first.figures[name] + second.figures[name]
        return replace(second, figures=figures)

    def look(self, name: str) -> None:
        """Print which prompts of a task can be taught, and what is said to them."""
        task, ruler = TASKS[name], self.ruler(name)
        for words in (task.prompts, task.held_out):
            plain = [self._base.prompt([{"role": "user", "content": w}]) for w in words]
            for prompt, *pair in zip(words, plain, ruler.read(words), strict=True):
                said = [ruler.say([ids] * 4, None, 0.7) for ids in pair]
                counts = [sum(ruler.follows(some)) for some in said]
                print(f"{name}: {counts[0]}/4 plain, {counts[1]}/4 hinted: {prompt}")
                for some in said:
                    print(f"    {some[0].text!r}", flush=True)


@contextmanager
def trained_by(loss: Loss) -> Generator[None]:
    """Put another loss in the place of the learner's; the anchor keeps its own."""
    own = claas.learner.compute_sdpo_loss
    claas.learner.compute_sdpo_loss = loss  # ty: ignore[invalid-assignment]
    try:
        yield
    finally:
        claas.learner.compute_sdpo_loss = own


def row(setting: Setting, told: dict[str, Any]) -> str:
    """Return a run as a row of a table."""
    if "after" not in told:
        return f"| {setting.words()} | no prompt can be taught |"
    old, new, of = told["before"], told["after"], told["of"]
    gate = {True: "promoted", False: "rejected", None: "not asked"}
    cells = [
        setting.words(),
        f"{old['greedy']} → {new['greedy']} of {of}",
        f"{old['sampled']:.0%} → {new['sampled']:.0%}",
        f"{old['margin']:+.2f} → {new['margin']:+.2f}",
        f"{new['kl']:.3f}",
        f"{old['capability']} → {new['capability']} of 8",
        f"{told['anchor_weights'][-1]:.2f}",
        gate[told.get("promoted")],
        f"{told['cpu_seconds'] / len(told['losses']):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def settings_of(told: argparse.Namespace) -> list[Setting]:
    """Return all combinations of what the command line names."""
    names = ("tasks", "loss", "teacher", "alpha", "anchor", "drift", "lr", "top_k")
    grid = product(*(getattr(told, name) for name in (*names, "seed")))
    return [Setting(*some, steps=told.steps) for some in grid]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}: name")
    parser.add_argument("--loss", nargs="+", default=["sdpo"], choices=[*LOSSES])
    parser.add_argument("--teacher", nargs="+", default=["base"], choices=TEACHERS)
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.0])
    parser.add_argument("--anchor", type=float, nargs="+", default=[0.3])
    parser.add_argument("--drift", type=float, nargs="+", default=[0.05])
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--top-k", type=int, nargs="+", default=[100])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--gate", action="store_true", help="ask the gate, too")
    parser.add_argument("--look", action="store_true", help="only what can be taught")
    parser.add_argument("--out", type=Path, help="a file that gets lines of JSON")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    told = parser.parse_args(arguments)
    told.tasks = told.tasks or ["name"]
    if strange := set(told.tasks) - set(TASKS):
        parser.error(f"there is no task {sorted(strange)}: {', '.join(TASKS)}.")
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line names."""
    told = parsed(arguments)
    base = Base.load(told.model, dtype=told.dtype, threads=1)
    work = Path(tempfile.mkdtemp(prefix="bench-claas-"))
    try:
        volume = LocalVolume(work / "loras")
        made = create_initial_lora("bench/a", base.folder, storage=volume)
        bench = Bench(base, load_lora(made, volume), work, told.gate)
        if told.look:
            for task in told.tasks:
                bench.look(task)
            return
        print(HEAD, flush=True)
        for setting in settings_of(told):
            found = bench.run(setting)
            print(row(setting, found), flush=True)
            if told.out:
                with told.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found, ensure_ascii=False) + "\n")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
