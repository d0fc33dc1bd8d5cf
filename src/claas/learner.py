"""`Learner`: from lessons to a candidate.

    lesson: prompt x, feedback f, answer y

    a step   rows      the recorded answers first, then answers sampled now
             teacher   likeliest tokens at each place of y after (x with f as a hint)
             student   logits at each place of y after x, with gradients
             loss      SDPO(student, teacher) + weight * anchor
             AdamW     clipped; its state is kept in optimizer.safetensors

**π_old.** The importance ratio needs the log probabilities under the policy that
sampled. What a server reported is that only if it sampled at temperature 1 and cut
nothing off; else they are computed by the adapter as it stands. Answers sampled here
are at temperature 1.

**Guards.** A step that makes the loss NaN ends the update with `TeachingError`. Where
answers become empty, or all entropy goes, training stops early, and the gate decides.

One seed, one candidate, bit for bit (on one device, with one number of threads).
"""

import random
import resource
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from claas.anchor import Anchor
from claas.base import Base
from claas.errors import ConfigurationError, TeachingError
from claas.followers import EmaTeacher, RegionTeacher
from claas.hints import Hints
from claas.library import read_tensors, write_tensors
from claas.sdpo_loss import compute_sdpo_loss, sdpo_diagnostics
from claas.teacher import (
    Examiner,
    SelfTeacher,
    Teachability,
    Teacher,
    hinted_prompt,
    prompt_of,
    recorded,
)
from claas.tuning import LearnSettings, SelfTeaching, TeachSettings
from claas.types import Candidate, Lesson, Receipt

