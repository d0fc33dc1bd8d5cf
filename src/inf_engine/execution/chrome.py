"""Records as a Chrome trace: JSON that Perfetto and chrome://tracing open.

Each run is a process, named after its input; its first row is the run as a whole, and
the rows below hold its nodes. A node's bar begins when all it waited for was known; in
it lie the time in the queue and each request. Bars of one row never overlap: a node
that runs beside others gets the lowest row that is free.

No prompt, answer or error message is in a trace: names, counts and times only.
"""

import contextlib
import heapq
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from inf_engine.errors import UsageError
from inf_engine.record import NodeRecord, RunRecord
from inf_engine.types import Usage

_MICROSECONDS = 1e6

Event = dict[str, Any]


def chrome_trace(
    records: Iterable[RunRecord], began: Iterable[float] | None = None
) -> dict[str, Any]:
    """Return the trace of runs as the JSON value that Perfetto opens.

    Args:
        records: The runs.
        began: When each began, seconds on any clock; None for all at once.
    """
    starts = iter(began) if began is not None else None
    events: list[Event] = []
    for number, record in enumerate(records):
        start = 0.0 if starts is None else next(starts, 0.0)
        events += run_events(record, number, start)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_chrome_trace(
    records: Iterable[RunRecord],
    path: str | Path,
    began: Iterable[float] | None = None,
) -> Path:
    """Write the trace of runs to a file of mode 0600, one run at a time.

    Args:
        records: The runs; a generator will do.
        path: The file, e.g. ``trace.json``; it is replaced in one step.
        began: When each began, seconds on any clock; None for all at once.

    Returns:
        The path.

    Raises:
        UsageError: If the folder does not exist or cannot be written to.
    """
    starts = iter(began) if began is not None else None
    with ChromeTraceFile(path) as file:
        for number, record in enumerate(records):
            start = 0.0 if starts is None else next(starts, 0.0)
            file.add(record, number, start)
    return Path(path)


class ChromeTraceFile:
    """A trace that is written run by run; closing it gives it its name.

    Args:
        path: The file.

    Raises:
        UsageError: If the folder does not exist or cannot be written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._draft = self.path.parent / f".trace-{secrets.token_hex(6)}.tmp"
        self._first = True
        try:
            if self.path.is_dir():
                raise IsADirectoryError(21, "Is a directory")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            handle = os.open(self._draft, flags, 0o600)
        except OSError as exc:
            raise self._refused(exc) from exc
        self._file = os.fdopen(handle, "w", encoding="utf-8")
        self._file.write('{"displayTimeUnit": "ms", "traceEvents": [')

    def add(self, record: RunRecord, number: int, began: float = 0.0) -> None:
        """Write the events of a run.

        Args:
            record: The run.
            number: The number of its input.
            began: When it began, seconds on any clock.

        Raises:
            UsageError: If the disk is full.
        """
        try:
            for event in run_events(record, number, began):
                self._file.write("\n" if self._first else ",\n")
                self._file.write(json.dumps(event))
                self._first = False
        except OSError as exc:
            raise self._refused(exc) from exc

    def close(self) -> None:
        """End the file and put it in its place; twice is once.

        Raises:
            UsageError: If that is not possible.
        """
        if self._file.closed:
            return
        try:
            self._file.write("\n]}\n")
            self._file.close()
            os.replace(self._draft, self.path)
        except OSError as exc:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                os.unlink(self._draft)
            raise self._refused(exc) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _refused(self, exc: OSError) -> UsageError:
        return UsageError(
            f"cannot write the trace to {self.path}: {exc.strerror}. Give a file in a "
            "folder that exists and has room."
        )


def run_events(record: RunRecord, number: int, began: float = 0.0) -> Iterator[Event]:
    """Yield the events of one run.

    Args:
        record: The run.
        number: The number of its input, from 0.
        began: When it began, seconds on any clock.
    """
    process = number + 1
    name = f"input {number}: {record.module}"
    yield _named("process_name", process, 0, name=name)
    yield _named("process_sort_index", process, 0, sort_index=number)
    yield _named("thread_name", process, 0, name="run")
    facts = {"outcome": "done" if record.error is None else "failed"}
    yield {
        **_bar(record.module, "run", began, began + record.seconds),
        "pid": process,
        "tid": 0,
        "args": {**facts, **_spent(record.usage, record.cost)},
    }
    rows = 0
    for row, node in _in_rows(record.nodes):
        if row > rows:
            rows = row
            yield _named("thread_name", process, row, name=f"nodes {row}")
        for event in _node_events(node, began):
            yield {**event, "pid": process, "tid": row}


def _in_rows(nodes: Iterable[NodeRecord]) -> Iterator[tuple[int, NodeRecord]]:
    """Yield each node that has started, with the lowest row that is free for it."""
    started = [node for node in nodes if node.started is not None]
    started.sort(key=lambda node: (_span(node), node.node.index))
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    rows = 0
    for node in started:
        begin, end = _span(node)
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free:
            rows += 1
            free.append(rows)
        row = heapq.heappop(free)
        heapq.heappush(busy, (end, row))
        yield row, node


def _span(node: NodeRecord) -> tuple[float, float]:
    """Return when a node that has started was ready, and when it ended."""
    started = node.started or 0.0
    ready = started if node.ready is None else min(node.ready, started)
    return ready, started + node.seconds


def _node_events(node: NodeRecord, began: float) -> Iterator[Event]:
    """Yield the bar of a node, and what lies in it."""
    ready, end = _span(node)
    facts: Event = {"outcome": node.outcome, **_spent(node.usage, node.cost)}
    if node.alias is not None:
        facts["alias"] = node.alias
    if node.error is not None:
        facts["error"] = type(node.error).__name__
    bar = _bar(node.name, node.node.kind, began + ready, began + end)
    yield {**bar, "args": facts}
    for begin, seconds in node.waits:
        until = min(begin + seconds, end)
        yield _bar("queued", "queue", began + begin, began + until)
    for number, call in enumerate(node.calls, start=1):
        begin = min(max(call.started, ready), end)
        until = min(begin + call.seconds, end)
        bar = _bar(f"request {number}", "request", began + begin, began + until)
        told: Event = {}
        if call.response is not None:
            spent = _spent(call.response.usage, call.cost)
            told = {"model": call.response.model, **spent}
            told |= {} if call.reused is None else {"from": call.reused}
        elif call.error is not None:
            told = {"error": type(call.error).__name__}
        yield {**bar, "args": told}


def _bar(name: str, kind: str, begin: float, end: float) -> Event:
    """Return a bar; times in seconds, rounded so that what lies inside stays inside."""
    start = round(begin * _MICROSECONDS)
    until = round(end * _MICROSECONDS)
    return {"name": name, "cat": kind, "ph": "X", "ts": start, "dur": until - start}


def _named(what: str, process: int, row: int, **args: Any) -> Event:
    return {"name": what, "ph": "M", "pid": process, "tid": row, "args": args}


def _spent(usage: Usage, cost: float | None) -> Event:
    """Return tokens and, if it is known, the cost in USD."""
    spent: Event = {
        "requests": usage.requests,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
    }
    return spent if cost is None else {**spent, "usd": cost}
