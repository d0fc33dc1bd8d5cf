"""`InferenceGraph`: what a trace recorded, as a list of nodes of a few kinds.

Nodes stand in trace order: a node only waits for nodes before it, but for the output of
a branch. The arguments of a node hold `GraphNode` where the call got a proxy and
`Template` where it got text with holes. A graph has no values; what the nodes gave is
in the `RunRecord`. Every walk is iterative: a chain of 100,000 nodes is ordinary.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, ClassVar, Literal, get_args

from inf_engine.errors import GraphError
from inf_engine.module import InferenceModule
from inf_engine.parameter import Parameter
from inf_engine.svg import graph_svg
from inf_engine.template import Hole, Template
from inf_engine.tree import map_leaves

NodeKind = Literal[
    "input",  # an argument of forward, while tracing without running
    "llm",  # a call of an LLMInference
    "op",  # a call of an @op function
    "leaf",  # a call of a module marked leaf = True
    "getattr",  # p.field
    "getitem",  # p[key]
    "call",  # p(...), p.method(...)
    "operator",  # p + q, p == q, -p ...
    "branch",  # a forward of its own: cond, map, a child of the other kind
    "first",  # the first good one of several
]
SMALL_KINDS = ("getattr", "getitem", "call", "operator")
_KINDS = get_args(NodeKind)


@dataclass(slots=True, eq=False)
class GraphNode:
    """One recorded call.

    Args:
        index: Place in the trace, from 0.
        kind: What was called.
        path: Attribute path of the module, or the name of the function or operation.
        number: How many calls of the same path came before, plus one.
        target: The module, op, function, attribute name or operator name.
        args: Positional arguments, nodes and templates in the place of values.
        kwargs: Keyword arguments, likewise.
        deps: The nodes that it waits for, each once, in order of appearance.
        parent: The branch that recorded it, None in the outermost forward.
        inner: For a branch, the nodes that its own output came from; they come later
            in the trace, so `InferenceGraph.topological_order` is what to walk.
    """

    index: int
    kind: NodeKind
    path: str
    number: int
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    deps: tuple["GraphNode", ...]
    parent: "GraphNode | None" = None
    inner: tuple["GraphNode", ...] = ()
    _tree_leaf: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Attribute path and call number, e.g. ``extract#2``."""
        return f"{self.path or self.kind}#{self.number}"

    @property
    def alias(self) -> str | None:
        """The alias that an LLM call asks for, else None."""
        return self.target.alias if self.kind == "llm" else None

    def __str__(self) -> str:
        return repr(self.name)

    def __repr__(self) -> str:
        return f"<{self.kind} node {self.name}>"


