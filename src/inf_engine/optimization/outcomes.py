"""What a loss is given: the outcomes of runs, and what they should have been."""

from collections.abc import Iterable, Mapping
from typing import Any

from inf_engine.errors import (
    BudgetExceededError,
    ConfigurationError,
    EngineStateError,
    JournalError,
    UsageError,
)
from inf_engine.execution.batch import Result
from inf_engine.graph import InferenceGraph
from inf_engine.record import RunRecord

_NO_LIST = (str, bytes, Mapping)
_HOW = "run the module with engine.map(module, ..., record=True, errors='collect')."

NOT_THE_MODULE = (
    BudgetExceededError,
    ConfigurationError,
    EngineStateError,
    JournalError,
)
"""Errors that say nothing about what was run."""


def is_run(given: Any) -> bool:
    """Say whether it is a run: a `RunRecord` or a `Result`."""
    return isinstance(given, (RunRecord, Result))


def as_batch(records: Any, targets: Any) -> tuple[list[Any], list[Any]]:
    """Return the runs and the targets of a batch.

    Args:
        records: The runs.
        targets: What their outputs should be, None for none at all.

    Raises:
        UsageError: If they are no runs, or not one target for each.
    """
    if not isinstance(records, Iterable) or isinstance(records, _NO_LIST):
        raise UsageError(
            "a loss takes a RunRecord or a Result, or a list of them, not "
            f"{type(records).__name__}: {_HOW}"
        )
    runs = list(records)
    for place, run in enumerate(runs):
        if not is_run(run):
            raise UsageError(
                f"example {place} of a loss is a {type(run).__name__}, not a RunRecord "
                f"or a Result: {_HOW}"
            )
    if targets is None:
        return runs, [None] * len(runs)
    if not isinstance(targets, Iterable) or isinstance(targets, _NO_LIST):
        raise UsageError(
            f"a loss of {len(runs)} runs takes a list of targets, one for each, not "
            f"{type(targets).__name__}."
        )
    known = list(targets)
    if len(known) != len(runs):
        raise UsageError(
            f"a loss was given {len(runs)} runs and {len(known)} targets. Give one for "
            "each, None where it is not known."
        )
    return runs, known


def record_of(run: RunRecord | Result) -> RunRecord:
    """Return the record of a run; of a result without one, what is known."""
    if isinstance(run, RunRecord):
        return run
    if run.record is not None:
        return run.record
    known = run.output, run.error, InferenceGraph(), (), run.usage, run.seconds
    return RunRecord("", run.inputs, {}, *known)


def has_failed(record: RunRecord) -> bool:
    """Say whether the module failed; raise what is not about the module."""
    raise_unless_its_own(record.error)
    return record.error is not None


def raise_unless_its_own(error: BaseException | None) -> None:
    """Raise an error that is nobody's but the program's or the budget's.

    Args:
        error: Why a run failed, None if it did not.

    Raises:
        BaseException: The error, if it says nothing about what was run.
    """
    if isinstance(error, NOT_THE_MODULE):
        raise error
    if error is not None and not isinstance(error, Exception):
        raise error
