"""What the tests of losses that ask a model share: records, judges, and a loss run."""

from collections.abc import Callable
from typing import Any

from tests.integration.engine_helpers import engines

from inf_engine import Engine
from inf_engine.graph import InferenceGraph
from inf_engine.optimization.composite import CompositeLoss
from inf_engine.optimization.judging import JudgingLoss
from inf_engine.record import RunRecord
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest, Usage


def ran(
    output: Any = "Paris",
    *args: Any,
    error: BaseException | None = None,
    **kwargs: Any,
) -> RunRecord:
    """The record of a run without nodes."""
    given = args or ("What is the capital?",)
    graph = InferenceGraph()
    return RunRecord("M", given, kwargs, output, error, graph, (), Usage(), 0.0)


def judged(
    loss: JudgingLoss | CompositeLoss,
    records: Any,
    targets: Any = None,
    client: Any = None,
    **options: Any,
) -> Any:
    """What a loss says, its judge being a fake; and the time it took."""

    async def body(engine: Engine) -> Any:
        loss.engine = engine
        return await loss(records, targets)

    return engines(body, client, **options)


def answering(latency: float = 1.0, **answer: Any) -> FunctionClient:
    """A judge that always says the same."""
    return FunctionClient(lambda request: {"reason": " Because. ", **answer}, latency)


def by_text(answer: Callable[[str], Any]) -> FunctionClient:
    """A judge that looks at what it is shown."""
    return FunctionClient(lambda request: answer(request.prompt), 1.0)


def schema_of(request: LLMRequest) -> dict[str, Any]:
    """The JSON schema that an answer has to fit."""
    assert request.response_schema is not None
    return request.response_schema.schema
