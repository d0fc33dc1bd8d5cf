"""`Tracer` records the calls of one run; `Frame` answers those of one forward.

Define-by-run: forward runs with the real inputs, and a call of a leaf leaves a node and
a proxy. Most runs have one frame. A branch (`cond`, `map`, a child of the other kind)
gets a frame of its own, so that a graph break in it pauses nothing else.

What runs the nodes is the host's business: the tracer tells it of each node, and asks
it for a value when Python cannot go on without one. Decisions that a subclass may
change: `Tracer.is_leaf` and `Tracer.path_of`.
"""

import threading
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Protocol

from inf_engine.dispatch import dispatcher
from inf_engine.errors import TracingError
from inf_engine.graph import GraphNode, InferenceGraph, NodeKind
from inf_engine.llm import LLMInference
from inf_engine.module import InferenceModule
from inf_engine.template import Hole, HoleTable, Template, interpolated, is_t_string
from inf_engine.tracing.explain import linked
from inf_engine.tracing.fill import filled, is_open
from inf_engine.tracing.proxy import AsyncProxy, Proxy
from inf_engine.tree import PLAIN, map_call, map_leaves

_FOREIGN_PROXY = (
    "a proxy of another run reached {where}: it was kept from an earlier forward. Keep "
    "results (the output of engine.run), not what forward sees while it is traced."
)


class Host(Protocol):
    """What runs the nodes of a trace."""

    def added(self, node: GraphNode, context: Context | None) -> None:
        """Take over a node that was just recorded, in its caller's context."""
        ...

    def wait(self, frame: "Frame", node: GraphNode, why: str) -> Any:
        """Pause the frame until the node has its value, and return that.

        Raises:
            BaseException: What made the node fail.
        """
        ...

    def wait_async(self, frame: "Frame", node: GraphNode) -> Generator[Any, Any, Any]:
        """Wait for a node in a task."""
        ...

    def settle(self, frame: "Frame", node: GraphNode) -> None:
        """Pause the frame until the node has ended, in whatever way."""
        ...


class Nobody:
    """The host of a run that has ended; with it, no cycle keeps the run alive."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TracingError(
            "the run of this proxy has ended. Keep results (the output of engine.run), "
            "not what forward sees while it is traced."
        )

    added = wait = wait_async = settle = _refuse


NOBODY = Nobody()


class Program:
    """A module as every run of it sees it: the paths of its modules, worked out once.

    Args:
        module: The outermost module.
    """

    def __init__(self, module: InferenceModule) -> None:
        self.module = module
        self.paths = {id(below): path for path, below in module.named_modules()}
        self._kinds: dict[int, tuple[InferenceModule, bool]] = {}

    def is_async(self, module: InferenceModule) -> bool:
        """Say whether the module's forward is a coroutine function, cached."""
        known = self._kinds.get(id(module))
        if known is None:
            known = self._kinds[id(module)] = (module, module.is_async())
        return known[1]


