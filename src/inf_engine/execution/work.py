"""`Work`: does what suspends for one run, and keeps the books of it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from inf_engine.dispatch import dispatcher
from inf_engine.errors import (
    DeadlineError,
)
from inf_engine.execution.conversation import converse
from inf_engine.execution.events import (
    Event,
    NodeFinished,
    NodeStarted,
    TokenDelta,
)
from inf_engine.execution.forwards import FiberPool
from inf_engine.execution.settings import ExecutionSettings
from inf_engine.graph import GraphNode
from inf_engine.record import Call
from inf_engine.resources.gate import Order, Ticket
from inf_engine.resources.manager import ResourceManager, Watch
from inf_engine.types import LLMRequest, LLMResponse, Usage

Tell = Callable[[Event], None]


@dataclass(slots=True)
class Entry:
    """The book of one node; times are seconds on the loop's clock."""

    ready: float | None = None
    started: float | None = None
    ended: float | None = None
    calls: list[Call] = field(default_factory=list)
    attempts: int = 0
    deadline: asyncio.Timeout | None = None
    order: Order = Order(0, 0, 0, 0)
    ticket: Ticket | None = None
    holds_slot: bool = False

    @property
    def usage(self) -> Usage:
        """The sum over the calls that were answered."""
        return Usage.total(
            [call.response.usage for call in self.calls if call.response is not None]
        )


