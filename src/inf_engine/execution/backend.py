"""`Backend`: where the inputs of a `map` or a `stream` run, if not in this process."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from inf_engine.execution.batch import Result
from inf_engine.execution.progress import Counted
from inf_engine.execution.recall import Identity
from inf_engine.execution.scheduler import Scheduler
from inf_engine.execution.settings import ExecutionSettings


class Spread(Counted, Protocol):
    """Many inputs, run somewhere else."""

    def results(self) -> AsyncGenerator[Result, None]:
        """Yield a result for each input, as `Batch.results` does."""
        ...


class Backend(Protocol):
    """Runs the inputs of a `map` or a `stream`, e.g. `inf_engine.scale.RayBackend`."""

    def batch(
        self,
        scheduler: Scheduler,
        module: Any,
        iterables: tuple[Any, ...],
        settings: ExecutionSettings,
        *,
        ordered: bool,
        record: bool,
        identity: Identity | None,
    ) -> Spread:
        """Return the inputs, ready to run; nothing is pulled before results are.

        Args:
            scheduler: That of the engine, with its resources and its memory.
            module: The module.
            iterables: Inputs, zipped.
            settings: How each input is run.
            ordered: Whether results come in input order.
            record: Whether results carry records.
            identity: What stands for an input in the journal.

        Raises:
            InfEngineError: If it cannot run there.
        """
        ...
