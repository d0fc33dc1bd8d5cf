"""`Run`: one input on its way through a module.

Everything that decides is synchronous: a run is a state table, an agenda of steps,
nodes that are ready, and one method, `drain`, that works them off. Tasks exist only for
what suspends: model calls, async ops, ops in threads, ``async def`` forwards. Nothing
polls.

When the outermost forward has returned, a failure that no forward has caught stops the
run (`errors="raise"`) or lets independent work finish first (`errors="collect"`).
"""

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from inf_engine.dispatch import dispatcher
from inf_engine.errors import ConfigurationError, TracingError
from inf_engine.execution import asking, endings, keeping
from inf_engine.execution.books import dropped, failure_of, keep_record, late
from inf_engine.execution.choice import Choice
from inf_engine.execution.failures import Failures
from inf_engine.execution.forwards import Forwards, Step
from inf_engine.execution.state import ExecutionState, NodeState
from inf_engine.execution.work import Work, call_plain
from inf_engine.graph import SMALL_KINDS, GraphNode
from inf_engine.journal import Row
from inf_engine.tasks import start_task
from inf_engine.tracing.fill import compute_small, filled, inputs_of, reopened
from inf_engine.tracing.tracer import NOBODY, Frame, Program, Tracer


class Run:
    """One run of a program (see the top of this file).

    Args:
        program: The module.
        args: Its positional inputs.
        kwargs: Its keyword inputs.
        work: Starts what suspends, and keeps the books of it.
        done: Called once, with this run, when everything in it has ended.
        check_output: Called with the captured output and this run when forward has
            returned; if it raises a TypeError, nothing more is started.
    """

    def __init__(
        self,
        program: Program,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        work: Work,
        done: Callable[["Run"], None],
        check_output: Callable[[Any, "Run"], None] | None = None,
    ) -> None:
        self.program = program
        self.args = args
        self.kwargs = kwargs
        self.work = work
        self.state = ExecutionState()
        self.tracer = Tracer(program, self)
        self.output: Any = None
        self.error: BaseException | None = None
        self.finished = False
        self._done = done
        self._check_output = check_output
        self._loop = asyncio.get_running_loop()
        self._agenda: deque[Step] = deque()
        self._ready: deque[GraphNode] = deque()
        self._contexts: dict[int, Context] = {}
        self._waiting: dict[int, list[Step]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.jobs: dict[int, asking.NodeJob] = {}
        self.unkept: dict[int, Row] = {}
        self.later = self._agenda.append
        self._forwards = Forwards(self, work.fibers)
        self.failures = Failures(self.state)
        self._captured: Any = None
        self._outputs: tuple[GraphNode, ...] = ()
        self._unopened = 0
        self._returned = False
        self._draining = False
        self._timer: asyncio.TimerHandle | None = None

    # -- life -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin: run forward until it returns or needs a value."""
        module, program = self.program.module, self.program
        limit = self.work.settings.timeout
        if limit is not None:
            expire = lambda: self.cancel(late(self, limit))  # noqa: E731
            self._timer = self._loop.call_later(limit, expire)
        if self.tracer.is_leaf(module):
            frame, fn = Frame(self.tracer), module.__call__
        else:
            frame = Frame(self.tracer, None, program.is_async(module))
            fn = module.forward
        self._forwards.open(frame, fn, self.args, self.kwargs, copy_context())
        self.drain()

    def cancel(self, error: BaseException) -> None:
        """Stop everything; `error` is the outcome."""
        if not self.finished:
            self.stop(error)
            self.drain()

    async def wait_closed(self) -> None:
        """Wait until no task of the run is left."""
        while tasks := [
            *[t for t in self._tasks.values() if not t.done()],
            *self._forwards.open_tasks(),
        ]:
            await asyncio.wait(tasks)

    def drain(self) -> None:
        """Work off everything that can go on now."""
        if self._draining or self.finished:
            return
        self._draining = True
        try:
            while self._work_off():
                pass
        finally:
            self._draining = False

    def _work_off(self) -> bool:
        """Make steps until none is left or one fails; say whether one failed."""
        try:
            while not self.finished:
                if self._agenda:
                    self._agenda.popleft()()
                elif self._ready:
                    self._execute(self._ready.popleft())
                elif not self._settle():
                    break
            return False
        except BaseException as exc:  # noqa: BLE001 - e.g. KeyboardInterrupt in an op
            if self.error is not None:
                raise
            self.stop(exc)
        return True

    def _settle(self) -> bool:
        """Finish if nothing is left; say whether there is more to drain."""
        if not self._returned:
            return False
        failed = self.failures.open() if self.error is None else None
        if failed is not None:
            at_once = self.work.settings.errors == "raise" or not self.state.unfinished
            if at_once:
                self.stop(failure_of(self, failed))
        if self._agenda or self._ready:
            return True
        if not self.state.unfinished and not self._forwards and not self._tasks:
            self._finish()
        return False

    def _finish(self) -> None:
        if self.error is None:
            try:
                self.tracer.holes.check_all_read()
                self.output = filled(self._captured, self.value_of)
            except BaseException as exc:  # noqa: BLE001 - of a node, a format spec ...
                self.error = self._named(exc)
                keep_record(self, self.error)
        self.finished = True
        if self._timer is not None:
            self._timer.cancel()
        done, self._done, self._check_output = self._done, _nothing, None
        self.tracer.host = NOBODY
        self._forwards.release()
        done(self)

    def stop(self, error: BaseException) -> None:
        """Set the outcome and cancel all that is unfinished."""
        if self.error is None:
            self.error = error
            keep_record(self, error)
        self._returned = True
        lost = asyncio.CancelledError("the run has ended")
        self._forwards.abort(None, lost)
        self._agenda.clear()
        self._ready.clear()
        for node in self.state.nodes:
            if not self.state.is_final(node.index):
                self._cancel(node, lost)
        for index in [*self.jobs, *self._tasks]:
            self.release(index)

    # -- forwards -------------------------------------------------------------------

    def forward_ended(
        self, frame: Frame, output: Any, error: BaseException | None
    ) -> None:
        """Take over what a forward returned, or raised."""
        endings.forward_ended(self, frame, output, error)

    def is_traced(self) -> bool:
        """Say whether every forward has ended, those of branches too."""
        return not self._forwards and not self._unopened

    def returned(self, captured: Any, deps: tuple[GraphNode, ...]) -> None:
        """Take over what the outermost forward returned."""
        self._captured = self.tracer.graph.output = captured
        self._outputs = deps
        self._returned = True
        if self._check_output is not None:
            try:
                self._check_output(captured, self)
            except TypeError as exc:
                self.stop(exc)

    def stop_with(self, error: BaseException) -> None:
        """Stop everything; the outcome names the node, if it is a node's failure."""
        self.stop(self._named(error))

    def _named(self, error: BaseException) -> BaseException:
        """Return what a run raises for an error, which may be that of a node."""
        node = self.failures.node_of(error)
        return error if node is None else failure_of(self, node)

    # -- the tracer's host ------------------------------------------------------------

    def added(self, node: GraphNode, context: Context | None) -> None:
        """Take over a node that was just recorded."""
        if node.kind == "llm":
            self._check_alias(node)
        if self.work.memory is not None:
            self.work.memory.places.add(node, _is_async())
        if context is not None:
            self._contexts[node.index] = context
        if node.kind == "first":
            Choice(self, node).watch()
        else:
            self._place(node)
        if not self._draining:
            self._loop.call_soon(self.drain)

    def _place(self, node: GraphNode) -> None:
        """Put a node into the state table."""
        state = self.state.add(node, node.deps)
        if node.kind == "branch" and state is not NodeState.CANCELLED:
            self._unopened += 1
        if state is NodeState.READY:
            self._push(node)

    def _check_alias(self, node: GraphNode) -> None:
        """Refuse a call of a module that was registered nowhere, before it is paid."""
        try:
            self.work.manager.check(node.target.alias, node.path)
        except ConfigurationError:
            self.tracer.graph.nodes.pop()
            raise

    def wait(self, frame: Frame, node: GraphNode, why: str) -> Any:
        """Pause the running forward until the node has ended; give value or raise."""
        if frame.is_async:
            raise TracingError(
                f"cannot {why} the output of {node} in an async function: its value "
                "is not known yet, and it was made by a sync forward. Hand it over as "
                "an argument, pass it on in an f-string, or use str(p) outside."
            )
        if not self.state.is_final(node.index):
            self._forwards.pause(node, why)
        return self._outcome(node)

    def settle(self, frame: Frame, node: GraphNode) -> None:
        """Pause the running forward until the node has ended, in whatever way."""
        if not self.state.is_final(node.index):
            self._forwards.pause(node, "wait for")

    def wait_async(self, frame: Frame, node: GraphNode) -> Generator[Any, Any, Any]:
        """Wait in a task until the node has ended; give value or raise."""
        if not self.state.is_final(node.index):
            turn = self._loop.create_future()
            self.when_ended(node, partial(_wake, turn))
            try:
                yield from turn
            except asyncio.CancelledError:
                self.abandon(node, dropped(node))
                self._loop.call_soon(self.drain)
                raise
        return self._outcome(node)

    def _outcome(self, node: GraphNode) -> Any:
        self.tracer.graph.forced[node] = None
        error = self.state.errors.get(node.index)
        if error is None:
            return self.state.values[node.index]
        self.failures.caught(node)
        raise error

    def value_of(self, node: GraphNode) -> Any:
        """Return the value of a node that has ended, or raise what it failed with."""
        error = self.state.errors.get(node.index)
        if error is not None:
            raise error
        return self.state.values[node.index]

    # -- nodes ------------------------------------------------------------------------

    def _push(self, node: GraphNode) -> None:
        self.work.ready(node)
        self._ready.append(node)

    def _execute(self, node: GraphNode) -> None:
        if self.state.is_final(node.index):
            return
        self.state.start(node.index)
        replay = self.work.replay
        if replay is not None and replay.answer(self, node):
            if self.state.is_final(node.index):
                self._contexts.pop(node.index, None)
            return
        self.begin(node)

    def begin(self, node: GraphNode) -> None:
        """Do what a node is there for."""
        kind = node.kind
        if kind in SMALL_KINDS:
            self._call(node, partial(compute_small, node))
        elif kind == "op" and node.target.journal and keeping.recall(self, node):
            self._contexts.pop(node.index, None)
        elif kind == "op" and node.target.mode == "inline":
            self._call(node, partial(self._call_inline, node, node.target.fn))
        elif kind == "leaf" and not self.program.is_async(node.target):
            self._call(node, partial(self._call_inline, node, node.target.forward))
        elif kind == "branch":
            self._open_branch(node)
        elif kind == "llm":
            asking.ask(self, node, self._contexts.pop(node.index))
        else:
            self._spawn(node)

    def _spawn(self, node: GraphNode) -> None:
        context = self._contexts.pop(node.index)
        context.run(dispatcher.set, None)
        self.start_task(node, self._perform(node), context)

    def start_task(
        self, node: GraphNode, coroutine: Coroutine[Any, Any, None], context: Context
    ) -> None:
        """Start the task of a node, which says `task_done` in its end."""
        task = start_task(self._loop, coroutine, context)
        if not task.done():
            self._tasks[node.index] = task

    def task_done(self, node: GraphNode) -> None:
        """Forget the task of a node, and go on."""
        self._tasks.pop(node.index, None)
        self.drain()
        self.work.manager.pump()

    def _call(self, node: GraphNode, fn: Callable[[Any, Any], Any]) -> None:
        try:
            value = fn(*self.inputs(node))
        except Exception as exc:  # noqa: BLE001 - the outcome of user code
            self.fail(node, exc)
        else:
            self.complete(node, value)

    def _call_inline(
        self, node: GraphNode, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        self.work.started(node)
        return self._contexts.pop(node.index).run(call_plain, fn, args, kwargs)

    async def _perform(self, node: GraphNode) -> None:
        try:
            args, kwargs = self.inputs(node)
            value = await self.work.perform(node, args, kwargs)
        except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001
            self.fail(node, exc)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        except BaseException as exc:  # noqa: BLE001 - it ends the run, not the loop
            self.stop(exc)
        else:
            self.complete(node, value)
        finally:
            self.task_done(node)

    def _open_branch(self, node: GraphNode) -> None:
        fn = node.target
        frame = Frame(self.tracer, node, inspect.iscoroutinefunction(fn))
        given = (node.args, node.kwargs)
        self._unopened -= 1
        context = self._contexts.pop(node.index)
        try:
            args, kwargs = self.inputs(node) if node.deps else reopened(given, frame)
        except Exception as exc:  # noqa: BLE001 - e.g. a format spec that fails
            self.fail(node, exc)
        else:
            self._forwards.open(frame, fn, args, kwargs, context)

    def inputs(self, node: GraphNode) -> Any:
        """Return the arguments of a node, all known."""
        return inputs_of(node, self.value_of)

    def complete(self, node: GraphNode, value: Any) -> None:
        """Give a node its value, unless it has ended already."""
        if self.state.is_final(node.index):
            return
        if self.unkept and not keeping.keep(self, node, value):
            return
        for user in self.state.complete(node.index, value):
            self._push(user)
        self.work.ended(node, None)
        self._notify(node)

    def fail(self, node: GraphNode, error: BaseException) -> None:
        """End a node with an error, unless it has ended already."""
        if self.state.is_final(node.index):
            return
        self.failures.add(node, error)
        self.work.ended(node, error)
        self._end(self.state.fail(node.index, error))

    def abandon(self, node: GraphNode, error: BaseException) -> None:
        """Cancel a node that nothing waits for, and what only it was waiting for."""
        stack = [node]
        while stack:
            here = stack.pop()
            index = here.index
            if self.state.is_final(index) or self._is_wanted(index):
                continue
            self.failures.dropped(here)
            self._cancel(here, error)
            self._forwards.abort(here, error)
            self.release(index)
            if here.kind == "branch":
                stack += [inner for inner in self.state.nodes if inner.parent is here]
            stack += here.deps

    def _is_wanted(self, index: int) -> bool:
        """Say whether a node or the output waits for a node."""
        wanted = any(dep.index == index for dep in self._outputs)
        return wanted or bool(self.state.users(index))

    def _cancel(self, node: GraphNode, error: BaseException) -> None:
        """End a node that has not ended, and tell if it had begun."""
        if self.state.states[node.index] is NodeState.RUNNING:
            self.work.ended(node, error)
        self._end(self.state.cancel(node.index, error))

    def release(self, index: int) -> None:
        """Cancel what goes on for a node: its job, its task."""
        job = self.jobs.pop(index, None)
        if job is not None:
            task = job.task
            asking.cancel(self, job)
            if task is not None:
                self._tasks[index] = task
                task.add_done_callback(partial(self._task_ended, index))
        elif index in self._tasks:  # it may not even have begun
            self._tasks[index].add_done_callback(partial(self._task_ended, index))
            self._tasks[index].cancel()

    def _task_ended(self, index: int, task: asyncio.Task[None]) -> None:
        self._tasks.pop(index, None)
        self.drain()

    def _end(self, nodes: list[GraphNode]) -> None:
        for node in nodes:
            unused = self._contexts.pop(node.index, None)
            if unused is not None and node.kind == "branch":
                self._unopened -= 1
            self._notify(node)

    def _notify(self, node: GraphNode) -> None:
        waiting = self._waiting.pop(node.index, None)
        if waiting:
            self._agenda.extend(waiting)

    def when_ended(self, node: GraphNode, then: Step) -> None:
        """Make a step once a node has ended, in whatever way."""
        if self.state.is_final(node.index):
            self._agenda.append(then)
        else:
            self._waiting.setdefault(node.index, []).append(then)


def _is_async() -> bool:
    """Say whether a coroutine is being traced here."""
    return bool(getattr(dispatcher.get(), "is_async", False))


def _nothing(run: Run) -> None:
    """Stand where the callback stood, once it has been called."""


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
