"""`Forwards`: the running forwards of one run, each a greenlet or a task.

A synchronous forward is a greenlet: at a graph break it switches to whoever drains the
run, and is switched back when the value is there. A coroutine is a task.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import Any, Protocol

from greenlet import getcurrent, greenlet

from inf_engine.dispatch import dispatcher
from inf_engine.errors import TracingError
from inf_engine.graph import GraphNode
from inf_engine.tracing.tracer import Frame

Step = Callable[[], None]
Job = Callable[[], Any]
_IDLE_AT_MOST = 256


class Fiber(greenlet):
    """A greenlet that runs one forward after the other, and knows whose it runs."""

    owner: "Forwards | None" = None


def _work() -> None:
    """Run jobs; each switch back gives a `_Done`, or a node to wait for.

    An idle fiber holds on to nothing, and nothing in here to the fiber: it would be a
    cycle that no collector sees.
    """
    hub = getcurrent().parent
    assert hub is not None
    jobs = [hub.switch()]
    while True:
        jobs.append(hub.switch(_done(jobs.pop())))


class FiberPool:
    """Fibers that have no work now; a used one costs a tenth of a new one."""

    def __init__(self) -> None:
        self._idle: list[Fiber] = []

    def take(self) -> Fiber:
        """Return a fiber that is ready for a job."""
        if self._idle:
            return self._idle.pop()
        fiber = Fiber(_work)
        fiber.switch()  # greenlet keeps the arguments of the first switch
        return fiber

    def give(self, fiber: Fiber) -> None:
        """Take back a fiber whose job is done."""
        fiber.owner = None
        if len(self._idle) < _IDLE_AT_MOST and not fiber.dead:
            fiber.gr_context = None
            self._idle.append(fiber)


@dataclass(slots=True)
class _Done:
    """How a job ended."""

    output: Any
    error: BaseException | None

    def take(self) -> tuple[Any, BaseException | None]:
        """Return the outcome and forget it: the idle fiber still holds this object."""
        outcome = self.output, self.error
        self.output = self.error = None
        return outcome


def _done(job: Job) -> _Done:
    try:
        return _Done(job(), None)
    except BaseException as exc:  # noqa: BLE001 - the outcome of user code
        return _Done(None, exc)


class Owner(Protocol):
    """The run that forwards belong to."""

    @property
    def later(self) -> Callable[[Step], None]:
        """What takes a step for the agenda of the run."""
        ...

    def when_ended(self, node: GraphNode, then: Step) -> None:
        """Make a step once a node has ended."""
        ...

    def forward_ended(
        self, frame: Frame, output: Any, error: BaseException | None
    ) -> None:
        """Take over what a forward returned, or raised."""
        ...

    def drain(self) -> None:
        """Work off the agenda."""
        ...


class _Nobody:
    """Stands where the run stood that has ended."""

    def _ignore(self, *args: Any) -> None:
        pass

    later = when_ended = forward_ended = drain = _ignore


_NOBODY = _Nobody()


class Forwards:
    """Starts, pauses and ends forwards.

    Args:
        owner: The run that they belong to.
        pool: Where fibers come from.
    """

    __slots__ = ("_open", "_owner", "_pool")

    def __init__(self, owner: Owner, pool: FiberPool) -> None:
        self._owner = owner
        self._pool = pool
        self._open: dict[Frame, asyncio.Task[None] | Fiber] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def open(
        self,
        frame: Frame,
        fn: Callable[..., Any],
        args: Any,
        kwargs: Any,
        context: Context,
    ) -> None:
        """Start a forward in a context that is its own."""
        context.run(dispatcher.set, frame)
        if frame.is_async:
            coroutine = self._await(frame, partial(fn, *args, **kwargs))
            loop = asyncio.get_running_loop()
            self._open[frame] = loop.create_task(coroutine, context=context)
            return
        fiber = self._open[frame] = self._pool.take()
        fiber.owner = self
        fiber.gr_context = context
        self._owner.later(
            partial(self._switch, frame, fiber, partial(fn, *args, **kwargs))
        )

    def pause(self, node: GraphNode, why: str) -> None:
        """Pause the forward that runs now until a node has ended.

        Raises:
            TracingError: If no synchronous forward of this run is running here.
        """
        fiber = getcurrent()
        if not isinstance(fiber, Fiber) or fiber.owner is not self:
            raise TracingError(
                f"cannot {why} the output of {node} here: this code runs outside of "
                "the forward that made the call (another thread, or after it had "
                "returned). Do it in forward, or move it into an @op function."
            )
        assert fiber.parent is not None
        fiber.parent.switch(node)

    def abort(self, branch: GraphNode | None, error: BaseException) -> None:
        """End the forward of a branch, or all of them with None, by raising in it."""
        for frame in [f for f in self._open if branch is None or f.branch is branch]:
            running = self._open[frame]
            frame.open = False
            if isinstance(running, asyncio.Task):
                running.add_done_callback(partial(self._task_ended, frame))
                running.cancel()
                continue
            del self._open[frame]
            if running is not getcurrent():
                done = running.throw(error) if running else None
                if type(done) is _Done:
                    done.take()
                    self._pool.give(running)

    def release(self) -> None:
        """Forget the run, once it has ended: no cycle is to keep it alive."""
        self._owner = _NOBODY

    def open_tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks that have not ended."""
        running = self._open.values()
        return [t for t in running if isinstance(t, asyncio.Task) and not t.done()]

    def _switch(self, frame: Frame, fiber: Fiber, job: Job | None = None) -> None:
        """Run a fiber until it returns, fails, or needs the value of a node."""
        if not frame.open:
            return
        result = fiber.switch(job)
        if type(result) is not _Done:
            self._owner.when_ended(result, partial(self._switch, frame, fiber))
            return
        output, error = result.take()
        context = fiber.gr_context
        self._pool.give(fiber)
        if type(output) is CoroutineType and frame.branch is not None:
            self._go_on_as_task(frame, output, context or Context())
        else:
            self._close(frame, output, error)

    def _go_on_as_task(self, frame: Frame, coroutine: Any, context: Context) -> None:
        """Await what a plain function of `map` or `cond` returned: it was async."""
        del self._open[frame]
        frame.open = False
        inner = Frame(frame.tracer, frame.branch, is_async=True)
        self.open(inner, lambda: coroutine, (), {}, context)

    async def _await(self, frame: Frame, fn: Callable[[], Any]) -> None:
        try:
            output, error = await fn(), None
        except BaseException as exc:  # noqa: BLE001 - the outcome of user code
            output, error = None, exc
        if frame.open:
            self._close(frame, output, error)
        else:
            self._open.pop(frame, None)
        self._owner.drain()

    def _task_ended(self, frame: Frame, task: asyncio.Task[None]) -> None:
        """Forget a cancelled task, which may not even have begun."""
        self._open.pop(frame, None)
        self._owner.drain()

    def _close(self, frame: Frame, output: Any, error: BaseException | None) -> None:
        frame.open = False
        del self._open[frame]
        self._owner.forward_ended(frame, output, error)
