"""What the planner gives: who holds what, how it is used, what to expect and why."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from butterfly.errors import ConfigurationError
from butterfly.partitioning.chain import Chain
from butterfly.partitioning.form import build, check, read_json, write_json
from butterfly.partitioning.loss import Loss, losses_in
from butterfly.partitioning.problem import Problem, gigabytes
from butterfly.partitioning.simulator import Outcome


@dataclass(frozen=True, slots=True)
class Plan:
    """A placement with its reasons.

    Args:
        model: The name of the model.
        chains: Each holds the model once; no node is in two.
        latency_s: Seconds between two tokens of one sequence that is alone.
        ring_tokens_per_s: Output tokens a second by Little's law.
        outcome: What the simulator measured with all requests.
        bound_tokens_per_s: What no placement on these machines can pass.
        binds: What keeps each chain from being faster.
        why: How the plan was found.
        lane_tokens: Tokens that a lane holds; 0: not said.
        losses: What the codecs that were allowed change.
    """

    model: str
    chains: tuple[Chain, ...]
    latency_s: float
    ring_tokens_per_s: float
    outcome: Outcome
    bound_tokens_per_s: float
    binds: tuple[str, ...]
    why: tuple[str, ...] = ()
    lane_tokens: int = 0
    losses: tuple[Loss, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        """Output tokens a second, as simulated."""
        return self.outcome.tokens_per_s

    @property
    def gap(self) -> float:
        """Which part of the bound is not reached, 0 to 1."""
        return max(0.0, 1 - self.tokens_per_s / self.bound_tokens_per_s)

    def __str__(self) -> str:
        """Return what ``butterfly plan`` prints."""
        lines = [f"{self.model} in {_counted(len(self.chains), 'chain')}"]
        for chain, binds in zip(self.chains, self.binds, strict=True):
            lines += [*_drawn(chain), f"    binds: {binds}"]
        out = self.outcome
        lines += [
            f"one sequence alone  {self.latency_s * 1e3:.4g} ms a token",
            f"all requests        {out.tokens_per_s:.4g} tokens/s simulated, "
            f"{self.ring_tokens_per_s:.4g} by Little's law",
            f"                    first token after {out.ttft_s:.3g} s, then one each "
            f"{out.token_s * 1e3:.4g} ms",
            f"                    {out.running:.3g} running, {out.waiting:.3g} waiting,"
            f" {out.frame_rows:.3g} rows in a frame",
            f"bound               {self.bound_tokens_per_s:.4g} tokens/s, "
            f"gap {self.gap:.0%}",
            "busy                "
            + ", ".join(f"{k} {v:.0%}" for k, v in self.outcome.busy.items()),
        ]
        return "\n".join([*lines, *(f"why: {line}" for line in self.why)])

    def must_fit(self, layers: int) -> None:
        """Refuse a model that the plan was not made for.

        Args:
            layers: How many layers it has.

        Raises:
            ConfigurationError: The plan is for another number of layers.
        """
        for chain in self.chains:
            planned = chain.stages[-1].last + 1
            if planned != layers:
                raise ConfigurationError(
                    f"the plan is for the {planned} layers of {self.model!r}, and the "
                    f"model has {layers}: plan again with `butterfly plan`"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> "Plan":
        """Return the plan that `to_json` told of.

        Raises:
            ConfigurationError: Something is missing, unknown or does not fit.
        """
        known = cls.__dataclass_fields__
        optional = "why", "lane_tokens", "losses"
        needed = [name for name in known if name not in optional]
        check(data, "the plan", needed, known)
        chains = tuple(
            Chain.from_json(chain, f"chains[{i}]")
            for i, chain in enumerate(data["chains"])
        )
        made = {
            "chains": chains,
            "outcome": build(Outcome, data["outcome"], "outcome"),
            "binds": tuple(data["binds"]),
            "why": tuple(data.get("why", ())),
            "losses": losses_in(data),
        }
        return build(cls, {**data, **made}, "the plan")

    @classmethod
    def read(cls, path: str | Path) -> "Plan":
        """Return the plan that a JSON file holds."""
        return cls.from_json(read_json(path))

    def write(self, path: str | Path) -> None:
        """Write a JSON file that `read` understands."""
        write_json(path, self.to_json())


def _counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _drawn(chain: Chain) -> list[str]:
    """Return the lines of a chain."""
    width = max(len(name) for name in chain.nodes)
    lines = [
        f"  {_counted(chain.lanes, 'lane')}, {chain.micro_batch} rows and "
        f"{chain.chunk} prompt tokens a frame at most, "
        f"{_counted(chain.frames, 'frame')} under way"
    ]
    for index, stage in enumerate(chain.stages):
        end = index == len(chain.stages) - 1
        then = "head" if end else f"> {chain.codecs[index]}"
        span = f"{stage.first}-{stage.last}"
        lines.append(f"    {stage.node:<{width}}  layers {span:<7} {then}")
    return lines


def what_binds(problem: Problem, chain: Chain) -> str:
    """Say what keeps a chain from giving more tokens."""
    times, hops = problem.stage_times(chain), problem.hops(chain)
    ring, beat = problem.ring_s(chain), problem.beat_s(chain)
    if chain.lanes / chain.micro_batch * beat < ring * (1 - 1e-9):
        return _too_few(problem, chain, ring, sum(hop.seconds for hop in hops))
    if beat in times:
        name = chain.nodes[times.index(beat)]
        return f"the stage on {name}, {beat * 1e3:.3g} ms a frame"
    index = [hop.busy_s for hop in hops].index(beat)
    source, target = chain.nodes[index], chain.nodes[(index + 1) % len(chain.nodes)]
    return f"the link {source} to {target}, {beat * 1e3:.3g} ms a frame"


def _too_few(problem: Problem, chain: Chain, ring: float, links: float) -> str:
    """Say why the frames do not fill the chain."""
    share = f"{ring * 1e3:.3g} ms around, {links / ring:.0%} of it on links"
    if chain.lanes >= problem.workload.requests:
        return f"the ring time ({share}): more requests would fill it"
    rooms: Sequence[tuple[float, str]] = sorted(
        (
            problem.cluster.node(stage.node).memory_bytes
            - problem.stage_bytes(stage, chain.lanes),
            stage.node,
        )
        for stage in chain.stages
    )
    room, name = rooms[0]
    return (
        f"KV memory on {name} ({gigabytes(max(0.0, room))} free): {chain.lanes} lanes "
        f"for {problem.workload.requests} requests; {share}"
    )
