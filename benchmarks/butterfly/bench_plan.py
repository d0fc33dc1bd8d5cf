"""The planner against the rules of others, on homes and datacentres.

python benchmarks/butterfly/bench_plan.py [--homes 200] [--tries 40] [--only homes]
"""

import argparse
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.butterfly import maxflow
from benchmarks.butterfly.clusters import LLAMA_70B, datacentres, home
from butterfly.errors import InfeasibleError
from butterfly.partitioning import (
    CODECS,
    RULES,
    Chain,
    Cluster,
    ModelShape,
    Problem,
    Workload,
    described,
    fastest_chain,
    partition,
    simulate,
    throughput_bound,
)
from butterfly.partitioning.planner import by_rule
from butterfly.partitioning.replicas import chain_on
from butterfly.partitioning.search import Judge, best_use
from butterfly.partitioning.solver import MOST_STATES

USE_TRIES = 24
FLOW_STEPS = 8000


@dataclass(frozen=True)
class Result:
    """What one way to place gave on one cluster.

    Args:
        latency_s: Seconds a token of one sequence alone; infinite: it does not fit.
        tokens_per_s: Simulated, all requests, the frames tuned for it.
        seconds: CPU time to find it, the tuning left out.
        chains: How many.
    """

    latency_s: float
    tokens_per_s: float
    seconds: float
    chains: int = 0


NONE = Result(math.inf, 0.0, 0.0)
Results = dict[str, Result]


def clocked(place: Callable[[], Sequence[Chain]]) -> tuple[Sequence[Chain], float]:
    """Return chains and the CPU seconds they took."""
    began = time.process_time()
    chains = place()
    return chains, time.process_time() - began


def measured(problem: Problem, place: Callable[[], Sequence[Chain]]) -> Result:
    """Return what a placement gives, with the frames that the simulator likes best."""
    try:
        chains, seconds = clocked(place)
    except InfeasibleError:
        return NONE
    tuned, _ = best_use(Judge(problem, USE_TRIES), tuple(chains))
    plan = described(problem, tuned, ())
    return Result(plan.latency_s, plan.tokens_per_s, seconds, len(chains))


def exact_busiest(problem: Problem) -> list[Chain]:
    """Return the exact chain for all requests; 42 nodes: slow nodes first."""
    nodes, requests = list(problem.cluster.nodes), problem.workload.requests
    return [chain_on(problem, nodes, requests, MOST_STATES)]


def exact_fastest(problem: Problem) -> list[Chain]:
    """Return the exact chain for one sequence."""
    if len(problem.cluster.nodes) <= 24:
        return [fastest_chain(problem)]
    return [fastest_chain(problem, given_order=True)]


def planned(problem: Problem, tries: int) -> Result:
    """Return what the whole planner gives."""
    names = [codec.name for codec in problem.codecs]
    began = time.process_time()
    try:
        plan = partition(
            problem.cluster, problem.model, problem.workload, codecs=names, tries=tries
        )
    except InfeasibleError:
        return NONE
    took = time.process_time() - began
    return Result(plan.latency_s, plan.tokens_per_s, took, len(plan.chains))


def compared(problem: Problem, tries: int) -> Results:
    """Return the result of every way to place."""
    results = {
        name: measured(problem, lambda name=name: by_rule(problem, name))
        for name in RULES
    }
    results["exact, one sequence"] = measured(problem, lambda: exact_fastest(problem))
    results["exact, all requests"] = measured(problem, lambda: exact_busiest(problem))
    results["plan"] = planned(problem, tries)
    return results