@dataclass(slots=True, eq=False)
class InferenceGraph:
    """The nodes of one trace, in trace order, and the output they lead to.

    Args:
        nodes: The nodes.
        output: What forward returned, nodes and templates in the place of values.
        forced: Nodes whose value forward itself used: graph breaks, awaited calls.
    """

    nodes: list[GraphNode] = field(default_factory=list)
    output: Any = None
    forced: dict[GraphNode, None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[GraphNode]:
        return iter(self.nodes)

    def node(self, name: str) -> GraphNode:
        """Return the node of that name.

        Raises:
            GraphError: If there is none.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise GraphError(f"no node {name!r} in a graph of {len(self)} nodes.")

    def dependents(self) -> list[list[GraphNode]]:
        """Return, for each node, the nodes whose value directly came from its."""
        below: list[list[GraphNode]] = [[] for _ in self.nodes]
        for node in self.nodes:
            for dep in (*node.deps, *node.inner):
                below[dep.index].append(node)
        return below

    def topological_order(self) -> list[GraphNode]:
        """Return the nodes so that each comes after all that its value came from."""
        if not any(node.inner for node in self.nodes):
            return list(self.nodes)
        order: list[GraphNode] = []
        state = bytearray(len(self.nodes))  # 0 unseen, 1 opened, 2 in the order
        for start in self.nodes:
            stack = [start]
            while stack:
                node = stack[-1]
                if state[node.index] == 0:
                    state[node.index] = 1
                    waits = (*node.deps, *node.inner)
                    stack += [n for n in reversed(waits) if state[n.index] == 0]
                    continue
                stack.pop()
                if state[node.index] == 1:
                    state[node.index] = 2
                    order.append(node)
        return order

    def ancestors(self, node: GraphNode | str) -> list[GraphNode]:
        """Return all nodes that the value of a node came from, in trace order.

        Args:
            node: The node, or its name.

        Raises:
            GraphError: If it is not in this graph.
        """
        return _reached(self._own(node), lambda n: (*n.deps, *n.inner))

    def descendants(self, node: GraphNode | str) -> list[GraphNode]:
        """Return all nodes whose value came from that of a node; see `ancestors`."""
        below = self.dependents()
        return _reached(self._own(node), lambda n: below[n.index])

    def _own(self, node: Any) -> GraphNode:
        """Return a node of this graph, given as itself or by name."""
        if isinstance(node, str):
            return self.node(node)
        if not isinstance(node, GraphNode) or not _belongs(self, node):
            raise GraphError(f"{node!r:.80} is not a node of this graph, nor a name.")
        return node

    def critical_path(
        self, weight: Callable[[GraphNode], float] | None = None
    ) -> list[GraphNode]:
        """Return the heaviest chain of nodes that wait for each other.

        Args:
            weight: The weight of a node, e.g. its seconds; by default 1 for calls of
                models, ops and leaves and 0 for branches and small nodes.

        Returns:
            The chain, first node first; the earliest of equally heavy ones.
        """
        weigh = weight or (lambda node: float(node.kind in ("llm", "op", "leaf")))
        total = [0.0] * len(self.nodes)
        before: list[GraphNode | None] = [None] * len(self.nodes)
        here: GraphNode | None = None
        for node in self.topological_order():
            waits = (*node.deps, *node.inner)
            best = max(waits, key=lambda dep: total[dep.index], default=None)
            before[node.index] = best
            total[node.index] = weigh(node) + (total[best.index] if best else 0.0)
            if here is None or total[node.index] > total[here.index]:
                here = node
        chain = []
        while here is not None:
            chain.append(here)
            here = before[here.index]
        return chain[::-1]

    def lint(self) -> None:
        """Check that the graph is whole.

        Raises:
            GraphError: With a sentence that says what is damaged, and where.
        """
        if not isinstance(self.nodes, list):
            raise GraphError(f"nodes must be a list, not {type(self.nodes).__name__}.")
        names: dict[str, int] = {}
        for place, node in enumerate(self.nodes):
            _lint_node(self, place, node)
            if names.setdefault(node.name, place) != place:
                raise GraphError(
                    f"nodes {names[node.name]} and {place} are both called "
                    f"{node.name}; a name belongs to one node."
                )
        _lint_order(self)
        for node in nodes_in(self.output):
            if not _belongs(self, node):
                raise GraphError(
                    f"the output uses {node.name}, which is not a node of this graph."
                )

    def content_hash(self) -> str:
        """Return a hash of structure and content: hex, the same in every process.

        Two traces hash alike when, and only when, they make the same calls with the
        same literal arguments, prompts and sampling settings.
        """
        digest = hashlib.sha256()
        for node in self.nodes:
            parts = [node.kind, node.path, _target_content(node)]
            parts += [content(node.args), content(node.kwargs)]
            parts += [None if node.parent is None else node.parent.index]
            digest.update(_as_json(parts).encode() + b"\n")
        digest.update(_as_json(content(self.output)).encode())
        return digest.hexdigest()

    def __str__(self) -> str:
        lines = [f"InferenceGraph of {len(self)} nodes"]
        for node in self.nodes:
            deps = ", ".join(dep.name for dep in node.deps)
            alias = f" alias={node.alias}" if node.alias else ""
            lines.append(
                f"  {node.name:<24} {node.kind}{alias}"
                + (f" <- {deps}" if deps else "")
            )
        outputs = ", ".join(node.name for node in nodes_in(self.output))
        return "\n".join([*lines, f"  output <- {outputs or 'no node'}"])

    def print(self) -> None:
        """Print the graph, a line a node."""
        print(self)  # noqa: T201

    def to_mermaid(self) -> str:
        """Return the graph as Mermaid flowchart text."""
        lines = ["flowchart TD"]
        for node in self.nodes:
            lines.append(f'  n{node.index}["{_quoted(_label(node))}"]')
            lines += [f"  n{dep.index} --> n{node.index}" for dep in node.deps]
        lines.append("  out([output])")
        lines += [f"  n{node.index} --> out" for node in nodes_in(self.output)]
        return "\n".join(lines)

    def to_svg(self) -> str:
        """Return the graph as an SVG picture."""
        return graph_svg(self)

    def _repr_html_(self) -> str:
        return f'<div style="overflow:auto">{self.to_svg()}</div>'

    def to_dot(self) -> str:
        """Return the graph as Graphviz DOT text."""
        lines = ["digraph inference {", "  node [shape=box];"]
        for node in self.nodes:
            label = json.dumps(_label(node), ensure_ascii=False)
            lines.append(f"  n{node.index} [label={label}];")
            lines += [f"  n{dep.index} -> n{node.index};" for dep in node.deps]
        lines.append('  out [label="output", shape=oval];')
        lines += [f"  n{node.index} -> out;" for node in nodes_in(self.output)]
        return "\n".join([*lines, "}"])


def _reached(
    start: GraphNode, after: Callable[[GraphNode], Iterable[GraphNode]]
) -> list[GraphNode]:
    """Return all nodes that come after one, in trace order."""
    found: dict[int, GraphNode] = {}
    stack = list(after(start))
    while stack:
        node = stack.pop()
        if node.index not in found:
            found[node.index] = node
            stack += after(node)
    return [found[index] for index in sorted(found)]


def nodes_in(value: Any) -> list[GraphNode]:
    """Return the nodes that a captured value uses, each once, in order."""
    found: dict[int, GraphNode] = {}

    def look(leaf: Any) -> Any:
        if isinstance(leaf, GraphNode):
            found.setdefault(id(leaf), leaf)
        elif isinstance(leaf, Template):
            for hole in leaf.holes:
                look(hole.source)
        return leaf

    map_leaves(look, value)
    return list(found.values())


def content(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Return a JSON value that stands for a captured value, the same everywhere.

    Args:
        value: Any captured value.
        above: The ids of the objects that it is in, so that cycles end.
    """
    kind = type(value)
    if kind in (str, int, float, bool, type(None)):
        return value
    if kind is GraphNode:
        return {"$node": value.index}
    if id(value) in above:
        return {"$above": len(above) - above.index(id(value))}
    within = partial(content, above=(*above, id(value)))
    if kind is Template:
        return {"$text": list(map(within, value.parts))}
    if kind is list or kind is tuple:
        return {f"${kind.__name__}": list(map(within, value))}
    if kind is dict:
        return {"$dict": [[within(k), within(v)] for k, v in value.items()]}
    if kind in (set, frozenset):
        return {f"${kind.__name__}": sorted(map(_as_json, map(within, value)))}
    if kind is Hole:
        known = within(value.source) if value.known is None else value.known
        return {"$hole": [known, value.spec, value.conversion]}
    return {f"${kind.__qualname__}": _object_content(value, within)}


def _object_content(value: Any, within: Callable[[Any], Any]) -> Any:
    if isinstance(value, Parameter):
        return value.value
    if isinstance(value, InferenceModule):
        return value.state_dict()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, slice):
        return within([value.start, value.stop, value.step])
    name = getattr(value, "__qualname__", None)
    if name is not None:  # a class or a function
        return f"{value.__module__}.{name}"
    if isinstance(value, (list, tuple)):
        return list(map(within, value))
    if isinstance(value, dict):
        return within(dict(value))
    fields = getattr(value, "__dict__", None)
    return within(dict(fields)) if fields else _stable_repr(value)


