"""From machines and a model to a plan.

Candidates come from the exact programs (the best single chain, the fastest one for a
single sequence, the best chains of several groups of nodes) and from the rules of
others; the simulator ranks them, the local search takes the best few further.
"""

from collections.abc import Sequence

from butterfly.errors import ConfigurationError, InfeasibleError, PlanError
from butterfly.partitioning.baselines import RULES
from butterfly.partitioning.bound import throughput_bound
from butterfly.partitioning.chain import Chain
from butterfly.partitioning.cluster import Cluster
from butterfly.partitioning.codec import find_codec
from butterfly.partitioning.model import ModelShape
from butterfly.partitioning.plan import Plan, what_binds
from butterfly.partitioning.problem import Problem
from butterfly.partitioning.replicas import chain_on, placements
from butterfly.partitioning.search import Judge, best_use, exact_where_free, improved
from butterfly.partitioning.simulator import simulate
from butterfly.partitioning.solver import MOST_STATES, chain_of, fastest_chain, used
from butterfly.partitioning.workload import Workload

Candidate = tuple[str, tuple[Chain, ...]]
FINALISTS = 3
WORTH_A_LOOK = 0.7
CLOSE = 0.85
OBJECTIVES = ("throughput", "latency")


def partition(
    cluster: Cluster,
    model: ModelShape,
    workload: Workload | None = None,
    *,
    codecs: Sequence[str] = ("f32",),
    objective: str = "throughput",
    tries: int = 80,
    most_chains: int = 16,
) -> Plan:
    """Place a model on a cluster.

    Args:
        cluster: The machines.
        model: The transformer.
        workload: The requests; None: sixteen of middling length.
        codecs: Wire formats that may be used, the most exact first.
        objective: ``throughput`` of all requests, or ``latency`` of one alone.
        tries: Simulations that the local search may run; 0 leaves it out.
        most_chains: The largest number of chains; a head serves one.

    Returns:
        The plan.

    Raises:
        InfeasibleError: The model does not fit: which constraint, by how much.
        ConfigurationError: An unknown codec or objective.
    """
    if objective not in OBJECTIVES:
        raise ConfigurationError(
            f"no objective {objective!r}: there are {', '.join(OBJECTIVES)}"
        )
    formats = tuple(find_codec(name) for name in codecs or ("f32",))
    problem = Problem(cluster, model, workload or Workload(), formats)
    if objective == "latency":
        chains = (fastest_chain(problem),)
        why = ["the exact program over orders and splits, for one sequence alone"]
        return described(problem, chains, why)
    return _busiest(problem, tries, most_chains)


def _busiest(problem: Problem, tries: int, most_chains: int) -> Plan:
    """Return the plan with the most simulated tokens a second."""
    judge = Judge(problem, max(tries, 0))
    ranked = _ranked(judge, candidates(problem, most_chains))
    word, chains, rate = ranked[0]
    why = [f"{word}, the best of {len(ranked)} candidates in the simulator"]
    if tries:
        results = []
        for name, start, first in ranked[:FINALISTS]:
            if first < rate * CLOSE:
                break
            judge.tries = max(tries // FINALISTS, 4)
            tuned, value = best_use(judge, start)
            better, value, steps = improved(judge, tuned, value)
            results.append((value, name, better, steps))
        value, name, chains, steps = max(results, key=lambda entry: entry[0])
        chains, _ = exact_where_free(judge, chains, value)
        why[0] = f"{name}, one of {len(ranked)} candidates in the simulator"
        before = next(rate for word, _, rate in ranked if word == name)
        gain = value / before - 1
        why.append(f"local search: {steps} steps, {gain:+.0%} simulated")
    return described(problem, chains, why)


def candidates(problem: Problem, most_chains: int = 16) -> list[Candidate]:
    """Return placements worth a simulation, each with a word on where it is from.

    Args:
        problem: What is to be placed.
        most_chains: The largest number of chains.

    Raises:
        InfeasibleError: The model does not fit.
    """
    nodes = list(problem.cluster.nodes)
    chain = chain_on(problem, nodes, problem.workload.requests, MOST_STATES)
    found: list[Candidate] = [("the exact chain for all requests", (chain,))]
    try:
        found.append(("the exact chain for one sequence", (fastest_chain(problem),)))
    except PlanError:
        pass  # too many kinds of nodes: the other candidates do
    if most_chains > 1:
        groups = placements(problem, most_chains)
        found += [(word, tuple(chains)) for word, chains in groups]
    for name in RULES:
        try:
            found.append((f"the rule {name!r}", by_rule(problem, name)))
        except InfeasibleError:
            continue
    return [entry for entry in found if len(entry[1]) <= most_chains]


def by_rule(problem: Problem, name: str) -> tuple[Chain, ...]:
    """Return the chains of a rule, the requests shared out evenly.

    Args:
        problem: What is to be placed.
        name: One of `RULES`.

    Raises:
        InfeasibleError: A node has not the memory.
        ConfigurationError: There is no such rule.
    """
    if name not in RULES:
        raise ConfigurationError(f"no rule {name!r}: there are {', '.join(RULES)}")
    placed = RULES[name](problem)
    share = -(-problem.workload.requests // len(placed))
    return tuple([chain_of(problem, stages, requests=share) for stages in placed])


def _ranked(
    judge: Judge, found: list[Candidate]
) -> list[tuple[str, tuple[Chain, ...], float]]:
    """Return the candidates by simulated tokens a second."""
    formulas = [sum(map(judge.problem.tokens_per_s, chains)) for _, chains in found]
    least = max(formulas) * WORTH_A_LOOK
    rates = [
        (word, chains, judge.rate(chains))
        for (word, chains), formula in zip(found, formulas, strict=True)
        if formula >= least
    ]
    return sorted(rates, key=lambda entry: -entry[2])


def described(problem: Problem, chains: Sequence[Chain], why: Sequence[str]) -> Plan:
    """Return the plan of some chains, with what is to be expected of it.

    Args:
        problem: What is placed.
        chains: The placement.
        why: How it was found.

    Raises:
        InfeasibleError: A node has not the memory for its stage.
    """
    alone = (used(problem, chain.stages, 1, 1) for chain in chains)
    return Plan(
        model=problem.model.name,
        chains=tuple(chains),
        latency_s=min(problem.ring_s(chain) for chain in alone),
        ring_tokens_per_s=sum(problem.tokens_per_s(chain) for chain in chains),
        outcome=simulate(problem, chains),
        bound_tokens_per_s=throughput_bound(problem),
        binds=tuple(what_binds(problem, chain) for chain in chains),
        why=tuple(why),
        lane_tokens=problem.workload.lane,
    )
