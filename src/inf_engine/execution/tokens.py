"""`TokenStream`: the text of the one node that is the output, as it is written.

What was handed out cannot be taken back. When the endpoint breaks off and is tried
again, the new answer is compared with what is out already, and goes on behind it.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from inf_engine.errors import AnswerError
from inf_engine.execution.events import Event, NodeStarted, TokenDelta
from inf_engine.execution.run import Run
from inf_engine.graph import GraphNode


class TokenStream:
    """An observer of one run, and an async iterator over the text of its output.

    Args:
        strict: Whether to refuse an output that is not the text of one model call;
            else such a one is not handed out before its end.
    """

    wants_tokens = True

    def __init__(self, *, strict: bool = True) -> None:
        self._strict = strict
        self._node: GraphNode | None = None
        self._texts: dict[str, str] = {}
        self._given = ""
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()

    @property
    def options(self) -> dict[str, Any]:
        """What a run is started with so that this hears of its text."""
        return {
            "wants_tokens": self.wants,
            "check_output": self.check,
            "observers": [self],
        }

    def check(self, output: Any, run: Run) -> None:
        """Refuse an output that is not the text of one model call.

        Args:
            output: A node, or the text of one that forward waited for.
            run: The run that it is the output of.

        Raises:
            TypeError: If it is anything else.
        """
        if isinstance(output, str):
            output = _writer(output, run) or output
        if not _is_text_call(output):
            if not self._strict:
                return
            raise TypeError(
                "stream_tokens needs a module whose output is the text of one model "
                f"call, not {_described(output)}. Return that call's output itself, or "
                "use engine.run."
            )
        self._node = output
        self._hand_out()

    def wants(self, node: GraphNode) -> bool:
        """Say whether the text of a node may be the output; with tools only its end."""
        plain = node.target.output_type.is_text and not node.target.tools
        return plain and (self._node is None or node is self._node)

    def __call__(self, event: Event) -> None:
        if isinstance(event, NodeStarted):
            self._texts[event.node] = ""
        elif isinstance(event, TokenDelta):
            self._texts[event.node] = self._texts.get(event.node, "") + event.text
            if self._node is not None and event.node == self._node.name:
                self._hand_out()

    def rest(self, output: str) -> str:
        """Return what of the output was not handed out yet.

        Raises:
            AnswerError: If a later try wrote something else than what is out already.
        """
        if not output.startswith(self._given):
            raise AnswerError(
                f"the endpoint of {self._node} broke off after {len(self._given)} "
                "characters had been handed out, and the next try wrote another text. "
                "Use engine.run, or start again."
            )
        return output[len(self._given) :]

    def end(self, task: asyncio.Task[Any]) -> None:
        """Note that the run has ended."""
        if not task.cancelled():
            task.exception()  # or asyncio reports it when nobody asks
        self.close()

    def close(self) -> None:
        """Let the iterator end."""
        self._pieces.put_nowait(None)

    def _hand_out(self) -> None:
        text = self._texts.get(self._node.name, "") if self._node else ""
        if len(text) > len(self._given) and text.startswith(self._given):
            self._pieces.put_nowait(text[len(self._given) :])
            self._given = text

    async def __aiter__(self) -> AsyncIterator[str]:
        while (piece := await self._pieces.get()) is not None:
            yield piece


def _is_text_call(output: Any) -> bool:
    is_call = isinstance(output, GraphNode) and output.kind == "llm"
    return is_call and output.target.output_type.is_text


def _writer(text: str, run: Run) -> GraphNode | None:
    """Return the model call that wrote a text; of equal ones, the very text's."""
    values = run.state.values
    equal = [
        node
        for node in filter(_is_text_call, run.state.nodes)
        if values[node.index] == text
    ]
    return next((n for n in equal if values[n.index] is text), next(iter(equal), None))


def _described(output: Any) -> str:
    if isinstance(output, GraphNode):
        return f"the {output.kind} node {output}"
    return f"a {type(output).__name__}"