def _stable_repr(value: Any) -> str:
    """Return a repr without memory addresses."""
    text = repr(value)
    return "" if " at 0x" in text else text


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _target_content(node: GraphNode) -> Any:
    """Return what a call depends on besides its arguments."""
    target = node.target
    if node.kind == "leaf":
        return content(target)
    if node.kind != "llm":
        return str(target) if node.kind in SMALL_KINDS else None
    prompts = [target.system_prompt, target.prompt, *filter(None, [target.demos])]
    schema = target.output_type.schema
    return [
        target.alias,
        [None if prompt is None else prompt.value for prompt in prompts],
        [target.temperature, target.top_p, target.max_tokens, target.seed],
        list(target.stop),
        [content(tool.spec) for tool in target.tools.values()],
        None if schema is None else [schema.name, schema.schema],
    ]


def _lint_node(graph: InferenceGraph, place: int, node: GraphNode) -> None:
    if not isinstance(node, GraphNode):
        raise GraphError(f"place {place} holds {node!r:.80}, which is no GraphNode.")
    _lint_shape(node)
    _lint_target(graph, node)
    if node.index != place:
        raise GraphError(
            f"{node.name} stands at place {place} but says it is node {node.index}; "
            "nodes stand in trace order."
        )
    if node.kind not in _KINDS:
        raise GraphError(
            f"{node.name} is of the unknown kind {node.kind!r}; kinds are "
            f"{', '.join(_KINDS)}."
        )
    _lint_deps(graph, place, node)
    for inner in node.inner:
        if not _belongs(graph, inner):
            raise GraphError(
                f"the output of {node.name} comes from {inner.name}, which is not in "
                "this graph."
            )
    parent = node.parent
    if parent is not None and (
        not _belongs(graph, parent) or parent.index >= place or parent.kind != "branch"
    ):
        raise GraphError(
            f"{node.name} was recorded by {parent.name}, which is not an earlier "
            "branch of this graph."
        )


