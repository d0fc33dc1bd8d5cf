"""`ProgressDisplay`: how far the batches of an engine are, and what holds them up.

Nothing here is told of any event. Four times a second the loop looks: at the counts
that the batches keep anyway, at the ledger, and at the requests of the runs that are
alive. What it saw is a frozen `Picture`, and a thread of rich's draws that; a terminal
that does not take it holds up the thread, not the engine.

Batches of one engine that run at the same time share one display: the aliases are
shared as well. An alias's figures count from when the display appeared.
"""

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import astuple
from importlib.util import find_spec
from operator import sub
from typing import Any, NamedTuple, Protocol

from inf_engine.execution.waits import waits_for
from inf_engine.pages.markup import usd_text
from inf_engine.resources.job import JobState
from inf_engine.resources.statistics import EngineStatistics, Statistics

LOOKS_PER_SECOND = 4
MOST_TIME = 0.02  # the part of the loop's time that looking may take
RECENT = 30.0
MOST_ALIASES = 12
LEAST_NAME, LONGEST_NAME = 8, 24

_WAITING = (JobState.WAITING, JobState.PAUSED, JobState.FOLLOWING)


class Counted(Protocol):
    """A batch, as far as it is looked at."""

    @property
    def done(self) -> int:
        """How many inputs have ended."""
        ...

    @property
    def failed(self) -> int:
        """How many of these failed."""
        ...

    @property
    def alive(self) -> int:
        """How many inputs have begun and not ended."""
        ...


class InputsRow(NamedTuple):
    """How far one batch is.

    Args:
        done: Inputs that have ended.
        failed: Those of them that failed.
        in_flight: Inputs that have begun and not ended.
        total: How many there are, None if that is not known.
        seconds: Since it began.
        eta: Seconds that the rest will take, None if nothing tells yet.
    """

    done: int
    failed: int
    in_flight: int
    total: int | None
    seconds: float
    eta: float | None


class AliasRow(NamedTuple):
    """What one alias does.

    Args:
        name: The alias.
        spent: What was asked of it since the display appeared.
        in_flight: Requests that are on the wire.
        waiting: Requests that are not.
        waits: What they wait for, in words.
    """

    name: str
    spent: Statistics
    in_flight: int
    waiting: int
    waits: str


class Picture(NamedTuple):
    """What a look at the engine saw."""

    inputs: tuple[InputsRow, ...] = ()
    aliases: tuple[AliasRow, ...] = ()


class _Watched:
    """A batch that is shown.

    Args:
        batch: Its counts.
        total: How many inputs it has, None if that is not known.
        now: Seconds on the loop's clock.
    """

    def __init__(self, batch: Counted, total: int | None, now: float) -> None:
        self._batch = batch
        self._total = total
        self._began = now
        self._seen: deque[tuple[float, int]] = deque([(now, 0)])

    def row(self, now: float) -> InputsRow:
        """Return how far it is; remember it, because that tells the speed."""
        batch, seen = self._batch, self._seen
        seen.append((now, batch.done))
        while now - seen[0][0] > RECENT and len(seen) > 2:
            seen.popleft()
        eta = None if self._total is None else time_left(seen, self._total)
        seconds = now - self._began
        return InputsRow(
            batch.done, batch.failed, batch.alive, self._total, seconds, eta
        )


def time_left(seen: Sequence[tuple[float, int]], total: int) -> float | None:
    """Return the seconds that the rest will take at the recent speed, None if unknown.

    Args:
        seen: When how many inputs were done, oldest first.
        total: How many there are.
    """
    (since, before), (now, done) = seen[0], seen[-1]
    if done >= total:
        return 0.0
    return (total - done) * (now - since) / (done - before) if done > before else None


