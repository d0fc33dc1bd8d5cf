"""One LLM node: ask, answer the model's tool calls, ask again if it does not parse."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from inf_engine.errors import OutputParseError, ToolArgumentError, ToolLoopError
from inf_engine.llm import LLMInference
from inf_engine.types import LLMRequest, LLMResponse, Message, ToolCall

Complete = Callable[[LLMRequest], Awaitable[LLMResponse]]


async def converse(
    llm: LLMInference[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    complete: Complete,
) -> Any:
    """Return the value of one call of `llm`.

    Args:
        llm: The module that was called.
        args: Its positional arguments, all known.
        kwargs: Its keyword arguments, all known.
        complete: Sends one request.

    Raises:
        OutputParseError: If no answer fits the response format.
        ToolLoopError: If the model keeps calling tools.
        EndpointError: If a request failed.
    """
    request = llm.build_request(args, kwargs)
    turns = reasks = 0
    while True:
        response = await complete(request)
        if response.tool_calls and llm.tools:
            turns += 1
            _check_turns(llm, turns)
            answers = await _call_tools(llm, response.tool_calls)
            said = Message("assistant", response.text, tool_calls=response.tool_calls)
            request = _longer(request, said, *answers)
            continue
        try:
            return llm.output_type.parse(response.text)
        except OutputParseError as exc:
            reasks += 1
            if reasks > llm.max_reasks:
                raise
            said = Message("assistant", response.text)
            complaint = Message("user", llm.output_type.describe(exc))
            request = _longer(request, said, complaint)


def _longer(request: LLMRequest, *messages: Message) -> LLMRequest:
    return dataclasses.replace(request, messages=(*request.messages, *messages))


def _check_turns(llm: LLMInference[Any], turns: int) -> None:
    if turns > llm.max_tool_turns:
        raise ToolLoopError(
            f"the model behind {llm.alias!r} still called tools after "
            f"{llm.max_tool_turns} turns. Raise max_tool_turns, or tell it in the "
            "prompt when to stop."
        )


async def _call_tools(
    llm: LLMInference[Any], calls: tuple[ToolCall, ...]
) -> list[Message]:
    """Call all tools at the same time; answers in the order of the calls."""
    tasks = [asyncio.ensure_future(_call_tool(llm, call)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _call_tool(llm: LLMInference[Any], call: ToolCall) -> Message:
    tool = llm.tools.get(call.name)
    if tool is None:
        text = f"there is no tool {call.name!r}; the tools are {', '.join(llm.tools)}"
        return Message("tool", text, tool_call_id=call.id)
    try:
        text = await tool.call(call.arguments)
    except ToolArgumentError as exc:
        text = str(exc)
    except Exception as exc:
        if llm.tool_errors == "raise":
            raise
        text = f"the tool failed: {type(exc).__name__}: {exc}"
    return Message("tool", text, tool_call_id=call.id)
