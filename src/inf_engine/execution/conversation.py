"""`Conversation`: one model call, which may take several requests.

Ask, answer the model's tool calls, ask again if the answer does not parse. It sends
nothing itself: `request` is what to send next, and `take` says what an answer means.
"""

import dataclasses
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

from inf_engine.errors import (
    JournalError,
    OutputParseError,
    ToolArgumentError,
    ToolLoopError,
)
from inf_engine.llm import LLMInference
from inf_engine.tasks import together
from inf_engine.tools import Tool
from inf_engine.types import LLMRequest, LLMResponse, Message, ToolCall

Complete = Callable[[LLMRequest], Awaitable[LLMResponse]]
CallTool = Callable[[Tool, str], Awaitable[str]]


class Next(Enum):
    """What an answer leads to."""

    DONE = "the value is there"
    ASK = "send the next request"
    TOOLS = "run the tools, then send the next request"


class Conversation:
    """One call of a module, from its arguments to its value.

    Args:
        llm: The module that was called.
        args: Its positional arguments, all known.
        kwargs: Its keyword arguments, all known.

    Attributes:
        request: What to send next.
        value: What the call gives, once `take` has returned ``Next.DONE``.

    Raises:
        ModuleError: If the arguments are no prompt.
    """

    __slots__ = ("_calls", "_llm", "_reasks", "_turns", "request", "value")

    def __init__(
        self, llm: LLMInference[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.request = llm.build_request(args, kwargs)
        self.value: Any = None
        self._llm = llm
        self._calls: LLMResponse | None = None
        self._turns = self._reasks = 0

    def take(self, response: LLMResponse) -> Next:
        """Take an answer in, and say what comes next.

        Raises:
            OutputParseError: If it does not fit the response format, for the last time.
            ToolLoopError: If the model keeps calling tools.
        """
        llm = self._llm
        if response.tool_calls and llm.tools:
            self._turns += 1
            _check_turns(llm, self._turns)
            self._calls = response
            return Next.TOOLS
        try:
            self.value = llm.output_type.parse(response.text)
        except OutputParseError as exc:
            self._reasks += 1
            if self._reasks > llm.max_reasks:
                raise
            said = Message("assistant", response.text)
            complaint = Message("user", llm.output_type.describe(exc))
            self.request = _longer(self.request, said, complaint)
            return Next.ASK
        return Next.DONE

    async def call_tools(self, call: CallTool = Tool.call) -> None:
        """Run the tools that the last answer calls, all at the same time.

        Args:
            call: Calls one of them, with its arguments as text.

        Raises:
            Exception: What a tool raised, where tools may raise.
        """
        response, self._calls = self._calls, None
        assert response is not None
        answers = await together(
            _call_tool(self._llm, asked, call) for asked in response.tool_calls
        )
        said = Message("assistant", response.text, tool_calls=response.tool_calls)
        self.request = _longer(self.request, said, *answers)


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
    talk = Conversation(llm, args, kwargs)
    while True:
        step = talk.take(await complete(talk.request))
        if step is Next.DONE:
            return talk.value
        if step is Next.TOOLS:
            await talk.call_tools()


def _longer(request: LLMRequest, *messages: Message) -> LLMRequest:
    return dataclasses.replace(request, messages=(*request.messages, *messages))


def _check_turns(llm: LLMInference[Any], turns: int) -> None:
    if turns > llm.max_tool_turns:
        raise ToolLoopError(
            f"the model behind {llm.alias!r} still called tools after "
            f"{llm.max_tool_turns} turns. Raise max_tool_turns, or tell it in the "
            "prompt when to stop."
        )


async def _call_tool(llm: LLMInference[Any], call: ToolCall, use: CallTool) -> Message:
    tool = llm.tools.get(call.name)
    if tool is None:
        text = f"there is no tool {call.name!r}; the tools are {', '.join(llm.tools)}"
        return Message("tool", text, tool_call_id=call.id)
    try:
        text = await use(tool, call.arguments)
    except ToolArgumentError as exc:
        text = str(exc)
    except JournalError:
        raise
    except Exception as exc:
        if llm.tool_errors == "raise":
            raise
        text = f"the tool failed: {type(exc).__name__}: {exc}"
    return Message("tool", text, tool_call_id=call.id)