class Work:
    """What one run needs from the engine.

    Args:
        number: The number of the run in its engine; older ones go first.
        manager: The road to the clients.
        settings: How to run.
        tell: Takes events; None if nobody listens.
        wants_tokens: Says whether to stream the text of a node.
        keep: Whether to keep books of every node, not only of model calls.
        fibers: Where the greenlets of forwards come from.
    """

    def __init__(
        self,
        number: int,
        manager: ResourceManager,
        settings: ExecutionSettings,
        tell: Tell | None = None,
        wants_tokens: Callable[[GraphNode], bool] | None = None,
        keep: bool = False,
        *,
        fibers: FiberPool,
    ) -> None:
        self.number = number
        self.manager = manager
        self.settings = settings
        self.keep = keep
        self.fibers = fibers
        self.entries: dict[int, Entry] = {}
        self._tell = tell
        self._wants_tokens = wants_tokens
        self._loop = asyncio.get_running_loop()
        self.began = self._loop.time()

    def now(self) -> float:
        """The time on the loop's clock, seconds."""
        return self._loop.time()

    @property
    def usage(self) -> Usage:
        """The sum over all calls of the run."""
        return Usage.total([e.usage for e in self.entries.values() if e.calls])

    # -- books ------------------------------------------------------------------------

    def ready(self, node: GraphNode) -> None:
        """Note that all a node waits for is known."""
        told = self._tell is not None and node.kind in ("op", "leaf")
        if self.keep or node.kind == "llm" or told:
            self.entries[node.index] = Entry(ready=self._loop.time())

    def started(self, node: GraphNode) -> None:
        """Note that a request left or a function started."""
        entry = self.entries.get(node.index)
        at = self._loop.time()
        if entry is not None and entry.started is None:
            entry.started = at
            if entry.deadline is not None:
                entry.deadline.reschedule(at + (self.settings.node_timeout or 0.0))
        if self._tell is not None:
            self._tell(NodeStarted(self.number, node.name, node.alias, at))

    def ended(self, node: GraphNode, error: BaseException | None) -> None:
        """Note that a node is done or has failed."""
        entry = self.entries.get(node.index)
        if entry is not None:
            entry.ended = self._loop.time()
        if self._tell is not None and node.kind in ("llm", "op", "leaf"):
            at = self._loop.time()
            entry = entry or Entry()
            seconds = 0.0 if entry.started is None else at - entry.started
            self._tell(
                NodeFinished(
                    self.number, node.name, node.alias, at, seconds, entry.usage, error
                )
            )

    # -- slots ------------------------------------------------------------------------

    def queue(
        self, node: GraphNode, below: int, start: Callable[[GraphNode], None]
    ) -> None:
        """Ask for the slot of a model call.

        Args:
            node: The node.
            below: The length of the longest recorded path below it.
            start: Called with the node when the slot is there.
        """
        entry = self.entries[node.index]
        priority = -self.settings.priority
        entry.order = Order(priority, self.number, -below, node.index)
        granted = partial(self._granted, entry, start, node)
        entry.ticket = self.manager.queue(node.target.alias, entry.order, granted)

    def _granted(
        self, entry: Entry, start: Callable[[GraphNode], None], node: GraphNode
    ) -> None:
        entry.holds_slot = True
        start(node)

    def leave(self, node: GraphNode) -> None:
        """Leave the queue, or give the slot back if nothing was sent on it."""
        entry = self.entries.get(node.index)
        if entry is None or entry.ticket is None:
            return
        self.manager.leave(node.target.alias, entry.ticket)
        if entry.holds_slot:
            entry.holds_slot = False
            self.manager.give_back(node.target.alias)

    # -- what suspends ----------------------------------------------------------------

    def perform(
        self, node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[Any]:
        """Begin a model call, an async leaf, or an op that suspends; await its value.

        Args:
            node: The node.
            args: Its positional inputs.
            kwargs: Its keyword inputs.

        Raises:
            DeadlineError: If it took longer than `ExecutionSettings.node_timeout`.
        """
        limit = self.settings.node_timeout
        if limit is None:
            return self._begin(node, args, kwargs)
        return self._in_time(node, args, kwargs, limit)

    async def _in_time(
        self, node: GraphNode, args: Any, kwargs: Any, limit: float
    ) -> Any:
        entry = self.entries.setdefault(node.index, Entry())
        entry.deadline = asyncio.timeout(None)
        try:
            async with entry.deadline:
                return await self._begin(node, args, kwargs)
        except TimeoutError as exc:
            if not entry.deadline.expired():
                raise
            raise DeadlineError(
                f"{node} took longer than its node_timeout of {limit} s. Give it more "
                "with engine.using(node_timeout=...)."
            ) from exc

    def _begin(self, node: GraphNode, args: Any, kwargs: Any) -> Awaitable[Any]:
        if node.kind == "llm":
            return converse(node.target, args, kwargs, partial(self._complete, node))
        self.started(node)
        if node.kind == "leaf":
            return node.target.forward(*args, **kwargs)
        if node.target.mode == "thread":
            return asyncio.to_thread(_returned, node.target.fn, args, kwargs)
        return node.target.fn(*args, **kwargs)

    def _complete(self, node: GraphNode, request: LLMRequest) -> Awaitable[LLMResponse]:
        entry = self.entries[node.index]
        holds_slot, entry.holds_slot = entry.holds_slot, False
        return self.manager.complete(
            node.target.alias,
            request,
            order=entry.order,
            retries=self.settings.retries,
            watch=_Bookkeeper(self, node, request, self._delta(node)),
            holds_slot=holds_slot,
        )

    def _delta(self, node: GraphNode) -> Callable[[str], None] | None:
        tell = self._tell
        if tell is None or self._wants_tokens is None or not self._wants_tokens(node):
            return None
        number, name, loop = self.number, node.name, self._loop
        return lambda text: tell(TokenDelta(number, name, text, loop.time()))


class _Bookkeeper(Watch):
    """Writes the tries of one request into the books of its node."""

    __slots__ = ("_left_at", "_node", "_request", "_work")

    def __init__(
        self,
        work: Work,
        node: GraphNode,
        request: LLMRequest,
        delta: Callable[[str], None] | None,
    ) -> None:
        super().__init__(delta)
        self._work = work
        self._node = node
        self._request = request
        self._left_at = 0.0

    def sent(self) -> None:
        """Note when the request leaves."""
        self._left_at = self._work.now()
        self._work.entries[self._node.index].attempts += 1
        self._work.started(self._node)

    def received(self, outcome: LLMResponse | Exception) -> None:
        """Note the answer or the error, and how long it took."""
        answered = isinstance(outcome, LLMResponse)
        call = Call(
            self._request,
            outcome if answered else None,
            None if answered else outcome,
            self._left_at - self._work.began,
            self._work.now() - self._left_at,
        )
        self._work.entries[self._node.index].calls.append(call)


def call_plain(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call user code for which no forward is running."""
    dispatcher.set(None)
    return fn(*args, **kwargs)


def _returned(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function in a thread; no future can hold a StopIteration."""
    try:
        return fn(*args, **kwargs)
    except StopIteration as exc:
        raise RuntimeError("function raised StopIteration") from exc
