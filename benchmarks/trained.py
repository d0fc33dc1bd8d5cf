"""What trainings on simulated worlds came to: `Cell`, and the stored ones of peers."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

STORED = Path(__file__).parent / "peers" / "trained.json"
"""Where the trainings of peers are stored."""

# Student's t for 95 %, by degrees of freedom.
_T = (math.inf, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_T_MORE = 2.228  # a little wide beyond 10


@dataclass(frozen=True, slots=True)
class Trained:
    """One training.

    Args:
        score: The true score on the held-out examples, of the prompts it ended with.
        rollouts: How many runs of the program it made.
        tokens: Of all model calls, the reflector's too.
        requests: How many model calls there were.
    """

    score: float
    rollouts: int
    tokens: int
    requests: int


@dataclass(frozen=True, slots=True)
class Cell:
    """The trainings of one optimizer in one family for one budget, by seed.

    Args:
        score: As in `Trained`.
        rollouts: As there.
        tokens: As there.
        requests: As there.
    """

    score: tuple[float, ...]
    rollouts: tuple[int, ...]
    tokens: tuple[int, ...]
    requests: tuple[int, ...]

    @classmethod
    def of(cls, trainings: Sequence[Trained]) -> "Cell":
        """Return the cell of some trainings."""
        return cls(*(tuple(getattr(t, f.name) for t in trainings) for f in fields(cls)))

    @property
    def mean(self) -> float:
        """The mean true score."""
        return statistics.mean(self.score)

    @property
    def half(self) -> float:
        """Half of the 95 % interval of the mean score, by Student's t."""
        return _half([_variance(self.score)])

    def told(self) -> str:
        """Return the mean score with its interval."""
        return f"{self.mean:.3f} +-{self.half:.3f}"


def gap(ours: Sequence[Cell], theirs: Sequence[Cell] = ()) -> tuple[float, float]:
    """Return the difference of mean true scores, and the half of its 95 % interval.

    The mean of several cells is that of their means.

    Args:
        ours: One cell, or one for each family.
        theirs: What is taken away; the seeds need not be the same.
    """
    parts = []
    for cells in (ours, theirs):
        each = [_variance(cell.score) for cell in cells]
        parts += [(variance / len(cells) ** 2, freedom) for variance, freedom in each]
    means = [
        statistics.mean(c.mean for c in cells) for cells in (ours, theirs) if cells
    ]
    return means[0] - sum(means[1:]), _half(parts)


def _variance(scores: Sequence[float]) -> tuple[float, int]:
    """The variance of a mean, and its degrees of freedom."""
    n = len(scores)
    return (statistics.variance(scores) / n, n - 1) if n > 1 else (math.inf, 0)


def _half(parts: Sequence[tuple[float, int]]) -> float:
    """Half of the interval for a sum of means, by Welch and Satterthwaite."""
    total = sum(variance for variance, _ in parts)
    if total == 0.0 or math.isinf(total):
        return total
    freedom = total**2 / sum(v**2 / degrees for v, degrees in parts)
    t = [*_T, _T_MORE][min(int(freedom + 1e-9), len(_T))]
    return t * math.sqrt(total)


@dataclass(slots=True)
class Stored:
    """The trainings of one peer.

    Args:
        version: Of its package.
        settings: Those it was given, what was tuned among them.
        families: A cell by family and rollouts.
    """

    version: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    families: dict[str, dict[int, Cell]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path = STORED) -> dict[str, "Stored"]:
        """Return what is stored, by peer; nothing where there is no file."""
        if not path.exists():
            return {}
        peers = json.loads(path.read_text("utf-8"))["peers"]
        return {name: cls._of(peer) for name, peer in peers.items()}

    @classmethod
    def _of(cls, peer: Mapping[str, Any]) -> "Stored":
        """One peer's entry."""
        families = {
            family: {
                int(rollouts): Cell(**{k: tuple(v) for k, v in cell.items()})
                for rollouts, cell in cells.items()
            }
            for family, cells in peer["families"].items()
        }
        return cls(peer["version"], peer["settings"], families)


def write(peers: Mapping[str, Stored], path: Path = STORED) -> None:
    """Store the trainings of peers, a line for each list, so that they can be compared.

    Args:
        peers: All of them, by name.
        path: The file.
    """
    text = json.dumps({"peers": {n: asdict(p) for n, p in peers.items()}}, indent=1)
    lines: list[str] = []
    for line in text.splitlines():
        joins = lines and (lines[-1].endswith("[") or lines[-1].count("[") == 1)
        if joins and "]" not in lines[-1]:
            lines[-1] += line.strip() if lines[-1].endswith("[") else f" {line.strip()}"
        else:
            lines.append(line)
    path.write_text("\n".join(lines).replace(" ]", "]") + "\n", "utf-8")


def best(
    peers: Mapping[str, Stored], families: Sequence[str], rollouts: int
) -> tuple[str, list[Cell]]:
    """Return the peer with the highest mean score in some families, and its cells.

    Args:
        peers: The peers by name; one that lacks a cell is left out.
        families: The families.
        rollouts: The budget.
    """
    cells = {
        name: [peer.families[family][rollouts] for family in families]
        for name, peer in peers.items()
        if all(rollouts in peer.families.get(family, {}) for family in families)
    }
    name = max(cells, key=lambda name: gap(cells[name])[0])
    return name, cells[name]
