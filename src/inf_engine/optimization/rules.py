"""What is known of one node in a record: its parameters, and evidence for them."""

from typing import Any

from inf_engine.graph import GraphNode
from inf_engine.llm import LLMInference
from inf_engine.optimization.notes import Evidence, Note, Role
from inf_engine.optimization.walk import Walk
from inf_engine.parameter import Parameter
from inf_engine.record import NodeRecord
from inf_engine.template import Template
from inf_engine.tree import map_leaves

_LONGEST = 20_000  # characters of one text in evidence


class Context:
    """What a module's own ``backward`` is given.

    Args:
        walk: The way of the feedback.
        node: The call that notes have reached.

    Attributes:
        record: What the node did: inputs, output, prompt, calls.
        notes: The notes that reached it.
        inputs: The names of the nodes that its inputs came from.
        parameters: Its parameters.
        score: The score of the run, None without one.
    """

    def __init__(self, walk: Walk, node: GraphNode) -> None:
        self._walk = walk
        self._node = node
        self._sources = {source.name: source for source in walk.sources(node)}
        self._roles = parameters_of(node)
        self.record: NodeRecord = walk.node_record(node)
        self.notes: tuple[Note, ...] = walk.notes(node)
        self.inputs: tuple[str, ...] = tuple(self._sources)
        self.parameters = tuple([parameter for parameter, _ in self._roles])
        self.score: float | None = walk.feedback.score

    def pass_on(self, content: str, *, to: str | None = None) -> None:
        """Hand words to what an input came from.

        Args:
            content: The words.
            to: The name of the node, None for all of `inputs`.

        Raises:
            KeyError: If no input came from there.
        """
        note = Note(content, self.score, self._node.name)
        for name in self.inputs if to is None else (to,):
            self._walk.pass_on(self._sources[name], note)

    def note(self, parameter: Parameter, content: str) -> None:
        """Leave words on a parameter of the node, with the evidence."""
        role = next((r for p, r in self._roles if p is parameter), "text")
        evidence = evidence_of(self._walk, self._node, role)
        note = Note(content, self.score, self._node.name)
        self._walk.tell(parameter, note, (evidence,))

    def default(self) -> None:
        """Do what is done without a ``backward``: hand all notes on as they are."""
        for note in self.notes:
            for parameter in self.parameters:
                self.note(parameter, note.content)
            for source in self._sources.values():
                self._walk.pass_on(source, note)


def parameters_of(node: GraphNode) -> list[tuple[Parameter, Role]]:
    """Return the parameters that shaped a node, each once, and where each stands."""
    found: dict[int, tuple[Parameter, Role]] = {}
    target = node.target
    if isinstance(target, LLMInference):
        if target.system_prompt is not None:
            found[id(target.system_prompt)] = target.system_prompt, "system"
        if target.prompt is not None:
            found.setdefault(id(target.prompt), (target.prompt, "prompt"))
        if target.demos is not None:
            found.setdefault(id(target.demos), (target.demos, "text"))

    def look(leaf: Any) -> Any:
        if isinstance(leaf, Parameter):
            found.setdefault(id(leaf), (leaf, "text"))
        elif isinstance(leaf, Template):
            for hole in leaf.holes:
                look(hole.source)
        return leaf

    map_leaves(look, (node.args, node.kwargs))
    return list(found.values())


def adapters_of(node: GraphNode) -> list[Parameter]:
    """Return the parameters of a node that stand for weights of its model."""
    target = node.target
    held = target._parameters.get("alias") if isinstance(target, LLMInference) else None
    return [held] if held is not None and held.is_weights else []


def evidence_of(walk: Walk, node: GraphNode, role: Role) -> Evidence:
    """Return the evidence of one node for a parameter that stands in it."""
    record, told = walk.node_record(node), walk.feedback
    return Evidence(
        example=walk.place,
        node=node.name,
        role=role,
        system=record.system,
        prompt=record.prompt,
        output="" if record.output is None else text_of(record.output),
        error=None if record.error is None else text_of(record.error),
        feedback=told.content,
        score=told.score,
        final="" if walk.record.output is None else text_of(walk.record.output),
        target="" if told.target is None else text_of(told.target),
        answer=next((c.paid.id for c in reversed(record.calls) if c.paid), ""),
    )


def text_of(value: Any) -> str:
    """Return a value as text, cut where it is very long."""
    text = value if isinstance(value, str) else repr(value)
    if isinstance(value, BaseException):
        text = f"{type(value).__name__}: {value}"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
