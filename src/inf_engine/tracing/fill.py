"""Captured values and what goes into them: values, proxies, or the sum of both."""

import operator
from collections.abc import Callable
from typing import Any

from inf_engine.graph import GraphNode
from inf_engine.template import Template
from inf_engine.tree import PLAIN, map_call, map_leaves


def filled(value: Any, value_of: Callable[[Any], Any]) -> Any:
    """Return a captured value with the values of its nodes in it.

    Args:
        value: What `Tracer.capture` gave.
        value_of: Gives the value of a node.
    """

    return map_leaves(_filler(value_of), value)


def inputs_of(
    node: GraphNode, value_of: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a node with the values of other nodes in them.

    Args:
        node: The node.
        value_of: Gives the value of a node.
    """
    flat = None if node.kwargs else _flat(node.args, value_of)
    if flat is not None:
        return flat, {}
    return map_call(_filler(value_of), node.args, node.kwargs)


def _flat(
    captured: tuple[Any, ...], value_of: Callable[[Any], Any]
) -> tuple[Any, ...] | None:
    """Return filled arguments the short way, None if one of them is nested."""
    args = []
    for arg in captured:
        kind = type(arg)
        if kind is GraphNode:
            args.append(value_of(arg))
        elif kind is Template:
            args.append(arg.fill(value_of))
        elif kind in PLAIN:
            args.append(arg)
        else:
            return None
    return tuple(args)


def _filler(value_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what fills one captured leaf."""

    def fill(leaf: Any) -> Any:
        kind = type(leaf)
        if kind is GraphNode:
            return value_of(leaf)
        if kind is Template:
            return leaf.fill(value_of)
        return leaf

    return fill


def reopened(value: Any, frame: Any) -> Any:
    """Return a captured value as a forward sees it: proxies, and texts with tokens.

    Args:
        value: What `Tracer.capture` gave.
        frame: The forward that it goes to.
    """

    def reopen(leaf: Any) -> Any:
        kind = type(leaf)
        if kind is GraphNode:
            return frame.proxy(frame, leaf)
        return leaf.text() if kind is Template else leaf

    return map_leaves(reopen, value)


def compute_small(node: GraphNode, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Return the value of a small node, given its arguments."""
    if node.kind == "getattr":
        return getattr(args[0], node.target)
    if node.kind == "getitem":
        return args[0][args[1]]
    if node.kind == "call":
        return args[0](*args[1:], **kwargs)
    compute = _OPERATORS.get(node.target) or getattr(operator, node.target)
    return compute(*args)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "round": round,
    "divmod": divmod,
    "pow": pow,
}


def is_open(captured: Any) -> bool:
    """Say whether something in a captured value is not known yet."""
    found: list[Any] = []

    def look(leaf: Any) -> Any:
        if type(leaf) is GraphNode or type(leaf) is Template:
            found.append(leaf)
        return leaf

    map_leaves(look, captured)
    return bool(found)
