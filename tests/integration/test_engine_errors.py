"""What an error that ends a run is, and what it carries."""

import pickle
from typing import Any, Literal

import pytest

from inf_engine import (
    Engine,
    ExecutionError,
    InferenceModule,
    LLMInference,
    OutputParseError,
    TracingError,
)
from inf_engine.testing import FunctionClient, VirtualTimeLoop


def test_a_failure_is_of_its_causes_type_too() -> None:
    """`except OutputParseError` around a run catches it, with its attributes."""

    async def main() -> None:
        async with Engine({"m": FunctionClient(lambda request: "neither")}) as engine:
            llm = LLMInference("m", response_format=Literal["a", "b"], max_reasks=0)
            with pytest.raises(OutputParseError, match="neither") as caught:
                await engine.run(llm, "x")
        error = caught.value
        assert isinstance(error, ExecutionError)
        assert type(error.cause) is OutputParseError
        assert (error.raw, vars(error)["node"]) == ("neither", "llm#1")
        assert type(pickle.loads(pickle.dumps(ExecutionError("x", node="n")))) is (
            ExecutionError
        )
        with pytest.raises(AttributeError):
            getattr(error, "nothing")  # noqa: B009

    VirtualTimeLoop.run(main())


def test_a_failed_node_timeout_is_a_timeout_error() -> None:
    """`except TimeoutError` around a run catches a node that took too long."""

    async def main() -> None:
        async with Engine({"m": FunctionClient(lambda request: "x", 9.0)}) as engine:
            with pytest.raises(TimeoutError) as caught:
                await engine.using(node_timeout=1).run(LLMInference("m"), "x")
        assert isinstance(caught.value, ExecutionError)

    VirtualTimeLoop.run(main())


class PaysThenFails(InferenceModule):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.llm = LLMInference("m")
        self.error = error

    def forward(self, x: str) -> str:
        if self.llm(x) == "never":
            return x
        raise self.error


@pytest.mark.parametrize("error", [KeyError("mine"), TracingError("ours")], ids=str)
def test_every_error_that_ends_a_run_carries_what_was_answered(
    error: Exception,
) -> None:
    """Also what forward itself raised: the paid answer is in `error.record`."""

    async def main() -> Any:
        async with Engine({"m": FunctionClient(lambda request: "paid")}) as engine:
            with pytest.raises(type(error)) as caught:
                await engine.run(PaysThenFails(error), "x")
        return caught.value

    record = VirtualTimeLoop.run(main()).record
    assert record.node("llm#1").output == "paid"
    assert record.error is error