class Tracer:
    """Records the calls of one run into `graph`.

    Args:
        program: The module that is traced.
        host: What runs the nodes.
    """

    def __init__(self, program: Program, host: Host) -> None:
        self.program = program
        self.host = host
        self.graph = InferenceGraph()
        self.holes = HoleTable()
        self._counts: dict[str, int] = {}

    def is_leaf(self, module: InferenceModule) -> bool:
        """Say whether calls of a module are recorded instead of traced through."""
        return module.leaf

    def path_of(self, module: InferenceModule) -> str:
        """Return the attribute path of a module, first one if it is shared."""
        path = self.program.paths.get(id(module))
        if path is None:
            self.program.paths.update(
                (id(below), path) for path, below in self.program.module.named_modules()
            )
            # Hold what is registered nowhere, so that its id stays its own.
            path = self.program.paths.setdefault(id(module), "unregistered")
            self.program._kinds.setdefault(id(module), (module, module.is_async()))
        return path

    def add(
        self,
        kind: NodeKind,
        path: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deps: tuple[GraphNode, ...],
        parent: GraphNode | None,
    ) -> GraphNode:
        """Record a node whose arguments are captured already."""
        label = path or kind
        number = self._counts[label] = self._counts.get(label, 0) + 1
        nodes = self.graph.nodes
        node = GraphNode(
            len(nodes), kind, path, number, target, args, kwargs, deps, parent
        )
        nodes.append(node)
        return node

    def capture(self, value: Any, where: str) -> tuple[Any, tuple[GraphNode, ...]]:
        """Return a snapshot with nodes for proxies, and the nodes that it uses.

        Args:
            value: Any nested value.
            where: What it reached, for messages.

        Raises:
            TracingError: If a text in it is a damaged template, or a proxy in it
                belongs to another run.
        """
        deps: dict[GraphNode, None] = {}
        return map_leaves(self._looker(where, deps), value), tuple(deps)

    def capture_call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], path: str
    ) -> tuple[tuple[Any, ...], dict[str, Any], tuple[GraphNode, ...]]:
        """Return the arguments of a call of `path`, captured, and their nodes.

        Raises:
            TracingError: Like `capture`.
        """
        flat = None if kwargs else self._flat(args, path)
        if flat is not None:
            return flat
        deps: dict[GraphNode, None] = {}
        look = self._looker(f"a call of {path!r}", deps)
        return *map_call(look, args, kwargs), tuple(deps)

    def _flat(self, args: tuple[Any, ...], path: str) -> tuple[Any, Any, Any] | None:
        """Capture arguments the short way; None if one of them is nested."""
        captured: list[Any] = []
        deps: dict[GraphNode, None] = {}
        for arg in args:
            kind = type(arg)
            if (kind is Proxy or kind is AsyncProxy) and arg._inf_frame.tracer is self:
                node = arg._inf_node
                deps[node] = None
                captured.append(node)
            elif kind is str:
                captured.append(self._text(arg, f"a call of {path!r}", deps))
            elif kind in PLAIN and kind is not bytes:
                captured.append(arg)
            else:
                return None
        return tuple(captured), {}, tuple(deps)

    def _looker(self, where: str, deps: dict[GraphNode, None]) -> Callable[[Any], Any]:
        """Return what captures one leaf, and collects the nodes that it uses."""

        def look(leaf: Any) -> Any:
            kind = type(leaf)
            if kind is Proxy or kind is AsyncProxy:
                if leaf._inf_frame.tracer is not self:
                    raise TracingError(_FOREIGN_PROXY.format(where=where))
                deps[leaf._inf_node] = None
                return leaf._inf_node
            if kind is str or issubclass(kind, str) or is_t_string(leaf):
                text = interpolated(leaf) if is_t_string(leaf) else leaf
                return self._text(text, where, deps)
            if issubclass(kind, bytes):
                self.holes.check_bytes(leaf, where)
            return leaf

        return look

    def _text(self, text: str, where: str, deps: dict[GraphNode, None]) -> Any:
        """Capture a text, and collect the nodes that fill its holes."""
        found = self.holes.scan(text, where)
        if type(found) is Template:
            for part in found.parts:
                if type(part) is Hole and part.known is None:
                    deps[part.source] = None
        return found

    def capture_error(
        self, error: BaseException
    ) -> tuple[list[tuple[BaseException, Any]], tuple[GraphNode, ...]]:
        """Return the exceptions whose arguments are not known yet, and their nodes.

        Args:
            error: What forward raised; its causes and the members of a group are
                looked at too.

        Raises:
            TracingError: Like `capture`.
        """
        waiting: list[tuple[BaseException, Any]] = []
        deps: dict[GraphNode, None] = {}
        for told in linked(error):
            captured, used = self.capture(told.args, "an exception")
            if is_open(captured):
                waiting.append((told, captured))
                deps.update(dict.fromkeys(used))
        return waiting, tuple(deps)


