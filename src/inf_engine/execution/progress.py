"""`ProgressBar`: how far a `map` or `stream` is, as an observer of its events."""

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from inf_engine.execution.events import (
    Event,
    NodeFinished,
    NodeStarted,
    Observer,
    RunFinished,
    RunStarted,
)

_REDRAWS_PER_SECOND = 8


class ProgressBar:
    """A rich progress bar on stderr: inputs done, in flight, failed, per-alias tokens.

    Args:
        total: How many inputs there are, None if that is not known.
        console: A rich console; stderr if None.
    """

    wants_tokens = False

    def __init__(self, total: int | None, console: Any = None) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            refresh_per_second=_REDRAWS_PER_SECOND,
        )
        self._inputs = self._bar.add_task("inputs", total=total, note="")
        self._aliases: dict[str, Any] = {}
        self._counts: dict[str, _Counts] = {}
        self._alive = self._failed = 0

    @classmethod
    @contextmanager
    def shown(
        cls, wanted: bool | None, iterables: tuple[Any, ...]
    ) -> Generator[Sequence[Observer], None, None]:
        """Show a bar if it is wanted; give the observers that keep it up to date.

        Args:
            wanted: True, False, or None for where stderr is a terminal and there is
                more than one input.
            iterables: The inputs; their shortest length is the total.
        """
        if not (sys.stderr.isatty() if wanted is None else wanted):
            yield ()
            return
        lengths = [len(i) for i in iterables if hasattr(i, "__len__")]
        total = min(lengths, default=None)
        if wanted is None and total is not None and total < 2:
            yield ()
            return
        with cls(total) as bar:
            yield (bar,)

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._alive += 1
            self._note()
        elif isinstance(event, RunFinished):
            self._alive -= 1
            self._failed += event.error is not None
            self._bar.advance(self._inputs)
            self._note()
        elif isinstance(event, (NodeStarted, NodeFinished)) and event.alias:
            self._count(event.alias, event)

    def _note(self) -> None:
        failed = f", [red]{self._failed} failed[/red]" if self._failed else ""
        self._bar.update(self._inputs, note=f"{self._alive} in flight{failed}")

    def _count(self, alias: str, event: NodeStarted | NodeFinished) -> None:
        if alias not in self._aliases:
            self._aliases[alias] = self._bar.add_task(f"  {alias}", total=None, note="")
            self._counts[alias] = _Counts()
        counts = self._counts[alias]
        counts.add(event)
        self._bar.update(
            self._aliases[alias],
            completed=counts.done,
            total=counts.done + len(counts.running),
            note=f"{len(counts.running)} in flight, {counts.tokens:,} tokens",
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for task in self._aliases.values():
            self._bar.update(task, visible=True)
        self._bar.stop()


class _Counts:
    """The calls of one alias."""

    def __init__(self) -> None:
        self.done = 0
        self.tokens = 0
        self.running: set[tuple[int, str]] = set()

    def add(self, event: NodeStarted | NodeFinished) -> None:
        call = (event.run, event.node)
        if isinstance(event, NodeStarted):
            self.running.add(call)
        else:
            self.running.discard(call)
            self.done += 1
            self.tokens += event.usage.total_tokens
