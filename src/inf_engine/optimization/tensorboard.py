"""`TensorBoard`: the curves of a training (`scalars.py`) in a folder that it reads.

The folder can be that of an earlier training.
"""

import os
from pathlib import Path
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.optimization.scalars import Scalars


class TensorBoard(Scalars):
    """Writes the scalars of a training: ``Trainer(..., callbacks=[TensorBoard(dir)])``.

    Args:
        folder: Where TensorBoard is to look, ``tensorboard --logdir folder``; it is
            made if it is not there.

    Raises:
        UsageError: If TensorBoard is not installed, or the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        self.folder = Path(folder)
        try:
            from tensorboard import summary  # noqa: PLC0415 # ty: ignore
        except ImportError as exc:
            raise UsageError(
                "TensorBoard(folder) needs the package tensorboard, which is not "
                "installed: pip install 'inf-engine[tensorboard]'. Without it, "
                "Trainer(..., out=folder) writes the curves into report.html."
            ) from exc
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise UsageError(
                f"cannot write for TensorBoard to {self.folder}: {exc.strerror}. Give "
                "a folder that can be written to."
            ) from exc
        self._make: Any = summary.Writer
        self._writer: Any = None

    def open(self) -> None:
        """Begin a file."""
        self._writer = self._make(str(self.folder))

    def write(self, tag: str, value: float, step: int) -> None:
        """Add a point to a curve.

        Args:
            tag: The curve.
            value: The number.
            step: How many rollouts there have been.
        """
        self._writer.add_scalar(tag, value, step=step)

    def flush(self) -> None:
        """Write what waits to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Finish the file; a training that has ended did so already."""
        super().close()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