OPTIMIZER = "optimizer.safetensors"

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        **{"temperature": (1,), "top_p": (1,), "min_p": (0,), "top_k": (0, -1)},
        **{"typical_p": (1,), "repetition_penalty": (1,), "frequency_penalty": (0,)},
        **{"presence_penalty": (0,), "logit_bias": ({},), "tool_choice": ("auto",)},
    }
)
_HARMLESS = (
    *("max_tokens", "max_completion_tokens", "seed", "stop", "stop_token_ids"),
    *("skip_special_tokens", "spaces_between_special_tokens"),
)  # they end an answer, or say how it is written


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A lesson as tokens."""

    lesson: Lesson
    prompt: tuple[int, ...]
    hinted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Answered:
    """Answers to train on; old is None where it has to be computed."""

    sheets: Sequence[_Sheet]
    answers: Sequence[tuple[int, ...]]
    old: Sequence[tuple[float, ...] | None]
    is_sampled: bool


@dataclass(slots=True)
class _Progress:
    """What happened so far."""

    steps: list[dict[str, float]] = field(default_factory=list)
    stopped: str = ""


class Learner:
    """Trains candidates on a base model that stays loaded.

    Args:
        base: The model.
        settings: How to train.
        teaching: How to look whether a lesson can be taught.
        hints: The templates; None for those of the base's name.
        teacher: Who teaches; None for the base itself, without an adapter.
        self_teaching: With which weights the base teaches, in place of `teacher`,
            unless it says ``base``.
    """

    def __init__(
        self,
        base: Base,
        settings: LearnSettings | None = None,
        teaching: TeachSettings | None = None,
        hints: Hints | None = None,
        teacher: Teacher | None = None,
        *,
        self_teaching: SelfTeaching | None = None,
    ) -> None:
        self.base = base
        self.settings = settings or LearnSettings()
        self.teaching = teaching or TeachSettings()
        self.hints = hints or Hints.of(base.name)
        self.teacher = teacher or SelfTeacher(base)
        self.self_teaching = self_teaching or SelfTeaching()

    @contextmanager
    def teacher_for(
        self, adapter: Path | None, student: str | None
    ) -> Generator[Teacher, None, None]:
        """Hold who teaches an adapter.

        Args:
            adapter: The student as it was before the update, None for the base.
            student: What the base model calls the student, None for the base.

        Yields:
            The teacher.

        Raises:
            ConfigurationError: If the adapter does not fit.
        """
        how = self.self_teaching
        if how.kind == "base":
            yield self.teacher
        elif how.kind == "region":
            yield RegionTeacher(self.base, student, how.trust)
        else:
            with self.base.adapter(adapter) as copy:
                if how.kind == "pinned" or adapter is None or copy is None:
                    yield SelfTeacher(self.base, copy)
                else:
                    yield EmaTeacher(self.base, copy, adapter, how.ema_decay)

    def teachable(
        self,
        adapter: Path | None,
        lessons: Sequence[Lesson],
    ) -> list[Teachability]:
        """Return for each lesson whether the hinted model can do it itself.

        Args:
            adapter: The student in PEFT's files, None for the base.
            lessons: The lessons.

        Raises:
            ConfigurationError: If the adapter does not fit.
        """
        with (
            self.base.adapter(adapter) as name,
            self.teacher_for(adapter, name) as teacher,
        ):
            examiner = Examiner(self.base, teacher, self.hints)
            return examiner.examine(name, lessons, self.teaching)

    def untaught(
        self, adapter: Path | None, lessons: Sequence[Lesson]
    ) -> dict[str, str]:
        """Return why which lessons cannot be taught, by the feedback's id.

        One whose prompts the model cannot take would else stop all others with it.

        Args:
            adapter: The student in PEFT's files, None for the base.
            lessons: The lessons.

        Raises:
            ConfigurationError: If the adapter does not fit.
        """
        unfit = {x.feedback.id: self._unfit(x) for x in lessons}
        fit = [x for x in lessons if not unfit[x.feedback.id]]
        found = zip(fit, self.teachable(adapter, fit) if fit else (), strict=True)
        untaught = {x.feedback.id: t.reason for x, t in found if not t.is_teachable}
        return {name: why for name, why in unfit.items() if why} | untaught

    def _unfit(self, lesson: Lesson) -> str:
        """Return why the model cannot take the prompts of a lesson, empty if it can."""
        base, check = self.base, lesson.feedback.check
        try:
            prompts = [
                prompt_of(base, lesson),
                hinted_prompt(base, self.hints, lesson),
                *[base.encode(text) for text in (check.prompts if check else ())],
            ]
        except ConfigurationError as exc:
            return str(exc)
        longest = max(map(len, prompts)) + self.settings.tokens
        if longest <= base.positions:
            return ""
        return (
            f"with its hint and an answer it has {longest} tokens, and the model has "
            f"{base.positions} positions"
        )

    def train(self, adapter: Path, lessons: Sequence[Lesson], out: Path) -> Candidate:
        """Train an adapter on lessons.

        Args:
            adapter: PEFT's files, with the optimizer's state if there is one.
            lessons: What to learn; those that do not fit into the model are left out
                and named in the figures.
            out: Where the candidate is written.

        Raises:
            ConfigurationError: If there is no lesson, or the adapter does not fit.
            TeachingError: If no lesson fits into the model, or the loss is no number.
                Nothing is written then.
        """
        started, cpu = time.perf_counter(), time.process_time()
        with (
            self.base.adapter(adapter) as name,
            self.teacher_for(adapter, name) as teacher,
        ):
            assert name is not None
            sheets, left = self._sheets(lessons)
            run = _Run(self, teacher, name, sheets, adapter)
            run.train()
            self.base.save(name, out, like=adapter)
            write_tensors(out / OPTIMIZER, run.optimizer_state())
            teacher.save(out)
        steps = run.progress.steps
        figures = {
            "steps": steps,
            "stopped": run.progress.stopped,
            "left_out": left,
            "lessons": len(sheets),
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu,
            "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "settings": asdict(self.settings),
            "teacher": asdict(self.self_teaching),
        }
        return Candidate(out, figures, len(steps))

    def _sheets(self, lessons: Sequence[Lesson]) -> tuple[list[_Sheet], list[str]]:
        """Return the lessons as tokens, and the ids of those that do not fit."""
        if not lessons:
            raise ConfigurationError("there is no lesson to train on: give feedback.")
        sheets, left = [], []
        for lesson in lessons:
            if self._unfit(lesson):
                left.append(lesson.feedback.id)
                continue
            hinted = hinted_prompt(self.base, self.hints, lesson)
            sheets.append(_Sheet(lesson, prompt_of(self.base, lesson), hinted))
        if not sheets:
            raise TeachingError(
                f"none of {len(lessons)} lessons fits into the {self.base.positions} "
                f"positions of {self.base.name!r} with its hint and "
                f"{self.settings.tokens} tokens of an answer."
            )
        return sheets, left


class _Run:
    """One training."""

    def __init__(
        self,
        learner: Learner,
        teacher: Teacher,
        name: str,
        sheets: Sequence[_Sheet],
        folder: Path,
    ) -> None:
        self._teacher = teacher
        self._base = learner.base
        self._name = name
        self._sheets = sheets
        self._settings = settings = learner.settings
        self._chance = random.Random(settings.seed)
        self._parameters = self._base.parameters(name)
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            list(self._parameters.values()), settings.lr, weight_decay=settings.decay
        )
        self._resume(folder / OPTIMIZER)
        self._anchor = Anchor(
            self._base,
            settings.anchor_prompts,
            weight=settings.anchor,
            budget=settings.drift,
            tokens=settings.tokens,
            top_k=settings.top_k,
            rows=settings.anchor_rows,
            seed=settings.seed,
        )
        self._recorded = [s for s in sheets if recorded(self._base, s.lesson)]
        self._waiting: list[_Sheet] = []
        self.progress = _Progress()

    def train(self) -> None:
        """Make the steps."""
        settings = self._settings
        while len(self.progress.steps) < settings.steps and not self.progress.stopped:
            answered = self._answered()
            if not answered.answers:
                self.progress.stopped = "all sampled answers are empty"
            for _ in range(settings.passes):
                if self.progress.stopped or len(self.progress.steps) >= settings.steps:
                    return
                self._step(answered)

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """Return what AdamW remembers, by the parameters' names."""
        state = self._optimizer.state
        return {
            f"{name}/{moment}": state[parameter][moment]
            for name, parameter in self._parameters.items()
            for moment in _MOMENTS
            if parameter in state
        }

    def _resume(self, file: Path) -> None:
        """Go on with what AdamW remembered; a state of another adapter is refused."""
        if not file.is_file():
            return
        kept = read_tensors(file)
        for name, parameter in self._parameters.items():
            some = {moment: kept.get(f"{name}/{moment}") for moment in _MOMENTS}
            moments = [m for at, m in some.items() if at != "step"]
            if any(m is None or m.shape != parameter.shape for m in moments):
                raise ConfigurationError(
                    f"{file} is of another adapter ({name} does not fit): remove it "
                    "to begin with a fresh optimizer."
                )
            self._optimizer.state[parameter] = {
                at: m if at == "step" else m.to(parameter.device)
                for at, m in some.items()
                if m is not None
            }

    def _answered(self) -> _Answered:
        """Return the next answers to train on: recorded ones first, then new ones."""
        size, settings = self._settings.batch, self._settings
        if self._recorded:
            some, self._recorded = self._recorded[:size], self._recorded[size:]
            answers = [recorded(self._base, s.lesson)[: settings.tokens] for s in some]
            old = [_reported(s.lesson.receipt, settings.tokens) for s in some]
            return _Answered(some, answers, old, is_sampled=False)
        while len(self._waiting) < size:
            self._waiting += self._chance.sample(self._sheets, len(self._sheets))
        some, self._waiting = self._waiting[:size], self._waiting[size:]
        said = self._base.sample(
            [sheet.prompt for sheet in some],
            self._name,
            most=settings.tokens,
            seed=self._chance.getrandbits(32),
        )
        return _Answered(
            some,
            [answer.token_ids for answer in said],
            [answer.logprobs for answer in said],
            is_sampled=True,
        )

    def _step(self, answered: _Answered) -> None:
        """Make one step on some answers."""
        settings, base = self._settings, self._base
        rows = base.rows([s.prompt for s in answered.sheets], answered.answers)
        old = self._old(answered, rows.answers.shape[1]).to(base.device)
        tops = self._teacher.tops(
            [s.hinted for s in answered.sheets], answered.answers, settings.top_k
        )
        base_logprobs = base.logprobs(rows, None) if settings.kl_reg else None
        told: dict[str, Any] = {
            "teacher_logprobs": tops.logprobs.to(base.device),
            "teacher_indices": tops.indices.to(base.device),
            "response_mask": rows.mask,
            "response_ids": rows.answers,
        }
        logits = base.logits(rows, self._name)
        try:
            found = compute_sdpo_loss(
                student_logits=logits,
                old_student_logprobs=old,
                alpha=settings.alpha,
                base_logprobs=base_logprobs,
                is_clip=settings.is_clip,
                kl_reg_weight=settings.kl_reg,
                **told,
            )
        except ValueError as exc:
            raise TeachingError(
                f"training diverged at step {len(self.progress.steps)}: {exc} Lower "
                "the learning rate."
            ) from exc
        seen = sdpo_diagnostics(logits, **told)
        self._descend(found["loss"], logits)
        figures = {
            name: float(value.detach()) for name, value in {**found, **seen}.items()
        }
        figures["tokens"] = float(rows.mask.sum() / len(answered.answers))
        self._note(figures, answered.is_sampled)

    def _descend(self, loss: torch.Tensor, logits: torch.Tensor) -> None:
        """Take the gradient of the loss and of the anchor, and step."""
        self._optimizer.zero_grad()
        loss.backward()
        del logits
        anchored = self._anchor.loss(self._name)
        if anchored is not None:
            anchored.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            list(self._parameters.values()), self._settings.clip
        )
        if not bool(norm.isfinite()):
            raise TeachingError(
                f"training diverged at step {len(self.progress.steps)}: its gradient "
                "is no number. Lower the learning rate."
            )
        self._norm = float(norm)
        self._optimizer.step()
        self._teacher.follow(self._parameters)

    def _old(self, answered: _Answered, length: int) -> torch.Tensor:
        """Return log probabilities under the policy that sampled, [batch, answer]."""
        if any(old is None for old in answered.old):
            rows = self._base.rows(
                [s.prompt for s in answered.sheets], answered.answers
            )
            table = self._base.logprobs(rows, self._name)
        else:
            table = torch.zeros(len(answered.answers), length)
        for row, old in enumerate(answered.old):
            if old is not None:
                table[row, : len(old)] = torch.tensor(old)
        return table

    def _note(self, figures: dict[str, float], is_sampled: bool) -> None:
        """Take note of a step, and see whether to stop."""
        figures["anchor_kl"] = self._anchor.drift
        figures["anchor_weight"] = self._anchor.weight
        figures["gradient"] = self._norm
        figures["is_sampled"] = float(is_sampled)
        self.progress.steps.append(figures)
        sampled = [step for step in self.progress.steps if step["is_sampled"]]
        if not is_sampled or len(sampled) < 2:
            return
        first, settings = sampled[0], self._settings
        if figures["tokens"] < settings.least_tokens < first["tokens"]:
            self.progress.stopped = (
                f"answers shrank from {first['tokens']:.1f} to "
                f"{figures['tokens']:.1f} tokens"
            )
        elif figures["entropy"] < settings.least_entropy * first["entropy"]:
            self.progress.stopped = (
                f"entropy fell from {first['entropy']:.3f} to "
                f"{figures['entropy']:.3f} nats a token"
            )


def is_plain(sampling: dict[str, Any]) -> bool:
    """Say whether reported log probabilities are those of the policy itself.

    Args:
        sampling: The sampling settings of a request. A server's own default may be
            another temperature, so one that is not named does not count as 1; nor does
            a setting that is not known here count as harmless.
    """
    return sampling.get("temperature") == 1 and all(
        name in _HARMLESS or value is None or value in _NEUTRAL.get(name, ())
        for name, value in sampling.items()
    )


def _reported(receipt: Receipt, most: int) -> tuple[float, ...] | None:
    """Return what the server said of its own tokens, None if that is not the policy."""
    whole = receipt.token_ids and len(receipt.logprobs) == len(receipt.token_ids)
    if not whole or not is_plain(dict(receipt.sampling)):
        return None
    return receipt.logprobs[:most]
