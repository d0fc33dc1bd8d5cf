"""Teachers that follow their pupil from afar: a moving average, and a trust region.

SDPO ("Reinforcement Learning via Self-Distillation", arXiv:2601.20802) lets the model
that is trained teach itself, and regularises that teacher in one of two ways:

    ema      θ' ← decay · θ' + (1 - decay) · θ after each step; θ' teaches
    region   log q = (1 - trust) · log q_base + trust · log q_student + constant

Both read the hint. The moving average is of A and of B, each by itself, as anything
that averages LoRA weights does: the product of two averages is not the average of the
products. It begins as a copy of the adapter, and is kept with each version (`TEACHER`),
so it goes on over promotions, and a version that is made again makes the same one. The
second is a mixture in log space over the whole vocabulary, that is of the logits; the
reference is the base without an adapter, for good: it is the initial teacher.

In the authors' code (github.com/lasgroup/SDPO, pull request 4) both rates are
``teacher_update_rate``, 0.05 by default. Here, too: 1 - `ema_decay`, and `trust`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from claas.base import Base, Rows
from claas.errors import ConfigurationError
from claas.library import read_tensors, write_tensors
from claas.peft_files import TEACHER
from claas.teacher import SelfTeacher


class EmaTeacher(SelfTeacher):
    """The base with the moving average of the student's weights.

    Args:
        base: The model.
        copy: A copy of the student in it, which becomes the average.
        folder: Where the student was loaded from, with the average if there is one.
        decay: How much of the average a step leaves as it was.

    Raises:
        ConfigurationError: If the average is of another adapter.
    """

    def __init__(self, base: Base, copy: str, folder: Path, decay: float) -> None:
        super().__init__(base, copy)
        self._decay = decay
        self._average = base.parameters(copy)
        self._resume(folder / TEACHER)

    @torch.no_grad()
    def follow(self, student: Mapping[str, torch.Tensor]) -> None:
        """See `claas.teacher.Teacher`."""
        for name, mean in self._average.items():
            mean.mul_(self._decay).add_(student[name], alpha=1 - self._decay)

    def save(self, folder: Path) -> None:
        """See `claas.teacher.Teacher`."""
        write_tensors(folder / TEACHER, self._average)

    @torch.no_grad()
    def _resume(self, file: Path) -> None:
        """Go on with the average that was kept."""
        if not file.is_file():
            return
        kept = read_tensors(file)
        for name, mean in self._average.items():
            if name not in kept or kept[name].shape != mean.shape:
                raise ConfigurationError(
                    f"{file} is of another adapter ({name} does not fit): remove it "
                    "to begin with an average that is the adapter itself."
                )
            mean.copy_(kept[name])


class RegionTeacher(SelfTeacher):
    """The student as it is, held near the base.

    Where it answers, to show that it can, the base does: the mixture has no text.

    Args:
        base: The model.
        student: The adapter in training; None for the base.
        trust: The student's share of the log probabilities.
    """

    def __init__(self, base: Base, student: str | None, trust: float) -> None:
        super().__init__(base)
        self._student = student
        self._trust = trust

    def _logits(self, rows: Rows) -> torch.Tensor:
        """Return the mixture, but for a constant."""
        held = self._base.logits(rows, None)
        own = self._base.logits(rows, self._student)
        return torch.lerp(held, own, self._trust)
