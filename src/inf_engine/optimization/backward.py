"""`backward`: feedback on outputs becomes notes on the parameters that shaped them.

Each record is walked from its output back, and every node has one local rule: of the
notes that reached it, make notes for what it was made of and for its parameters.

=========  ===========================================================================
a call     evidence for each of its parameters: word for word what was asked and
           answered; its notes go on to the nodes in its prompt. Where its model's
           weights can be trained, they get the notes as they came, critic or not
an op      its notes go on to its arguments; evidence for a parameter among them
a branch   its notes go on to what its own output and its arguments came from
a choice   its notes go on to the candidate that was chosen
=========  ===========================================================================

Where forward itself used a value (an ``if``, an awaited call), Python hides where it
went. If its text stands in a later prompt, its notes come from there; if not, it
steered what happened, and gets what was said of the output. What nothing came from
gets nothing: a branch that was not taken is not in the record.

Without a critic the notes are the feedback itself and no model is asked. With one, it
is asked once for each node and batch, all nodes of one depth at the same time. A module
that defines ``backward(self, context)`` is the rule for its calls and those below it.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inf_engine.errors import TrainingError, UsageError
from inf_engine.graph import GraphNode
from inf_engine.optimization.critic import Critic, Group
from inf_engine.optimization.notes import Note
from inf_engine.optimization.rules import (
    Context,
    adapters_of,
    evidence_of,
    parameters_of,
)
from inf_engine.optimization.walk import Walk

NodeNotes = Mapping[str, tuple[Note, ...]]


async def backward(
    feedback: Sequence[Any], *, engine: Any = None, critic: Any = None
) -> tuple[NodeNotes, ...]:
    """Leave notes on the parameters that shaped outputs.

    Args:
        feedback: A `Feedback` with a record for each example. One whose loss failed,
            or that has neither words nor a score, is left out.
        engine: Runs the critic; not needed without one.
        critic: The alias of the model that writes the notes, or a `Critic`; None to
            pass the feedback through.

    Returns:
        For each example the notes that reached each node, by the node's name.

    Raises:
        UsageError: If there is a critic and no engine.
        TrainingError: If feedback has no record.
        CriticError: If the critic could not be asked, or wrote no usable notes.
    """
    asked = Critic(critic) if isinstance(critic, str) else critic
    if asked is not None and engine is None:
        raise UsageError(
            "backward(critic=...) asks a model, and has no engine to run it: write "
            "backward(engine=engine, critic=...)."
        )
    walks = [_walk(place, told) for place, told in enumerate(feedback)]
    steps = [walk for walk in walks if walk is not None]
    for depth in range(max([walk.depth for walk in steps], default=0)):
        await _step(_groups(steps, depth), engine, asked)
    return tuple([{} if walk is None else walk.by_name() for walk in walks])


def _walk(place: int, told: Any) -> Walk | None:
    """Return the walk of one example, None if there is nothing to pass on."""
    if told.error is not None or (not told.content and told.score is None):
        return None
    if told.record is None:
        raise TrainingError(
            f"feedback {place} has no record to flow back through. Give the loss "
            "records: engine.map(module, ..., record=True), then r.record."
        )
    return Walk(place, told)


def _groups(walks: Sequence[Walk], depth: int) -> list[Group]:
    """Return the nodes of one depth; those of one name in a batch are together."""
    found: dict[str, Group] = {}
    for walk in walks:
        for node in walk.at(depth):
            group = found.setdefault(node.name, Group(node.name, [], []))
            group.items.append((walk, node))
    for group in found.values():
        group.parameters = _trainable(group)
    return list(found.values())


def _trainable(group: Group) -> list[Any]:
    """Return the texts of a group's nodes that may be changed, each once."""
    each = {
        id(parameter): parameter
        for _, node in group.items
        for parameter, _ in parameters_of(node)
    }
    return [p for p in each.values() if p.requires_grad and p.is_text]


async def _step(groups: list[Group], engine: Any, critic: Critic | None) -> None:
    """Apply the rule of each node; ask the critic about all that it is to judge."""
    to_judge: list[Group] = []
    for group in groups:
        handler = _handler(group.items[0][1])
        if handler is not None:
            await _handle(handler, group)
        elif critic is not None and _is_worth_asking(group):
            to_judge.append(group)
        else:
            _pass_through(group)
        _teach(group)
    if critic is not None and to_judge:
        await critic.judge(engine, to_judge)


def _is_worth_asking(group: Group) -> bool:
    """Say whether notes on a call could help anybody."""
    walk, node = group.items[0]
    if node.kind != "llm":
        return False
    return bool(group.parameters) or any(w.sources(n) for w, n in group.items)


def _pass_through(group: Group) -> None:
    """Hand the notes on as they are, with the evidence."""
    for walk, node in group.items:
        notes = walk.notes(node)
        for parameter, role in parameters_of(node):
            evidence = evidence_of(walk, node, role)
            for note in notes:
                walk.tell(parameter, note, (evidence,))
        for source in walk.sources(node):
            for note in notes:
                walk.pass_on(source, note)


def _teach(group: Group) -> None:
    """Leave the notes, as they came, on the weights of the models that were asked."""
    for walk, node in group.items:
        for parameter in adapters_of(node):
            evidence = evidence_of(walk, node, "model")
            for note in walk.notes(node):
                walk.tell(parameter, note, (evidence,))


def _handler(node: GraphNode) -> Any:
    """Return the ``backward`` of the innermost module that defines one."""
    if node.kind not in ("llm", "leaf"):
        return None
    todo, seen = [node.target], set()
    while todo:
        module = todo.pop(0)
        if id(module) in seen:
            continue
        seen.add(id(module))
        if callable(getattr(type(module), "backward", None)):
            return module.backward
        holders: Iterable[Any] = (holder() for holder in module._holders_left())
        todo += [holder for holder in holders if holder is not None]
    return None


async def _handle(handler: Any, group: Group) -> None:
    """Let a module make the notes of its node, one example after the other."""
    for walk, node in group.items:
        outcome = handler(Context(walk, node))
        if inspect.isawaitable(outcome):
            await outcome
