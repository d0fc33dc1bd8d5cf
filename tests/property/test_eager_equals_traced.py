"""The rule that tests all of tracing: eager equals traced, for random module trees."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from tests.property.module_trees import Plan, answer, build, latency, plans

from inf_engine import Engine
from inf_engine.testing import FunctionClient, VirtualTimeLoop, eager


def clients() -> dict[str, FunctionClient]:
    """Fresh clients."""
    return {alias: FunctionClient(answer, latency) for alias in "ab"}


def eager_outcome(plan: Plan) -> tuple[Any, list[str]]:
    """What plain Python gives, and the prompts it sends."""
    used = {alias: FunctionClient(answer) for alias in "ab"}
    output = eager(build(plan), used, "start")
    return output, sorted(p for client in used.values() for p in client.prompts)


def traced_outcome(plan: Plan) -> tuple[Any, list[str]]:
    """What a run gives, and the prompts it sends."""
    used = clients()

    async def main() -> Any:
        async with Engine(used, progress=False) as engine:
            return await engine.record(build(plan), "start")

    record = VirtualTimeLoop.run(main())
    record.graph.lint()
    return record.output, sorted(p for c in used.values() for p in c.prompts)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
def test_eager_equals_traced(plan: Plan) -> None:
    """A traced run gives what plain Python gives, with the very same requests."""
    assert traced_outcome(plan) == eager_outcome(plan)
