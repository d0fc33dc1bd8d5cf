"""Better by small steps: a change stays only if the simulator agrees.

First the use of the chains (rows and prompt tokens of a frame), then the placement:
a layer moved from a stage to another, two nodes swapped, an idle node put in place of
another, another codec on a hop. The formulas sort the changes and drop hopeless ones;
the simulator decides. At the end lossy codecs that gain nothing are taken back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from butterfly.errors import InfeasibleError
from butterfly.partitioning.chain import Chain, Stage
from butterfly.partitioning.problem import Problem
from butterfly.partitioning.simulator import Outcome, simulate
from butterfly.partitioning.solver import prompt_piece, used

GAIN = 1.005
HOPELESS = 0.93

Chains = tuple[Chain, ...]


@dataclass
class Judge:
    """The simulator, with a limit on how often it is asked.

    Args:
        problem: What is served.
        tries: How many simulations may be run.
        rounds: How long each is.
    """

    problem: Problem
    tries: int
    rounds: float = 1.0

    def outcome(self, chains: Sequence[Chain]) -> Outcome:
        """Simulate."""
        self.tries -= 1
        return simulate(self.problem, chains, rounds=self.rounds)

    def rate(self, chains: Sequence[Chain]) -> float:
        """Return simulated tokens a second; nothing for what does not fit."""
        try:
            return self.outcome(chains).tokens_per_s
        except InfeasibleError:
            return 0.0


def best_use(judge: Judge, chains: Chains) -> tuple[Chains, float]:
    """Return chains with the rows and prompt tokens a frame that serve best.

    Args:
        judge: The simulator.
        chains: The placement.
    """
    best, rate = chains, judge.rate(chains)
    for index in range(len(chains)):
        for option in _uses(judge.problem, best[index]):
            if judge.tries <= 0:
                return best, rate
            tried = (*best[:index], option, *best[index + 1 :])
            value = judge.rate(tried)
            if value > rate * GAIN:
                best, rate = tried, value
    return best, rate


def _uses(problem: Problem, chain: Chain) -> Iterator[Chain]:
    """Yield other frame sizes, from near to far."""
    rows, lanes, stages = chain.micro_batch, chain.lanes, len(chain.stages)
    fair = -(-lanes // stages)
    sizes = dict.fromkeys([fair, -(-lanes // (stages + 1)), rows // 2, rows * 2, rows])
    for size in sizes:
        if 1 <= size <= lanes:
            for factor in (1, 2):
                piece = factor * prompt_piece(problem, size)
                yield replace(chain, micro_batch=size, chunk=piece)


def improved(judge: Judge, chains: Chains, rate: float) -> tuple[Chains, float, int]:
    """Return chains after steps that the simulator agreed to, and how many.

    Args:
        judge: The simulator.
        chains: Where to begin.
        rate: Their tokens a second, by the same judge.
    """
    steps, going = 0, True
    while going and judge.tries > 0:
        going = False
        formula = _formula(judge.problem, chains)
        ranked = sorted(
            (
                (_formula(judge.problem, c), i, c)
                for i, c in enumerate(_steps(judge, chains))
            ),
            key=lambda entry: (-entry[0], entry[1]),
        )
        for value, _, tried in ranked:
            if value < formula * HOPELESS or judge.tries <= 0:
                break
            found = judge.rate(tried)
            if found > rate * GAIN:
                chains, rate, going = tried, found, True
                steps += 1
                break
    return chains, rate, steps


def _formula(problem: Problem, chains: Chains) -> float:
    """Return the tokens a second by Little's law, 0 for what does not fit."""
    if any(problem.max_lanes(chain.stages) < chain.lanes for chain in chains):
        return 0.0
    return sum(problem.tokens_per_s(chain) for chain in chains)


def _steps(judge: Judge, chains: Chains) -> Iterator[Chains]:
    """Yield all chains one step away."""
    problem = judge.problem
    taken = {name for chain in chains for name in chain.nodes}
    idle = [n.name for n in problem.cluster.nodes if n.name not in taken]
    for index, chain in enumerate(chains):
        for stages in _placements(chain.stages, idle):
            other = replace(
                used(problem, stages, chain.lanes, chain.micro_batch), chunk=chain.chunk
            )
            yield (*chains[:index], other, *chains[index + 1 :])
        for other in _codecs(problem, chain):
            yield (*chains[:index], other, *chains[index + 1 :])
        for after in range(index + 1, len(chains)):
            yield from _exchanged(problem, chains, index, after)


def _placements(
    stages: tuple[Stage, ...], idle: Sequence[str]
) -> Iterator[tuple[Stage, ...]]:
    """Yield stages with layers moved, nodes swapped, or an idle node brought in."""
    sizes, names = [s.size for s in stages], [s.node for s in stages]
    pairs = [(i, j) for i in range(len(stages)) for j in range(len(stages)) if i != j]
    for i, j in pairs:
        for moved in (1, 2):
            if sizes[i] > moved:
                changed = list(sizes)
                changed[i] -= moved
                changed[j] += moved
                yield _laid(names, changed)
        if i < j:
            order, changed = list(names), list(sizes)
            order[i], order[j] = order[j], order[i]
            yield _laid(order, sizes)
            changed[i], changed[j] = changed[j], changed[i]
            yield _laid(order, changed)
    for i in range(len(stages)):
        for name in idle:
            yield _laid([*names[:i], name, *names[i + 1 :]], sizes)


def _laid(names: Sequence[str], sizes: Sequence[int]) -> tuple[Stage, ...]:
    """Return stages of given sizes, one after the other."""
    stages, first = [], 0
    for name, size in zip(names, sizes, strict=True):
        stages.append(Stage(name, first, first + size - 1))
        first += size
    return tuple(stages)


def _codecs(problem: Problem, chain: Chain) -> Iterator[Chain]:
    """Yield chains with another codec on one hop."""
    for hop, name in enumerate(chain.codecs):
        for codec in problem.codecs:
            if codec.name != name:
                codecs = (*chain.codecs[:hop], codec.name, *chain.codecs[hop + 1 :])
                yield replace(chain, codecs=codecs)


def _exchanged(
    problem: Problem, chains: Chains, one: int, other: int
) -> Iterator[Chains]:
    """Yield chains that have exchanged a node."""
    first, second = chains[one], chains[other]
    for i, a in enumerate(first.stages):
        for j, b in enumerate(second.stages):
            new = list(chains)
            for index, chain, at, name in (
                (one, first, i, b.node),
                (other, second, j, a.node),
            ):
                stages = list(chain.stages)
                stages[at] = replace(stages[at], node=name)
                new[index] = replace(
                    used(problem, stages, chain.lanes, chain.micro_batch),
                    chunk=chain.chunk,
                )
            yield tuple(new)


def exact_where_free(judge: Judge, chains: Chains, rate: float) -> tuple[Chains, float]:
    """Return chains with the most exact codec wherever that costs nothing.

    Args:
        judge: The simulator.
        chains: The placement.
        rate: Its tokens a second, by the same judge.
    """
    exact = judge.problem.codecs[0].name
    for index in range(len(chains)):
        for hop, name in enumerate(chains[index].codecs):
            if name != exact:
                chain = chains[index]
                codecs = (*chain.codecs[:hop], exact, *chain.codecs[hop + 1 :])
                other = replace(chain, codecs=codecs)
                tried = (*chains[:index], other, *chains[index + 1 :])
                found = judge.rate(tried)
                if found * GAIN >= rate:
                    chains, rate = tried, max(rate, found)
    return chains, rate