class ProgressDisplay:
    """Shows the batches of one engine while they run, on stderr.

    Args:
        wanted: True, False, or None for where stderr is a terminal and there is more
            than one input.
        books: Gives what was asked and spent until now.
        jobs: Gives the requests that runs wait for.
        console: A rich console; None for stderr.
    """

    def __init__(
        self,
        wanted: bool | None,
        books: Callable[[], EngineStatistics],
        jobs: Callable[[], Iterable[Any]],
        console: Any = None,
    ) -> None:
        self._wanted = wanted
        self._books = books
        self._jobs = jobs
        self._console = console
        self._batches: dict[_Watched, None] = {}
        self._screen: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._before: EngineStatistics | None = None
        self._picture = Picture()

    @contextlib.contextmanager
    def showing(
        self, batch: Counted, iterables: tuple[Any, ...]
    ) -> Generator[None, None, None]:
        """Show a batch, if that is wanted.

        Args:
            batch: Its counts.
            iterables: The inputs; their shortest length is the total.
        """
        lengths = [len(i) for i in iterables if hasattr(i, "__len__")]
        total = min(lengths, default=None)
        if not self._is_wanted(total):
            yield
            return
        loop = asyncio.get_running_loop()
        watched = _Watched(batch, total, loop.time())
        self._batches[watched] = None
        if self._screen is None:
            self._begin(loop)
        try:
            yield
        finally:
            if len(self._batches) == 1:
                self._end(loop)
            del self._batches[watched]

    def _is_wanted(self, total: int | None) -> bool:
        if self._wanted is not None:
            return self._wanted
        return _is_terminal(sys.stderr) and (total is None or total > 1)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._before = self._books()
        self._look(loop)
        self._screen = _Screen(lambda: self._picture, self._console)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._picture = self._seen(loop.time())
        screen, self._screen = self._screen, None
        screen.stop()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at the engine, now and every quarter of a second; rarer if it is big."""
        began = loop.time()
        self._picture = self._seen(began)
        pause = max(1 / LOOKS_PER_SECOND, (loop.time() - began) / MOST_TIME)
        self._timer = loop.call_later(pause, self._look, loop)

    def _seen(self, now: float) -> Picture:
        """Return what there is to see."""
        jobs: dict[str, list[Any]] = {}
        for job in self._jobs():
            jobs.setdefault(job.alias, []).append(job)
        books, before = self._books().by_alias, self._before
        rows = []
        for name in dict.fromkeys([*books, *jobs]):
            spent = books.get(name, Statistics())
            then = before.by_alias.get(name) if before else None
            since = spent if then is None else _difference(spent, then)
            row = _alias_row(name, since, spent.in_flight, jobs.get(name, ()), now)
            if row.in_flight or row.waiting or _answers(since) or since.tries:
                rows.append(row)
        inputs = tuple([watched.row(now) for watched in self._batches])
        return Picture(inputs, tuple(rows))


def _alias_row(
    name: str, spent: Statistics, in_flight: int, jobs: Sequence[Any], now: float
) -> AliasRow:
    waiting = sum(job.state in _WAITING for job in jobs)
    return AliasRow(name, spent, in_flight, waiting, waits_for(jobs, now))


def _difference(now: Statistics, before: Statistics) -> Statistics:
    """Return what was added to the books of an alias."""
    return Statistics(*map(sub, astuple(now), astuple(before)))


def _answers(spent: Statistics) -> int:
    """Return how many answers there were, sent for or not."""
    return spent.requests + spent.journal_hits + spent.cache_hits


def _is_terminal(stream: Any) -> bool:
    """Say whether a stream is a terminal; there may be none, and it may be closed."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


# -- drawing --------------------------------------------------------------------------

_HEADS = (
    *("", "done", "in flight", "waiting", "failed", "reused", "tokens", "cost"),
    "waits for",
)
_IF_ANY = ("failed", "reused", "waits for")


class _Screen:
    """Draws pictures until it is stopped.

    On what is no terminal it prints the last picture, without control characters. A
    user's prints stay on their own stream unless that is a terminal, too.

    Args:
        picture: Gives the newest.
        console: A rich console; None for stderr.
    """

    def __init__(self, picture: Callable[[], Picture], console: Any) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.live import Live  # noqa: PLC0415

        if console is None:
            widgets = None if find_spec("ipywidgets") else False  # of a notebook
            file: Any = _Stderr(sys.stderr)
            console = Console(file=file, force_jupyter=widgets)
        self._live = Live(
            console=console,
            refresh_per_second=LOOKS_PER_SECOND,
            redirect_stdout=_is_terminal(sys.stdout),
            get_renderable=lambda: drawn(picture()),
        )
        self._live.start()

    def stop(self) -> None:
        """Draw the last picture, and leave it there."""
        self._live.stop()


