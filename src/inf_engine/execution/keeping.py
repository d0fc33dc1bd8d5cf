"""What a run does for an ``@op(journal=True)``: its value is kept, and not made again.

The value is committed before anything uses it, as an answer is. Without a journal such
an op is like any other. It may be a tool of a model, too.
"""

from typing import Any

from inf_engine.errors import JournalError
from inf_engine.graph import GraphNode
from inf_engine.tools import Tool


def recall(run: Any, node: GraphNode) -> bool:
    """Give an op the value that the journal has; say whether the op has ended.

    Args:
        run: The `Run` that it belongs to.
        node: The op; all that it waits for is known.
    """
    memory = run.work.memory
    if memory is None or memory.memory.journal is None:
        return False
    try:
        kept = memory.recall(node, *run.inputs(node))
    except Exception as exc:  # noqa: BLE001 - of the journal, or of user code
        run.fail(node, exc)
        return True
    if kept.found:
        run.complete(node, kept.value)
        return True
    run.unkept[node.index] = kept.row
    return False


def keep(run: Any, node: GraphNode, value: Any) -> bool:
    """Commit the value of an op; say whether it may be used, else the op has failed.

    Args:
        run: The `Run` that it belongs to.
        node: The op.
        value: What its function returned.
    """
    row = run.unkept.pop(node.index, None)
    if row is None:
        return True
    try:
        run.work.memory.keep(node, row, value)
    except JournalError as exc:
        run.fail(node, exc)
        return False
    return True


async def call_tool(run: Any, node: GraphNode, tool: Tool, arguments: str) -> str:
    """Call a tool, or give what the journal has of that call.

    Args:
        run: The `Run` that it belongs to.
        node: The model call.
        tool: The tool.
        arguments: What the model gives it, as text.

    Raises:
        JournalError: If the result could not be kept, or the input not be told from
            others.

    What the tool raises leaves unchanged, and is not kept.
    """
    memory = run.work.memory
    if not tool.is_journaled or memory is None or memory.memory.journal is None:
        return await tool.call(arguments)
    kept = memory.recall_tool(node, tool.fn, arguments)
    if kept.found:
        return kept.value
    text = await tool.call(arguments)
    memory.keep(node, kept.row, text)
    return text
