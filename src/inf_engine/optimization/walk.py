"""`Walk`: the way of the feedback on one output through the record of its run."""

from collections.abc import Iterator
from typing import Any

from inf_engine.graph import GraphNode, nodes_in
from inf_engine.optimization.notes import Evidence, Note
from inf_engine.parameter import Parameter
from inf_engine.record import NodeRecord, RunRecord

_LOOK_AHEAD = 256
"""How many later calls are searched for the text of a value that forward used."""

_TELLING = 4
"""The fewest characters of a text that is recognised in a later prompt."""


class Walk:
    """The nodes that feedback reaches, by depth, and the notes that reached them.

    Args:
        place: The place of the example in its batch.
        feedback: What is said of the output, with the record.

    Attributes:
        depth: How many depths there are; the nodes of the output are at 0.
    """

    def __init__(self, place: int, feedback: Any) -> None:
        self.place = place
        self.feedback = feedback
        self.record: RunRecord = feedback.record
        self._sources: dict[int, list[GraphNode]] = {}
        self._notes: dict[int, dict[Note, None]] = {}
        self._depths: dict[int, int] = {}
        self._hidden = self._uses_of_forced()
        self._begin()
        levels = self._depths.values()
        self.depth = 1 + max(levels, default=-1)
        self._at: list[list[GraphNode]] = [[] for _ in range(self.depth)]
        for node in reversed(self.record.graph.nodes):
            if node.index in self._depths:
                self._at[self._depths[node.index]].append(node)

    def at(self, depth: int) -> list[GraphNode]:
        """Return the nodes of a depth that notes have reached, newest first."""
        nodes = self._at[depth] if depth < self.depth else []
        return [node for node in nodes if self._notes.get(node.index)]

    def sources(self, node: GraphNode) -> list[GraphNode]:
        """Return the nodes that the value of a node was made of."""
        return self._sources.get(node.index, [])

    def notes(self, node: GraphNode) -> tuple[Note, ...]:
        """Return the notes that reached a node."""
        return tuple(self._notes.get(node.index, ()))

    def pass_on(self, node: GraphNode, note: Note) -> None:
        """Hand a note to a node; the same note twice is one."""
        self._notes.setdefault(node.index, {})[note] = None

    def tell(
        self, parameter: Parameter, note: Note, evidence: tuple[Evidence, ...]
    ) -> None:
        """Leave a note on a parameter."""
        parameter.accumulate_feedback(
            Note(note.content, note.score, note.source, evidence)
        )

    def node_record(self, node: GraphNode) -> NodeRecord:
        """Return what a node did."""
        return self.record.nodes[node.index]

    def by_name(self) -> dict[str, tuple[Note, ...]]:
        """Return the notes of each node that was reached, in trace order."""
        nodes = self.record.graph.nodes
        return {n.name: self.notes(n) for n in nodes if self._notes.get(n.index)}

    def _begin(self) -> None:
        """Find the nodes that are reached, and give the first ones the feedback."""
        told = self.feedback
        note = Note(told.content, told.score)
        seeds = self._seeds()
        for seed in seeds:
            self._depths[seed.index] = 0
            self.pass_on(seed, note)
        for node in self._order():
            depth = self._depths.get(node.index)
            if depth is None:
                continue
            found = [s for s in self._made_of(node) if self._has_begun(s)]
            self._sources[node.index] = found
            for source in found:
                known = self._depths.get(source.index, 0)
                self._depths[source.index] = max(known, depth + 1)

    def _seeds(self) -> list[GraphNode]:
        """Return the nodes of the output, or those that failed, and what steered."""
        record = self.record
        if record.error is None:
            seeds = nodes_in(record.graph.output)
        else:
            seeds = [n.node for n in record.nodes if n.outcome == "failed"]
        used = self._used()
        ends = [n for n in record.graph.forced if n.index not in used]
        if not seeds and not ends:  # forward failed for reasons of its own
            ends = [n for n in record.graph if n.index not in used]
        return list(dict.fromkeys([*seeds, *filter(self._has_begun, ends)]))

    def _order(self) -> Iterator[GraphNode]:
        """Yield the nodes so that each comes before all that it was made of."""
        order = self.record.graph.topological_order()
        if not self._hidden:
            return reversed(order)
        place = {node.index: at for at, node in enumerate(order)}
        for user, used in self._hidden.items():
            self._hidden[user] = [n for n in used if place[n.index] < place[user]]
        return reversed(order)

    def _made_of(self, node: GraphNode) -> list[GraphNode]:
        """Return the nodes that a node's value came from."""
        if node.kind == "first":
            return self._chosen(node)
        hidden = self._hidden.get(node.index, ())
        return list(dict.fromkeys([*node.deps, *node.inner, *hidden]))

    def _chosen(self, node: GraphNode) -> list[GraphNode]:
        """Return the candidate of a choice that was chosen."""
        value = self.node_record(node).output
        for candidate in node.args:
            used = nodes_in(candidate)
            if used and all(self.node_record(n).outcome == "done" for n in used):
                one = isinstance(candidate, GraphNode)
                if not one or self.node_record(candidate).output is value:
                    return used
        return list(node.deps)

    def _has_begun(self, node: GraphNode) -> bool:
        """Say whether a node did anything that could be better."""
        return self.node_record(node).outcome != "cancelled"

    def _uses_of_forced(self) -> dict[int, list[GraphNode]]:
        """Return, for each call, the values of earlier nodes that stand in its prompt.

        Only those are looked for that forward itself has used.
        """
        found: dict[int, list[GraphNode]] = {}
        calls = [n for n in self.record.graph.nodes if n.kind == "llm"]
        for node in self.record.graph.forced:
            value = self.node_record(node).output
            if not isinstance(value, str) or len(value.strip()) < _TELLING:
                continue
            later = [n for n in calls if n.index > node.index][:_LOOK_AHEAD]
            for call in later:
                prompt = self.node_record(call).prompt
                if any(p.source is None and value.strip() in p.text for p in prompt):
                    found.setdefault(call.index, []).append(node)
        return found

    def _used(self) -> set[int]:
        """Return the nodes whose value is known to have gone somewhere."""
        graph = self.record.graph
        known = [(*n.deps, *n.inner) for n in graph]
        hidden = self._hidden.values()
        return {n.index for nodes in (*known, *hidden) for n in nodes}
