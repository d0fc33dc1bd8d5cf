"""`RemoteTeaching`: a learner and a gate in another container, asked by `Ask`.

Lessons and the folders of adapters go there, verdicts and candidates come back; neither
side needs the other's database. A folder is a place on the volume that both see; a
candidate comes back as its files, so that one side only writes there.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from claas.errors import ClaasError, ServingError
from claas.parts import Teaching
from claas.types import Candidate, Lesson, TokenRow, Verdict
from claas.volumes import modal_library, told

Ask = Callable[..., Any]
"""``ask(what, *given)``: what `answered` returns for it, wherever that is done."""


@dataclass(frozen=True, slots=True)
class RemoteTeaching:
    """The learner and the gate of a worker, in one.

    Args:
        ask: Asks the other side.
    """

    ask: Ask

    def untaught(self, adapter: Path, lessons: Sequence[Lesson]) -> Mapping[str, str]:
        """Return why which lessons cannot be taught, by the feedback's id.

        Args:
            adapter: Its folder on the volume.
            lessons: What would be taught.

        Raises:
            ServingError: If Modal does not answer.
        """
        return self._asked("untaught", adapter, tuple(lessons))

    def train(self, adapter: Path, lessons: Sequence[Lesson], out: Path) -> Candidate:
        """Train an adapter on lessons; write what comes of it into a folder.

        Args:
            adapter: Its folder on the volume.
            lessons: What to learn.
            out: A folder here.

        Raises:
            ServingError: If Modal does not answer.
            StorageError: If the candidate cannot be written.
        """
        candidate, files = self._asked("train", adapter, tuple(lessons))
        with told(f"write a candidate to {out}"):
            for name, data in files.items():
                (out / name).write_bytes(data)
        return replace(candidate, folder=out)

    def judge(
        self,
        before: Path,
        after: Path,
        lessons: Sequence[Lesson],
        probes: Sequence[Lesson],
    ) -> Verdict:
        """Judge a candidate.

        Args:
            before: The folder of what serves, on the volume.
            after: The candidate's.
            lessons: What it was trained on.
            probes: The lessons of earlier updates.

        Raises:
            ServingError: If Modal does not answer.
        """
        return self._asked("judge", before, after, tuple(lessons), tuple(probes))

    def explain(self, adapter: Path, lesson: Lesson) -> Sequence[TokenRow]:
        """Return what a feedback pushes, token by token of its answer.

        Args:
            adapter: The student's folder on the volume.
            lesson: The feedback and its answer.

        Raises:
            ServingError: If Modal does not answer.
        """
        return self._asked("explain", adapter, lesson)

    def _asked(self, what: str, *given: Any) -> Any:
        """Ask, and tell errors of Modal from those of the other side."""
        try:
            return self.ask(what, *given)
        except ClaasError:
            raise
        except modal_library().Error as exc:  # its words may be another's
            raise ServingError(
                f"the training function on Modal did not answer "
                f"({type(exc).__name__}): see its log there. The update goes on with "
                "the next one of this adapter."
            ) from exc


def answered(teaching: Teaching, what: str, given: Sequence[Any]) -> Any:
    """Do what `RemoteTeaching` asks for.

    Adapters are copied first: a volume with open files cannot be refreshed, and whoever
    loads tensors may hold their file for longer.

    Args:
        teaching: The learner and the gate.
        what: ``untaught``, ``train``, ``judge`` or ``explain``.
        given: The arguments of that method.

    Returns:
        What it returns; of a training the candidate and its files, by name.
    """
    with tempfile.TemporaryDirectory(prefix="claas-") as scratch:
        near = [_near(one, Path(scratch, f"{n}")) for n, one in enumerate(given)]
        if what == "untaught":
            return dict(teaching.learner.untaught(*near))
        if what == "explain":
            return list(teaching.explain(*near))
        if what == "judge":
            return teaching.gate.judge(*near)
        out = Path(scratch, "out")
        out.mkdir()
        candidate = teaching.learner.train(*near, out)
        return replace(candidate, folder=Path()), {
            file.name: file.read_bytes() for file in sorted(candidate.folder.iterdir())
        }


def _near(given: Any, place: Path) -> Any:
    """Return a copy of a folder, and all else as it is."""
    if not isinstance(given, Path):
        return given
    with told(f"read the adapter {given}"):
        return shutil.copytree(given, place)
