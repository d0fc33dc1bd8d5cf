"""`converse`: one model call to its value, the requests being all it does."""

import asyncio
import contextvars
from typing import Any, Literal

import pytest

from inf_engine import (
    EndpointConfig,
    Engine,
    LLMInference,
    OutputParseError,
    ToolLoopError,
)
from inf_engine.errors import RequestRefusedError
from inf_engine.execution.conversation import converse
from inf_engine.resources.manager import ResourceManager
from inf_engine.testing import LoopbackServer, VirtualTimeLoop
from inf_engine.types import LLMRequest, LLMResponse, ToolCall

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def talk(llm: LLMInference[Any], *script: Any) -> tuple[Any, list[LLMRequest]]:
    """The value of a call against a script, and the requests."""
    requests: list[LLMRequest] = []
    left = list(script)

    async def complete(request: LLMRequest) -> LLMResponse:
        requests.append(request)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return LLMResponse(text=answer) if isinstance(answer, str) else answer

    return VirtualTimeLoop.run(converse(llm, ("q",), {}, complete)), requests


def wants(*names: str, arguments: str = "{}", text: str = "") -> LLMResponse:
    """A response that calls tools."""
    calls = [ToolCall(f"c{n}", name, arguments) for n, name in enumerate(names)]
    return LLMResponse(text=text, tool_calls=tuple(calls))


def whoami() -> str:
    """Say who."""
    return who.get()


async def fail() -> str:
    """Fail."""
    raise LookupError("lost")


cancelled: list[str] = []


async def forever() -> str:
    """Never end."""
    try:
        await asyncio.sleep(1e6)
    except asyncio.CancelledError:
        cancelled.append("forever")
        raise
    return ""


def test_text_is_the_answer_as_it_came() -> None:
    """Nothing is stripped."""
    value, requests = talk(LLMInference("m"), "  a\n")
    assert value == "  a\n"
    assert len(requests) == 1


def test_each_re_ask_has_the_whole_conversation() -> None:
    """What was asked, answered and complained, in order."""
    llm = LLMInference("m", "System.", response_format=Literal["yes", "no"])
    value, requests = talk(llm, "maybe", "perhaps", "yes")
    assert value == "yes"
    roles = [[m.role for m in request.messages] for request in requests]
    asked, again = ["system", "user"], ["assistant", "user"]
    assert roles == [asked, asked + again, asked + again + again]
    assert requests[2].messages[4].text == "perhaps"
    assert requests[0].messages == requests[2].messages[:2]


def test_the_last_answer_is_the_one_that_is_reported() -> None:
    """Bounded by max_reasks."""
    llm = LLMInference("m", response_format=int, max_reasks=1)
    with pytest.raises(OutputParseError) as caught:
        talk(llm, "one", "two", "3")
    assert caught.value.raw == "two"


def test_sampling_is_the_same_in_every_request() -> None:
    """Temperature and friends do not get lost on the way."""
    llm = LLMInference(
        "m", response_format=int, temperature=0.5, max_tokens=9, stop="x", seed=3
    )
    _, requests = talk(llm, "one", "1")
    for request in requests:
        assert (request.temperature, request.max_tokens) == (0.5, 9)
        assert (request.stop, request.seed) == (("x",), 3)


def test_a_turn_keeps_the_models_text_and_its_calls() -> None:
    """Providers refuse a tool answer whose call is not there."""
    llm = LLMInference("m", tools=[whoami])
    value, requests = talk(llm, wants("whoami", text="Let me see."), "done")
    assert value == "done"
    said, answer = requests[1].messages[1:]
    assert (said.role, said.text, said.tool_calls[0].id) == (
        "assistant",
        "Let me see.",
        "c0",
    )
    assert (answer.role, answer.tool_call_id, answer.text) == ("tool", "c0", "nobody")


def test_tools_run_in_the_callers_context() -> None:
    """Sync ones in a thread too."""
    token = who.set("ann")
    try:
        _, requests = talk(LLMInference("m", tools=[whoami]), wants("whoami"), "done")
    finally:
        who.reset(token)
    assert requests[1].messages[-1].text == "ann"


def test_a_tool_that_raises_out_cancels_the_others_of_its_turn() -> None:
    """None is left running."""
    cancelled.clear()
    llm = LLMInference("m", tools=[fail, forever], tool_errors="raise")
    with pytest.raises(LookupError, match="lost"):
        talk(llm, wants("forever", "fail"))
    assert cancelled == ["forever"]


def test_cancelling_a_call_cancels_its_tools() -> None:
    """The conversation waits for them to end."""
    cancelled.clear()

    async def main() -> None:
        async def complete(request: LLMRequest) -> LLMResponse:
            return wants("forever")

        llm = LLMInference("m", tools=[forever])
        task = asyncio.ensure_future(converse(llm, ("q",), {}, complete))
        await asyncio.sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    VirtualTimeLoop.run(main())
    assert cancelled == ["forever"]


def test_tool_turns_and_re_asks_are_counted_apart() -> None:
    """A turn of tools is no re-ask."""
    llm = LLMInference(
        "m", tools=[whoami], response_format=int, max_reasks=1, max_tool_turns=2
    )
    value, requests = talk(llm, wants("whoami"), "one", wants("whoami"), "1")
    assert value == 1
    assert len(requests) == 4
    with pytest.raises(ToolLoopError, match="max_tool_turns"):
        talk(llm, *[wants("whoami")] * 3)


def test_a_failed_request_leaves_as_it_is() -> None:
    """Whoever sends it decides about retries."""
    with pytest.raises(RequestRefusedError, match="no"):
        talk(LLMInference("m"), RequestRefusedError("no"))


@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic"])
async def test_tools_and_typed_answers_over_the_wire(provider: str) -> None:
    """A tool turn, a misfit and a re-ask against a server of either provider."""

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    call = {"name": "add", "arguments": {"a": 1, "b": 2}}
    script = [{"tool_calls": [call, {**call, "id": "second"}]}, "three", "3"]
    async with LoopbackServer(script) as server:
        is_anthropic = provider == "anthropic"
        url = server.anthropic_url if is_anthropic else server.base_url
        config = EndpointConfig(provider, "x", base_url=url)
        environ = {"ANTHROPIC_API_KEY": "k"}
        async with Engine(ResourceManager({"m": config}, environ=environ)) as engine:
            llm = LLMInference("m", tools=[add], response_format=int, max_tokens=50)
            assert await engine.run(llm, "1 + 2?") == 3
        assert server.count == 3
        told = str(server.requests[1].body["messages"])
        assert told.count("call_0") == 2
        assert told.count("second") == 2
        assert "three" in str(server.requests[2].body["messages"])
