"""`Replay`: a run answered from the record of an earlier one, as far as that goes.

A call that is given the same as in the record gives what it gave there: no request
leaves and no function is called. So only what a change reaches runs anew, also where
forward itself decided by a value. A model call is the same if its request and alias
are, an op or a leaf if its arguments are (and the state of the leaf). Of several that
are the same a call takes that of its own place (`Places`), or else the first that is
left: a loop that turns more often than before, and the branches of a `map`, find
theirs.

What failed fails again, with the same error. A call that was cancelled in the record,
such as the loser of a `first`, waits until nothing else can go on; if it is still
wanted then, it runs.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from inf_engine.errors import JournalError, UsageError
from inf_engine.execution.places import Places
from inf_engine.graph import GraphNode
from inf_engine.journal.identity import identity_of
from inf_engine.parameter import Parameter
from inf_engine.record import (
    Call,
    NodeRecord,
    RunRecord,
    Segment,
    prompt_segments,
    system_segments,
)
from inf_engine.tree import map_leaves
from inf_engine.types import Usage

CALLS = ("llm", "op", "leaf")
"""The kinds of nodes that a record answers."""

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Given:
    """What a call is given: what tells whether it is the same as another.

    Args:
        args: Its positional inputs.
        kwargs: Its keyword inputs.
        request: What a model call asks first.
        text: The prompts of a model call as they are filled in.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    request: Any = None
    text: tuple[str, ...] = ()


class Replay:
    """Answers the calls of one run from a record.

    Args:
        record: What happened in the earlier run.
        outputs: What calls give instead, by the name of the node in the record
            (``extract#2``), or by its path (``extract``) for every call of it.
        strict: Whether what the record has no answer for fails, instead of running.

    Attributes:
        anew: The calls that the record had no answer for, in trace order.
    """

    def __init__(
        self,
        record: RunRecord,
        outputs: Mapping[str, Any] = _NONE,
        *,
        strict: bool = False,
    ) -> None:
        self._outputs = outputs
        self._strict = strict
        self._left: dict[str, dict[str, NodeRecord]] = {}
        self._anew: list[GraphNode] = []
        self._places = Places()
        self._placed = 0
        places = Places()
        for known in record.nodes:
            places.add(known.node, False)
            if known.node.kind in CALLS:
                left = self._left.setdefault(known.node.path, {})
                left[_place(places, known.node)] = known

    @property
    def anew(self) -> tuple[str, ...]:
        """The names of the calls that ran anew, in trace order."""
        return tuple([n.name for n in sorted(self._anew, key=lambda n: n.index)])

    def answer(self, run: Any, node: GraphNode) -> bool:
        """Give a call what the record has for it; say whether that is all to do.

        Args:
            run: The `Run` that the call belongs to.
            node: The call, which has begun; all that it waits for is known.
        """
        if node.kind not in CALLS:
            return False
        known = self._match(run, node)
        names = [node.path] if known is None else [node.path, known.name]
        given = [name for name in names if name in self._outputs]
        if given:
            run.complete(node, self._outputs[given[0]])
        elif known is None:
            return self._refused(run, node)
        elif known.outcome == "cancelled":
            asyncio.get_running_loop().call_soon(partial(self._go_on, run, node))
        else:
            _repeat(run, node, known)
        return True

    def _refused(self, run: Any, node: GraphNode) -> bool:
        """Take note of a call that runs anew; say whether it may not."""
        self._anew.append(node)
        if self._strict:
            run.fail(node, UsageError(f"{node} is not in the record."))
        return self._strict

    def _go_on(self, run: Any, node: GraphNode) -> None:
        """Begin a call that has waited, unless it is not wanted any more."""
        if run.state.is_final(node.index):
            return
        if not self._refused(run, node):
            run.begin(node)
        run.drain()

    def _match(self, run: Any, node: GraphNode) -> NodeRecord | None:
        """Return the call of the record that a call is, and take it."""
        left = self._left.get(node.path)
        place = self._place_of(run, node)
        if not left:
            return None
        own = left.get(place)
        if own is not None and own.outcome == "cancelled":
            return left.pop(place)
        try:
            given = _given(run, node)
        except Exception:  # noqa: BLE001 - of user code; it fails again
            return left.pop(place) if own and own.outcome == "failed" else None
        if own is not None and _same(node, given, own):
            return left.pop(place)
        others = [p for p, other in left.items() if other.outcome != "cancelled"]
        found = next((p for p in others if _same(node, given, left[p])), None)
        return None if found is None else left.pop(found)

    def _place_of(self, run: Any, node: GraphNode) -> str:
        """Return where a call stands; all that was recorded before it counts."""
        nodes = run.tracer.graph.nodes
        for earlier in nodes[self._placed : node.index + 1]:
            self._places.add(earlier, False)
        self._placed = max(self._placed, node.index + 1)
        return _place(self._places, node)


def _place(places: Places, node: GraphNode) -> str:
    """Return where a call stands; of a leaf its name will do."""
    return node.name if node.kind == "leaf" else places.of(node)


def _given(run: Any, node: GraphNode) -> _Given:
    """Return what a call is given in a run."""
    args, kwargs = run.inputs(node)
    if node.kind != "llm":
        return _Given(args, kwargs)
    request = node.target.build_request(args, kwargs)
    text = _text(
        system_segments(node), prompt_segments(node, (args, kwargs), run.value_of)
    )
    return _Given(args, kwargs, request, text)


def _text(*prompts: Iterable[Segment]) -> tuple[str, ...]:
    return tuple(["".join([piece.text for piece in pieces]) for pieces in prompts])


def _same(node: GraphNode, given: _Given, known: NodeRecord) -> bool:
    """Say whether a call is given the same as one of the record."""
    if node.kind == "llm":
        if node.alias != known.node.alias:
            return False
        if known.calls:
            return bool(known.calls[0].request == given.request)
        return _text(known.system, known.prompt) == given.text  # nothing was sent
    was = known.node.target
    if node.kind == "leaf" and node.target.state_dict() != was.state_dict():
        return False
    one = map_leaves(_content, (given.args, dict(given.kwargs)))
    other = map_leaves(_content, (known.args, dict(known.kwargs or {})))
    try:
        return identity_of(*one) == identity_of(*other)
    except JournalError:  # an object whose content only its class knows
        return _equal(one, other)


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - of an object that cannot be compared
        return False


def _content(leaf: Any) -> Any:
    """Return what a parameter stands for, and all else as it is."""
    return leaf.state if isinstance(leaf, Parameter) else leaf


def _repeat(run: Any, node: GraphNode, known: NodeRecord) -> None:
    """End a call as it ended in the record."""
    run.work.started(node)
    entry = run.work.entries.get(node.index)
    if entry is not None:
        entry.calls = [_repeated(call) for call in known.calls]
    if known.error is None:
        run.complete(node, known.output)
    else:
        run.fail(node, known.error)


def _repeated(call: Call) -> Call:
    """Return a request as one that was answered by the record, and costs nothing."""
    paid = call.paid
    if paid is None:
        return replace(call, reused="record")
    free = replace(paid, usage=Usage(), cost=0.0, seconds=0.0)
    return replace(call, response=free, error=None, reused="record", kept=call.usage)
