"""What a run does for a model call: ask, take the answer, run tools, ask again.

Nothing here suspends but tools: a request is a job of the resource manager, which
tells when it has ended.
"""

import asyncio
from contextvars import Context
from functools import partial
from typing import Any

from inf_engine.dispatch import dispatcher
from inf_engine.errors import ConfigurationError, DeadlineError, JournalError
from inf_engine.execution.conversation import Conversation, Next
from inf_engine.execution.keeping import call_tool
from inf_engine.graph import GraphNode
from inf_engine.journal import Row
from inf_engine.resources.job import Job, JobState, Order
from inf_engine.resources.ledger import Reuse
from inf_engine.types import LLMResponse, Usage


class NodeJob(Job):
    """One request of a model call.

    Args:
        run: The `Run` that the call belongs to.
        node: The call.
        talk: The conversation that the request is part of.
        order: Who goes first when slots are short.
        context: What the client and the tools run in.
    """

    __slots__ = (
        *("cache_row", "inside", "kept", "key", "node", "row", "run", "talk"),
        "waits",
    )

    def __init__(
        self,
        run: Any,
        node: GraphNode,
        talk: Conversation,
        order: Order,
        context: Context,
    ) -> None:
        work = run.work
        delta, retries = work.delta(node), work.settings.retries
        alias, request = node.target.alias, talk.request
        super().__init__(
            *(alias, request, order, retries, delta, context, node.path),
            work.settings.hedge,
        )
        self.inside = context
        self.run = run
        self.node = node
        self.talk = talk
        self.key = b""
        self.row: Row | None = None
        self.cache_row: Row | None = None
        self.kept: LLMResponse | JournalError | None = None
        self.waits = False

    def sent(self, attempt: Job) -> None:
        """Note when the request leaves; with it the time of the node begins to run."""
        work, node = self.run.work, self.node
        if work.settings.node_timeout is not None:
            work.limit(node, partial(_expired, self.run, node))
        work.sent(node, attempt.since)

    def received(self, attempt: Job, outcome: LLMResponse | BaseException) -> None:
        """Note the answer or the error, and how long it took; keep an answer."""
        work = self.run.work
        work.received(self, attempt, outcome)
        if work.memory is not None and isinstance(outcome, LLMResponse):
            try:
                self.kept = work.memory.memory.keep(self, outcome, self.stored)
                self.waits = self.kept is None
            except JournalError as exc:
                self.kept = exc

    def stored(self, outcome: LLMResponse | JournalError) -> None:
        """Go on with an answer that was kept together with others, or was not."""
        self.waits = False
        self.kept = outcome
        self.ended(outcome)

    def reused(self, response: LLMResponse, source: Reuse, kept: Usage) -> None:
        """Take an answer that was paid for before, and what it took then."""
        work = self.run.work
        self.since = work.now()
        work.reused(self, response, source, kept)
        if self.delta is not None:
            self.delta(response.text)
        self.ended(response)

    def ended(self, outcome: LLMResponse | BaseException) -> None:
        """Go on with the answer, or fail the node."""
        run, node = self.run, self.node
        if self.waits or run.jobs.get(node.index) is not self:
            return
        del run.jobs[node.index]
        outcome = self.kept or outcome
        if isinstance(outcome, LLMResponse):
            _take(self, outcome)
        else:
            _failed(run, node, outcome)
        run.drain()
        memory = run.work.memory  # last: this failure may make the others unwanted
        if memory is not None and not isinstance(outcome, LLMResponse):
            memory.memory.drop(self)


def ask(run: Any, node: GraphNode, context: Context) -> None:
    """Begin a model call.

    Args:
        run: The `Run` that it belongs to.
        node: The call; all that it waits for is known.
        context: The context that it was made in.
    """
    try:
        talk = Conversation(node.target, *run.inputs(node))
    except Exception as exc:  # noqa: BLE001 - the outcome of user code
        run.fail(node, exc)
        return
    alias = node.target.alias
    if talk.request.images and not run.work.manager.reads_images(alias):
        run.fail(node, _reads_none(alias))
        return
    context.run(dispatcher.set, None)
    _send(run, node, talk, context)


def _reads_none(alias: str) -> ConfigurationError:
    return ConfigurationError(
        f"{alias!r} is bound to a model that reads no images (provider 'local', or "
        "images = false), and its prompt has one: nothing was sent. Bind it to a model "
        "that reads images."
    )


def _send(run: Any, node: GraphNode, talk: Conversation, context: Context) -> None:
    """Send the next request of a conversation."""
    work, below = run.work, run.state.below(node.index)
    order = Order(-work.settings.priority, work.number, -below, node.index)
    job = run.jobs[node.index] = NodeJob(run, node, talk, order, context)
    if work.memory is None:
        work.manager.submit(job)
        return
    try:
        work.memory.send(job)
    except JournalError as exc:
        job.ended(exc)


def cancel(run: Any, job: NodeJob) -> None:
    """Take a request off the road: nobody waits for its answer any more."""
    if job.state is JobState.FOLLOWING:
        job.state = JobState.CANCELLED
        return
    run.work.manager.cancel(job)
    if run.work.memory is not None:
        run.work.memory.memory.drop(job)


def _take(job: NodeJob, response: LLMResponse) -> None:
    """Do what an answer leads to."""
    run, node = job.run, job.node
    try:
        step = job.talk.take(response)
    except Exception as exc:  # noqa: BLE001 - e.g. of the user's own type
        run.fail(node, exc)
        return
    if step is Next.DONE:
        run.complete(node, job.talk.value)
    elif step is Next.ASK:
        _send(run, node, job.talk, job.inside.copy())
    else:
        run.start_task(node, _use_tools(job), job.inside.copy())


async def _use_tools(job: NodeJob) -> None:
    """Run the tools that the model calls, and send it what they gave."""
    run, node = job.run, job.node
    try:
        await job.talk.call_tools(partial(call_tool, run, node))
    except BaseException as exc:  # noqa: BLE001 - the outcome of user code
        _failed(run, node, exc)
        if isinstance(exc, asyncio.CancelledError):
            raise
    else:
        if not run.state.is_final(node.index):
            _send(run, node, job.talk, job.inside.copy())
    finally:
        run.task_done(node)


def _failed(run: Any, node: GraphNode, error: BaseException) -> None:
    """Fail a node; what is no failure of a node ends the run, not the loop."""
    if isinstance(error, (Exception, asyncio.CancelledError)):
        run.fail(node, error)
    else:
        run.stop(error)


def _expired(run: Any, node: GraphNode) -> None:
    """End a node that took too long."""
    limit = run.work.settings.node_timeout
    run.fail(
        node,
        DeadlineError(
            f"{node} took longer than its node_timeout of {limit} s. Give it more with "
            "engine.using(node_timeout=...)."
        ),
    )
    run.release(node.index)
    run.drain()
    run.work.manager.pump()
