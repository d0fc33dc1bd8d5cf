"""Static types: read by ty and mypy, never run. `assert_type` is the assertion."""

from typing import Any, Literal, assert_type

from pydantic import BaseModel

from inf_engine import Engine, InferenceModule, LLMInference, Parameter, op

Sentiment = Literal["good", "bad"]


class Facts(BaseModel):
    names: list[str]


class Summary(InferenceModule):
    def __init__(self) -> None:
        super().__init__()
        self.style = Parameter("Be brief.")
        self.extract = LLMInference("fast", response_format=Facts)
        self.write = LLMInference("smart", self.style, temperature=0.2)

    def forward(self, text: str, limit: int = 3) -> str:
        facts = self.extract(text)
        assert_type(facts, Facts)
        assert_type(facts.names, list[str])
        return self.write(f"At most {limit}: {facts.names}")


class Later(InferenceModule):
    def __init__(self) -> None:
        super().__init__()
        self.extract = LLMInference("fast", response_format=Facts)

    async def forward(self, text: str) -> list[str]:
        facts = await self.extract.acall(text)
        assert_type(facts, Facts)
        return facts.names


class Outer(InferenceModule):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Summary()

    def forward(self, text: str) -> Any:
        return assert_type(self.inner(text), Any)


@op
def count(text: str) -> int:
    return len(text)


@op
async def fetch(text: str) -> int:
    return len(text)


def leaves() -> None:
    assert_type(LLMInference("fast"), LLMInference[str])
    assert_type(LLMInference("fast")("hello"), str)
    assert_type(LLMInference("fast", response_format=Facts)("hello"), Facts)
    label: LLMInference[Sentiment] = LLMInference("fast", response_format=Sentiment)
    answer: Sentiment = label("hello")
    assert_type(answer, Literal["good", "bad"])
    assert_type(count("hello"), int)
    assert_type(fetch("hello"), int)


async def outputs(engine: Engine) -> None:
    assert_type(await engine.run(Summary(), "text"), str)
    assert_type(await engine.run(Summary(), "text", limit=2), str)
    assert_type(await engine.run(Later(), "text"), list[str])
    assert_type(await engine.run(LLMInference("fast"), "text"), str)
    assert_type(engine.run_sync(Summary(), "text"), str)
    assert_type(engine.run_sync(Later(), "text"), list[str])


async def awaited() -> None:
    assert_type(await fetch.acall("hello"), int)
    assert_type(await LLMInference("fast").acall("hello"), str)


async def mistakes(engine: Engine) -> None:
    await engine.run(Summary(), 3)  # type: ignore[call-overload]  # ty: ignore
    await engine.run(Summary(), "text", limits=2)  # type: ignore[call-arg]  # ty: ignore
    LLMInference(3)  # type: ignore[call-overload]  # ty: ignore
