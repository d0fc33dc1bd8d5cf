"""`MLflow`: the curves of a training (`scalars.py`) as metrics of an MLflow run.

The run is the user's: who began it (`mlflow.start_run`) names it and ends it. The
numbers go by the run's id, so it does not matter in which thread the training is; those
of one event go together, in one request to the tracking server.
"""

import time
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.optimization.scalars import Scalars


class MLflow(Scalars):
    """Writes the scalars of a training: ``Trainer(..., callbacks=[MLflow()])``.

    Args:
        run_id: The run to write to, None for the one that is active where this is made.

    Raises:
        UsageError: If MLflow is not installed, or no run is given and none is active.
    """

    def __init__(self, run_id: str | None = None) -> None:
        super().__init__()
        try:
            import mlflow  # noqa: PLC0415 # ty: ignore
            from mlflow.entities import Metric  # noqa: PLC0415 # ty: ignore
        except ImportError as exc:
            raise UsageError(
                "MLflow() needs the package mlflow, which is not installed: pip "
                "install 'inf-engine[mlflow]'. Without it, Trainer(..., "
                "out=folder) writes the curves into report.html."
            ) from exc
        active = mlflow.active_run()
        if run_id is None and active is None:
            raise UsageError(
                "MLflow() found no active run. Make it inside 'with "
                "mlflow.start_run():', or give MLflow(run_id=...)."
            )
        self.run_id: str = run_id or active.info.run_id
        self._client: Any = mlflow.MlflowClient()
        self._metric: Any = Metric
        self._waiting: list[Any] = []

    def write(self, tag: str, value: float, step: int) -> None:
        """Take a number, to be sent with the others of its event.

        Args:
            tag: The name of the metric.
            value: The number.
            step: How many rollouts there have been.
        """
        now = int(time.time() * 1000)
        self._waiting.append(self._metric(tag, value, now, step))

    def flush(self) -> None:
        """Send what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._client.log_batch(self.run_id, metrics=waiting)
