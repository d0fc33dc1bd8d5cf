"""Run the same work through other libraries, and print ratios to ours.

``make bench-peers`` makes their environments first; ARGS names some of them. Each
measure of each library is a process of its own, with a fresh server beside it, one
after the other. Ours comes first and last: how far the two differ is what chance does,
and ratios are to the mean of the two.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.measure import Seen, served

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CALLS, LIMITED_CALLS, BOUND, LIMITED_BOUND = 1_500, 200, 0.75, 9.0
LONGEST = 240.0
# DSPy wants an answer of this form, and the others take any text.
SERVER: dict[str, Any] = {
    "answer": "[[ ## answer ## ]]\nfine\n\n[[ ## completed ## ]]",
    "latency": 0.05,
}
LIMITED = {"requests_per_minute": 1200, "burst": 20}
QUIET = {
    "DO_NOT_TRACK": "1",
    "HAMILTON_TELEMETRY_ENABLED": "false",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "CRITICAL",
}

Measured = dict[str, float]


@dataclass(frozen=True)
class Peer:
    """A library, its script ``with_NAME.py``, what it can do, and where it is."""

    name: str
    measures: str = "calls limit noop"
    environment: Path | None = None

    @property
    def python(self) -> str:
        """The interpreter: this one, if it has no environment of its own."""
        folder = self.environment
        return sys.executable if folder is None else str(folder / "bin" / "python")

    @property
    def is_here(self) -> bool:
        """Whether it could be installed."""
        return self.environment is None or (self.environment / "has-peer").exists()


def apart(name: str, measures: str = "calls limit noop") -> Peer:
    """Return a peer in an environment of its own."""
    return Peer(name, measures, ROOT / ".venv-peers" / name)


OURS = Peer("inf-engine")
PEERS = [
    apart("aiohttp", "calls limit"),
    apart("openai", "calls limit"),
    apart("dspy"),
    apart("litellm", "calls limit"),
    apart("langgraph"),
    apart("pydantic-ai"),
    apart("hamilton", "noop"),
    Peer("asyncio", "noop"),
]


def measured(peer: Peer, *words: str) -> Measured | str:
    """Return what a script prints, or why it printed nothing."""
    script = HERE / f"with_{peer.name.replace('-', '_')}.py"
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [peer.python, str(script), *words],
                env={**os.environ, **QUIET, "DSPY_CACHEDIR": folder},
                capture_output=True,
                text=True,
                timeout=LONGEST,
            )
        except subprocess.TimeoutExpired:
            return f"took longer than {LONGEST:.0f} s"
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return (done.stderr.strip().splitlines() or ["printed nothing"])[-1][:150]
    return json.loads(lines[-1])


def beside(peer: Peer, options: dict[str, Any], *words: str) -> Measured | str:
    """Return what a script prints with a server beside it, and what that one saw."""
    with served(**SERVER, **options) as (url, end):
        found = measured(peer, words[0], url, *words[1:])
        seen: Seen = end()
    if isinstance(found, str):
        return found
    return {**found, "most": seen.most, "refused": seen.count - seen.answered}


def calls(peer: Peer) -> Measured | str:
    """Measure extract-and-compare."""
    return beside(peer, {}, "calls")


def limit(peer: Peer, retries: str) -> Measured | str:
    """Measure calls under a limit that nobody told."""
    return beside(peer, LIMITED, "limit", retries)


def told_calls(found: Measured, ours: Measured) -> str:
    """Return the columns of extract-and-compare."""
    wall, cpu = found["wall"], found["cpu"] / CALLS * 1e3
    return (
        f"{wall:7.2f} s {wall / ours['wall']:6.2f} x {wall / BOUND:7.2f} x bound"
        f"{cpu:8.2f} ms CPU a call {found['cpu'] / ours['cpu']:6.2f} x"
        f"{found['most']:6.0f} at once"
    )


def told_limit(found: Measured, ours: Measured) -> str:
    """Return the columns of the limit."""
    wall, lost = found["wall"], 100 * found["failed"] / LIMITED_CALLS
    return (
        f"{wall:7.2f} s {wall / ours['wall']:6.2f} x "
        f"{wall / LIMITED_BOUND:7.2f} x bound"
        f"{lost:8.1f} % lost {found['refused']:6.0f} times refused"
    )


def told_noop(found: Measured, ours: Measured) -> str:
    """Return the columns of nodes that do nothing."""
    shapes = [
        f"{shape} {found[shape]:8.1f} us {found[shape] / ours[shape]:6.2f} x"
        for shape in found
    ]
    return "    ".join(shapes)


def table(
    title: str,
    peers: list[Peer],
    measure: Callable[[Peer], Measured | str],
    told: Callable[[Measured, Measured], str],
) -> None:
    """Measure ours, the peers, and ours again; print a line for each."""
    print(f"\n{title}", flush=True)
    lines = [
        (peer.name, measure(peer) if peer.is_here else "not installed")
        for peer in (OURS, *peers, OURS)
    ]
    ours = [found for _, found in (lines[0], lines[-1]) if isinstance(found, dict)]
    mean = {key: sum(one[key] for one in ours) / len(ours) for key in (ours or [{}])[0]}
    for name, found in lines:
        lone = isinstance(found, str) or not mean
        print(f"  {name:<14}{found if lone else told(found, mean)}", flush=True)


def main(names: list[str]) -> int:
    """Print the tables; all peers by default. "training" is a benchmark of its own."""
    if names[:1] == ["training"]:
        from benchmarks.peers import training  # noqa: PLC0415

        return training.main(names[1:])
    known = [peer.name for peer in PEERS]
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no peer {unknown[0]!r}; there are {', '.join(known)}")
        return 2
    chosen = [peer for peer in PEERS if not names or peer.name in names]

    def able(word: str) -> list[Peer]:
        return [peer for peer in chosen if word in peer.measures]

    title = "500 x extract-and-compare (3 calls of 50 ms), 100 in flight"
    table(title, able("calls"), calls, told_calls)
    title = "200 calls, 1,200 a minute that nobody told (burst 20)"
    for retries, what in (("default", "retries by default"), ("10", "10 retries")):
        limited = lambda peer, retries=retries: limit(peer, retries)  # noqa: E731
        table(f"{title}; {what}", able("limit"), limited, told_limit)
    title = "nodes that do nothing, CPU of one: chain of 1,000, fan-out of 10,000, "
    noop = lambda peer: measured(peer, "noop")  # noqa: E731
    table(f"{title}1,000 x diamond of 5", able("noop"), noop, told_noop)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
