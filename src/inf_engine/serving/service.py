"""`Service`: one module as a service: single runs, batches, chats."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Any

from inf_engine.errors import EngineStateError
from inf_engine.execution.engine import Engine
from inf_engine.execution.lines import CallShape, LineError, json_text
from inf_engine.module import InferenceModule
from inf_engine.serving.exchange import Refused, Reply, Request, failed
from inf_engine.serving.runs import RunBook, ServedRun

MOST_INPUTS = 10_000
STOPPING = "the server stops. Ask again later."


class Service:
    """Runs a module for clients.

    Args:
        engine: Runs it.
        module: The module.
        name: What clients call it; None for its class.
        most_runs: The most runs at once; of single ones, further are refused.
        keep_runs: How many runs that have ended are kept in memory, to look at.

    Raises:
        UsageError: If it takes no inputs by position.
    """

    def __init__(
        self,
        engine: Engine,
        module: InferenceModule,
        *,
        name: str | None = None,
        most_runs: int = 64,
        keep_runs: int = 100,
    ) -> None:
        self.engine = engine
        self.module = module
        self.name = name or type(module).__name__
        self.runs = RunBook(most_runs, keep_runs)
        self.shape = CallShape(module)
        self._is_stopped = False

    async def run(self, request: Request) -> Reply:
        """Answer ``POST /v1/run``: one input, one output.

        Args:
            request: ``{"inputs": ...}``.

        Raises:
            Refused: If it gives no input, there is no room, or the run fails.
        """
        fields = known_fields(request.fields(), ("inputs",))
        run = self.begin(self.row(fields["inputs"]))
        output = await self.output(run)
        body = {"output": output, "run": run.name, **spent(run)}
        return Reply(written(body), headers={"x-run": run.name})

    async def batch(self, request: Request) -> Reply:
        """Answer ``POST /v1/batch``: many inputs, a line of JSON for each.

        Args:
            request: ``{"inputs": [...], "ordered": false}``.

        Raises:
            Refused: If something in it is no input; then nothing is run.
        """
        fields = known_fields(request.fields(), ("inputs", "ordered"))
        inputs, ordered = fields["inputs"], fields.get("ordered", False)
        if not isinstance(inputs, list) or not isinstance(ordered, bool):
            raise Refused("a batch is a list of inputs, and ordered true or false.")
        if len(inputs) > MOST_INPUTS:
            most = f"{MOST_INPUTS:,}"
            raise Refused(f"a batch has at most {most} inputs. Send two.", 413)
        rows = [self.row(value, f"inputs.{i}") for i, value in enumerate(inputs)]
        lines = self._lines(rows, ordered)
        return Reply(lines, kind="application/x-ndjson")

    def begin(self, args: tuple[Any, ...], *, tokens: bool = False) -> ServedRun:
        """Start a run.

        Args:
            args: Its inputs.
            tokens: Whether its text is wanted as it is written.

        Raises:
            Refused: If there is no room, or the server stops.
        """
        if self._is_stopped:
            raise Refused(STOPPING, 503, code="stopping")
        if self.runs.is_full:
            raise Refused(
                f"{self.runs.most} runs are under way, and no more may be. Try again.",
                429,
                code="too_many_runs",
                headers={"Retry-After": "1"},
            )
        return self.runs.begin(
            args, lambda: self.engine.start(self.module, args, tokens=tokens)
        )

    async def output(self, run: ServedRun) -> Any:
        """Wait for the output of a run; cancelling this cancels it.

        Args:
            run: The run.

        Raises:
            Refused: If it failed.
        """
        assert run.live is not None
        try:
            return await run.live.output()
        except Exception as exc:
            raise failed(exc, run.name) from exc
        finally:
            self.runs.end(run)

    def stop(self) -> None:
        """Cancel all runs, and begin no more."""
        self._is_stopped = True
        for run in list(self.runs.alive.values()):
            if run.live is not None:
                run.live.cancel(EngineStateError(STOPPING))

    def row(self, value: Any, param: str = "inputs") -> tuple[Any, ...]:
        """Return the inputs that a JSON value stands for.

        Args:
            value: The value.
            param: Where it came from.

        Raises:
            Refused: If the module does not take it.
        """
        try:
            return self.shape.row(value)
        except LineError as exc:
            raise Refused(f"{param}: {exc}.", param=param) from exc

    async def _lines(
        self, rows: list[tuple[Any, ...]], ordered: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a batch; leaving it cancels what is under way."""
        left = deque(enumerate(rows))
        tasks: dict[asyncio.Task[bytes], None] = {}
        try:
            while left or tasks:
                while left and len(tasks) < self.runs.most:
                    tasks[asyncio.create_task(self._line(*left.popleft()))] = None
                some = [next(iter(tasks))] if ordered else list(tasks)
                await asyncio.wait(some, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in some if task.done()]:
                    del tasks[task]
                    yield task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _line(self, index: int, args: tuple[Any, ...]) -> bytes:
        """Run one input of a batch when there is room; return its line."""
        await self.runs.room()
        line: dict[str, Any] = {"index": index}
        try:
            run = self.begin(args)
            line["run"] = run.name
            output = await self.output(run)
            return written({**line, "output": output, **spent(run)}) + b"\n"
        except Refused as exc:
            return written({**line, **exc.body}) + b"\n"


def spent(run: ServedRun) -> dict[str, Any]:
    """Return what a run took, as clients read it; the cost in USD, or null.

    Args:
        run: The run.
    """
    usage = asdict(run.usage)
    return {"usage": usage, "cost": run.cost, "seconds": round(run.seconds, 6)}


def written(body: Any) -> bytes:
    """Return an answer as JSON.

    Args:
        body: The answer.

    Raises:
        Refused: If JSON cannot carry it.
    """
    try:
        return json_text(body).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise Refused(
            "the output of the pipeline cannot be written as JSON. Return texts, "
            "numbers, lists, dicts, dataclasses or pydantic models.",
            500,
            code="output_not_json",
            headers={"x-should-retry": "false"},
        ) from exc


def known_fields(fields: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a request, all of them known, the first one given.

    Args:
        fields: The fields.
        known: Their names.

    Raises:
        Refused: If one is strange, or the first is missing.
    """
    for name in fields:
        if name not in known:
            listed = ", ".join(known)
            raise Refused(f"a field is not known; known: {listed}.", param=name[:40])
    if known[0] not in fields:
        raise Refused(f"{known[0]} is missing.", param=known[0])
    return fields