def print_homes(number: int, tries: int) -> None:
    """Print the table of the homes."""
    rows, nets = [], []
    lossy = []
    for seed in range(number):
        cluster, model, net = home(seed)
        work = Workload(16, 256, 128)
        problem = Problem(cluster, model, work)
        rows.append(compared(problem, tries))
        nets.append(net)
        half = Problem(cluster, model, work, (CODECS["f32"], CODECS["f16"]))
        lossy.append(planned(half, tries).tokens_per_s)
        print(f"\r{seed + 1} of {number}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    possible = [i for i, row in enumerate(rows) if row["plan"].tokens_per_s]
    print(f"{number} homes of 3 to 7 devices; in {len(possible)} a model fits at all")
    print(f"nets: {dict(Counter(nets))}; 16 requests, 256 + 128 tokens, f32\n")
    print_table([rows[i] for i in possible])
    for net in dict.fromkeys(nets):
        chosen = [i for i in possible if nets[i] == net]
        if not chosen:
            continue
        gains = [lossy[i] / rows[i]["plan"].tokens_per_s for i in chosen]
        print(f"\nslowest net {net}: {len(chosen)} homes; ", end="")
        print(f"plan with f16 allowed / plan: median {middle(gains):.2f}")
        print_table([rows[i] for i in chosen])
    strong = [i for i in possible if not has_pi(i)]
    print(f"\nwithout a pi5: {len(strong)} homes")
    print_table([rows[i] for i in strong])


def has_pi(seed: int) -> bool:
    """Say whether the slowest device is in a home."""
    return any(node.name.startswith("pi5") for node in home(seed)[0].nodes)


def print_table(rows: list[Results]) -> None:
    """Print one line for each way to place, against the plan and the exact one."""
    if not rows:
        return
    print(
        f"{'placement':<20} {'no fit':>6}  {'latency / exact':^20}  "
        f"{'plan / its tokens/s':^31}  {'seconds':^13}"
    )
    print(
        f"{'':<20} {'':>6}  {'median':>6} {'p90':>6} {'worst':>6}  "
        f"{'median':>6} {'p90':>6} {'worst':>6} {'near':>5} {'wins':>4}  "
        f"{'median':>6} {'most':>6}"
    )
    for name in rows[0]:
        fit = [row for row in rows if row[name].tokens_per_s]
        slower = [
            row[name].latency_s / row["exact, one sequence"].latency_s for row in fit
        ]
        gains = [row["plan"].tokens_per_s / row[name].tokens_per_s for row in fit]
        near = sum(gain < 1.05 for gain in gains)
        wins = sum(gain < 0.99 for gain in gains)
        took = [row[name].seconds for row in fit] or [math.nan]
        print(
            f"{name:<20} {len(rows) - len(fit):>6}  {spread(slower)}  "
            f"{spread(gains)} {near:>5} {wins:>4}  "
            f"{middle(took):>6.3f} {max(took):>6.2f}"
        )


def spread(values: list[float]) -> str:
    """Return median, nine tenths and the most."""
    if not values:
        return f"{'-':>6} {'-':>6} {'-':>6}"
    ordered = sorted(values)
    ninth = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return f"{middle(values):>6.2f} {ninth:>6.2f} {ordered[-1]:>6.2f}"


def middle(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values) if values else math.nan


def print_datacentre(
    name: str, cluster: Cluster, model: ModelShape, tries: int
) -> None:
    """Print the table of a datacentre."""
    work = Workload(256, 763, 232)
    problem = Problem(cluster, model, work, (CODECS["f16"],))
    print(f"\n{name}, {model.name}: {work.requests} requests, ", end="")
    print(f"{work.prompt_tokens} + {work.output_tokens} tokens, f16; ", end="")
    print(f"bound {throughput_bound(problem):.0f} tokens/s")
    heads = ("ms/token", "tokens/s", "chains", "seconds")
    print(f"{'placement':<20} {heads[0]:>8} {heads[1]:>8} {heads[2]:>6} {heads[3]:>8}")
    for way, result in compared(problem, tries).items():
        if not result.tokens_per_s:
            print(f"{way:<20} does not fit")
            continue
        print(
            f"{way:<20} {result.latency_s * 1e3:>8.1f} {result.tokens_per_s:>8.1f} "
            f"{result.chains:>6} {result.seconds:>8.2f}"
        )
    print_flow(problem, FLOW_STEPS)


def print_flow(problem: Problem, steps: int) -> None:
    """Print what the placement with the most flow of three climbs serves."""
    exact = exact_busiest(problem)
    rows = exact[0].micro_batch
    start = maxflow.place_of(exact)
    before = maxflow.network(problem, start, rows).most()
    began = time.process_time()
    climbs = (maxflow.climbed(problem, start, rows, steps, seed) for seed in range(3))
    place, flow = max(climbs, key=lambda climb: climb[1])
    seconds = time.process_time() - began
    chains = maxflow.chains_of(problem, place, rows, 0.01)
    rates = [
        simulate(problem, maxflow.with_frames(problem, chains, size)).tokens_per_s
        for size in (rows // 2, rows, rows * 2)
    ]
    print(
        f"{'maximum flow':<20} {'':>8} {max(rates):>8.1f} {len(chains):>6} "
        f"{seconds:>8.2f}  flow {flow:.0f}; of the exact chain {before:.0f}"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--homes", type=int, default=200)
    parser.add_argument("--tries", type=int, default=40)
    parser.add_argument("--only", choices=("homes", "datacentres"))
    options = parser.parse_args()
    if options.only != "datacentres":
        print_homes(options.homes, options.tries)
    if options.only != "homes":
        for name, cluster in datacentres().items():
            print_datacentre(name, cluster, LLAMA_70B, options.tries)


if __name__ == "__main__":
    main()