_SHAPES: dict[str, tuple[str, Any]] = {
    "index": ("an int", int),
    "path": ("a str", str),
    "args": ("a tuple", tuple),
    "kwargs": ("a dict", dict),
    "deps": ("a tuple of nodes", tuple),
    "inner": ("a tuple of nodes", tuple),
    "parent": ("a node or None", (GraphNode, type(None))),
}


def _lint_shape(node: GraphNode) -> None:
    for name, (wanted, kind) in _SHAPES.items():
        value = getattr(node, name)
        items = value if "of nodes" in wanted else ()
        fits = isinstance(value, kind)
        if not fits or not all(isinstance(item, GraphNode) for item in items):
            raise GraphError(f"{name} of {node.name} is {value!r:.80}, not {wanted}.")
    if len(set(node.deps)) < len(node.deps):
        raise GraphError(f"{node.name} depends twice on one node; name each once.")


def _lint_target(graph: InferenceGraph, node: GraphNode) -> None:
    if node.kind == "llm" and not hasattr(node.target, "alias"):
        raise GraphError(f"{node.name} calls {node.target!r:.80}, no LLMInference.")
    if node.kind in ("llm", "leaf") and not node.path:  # the outermost module, alone
        if any(n is not node and n.kind != "input" for n in graph):
            raise GraphError(f"{node.name} has no path; only an outermost module may.")


def _lint_deps(graph: InferenceGraph, place: int, node: GraphNode) -> None:
    for dep in node.deps:
        if not _belongs(graph, dep):
            raise GraphError(
                f"{node.name} depends on {dep.name}, which is not in this graph."
            )
        if dep.index >= place:
            raise GraphError(
                f"{node.name} depends on {dep.name}, which comes after it; a node "
                "depends on earlier ones only."
            )
    used = nodes_in([node.args, node.kwargs])
    undeclared = [n for n in used if n not in node.deps and node.kind != "branch"]
    if undeclared:
        raise GraphError(
            f"{node.name} uses {undeclared[0].name} in its arguments but does not "
            "depend on it."
        )


def _lint_order(graph: InferenceGraph) -> None:
    """Refuse nodes that wait for themselves, which only branches can bring about."""
    seen: set[int] = set()
    for node in graph.topological_order():
        for earlier in (*node.deps, *node.inner):
            if earlier.index not in seen:
                raise GraphError(
                    f"{node.name} waits for {earlier.name}, which in turn waits for "
                    "it; the value of a node cannot come from itself."
                )
        seen.add(node.index)


def _belongs(graph: InferenceGraph, node: GraphNode) -> bool:
    index: Any = node.index
    inside = isinstance(index, int) and 0 <= index < len(graph)
    return inside and graph.nodes[index] is node


def _label(node: GraphNode) -> str:
    return f"{node.name}\n{node.alias or node.kind}"


def _quoted(text: str) -> str:
    """Return text for a quoted Mermaid label: its own entities, lines kept apart."""
    for sign, name in (("#", "35"), ("&", "amp"), ('"', "quot"), ("<", "lt")):
        text = text.replace(sign, f"#{name};")
    return text.replace("\n", "<br/>")
