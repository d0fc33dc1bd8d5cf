"""Logs of the command line: ``key=value`` lines on stderr, never a text of a prompt."""

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager

from inf_engine.execution.events import (
    Event,
    NodeFinished,
    NodeStarted,
    RunFinished,
    RunStarted,
)

logger = logging.getLogger("inf_engine")


@contextmanager
def logging_to_stderr(verbosity: int) -> Generator[None]:
    """Show the library's logs while the block runs.

    Args:
        verbosity: 0 for none, 1 for each input (INFO), 2 for each node too (DEBUG).
    """
    if not verbosity:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


class LogObserver:
    """Logs the events of an engine; the fields are in the record's ``extra`` too."""

    wants_tokens = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            _log(logging.DEBUG, "input_started", input=event.run)
        elif isinstance(event, NodeStarted):
            _log(
                logging.DEBUG,
                "node_started",
                input=event.run,
                node=event.node,
                alias=event.alias,
            )
        elif isinstance(event, NodeFinished):
            _ended(logging.DEBUG, "node_finished", event, event.node, event.alias)
        elif isinstance(event, RunFinished):
            _ended(logging.INFO, "input_finished", event, None, None)


def _ended(
    level: int,
    name: str,
    event: NodeFinished | RunFinished,
    node: str | None,
    alias: str | None,
) -> None:
    """Log the end of a node or an input."""
    error = None if event.error is None else type(event.error).__name__
    _log(
        logging.WARNING if error else level,
        name,
        input=event.run,
        node=node,
        alias=alias,
        seconds=round(event.seconds, 3),
        requests=event.usage.requests,
        tokens=event.usage.total_tokens,
        error=error,
    )


def _log(level: int, name: str, **fields: object) -> None:
    """Log a line of the fields that are known."""
    if not logger.isEnabledFor(level):
        return
    known = {key: value for key, value in fields.items() if value is not None}
    line = " ".join([f"event={name}", *(f"{k}={v}" for k, v in known.items())])
    logger.log(level, line, extra={"event": name, "fields": known})
