"""A plan beside what the rules of others give on the same machines.

The rules get the lanes, rows and pieces of prompts that the simulator likes best for
them, so what is compared is where the layers are.
"""

from butterfly.errors import InfeasibleError
from butterfly.partitioning.baselines import RULES
from butterfly.partitioning.plan import Plan
from butterfly.partitioning.planner import by_rule, described
from butterfly.partitioning.problem import Problem
from butterfly.partitioning.search import Judge, best_use

_TRIES = 24


def compared(problem: Problem, plan: Plan) -> str:
    """Return a table of a plan and the rules of others.

    Args:
        problem: What was planned.
        plan: The plan.
    """
    lines = [
        f"{'placement':<20} {'chains':>6} {'ms/token alone':>15} {'tokens/s':>9} "
        f"{'plan / it':>9}"
    ]
    for name in RULES:
        try:
            lines.append(_line(name, ruled(problem, name), plan))
        except InfeasibleError as exc:
            lines.append(f"{name:<20} does not fit: {exc}")
    return "\n".join([*lines, _line("plan", plan, plan)])


def ruled(problem: Problem, name: str) -> Plan:
    """Return what a rule gives, used as the simulator likes best.

    Args:
        problem: What is to be placed.
        name: One of `RULES`.

    Raises:
        InfeasibleError: A node has not the memory.
        ConfigurationError: There is no such rule.
    """
    chains, _ = best_use(Judge(problem, _TRIES), by_rule(problem, name))
    return described(problem, chains, [f"the rule {name!r}"])


def _line(name: str, given: Plan, plan: Plan) -> str:
    """Return a line of the table."""
    return (
        f"{name:<20} {len(given.chains):>6} {given.latency_s * 1e3:>15.4g} "
        f"{given.tokens_per_s:>9.4g} {plan.tokens_per_s / given.tokens_per_s:>9.2f}"
    )