class _Stderr:
    """Standard error; what it cannot take is left out, and nobody is hurt.

    It may be missing, closed, or broken, and it may not know the signs of a bar.

    Args:
        stream: What stands there.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "ascii"

    def write(self, text: str) -> int:
        """Write a text as far as that goes."""
        known = text.encode(self.encoding, "replace").decode(self.encoding)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.write(known)
        return len(text)

    def flush(self) -> None:
        """Flush, if there is anything to."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Say whether it is a terminal."""
        return _is_terminal(self._stream)

    def fileno(self) -> int:
        """Return its number.

        Raises:
            OSError: If it has none.
        """
        if self._stream is None:
            raise OSError("there is no stderr")
        return self._stream.fileno()


def drawn(picture: Picture) -> Any:
    """Return a picture as rich draws it: a bar for each batch, and a table.

    Args:
        picture: What to draw.
    """
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    rows = [_inputs_cells(row, picture) for row in picture.inputs]
    rows += [_alias_cells(alias) for alias in picture.aliases[:MOST_ALIASES]]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    columns = []
    for head, cells in zip(_HEADS, zip(*rows, strict=True), strict=bool(rows)):
        if head in _IF_ANY and not any(cells):
            continue
        is_text = head in ("", "waits for")  # what gives way where it is narrow
        side: Any = "left" if is_text else "right"
        least = None if head else LEAST_NAME
        table.add_column(head, justify=side, no_wrap=not is_text, min_width=least)
        columns.append([Text(c, no_wrap=True, overflow="ellipsis") for c in cells])
    for cells in zip(*columns, strict=True):
        table.add_row(*cells)
    left = len(picture.aliases) - MOST_ALIASES
    more = [Text(f"  and {left:,} more aliases")] if left > 0 else []
    return Group(*[_bar(row) for row in picture.inputs], table, *more)


def _bar(row: InputsRow) -> Any:
    """Return the bar of a batch, with its times."""
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    words = [_clock(row.seconds)]
    if row.total:
        words.insert(0, f"{100 * row.done // row.total}%")
    if row.eta:
        words.append(f"ETA {_clock(row.eta)}")
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    total = max(row.total or 0, row.done, 1)
    bar = ProgressBar(total, row.done, pulse=row.total is None and row.in_flight > 0)
    grid.add_row(bar, "  ".join(words))
    return grid


def _inputs_cells(row: InputsRow, picture: Picture) -> tuple[str, ...]:
    """Return the cells of a batch; one alone has spent all that was spent."""
    done, waiting = f"{row.done:,}", ""
    if row.total is not None:
        done += f"/{row.total:,}"
        waiting = f"{max(0, row.total - row.done - row.in_flight):,}"
    tokens = cost = ""
    if len(picture.inputs) == 1:
        spent = sum([alias.spent for alias in picture.aliases], Statistics())
        tokens, cost = f"{spent.usage.total_tokens:,}", _cost(spent)
    failed = _if_any(row.failed)
    return "inputs", done, f"{row.in_flight:,}", waiting, failed, "", tokens, cost, ""


def _alias_cells(row: AliasRow) -> tuple[str, ...]:
    spent = row.spent
    return (
        f"  {row.name[:LONGEST_NAME]}",
        *(f"{_answers(spent):,}", f"{row.in_flight:,}", f"{row.waiting:,}"),
        _if_any(spent.failures + spent.unknown),
        _if_any(spent.journal_hits + spent.cache_hits),
        *(f"{spent.usage.total_tokens:,}", _cost(spent)),
        row.waits,
    )


def _if_any(count: int) -> str:
    return f"{count:,}" if count else ""


def _cost(spent: Statistics) -> str:
    """Return what was spent; ``?`` if no price is known, ``+`` if not all are."""
    if not spent.unpriced:
        return usd_text(max(0.0, spent.cost))
    return f"{usd_text(spent.cost)}+" if spent.cost > 0 else "?"


def _clock(seconds: float) -> str:
    """Return a time as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
