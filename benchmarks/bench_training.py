"""Training on simulated worlds: true scores and tokens, ours against stored peers.

``BENCH_SEEDS=3``, ``BENCH_FAMILIES="one chain"`` and ``BENCH_ROLLOUTS=400`` make it
short; ``BENCH_VAL=15`` gives the trainer so many validation examples, as the peers
have. A line for each training goes to the standard error.
"""

import asyncio
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measure import Figure
from benchmarks.simworld import FAMILIES, World, module, resources
from benchmarks.trained import Cell, Stored, Trained, best, gap
from inf_engine import Engine
from inf_engine.optimization import ReflectiveEvolution, Trainer, VerifierLoss

SEEDS, ROLLOUTS, MOST = "10", "400 200", 400


async def run(world: World, url: str, rollouts: int) -> tuple[float, int]:
    """Train a world's program; return its true score, and the rollouts it took.

    Args:
        world: The world.
        url: Where its models are.
        rollouts: The budget.
    """
    examples = {example.id: example for example in (*world.train, *world.val)}
    used = 0

    def metric(output: Any, id: str) -> tuple[float, str]:
        nonlocal used
        used += 1
        return world.metric(examples[id], output)

    most = int(os.environ.get("BENCH_VAL", len(world.val)))
    train, val = (
        [{"order": example.text, "id": example.id} for example in some]
        for some in (world.train, world.val[:most])
    )
    program = module(world)
    async with Engine(resources(url), progress=False) as engine:
        optimizer = ReflectiveEvolution(program.parameters(), alias="reflector")
        trainer = Trainer(
            *(engine, program, VerifierLoss(metric), optimizer),
            rollouts=rollouts,
            seed=world.seed,
            target="id",
        )
        await trainer.fit(train, val)
    return round(world.true_score(program.state_dict()), 4), used


def trained(family: str, seed: int, rollouts: int) -> Trained:
    """Train on one world; not to be called where an event loop runs.

    Args:
        family: The family.
        seed: Of the world, and of the trainer.
        rollouts: The budget.
    """
    world = World(family, seed)
    with world.serve() as service:
        score, used = asyncio.run(run(world, service.url, rollouts))
    calls = sum(traffic.calls for traffic in service.counts.values())
    done = Trained(score, used, service.tokens, calls)
    print(f"    {family}, seed {seed}: {done}", file=sys.stderr, flush=True)
    return done


def compared(rollouts: int, ours: Mapping[str, Cell]) -> list[Figure]:
    """Return our figures in some families together, and against the best peer's.

    Args:
        rollouts: The budget.
        ours: Our trainings by family; the best peer is the one that is in all of them.
    """
    peers, cells, families = Stored.read(), list(ours.values()), list(ours)
    name = f"{families[0] if len(ours) == 1 else 'all'}, {rollouts} rollouts"
    score, half = gap(cells)
    note = f"+-{half:.3f}; {amounts(cells)}"
    figures = [Figure(name, score, "true score", note=note)]
    for budget in sorted({rollouts, MOST}):
        peer, theirs = best(peers, families, budget)
        more, half = gap(cells, theirs)
        note = f"+-{half:.3f}; {peer}: {told(theirs)}, {amounts(theirs)}"
        title = f"  more than a peer's at {budget}"
        figures.append(Figure(title, round(more, 3), "", note=note))
    return figures


def told(cells: Sequence[Cell]) -> str:
    """Return the mean score of some cells with its interval."""
    return "{:.3f} +-{:.3f}".format(*gap(cells))


def amounts(cells: Sequence[Cell]) -> str:
    """Return the mean tokens and requests of a training."""
    tokens, calls = (
        statistics.mean(statistics.mean(row) for row in rows)
        for rows in zip(*((cell.tokens, cell.requests) for cell in cells), strict=True)
    )
    return f"{tokens / 1e3:.0f} k tokens, {calls:.0f} requests"


async def measure() -> list[Figure]:
    """Measure every family for every budget."""
    seeds = range(int(os.environ.get("BENCH_SEEDS", SEEDS)))
    families = os.environ.get("BENCH_FAMILIES", " ".join(FAMILIES)).split()
    budgets = [int(n) for n in os.environ.get("BENCH_ROLLOUTS", ROLLOUTS).split()]
    figures: list[Figure] = []
    for rollouts in budgets:
        ours: dict[str, Cell] = {}
        for family in families:
            runs = [
                await asyncio.to_thread(trained, family, seed, rollouts)
                for seed in seeds
            ]
            ours[family] = Cell.of(runs)
            figures += compared(rollouts, {family: ours[family]})
        figures += compared(rollouts, ours) if len(ours) > 1 else []
    return figures
