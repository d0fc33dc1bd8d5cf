"""`MLflow`: the scalars of a training, as a tracking server would get them.

MLflow itself is too heavy to install for a test; the stand-in has the part of its
documented interface that is used: `active_run`, `MlflowClient.log_batch`, `Metric`.
"""

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from tests.integration.scalar_helpers import Curve, check, fitted

from inf_engine import UsageError
from inf_engine.optimization import MLflow


class Metric(NamedTuple):
    """A point, as `mlflow.entities.Metric`; the timestamp is in milliseconds."""

    key: str
    value: float
    timestamp: int
    step: int


class Tracking:
    """What a tracking server knows of its runs; stands in for `MlflowClient`, too."""

    def __init__(self) -> None:
        self.active: str | None = "run-1"
        self.batches: list[tuple[str, list[Metric]]] = []
        self.is_down = False

    def log_batch(self, run_id: str, metrics: Any = ()) -> None:
        """Take the points of a run."""
        if self.is_down:
            raise ConnectionError("no route to the tracking server")
        self.batches.append((run_id, list(metrics)))

    def active_run(self) -> Any:
        """The run that is active, None if none is."""
        info = SimpleNamespace(run_id=self.active)
        return None if self.active is None else SimpleNamespace(info=info)

    @property
    def curves(self) -> dict[str, Curve]:
        """All points, by the name of the metric."""
        found: dict[str, Curve] = {}
        for _, metrics in self.batches:
            for metric in metrics:
                found.setdefault(metric.key, []).append((metric.step, metric.value))
        return found


@pytest.fixture
def tracking(monkeypatch: pytest.MonkeyPatch) -> Tracking:
    """Install the stand-in for the package."""
    server = Tracking()
    package, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    vars(package).update(active_run=server.active_run, MlflowClient=lambda: server)
    vars(entities).update(Metric=Metric)
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return server


def test_the_curves_of_a_training(tracking: Tracking) -> None:
    """Those of TensorBoard, in the active run; one request for each event."""
    result, seen = fitted(MLflow())
    check(tracking.curves, result, seen)
    assert {run_id for run_id, _ in tracking.batches} == {"run-1"}
    assert all(metrics for _, metrics in tracking.batches)
    assert len(tracking.batches) <= len(seen)
    stamps = [m.timestamp for _, metrics in tracking.batches for m in metrics]
    assert min(stamps) > 1_700_000_000_000


def test_a_run_can_be_named(tracking: Tracking) -> None:
    """It goes before the active one; without either it is refused, with the fix."""
    assert MLflow(run_id="other").run_id == "other"
    tracking.active = None
    assert MLflow(run_id="other").run_id == "other"
    with pytest.raises(UsageError, match=r"inside 'with mlflow.start_run\(\):'"):
        MLflow()


def test_a_server_that_is_down_costs_no_training(
    tracking: Tracking, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, as for every callback that fails."""
    caplog.set_level(logging.ERROR, "inf_engine")
    tracking.is_down = True
    result, _ = fitted(MLflow())
    assert result.score.mean > result.baseline.mean
    assert caplog.records


def test_without_the_package_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once, not in the middle of a training."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UsageError, match="inf-engine\\[mlflow\\]"):
        MLflow()
