"""``inf-engine run``: a module over a file of inputs.

Nothing is sent before all lines are read and found good. With a journal, running the
same command again is how to go on: what was answered is in the journal and is not
called again, and the outputs are written anew, whole.

Ctrl-C or SIGTERM once: no more inputs are pulled, those in flight are finished and
written. Twice: those in flight are cancelled. Both leave the outputs in
``OUT.partial``.
"""

import argparse
import asyncio
import contextlib
import shlex
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inf_engine.cli.console import say
from inf_engine.cli.inputs import InputFile
from inf_engine.cli.interrupts import Interrupts
from inf_engine.cli.logs import LogObserver
from inf_engine.cli.outputs import OutputFile, same_file
from inf_engine.cli.summary import counted, summary
from inf_engine.cli.target import load_module
from inf_engine.errors import JournalError, UsageError
from inf_engine.execution.batch import Result
from inf_engine.execution.chrome import ChromeTraceFile
from inf_engine.execution.engine import Engine
from inf_engine.execution.events import Event, RunStarted
from inf_engine.execution.lines import CallShape, kind_of, line_of
from inf_engine.module import InferenceModule
from inf_engine.resources.budget import Budget
from inf_engine.resources.statistics import Statistics


def run(args: argparse.Namespace) -> int:
    """Run a module over a file of inputs; return the exit code.

    Args:
        args: The parsed command line; `command` is how to say it again.

    Raises:
        InfEngineError: If something is wrong that is no failure of an input.
    """
    module = load_module(args.target, args.set)
    inputs = InputFile(args.inputs, CallShape(module, Path(args.inputs).parent))
    inputs.check()
    _check_names(args)
    options = _engine_options(args)
    with contextlib.ExitStack() as stack:
        outputs = OutputFile(args.out, keep_partial=args.journal is None)
        stack.callback(outputs.close)
        trace = None
        if args.trace is not None:
            trace = stack.enter_context(ChromeTraceFile(args.trace))
        batch = _CommandBatch(args, module, inputs, outputs, trace)
        try:
            asyncio.run(batch.run(options))
        finally:
            batch.tell_end()
    return batch.exit_code


@dataclass
class _State:
    """How far a batch of the command line is."""

    began: float
    ended: int = 0
    is_over: bool = False
    lost: JournalError | None = None
    spent: Statistics = Statistics()


