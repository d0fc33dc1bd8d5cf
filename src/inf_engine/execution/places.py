"""`Places`: where in the program a call stands, whenever its request is sent.

Equal calls of one input are told apart by their place, for they arrive as their inputs
do: in any order. A place is counted while forward is traced: the calls of a module are
numbered in the order in which forward makes them, apart in each branch, and in an
``async def forward`` in each task of it. Tasks are numbered as they make their first
call, those of each coroutine function apart.

What stays a matter of arrival: two tasks of one function that make their first calls
in another order than the last time, and ask the same. Their answers may change places.
"""

import asyncio
from weakref import WeakKeyDictionary

from inf_engine.graph import GraphNode


class Places:
    """The places of the calls of one run; tell it of each as it is recorded."""

    __slots__ = ("_counts", "_places", "_tasks")

    def __init__(self) -> None:
        self._counts: dict[tuple[str, ...], int] = {}
        self._places: dict[int, str] = {}
        self._tasks: WeakKeyDictionary[asyncio.Task[object], str] | None = None

    def add(self, node: GraphNode, is_async: bool) -> None:
        """Take note of a node that was just recorded.

        Args:
            node: The node; only calls and branches, which may hold calls, count.
            is_async: Whether a coroutine made it, which may have several tasks.
        """
        if node.kind not in ("llm", "op", "branch"):
            return
        above = "" if node.parent is None else self._places[node.parent.index] + "/"
        task = self._task(above) if is_async else ""
        number = self._count(above, task, node.path)
        name = node.path if node.kind == "branch" else ""
        self._places[node.index] = f"{above}{task}{name}{number}"

    def of(self, node: GraphNode) -> str:
        """Return the place of a call, such as ``0`` or ``map1/0``."""
        return self._places[node.index]

    def _count(self, *what: str) -> int:
        number = self._counts.get(what, 0)
        self._counts[what] = number + 1
        return number

    def _task(self, above: str) -> str:
        """Return what the running task is called: its function and number."""
        task = asyncio.current_task()
        if task is None:
            return ""
        if self._tasks is None:
            self._tasks = WeakKeyDictionary()
        name = self._tasks.get(task)
        if name is None:
            function = getattr(task.get_coro(), "__qualname__", "")
            name = f"{function}{self._count(above, 'task', function)}:"
            self._tasks[task] = name
        return name
