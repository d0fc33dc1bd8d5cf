"""`Work`: does what suspends for one run, and keeps the books of it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from inf_engine.dispatch import dispatcher
from inf_engine.errors import AnswerError, DeadlineError
from inf_engine.execution.events import (
    Answer,
    Event,
    NodeFinished,
    NodeStarted,
    TokenDelta,
    TryFinished,
)
from inf_engine.execution.forwards import FiberPool
from inf_engine.execution.recall import RunMemory
from inf_engine.execution.replay import Replay
from inf_engine.execution.settings import ExecutionSettings
from inf_engine.graph import GraphNode
from inf_engine.record import Call, cost_of
from inf_engine.resources.hedging import Hedge
from inf_engine.resources.job import Job
from inf_engine.resources.ledger import Reuse
from inf_engine.resources.manager import ResourceManager
from inf_engine.types import LLMResponse, Usage

Tell = Callable[[Event], None]


@dataclass(slots=True)
class Entry:
    """The book of one node; times are seconds on the loop's clock."""

    ready: float | None = None
    started: float | None = None
    ended: float | None = None
    calls: tuple[Call, ...] = ()
    attempts: int = 0
    deadline: asyncio.Timeout | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def usage(self) -> Usage:
        """The sum over the calls that were answered."""
        paid = [call.paid for call in self.calls]
        return Usage.total([answer.usage for answer in paid if answer is not None])


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
        memory: Where answers are kept, None for nowhere.
        replay: Answers calls from a record, None for none.
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
        memory: RunMemory | None = None,
        replay: Replay | None = None,
    ) -> None:
        self.memory = memory
        self.replay = replay
        self.number = number
        self.manager = manager
        self.settings = settings
        self.keep = keep
        self.fibers = fibers
        self.entries: dict[int, Entry] = {}
        self._keeps_ops = keep or tell is not None
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
        paid = [call.paid for e in self.entries.values() for call in e.calls]
        return Usage.total([answer.usage for answer in paid if answer is not None])

    @property
    def cost(self) -> float | None:
        """What all answers of the run cost in USD, None if one's price is unknown."""
        return cost_of([call for e in self.entries.values() for call in e.calls])

    # -- books ------------------------------------------------------------------------

    def ready(self, node: GraphNode) -> None:
        """Note that all a node waits for is known."""
        kind = node.kind
        if kind == "llm" or (self._keeps_ops and (self.keep or kind in ("op", "leaf"))):
            self.entries[node.index] = Entry(ready=self._loop.time())

    def started(self, node: GraphNode) -> None:
        """Note that a request left or a function started."""
        entry = self.entries.get(node.index)
        if entry is None and self._tell is None:
            return
        at = self._loop.time()
        if entry is not None and entry.started is None:
            entry.started = at
            if entry.deadline is not None:
                entry.deadline.reschedule(at + (self.settings.node_timeout or 0.0))
        if self._tell is not None:
            self._tell(NodeStarted(self.number, node.name, node.alias, at))

    def sent(self, node: GraphNode, at: float) -> None:
        """Note that a request left; it may be the first of its node or not."""
        self.entries[node.index].attempts += 1
        self._note_start(node, at)

    def _note_start(self, node: GraphNode, at: float) -> None:
        entry = self.entries[node.index]
        if entry.started is None:
            entry.started = at
        if self._tell is not None:
            self._tell(NodeStarted(self.number, node.name, node.alias, at))

    def received(
        self,
        job: Any,
        attempt: Job,
        outcome: LLMResponse | BaseException,
        reused: Reuse | None = None,
        kept: Usage | None = None,
    ) -> None:
        """Note how a try ended, or that its answer was there before."""
        if self._tell is not None and reused is None:
            self._tell(self._try_finished(job, attempt, outcome))
        response = outcome if isinstance(outcome, LLMResponse) else None
        error = outcome if isinstance(outcome, Exception) else None
        if response is None and error is None:
            return
        call = Call(
            job.request,
            response,
            error,
            attempt.since - self.began,
            self._loop.time() - attempt.since,
            attempt.waited,
            reused,
            kept or Usage(),
        )
        self.entries[job.node.index].calls += (call,)

    def _try_finished(
        self, job: Any, attempt: Job, outcome: LLMResponse | BaseException
    ) -> TryFinished:
        """Return what is told of a try, without any text."""
        error = None if isinstance(outcome, LLMResponse) else outcome
        paid = error.response if isinstance(error, AnswerError) else outcome
        config, at = attempt.config, self._loop.time()
        return TryFinished(
            run=self.number,
            node=job.node.name,
            alias=attempt.alias,
            at=at,
            seconds=at - attempt.since,
            waited=attempt.waited,
            provider="" if config is None else config.provider,
            model=attempt.request.model or ("" if config is None else config.model),
            base_url="" if config is None else config.base_url,
            answer=_answer(paid) if isinstance(paid, LLMResponse) else None,
            error=error,
            is_hedge=isinstance(attempt, Hedge),
        )

    def reused(
        self, job: Any, response: LLMResponse, source: Reuse, kept: Usage
    ) -> None:
        """Note an answer that was paid for before, and what it took then."""
        self._note_start(job.node, job.since)
        self.received(job, job, response, source, kept)

    def limit(self, node: GraphNode, expire: Callable[[], None]) -> None:
        """Let a node expire `node_timeout` after its first request left."""
        entry = self.entries[node.index]
        if entry.timer is None and self.settings.node_timeout is not None:
            entry.timer = self._loop.call_later(self.settings.node_timeout, expire)

    def ended(self, node: GraphNode, error: BaseException | None) -> None:
        """Note that a node is done or has failed."""
        entry = self.entries.get(node.index)
        if entry is not None:
            entry.ended = self._loop.time()
            if entry.timer is not None:
                entry.timer.cancel()
                entry.timer = None
        if self._tell is not None and node.kind in ("llm", "op", "leaf"):
            at = self._loop.time()
            entry = entry or Entry()
            seconds = 0.0 if entry.started is None else at - entry.started
            self._tell(
                NodeFinished(
                    self.number, node.name, node.alias, at, seconds, entry.usage, error
                )
            )

    # -- what suspends ----------------------------------------------------------------

    def perform(
        self, node: GraphNode, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[Any]:
        """Begin an async leaf, or an op that suspends; await its value.

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
        self.started(node)
        if node.kind == "leaf":
            return node.target.forward(*args, **kwargs)
        if node.target.mode == "thread":
            return asyncio.to_thread(_returned, node.target.fn, args, kwargs)
        return node.target.fn(*args, **kwargs)

    def delta(self, node: GraphNode) -> Callable[[str], None] | None:
        """Return what takes the pieces of a node's text, None if nobody wants them."""
        wants = self._wants_tokens
        if self._tell is None or wants is None or not wants(node):
            return None
        return self._teller(node, self._tell)

    def _teller(self, node: GraphNode, tell: Tell) -> Callable[[str], None]:
        number, name, loop = self.number, node.name, self._loop
        return lambda text: tell(TokenDelta(number, name, text, loop.time()))


def _answer(response: LLMResponse) -> Answer:
    """Return what is told of an answer."""
    usage, cost = response.usage, response.cost
    return Answer(response.model, response.id, response.finish_reason, usage, cost)


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
