"""Train the peers on the simulated worlds, and store what came of it.

    make bench-peers ARGS="training"                  # all: an hour and more
    make bench-peers ARGS="training gepa textgrad"    # some; the others' rows stay

Each peer is a process of its own in an environment of its own; the servers of the
worlds are here, and so is the count of all that is asked there. What is stored,
``trained.json``, is what `benchmarks/bench_training.py` compares ours with.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.peers.run import QUIET
from benchmarks.peers.work import ANSWER, KEY
from benchmarks.simworld import FAMILIES, World
from benchmarks.trained import Cell, Stored, Trained, write

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SEEDS, BUDGETS = range(5), (400, 200)


@dataclass(frozen=True)
class Peer:
    """An optimizer: its name, its script, the environment, the options it is given."""

    name: str
    script: str
    environment: str
    optimizer: str = ""

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return ROOT / ".venv-peers" / self.environment / "bin" / "python"

    @property
    def is_here(self) -> bool:
        """Whether it could be installed."""
        return (self.python.parents[1] / "has-peer").exists()


PEERS = [
    Peer("gepa", "train_gepa.py", "gepa"),
    Peer("dspy-gepa", "train_dspy.py", "dspy", "gepa"),
    Peer("dspy-mipro", "train_dspy.py", "dspy", "mipro"),
    Peer("textgrad", "train_textgrad.py", "textgrad"),
    Peer("trace-opt", "train_trace_opt.py", "trace-opt"),
]


class Pupil:
    """A peer's script at work: one process, one training after the other.

    It runs in an empty folder, and without the keys that are here.

    Args:
        peer: The peer.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name) / "errors"
        keep = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
        home = {"DSPY_CACHEDIR": self._folder.name, "HOME": self._folder.name}
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [str(peer.python), "-W", "ignore", str(HERE / peer.script)],
                env={**keep, **QUIET, **home, "OPENAI_API_KEY": KEY},
                cwd=self._folder.name,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> "Pupil":
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _say(self, told: object) -> None:
        """Say something to the script."""
        assert self._process.stdin is not None
        print(json.dumps(told), file=self._process.stdin, flush=True)

    def _heard(self) -> Any:
        """Return what the script says next; other lines are of libraries."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        told = self._errors.read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"{self._peer.name} has ended:\n{told}")

    def trained(
        self, world: World, rollouts: int, **settings: Any
    ) -> tuple[Trained, dict[str, Any]]:
        """Train on a world.

        Args:
            world: The world.
            rollouts: The budget.
            **settings: Replace the script's own.

        Returns:
            What it came to; and what the script said: prompts, settings, version.

        Raises:
            RuntimeError: If the script failed.
        """
        examples = {example.id: example for example in (*world.train, *world.val)}
        used = 0
        if self._peer.optimizer:
            settings["optimizer"] = self._peer.optimizer
        with world.serve() as service:
            self._say(work_of(world, service.url, rollouts, **settings))
            while isinstance(found := self._heard(), list):
                used += 1
                self._say(world.metric(examples[found[0]], found[1]))
        score = round(world.true_score(found["prompts"]), 4)
        calls = sum(traffic.calls for traffic in service.counts.values())
        return Trained(score, used, service.tokens, calls), found


def work_of(world: World, url: str, rollouts: int, **settings: Any) -> dict[str, Any]:
    """Return what a script is told."""
    rows = {
        name: [[e.id, e.text, e.expected] for e in examples]
        for name, examples in (("train", world.train), ("val", world.val))
    }
    return {
        "url": url,
        "start": world.start_prompts(),
        **rows,
        "rollouts": rollouts,
        "seed": world.seed,
        "settings": settings,
    }


def all_of(peer: Peer) -> Stored:
    """Train a peer in all families for all budgets; print a line for each."""
    stored = Stored()
    with Pupil(peer) as pupil:
        for family, rollouts in itertools.product(FAMILIES, BUDGETS):
            results = []
            for seed in SEEDS:
                result, found = pupil.trained(World(family, seed), rollouts)
                results.append(result)
                stored.version, stored.settings = found["version"], found["settings"]
            cell = Cell.of(results)
            stored.families.setdefault(family, {})[rollouts] = cell
            print(
                f"  {peer.name:<12}{family:<15}{rollouts:>4} {line(cell)}", flush=True
            )
    return stored


def line(cell: Cell) -> str:
    """Return the columns of a cell."""
    means = [sum(row) / len(row) for row in (cell.rollouts, cell.tokens, cell.requests)]
    return (
        f"{cell.told()}{means[0]:>7.0f} rollouts{means[1] / 1e3:>8.0f} k tokens"
        f"{means[2]:>7.0f} requests"
    )


def main(names: Sequence[str]) -> int:
    """Train the named peers, all by default, and store what came of it."""
    known = [peer.name for peer in PEERS]
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no peer {unknown[0]!r}; there are {', '.join(known)}")
        return 2
    for peer in PEERS:
        if names and peer.name not in names:
            continue
        if not peer.is_here:
            print(f"  {peer.name:<12}not installed")
            continue
        done = all_of(peer)
        write({**Stored.read(), peer.name: done})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
