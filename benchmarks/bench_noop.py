"""What a node that does nothing costs, in µs of CPU: traced and run, and scheduled.

"Traced and run" is all of ``engine.run``, or of ``engine.map``, divided by the nodes.

"The scheduler alone" is the same graph, recorded before by `trace`: its nodes are
handed to a new `Run` one after the other, as a tracer hands them over, and worked off.
So it holds the making of the run, the state table, a context for each node and the
calls of the functions; no forward, no proxy, no recording.

CPU time of this process, because a busy machine stretches walls; what the garbage
collector takes during a round is part of it.
"""

import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass, field

from benchmarks.measure import Figure
from inf_engine import Engine, InferenceModule, op, trace
from inf_engine.execution.forwards import FiberPool
from inf_engine.execution.run import Run
from inf_engine.execution.settings import ExecutionSettings
from inf_engine.execution.work import Work
from inf_engine.resources.manager import ResourceManager
from inf_engine.testing import FunctionClient
from inf_engine.tracing.tracer import Program

TRACED, ALONE, FLAT = 15.0, 5.0, 1.5
ROUNDS, LARGE_ROUNDS = 15, 3
SMALL, LARGE = 1_000, 100_000

Round = Callable[[], Awaitable[object]]


@op
def increment(x: int) -> int:
    return x + 1


@op
def add(left: int, right: int) -> int:
    return left + right


class Chain(InferenceModule):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: int = 0) -> int:
        for _ in range(self.length):
            x = increment(x)
        return x


class FanOut(InferenceModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: int = 0) -> list[int]:
        return [increment(x) for _ in range(self.width)]


class Diamond(InferenceModule):
    """Five nodes: one, two side by side, their sum, and one after it."""

    def forward(self, x: int = 0) -> int:
        top = increment(x)
        return increment(add(increment(top), increment(top)))


class Replay:
    """Runs a recorded graph, without its forward.

    Args:
        module: Is traced once; every input of its forward has a default.
        inputs: How many runs of it make a round.
    """

    def __init__(self, module: InferenceModule, inputs: int = 1) -> None:
        graph = trace(module)
        self.nodes, self.output = list(graph), graph.output
        self.inputs = inputs
        self._program = Program(module)
        self._manager = ResourceManager({"unused": FunctionClient(lambda _: "")})
        self._fibers = FiberPool()

    async def __call__(self) -> None:
        """Run the graph for every input, one after the other."""
        for number in range(self.inputs):
            self.run(number)

    def run(self, number: int) -> Run:
        """Hand the nodes to a new run, and work them off."""
        settings = ExecutionSettings()
        work = Work(number, self._manager, settings, fibers=self._fibers)
        run = Run(self._program, (), {}, work, _ended)

        def hand_over() -> None:
            for node in self.nodes:
                run.added(node, copy_context())
            run.returned(self.output, ())

        run.later(hand_over)
        run.drain()
        return run


def _ended(run: Run) -> None:
    if run.error is not None:
        raise run.error


@dataclass
class Case:
    """A round of no-op nodes, and what its rounds took."""

    name: str
    nodes: int
    round: Round
    spent: list[float] = field(default_factory=list)

    async def measure(self) -> None:
        """Make one round, and note the µs of CPU a node."""
        gc.collect()
        began = time.process_time()
        await self.round()
        self.spent.append((time.process_time() - began) * 1e6 / self.nodes)

    @property
    def median(self) -> float:
        """The median of all rounds but the first."""
        return statistics.median(self.spent[1:])

    def figure(self, limit: float) -> Figure:
        """Return the median as a figure, with the least beside it."""
        note = f"least {min(self.spent):.1f}"
        return Figure(self.name, self.median, "us a node", limit, note)


async def measured(cases: list[Case], rounds: int) -> None:
    """Make a round of each in turn, so that a busy second hits all alike."""
    for _ in range(rounds + 1):
        for case in cases:
            await case.measure()


def traced_cases(engine: Engine) -> list[Case]:
    """Return the rounds that go through an engine."""
    chain, fan_out, diamond = Chain(SMALL), FanOut(10 * SMALL), Diamond()
    return [
        Case("chain of 1,000, traced and run", SMALL, lambda: engine.run(chain)),
        Case("fan-out of 10,000, likewise", 10 * SMALL, lambda: engine.run(fan_out)),
        Case(
            "1,000 x diamond of 5, likewise",
            5 * SMALL,
            lambda: engine.map(diamond, range(SMALL)),
        ),
    ]


def replayed_cases() -> list[Case]:
    """Return the rounds of graphs that were recorded before."""
    replays = [Replay(Chain(SMALL)), Replay(FanOut(10 * SMALL))]
    replays.append(Replay(Diamond(), SMALL))
    names = ("chain, the scheduler alone", "fan-out, likewise", "diamonds, likewise")
    return [
        Case(name, len(replay.nodes) * replay.inputs, replay)
        for name, replay in zip(names, replays, strict=True)
    ]


async def growth(name: str, small: Round, large: Round) -> Figure:
    """Return how many times more a node costs among 100,000 than among 1,000."""

    async def often() -> None:
        for _ in range(LARGE // SMALL):
            await small()

    few, many = Case(name, LARGE, often), Case(name, LARGE, large)
    await measured([few, many], LARGE_ROUNDS)
    note = f"{few.median:.1f} -> {many.median:.1f} us a node"
    return Figure(
        f"{name}, 100,000 to 1,000", many.median / few.median, "x", FLAT, note
    )


async def measure() -> list[Figure]:
    """Return the figures: the medians of some rounds."""
    client = FunctionClient(lambda _: "")
    async with Engine({"unused": client}, progress=False) as engine:
        traced, replayed = traced_cases(engine), replayed_cases()
        await measured([*traced, *replayed], ROUNDS)
        figures = [case.figure(TRACED) for case in traced]
        figures += [case.figure(ALONE) for case in replayed]
        for name, shape in (("chain", Chain), ("fan-out", FanOut)):
            few, many = shape(SMALL), shape(LARGE)
            runs = (lambda m=few: engine.run(m), lambda m=many: engine.run(m))
            figures.append(await growth(f"{name} traced", *runs))
            figures.append(await growth(f"{name} alone", Replay(few), Replay(many)))
    return figures