class _CommandBatch:
    """One run of the command.

    Args:
        args: The parsed command line.
        module: What to run.
        inputs: Its inputs, checked.
        outputs: Where the lines go.
        trace: Where the records go, None for nowhere.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        module: InferenceModule,
        inputs: InputFile,
        outputs: OutputFile,
        trace: ChromeTraceFile | None,
    ) -> None:
        self._args = args
        self._module = module
        self._inputs = inputs
        self._outputs = outputs
        self._trace = trace
        self._starts = _Starts()
        self._failed: Counter[str] = Counter()
        self._interrupts: Interrupts | None = None
        self._state = _State(time.monotonic())

    async def run(self, options: dict[str, Any]) -> None:
        """Run all inputs, or until a signal.

        Args:
            options: The keyword arguments of the engine.

        Raises:
            InfEngineError: If nothing can be run, or nothing can be written.
        """
        if self._trace is not None:
            options["observers"] = [*options["observers"], self._starts]
        async with Engine(self._args.resources, **options) as engine:
            work = asyncio.ensure_future(self._all(engine))
            with Interrupts(self._stop, work.cancel) as self._interrupts:
                await asyncio.wait([work])
            self._state.spent = engine.statistics().total
            if not work.cancelled():
                work.result()
        if self._state.lost is not None:
            raise self._state.lost
        if self._state.is_over:
            self._outputs.finish()

    async def _all(self, engine: Engine) -> None:
        """Write a line for each input as it ends."""
        stream = engine.using(errors=self._args.errors).stream(
            self._module,
            *self._inputs.columns,
            ordered=self._args.ordered,
            record=self._trace is not None,
        )
        async with contextlib.aclosing(stream) as results:
            async for result in results:
                error = self._write(result)
                if error is not None and self._must_stop(error):
                    return
        self._state.is_over = self._inputs.is_through

    def _write(self, result: Result) -> BaseException | None:
        """Write what an input gave; return its error, None if it has none."""
        line, error = line_of(result)
        self._outputs.write(line)
        self._state.ended += 1
        if error is not None:
            self._failed[kind_of(error)] += 1
        if self._trace is not None and result.record is not None:
            began = self._starts.take(result.index)
            self._trace.add(result.record, result.index, began)
        return error

    def _must_stop(self, error: BaseException) -> bool:
        """Say whether an input's error ends the batch; a lost journal does."""
        if isinstance(error, JournalError):
            self._state.lost = error
        return self._state.lost is not None or self._args.errors == "raise"

    def _stop(self) -> None:
        """Pull no more inputs."""
        self._inputs.stop()
        alive = self._inputs.pulled - self._state.ended
        again = "SIGTERM" if self._signal is signal.SIGTERM else "Ctrl-C"
        say(
            f"stopping: {counted(alive, 'input')} in flight will be finished. {again} "
            "again to cancel them."
        )

    # -- the end --------------------------------------------------------------------

    @property
    def exit_code(self) -> int:
        """What the process ends with: 0, 1 for failed inputs, 128 + a signal."""
        if not self._state.is_over and self._signal is not None:
            return 128 + self._signal
        return 1 if self._failed or not self._state.is_over else 0

    @property
    def _signal(self) -> signal.Signals | None:
        """The last signal that came while the inputs ran."""
        return None if self._interrupts is None else self._interrupts.last

    def tell_end(self) -> None:
        """Say what was done, and how to do the rest."""
        state = self._state
        if not self._inputs.pulled and not state.is_over:
            return  # nothing was begun
        seconds = time.monotonic() - state.began
        say(summary(state.ended, self._failed, state.spent, seconds))
        if state.is_over:
            return
        where = f" in {self._outputs.partial}" if state.ended else ""
        say(f"not finished: {state.ended:,} of {self._inputs.total:,} inputs{where}")
        if self._args.journal is None:
            say(
                "without --journal no answer is kept: move that file away, and start "
                f"again with\n  {self._args.command} --journal run.db"
            )
        else:
            say(
                "to go on, without paying again for what is in the journal:\n  "
                f"{self._args.command}"
            )


class _Starts:
    """Notes when each run began: the engine's runs are the inputs, in order."""

    wants_tokens = False

    def __init__(self) -> None:
        self._at: dict[int, float] = {}
        self._zero: float | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            if self._zero is None:
                self._zero = event.at
            self._at[event.run] = event.at - self._zero

    def take(self, index: int) -> float:
        """Return when an input began, seconds since the first did, and forget it."""
        return self._at.pop(index, 0.0)


def _engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of the engine; what was not given is left out."""
    limits = {
        "usd": args.budget_usd,
        "requests": args.budget_requests,
        "tokens": args.budget_tokens,
        "seconds": args.budget_seconds,
    }
    given = [limit is not None for limit in limits.values()]
    options = {
        "journal": args.journal,
        "cache": args.cache,
        "max_inflight": args.max_inflight,
        "budget": Budget(**limits) if any(given) else None,
        "progress": False if args.no_progress else None,
    }
    chosen = {name: value for name, value in options.items() if value is not None}
    return {**chosen, "observers": [LogObserver()] if args.verbose else []}


def _check_names(args: argparse.Namespace) -> None:
    """Refuse to write over a file that the run reads, or keeps answers in."""
    kept = {"--inputs": args.inputs, "--resources": args.resources}
    kept |= {"--journal": args.journal, "--cache": args.cache}
    written = {"--out": args.out, "--trace": args.trace}
    for other, path in [*kept.items(), ("--trace", args.trace)]:
        for name, target in written.items():
            if name != other and path and target and same_file(path, target):
                raise UsageError(f"{name} and {other} name one file. Name two.")


def command_of(prog: str, argv: list[str]) -> str:
    """Return a command line as a shell takes it.

    Args:
        prog: What was called.
        argv: With which arguments.
    """
    return f"{prog} {shlex.join(argv)}"