class Frame:
    """The dispatcher of one running forward.

    Args:
        tracer: Where calls are recorded.
        branch: The node of the branch, None for the outermost forward.
        is_async: Whether the forward is a coroutine.
    """

    __slots__ = ("branch", "is_async", "open", "proxy", "thread", "tracer")

    def __init__(
        self, tracer: Tracer, branch: GraphNode | None = None, is_async: bool = False
    ) -> None:
        self.tracer = tracer
        self.branch = branch
        self.is_async = is_async
        self.proxy = AsyncProxy if is_async else Proxy
        self.thread = threading.get_ident()
        self.open = True

    # -- calls --------------------------------------------------------------------

    def call_module(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record a leaf; trace through a composite."""
        tracer = self.tracer
        if tracer.is_leaf(module):
            kind: NodeKind = "leaf"
            if isinstance(module, LLMInference):
                kind = "llm"
                module.check_call(args, kwargs)
            path = tracer.path_of(module)
            return self._record(kind, path, module, args, kwargs, copy_context())
        child_is_async = tracer.program.is_async(module)
        if not child_is_async and not self.is_async:
            return module.forward(*args, **kwargs)
        path = tracer.path_of(module)
        if child_is_async and not self.is_async:
            return self._record(
                "branch", path, module.forward, args, kwargs, copy_context()
            )
        return self._start_branch(path, module.forward, args, kwargs)

    def call_op(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record the call of an op."""
        return self._record("op", op.name, op, args, kwargs, copy_context())

    def call_branch(
        self, name: str, fn: Callable[..., Any], args: tuple[Any, ...], wait: bool
    ) -> Any:
        """Record a forward that starts at once or when its arguments are known."""
        if not wait:
            return self._start_branch(name, fn, args, {})
        return self._record("branch", name, fn, args, {}, copy_context())

    def is_known(self, value: Any) -> bool:
        """Say whether a value is there already."""
        return type(value) is not Proxy and type(value) is not AsyncProxy

    def call_first(self, candidates: list[Any], good: Callable[[Any], bool]) -> Any:
        """Record the choice of the first good candidate."""
        return self._record("first", "first", good, tuple(candidates), {}, None)

    def format_parameter(self, parameter: Any, spec: str) -> str:
        """Return a hole that is filled with the parameter's value of now."""
        return self.tracer.holes.issue(parameter, spec, known=parameter.value)

    def small(
        self,
        kind: NodeKind,
        target: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Record what is done to a proxy."""
        path = f".{target}" if kind == "getattr" else target
        node = self._node(kind, path, target, args, kwargs or {}, None)
        awaited = self.is_async and AsyncProxy not in map(type, args)
        return (Proxy if awaited else self.proxy)(self, node)

    def _record(
        self,
        kind: NodeKind,
        path: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context | None,
    ) -> Any:
        return self.proxy(self, self._node(kind, path, target, args, kwargs, context))

    def _node(
        self,
        kind: NodeKind,
        path: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context | None,
    ) -> GraphNode:
        self.check_here(path)
        tracer = self.tracer
        args, kwargs, deps = tracer.capture_call(args, kwargs, path)
        node = tracer.add(kind, path, target, args, kwargs, deps, self.branch)
        tracer.host.added(node, context)
        return node

    def _start_branch(
        self,
        path: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Record a branch that starts at once, with proxies for what is not known."""
        self.check_here(path)
        args, kwargs, _ = self.tracer.capture_call(args, kwargs, path)
        node = self.tracer.add("branch", path, fn, args, kwargs, (), self.branch)
        self.tracer.host.added(node, copy_context())
        return self.proxy(self, node)

    def check_here(self, what: str) -> None:
        """Refuse calls from another thread, or after forward has returned.

        Raises:
            TracingError: In both cases.
        """
        if threading.get_ident() != self.thread:
            raise TracingError(
                f"{what!r} was called from another thread than its forward runs in. "
                "Call it in forward, and move slow Python into an @op(thread=True) "
                "function."
            )
        if not self.open:
            raise TracingError(
                f"{what!r} was called after its forward had returned, by a task, a "
                "callback or a generator it left behind. Await what forward starts."
            )

    # -- what a proxy asks for ------------------------------------------------------

    def hole(self, node: GraphNode, spec: str) -> str:
        """Return the token that stands for a node's value in a text."""
        self.check_here(node.name)
        return self.tracer.holes.issue(node, spec)

    def force(self, proxy: Any, why: str) -> Any:
        """Return the value of a proxy, pausing forward until it is known.

        Raises:
            TracingError: In an ``async def forward``, in a trace without a run, and
                outside of the running forward.
        """
        self._check_wait(type(proxy), proxy._inf_node, why)
        return self.tracer.host.wait(self, proxy._inf_node, why)

    def _check_wait(self, kind: type, node: GraphNode, why: str) -> None:
        """Refuse to wait for a value after forward, or instead of awaiting it."""
        if not self.open:
            raise TracingError(
                f"cannot {why} the output of {node}: the forward that made the call "
                "has returned. Keep results (the output of engine.run), not what "
                "forward sees while it is traced."
            )
        if self.is_async and kind is AsyncProxy:
            raise TracingError(
                f"cannot {why} the output of {node} before it is awaited. Write "
                "'value = await ...' first."
            )

    def wait(self, node: GraphNode) -> Generator[Any, Any, Any]:
        """Wait for the value of an awaited proxy."""
        self.check_here(node.name)
        return self.tracer.host.wait_async(self, node)

    def resolve(self, value: Any) -> Any:
        """Return a nested value with everything in it known, pausing for it."""
        captured, deps = self.tracer.capture(value, "an operation on a value")
        values = {dep: self.tracer.host.wait(self, dep, "use") for dep in deps}
        return filled(captured, values.__getitem__)

    def mutate(
        self,
        proxy: Any,
        node: GraphNode,
        change: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Change a value in place, after all earlier calls have seen it as it was."""
        self._check_wait(type(proxy), node, "change")
        base = node
        while base.kind in ("getattr", "getitem"):
            base = base.deps[0]
        for user in self.tracer.graph.descendants(base):
            self.tracer.host.settle(self, user)
        value = self.tracer.host.wait(self, node, "change")
        args, kwargs = self.resolve((args, kwargs))
        users = [base, *self.tracer.graph.descendants(base)]
        self.tracer.holes.keep(users, partial(self.tracer.host.wait, self, why="keep"))
        return change(value, *args, **kwargs)

    def class_of(self, proxy: Any) -> Any:
        """Return the class of the value, for isinstance."""
        return type(self.force(proxy, "check the type of")) if self.open else Proxy

    def repr_of(self, proxy: Any) -> str:
        """Return a hole inside the running forward, a plain name elsewhere."""
        if self.open and dispatcher.get() is self:
            self.check_here(proxy._inf_node.name)
            return self.tracer.holes.repr_of(proxy._inf_node)
        return f"<{type(proxy).__name__} {proxy._inf_node.name}>"
